"""A frame on the far side, out of its sidecar: bytes that anybody may have written who may write there."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from geal_edge.models.jsontext import parse_json
from geal_edge.runtime.metadata import Metadata
from geal_edge.runtime.sidecar import SCHEMA
from geal_edge.runtime.upload.store import Listed

MAX_SIDECAR = 1 << 20
"""Bytes; one with the most metadata and a hundred pictures of context has a tenth of it."""
MAX_CHORD = 2.01
"""Unit rows are at most 2 apart; their rounding to fp16 adds a little."""
PLAUSIBLE_NS = 1_577_836_800 * 10**9
"""2020. What is before it is no time of the day: the clock of a vehicle that was never set, or the place in a recording."""
_LONGEST = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class FarFrame:
    """One frame that arrived whole.

    vehicle, trip, key, bytes, arrived  as the far side itself says: folders, name, size and its own clock
    context        keys of the pictures before and after it
    order          place of its unit in the order in which the vehicle sends
    place          in its unit, from 0
    sha256         of its bytes, hex, as the sidecar says
    distance       chord to the frames before it in that order; 0.0 for the first, None where it is not known
    novelty, radius  chords, when it was judged; None as in `list`
    patches, grid  its witness: row-major indices, and (rows, columns)
    size           (width, height) of the picture in pixels, upright; None where the sidecar does not say
    privacy        what the picture passed before it left (docs/privacy.md); empty for nothing
    """

    vehicle: str
    trip: str
    key: str
    bytes: int
    arrived: datetime
    context: tuple[str, ...]
    order: int
    round: int
    place: int
    unit: str
    id: str
    sha256: str
    source: str
    frame_index: int
    capture_time_ns: int | None
    stored_ns: int | None
    distance: float | None
    novelty: float | None
    radius: float | None
    patches: tuple[int, ...]
    grid: tuple[int, int]
    size: tuple[int, int] | None
    tags: tuple[str, ...]
    metadata: Metadata
    privacy: Mapping[str, Any]
    producer: str
    bundle: str
    feature_space: str
    preset: str
    untrained: bool

    @property
    def seen_ns(self) -> int:
        """When it was seen: captured, by a source that tells the time of the day; else stored, by the vehicle's clock, where that
        was set; else when it arrived."""
        times = (self.capture_time_ns, self.stored_ns)
        return next(
            (ns for ns in times if ns is not None and ns >= PLAUSIBLE_NS), round(self.arrived.timestamp() * 1e9)
        )


def frame_of(sidecar: Listed, data: bytes, there: Mapping[str, Listed]) -> FarFrame:
    """The frame of a sidecar under `.../<vehicle>/<trip>/<name>.json`; place 0, as only its unit can tell.

    there  what lies in the same folder, by its key. Of the keys in a sidecar only the last part is believed, and only for what
           lies there: it can name nothing else

    Raises ValueError with a sentence for what is no sidecar of ours, or names a frame that is not there.
    """
    facts = plain_json(data)
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise ValueError("is no sidecar of a frame")
    folder = sidecar.key.rpartition("/")[0]
    vehicle, trip = folder.split("/")[-2:]
    key = f"{folder}/{_last(_text(facts, 'key'))}"
    if key not in there or key.rpartition(".")[0] != sidecar.key.removesuffix(".json"):
        raise ValueError("names a frame that is not there")
    context = tuple(f"{folder}/{_last(_text(each, 'key'))}" for each in _list(facts, "context", dict))
    witness = facts.get("witness")
    if not isinstance(witness, dict):
        raise ValueError("witness is absent")
    rows, columns = _list(witness, "grid", int) or (1, 1)
    patches = tuple(_list(witness, "patches", int))
    inside = not patches or 0 <= min(patches) <= max(patches) < rows * columns
    if not (0 < rows <= _LONGEST and 0 < columns <= _LONGEST and inside):
        raise ValueError("witness lies outside its grid")
    sha256 = _text(facts, "sha256")
    if re.fullmatch("[0-9a-f]{64}", sha256) is None:
        raise ValueError("sha256 is none")
    width, height = (_maybe_int(facts, side) for side in ("width", "height"))
    metadata, privacy = (facts.get(name) or {} for name in ("metadata", "privacy"))
    return FarFrame(
        vehicle=vehicle,
        trip=trip,
        key=key,
        bytes=there[key].bytes,
        arrived=sidecar.modified,
        context=tuple(each for each in context if each in there),
        order=_int(facts, "order"),
        round=_int(facts, "round"),
        place=0,
        unit=_text(facts, "unit"),
        id=_text(facts, "id"),
        sha256=sha256,
        source=_text(facts, "source"),
        frame_index=_int(facts, "frame_index"),
        capture_time_ns=_maybe_int(facts, "capture_time_ns"),
        stored_ns=_maybe_int(facts, "stored_ns"),
        distance=chord_of(facts, "distance"),
        novelty=chord_of(facts, "novelty"),
        radius=chord_of(facts, "radius"),
        patches=patches,
        grid=(rows, columns),
        size=(width, height) if width and height and 0 < width < 10**6 and 0 < height < 10**6 else None,
        tags=tuple(_list(facts, "tags", str)),
        metadata=metadata if isinstance(metadata, dict) else {},
        privacy=privacy if isinstance(privacy, dict) else {},
        producer=_text(facts, "producer"),
        bundle=_text(facts, "bundle"),
        feature_space=_text(facts, "feature_space"),
        preset=_text(facts, "preset"),
        untrained=facts.get("untrained") is not False,
    )


def plain_json(data: bytes) -> Any:
    """What stands there. Raises ValueError for what is no JSON in UTF-8, and for a number that is none, an infinite one or half a
    surrogate pair anywhere in it, which nobody could write down again.

    >>> plain_json(b'{"a": 1e999}')
    Traceback (most recent call last):
    ValueError: Out of range float values are not JSON compliant...
    """
    facts = parse_json(data.decode())
    try:
        json.dumps(facts, ensure_ascii=False, allow_nan=False).encode()  # as fast as any search for what to look at
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return facts


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _text(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise ValueError(f"{name} is no text")
    return value


def _maybe_int(facts: Mapping[str, Any], name: str) -> int | None:
    return None if facts.get(name) is None else _int(facts, name)


def _int(facts: Mapping[str, Any], name: str) -> int:
    value = facts.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
        raise ValueError(f"{name} is no whole number")
    return value


def chord_of(facts: Mapping[str, Any], name: str) -> float | None:
    """Raises ValueError for what no chord can be."""
    value = facts.get(name)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0.0 <= value <= MAX_CHORD:
        raise ValueError(f"{name} is no distance")
    return float(value)


def _list(facts: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    """Of values of one kind; empty where an older sidecar has none."""
    values = facts.get(name) or []
    if not isinstance(values, list) or not {kind}.issuperset(map(type, values)):  # exactly: a bool is no number here
        raise ValueError(f"{name} is not what it should be")
    return values
