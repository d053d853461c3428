"""Reading what an uploader has to do, and how it stands: released units in the order of sending, what was set aside, the link.

outbox.py writes these tables. A spool that no uploader has opened has none of them: then all that is released waits.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geal_edge.runtime.privacy.leaving import Output, stored_outputs
from geal_edge.runtime.spooldb import FRAMES, first_place, has_table
from geal_edge.runtime.trips import trip_of
from geal_edge.runtime.vehicletime import EARLIEST_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingFrame:
    """A frame of a released unit.

    frame   its number in the database
    file    the bytes that are sent, in the spool: its own, or what a privacy hook made of it (privacy/leaving.py)
    sha256  of these bytes, hex
    earlier how many outputs of a hook with the same bytes come before it; None: it is sent as it is stored
    """

    frame: int
    id: str
    file: Path
    bytes: int
    sha256: str
    earlier: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFile:
    """A picture before or after a frame that nobody judged. place: of that frame in its unit, from 0."""

    place: int
    file: Path
    capture_time_ns: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A released unit that is not sent.

    place  in the order of sending, over all rounds, from 1
    trip   name of the trip that it belongs to (trips.py), the same for ever
    context  files of pictures before and after it, with their digests; they go with it
    """

    unit: int
    round: int
    place: int
    trip: str
    frames: tuple[OutgoingFrame, ...]
    context: tuple[ContextFile, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(frame.bytes for frame in self.frames) + sum(item.bytes for item in self.context)


def _context_of(db: sqlite3.Connection, spool: Path, unit: int, outputs: Mapping[str, Output]) -> Iterator[ContextFile]:
    if has_table(db, "context"):
        for place, file, time_ns, size, digest in db.execute(
            "SELECT place, file, capture_time_ns, bytes, sha256 FROM context WHERE unit = ? ORDER BY number", (unit,)
        ):
            sent = outputs.get(file) or Output(file=file, bytes=size, sha256=digest, earlier=0)
            yield ContextFile(
                place=place,
                file=spool / FRAMES / sent.file,
                capture_time_ns=time_ns,
                bytes=sent.bytes,
                sha256=sent.sha256,
            )


def read_queue(
    db: sqlite3.Connection, spool: Path, *, forced: str | None = None, again: Collection[int] = ()
) -> Iterator[Outgoing]:
    """Released units that are not sent, in their order, without those that are set aside, but for those that are to be tried
    `again`; with `forced` the unit of that frame alone, also where it is set aside. Each is read when it is asked for: after
    weeks without a link there are many."""
    if forced is None:
        aside = _set_aside(db).difference(again)
        units = [row for row in db.execute(_RELEASED) if row[0] not in aside]
    else:
        units = db.execute(_RELEASED_OF_FRAME, (forced,)).fetchall()
    for unit, round_, in_round in units:
        outgoing = _outgoing(db, spool, unit, round_, in_round)
        if outgoing is not None:
            yield outgoing


def read_released(db: sqlite3.Connection, spool: Path, unit: int) -> Outgoing | None:
    """A released unit as it stands now; None where it is not to be sent any more."""
    row = db.execute(
        "SELECT unit, round, release_order FROM units WHERE state = 'released' AND unit = ?", (unit,)
    ).fetchone()
    return None if row is None else _outgoing(db, spool, *row)


def _outgoing(db: sqlite3.Connection, spool: Path, unit: int, round_: int, in_round: int) -> Outgoing | None:
    """None for one of a shadow, which has no files."""
    rows = db.execute(
        "SELECT frame, id, source, file, bytes, sha256 FROM frames WHERE unit = ? AND file IS NOT NULL ORDER BY frame",
        (unit,),
    ).fetchall()
    if not rows:
        return None
    outputs = stored_outputs(db, unit)
    frames = []
    for frame, id_, _, file, size, digest in rows:
        output = outputs.get(file)
        sent = output or Output(file=file, bytes=size, sha256=digest, earlier=0)
        frames.append(
            OutgoingFrame(
                frame=frame,
                id=id_,
                file=spool / FRAMES / sent.file,
                bytes=sent.bytes,
                sha256=sent.sha256,
                earlier=None if output is None else output.earlier,
            )
        )
    return Outgoing(
        unit=unit,
        round=round_,
        place=first_place(db, round_) + in_round - 1,
        trip=trip_of(db, unit, rows[0][2]),
        frames=tuple(frames),
        context=tuple(_context_of(db, spool, unit, outputs)),
    )


def ended_round(db: sqlite3.Connection) -> tuple[int, Any, float | None] | None:
    """(budget, release rule, length) of the open round of recorded sources that were read to their end, which an upload ends
    (outbox.release_recorded); None where `run` releases by itself, or has more to read, or nothing is left."""
    meta = dict(db.execute("SELECT key, value FROM meta"))
    last: tuple[int, Any, float | None] | None = db.execute(
        "SELECT budget, release, length_s FROM rounds WHERE open"
    ).fetchone()
    (unfinished,) = db.execute("SELECT count(*) FROM sources WHERE NOT finished OR kind = 'live'").fetchone()
    (retained,) = db.execute("SELECT count(*) FROM units WHERE state = 'retained'").fetchone()
    if last is None or unfinished or not retained or "caps" in meta or "shadow" in meta or last[2] is not None:
        return None
    return last


_RELEASED = "SELECT unit, round, release_order FROM units WHERE state = 'released' ORDER BY round, release_order"
_RELEASED_OF_FRAME = (
    "SELECT unit, round, release_order FROM units WHERE state = 'released' "
    "AND unit IN (SELECT unit FROM frames WHERE id = ?)"
)


def _set_aside(db: sqlite3.Connection) -> set[int]:
    """Those that still wait for a person: one that was too old meanwhile, or damaged, does not."""
    if not has_table(db, "set_aside"):
        return set()
    return {
        unit for (unit,) in db.execute("SELECT unit FROM set_aside JOIN units USING (unit) WHERE state = 'released'")
    }


def upload_state(db: sqlite3.Connection) -> dict[str, Any]:
    """How the outbox stands, for `status`: units and bytes that wait, since when, what is set aside, what was acknowledged by
    which check, and what the uploader did last. Context is not counted."""
    aside = _set_aside(db)
    waiting = db.execute(
        "SELECT unit, sum(bytes), min(stored_ns) FROM units JOIN frames USING (unit) "
        "WHERE state = 'released' AND file IS NOT NULL GROUP BY unit"
    ).fetchall()
    known = has_table(db, "link")
    link = db.execute("SELECT state FROM link").fetchone() if known else None
    return {
        "waiting": sum(unit not in aside for unit, _, _ in waiting),
        "waiting_bytes": sum(size for unit, size, _ in waiting if unit not in aside),
        "oldest_stored_ns": min((since for _, _, since in waiting if since >= EARLIEST_NS), default=None),
        "set_aside": len(aside),
        "verified": dict(db.execute("SELECT verified, count(*) FROM acknowledged GROUP BY verified")) if known else {},
        "link": None if link is None else json.loads(link[0]),
    }


def upload_facts(db: sqlite3.Connection, unit: int) -> dict[str, Any]:
    """Why a released unit has not been sent, or how it was: `place` in the queue of what waits (None: it does not wait),
    `set_aside` (reason, detail), `key` and `verified` of its first frame, and `link`."""
    aside_units = _set_aside(db)
    waiting = [waits for waits, _, _ in db.execute(_RELEASED) if waits not in aside_units]
    place = waiting.index(unit) + 1 if unit in waiting else None
    facts: dict[str, Any] = {"place": place, "set_aside": None, "key": None, "verified": None, "link": None}
    if not has_table(db, "link"):
        return facts
    aside = db.execute("SELECT reason, detail FROM set_aside WHERE unit = ?", (unit,)).fetchone()
    sent = db.execute(
        "SELECT key, verified FROM acknowledged JOIN frames USING (frame) WHERE unit = ? ORDER BY frame", (unit,)
    ).fetchone()
    link = db.execute("SELECT state FROM link").fetchone()
    if aside is not None:
        facts["set_aside"] = {"reason": aside[0], "detail": aside[1]}
    if sent is not None:
        facts["key"], facts["verified"] = sent
    facts["link"] = None if link is None else json.loads(link[0])
    return facts
