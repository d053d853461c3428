"""How a fleet stands, added up from what lies on the far side: the machine forms of `status` and `list` of a URL."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import numpy as np

from geal_edge.runtime.farside.frames import FarFrame, chord_of
from geal_edge.runtime.farside.reading import Fleet, Vehicle
from geal_edge.runtime.spoolview import LIST_SCHEMA

FLEET_SCHEMA = "geal-edge/fleet/1"


def standing(fleet: Fleet, now: datetime) -> dict[str, Any]:
    """The machine form of `status URL --json` (docs/formats.md)."""
    return {
        "schema": FLEET_SCHEMA,
        "url": fleet.url,
        "prefix": fleet.prefix,
        "vehicles": [_of_vehicle(vehicle, now) for vehicle in fleet.vehicles],
        "not_understood": [{"key": each.key, "why": each.why} for each in fleet.not_understood],
    }


def _of_vehicle(vehicle: Vehicle, now: datetime) -> dict[str, Any]:
    frames, heard = vehicle.frames, vehicle.heard
    oldest = min((item.modified for item in vehicle.unnamed), default=None)
    return {
        "vehicle": vehicle.name,
        "frames": len(frames),
        "bytes": vehicle.bytes,
        "trips": _counted(frame.trip for frame in frames),
        "days": [
            {"day": day, "frames": len(of_day), "bytes": sum(f.bytes for f in of_day), "distance": distances(of_day)}
            for day, of_day in by_day(frames)
        ],
        "rounds": [{"round": round_, "frames": n} for round_, n in sorted(Counter(f.round for f in frames).items())],
        "tags": _counted(tag for frame in frames for tag in frame.tags),
        "untrained": sum(frame.untrained for frame in frames),
        "bundles": _counted(frame.bundle for frame in frames),
        "distance": distances(frames),
        "radius": radius_of(vehicle),
        "unnamed": {
            "objects": len(vehicle.unnamed),
            "bytes": sum(item.bytes for item in vehicle.unnamed),
            "oldest": None if oldest is None else oldest.isoformat(),
        },
        "heard": None if heard is None else heard.isoformat(),
        "silent_days": None if heard is None else max(0.0, (now - heard).total_seconds() / 86400.0),
        "heartbeat": dict(vehicle.heartbeat),
    }


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def by_day(frames: Iterable[FarFrame]) -> list[tuple[str, list[FarFrame]]]:
    """Frames of each day in UTC on which they were seen, the oldest day first, in their order."""
    days: dict[str, list[FarFrame]] = {}
    for frame in frames:
        days.setdefault(day_of(frame), []).append(frame)
    return sorted(days.items())


def day_of(frame: FarFrame) -> str:
    """As `2026-05-11`, in UTC; of a clock that is beyond all calendars the day on which it arrived."""
    try:
        seen = datetime.fromtimestamp(frame.seen_ns // 10**9, timezone.utc)
    except (ValueError, OverflowError, OSError):
        seen = frame.arrived.astimezone(timezone.utc)
    return f"{seen:%Y-%m-%d}"


def distances(frames: Iterable[FarFrame]) -> dict[str, float] | None:
    """How far frames lay from those that their vehicle had sent or chosen before: the 10th, 50th and 90th percentile of units, as
    chords. The first of a round, which had nothing before it, has none."""
    found = [frame.distance for frame in frames if frame.distance and frame.place == 0]
    if not found:
        return None
    low, middle, high = np.percentile(found, (10, 50, 90)).tolist()
    return {"p10": low, "median": middle, "p90": high}


def radius_of(vehicle: Vehicle) -> float | None:
    """The radius in force when the vehicle was heard last; of one whose heartbeats do not say it, with its newest frame."""
    if "radius" in vehicle.heartbeat:
        with suppress(ValueError):
            return chord_of(vehicle.heartbeat, "radius")
        return None
    return vehicle.frames[-1].radius if vehicle.frames else None


def list_lines(frames: Sequence[FarFrame]) -> Iterable[dict[str, Any]]:
    """One object a frame: what `list` of a spool says of a frame that was sent, and where it lies."""
    for frame in frames:
        yield {
            "schema": LIST_SCHEMA,
            "untrained": frame.untrained,
            "state": "sent",
            "round": frame.round,
            "order": frame.order,
            "unit": frame.unit,
            "id": frame.id,
            "sha256": frame.sha256,
            "source": frame.source,
            "frame_index": frame.frame_index,
            "capture_time_ns": frame.capture_time_ns,
            "distance": frame.distance,
            "cover_radius": None,
            "witness": {"patches": list(frame.patches), "grid": list(frame.grid)},
            "novelty": frame.novelty,
            "radius": frame.radius,
            "file": None,
            "bytes": frame.bytes,
            "vehicle": frame.vehicle,
            "trip": frame.trip,
            "key": frame.key,
            **_if_any(
                privacy=frame.privacy,
                metadata=frame.metadata,
                context=[{"key": key} for key in frame.context],
                tags=list(frame.tags),
            ),
        }


def _if_any(**parts: Mapping[str, Any] | list[Any]) -> dict[str, Any]:
    return {name: value for name, value in parts.items() if value}
