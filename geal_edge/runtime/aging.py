"""How old what is on disk is, by a clock that a wrong wall clock cannot fool (docs/spool.md, "How old it may be").

The clock counts the vehicle's time (vehicletime.py) since the spool was first swept, and each sweep that sees new units leaves a
mark: every unit below `next_unit` was there at `at_s`. So a unit is as old as the first sweep that has seen it: it goes later,
never too early.

A clock that is set over a network is believed only minutes after the start. So the last sweep by a clock that could be believed
is remembered, over as many starts as it takes; the next such sweep knows how long ago that one was, and moves the marks between
them, which nobody could place, to their latest.
"""

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from geal_edge.runtime.pins import pinned_units
from geal_edge.runtime.spooldb import next_unit
from geal_edge.runtime.vehicletime import Moment, passed_s

TABLE = "CREATE TABLE IF NOT EXISTS ages (at_s REAL NOT NULL, next_unit INTEGER NOT NULL)"
RETENTION = "retention"
"""What made a unit expire."""
DAY_S = 86_400.0

ClockRule: TypeAlias = Literal["synchronised", "powered"]
"""`synchronised`: time switched off counted since the last sweep, or there was none; `powered`: it did not, or might not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Units that are too old, ascending, and by which clock."""

    units: tuple[int, ...]
    clock: ClockRule


def sweep(db: sqlite3.Connection, max_age_days: float, now: Moment) -> Sweep:
    """Set a mark, and tell which unsent units are older than so many days and not pinned. Within a transaction of the writer."""
    db.execute(TABLE)
    stored = db.execute("SELECT value FROM meta WHERE key = 'age'").fetchone()
    at_s, believed = 0.0, None
    if stored is not None:
        state = json.loads(stored[0])
        at_s, believed = state["at_s"] + passed_s(Moment(**state["moment"]), now), state.get("believed")
        at_s += _late_s(db, at_s, believed, now)
    state = {"at_s": at_s, "moment": now.as_dict()}
    if now.synchronised:
        believed = state
    if believed is not None:
        state = {**state, "believed": believed}
    db.execute("INSERT OR REPLACE INTO meta VALUES ('age', ?)", (json.dumps(state),))
    db.execute(
        "INSERT INTO ages SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM ages WHERE next_unit = ?2)",
        (at_s, next_unit(db)),
    )
    (bound,) = db.execute(
        "SELECT coalesce(max(next_unit), 0) FROM ages WHERE at_s <= ?", (at_s - max_age_days * DAY_S,)
    ).fetchone()
    db.execute("DELETE FROM ages WHERE next_unit < ?", (bound,))
    old = [
        unit
        for (unit,) in db.execute(
            "SELECT unit FROM units WHERE state IN ('retained', 'released') AND unit < ? ORDER BY unit", (bound,)
        )
    ]
    pinned = pinned_units(db)
    return Sweep(
        units=tuple(unit for unit in old if unit not in pinned),
        clock="synchronised" if now.synchronised else "powered",
    )


def _late_s(db: sqlite3.Connection, at_s: float, believed: dict[str, Any] | None, now: Moment) -> float:
    """Seconds that passed since the last sweep by a clock that could be believed, beyond those that are counted. Within a boot
    all are counted, and a clock that was set makes nothing old."""
    if believed is None or not now.synchronised or believed["moment"]["boot_id"] == now.boot_id:
        return 0.0
    late_s = believed["at_s"] + (now.wall_ns - believed["moment"]["wall_ns"]) / 1e9 - at_s
    if late_s <= 0.0:
        return 0.0
    db.execute("UPDATE ages SET at_s = at_s + ? WHERE at_s > ?", (late_s, believed["at_s"]))
    return float(late_s)
