"""What can still be read of a damaged database, put into a new one.

SQLite stops at the first page that it cannot believe. So each table is read from its beginning to there, from its end back to
there, and between the two row by row: what is lost is the rows of the pages that are damaged, and no others.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from geal_edge.runtime.spooldb import TABLES

MOST_ROWS, FEW_ROWS = 200_000, 2_000
"""Numbers of rows that are tried one by one; and how many where nobody knows the last one."""


def salvaged(damaged: Path, new: Path) -> dict[str, int]:
    """Fill the database `new`, which is not there yet, with all rows of `damaged` that can be read; gives table -> rows.

    Where the file's first page is no database's any more, it gets the head of a new one: the pages behind it may be whole.
    """
    with closing(sqlite3.connect(new, isolation_level=None)) as target:
        for statement in TABLES.split(";")[:-1]:
            target.execute(statement)
        (page_bytes,) = target.execute("PRAGMA page_size").fetchone()
    with closing(sqlite3.connect(damaged, isolation_level=None)) as source:
        try:
            tables = _tables(source)
        except sqlite3.DatabaseError:
            tables = {}
    if not tables:
        _give_head(damaged, new.read_bytes()[:100], page_bytes)
    counts: dict[str, int] = {}
    with (
        closing(sqlite3.connect(damaged, isolation_level=None)) as source,
        closing(sqlite3.connect(new)) as target,
        target,
    ):
        # A text that is no UTF-8 any more makes its row unreadable, and no other.
        with suppress(sqlite3.DatabaseError):
            tables = _tables(source)
        ours = _tables(target)
        for name, statement in tables.items():
            if name not in ours:
                with suppress(sqlite3.DatabaseError):  # a definition that is damaged itself
                    target.execute(statement)
        for name in _tables(target):
            width = len(target.execute(f"SELECT * FROM {name} LIMIT 0").description)  # noqa: S608 - named by SQLite itself
            places = ",".join("?" * width)
            for row in _rows(source, name) if name in tables else ():
                with suppress(sqlite3.DatabaseError):
                    target.execute(f"INSERT OR IGNORE INTO {name} VALUES ({places})", row)  # noqa: S608 - as above
            (counts[name],) = target.execute(f"SELECT count(*) FROM {name}").fetchone()  # noqa: S608 - as above
    return counts


def _tables(db: sqlite3.Connection) -> dict[str, str]:
    """name -> its definition; SQLite's own are left out."""
    return dict(db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"))


def _rows(db: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """Every row that can be read, in no order; some may come twice."""
    try:
        key = _key(db, table)
    except sqlite3.DatabaseError:
        return
    ends: list[int | None] = []  # the last row that could be read from the beginning, and the last one from the end
    for direction in ("", "DESC"):
        last = None
        try:
            for number, *row in db.execute(f"SELECT {key}, * FROM {table} ORDER BY {key} {direction}"):  # noqa: S608
                last = number if key == "rowid" else None
                yield tuple(row)
        except sqlite3.DatabaseError:
            ends.append(last)
        else:
            return
    low = ends[0] or 0
    high = low + FEW_ROWS if ends[1] is None else min(ends[1], low + MOST_ROWS)
    for number in range(low + 1, high if key == "rowid" else 0):
        with suppress(sqlite3.DatabaseError):
            yield from db.execute(f"SELECT * FROM {table} WHERE rowid = ?", (number,))  # noqa: S608


def _key(db: sqlite3.Connection, table: str) -> str:
    """What a table is sorted by on disk: its rowid, or its primary key."""
    keys = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (table,))]
    (statement,) = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return keys[0] if "WITHOUT ROWID" in statement.upper() else "rowid"


def _give_head(damaged: Path, head: bytes, page_bytes: int) -> None:
    """Put the head of a new database, which says nothing of free pages, before what is there."""
    data = bytearray(damaged.read_bytes())
    data[:100] = head
    data[18:20] = b"\x02\x02"  # with a log beside it
    data[28:32] = (len(data) // page_bytes).to_bytes(4, "big")  # pages
    data[32:40] = bytes(8)  # no free ones
    data[92:96] = data[24:28]  # ... and believe this number of pages
    damaged.write_bytes(data)
