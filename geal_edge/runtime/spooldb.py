"""The spool's database: its tables, how it is opened, and what its writer and its readers read alike. See spool.py."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

import geal_edge
from geal_edge.errors import SpoolDamaged, SpoolError, StorageError
from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.ladder import Death, Ladder, RetainedUnit
from geal_edge.runtime.memoryfile import read_memory
from geal_edge.runtime.timeline import Bucket, Timeline

SCHEMA = "geal-edge/spool/2"
DATABASE = "spool.db"
FRAMES = "frames"
LOCK = "lock"
MEMORY = "memory"
ROUND_END, MIGRATION = "round_end", "feature_space_changed"
"""What evicted a unit, where it was no frame that came."""
OWN_FILE = re.compile(r"\d{8,}(-\d+)?\.(jpg|jpeg|png|webp)(\.tmp)?")


TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE rounds (
  round INTEGER PRIMARY KEY, open INTEGER NOT NULL, budget INTEGER NOT NULL, max_retained INTEGER NOT NULL,
  release TEXT NOT NULL, length_s REAL, elapsed_s REAL NOT NULL, price TEXT,
  certified INTEGER NOT NULL);
CREATE TABLE units (
  unit INTEGER PRIMARY KEY AUTOINCREMENT, round INTEGER NOT NULL REFERENCES rounds, state TEXT NOT NULL, levels BLOB,
  squared_novelty REAL, radius REAL, witness INTEGER, nearest INTEGER, evicted_by TEXT,
  release_order INTEGER, released_squared REAL, released_witness INTEGER);
CREATE TABLE frames (
  frame INTEGER PRIMARY KEY AUTOINCREMENT, unit INTEGER NOT NULL REFERENCES units, id TEXT NOT NULL, source TEXT NOT NULL,
  frame_index INTEGER NOT NULL, capture_time_ns INTEGER, stored_ns INTEGER NOT NULL, file TEXT, bytes INTEGER NOT NULL,
  sha256 TEXT NOT NULL, clusters BLOB, cluster_count INTEGER NOT NULL, patch_cluster BLOB);
CREATE INDEX frames_by_unit ON frames (unit);
CREATE INDEX units_by_state ON units (state, unit);
CREATE TABLE deaths (
  death INTEGER PRIMARY KEY, round INTEGER NOT NULL, level INTEGER NOT NULL, natural INTEGER NOT NULL,
  unit INTEGER NOT NULL, UNIQUE (round, level));
CREATE TABLE counters (name TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (
  name TEXT PRIMARY KEY, spec TEXT NOT NULL, kind TEXT NOT NULL, fingerprint TEXT NOT NULL, fps REAL,
  cursor INTEGER NOT NULL, finished INTEGER NOT NULL, first_seen INTEGER NOT NULL);
CREATE TABLE timeline (
  bucket INTEGER PRIMARY KEY, frames INTEGER NOT NULL, retained INTEGER NOT NULL, lost INTEGER NOT NULL,
  novelty REAL, radius REAL);
CREATE TABLE events (
  event INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, wall_ns INTEGER NOT NULL, version TEXT NOT NULL,
  detail TEXT NOT NULL);
"""


def require_spool_or_empty(path: Path) -> None:
    """Raise SpoolError where `path` is something else than a spool, an empty folder, or nothing yet."""
    if path.exists() and not path.is_dir():
        raise SpoolError(f"{path}: is a file. A spool is a folder: choose another --spool.")
    if path.is_dir() and not (path / DATABASE).exists():
        # SQLite's own files may outlive the name of a database that a power cut undid before anything was promised.
        ours = (LOCK, FRAMES, MEMORY, f"{DATABASE}-journal", f"{DATABASE}-wal", f"{DATABASE}-shm")
        strange = sorted(entry.name for entry in path.iterdir() if entry.name not in ours)
        if strange:
            raise SpoolError(
                f"{path}: is not a spool (no {DATABASE}) and not empty (it has {strange[0]!r}). "
                "Choose a new or an empty folder for --spool."
            )


def require_schema(path: Path, schema: str | None) -> None:
    """Raise SpoolError for a spool that another version wrote."""
    if schema != SCHEMA:
        raise SpoolError(
            f"{path}: its schema is {schema!r}, this version ({geal_edge.__version__}) reads {SCHEMA!r}. "
            "Use the version that wrote it; nothing was changed."
        )


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """The border to SQLite: its exceptions become ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(
            f"{path / DATABASE}: the database refused ({error}). Check free space, permissions and the device; "
            "what was committed before is safe."
        ) from error
    except sqlite3.DatabaseError as error:
        raise SpoolDamaged(
            f"{path / DATABASE}: is damaged ({error}). Nothing was changed; keep a copy of the folder, and use another --spool."
        ) from error


@contextmanager
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with database_errors(path.parent):
        db = sqlite3.connect(path, isolation_level=None, timeout=30.0)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")  # WAL's default, NORMAL, may lose the newest commits with the power
            db.execute("PRAGMA foreign_keys = ON")
            yield db
        finally:
            db.close()


def is_created(db: sqlite3.Connection) -> bool:
    """Whether the tables stand: they are made in one transaction, so all or none."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is not None


def memory_path(spool: Path, feature_space: str) -> Path:
    """Where a spool remembers what it has released and what is known: one file for each feature space that it has had, so that
    a vehicle that goes back to an older bundle finds its memory again."""
    return spool / MEMORY / feature_space


def read_base(spool: Path, feature_space: str) -> list[Rows]:
    """The rows of each remembered frame or region: what is covered before a round begins."""
    path = memory_path(spool, feature_space)
    return [entry.rows for entry in read_memory(path).entries] if path.exists() else []


def read_ladder(db: sqlite3.Connection, round_number: int, base: Sequence[Rows] = ()) -> Ladder:
    """The selector of a round, exactly as it was after the last decision that is on disk."""
    budget, max_retained = db.execute(
        "SELECT budget, max_retained FROM rounds WHERE round = ?", (round_number,)
    ).fetchone()
    deaths = db.execute("SELECT level, natural FROM deaths WHERE round = ? ORDER BY death", (round_number,))
    return Ladder(
        capacity=budget,
        next_unit=next_unit(db),
        retained=list(read_units(db, round_number, "retained")),
        released=list(read_units(db, round_number, "released")),
        base=base,
        deaths=[Death(level=level, natural=bool(natural)) for level, natural in deaths],
        max_retained=max_retained,
    )


def next_unit(db: sqlite3.Connection) -> int:
    """The number of the next unit: none is given twice, whatever was evicted."""
    (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'units'").fetchone()
    return int(last) + 1


def read_units(db: sqlite3.Connection, round_number: int, state: str) -> Iterator[RetainedUnit]:
    """The units of a round in a state: released ones in their order, others ascending."""
    frames = db.execute(
        "SELECT unit, levels, clusters, cluster_count FROM units JOIN frames USING (unit) "
        "WHERE state = ? AND round = ? ORDER BY release_order, unit, frame",
        (state, round_number),
    )
    for (unit, levels), of_unit in groupby(frames, key=itemgetter(0, 1)):
        rows = [np.frombuffer(clusters, "<f2").reshape(count, -1) for _, _, clusters, count in of_unit]
        held = tuple(int(level) for level in np.frombuffer(levels, "<u2"))
        yield RetainedUnit(unit=unit, rows=np.concatenate(rows).astype(np.float16), levels=held)


def read_timeline(db: sqlite3.Connection) -> Timeline:
    buckets = [
        Bucket(frames=frames, retained=retained, lost=lost, novelty=novelty, radius=radius)
        for frames, retained, lost, novelty, radius in db.execute(
            "SELECT frames, retained, lost, novelty, radius FROM timeline ORDER BY bucket"
        )
    ]
    return Timeline(buckets, width=max((bucket.frames for bucket in buckets), default=1))


def write_timeline(db: sqlite3.Connection, timeline: Timeline) -> None:
    """Store the buckets that changed since the last time."""
    db.executemany(
        "INSERT OR REPLACE INTO timeline VALUES (?, ?, ?, ?, ?, ?)",
        [
            (i, b.frames, b.retained, b.lost, b.novelty, b.radius)
            for i, b in enumerate(timeline.buckets)
            if i >= timeline.changed_from
        ],
    )
    db.execute("DELETE FROM timeline WHERE bucket >= ?", (len(timeline.buckets),))
    timeline.changed_from = len(timeline.buckets)
