"""Mending a spool (docs/spool.md, "What `repair` does"): what cannot be believed is set aside, and everything is said.

Nothing is thrown away: files go to SPOOL/set-aside, each with a line in its list. Done twice it finds nothing more; where it is
cut off, the next one goes on with what is left.
"""

import json
import math
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

import geal_edge
from geal_edge.errors import SpoolError
from geal_edge.runtime import durable
from geal_edge.runtime.erasure import finish
from geal_edge.runtime.lostcommits import damaged_log
from geal_edge.runtime.memory import Entry, Memory, remember
from geal_edge.runtime.memoryfile import write_memory
from geal_edge.runtime.salvage import salvaged
from geal_edge.runtime.soundness import (
    RowFault,
    count_faults,
    database_faults,
    file_faults,
    level_faults,
    memory_faults,
    row_faults,
    told,
)
from geal_edge.runtime.spooldb import (
    DATABASE,
    FRAMES,
    LOCK,
    OWN_FILE,
    REPAIR,
    SET_ASIDE,
    UPLOAD_LOCK,
    connection,
    is_created,
    memory_path,
    require_schema,
    tables_with,
    transaction,
)
from geal_edge.runtime.spoolview import private_copy

LIST = "list.jsonl"
REPAIR_SCHEMA = "geal-edge/repair/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """One finding of `repair`: a stable kind, what was wrong, and what was done."""

    kind: str
    detail: str
    done: str


@dataclass(slots=True)
class _Repair:
    """A repair at work."""

    spool: Path
    wall_ns: Callable[[], int]
    mended: list[Mended] = field(default_factory=list)

    def say(self, kind: str, detail: str, done: str) -> None:
        self.mended.append(Mended(kind=kind, detail=detail, done=done))

    def set_aside(self, path: Path, reason: str, *, copy: Path | None = None) -> str:
        """Move a file to where nobody reads it; or with `copy` leave it, and put its bytes there. Gives where that is."""
        folder = self.spool / SET_ASIDE
        durable.make_folder(folder, mode=0o700)
        number = 1 + max(
            (int(name) for e in folder.iterdir() if (name := e.name.partition("-")[0]).isdigit()), default=0
        )
        target = folder / f"{number:04d}-{path.name}"
        was = path.relative_to(self.spool).as_posix()
        line = {"file": target.name, "was": was, "reason": reason, "wall_ns": self.wall_ns()}
        listed = folder / LIST
        # First the line: a file that nobody explains would be worse than a line without a file.
        durable.write_tail(
            listed,
            json.dumps(line, ensure_ascii=False).encode() + b"\n",
            at=listed.stat().st_size if listed.exists() else 0,
        )
        if copy is None:
            durable.move_file(path, target)
        else:
            durable.write_file(target, copy.read_bytes())
        return f"set aside as {SET_ASIDE}/{target.name}"


def repair(spool: Path, *, wall_ns: Callable[[], int] = time.time_ns) -> list[Mended]:
    """Mend what can be mended; gives what was wrong and what was done, [] for a sound spool.

    Raises SpoolError where there is nothing of a spool, or what a later version wrote: then nothing is changed. Raises
    SpoolLocked beside a writer or an uploader, and StorageError.
    """
    if not ((spool / DATABASE).exists() or (spool / FRAMES).is_dir()):
        raise SpoolError(f"{spool}: nothing of a spool is here (no {DATABASE}, no {FRAMES}). Nothing was changed.")
    with (
        durable.exclusive_lock(spool / LOCK, f"{spool}"),
        # What it acknowledged would go into a database that is none any more, and be sent again without its file.
        durable.exclusive_lock(spool / UPLOAD_LOCK, f"the outbox of {spool}"),
        tempfile.TemporaryDirectory() as scratch,
    ):
        _require_no_later(spool, Path(scratch))
        work = _Repair(spool, wall_ns)
        log = spool / f"{DATABASE}-wal"
        if (lost := damaged_log(log)) is not None:
            aside = work.set_aside(log, lost, copy=log)  # SQLite writes over what it cannot read
            work.say("database", lost, f"{aside}; what stands before the damage is believed")
        if _mend_database(work, Path(scratch)):
            with connection(spool / DATABASE) as db:
                _mend(work, db)
        else:
            _begin_anew(work)
    return work.mended


def _require_no_later(spool: Path, scratch: Path) -> None:
    """Raise SpoolError for a spool of a later version, before anything of it is touched."""
    with suppress(sqlite3.DatabaseError), closing(private_copy(spool, scratch)) as db:
        schema = dict(db.execute("SELECT key, value FROM meta")).get("schema") if is_created(db) else None
        if schema is not None:
            require_schema(spool, schema)


def _mend_database(work: _Repair, scratch: Path) -> bool:
    """Whether there is a database now that can be believed."""
    path = work.spool / DATABASE
    if not path.exists():
        if _own_frames(work.spool):
            work.say("database", f"{DATABASE} is lost", "nothing of it is left to be read")
        return False
    faults: list[str] = []
    try:
        with closing(private_copy(work.spool, scratch)) as db:
            faults = database_faults(db)
            if not faults and _complete(db):
                return True
            faults = faults or ["it holds no settings, or no round"]
    except sqlite3.DatabaseError as error:
        faults = [str(error)]
    for suffix in ("", "-wal"):  # reading may have changed the copies
        if (path.parent / (DATABASE + suffix)).is_file():
            (scratch / (DATABASE + suffix)).write_bytes((path.parent / (DATABASE + suffix)).read_bytes())
    counts = salvaged(scratch / DATABASE, scratch / "new")
    with closing(sqlite3.connect(scratch / "new", isolation_level=None)) as db:
        usable = _complete(db)
        if usable:
            require_schema(work.spool, dict(db.execute("SELECT key, value FROM meta"))["schema"])
            _tie(db, work.spool)
    asides = [
        work.set_aside(file, faults[0], copy=file)
        for suffix in ("", "-wal")
        if (file := work.spool / (DATABASE + suffix)).exists()
    ]
    # The log goes first: SQLite would play it into whatever database it finds.
    for suffix in ("-wal", "-shm", "") if not usable else ("-wal", "-shm"):
        durable.remove_file(work.spool / (DATABASE + suffix))
    durable.make_safe(work.spool)
    rows = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
    if usable:
        durable.write_file(path, (scratch / "new").read_bytes())
    saved = f"a new one holds {rows}" if usable else "too little can be read of it to go on"
    work.say("database", f"{DATABASE}: {faults[0]}", f"{' and '.join(asides)}; {saved}")
    return usable


def _complete(db: sqlite3.Connection) -> bool:
    """Whether what nobody could guess is there: settings and a round."""
    needed = {"schema", "bundle", "feature_space", "preset", "grid", "untrained", "producer"}
    found = {key for (key,) in db.execute("SELECT key FROM meta")}
    return needed <= found and db.execute("SELECT 1 FROM rounds").fetchone() is not None


def _tie(db: sqlite3.Connection, spool: Path) -> None:
    """Rows that belong to rows that were lost go, and no number of a unit that ever was is given again."""
    db.execute("DELETE FROM frames WHERE unit NOT IN (SELECT unit FROM units)")
    db.execute(
        "DELETE FROM units WHERE unit NOT IN (SELECT unit FROM frames) OR round NOT IN (SELECT round FROM rounds)"
    )
    db.execute("DELETE FROM frames WHERE unit NOT IN (SELECT unit FROM units)")
    for column, owner in (("unit", "units"), ("frame", "frames")):
        for table in tables_with(db, column):  # else nobody would ever remove the files that they name
            db.execute(f"DELETE FROM {table} WHERE {column} NOT IN (SELECT {column} FROM {owner})")  # noqa: S608 - our table
    db.execute("UPDATE rounds SET certified = 0 WHERE open")
    files = [int(path.name.partition(".")[0].partition("-")[0]) for path in _own_frames(spool)]
    (last,) = db.execute("SELECT coalesce(max(unit), 0) FROM units").fetchone()
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'units'")
    db.execute("INSERT INTO sqlite_sequence VALUES ('units', ?)", (max([last, *files]),))


def _begin_anew(work: _Repair) -> None:
    """Without a database nobody knows what the frames are: they are set aside, and the spool is as before it was filled."""
    for path in _own_frames(work.spool):
        work.say("orphan", f"{path.name}: no row is left for it", work.set_aside(path, f"{DATABASE} is lost"))


def _own_frames(spool: Path) -> list[Path]:
    """Files among the frames whose names are ours."""
    folder = spool / FRAMES
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if OWN_FILE.fullmatch(path.name) and path.is_file()]


def _mend(work: _Repair, db: sqlite3.Connection) -> None:
    """All that a database in order can be held against."""
    for fault in list(row_faults(db)):
        done = _mend_rows(work, db, fault)
        work.say("rows", f"unit {fault.unit}: {fault.detail}", done)
    for path, why in list(memory_faults(db, work.spool)):
        aside = f"{work.set_aside(path, why)}; " if path.exists() else ""
        work.say("memory", why, f"{aside}{_remember_anew(work, db, path)}")
    # Behind the memories, which it reads, and before the files: what is to be erased must not be set aside.
    finish(db, work.spool)
    damaged = any(each.kind == "database" for each in work.mended)
    for each in list(file_faults(db, work.spool, damaged=damaged)):
        path = work.spool / FRAMES / each.file
        if each.kind == "tombstone":
            durable.remove_file(path)
            work.say("tombstone", each.detail, "removed")
        elif each.kind in ("orphan", "row_missing"):
            work.say(each.kind, f"{each.file}: no row names it", work.set_aside(path, "no row names it"))
        elif each.beside:
            aside = f"; {work.set_aside(path, each.detail)}" if path.is_file() else ""
            with transaction(db, work.spool):
                for table in tables_with(db, "unit", "file"):
                    db.execute(f"DELETE FROM {table} WHERE file = ?", (each.file,))  # noqa: S608 - our table
            work.say(each.kind, each.detail, f"its row is removed, the unit is whole without it{aside}")
        elif each.unit is not None:
            files = _evict(work, db, each.unit, each.detail)
            work.say(each.kind, each.detail, f"its unit is evicted{files}")
    _mend_levels(work, db)
    _mend_counts(work, db)
    if work.mended:
        with transaction(db, work.spool):
            _event(db, work, "repaired", {"mended": [f"{each.kind}: {each.detail}" for each in work.mended]})


def _mend_rows(work: _Repair, db: sqlite3.Connection, fault: RowFault) -> str:
    """What is no candidate any more (sent, expired, pinned) stays what it is, and covers nothing from now on: nothing that was
    sent may be forgotten, or its place in the budget would be free again. Gives what was done, in words."""
    state, round_ = db.execute("SELECT state, round FROM units WHERE unit = ?", (fault.unit,)).fetchone()
    if state in ("retained", "released"):
        return f"evicted{_evict(work, db, fault.unit, fault.detail)}"
    (grid,) = db.execute("SELECT value FROM meta WHERE key = 'grid'").fetchone()
    nowhere = np.full(math.prod(json.loads(grid)), -1, "<i2").tobytes()
    with transaction(db, work.spool):
        db.execute("UPDATE units SET levels = x'' WHERE unit = ? AND state != 'pinned'", (fault.unit,))
        db.execute("UPDATE frames SET clusters = NULL, patch_cluster = ? WHERE unit = ?", (nowhere, fault.unit))
        if state != "pinned":
            db.execute("UPDATE rounds SET certified = 0 WHERE round = ? AND open", (round_,))
    return f"it stays {state}, without its clusters"


def _evict(work: _Repair, db: sqlite3.Connection, unit: int, reason: str) -> str:
    """A unit leaves the spool; gives what became of its files, in words."""
    state, round_ = db.execute("SELECT state, round FROM units WHERE unit = ?", (unit,)).fetchone()
    if state == "evicted":  # of several damaged frames of one unit the first has done it
        return ""
    files = [
        file
        for table in ("frames", *tables_with(db, "unit", "file"))
        for (file,) in db.execute(f"SELECT file FROM {table} WHERE unit = ? AND file IS NOT NULL", (unit,))  # noqa: S608 - our table
    ]
    asides = [
        work.set_aside(work.spool / FRAMES / file, reason)
        for file in files
        if OWN_FILE.fullmatch(file) and (work.spool / FRAMES / file).is_file()
    ]
    with transaction(db, work.spool):
        db.execute(
            "UPDATE units SET state = 'evicted', levels = NULL, evicted_by = ?, release_order = NULL WHERE unit = ?",
            (REPAIR, unit),
        )
        db.execute("UPDATE frames SET clusters = NULL, patch_cluster = NULL, file = NULL WHERE unit = ?", (unit,))
        if state != "pinned":
            db.execute("UPDATE rounds SET certified = 0 WHERE round = ? AND open", (round_,))
        for table in tables_with(db, "unit"):  # its pin, context, metadata, and that it was set aside
            db.execute(f"DELETE FROM {table} WHERE unit = ?", (unit,))  # noqa: S608 - our table
        ids = [id_ for (id_,) in db.execute("SELECT id FROM frames WHERE unit = ?", (unit,))]
        _event(db, work, "units_evicted", {"units": ids, "by": REPAIR})
        (evicted,) = db.execute(
            "SELECT count(*) FROM units JOIN frames USING (unit) WHERE state = 'evicted'"
        ).fetchone()
        db.execute("INSERT OR REPLACE INTO counters VALUES ('evicted', ?)", (evicted,))
    return "".join(f", {aside}" for aside in asides)


def _mend_levels(work: _Repair, db: sqlite3.Connection) -> None:
    homeless, overfull = level_faults(db)
    if overfull:
        (round_,) = db.execute("SELECT max(round) FROM rounds").fetchone()
        (unit,) = db.execute("SELECT coalesce(max(unit), 0) + 1 FROM units").fetchone()
        with transaction(db, work.spool):
            for level in overfull:
                db.execute("INSERT INTO deaths VALUES (NULL, ?, ?, 0, ?)", (round_, level, unit))
        for level in overfull:
            work.say("levels", f"level {level} holds more units than the budget", "it ended, by pressure")
        homeless, _ = level_faults(db)
    for number in homeless:
        files = _evict(work, db, number, "no alive level holds it")
        work.say("levels", f"unit {number} is retained, but no alive level holds it", f"evicted{files}")


def _remember_anew(work: _Repair, db: sqlite3.Connection, path: Path) -> str:
    """Write a memory of what the rows of closed rounds have released; gives that in words."""
    (space,) = db.execute("SELECT value FROM meta WHERE key = 'feature_space'").fetchone()
    if path != memory_path(work.spool, space):
        return "it was of another feature space, of which no rows are left"
    entries = [
        Entry(
            id=id_,
            kind="released",
            rows=np.frombuffer(clusters, "<f2").reshape(count, -1).astype(np.float16),
            origin=f"{work.spool.name}, round {round_}",
            sha256=digest,
        )
        for id_, digest, clusters, count, round_ in db.execute(
            "SELECT id, frames.sha256, clusters, cluster_count, round "
            "FROM units JOIN frames USING (unit) JOIN rounds USING (round) "
            "WHERE state IN ('released', 'sent', 'expired') AND NOT open AND clusters IS NOT NULL "
            "ORDER BY round, release_order, frame"
        )
    ]
    (through,) = db.execute("SELECT coalesce(max(round), 0) FROM rounds WHERE NOT open").fetchone()
    with transaction(db, work.spool):
        db.execute("UPDATE rounds SET certified = 0 WHERE open")  # what was known from elsewhere is covered no more
    write_memory(path, replace(remember(Memory(feature_space=space), entries), through_round=through))
    return f"written anew from {len(entries)} released frames; what was known from elsewhere is not covered any more"


def _mend_counts(work: _Repair, db: sqlite3.Connection) -> None:
    faults = list(count_faults(db))
    if not faults:
        return
    with transaction(db, work.spool):
        rows = dict(db.execute("SELECT state, count(*) FROM units JOIN frames USING (unit) GROUP BY state"))
        counters = {**dict(db.execute("SELECT name, n FROM counters")), "evicted": rows.get("evicted", 0)}
        missing = counters.get("seen", 0) - told(counters, rows)
        if missing >= 0:
            counters["not_new"] = counters.get("not_new", 0) + missing
        else:
            counters["seen"] = told(counters, rows)
        db.executemany("INSERT OR REPLACE INTO counters VALUES (?, ?)", counters.items())
    for fault in faults:
        work.say("counts", fault, "made to agree: what no row tells counts as not new")


def _event(db: sqlite3.Connection, work: _Repair, name: str, detail: dict[str, object]) -> None:
    db.execute(
        "INSERT INTO events VALUES (NULL, ?, ?, ?, ?)",
        (name, work.wall_ns(), geal_edge.__version__, json.dumps(detail, ensure_ascii=False)),
    )


def repair_json(mended: Sequence[Mended], *, sound: bool) -> dict[str, object]:
    """The machine form of `repair --json` (docs/formats.md)."""
    return {"schema": REPAIR_SCHEMA, "sound": sound, "mended": [asdict(each) for each in mended]}
