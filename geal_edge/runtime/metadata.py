"""What the vehicle says of a frame beside its picture: speed, gear, position, detections of its own software.

A JSON object of at most `MAX_BYTES`, given with the frame by whoever sends it. Gates look at it (conditions.py), nothing else
decides by it; of a retained frame it is stored in a table of the spool's database, and leaves with the frame.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from geal_edge.errors import UsageError
from geal_edge.runtime.privacy.position import placed
from geal_edge.runtime.privacy.rules import Rules
from geal_edge.runtime.spooldb import has_table

Metadata: TypeAlias = Mapping[str, Any]
"""Key -> what JSON has; never NaN or infinite."""

MAX_BYTES = 64 * 1024

TABLE = """
CREATE TABLE IF NOT EXISTS metadata (
  unit INTEGER NOT NULL, place INTEGER NOT NULL, metadata TEXT NOT NULL, PRIMARY KEY (unit, place)) WITHOUT ROWID
"""


def read_metadata(data: bytes) -> Metadata:
    """The metadata in the bytes of a JSON object. Raises UsageError for anything else; nothing stands for no metadata.

    >>> read_metadata(b'{"speed_kmh": 31.5, "tag": "rain"}')["tag"]
    'rain'
    """
    if not data:
        return {}
    if len(data) > MAX_BYTES:
        raise UsageError(f"metadata of {len(data)} bytes: {MAX_BYTES} at most are taken")
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of thousands of digits, far too deep
        raise UsageError(f"the metadata is not JSON in UTF-8 ({error})") from error
    return checked(value)


def checked(value: object) -> Metadata:
    """A copy that JSON, SQLite and a terminal can hold. Raises UsageError.

    >>> checked({"speed_kmh": float("nan")})
    Traceback (most recent call last):
        ...
    geal_edge.errors.UsageError: the metadata cannot be written as JSON (Out of range float values are not JSON...)
    """
    if not isinstance(value, Mapping):
        raise UsageError(
            f'the metadata is {type(value).__name__}: it must be an object with keys, as {{"speed_kmh": 31.5}}'
        )
    try:
        text = json.dumps(dict(value), ensure_ascii=False, allow_nan=False)
        size = len(text.encode())  # half a surrogate pair is no text
        copy: Metadata = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the metadata cannot be written as JSON ({error})") from error
    if size > MAX_BYTES:
        raise UsageError(f"metadata of {size} bytes: {MAX_BYTES} at most are taken")
    return copy


def store_metadata(db: sqlite3.Connection, unit: int, frames: Iterable[Metadata]) -> None:
    """That of a unit's frames, in their order. Within a transaction of the spool."""
    db.executemany(
        "INSERT INTO metadata VALUES (?, ?, ?)",
        [(unit, place, json.dumps(metadata, ensure_ascii=False)) for place, metadata in enumerate(frames) if metadata],
    )


def forget_metadata(db: sqlite3.Connection, unit: int) -> None:
    """The unit is evicted or erased. Within a transaction of the spool."""
    db.execute("DELETE FROM metadata WHERE unit = ?", (unit,))


def stored_metadata(db: sqlite3.Connection, rules: Rules) -> dict[tuple[int, int], Metadata]:
    """(unit, place in it) -> metadata, of all frames that have any, with the positions that the rules let out."""
    if not has_table(db, "metadata"):
        return {}  # filled by an earlier version
    return {
        (unit, place): placed(json.loads(text), rules.want(unit).position)
        for unit, place, text in db.execute("SELECT unit, place, metadata FROM metadata")
    }


def metadata_of(db: sqlite3.Connection, unit: int, rules: Rules) -> dict[int, Metadata]:
    """The same of one unit: place in it -> metadata."""
    if not has_table(db, "metadata"):
        return {}
    rows = db.execute("SELECT place, metadata FROM metadata WHERE unit = ?", (unit,))
    return {place: placed(json.loads(text), rules.want(unit).position) for place, text in rows}
