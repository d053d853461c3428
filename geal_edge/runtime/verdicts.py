"""What became of frames that were not retained: the newest of them, so that `geal-edge why` and `list --state` can answer for
them too.

A table of the spool's database, written together with its counters: what was not flushed when the power went is not there, as it
is not counted. Retained, released and evicted frames have rows of their own, for ever.

The newest, and not a uniform sample of all days: who asks why a frame was not taken asks of a drive that they have just seen, and
a sample would not know most of its frames. How new all the others were is counted, of every one (refusals.py).
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import astuple, dataclass, fields

from geal_edge.runtime.spooldb import has_table

MAX_VERDICTS = 100_000
"""A day of one camera at one frame a second, in about 10 MB."""

TABLE = """
CREATE TABLE IF NOT EXISTS verdicts (
  verdict INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, state TEXT NOT NULL, capture_time_ns INTEGER, reason TEXT,
  detail TEXT, novelty REAL, radius REAL, nearest INTEGER)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One frame that was seen and not retained.

    state    `not_new`, `lost` or `gated`
    reason   of a lost or gated frame, with `detail`, a sentence
    novelty  of its unit, chord, against what was retained when it was seen; None where nothing was, and for lost and gated ones
    radius   in force then (chord); None where there was none
    nearest  number of the unit that held the cluster nearest to the one that decided; None where that was remembered or known
    """

    id: str
    state: str
    capture_time_ns: int | None
    reason: str | None = None
    detail: str | None = None
    novelty: float | None = None
    radius: float | None = None
    nearest: int | None = None


def write_verdicts(db: sqlite3.Connection, verdicts: Sequence[Verdict]) -> None:
    """Within a transaction of the spool."""
    if verdicts:
        db.executemany(
            "INSERT INTO verdicts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", [astuple(verdict) for verdict in verdicts]
        )
        db.execute("DELETE FROM verdicts WHERE verdict <= (SELECT max(verdict) FROM verdicts) - ?", (MAX_VERDICTS,))


def ids_gated(db: sqlite3.Connection, reasons: Collection[str]) -> set[str]:
    """Frames that were gated for one of these reasons."""
    rows = db.execute("SELECT id, reason FROM verdicts WHERE state = 'gated'")
    return {id_ for id_, reason in rows if reason in reasons}


def read_verdict(db: sqlite3.Connection, id_: str) -> Verdict | None:
    """The newest of a frame; None where there is none, or no longer."""
    return next(_read(db, "id = ?", (id_,), 1), None)


def read_verdicts(db: sqlite3.Connection, state: str, at_most: int) -> Iterator[Verdict]:
    """The newest of a state, newest first."""
    return _read(db, "state = ?", (state,), at_most)


def _read(db: sqlite3.Connection, where: str, values: tuple[str], at_most: int) -> Iterator[Verdict]:
    if not has_table(db, "verdicts"):
        return  # filled by an earlier version
    names = [field.name for field in fields(Verdict)]
    for row in db.execute(
        f"SELECT {', '.join(names)} FROM verdicts WHERE {where} ORDER BY verdict DESC LIMIT ?",  # noqa: S608 - our names
        (*values, at_most),
    ):
        yield Verdict(**dict(zip(names, row, strict=True)))
