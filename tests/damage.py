"""Files of a spool that are torn, cut short, bit-flipped, foreign or gone, by a seeded draw; and what is made of them.

Of each damage either `check` names it, or nothing that the spool says has changed; and a writer refuses the spool in a sentence,
or goes on with every file that was not damaged still there.
"""

import random
import shutil
import sqlite3
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geal_edge.errors import GealEdgeError
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolview import open_view
from tests.fakes import Clock, MemorySource, frame, judged
from tests.streams import random_stream
from tests.test_rounds import live
from tests.test_spool import settings

ROUND: dict[str, Any] = {"length_s": 8.0, "budget": 3}
STREAM = random_stream(8, 22)
SECTOR = 512


def make(folder: Path) -> dict[str, Path]:
    """The same spool twice: closed, and as a kill leaves it, with its log beside the database."""
    killed = folder / "killed"

    def copy_at_the_end(rounds: Rounds) -> None:
        shutil.rmtree(killed, ignore_errors=True)
        shutil.copytree(folder / "closed", killed)

    live(folder / "closed", STREAM, each=copy_at_the_end, **ROUND)
    return {"closed": folder / "closed", "killed": killed}


Draw = random.Random
WAYS: dict[str, Callable[[Path, Draw], None]] = {}


def way(change: Callable[[bytes, Draw], bytes]) -> Callable[[bytes, Draw], bytes]:
    """A way to damage a file's bytes."""
    WAYS[change.__name__] = lambda path, draw: void(path.write_bytes(change(path.read_bytes(), draw)))
    return change


def void(_: object) -> None:
    pass


@way
def cut_short(data: bytes, draw: Draw) -> bytes:
    return data[: draw.randrange(len(data))] if data else data


@way
def emptied(data: bytes, draw: Draw) -> bytes:
    return b""


@way
def one_bit(data: bytes, draw: Draw) -> bytes:
    changed = bytearray(data)
    if data:
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


@way
def zeros_for_a_sector(data: bytes, draw: Draw) -> bytes:
    at = draw.randrange(0, max(1, len(data)), SECTOR)
    return data[:at] + bytes(len(data[at : at + SECTOR])) + data[at + SECTOR :]


@way
def noise_for_a_sector(data: bytes, draw: Draw) -> bytes:
    at = draw.randrange(0, max(1, len(data)), SECTOR)
    return data[:at] + draw.randbytes(len(data[at : at + SECTOR])) + data[at + SECTOR :]


@way
def zeros_to_the_end(data: bytes, draw: Draw) -> bytes:
    at = draw.randrange(max(1, len(data)))
    return data[:at] + bytes(len(data) - at)


@way
def more_at_the_end(data: bytes, draw: Draw) -> bytes:
    return data + draw.randbytes(draw.randrange(1, 5000))


@way
def two_sectors_swapped(data: bytes, draw: Draw) -> bytes:
    one, two = (draw.randrange(0, max(1, len(data) - SECTOR), SECTOR) for _ in range(2))
    changed = bytearray(data)
    changed[one : one + SECTOR], changed[two : two + SECTOR] = data[two : two + SECTOR], data[one : one + SECTOR]
    return bytes(changed)


@way
def a_picture_instead(data: bytes, draw: Draw) -> bytes:
    return b"\xff\xd8\xff\xe0\x00\x10JFIF" + draw.randbytes(3000)


@way
def text_instead(data: bytes, draw: Draw) -> bytes:
    return b"not a file of a spool\n" * draw.randrange(1, 300)


def gone(path: Path, draw: Draw) -> None:
    path.unlink()


def a_folder_instead(path: Path, draw: Draw) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_nowhere(path: Path, draw: Draw) -> None:
    path.unlink()
    path.symlink_to("nowhere")


WAYS.update({change.__name__: change for change in (gone, a_folder_instead, a_link_to_nowhere)})


def said(spool: Path) -> Any:
    """All rows of all tables, and the memory's bytes: what nothing may change unseen. Raises what SQLite raises."""
    with closing(sqlite3.connect(f"{(spool / 'spool.db').as_uri()}?mode=ro", uri=True)) as database:
        tables = [
            name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
        ]
        assert "units" in tables
        return {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in tables}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One damaged file, and what was made of it. fault: what must not be."""

    file: str
    way: str
    outcome: str
    fault: str | None


def damages(spool: Path, folder: Path, *, per_way: Callable[[str], int], seed: int) -> Iterator[Finding]:
    """Damage each file of a spool in each way, `per_way(its name)` times."""
    before = said(copied(spool, folder / "reference"))
    for path in sorted(path for path in spool.rglob("*") if path.is_file()):
        name = path.relative_to(spool).as_posix()
        for how, change in WAYS.items():
            for n in range(per_way(name)):
                draw = random.Random(f"{seed} {name} {how} {n}")
                place = copied(spool, folder / "damaged")
                change(place / name, draw)
                if (place / name).is_file() and (place / name).read_bytes() == path.read_bytes():
                    continue
                outcome, fault = judged_damage(place, spool, name, before)
                yield Finding(file=name, way=how, outcome=outcome, fault=fault)
                shutil.rmtree(place)


def copied(spool: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(spool, place, symlinks=True))


def judged_damage(place: Path, whole: Path, name: str, before: Any) -> tuple[str, str | None]:
    now, read = None, place.with_name("read")
    # Without the memory that processes share: it is no part of what a disk holds, SQLite makes it anew.
    shutil.copytree(place, read, symlinks=True, ignore=shutil.ignore_patterns("*-shm"))
    with suppress(sqlite3.Error, AssertionError, ValueError, OverflowError):
        now = said(read)
    shutil.rmtree(read)
    unaffected = now == before and not name.startswith(("frames/", "memory/"))
    try:
        with open_view(place) as view:
            problems = [problem for problem in view.check() if not problem.harmless]
        named = any(Path(name).name in problem.detail for problem in problems)
        outcome = "listed" if problems else "unaffected" if unaffected else "unseen"
        exact = named and len(problems) == 1 if name.startswith("frames/") else outcome != "unseen"
        fault = None if exact or outcome == "unaffected" else f"check says {problems}"
    except GealEdgeError as error:
        outcome, fault = f"refused {type(error).__name__}", None
        if Path(name).name.removesuffix("-wal") not in str(error):
            fault = f"check does not say which file: {error}"
    except Exception:  # noqa: BLE001 - a traceback is the finding
        outcome, fault = "traceback", traceback.format_exc(limit=-3)
    return outcome, fault or gone_on(place, whole, name)


def gone_on(place: Path, whole: Path, name: str) -> str | None:
    """What goes wrong when a writer opens it: every frame's file but the damaged one must be there afterwards."""
    rules = settings(release="paced", **ROUND)
    try:
        with Spool(place, rules, monotonic=Clock()):
            pass
        gone = [
            file.name
            for file in (whole / "frames").iterdir()
            if f"frames/{file.name}" != name and not (place / "frames" / file.name).exists()
        ]
        if gone:
            return f"run removes {gone}"
        with Spool(place, rules, monotonic=Clock()) as spool:
            cursor = spool.begin_source(MemorySource()).cursor
            rounds = Rounds(spool, Clock())
            for i, clusters in enumerate(random_stream(9, 3), start=cursor + 1):
                rounds.tick()
                decision = rounds.score(clusters)
                spool.append(judged(frame(i), clusters), decision)
                rounds.learn(decision)
    except GealEdgeError:
        return None
    except Exception:  # noqa: BLE001 - a traceback is the finding
        return f"run: {traceback.format_exc(limit=-3)}"
    return None


def counted(findings: list[Finding]) -> dict[str, dict[str, int]]:
    """file kind -> outcome -> how often."""
    table: dict[str, Counter[str]] = {}
    for finding in findings:
        kind = finding.file.split("/")[0]
        table.setdefault(kind, Counter())[finding.outcome] += 1
    return {kind: dict(outcomes) for kind, outcomes in table.items()}
