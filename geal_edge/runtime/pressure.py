"""How much of the disk a spool takes, how much it may, and what a unit still needs: the quota and free space (docs/spool.md).

Nothing here decides what gives way: that is the ladder's (`press`). Sizes come from the rows and from SQLite's few files; the
frames' folder is never walked.
"""

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from geal_edge.config import DiskConfig
from geal_edge.runtime.ladder import Decision
from geal_edge.runtime.pins import pinned_units
from geal_edge.runtime.spooldb import FRAMES, tables_with
from geal_edge.runtime.vehicletime import EARLIEST_NS

PressureCause: TypeAlias = Literal["quota", "free_space", "disk_full"]
"""The quota is reached, too little is free for others, or the disk refused a write."""

PRESSURES = {
    "max_retained": "the limit on retained frames",
    "quota": "the quota of the spool",
    "free_space": "what the disk is to have free",
    "disk_full": "the end of the disk",
}
"""What levels are given up for, in words."""
DISK_QUOTA = "disk_quota"
"""Why a frame is lost for which there is no room."""
TRANSACTION_BYTES = 128 * 1024
"""What storing a unit may add to SQLite's files, beside its own rows: whole pages of tables and indexes, into the log."""

# Of a spool with a hundred thousand evicted rows the sum over what is on disk takes as long as there are files.
INDEX = "CREATE INDEX IF NOT EXISTS frames_on_disk ON frames (bytes) WHERE file IS NOT NULL"


class Press(Protocol):
    """`Ladder.press`, or what calls it for the round that is open."""

    def __call__(self, decision: Decision, *, needed: int, own: int, sizes: Mapping[int, int]) -> Decision | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """What must come free for a unit, and why."""

    cause: PressureCause
    needed_bytes: int


def shortage(db: sqlite3.Connection, spool: Path, limits: DiskConfig, own_bytes: int) -> Shortage | None:
    """What is missing for a unit whose files and rows take `own_bytes`; None where there is room. The larger of both reasons."""
    after = own_bytes + TRANSACTION_BYTES
    over = 0 if limits.max_bytes is None else used_bytes(db, spool) + after - limits.max_bytes
    missing = limits.min_free_bytes + after - free_bytes(spool)
    if max(over, missing) <= 0:
        return None
    return Shortage(cause="quota" if over >= missing else "free_space", needed_bytes=max(over, missing))


def used_bytes(db: sqlite3.Connection, spool: Path) -> int:
    """Bytes of all files under a spool: frames by their rows, all others by their size."""
    (frames,) = db.execute("SELECT coalesce(sum(bytes), 0) FROM frames WHERE file IS NOT NULL").fetchone()
    return int(frames) + sum(_beside(db).values()) + _sizes(spool)


def free_bytes(spool: Path) -> int:
    """What this user may still write to the spool's file system."""
    return shutil.disk_usage(spool).free


def removable_bytes(db: sqlite3.Connection, round_number: int) -> dict[int, int]:
    """unit -> the bytes that its eviction frees, of the retained units of a round that are not pinned."""
    sizes = dict(
        db.execute(
            "SELECT unit, sum(bytes) FROM units JOIN frames USING (unit) "
            "WHERE state = 'retained' AND round = ? AND file IS NOT NULL GROUP BY unit",
            (round_number,),
        )
    )
    pinned, beside = pinned_units(db), _beside(db)
    return {unit: beside.get(unit, 0) + int(size) for unit, size in sizes.items() if unit not in pinned}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsent:
    """What waits on the disk: units and bytes, and when the oldest of them was stored, by the wall clock of that time; of those
    that a vehicle stored before its clock was set nobody knows."""

    units: int
    bytes: int
    oldest_stored_ns: int | None


def unsent(db: sqlite3.Connection) -> Unsent:
    """All retained and released units."""
    units, size, oldest = db.execute(
        "SELECT count(DISTINCT unit), coalesce(sum(bytes), 0), min(CASE WHEN stored_ns >= ? THEN stored_ns END) "
        "FROM units JOIN frames USING (unit) WHERE state IN ('retained', 'released') AND file IS NOT NULL",
        (EARLIEST_NS,),
    ).fetchone()
    return Unsent(units=int(units), bytes=int(size), oldest_stored_ns=oldest)


def disk_state(db: sqlite3.Connection, spool: Path, limits: dict[str, Any]) -> dict[str, Any]:
    """How a spool stands on its disk (`status --json`): `limits` as the last run had them, {} of one that had none."""
    return {
        "used_bytes": used_bytes(db, spool),
        "max_bytes": limits.get("max_bytes"),
        "free_bytes": free_bytes(spool),
        "min_free_bytes": limits.get("min_free_bytes"),
        "max_age_days": limits.get("max_age_days"),
        **{f"unsent_{name}" if name != "oldest_stored_ns" else name: n for name, n in asdict(unsent(db)).items()},
    }


def _beside(db: sqlite3.Connection) -> dict[int, int]:
    """unit -> bytes of what lies among the frames beside its own."""
    sizes: dict[int, int] = {}
    for table in tables_with(db, "unit", "file", "bytes"):
        for unit, size in db.execute(f"SELECT unit, sum(bytes) FROM {table} GROUP BY unit"):  # noqa: S608 - our table
            sizes[unit] = sizes.get(unit, 0) + int(size)
    return sizes


def _sizes(folder: Path) -> int:
    """Bytes of the files below a spool that have no row: SQLite's, the memory, what was set aside. A dozen or so.

    What is not for us is none of ours: the `lost+found` of a spool that has a file system for itself."""
    total = 0
    for entry in folder.iterdir():
        with suppress(FileNotFoundError, PermissionError):  # SQLite's come and go
            if entry.is_dir() and not entry.is_symlink() and entry.name != FRAMES:
                total += _sizes(entry)
            elif entry.is_file():
                total += entry.stat().st_size
    return total
