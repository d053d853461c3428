"""Context: what a camera saw before and after a retained frame. Nobody judged these pictures; they go where their unit goes.

    camera thread -> Ring (live/ring.py) -> Context.begin and step, between units -> Spool.add_context -> extract

They stand beside the unit's own files, as frames/00000001.c00.jpg, c01, ..., with a row each: file first, then row. They count
as bytes of their unit against every cap, and leave with it. A unit that is evicted or released gets no more: what is
released is final, and so is its size. What the power cuts off is missing, and the unit is whole without it.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Protocol

from geal_edge.config import ContextConfig
from geal_edge.runtime.live.ring import Glimpse
from geal_edge.runtime.live.source import LiveSource
from geal_edge.runtime.spooldb import has_table
from geal_edge.runtime.units import JudgedUnit

PATIENCE_S = 5.0
"""Beyond `after_s`, for which pictures are waited for: they come with the delay of their camera."""

TABLE = """
CREATE TABLE IF NOT EXISTS context (
  unit INTEGER NOT NULL, number INTEGER NOT NULL, place INTEGER NOT NULL, file TEXT NOT NULL, capture_time_ns INTEGER NOT NULL,
  bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (unit, number)) WITHOUT ROWID
"""


class ContextStore(Protocol):
    """What a Spool is to this file."""

    def add_context(self, unit: int, place: int, glimpses: Sequence[Glimpse]) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The context of one frame: `place` in its unit, of a camera; until when more may come; what is stored by now."""

    unit: int
    place: int
    camera: str
    first_ns: int
    last_ns: int
    until_s: float
    own_ns: int
    stored: frozenset[int] = field(default_factory=frozenset)


class Context:
    """Gathers the context of what is retained; used by the pipeline alone."""

    def __init__(
        self,
        config: ContextConfig,
        source: LiveSource,
        store: ContextStore,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._source = source
        self._store = store
        self._monotonic = monotonic
        self._wanted: list[_Wanted] = []
        source.hold_context(config)

    def begin(self, unit: int, judged: JudgedUnit) -> None:
        """This unit was retained: store what came before it, and wait for what comes after. Raises StorageError."""
        until_s = self._monotonic() + self._config.after_s + PATIENCE_S
        for place, frame in enumerate(each.frame for each in judged.frames):
            if frame.topic is not None and frame.capture_time_ns is not None:
                self._wanted.append(
                    _Wanted(
                        unit,
                        place,
                        frame.topic,
                        frame.capture_time_ns - round(self._config.before_s * 1e9),
                        frame.capture_time_ns + round(self._config.after_s * 1e9),
                        until_s,
                        frame.capture_time_ns,
                    )
                )
        self.step()

    def step(self) -> None:
        """Store what has come since this was last asked. Raises StorageError."""
        left: list[_Wanted] = []
        for wanted in self._wanted:
            new = [
                glimpse
                for glimpse in self._source.glimpses(wanted.camera, wanted.first_ns, wanted.last_ns)
                if glimpse.capture_time_ns != wanted.own_ns and glimpse.capture_time_ns not in wanted.stored
            ]
            if new and not self._store.add_context(wanted.unit, wanted.place, new):
                continue  # evicted or released by now
            if self._monotonic() < wanted.until_s:
                stored = wanted.stored.union(glimpse.capture_time_ns for glimpse in new)
                left.append(replace(wanted, stored=stored))
        self._wanted = left


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFrame:
    """One picture beside a frame, as it stands in the spool; `file` is its name among the frames."""

    file: str
    capture_time_ns: int
    bytes: int
    sha256: str


def context_names(db: sqlite3.Connection, unit: int, glimpses: Sequence[Glimpse]) -> list[str]:
    """What the next pictures of a unit are called; none where it is neither retained nor there."""
    row = db.execute("SELECT 1 FROM units WHERE unit = ? AND state = 'retained'", (unit,)).fetchone()
    if row is None:
        return []
    (count,) = db.execute("SELECT count(*) FROM context WHERE unit = ?", (unit,)).fetchone()
    return [f"{unit:08d}.c{number:02d}.{glimpse.ending}" for number, glimpse in enumerate(glimpses, start=count)]


def store_context(db: sqlite3.Connection, unit: int, place: int, files: Sequence[tuple[str, Glimpse]]) -> None:
    """Within a transaction of the spool, when the files are safe."""
    (count,) = db.execute("SELECT count(*) FROM context WHERE unit = ?", (unit,)).fetchone()
    db.executemany(
        "INSERT INTO context VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (unit, number, place, file, glimpse.capture_time_ns, len(glimpse.data), sha256(glimpse.data).hexdigest())
            for number, (file, glimpse) in enumerate(files, start=count)
        ],
    )


def forget_context(db: sqlite3.Connection, unit: int) -> list[str]:
    """The unit is evicted or erased: its rows go now, within a transaction of the spool, and their files, which are given, once
    that is safe. A file that a power cut leaves is one of ours without a row, and goes at the next start."""
    files = [file for (file,) in db.execute("SELECT file FROM context WHERE unit = ?", (unit,))]
    db.execute("DELETE FROM context WHERE unit = ?", (unit,))
    return files


def context_files(db: sqlite3.Connection) -> set[str]:
    """Those of all units."""
    if not has_table(db, "context"):
        return set()  # filled by an earlier version
    return {file for (file,) in db.execute("SELECT file FROM context")}


def stored_context(db: sqlite3.Connection) -> dict[tuple[int, int], tuple[ContextFrame, ...]]:
    """(unit, place in it) -> the context of that frame, in order of capture time."""
    if not has_table(db, "context"):
        return {}  # filled by an earlier version
    found: dict[tuple[int, int], tuple[ContextFrame, ...]] = {}
    for unit, place, file, time_ns, size, digest in db.execute(
        "SELECT unit, place, file, capture_time_ns, bytes, sha256 FROM context ORDER BY unit, capture_time_ns"
    ):
        frame = ContextFrame(file=file, capture_time_ns=time_ns, bytes=size, sha256=digest)
        found[unit, place] = (*found.get((unit, place), ()), frame)
    return found
