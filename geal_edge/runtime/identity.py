"""Who decided: the vehicle, its boot, the bundle and the configuration behind each frame and each event of a spool.

Noted once where any of them changes, with the first unit and the first event that come after it: so a frame that is sent weeks
later still tells what it was chosen with, and an event costs no more than before.
"""

import socket
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from geal_edge.runtime.spooldb import has_table, next_unit
from geal_edge.runtime.trips import key_part, trip_name, trip_of

TABLE = (
    "CREATE TABLE IF NOT EXISTS identities (identity INTEGER PRIMARY KEY, first_unit INTEGER NOT NULL, "
    "first_event INTEGER NOT NULL, vehicle TEXT NOT NULL, boot_id TEXT NOT NULL, bundle TEXT NOT NULL, config TEXT)"
)
FACTS = ("vehicle", "trip", "boot_id", "bundle", "config")
"""What is told of everything, under these names. None where nobody noted it; `trip` where frames came from files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who runs.

    vehicle  its name, as a part of a key
    boot_id  of the running system (vehicletime.py)
    config   digest of the configuration (settings/reference.py); None: a run without one
    """

    vehicle: str
    boot_id: str
    config: str | None = None


def machine_name() -> str:
    """Of this machine, as a part of a key."""
    return key_part(socket.gethostname())


def note_identity(db: sqlite3.Connection, identity: Identity, bundle: str) -> None:
    """All that is retained and all that happens from now on bears it. Within a transaction of the spool."""
    db.execute(TABLE)
    now = (identity.vehicle, identity.boot_id, bundle, identity.config)
    last = db.execute(
        "SELECT vehicle, boot_id, bundle, config FROM identities ORDER BY identity DESC LIMIT 1"
    ).fetchone()
    if last != now:
        (event,) = db.execute("SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'events'").fetchone()
        db.execute("INSERT INTO identities VALUES (NULL, ?, ?, ?, ?, ?, ?)", (next_unit(db), event, *now))


def identity_now(db: sqlite3.Connection) -> dict[str, Any]:
    """`vehicle`, `trip`, `boot_id` and `config` of what would be retained now."""
    source, unit = _live_source(db), next_unit(db)
    trip = None if source is None else trip_of(db, unit, source)
    return {**identity_of_unit(db, unit), "trip": trip}


def identity_of_unit(db: sqlite3.Connection, unit: int) -> dict[str, Any]:
    """`vehicle`, `boot_id` and `config` of when a unit was retained."""
    row = None
    if has_table(db, "identities"):
        row = db.execute(
            "SELECT vehicle, boot_id, config FROM identities WHERE first_unit <= ? ORDER BY identity DESC LIMIT 1",
            (unit,),
        ).fetchone()
    return dict(zip(("vehicle", "boot_id", "config"), row or (None, None, None), strict=True))


def identities_of_events(db: sqlite3.Connection) -> Callable[[int], dict[str, Any]]:
    """number of an event -> FACTS as they were when it happened. A trip ends with an event, so that tells which one it was."""
    noted = []
    if has_table(db, "identities"):
        noted = db.execute("SELECT * FROM identities ORDER BY identity").fetchall()
    ends = [number for (number,) in db.execute("SELECT event FROM events WHERE name = 'trip_ended' ORDER BY event")]
    source = _live_source(db)
    trips = 1
    if has_table(db, "trips"):
        (trips,) = db.execute("SELECT coalesce(max(trip), 1) FROM trips").fetchone()
    (bundle,) = db.execute("SELECT value FROM meta WHERE key = 'bundle'").fetchone()

    def at(event: int) -> dict[str, Any]:
        since = bisect_right(noted, event, key=itemgetter(2))
        *_, vehicle, boot_id, of_then, config = noted[since - 1] if since else (None, None, bundle, None)
        trip = trips - (len(ends) - bisect_left(ends, event))
        return {
            "vehicle": vehicle,
            "trip": None if source is None else trip_name(source, trip),
            "boot_id": boot_id,
            "bundle": of_then,
            "config": config,
        }

    return at


def _live_source(db: sqlite3.Connection) -> str | None:
    """The name of the one that a vehicle has; None for a spool of recorded sources."""
    row = db.execute("SELECT name FROM sources WHERE kind = 'live' ORDER BY rowid DESC LIMIT 1").fetchone()
    return None if row is None else str(row[0])
