"""Where something was, in what the vehicle says beside a picture: the names that positions have in metadata (metadata.py)."""

from collections.abc import Mapping
from typing import Any

from geal_edge.config import Position

DECIMALS = 2
"""Of a coarse position, in degrees: a grid of 0.01, which is 1.1 km from south to north, and less from west to east."""
DEGREES = frozenset(("lat", "latitude", "lon", "lng", "long", "longitude"))
"""Keys of a coordinate in degrees, in small letters."""
LARGEST = 360.0
"""Of a coordinate in degrees: a larger number is one in other units, as 1e-7 degrees, whose rounding would take nothing away."""
PLACES = frozenset(
    ("alt", "altitude", "elevation", "position", "location", "gps", "gnss", "navsatfix", "coordinates", "geohash", "address",
     "street", "city", "postcode", "zip", "easting", "northing", "utm", "mgrs", "pose")
)  # fmt: skip
"""Keys of what else tells a place."""


def placed(metadata: Mapping[str, Any], position: Position) -> dict[str, Any]:
    """Metadata with its positions as they may be told.

    keep: as it is. coarsen: degrees are rounded to 0.01, at any depth, and what else tells a place goes, as does what cannot be
    degrees. strip: both go.

    >>> placed({"lat": 48.13743, "gps": {"lon": 11.57549, "alt": 519.0}, "speed_kmh": 31.5}, "coarsen")
    {'lat': 48.14, 'gps': {'lon': 11.58}, 'speed_kmh': 31.5}
    >>> placed({"lat": 481374300, "lon": "11.57549", "speed_kmh": 31.5}, "coarsen")
    {'speed_kmh': 31.5}
    >>> placed({"lat": 48.13743, "gps": {"lon": 11.57549, "alt": 519.0}, "speed_kmh": 31.5}, "strip")
    {'speed_kmh': 31.5}
    """
    return dict(metadata) if position == "keep" else _placed(metadata, position)


def _placed(metadata: Mapping[str, Any], position: Position) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in metadata.items():
        name = key.lower()
        if name in DEGREES:
            if position == "coarsen" and isinstance(value, int | float) and abs(value) <= LARGEST:
                found[key] = round(float(value), DECIMALS)
        elif name in PLACES:
            inside = _only_degrees(value) if position == "coarsen" and isinstance(value, Mapping) else {}
            if inside:
                found[key] = inside
        else:
            found[key] = _within(value, position)
    return found


def _within(value: Any, position: Position) -> Any:
    if isinstance(value, Mapping):
        return _placed(value, position)
    return [_within(item, position) for item in value] if isinstance(value, list) else value


def _only_degrees(place: Mapping[str, Any]) -> dict[str, Any]:
    """Of an object that is a place as a whole nothing else stays."""
    return _placed({key: value for key, value in place.items() if key.lower() in DEGREES}, "coarsen")
