"""Short drives that write all that a spool writes: `python -m tests.powerloss.drives NAME FOLDER LEDGER`, into FOLDER/spool.

LEDGER gets a JSON line for every commit: what the database held when it returned; the recorder is told at that moment. With
`--without SITE` one sync is left out: of a place in the code (`_put`, `make_folder>folder`, ... as the ledger's last line
names them), or SQLite's (`synchronous=OFF`). Such a program is wrong, and the test must see it.
"""

import argparse
import ctypes
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import geal_edge.runtime.erasure as erasure_module
import geal_edge.runtime.outbox as outbox_module
import geal_edge.runtime.spool as spool_module
from geal_edge.config import PrivacyConfig
from geal_edge.errors import UsageError
from geal_edge.runtime import durable, spooldb
from geal_edge.runtime.erasure import Rule, erase
from geal_edge.runtime.outbox import Outbox, Receipt, release_recorded
from geal_edge.runtime.privacy.filter import PrivacyFilter
from geal_edge.runtime.spool import Spool
from tests.fakes import Clock, MemorySource, frame, judge
from tests.hooks import private_frame
from tests.streams import adversarial_stream, drive_stream, random_stream
from tests.test_context import glimpses
from tests.test_migration import FRAMES, NEW, OLD, drive, listed, vehicle
from tests.test_rounds import SHORT, live, released, remembered
from tests.test_spool import fill, settings, summary


def recorded(path: Path) -> None:
    """A recorded drive, from where it stands: created, appends, evictions, deaths of levels, closed."""
    with Spool(path, settings(), monotonic=Clock()) as spool:
        cursor = spool.begin_source(MemorySource()).cursor
    fill(path, drive_stream(2, 3) + adversarial_stream(1, 9, dim=16), first=cursor + 1)


def beside(path: Path) -> None:
    """A drive with context beside each frame that is retained, some of which are evicted with it."""
    with Spool(path, settings(), monotonic=Clock()) as spool:
        ladder, cursor = spool.ladder(), spool.begin_source(MemorySource()).cursor
        for index, clusters in enumerate(adversarial_stream(1, 9, dim=16)):
            if index > cursor:
                unit = ladder.next_unit
                judge(spool, ladder, frame(index), clusters)
                spool.add_context(unit, 0, glimpses(2))


def without_context(path: Path) -> Any:
    """What is promised of a drive with context: a frame may stand without it, and what a row names is whole (`check`)."""
    listed, *rest = summary(path)
    return [{key: value for key, value in line.items() if key != "context"} for line in listed], *rest


def paced(path: Path) -> None:
    """Two rounds of a vehicle, from where they stand: releases, a round's end, its memory, the next round."""
    live(path, random_stream(8, 5), **SHORT)


def migrated(path: Path) -> None:
    """A spool with a memory, taken over into a new feature space."""
    if not (path / "spool.db").exists():
        drive(path, OLD, range(FRAMES))
        milestone()
    with vehicle(path, NEW):
        pass


def sent(path: Path) -> None:
    """What two rounds have released is acknowledged, unit after unit."""
    if not (path / "spool.db").exists():
        paced(path)
        milestone()
    with Outbox(path) as outbox:
        while (outgoing := outbox.next()) is not None:
            outbox.acknowledge(outgoing, [Receipt(key=frame.sha256, verified="size") for frame in outgoing.frames])


def unguarded(path: Path) -> None:
    """Two frames that are released, and pictures."""
    with Spool(path, settings(budget=2), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(random_stream(0, 2, dim=64, most=1)):
            judge(spool, ladder, private_frame(index), clusters)
        spool.finish_source("memory")
    release_recorded(path)


def guarded(path: Path) -> None:
    """A privacy hook's outputs are stored before a unit is sent, and go with it."""
    if not (path / "spool.db").exists():
        unguarded(path)
        milestone()
    with Outbox(path, privacy=PrivacyFilter(PrivacyConfig(python="tests.hooks:half_black"))) as outbox:
        while (outgoing := outbox.next()) is not None:
            outgoing = outbox.guarded(outgoing)
            receipts = []
            for frame in outgoing.frames:
                assert sha256(frame.file.read_bytes()).hexdigest() == frame.sha256
                receipts.append(Receipt(key=frame.sha256, verified="size"))
            outbox.acknowledge(outgoing, receipts)


def keys(path: Path) -> list[tuple[str, ...]]:
    """Under which the far side has what was sent."""
    with closing(sqlite3.connect(path / "spool.db")) as database:
        return sorted(database.execute("SELECT id, key FROM acknowledged JOIN frames USING (frame)"))


def erased(path: Path) -> None:
    """One frame that was released is erased: its row, file, place in the memory, and all that SQLite still had of it."""
    if not (path / "spool.db").exists():
        paced(path)
        milestone()
    with suppress(UsageError):  # begun already, and finished by whoever opens the spool
        erase(path, Rule(id="memory#0"), sure=lambda _: True)
    paced(path)


DRIVES: dict[str, Callable[[Path], None]] = {
    "recorded": recorded,
    "beside": beside,
    "paced": paced,
    "migrated": migrated,
    "sent": sent,
    "guarded": guarded,
    "erased": erased,
}
OUTCOMES: dict[str, Callable[[Path], Any]] = {
    "recorded": summary,
    "beside": without_context,
    "paced": lambda path: (summary(path), released(path), remembered(path)),
    # A removal that the power undid is finished by the next `run`: a file that no row names is harmless until then.
    "sent": lambda path: (summary(path)[:-1], [problem for problem in summary(path)[-1] if not problem.harmless]),
    "guarded": lambda path: (keys(path), [problem for problem in summary(path)[-1] if not problem.harmless]),
    "erased": lambda path: (summary(path), released(path), remembered(path)),
    "migrated": lambda path: (listed(path)[:2], {unit: rows.tobytes() for unit, rows in listed(path)[3].items()}),
}
"""What must come out in the end, however often the power was cut on the way."""


def held(database: sqlite3.Connection) -> list[list[Any]]:
    """What a database has promised: the units, their states and their places in the order."""
    return [list(row) for row in database.execute("SELECT unit, round, state, release_order FROM units ORDER BY unit")]


class Ledger:
    """Writes down what every commit promised, and tells the recorder."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
        self._mark = ctypes.CDLL(None).powerloss_mark
        self._count = 0

    def add(self, what: Any) -> None:
        self._file.write(json.dumps(what) + "\n")
        self._file.flush()
        self._count += 1
        self._mark(ctypes.c_uint64(self._count))


ledgers: list[Ledger] = []
"""The one of a recorded drive."""


def milestone() -> None:
    """What comes from here on is what is tested; nothing where the drive is only taken up again."""
    for ledger in ledgers:
        ledger.add("from here")


class Watched:
    """A database whose commits are written down."""

    def __init__(self, database: sqlite3.Connection, add: Callable[[Any], None]) -> None:
        self._database, self._add = database, add

    def execute(self, statement: str, *args: Any) -> Any:
        result = self._database.execute(statement, *args)
        if statement == "COMMIT":
            self._add(held(self._database))
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def main() -> None:
    """Drive once, recorded."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=DRIVES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--without", default="")
    words = parser.parse_args()
    ledger = Ledger(words.ledger)
    ledgers.append(ledger)
    sites: set[str] = set()

    class Os:
        """`os` as durable.py sees it, with one sync less."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fsync(self, handle: int) -> None:
            frame = sys._getframe(1)
            site = frame.f_code.co_name
            if site == "sync_folder" and frame.f_back is not None:
                site = frame.f_back.f_code.co_name + ">folder"
            sites.add(site)
            if site != words.without:
                os.fsync(handle)

    @contextmanager
    def connection(path: Path) -> Iterator[Any]:
        with spooldb.connection(path) as database:
            if words.without.startswith("synchronous"):
                database.execute(f"PRAGMA {words.without}")
            yield Watched(database, ledger.add)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "os", Os())
        for module in (spool_module, outbox_module, erasure_module):
            patch.setattr(module, "connection", connection)
        DRIVES[words.name](words.folder / "spool")
    with words.ledger.open("a") as file:
        file.write(json.dumps(sorted(sites)) + "\n")


if __name__ == "__main__":
    main()
