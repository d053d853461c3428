"""A spool as the first version wrote it, built by code: its tables are written out here, whatever they are today."""

import sqlite3
from contextlib import closing
from pathlib import Path

TABLES_2 = """
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
  detail TEXT NOT NULL)
"""


def make_old(spool: Path) -> None:
    """Write the database of a closed spool anew, with the tables and columns of schema 2 and nothing beside them."""
    new = spool / "spool.db"
    now = new.rename(spool / "now.db")
    with closing(sqlite3.connect(new)) as database, database:
        for statement in TABLES_2.split(";"):
            database.execute(statement)
        database.execute("ATTACH ? AS now", (str(now),))
        tables = [name for (name,) in database.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = ", ".join(row[1] for row in database.execute(f"PRAGMA main.table_info({table})"))
            database.execute(f"DELETE FROM main.{table}")
            database.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM now.{table}")
        database.execute("UPDATE meta SET value = 'geal-edge/spool/2' WHERE key = 'schema'")
    now.unlink()
