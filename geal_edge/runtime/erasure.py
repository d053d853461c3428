"""Erasing: what is left of frames is removed for good, and a tombstone says so (docs/spool.md, "Erasing").

One transaction takes the rows away and stores what is still to be done in the tombstones themselves: the file to unlink, and the
id and digest by which memories know the frame. Then files, memories and SQLite's old pages follow, each of which may be done
twice; whoever opens the spool next finishes what was begun.
"""

import json
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import geal_edge
from geal_edge.errors import SpoolError, SpoolLocked, UsageError
from geal_edge.runtime import durable
from geal_edge.runtime.lostcommits import leftovers, require_whole_log
from geal_edge.runtime.memory import forget
from geal_edge.runtime.memoryfile import read_memory, write_memory
from geal_edge.runtime.spooldb import (
    DATABASE,
    FRAMES,
    LOCK,
    OWN_FILE,
    UPLOAD_LOCK,
    connection,
    database_errors,
    has_table,
    is_created,
    memory_files,
    require_schema,
    tables_with,
    transaction,
)

TABLE = """
CREATE TABLE IF NOT EXISTS erased (
  erasure INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL, wall_ns INTEGER NOT NULL, rule TEXT NOT NULL,
  finished INTEGER NOT NULL, id TEXT, sha256 TEXT, file TEXT)
"""
NAMELESS = "(erased)"
"""What stands in events and rows instead of an id."""
_WORD = re.compile(r"[^\s\"'(),;]*[^\s\"'(),;.:]")
_DIGEST = re.compile(r"[0-9a-f]{64}")
"""A digest is a part of a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is to be erased: one frame, all of a source, or what was seen or stored between two moments; the others are None."""

    id: str | None = None
    source: str | None = None
    between_ns: tuple[int, int] | None = None

    def __str__(self) -> str:
        """As the tombstone has it: without the id, which is what must go."""
        if self.between_ns is not None:
            begin, end = (datetime.fromtimestamp(ns / 1e9, timezone.utc).isoformat() for ns in self.between_ns)
            return f"between {begin} and {end}"
        return "id" if self.source is None else f"source {self.source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasable:
    """What a rule is about: frames with what is stored of them, and ids of which only a verdict is."""

    units: tuple[int, ...]
    ids: tuple[str, ...]
    verdicts: tuple[str, ...]
    bytes: int


def moment_ns(text: str) -> int:
    """Nanoseconds since 1970 of a moment in ISO 8601; without a zone it is UTC. Raises UsageError.

    >>> moment_ns("2026-03-01T12:00:00+01:00") == moment_ns("2026-03-01 11:00")
    True
    >>> moment_ns("9999-12-31") == 2**63 - 1  # no frame is later than that
    True
    """
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise UsageError(
            f"--between {text}: is no moment. Write it as 2026-03-01T12:00:00, in UTC, or with its zone as ...+01:00."
        ) from error
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return min(max(round(aware.timestamp() * 1e9), -(2**63)), 2**63 - 1)


def erasable(db: sqlite3.Connection, rule: Rule) -> Erasable:
    """What a rule would erase. A unit goes as a whole. Between two moments is what was captured or stored then, the context
    beside a frame too: a wrong clock of either must not leave a picture behind."""
    low, high = rule.between_ns or (None, None)
    meant = {"id": rule.id, "source": rule.source, "low": low, "high": high}
    found = db.execute(
        "SELECT unit FROM frames WHERE id = :id OR source = :source "
        "OR capture_time_ns BETWEEN :low AND :high OR stored_ns BETWEEN :low AND :high",
        meant,
    ).fetchall()
    for table in tables_with(db, "unit", "file", "capture_time_ns"):
        query = f"SELECT unit FROM {table} WHERE capture_time_ns BETWEEN :low AND :high"  # noqa: S608 - our table
        found += db.execute(query, meant).fetchall()
    units = sorted({unit for (unit,) in found})
    frames = [row for unit in units for row in db.execute("SELECT id, file, bytes FROM frames WHERE unit = ?", (unit,))]
    verdicts: list[str] = []
    if has_table(db, "verdicts"):
        # An id begins with its source's name, and what follows it is `#` or `/`.
        verdicts = [
            id_
            for (id_,) in db.execute(
                "SELECT id FROM verdicts WHERE id = :id OR capture_time_ns BETWEEN :low AND :high "
                "OR (substr(id, 1, length(:source)) = :source AND substr(id, length(:source) + 1, 1) IN ('#', '/'))",
                meant,
            )
        ]
    return Erasable(
        units=tuple(units),
        ids=tuple(id_ for id_, _, _ in frames),
        verdicts=tuple(verdicts),
        bytes=sum(size for _, file, size in frames if file is not None),
    )


def erase(
    spool: Path, rule: Rule, *, sure: Callable[[Erasable], bool], wall_ns: Callable[[], int] = time.time_ns
) -> Erasable:
    """Erase what a rule is about, once `sure` has said yes to it; gives what that was. Finishes what was begun before.

    Raises SpoolLocked where `run` or `upload` is at work, or a reader still holds old pages; UsageError where nothing is meant.
    """
    if not (spool / DATABASE).is_file():
        raise SpoolError(f"{spool}: no spool here (no {DATABASE}). Nothing was erased.")
    require_whole_log(spool)
    with (
        durable.exclusive_lock(spool / LOCK, f"{spool}"),
        durable.exclusive_lock(spool / UPLOAD_LOCK, f"the outbox of {spool}"),  # nothing is sent while it is erased
        connection(spool / DATABASE) as db,
    ):
        if not is_created(db):
            raise SpoolError(f"{spool}: this spool was never filled. Nothing was erased.")
        require_schema(spool, db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()[0])
        finish(db, spool)
        found = erasable(db, rule)
        if not (found.ids or found.verdicts):
            raise UsageError(f"{spool}: holds nothing of that. `geal-edge list {spool} --retained` shows ids.")
        if sure(found):
            with transaction(db, spool):
                _begin(db, found, rule, wall_ns())
            _remove_leftovers(db, spool)
            finish(db, spool)
        return found


def _remove_leftovers(db: sqlite3.Connection, spool: Path) -> None:
    """Pictures that a kill left without a row: nobody can say of what or when they are, and a run may never come."""
    named = {
        file
        for table in ("frames", *tables_with(db, "unit", "file"), "erased")
        for (file,) in db.execute(f"SELECT file FROM {table} WHERE file IS NOT NULL")  # noqa: S608 - our table
    }
    present = {entry.name for entry in (spool / FRAMES).iterdir()}
    own = [name for name in present - named if OWN_FILE.fullmatch(name)]
    for name in leftovers(db, own, damaged=not named <= present):
        durable.remove_file(spool / FRAMES / name)


def finish(db: sqlite3.Connection, spool: Path) -> None:
    """Do what is left of all erasures that were begun; for who has the writer's lock. Nothing where there is none.

    Raises DiskFull where there is no room to write the database anew, SpoolLocked where a reader holds old pages; the rest is
    done then.
    """
    if not has_table(db, "erased"):
        return
    if db.execute("SELECT 1 FROM erased WHERE NOT finished").fetchone() is None:
        return
    left = db.execute("SELECT id, sha256, file FROM erased WHERE NOT finished").fetchall()
    for _, _, file in left:
        if file is not None:
            durable.remove_file(spool / FRAMES / file)
    durable.make_safe(spool / FRAMES)
    ids, digests = (
        {id_ for id_, _, _ in left if id_ is not None},
        {digest for _, digest, _ in left if digest is not None},
    )
    for path in memory_files(spool):
        memory = read_memory(path)
        stays = forget(memory, lambda entry: entry.id in ids or entry.sha256 in digests)
        if len(stays.entries) < len(memory.entries):
            write_memory(path, stays)
    with transaction(db, spool):
        db.execute("UPDATE erased SET id = NULL, sha256 = NULL, file = NULL WHERE NOT finished")
    # Deleted rows still stand in free pages, in gaps of others, and in the log: only a database that is written anew has none.
    with database_errors(spool):
        db.execute("PRAGMA secure_delete = ON")
        db.execute("VACUUM")
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise SpoolLocked(
            f"{spool}: another process is reading it, so old pages of {DATABASE} are still there. What was meant is erased "
            "otherwise; the same command, or the next run, finishes it."
        )
    with transaction(db, spool):
        db.execute("UPDATE erased SET finished = 1")


def _begin(db: sqlite3.Connection, found: Erasable, rule: Rule, now_ns: int) -> None:
    """The one transaction: rows go, tombstones come with what is still to be done."""
    db.execute("PRAGMA secure_delete = ON")
    db.execute(TABLE)
    counted: dict[str, int] = {}
    digests: set[str] = set()
    for unit in found.units:
        for table in tables_with(db, "unit", "file", "sha256"):  # as which they were sent, or set aside
            of_unit = f"SELECT sha256 FROM {table} WHERE unit = ?"  # noqa: S608 - our table
            digests |= {digest for (digest,) in db.execute(of_unit, (unit,))}
        for table in tables_with(db, "unit", "file"):  # what lies beside the unit's own frames
            db.executemany(
                "INSERT INTO erased VALUES (NULL, ?, ?, ?, 0, NULL, NULL, ?)",
                [
                    (_digest(file), now_ns, str(rule), file)
                    for (file,) in db.execute(f"SELECT file FROM {table} WHERE unit = ?", (unit,))  # noqa: S608 - our table
                ],
            )
        frames = db.execute(
            "SELECT frame, id, frames.sha256, file, state, round FROM units JOIN frames USING (unit) WHERE unit = ?",
            (unit,),
        ).fetchall()
        for frame, id_, digest, file, state, round_ in frames:
            db.execute(
                "INSERT INTO erased VALUES (NULL, ?, ?, ?, 0, ?, ?, ?)",
                (_digest(id_), now_ns, str(rule), id_, digest, file),
            )
            for table in tables_with(db, "frame"):
                db.execute(f"DELETE FROM {table} WHERE frame = ?", (frame,))  # noqa: S608 - our table
            counted[state] = counted.get(state, 0) + 1
            digests.add(digest)
            if state != "evicted":
                db.execute("UPDATE rounds SET certified = 0 WHERE round = ? AND open", (round_,))
        for table in tables_with(db, "unit"):
            db.execute(f"DELETE FROM {table} WHERE unit = ?", (unit,))  # noqa: S608 - our table
        db.execute("DELETE FROM frames WHERE unit = ?", (unit,))
        db.execute("DELETE FROM units WHERE unit = ?", (unit,))
    _count(db, "erased", sum(counted.values()))
    _count(db, "evicted", -counted.get("evicted", 0))
    names = {*found.ids, *found.verdicts}
    _redact(db, {*names, *digests})
    db.executemany("UPDATE units SET evicted_by = ? WHERE evicted_by = ?", [(NAMELESS, id_) for id_ in names])
    if has_table(db, "verdicts"):
        db.executemany("DELETE FROM verdicts WHERE id = ?", [(id_,) for id_ in names])
    if has_table(db, "gates"):
        db.execute("DELETE FROM gates")  # thin copies of the newest frames: it may be one of these
    detail = json.dumps({"frames": len(found.ids), "rule": str(rule)}, ensure_ascii=False)
    db.execute("INSERT INTO events VALUES (NULL, 'erased', ?, ?, ?)", (now_ns, geal_edge.__version__, detail))


def _redact(db: sqlite3.Connection, names: Collection[str]) -> None:
    """Replace ids and digests in what is told of frames: in events, and in what the uploader said last. They may stand within a
    sentence."""
    odd = [name for name in names if not _WORD.fullmatch(name)]
    tables = [("events", "event", "detail"), *([("link", "one", "state")] if has_table(db, "link") else [])]
    for table, key, column in tables:
        rows = db.execute(f"SELECT {key}, {column} FROM {table}").fetchall()  # noqa: S608 - our table
        changed = []
        for number, text in rows:
            before = json.loads(text)
            after = _without(before, names, odd)
            if after != before:
                changed.append((json.dumps(after, ensure_ascii=False), number))
        db.executemany(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", changed)  # noqa: S608 - as above


def _without(value: Any, names: Collection[str], odd: Sequence[str]) -> Any:
    """The same value of JSON's types with each of these names replaced. odd: those that are more than one word."""
    if isinstance(value, dict):
        of_one = str(value.get("id")) in names  # then a sentence about it may name its file
        return {
            key: NAMELESS if of_one and key == "detail" else _without(item, names, odd) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_without(item, names, odd) for item in value]
    if not isinstance(value, str) or value in names:
        return NAMELESS if isinstance(value, str) else value
    for name in odd:
        value = value.replace(name, NAMELESS)
    for words in (_WORD, _DIGEST):
        value = words.sub(lambda found: NAMELESS if found[0] in names else found[0], value)
    return value


def _count(db: sqlite3.Connection, name: str, more: int) -> None:
    db.execute("INSERT OR IGNORE INTO counters VALUES (?, 0)", (name,))
    db.execute("UPDATE counters SET n = n + ? WHERE name = ?", (more, name))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def tombstones(db: sqlite3.Connection) -> Sequence[tuple[str, int, str]]:
    """(digest of the id, when by the wall clock, by which rule) of what was erased, oldest first."""
    if not has_table(db, "erased"):
        return []
    return db.execute("SELECT digest, wall_ns, rule FROM erased ORDER BY erasure").fetchall()


def erasure_of(db: sqlite3.Connection, id_: str) -> tuple[int, str] | None:
    """(when by the wall clock, by which rule) the frame of this id was erased last; None where none was."""
    if not has_table(db, "erased"):
        return None
    found: tuple[int, str] | None = db.execute(
        "SELECT wall_ns, rule FROM erased WHERE digest = ? ORDER BY erasure DESC LIMIT 1", (_digest(id_),)
    ).fetchone()
    return found
