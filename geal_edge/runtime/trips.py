"""Trips: which drive of the vehicle a unit belongs to, for the keys under which it is sent.

A recorded source is a trip, and so is what a live one sees until `Rounds.end_trip`. A table of the spool's database has the unit
that each trip but the first begins with.
"""

import re
import sqlite3
from hashlib import sha256

from geal_edge.runtime.spooldb import next_unit

STATUS = "status"
"""Where heartbeats lie, beside the trips of a vehicle."""
TABLE = "CREATE TABLE IF NOT EXISTS trips (trip INTEGER PRIMARY KEY, first_unit INTEGER NOT NULL)"


def begin_trip(db: sqlite3.Connection) -> None:
    """What is retained from now on is of the next trip. Within a transaction of the spool."""
    db.execute("INSERT INTO trips VALUES ((SELECT coalesce(max(trip), 1) FROM trips) + 1, ?)", (next_unit(db),))


def trip_of(db: sqlite3.Connection, unit: int, source: str) -> str:
    """The name of a unit's trip, the same for ever: that of a recorded source, or a live one's with its running number."""
    (kind,) = db.execute("SELECT kind FROM sources WHERE name = ?", (source,)).fetchone()
    if kind != "live":
        return key_part(source if source != STATUS else f"{source}/")
    (trip,) = db.execute("SELECT coalesce(max(trip), 1) FROM trips WHERE first_unit <= ?", (unit,)).fetchone()
    return trip_name(source, trip)


def trip_name(source: str, trip: int) -> str:
    """Of a live source's trip with this running number."""
    return f"{key_part(source)}-{trip:04d}"


def key_part(name: str) -> str:
    """A name as one part of a key: ASCII letters, digits and `._-`; where others are replaced, it stays a name of its own.

    >>> key_part("drive.mp4"), key_part("Fahrt 1/links")
    ('drive.mp4', 'Fahrt_1_links-23b46767')
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "_"
    return plain if plain == name else f"{plain}-{sha256(name.encode()).hexdigest()[:8]}"
