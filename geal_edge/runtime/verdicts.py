"""What became of frames that were not retained: the newest of them, so that `geal-edge why` can answer for them too.

A table of the spool's database, written together with its counters: what was not flushed when the power went is not there, as it
is not counted. Retained, released and evicted frames have rows of their own, for ever.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

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


def read_verdict(db: sqlite3.Connection, id_: str) -> Verdict | None:
    """The newest of a frame; None where there is none, or no longer."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'verdicts'").fetchone() is None:
        return None  # filled by an earlier version
    row = db.execute(
        "SELECT id, state, capture_time_ns, reason, detail, novelty, radius, nearest FROM verdicts WHERE id = ? "
        "ORDER BY verdict DESC LIMIT 1",
        (id_,),
    ).fetchone()
    return None if row is None else Verdict(**dict(zip((field.name for field in fields(Verdict)), row, strict=True)))
