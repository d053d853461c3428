"""What the commands share that read the far side as they read a spool, and what `status` and `list` say of it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, TypeAlias

import typer

from geal_edge.cli.common import Terminal
from geal_edge.errors import UsageError
from geal_edge.runtime.erasure import moment_ns
from geal_edge.runtime.eventlog import printable
from geal_edge.runtime.farside.cache import Cache, open_cache
from geal_edge.runtime.farside.frames import FarFrame
from geal_edge.runtime.farside.reading import RETRIES, Choice, Fleet, is_far_side, prefix_below, read_fleet
from geal_edge.runtime.farside.standing import day_of
from geal_edge.runtime.state import State
from geal_edge.runtime.upload.store import Contents, open_store, without_secrets

DAYS = 14
"""Days of each vehicle that `status` tells people of; `--json` has all."""
NAMED = 5

Prefix: TypeAlias = Annotated[str, typer.Option(help="Of a URL: what the keys begin with, as of `upload`.")]
Vehicles: TypeAlias = Annotated[
    list[str] | None, typer.Option("--vehicle", help="Of a URL: only what this vehicle sent; again for more.")
]
Tag: TypeAlias = Annotated[str | None, typer.Option(help="Of a URL: only frames with this tag.")]
Between: TypeAlias = Annotated[
    tuple[str, str] | None,
    typer.Option(metavar="FROM TO", help="Of a URL: only frames seen from FROM to TO, as 2026-03-01T12:00:00 (UTC)."),
]


def choice_of(vehicles: list[str] | None, tag: str | None, between: tuple[str, str] | None) -> Choice:
    """Raises UsageError for what is no moment."""
    between_ns = between and (moment_ns(between[0]), moment_ns(between[1]))
    return Choice(vehicles=tuple(vehicles or ()), tag=tag, between_ns=between_ns)


def is_far(where: str, *, prefix: str, **given: object) -> bool:
    """Whether the far side is meant. Raises UsageError where it is not, and an option was given that only it has."""
    if is_far_side(where, prefix=prefix):
        return True
    for name, value in {"prefix": prefix, **given}.items():
        if value:
            raise UsageError(
                f"--{name.replace('_', '-')}: is for what `geal-edge upload` sent to, and {where} is not that."
            )
    if (missing := prefix_below(where)) is not None:
        raise UsageError(f"{where}: was uploaded to under a prefix. Say it: --prefix {missing}")
    return False


@contextmanager
def opened_fleet(url: str, prefix: str, watch: Terminal) -> Iterator[tuple[Fleet, Contents, Cache]]:
    """What lies there, and the means to read more of it."""
    store = open_store(url, retries=RETRIES)
    with open_cache(State.of(os.environ), url) as cache:
        fleet = read_fleet(store, url=without_secrets(url), prefix=prefix.strip("/"), cache=cache, watch=watch)
        if fleet.others and not fleet.vehicles:
            watch.warn(
                f"{fleet.others:,} objects lie there, and none as VEHICLE/TRIP/NAME. Is --prefix that of the uploads?"
            )
        for said in fleet.not_understood[:NAMED]:
            watch.warn(f"{said.key}: passed over, {said.why}")
        if (more := len(fleet.not_understood) - NAMED) > 0:
            watch.warn(f"and {more} more that are passed over; `geal-edge status {fleet.url} --json` names them")
        yield fleet, store, cache


def standing_lines(data: Mapping[str, Any], silent_days: float, now: datetime) -> Iterator[str]:
    """The machine form for people.

    >>> from datetime import timezone
    >>> beat = {"version": "0.1.0", "upload": {"waiting": 7, "set_aside": 0}, "budget": [{"spent": 3, "limit": 9}]}
    >>> days = [{"day": "2026-05-11", "frames": 12, "bytes": 3_100_000, "distance": {"p10": 0.3, "median": 0.61, "p90": 0.8}}]
    >>> car = {"vehicle": "car-1", "frames": 12, "bytes": 3_100_000, "days": days, "tags": {"rain": 2}, "radius": 0.52,
    ...        "distance": days[0]["distance"], "silent_days": 4.0, "heartbeat": beat, "untrained": 0,
    ...        "unnamed": {"objects": 0, "bytes": 0, "oldest": None}}
    >>> data = {"url": "s3://bucket", "prefix": "", "vehicles": [car], "not_understood": []}
    >>> print(*standing_lines(data, 2.0, datetime(2026, 5, 15, tzinfo=timezone.utc)), sep="\\n")
    s3://bucket: 1 vehicle, 12 frames, 3.1 MB
    <BLANKLINE>
    vehicle                   frames        MB  distance  radius  budget  waiting  aside  heard
    car-1                         12       3.1      0.61    0.52     3/9        7      0  4.0 days ago (0.1.0) SILENT
    <BLANKLINE>
    day         vehicle                   frames        MB  distance
    2026-05-11  car-1                         12       3.1      0.61
    <BLANKLINE>
    tags: rain 2
    distance: median, from the frames of the vehicle before. radius: of its own round, when it was heard. Over vehicles no radius
    holds: each chose without knowing of the others.
    """
    vehicles = data["vehicles"]
    where = data["url"] + (f", {data['prefix']}" if data["prefix"] else "")
    frames, size = (sum(vehicle[name] for vehicle in vehicles) for name in ("frames", "bytes"))
    yield f"{where}: {len(vehicles)} vehicle{'s' * (len(vehicles) != 1)}, {frames:,} frames, {size / 1e6:,.1f} MB"
    if not vehicles:
        return
    yield f"\n{'vehicle':<24}  frames        MB  distance  radius  budget  waiting  aside  heard"
    yield from (_vehicle_line(vehicle, silent_days) for vehicle in vehicles)
    yield f"\n{'day':<10}  {'vehicle':<24}  frames        MB  distance"
    days = [(day["day"], vehicle["vehicle"], day) for vehicle in vehicles for day in vehicle["days"][-DAYS:]]
    for day, name, told in sorted(days, key=lambda each: each[:2]):
        yield f"{day}  {printable(name):<24}  {told['frames']:>6}  {told['bytes'] / 1e6:>8.1f}  {_median(told):>8}"
    yield ""
    tags: dict[str, int] = {}
    for vehicle in vehicles:
        for tag, n in vehicle["tags"].items():
            tags[tag] = tags.get(tag, 0) + n
    if tags:
        yield "tags: " + ", ".join(
            f"{printable(tag)} {n}" for tag, n in sorted(tags.items(), key=lambda each: -each[1])
        )
    for vehicle in vehicles:
        yield from _notes(vehicle, now)
    yield (
        "distance: median, from the frames of the vehicle before. radius: of its own round, when it was heard. Over vehicles "
        "no radius\nholds: each chose without knowing of the others."
    )


def _vehicle_line(vehicle: Mapping[str, Any], silent_days: float) -> str:
    beat, days, radius = vehicle["heartbeat"], vehicle["silent_days"], vehicle["radius"]
    upload, budget = beat.get("upload"), beat.get("budget")
    waiting, aside = (upload.get("waiting"), upload.get("set_aside")) if isinstance(upload, dict) else ("-", "-")
    first = budget[0] if isinstance(budget, list) and budget and isinstance(budget[0], dict) else {}
    spent = f"{first['spent']}/{first['limit']}" if {"spent", "limit"} <= first.keys() else "-"
    spent, waiting, aside = map(printable, (spent, waiting, aside))
    heard = "never" if days is None else f"{days:.1f} days ago ({printable(beat.get('version'))[:20]})"
    silent = " SILENT" if days is None or days > silent_days else ""
    return (
        f"{printable(vehicle['vehicle']):<24}  {vehicle['frames']:>6}  {vehicle['bytes'] / 1e6:>8.1f}  {_median(vehicle):>8}  "
        f"{'-' if radius is None else f'{radius:.2f}':>6}  {spent:>6.13}  {waiting:>7.7}  {aside:>5.5}  "
        f"{heard}{silent}"
    )


def _median(told: Mapping[str, Any]) -> str:
    return "-" if told["distance"] is None else f"{told['distance']['median']:.2f}"


def _notes(vehicle: Mapping[str, Any], now: datetime) -> Iterator[str]:
    name, unnamed = printable(vehicle["vehicle"]), vehicle["unnamed"]
    if vehicle["untrained"]:
        yield f"{name}: {vehicle['untrained']} frames were selected with UNTRAINED weights"
    if unnamed["objects"]:
        days = max(0.0, (now - datetime.fromisoformat(unnamed["oldest"])).total_seconds() / 86400.0)
        yield (
            f"{name}: {unnamed['objects']} objects ({unnamed['bytes'] / 1e6:.1f} MB) that no sidecar names: on their way, or "
            f"broken off; the oldest came {days:.1f} days ago"
        )


def frame_lines(frames: list[FarFrame]) -> Iterator[str]:
    """What `list` shows to people."""
    width = max((len(frame.vehicle) for frame in frames), default=7)
    yield f"{'vehicle':<{width}}  order  distance  day         key  id"
    for frame in frames:
        distance = "-" if frame.distance is None else f"{frame.distance:.4f}"
        begin = f"{printable(frame.vehicle):<{width}}  {frame.order:>5}  {distance:>8}  {day_of(frame)}"
        yield f"{begin}  {printable(frame.key)}  {printable(frame.id)}"
