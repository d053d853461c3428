"""What lies on a far side, as plain values: vehicles, their frames, what is on its way, and what cannot be understood.

Read are names, sidecars and of each vehicle its newest heartbeat; no frame. What was read before comes from the cache, and of the
rest IN_FLIGHT are asked for at once.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from geal_edge.errors import UploadError, UsageError
from geal_edge.runtime.farside.cache import Cache, version_of
from geal_edge.runtime.farside.frames import MAX_SIDECAR, FarFrame, frame_of, plain_json
from geal_edge.runtime.observer import Observer, Silent
from geal_edge.runtime.spooldb import DATABASE
from geal_edge.runtime.trips import STATUS
from geal_edge.runtime.upload.heartbeat import MAX_BYTES
from geal_edge.runtime.upload.store import Contents, Listed, require_far_side

SIDECAR = re.compile("[0-9a-f]{64}\\.json")
IN_FLIGHT = 16
RETRIES = 5
"""Of a request, with pauses in between: a hundred thousand of them over a long way meet some that fail."""
BATCH = 512
"""Sidecars until what was read is stored."""
TOO_LARGE = b""
"""In the cache, for what is not worth to be asked for again."""
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vehicle:
    """What a vehicle has sent.

    frames     those that arrived whole, in the order of sending
    bytes      of all that it sent but heartbeats
    heard      when its newest heartbeat came, by the far side's clock; None: none has
    heartbeat  that one (docs/formats.md); empty where there is none, or it cannot be read
    unnamed    what no sidecar names: on its way still, or broken off
    """

    name: str
    frames: tuple[FarFrame, ...]
    bytes: int
    heard: datetime | None
    heartbeat: Mapping[str, Any]
    unnamed: tuple[Listed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotUnderstood:
    """A sidecar that was passed over, and why."""

    key: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which frames; None, or nothing, for all.

    vehicles    names
    tag         that a frame must have
    between_ns  from when to when it was seen (FarFrame.seen_ns)
    """

    vehicles: tuple[str, ...] = ()
    tag: str | None = None
    between_ns: tuple[int, int] | None = None

    def has(self, frame: FarFrame) -> bool:
        return (self.tag is None or self.tag in frame.tags) and (
            self.between_ns is None or self.between_ns[0] <= frame.seen_ns <= self.between_ns[1]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All vehicles, by name. url and prefix are what was read; others: objects there that are not named as ours are."""

    url: str
    prefix: str
    vehicles: tuple[Vehicle, ...]
    not_understood: tuple[NotUnderstood, ...]
    others: int

    def frames(self, choice: Choice) -> list[FarFrame]:
        """Vehicle by vehicle, in the order of sending. Raises UsageError for a vehicle that is not there."""
        names = {vehicle.name for vehicle in self.vehicles}
        for name in choice.vehicles:
            if name not in names:
                raise UsageError(
                    f"--vehicle {name}: has sent nothing here. There are: {', '.join(sorted(names)) or 'none'}"
                )
        return [
            frame
            for vehicle in self.vehicles
            if not choice.vehicles or vehicle.name in choice.vehicles
            for frame in vehicle.frames
            if choice.has(frame)
        ]


def in_turn(frames: Iterable[FarFrame]) -> list[FarFrame]:
    """The first unit of each vehicle, then the second of each, and so on; those of a vehicle in their order."""
    ranks: dict[str, int] = {}
    placed = []
    for frame in frames:
        ranks[frame.vehicle] = rank = ranks.get(frame.vehicle, -1) + (frame.place == 0)
        placed.append((rank, frame.vehicle, frame))
    return [frame for _, _, frame in sorted(placed, key=lambda each: each[:2])]


def is_far_side(where: str, *, prefix: str = "") -> bool:
    """Whether a URL, or a folder that was uploaded to, is meant; a spool has its database, and picks are a file.

    Raises UsageError for a URL that cannot be meant.
    """
    if "://" in where:
        require_far_side(where)
        return True
    folder = Path(where)
    if (folder / DATABASE).exists():
        return False
    return bool(prefix) or next((folder / prefix).glob("*/*/*.json"), None) is not None


def prefix_below(where: str) -> str | None:
    """The prefix, of one part or two, under which something was uploaded to a folder that is no spool; None: nothing was."""
    folder = Path(where)
    if (folder / DATABASE).exists():
        return None
    sidecars = chain(folder.glob("*/*/*/*.json"), folder.glob("*/*/*/*/*.json"))
    found = next((file for file in sidecars if SIDECAR.fullmatch(file.name)), None)
    return None if found is None else found.parents[2].relative_to(folder).as_posix()


def read_fleet(store: Contents, *, url: str, prefix: str = "", cache: Cache, watch: Observer | None = None) -> Fleet:
    """What lies under a prefix. Raises UploadError where the far side cannot be read or listed.

    A file that is not ours, or a sidecar of somebody else, hinders nothing: it is passed over, the latter named.
    """
    watch = watch or Silent()
    found, others = _listed(store, prefix)
    beats = {
        name: max(heard, key=lambda item: (item.modified, item.key))
        for name, trips in found.items()
        if (heard := trips.pop(STATUS, []))
    }
    there: dict[str, dict[str, Listed]] = {}
    for trips in found.values():
        for item in chain(*trips.values()):
            there.setdefault(folder_of(item), {})[item.key] = item
    sidecars = [item for items in there.values() for item in items.values() if item.key.endswith(".json")]
    cache.forget_all_but(prefix, chain(*there.values(), (beat.key for beat in beats.values())))
    frames: dict[str, list[FarFrame]] = {name: [] for name in found}
    heartbeats: dict[str, Mapping[str, Any]] = {}
    not_understood: list[NotUnderstood] = []
    watch.begin("reading sidecars", len(sidecars) + len(beats))
    for item, data in _contents(store, [*sidecars, *beats.values()], cache, watch):
        vehicle, trip, _ = item.key.split("/")[-3:]
        if trip == STATUS:
            heartbeats[vehicle] = _heartbeat(data)
            continue
        try:
            if data == TOO_LARGE:
                raise ValueError(f"has more than {MAX_SIDECAR:,} bytes")
            frames[vehicle].append(frame_of(item, data, there[folder_of(item)]))
        except ValueError as error:
            not_understood.append(NotUnderstood(key=item.key, why=str(error).splitlines()[0][:200]))
    vehicles = (
        _vehicle(name, trips, frames[name], beats.get(name), heartbeats.get(name, {}))
        for name, trips in sorted(found.items())
    )
    return Fleet(
        url=url,
        prefix=prefix,
        vehicles=tuple(vehicles),
        not_understood=tuple(sorted(not_understood, key=lambda each: each.key)),
        others=others,
    )


def _listed(store: Contents, prefix: str) -> tuple[dict[str, dict[str, list[Listed]]], int]:
    """(vehicle -> trip -> what lies there, number of objects that are not named as ours are)."""
    found: dict[str, dict[str, list[Listed]]] = {}
    others = 0
    for item in store.list(prefix):
        parts = item.key.removeprefix(f"{prefix}/" if prefix else "").split("/")
        if len(parts) == 3 and all(map(str.isprintable, parts)):  # else a name could forge a line, or be none for XML
            found.setdefault(parts[0], {}).setdefault(parts[1], []).append(item)
        else:
            others += 1
    return found, others


def folder_of(item: Listed) -> str:
    return item.key.rpartition("/")[0]


def _vehicle(
    name: str,
    trips: Mapping[str, Sequence[Listed]],
    frames: Sequence[FarFrame],
    beat: Listed | None,
    heartbeat: Mapping[str, Any],
) -> Vehicle:
    named = {key for frame in frames for key in (frame.key, *frame.context)}
    items = [item for of_trip in trips.values() for item in of_trip]
    return Vehicle(
        name=name,
        frames=_in_order(frames),
        bytes=sum(item.bytes for item in items),
        heard=None if beat is None else beat.modified,
        heartbeat=heartbeat,
        unnamed=tuple(item for item in items if item.key not in named and not item.key.endswith(".json")),
    )


def _in_order(frames: Iterable[FarFrame]) -> tuple[FarFrame, ...]:
    """As they were sent; the frames of a unit stand together, its first one, which gives it its name, before the others."""
    ordered = sorted(frames, key=lambda f: (f.order, f.trip, f.unit, f.id != f.unit, f.source, f.frame_index, f.id))
    units = groupby(ordered, key=lambda f: (f.order, f.trip, f.unit))
    return tuple(
        frame if place == 0 else replace(frame, place=place) for _, unit in units for place, frame in enumerate(unit)
    )


def _heartbeat(data: bytes) -> Mapping[str, Any]:
    try:
        beat = plain_json(data)
    except ValueError:  # whoever may write there may write anything
        return {}
    return beat if isinstance(beat, dict) else {}


def _contents(
    store: Contents, wanted: Sequence[Listed], cache: Cache, watch: Observer
) -> Iterator[tuple[Listed, bytes]]:
    """Each that is there still, with its bytes; of what is larger than it may be TOO_LARGE."""
    missing = []
    for item in wanted:
        data = cache.get(item.key, version_of(item))
        if data is None:
            missing.append(item)
        else:
            watch.advance()
            yield item, data

    def get(item: Listed) -> bytes | None:
        most = MAX_BYTES if folder_of(item).endswith(f"/{STATUS}") else MAX_SIDECAR
        if item.bytes > most:
            return TOO_LARGE
        try:
            return store.get(item.key, at_most=most)
        except UploadError as error:
            if error.reason not in ("absent", "too_large"):
                raise
            return None if error.reason == "absent" else TOO_LARGE

    for batch in _batches(missing, BATCH):
        got = []
        for item, data in zip(batch, at_once(get, batch), strict=True):
            watch.advance()
            if data is not None:
                got.append((item, data))
        cache.put((item.key, version_of(item), data) for item, data in got)
        yield from got


def at_once(ask: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """The answers, in the order of the items; IN_FLIGHT are asked for at a time. The first error ends it."""
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(ask, item))
                if len(waiting) >= 2 * IN_FLIGHT:  # whoever takes the answers may be slower than the far side
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
