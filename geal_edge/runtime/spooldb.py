"""The spool's database: its tables, how it is opened, and what its writer and its readers read alike. See spool.py."""

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

import geal_edge
from geal_edge.errors import DiskFull, SpoolDamaged, SpoolError, StorageError, UsageError
from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.durable import TEMPORARY_SUFFIX
from geal_edge.runtime.ladder import Death, Ladder, RetainedUnit
from geal_edge.runtime.memoryfile import read_memory
from geal_edge.runtime.release import fill_of
from geal_edge.runtime.timeline import Bucket, Timeline

SCHEMA = "geal-edge/spool/2"
DATABASE = "spool.db"
FRAMES = "frames"
LOCK = "lock"
UPLOAD_LOCK = "upload.lock"
MEMORY = "memory"
SET_ASIDE = "set-aside"
ROUND_END, MIGRATION, REPAIR = "round_end", "feature_space_changed", "repair"
"""What evicted a unit, where it was no frame that came."""
NO_ROWS = np.empty((0, 0), np.float16)
UNREADABLE_TEXT = "Could not decode to UTF-8"
"""How Python says that a disk has changed a text."""
SQLITE_FULL = "database or disk is full"
"""How SQLite says so; Python 3.10 has no code for it."""
OWN_FILE = re.compile(r"\d{8,}(-\d+|\.[cp]\d{2,})?\.(jpg|jpeg|png|webp)(\.tmp)?")
BESIDE_FILE = re.compile(r"\d{8,}\.[cp]\d{2,}\..*")
"""What lies beside a unit's own frames: context (context.py), outputs of a privacy hook (privacy/leaving.py)."""
OUTPUT_FILE = re.compile(r"\d{8,}\.p\d{2,}\..*")
"""The latter, which the uploader alone writes: those that no row names are for it to remove."""


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
        ours = (
            LOCK,
            UPLOAD_LOCK,
            FRAMES,
            MEMORY,
            SET_ASIDE,
            f"{DATABASE}-journal",
            f"{DATABASE}-wal",
            f"{DATABASE}-shm",
        )
        strange = sorted(entry.name for entry in path.iterdir() if entry.name not in ours)
        if strange:
            raise SpoolError(
                f"{path}: is not a spool (no {DATABASE}) and not empty (it has {strange[0]!r}). "
                "Choose a new or an empty folder for --spool."
            )


def require_no_frames(path: Path) -> None:
    """No frame is ever written before the tables stand: frames without them are a spool that lost its database."""
    folder = path / FRAMES
    frames = [entry.name for entry in folder.iterdir() if OWN_FILE.fullmatch(entry.name)] if folder.is_dir() else []
    if frames:
        raise SpoolDamaged(
            f"{path}: has {len(frames)} stored frames (such as {sorted(frames)[0]}), but its {DATABASE} is lost. "
            f"Nothing was touched: `geal-edge repair {path}` sets them aside, and the spool can be begun anew; or take another."
        )


def require_schema(path: Path, schema: str | None) -> None:
    """Raise SpoolError for a spool that another version wrote, SpoolDamaged for one that does not say which."""
    if schema is None:
        raise SpoolDamaged(
            f"{path / DATABASE}: has lost its schema. Nothing was changed; `geal-edge repair {path}` mends what can be."
        )
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
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter of its own damaged schema
        if isinstance(error, sqlite3.OperationalError) and UNREADABLE_TEXT not in str(error):
            refused = DiskFull if str(error) == SQLITE_FULL else StorageError
            raise refused(
                f"{path / DATABASE}: the database refused ({error}). Check free space, permissions and the device; "
                "what was committed before is safe."
            ) from error
        raise SpoolDamaged(
            f"{path / DATABASE}: is damaged ({error}). Nothing was changed; `geal-edge repair {path}` mends what can be mended."
        ) from error


_NOT_OURS = (ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What making sense of rows may end in that no version of ours has written."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """The same, where rows are made sense of that a disk may have changed."""
    with database_errors(path):
        try:
            yield
        except _NOT_OURS as error:
            raise SpoolDamaged(
                f"{path / DATABASE}: holds rows that cannot be read ({error!r}). Nothing was changed; keep a copy of the "
                f"folder, and `geal-edge repair {path}` mends what can be mended."
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


@contextmanager
def changing(spool: Path) -> Iterator[sqlite3.Connection]:
    """One transaction on a spool that is there, beside its writer. Raises SpoolError for none, and for another version's."""
    if not (spool / DATABASE).is_file():
        raise SpoolError(
            f"{spool}: no spool here (no {DATABASE}). `geal-edge run SOURCE --bundle B --spool {spool}` makes one."
        )
    with connection(spool / DATABASE) as db:
        if not is_created(db):
            raise SpoolError(f"{spool}: this spool was never filled. Start `geal-edge run` on it.")
        with transaction(db, spool):
            require_schema(spool, db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()[0])
            yield db


@contextmanager
def transaction(db: sqlite3.Connection, spool: Path) -> Iterator[None]:
    """All or nothing; what the disk or SQLite refuses becomes one of our errors."""
    with database_errors(spool):
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def is_created(db: sqlite3.Connection) -> bool:
    """Whether the tables stand: they are made in one transaction, so all or none."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is not None


def has_table(db: sqlite3.Connection, name: str) -> bool:
    """Whether a table stands that is made when it is first needed."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone() is not None


def tables_with(db: sqlite3.Connection, *columns: str) -> list[str]:
    """Tables beside `units`, `frames` and `deaths` that have all of these columns: what else is said of a unit or a frame."""
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return [
        table
        for table in tables
        if table not in ("units", "frames", "deaths", "erased")
        and {*columns} <= {name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))}
    ]


def memory_path(spool: Path, feature_space: str) -> Path:
    """Where a spool remembers what it has released and what is known: one file for each feature space that it has had, so that
    a vehicle that goes back to an older bundle finds its memory again."""
    return spool / MEMORY / feature_space


def memory_files(spool: Path) -> list[Path]:
    """The memories of all feature spaces that a spool has had."""
    folder = spool / MEMORY
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.suffix != TEMPORARY_SUFFIX and path.is_file()]


def read_base(spool: Path, feature_space: str) -> list[Rows]:
    """The rows of each remembered frame or region: what is covered before a round begins."""
    path = memory_path(spool, feature_space)
    if not path.exists():
        return []
    try:
        return [entry.rows for entry in read_memory(path).entries]
    except UsageError as error:  # of a file that somebody names it would be a mistake
        raise SpoolDamaged(f"{error} It was the memory of {spool}: nothing was changed.") from error


def read_ladder(db: sqlite3.Connection, round_number: int, base: Sequence[Rows] = ()) -> Ladder:
    """The selector of a round, exactly as it was after the last decision that is on disk."""
    budget, max_retained, release = db.execute(
        "SELECT budget, max_retained, release FROM rounds WHERE round = ?", (round_number,)
    ).fetchone()
    retained = list(read_units(db, round_number, "retained"))
    released = list(read_units(db, round_number, "released"))
    # What expired before it was released is on no disk any more, and covered all the same.
    base = [*base, *(unit.rows for unit in read_units(db, round_number, "expired") if len(unit.rows))]
    widths = {rows.shape[1] for rows in (*(unit.rows for unit in (*retained, *released) if len(unit.rows)), *base)}
    if len(widths) > 1 or 0 in widths:
        raise ValueError(f"clusters of {sorted(widths)} numbers, in one feature space")
    deaths = db.execute("SELECT level, natural FROM deaths WHERE round = ? ORDER BY death", (round_number,))
    return Ladder(
        capacity=budget,
        next_unit=next_unit(db),
        retained=retained,
        released=released,
        base=base,
        deaths=[Death(level=level, natural=bool(natural)) for level, natural in deaths],
        max_retained=max_retained,
        fill=fill_of(release, budget),
    )


def first_place(db: sqlite3.Connection, round_number: int) -> int:
    """Where the order of sending of a round begins: behind all that was released in earlier ones, whatever became of it since.
    The unit's place is this and its `release_order` - 1; it never changes, so a sidecar and `list` say the same."""
    (before,) = db.execute(
        "SELECT coalesce(sum(last), 0) FROM "
        "(SELECT max(release_order) AS last FROM units WHERE release_order > 0 AND round < ? GROUP BY round)",
        (round_number,),
    ).fetchone()
    return int(before) + 1


def tags_of(meta: dict[str, str], unit: int) -> list[str]:
    """Those of the run that retained a unit. meta: that of the spool."""
    since: list[tuple[int, list[str]]] = json.loads(meta.get("tags", "[]"))
    return next((tags for first, tags in reversed(since) if first <= unit), [])


def next_unit(db: sqlite3.Connection) -> int:
    """The number of the next unit: none is given twice, whatever was evicted."""
    (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'units'").fetchone()
    return int(last) + 1


def read_units(db: sqlite3.Connection, round_number: int, kind: str) -> Iterator[RetainedUnit]:
    """The units of a round: `retained`, `expired` (before they were released), or `released`, whatever became of these since, in
    their order; others ascending. What was seen in another feature space and is no longer there has no rows."""
    frames = db.execute(
        "SELECT unit, levels, clusters, cluster_count FROM units JOIN frames USING (unit) WHERE round = ? AND "
        "CASE WHEN state IN ('released', 'sent', 'expired') AND release_order > 0 THEN 'released' ELSE state END = ? "
        "ORDER BY release_order, unit, frame",
        (round_number, kind),
    )
    for (unit, levels), of_unit in groupby(frames, key=itemgetter(0, 1)):
        found = [np.frombuffer(rows, "<f2").reshape(count, -1) for _, _, rows, count in of_unit if rows is not None]
        if not found and kind == "retained":
            raise ValueError(f"unit {unit} is retained without clusters")
        held = tuple(int(level) for level in np.frombuffer(levels, "<u2"))
        yield RetainedUnit(unit=unit, rows=np.concatenate(found).astype(np.float16) if found else NO_ROWS, levels=held)


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
