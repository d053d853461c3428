"""What was read from a far side before: sidecars, heartbeats and thumbnails, so that the second look reads what is new.

A database of its own for each URL in the state folder (state.py), which only its owner may read, since what vehicles say of
their frames may tell where they were. It may be deleted at any time. What is gone from the far side goes from here too.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from geal_edge.runtime.state import State
from geal_edge.runtime.upload.store import Listed

_TABLE = (
    "CREATE TABLE IF NOT EXISTS got (key TEXT PRIMARY KEY, version TEXT NOT NULL, data BLOB NOT NULL) WITHOUT ROWID"
)
BUSY_S = 1.0
"""So long another process that looks at the same far side is waited for."""


def version_of(listed: Listed) -> str:
    """What changes where an object does."""
    return f"{listed.etag or ''} {listed.bytes} {listed.modified.timestamp()}"


class Cache:
    """key -> bytes, as of one version of each. Get one with `open_cache`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.execute(_TABLE)

    def get(self, key: str, version: str) -> bytes | None:
        """None also where another process keeps the file to itself: then it is read from the far side."""
        row = None
        with suppress(sqlite3.OperationalError):
            row = self._db.execute("SELECT data FROM got WHERE key = ? AND version = ?", (key, version)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, found: Iterable[tuple[str, str, bytes]]) -> None:
        """(key, version, bytes) of each. What cannot be stored, for a full disk or another process, is read again next time."""
        with suppress(sqlite3.OperationalError), self._db:
            self._db.executemany("INSERT OR REPLACE INTO got VALUES (?, ?, ?)", found)

    def forget_all_but(self, prefix: str, keys: Iterable[str]) -> None:
        """What is under a prefix and not among `keys`; thumbnails (`KEY#WIDTH`) go with their frames."""
        there = set(keys)
        begin = f"{prefix}/" if prefix else ""
        with suppress(sqlite3.OperationalError), self._db:
            gone = [
                (key,)
                for (key,) in self._db.execute("SELECT key FROM got")
                if key.startswith(begin) and key.partition("#")[0] not in there
            ]
            self._db.executemany("DELETE FROM got WHERE key = ?", gone)


@contextmanager
def open_cache(state: State, url: str) -> Iterator[Cache]:
    """That of a far side. Where the state folder cannot be written, or the file is damaged, it lasts as long as the block."""
    path = state.folder / "farside" / f"{sha256(url.encode()).hexdigest()[:32]}.db"
    with closing(_opened(path)) as db:
        yield Cache(db)


def _opened(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        db = sqlite3.connect(path, timeout=BUSY_S)
        try:
            db.execute("PRAGMA synchronous = OFF")
            db.execute(_TABLE)
            db.execute("SELECT count(*) FROM got").fetchone()
        except sqlite3.Error:
            db.close()
            raise
        return db
    except (OSError, sqlite3.Error):
        return sqlite3.connect(":memory:")
