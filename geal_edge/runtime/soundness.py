"""What in a spool contradicts itself: asked by `check`, which only says it, and by `repair`, which mends it (docs/spool.md)."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from geal_edge.errors import GealEdgeError
from geal_edge.runtime.ladder import TOP
from geal_edge.runtime.lostcommits import leftovers
from geal_edge.runtime.memoryfile import read_memory
from geal_edge.runtime.spooldb import DATABASE, FRAMES, OWN_FILE, has_table, memory_files, memory_path, tables_with

GONE = ("evicted", "expired", "sent")
"""States of units whose file may be named a while longer, and is to be removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFault:
    """A file among the frames that is not what a row says (`missing`, `altered`, `tombstone`), or that no row names: `orphan`
    where a kill left it, `row_missing` where only a row that is lost can have named it, `foreign` where its name is none of ours.

    beside  it is no frame of its unit, which is whole without it: context.py, and outputs, which are made anew (privacy/)
    """

    kind: str
    file: str
    detail: str
    unit: int | None = None
    state: str | None = None
    beside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """A unit whose rows cannot be meant."""

    unit: int
    detail: str


def database_faults(db: sqlite3.Connection) -> list[str]:
    """What SQLite itself finds."""
    return [line for (line,) in db.execute("PRAGMA integrity_check") if line != "ok"]


def row_faults(db: sqlite3.Connection) -> Iterator[RowFault]:
    """Units whose clusters, patch map or levels no version of ours has written."""
    meta = dict(db.execute("SELECT key, value FROM meta"))
    found = db.execute(
        "SELECT unit, state, levels, clusters, cluster_count, patch_cluster, file FROM units LEFT JOIN frames USING (unit) "
        "WHERE state != 'evicted' ORDER BY unit, frame"
    )
    width: int | None = None
    for unit, of_unit in groupby(found, key=itemgetter(0)):
        try:
            for _, state, levels, clusters, count, patches, file in of_unit:
                if state == "retained":
                    held = np.frombuffer(levels, "<u2")
                    if not len(held) or held.max() > TOP:
                        raise ValueError("its levels are none of the ladder's")
                if state in ("retained", "released") and (file is None) != ("shadow" in meta):
                    raise ValueError("its file has no name" if file is None else "it has a file in a shadow")
                if clusters is None and state in ("retained", "released"):
                    raise ValueError("its clusters are gone")
                if clusters is not None:
                    vectors = np.frombuffer(clusters, "<f2").reshape(count, -1)
                    width = width or vectors.shape[1]
                    if not vectors.size or vectors.shape[1] != width or not np.isfinite(vectors).all():
                        raise ValueError("its clusters are no vectors like the others")
                if patches is not None:
                    cells = np.frombuffer(patches, "<i2")
                    if cells.size and (cells.min() < -1 or cells.max() >= count):
                        raise ValueError("its patch map names clusters that are not there")
        except (ValueError, TypeError) as error:
            yield RowFault(unit=unit, detail=str(error))


def file_faults(
    db: sqlite3.Connection, spool: Path, *, damaged: bool = False, look_anew: Callable[[], None] = lambda: None
) -> Iterator[FileFault]:
    """Every file among the frames, held against its row: reads all of them.

    damaged    commits are known to be lost (lostcommits.py)
    look_anew  lets the database be seen as it is now, where somebody may write meanwhile
    """
    rows = db.execute(
        "SELECT unit, state, file, bytes, sha256, 'the ' || state || ' frame ' || id, 0 FROM frames JOIN units USING (unit) "
        "WHERE file IS NOT NULL"
    ).fetchall()
    for table in tables_with(db, "unit", "file", "bytes", "sha256"):
        rows += db.execute(
            f"SELECT unit, state, file, bytes, sha256, 'what is beside unit ' || unit, 1 FROM {table} JOIN units USING (unit)"  # noqa: S608 - our table
        ).fetchall()
    missing: list[tuple[int, str]] = []
    for unit, state, file, size, digest, what, beside in rows:
        fault = _file_fault(spool / FRAMES / file, state, size, digest, what)
        if fault is not None:
            kind, detail = fault
            missing += [(unit, state)] if kind == "missing" else []
            detail = f"{file}: {detail}"
            yield FileFault(kind=kind, file=file, detail=detail, unit=unit, state=state, beside=bool(beside))
    folder = spool / FRAMES
    present = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    look_anew()  # what was written while we looked has a row now
    # Beside us an uploader marks what is sent, and removes the file then.
    state_now = "SELECT state FROM units WHERE unit = ?"
    damaged = damaged or any(db.execute(state_now, (unit,)).fetchone() == (state,) for unit, state in missing)
    named = {file for (file,) in db.execute("SELECT file FROM frames WHERE file IS NOT NULL")}
    for table in tables_with(db, "unit", "file"):
        named |= {file for (file,) in db.execute(f"SELECT file FROM {table}")}  # noqa: S608 - our table
    unnamed = [name for name in present if name not in named]
    own = [name for name in unnamed if OWN_FILE.fullmatch(name) and (folder / name).is_file()]
    left = leftovers(db, own, damaged=damaged)
    if has_table(db, "erased"):  # rows of an erasure go before its files do
        left |= {file for (file,) in db.execute("SELECT file FROM erased WHERE file IS NOT NULL")}
    for name in unnamed:
        if name in left:
            yield FileFault(kind="orphan", file=name, detail=f"{name}: no row names it (the next run removes it)")
        elif name in own:
            detail = f"{name}: was stored with a row, which {DATABASE} has lost"
            yield FileFault(kind="row_missing", file=name, detail=detail)
        else:
            yield FileFault(kind="foreign", file=name, detail=f"{name}: not ours, never touched")


def _file_fault(path: Path, state: str, size: int, digest: str, what: str) -> tuple[str, str] | None:
    """(kind, detail) of a file that is not what its row says."""
    if state in GONE:
        return ("tombstone", f"{state}, removal not finished (the next run does)") if path.exists() else None
    try:
        data = path.read_bytes()
    except OSError as error:
        return "missing", f"{what} cannot be read ({error.strerror})"
    if len(data) != size or sha256(data).hexdigest() != digest:
        return "altered", f"the bytes are not those that were stored ({what})"
    return None


def memory_faults(db: sqlite3.Connection, spool: Path) -> Iterator[tuple[Path, str]]:
    """Memories that cannot be believed, or that must be there and are not; and why."""
    for path in memory_files(spool):
        try:
            read_memory(path)
        except GealEdgeError as error:
            yield path, str(error)
    meta = dict(db.execute("SELECT key, value FROM meta"))
    path = memory_path(spool, meta["feature_space"])
    (released,) = db.execute(
        "SELECT count(*) FROM units WHERE state IN ('released', 'sent') AND round < (SELECT max(round) FROM rounds)"
    ).fetchone()
    known = [key for key in meta if key.startswith("known:")]
    if (released or known) and not path.is_file():
        what = f"what {released} released units and {len(known)} sets of known frames cover is not known any more"
        yield path, f"{path.relative_to(spool)}: is {'no file' if path.exists() else 'gone'}, and {what}"


def level_faults(db: sqlite3.Connection) -> tuple[list[int], list[int]]:
    """(retained units of the last round that no alive level holds, alive levels that hold more than its budget)."""
    round_number, budget = db.execute("SELECT round, budget FROM rounds ORDER BY round DESC LIMIT 1").fetchone()
    dead = {level for (level,) in db.execute("SELECT level FROM deaths WHERE round = ?", (round_number,))}
    held: Counter[int] = Counter()
    homeless = []
    for unit, levels in db.execute(
        "SELECT unit, levels FROM units WHERE state = 'retained' AND round = ? ORDER BY unit", (round_number,)
    ):
        alive = {int(level) for level in np.frombuffer(levels, "<u2")} - dead
        held.update(alive)
        if not alive:
            homeless.append(unit)
    return homeless, sorted(level for level, count in held.items() if count > budget)


def count_faults(db: sqlite3.Connection) -> Iterator[str]:
    """Counters that do not add up."""
    counters = dict(db.execute("SELECT name, n FROM counters"))
    rows = dict(db.execute("SELECT state, count(*) FROM units JOIN frames USING (unit) GROUP BY state"))
    seen, total = counters.get("seen", 0), told(counters, rows)
    if seen != total:
        yield f"{seen} frames seen, but counters and rows tell of {total}"
    evicted, marked = counters.get("evicted", 0), rows.get("evicted", 0)
    if evicted != marked:
        yield f"{evicted} evictions counted, {marked} frames are marked evicted"


def told(counters: dict[str, int], rows: dict[str, int]) -> int:
    """How many frames counters and rows (state -> frames) tell of; evicted ones by their counter."""
    lost = sum(n for name, n in counters.items() if name.startswith(("lost:", "gated:")))
    noted = sum(counters.get(name, 0) for name in ("not_new", "evicted", "erased"))
    return lost + noted + sum(n for state, n in rows.items() if state != "evicted")
