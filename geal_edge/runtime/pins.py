"""Pins: units that a person wants to stay on disk, whatever is decided (docs/spool.md, "Pins").

A pin changes no decision. The writer reads the table inside every transaction that evicts, and turns the eviction of a pinned
unit into the state `pinned`; so a pin that another process has set before that transaction holds.
"""

import difflib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from geal_edge.errors import UsageError
from geal_edge.runtime.lostcommits import require_whole_log
from geal_edge.runtime.spooldb import changing, has_table

TABLE = "CREATE TABLE IF NOT EXISTS pins (unit INTEGER PRIMARY KEY, wall_ns INTEGER NOT NULL)"
PINNABLE = ("retained", "released", "pinned")
UNPINNED = "unpinned"
"""What evicts a unit that only its pin held."""


def pinned_units(db: sqlite3.Connection) -> set[int]:
    """Numbers of the units that are pinned now."""
    if not has_table(db, "pins"):
        return set()
    return {int(unit) for (unit,) in db.execute("SELECT unit FROM pins")}


def unpinned_units(db: sqlite3.Connection) -> list[int]:
    """Units in the state `pinned` whose pin was removed."""
    pinned = pinned_units(db)
    return [unit for (unit,) in db.execute("SELECT unit FROM units WHERE state = 'pinned'") if unit not in pinned]


def pin(spool: Path, id_: str, *, wall_ns: Callable[[], int] = time.time_ns) -> int:
    """Pin the unit of a frame, beside a running writer too; gives its number. Pinned already is fine.

    Raises UsageError where the spool does not hold the frame any more, or never did.
    """
    require_whole_log(spool)
    with changing(spool) as db:
        unit = _unit_of(db, spool, id_)
        db.execute(TABLE)
        db.execute("INSERT OR IGNORE INTO pins VALUES (?, ?)", (unit, wall_ns()))
    return unit


def unpin(spool: Path, id_: str) -> int:
    """Take a pin back; what only it held is evicted by the writer. Raises UsageError where the frame's unit is not pinned."""
    require_whole_log(spool)
    with changing(spool) as db:
        unit = _unit_of(db, spool, id_)
        if unit not in pinned_units(db):
            raise UsageError(f"{id_}: is not pinned. Nothing was changed.")
        db.execute("DELETE FROM pins WHERE unit = ?", (unit,))
    return unit


def _unit_of(db: sqlite3.Connection, spool: Path, id_: str) -> int:
    held = {
        id_: (unit, state)
        for id_, unit, state in db.execute("SELECT id, unit, state FROM units JOIN frames USING (unit) ORDER BY unit")
    }
    if id_ in held and held[id_][1] in PINNABLE:
        return int(held[id_][0])
    if id_ in held:
        raise UsageError(
            f"{id_}: is {held[id_][1]}: its file is gone. Only what is retained, selected or released can be pinned."
        )
    close = difflib.get_close_matches(id_, held, 1)
    hint = f"Did you mean {close[0]}?" if close else f"`geal-edge list {spool} --retained` shows ids."
    raise UsageError(f"{spool}: has no frame {id_}. {hint}")
