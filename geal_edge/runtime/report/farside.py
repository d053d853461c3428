"""The page of what vehicles have sent: each vehicle and day with the frames that add most, and why they were selected.

    Fleet -> chosen frames -> of each vehicle and day the first ones, in turn -> their pictures, downloaded once -> one HTML file

Of ten thousand frames nobody looks at all: the page shows so many as are asked for, counts the rest, and says so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from geal_edge.errors import FrameError, UploadError, UsageError
from geal_edge.runtime.farside.cache import Cache
from geal_edge.runtime.farside.frames import FarFrame
from geal_edge.runtime.farside.reading import Fleet, at_once
from geal_edge.runtime.farside.standing import by_day, distances, radius_of
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.picturesize import size_of
from geal_edge.runtime.report import ReportSummary, page, replacing, require_a_file
from geal_edge.runtime.report.data import ShownFrame
from geal_edge.runtime.report.pictures import WIDTH, Missing, Picture, Thumbnail, require_pillow, shrink
from geal_edge.runtime.report.promise import CHORD, frames_of
from geal_edge.runtime.sources.images import decode_image
from geal_edge.runtime.upload.store import Contents

Days: TypeAlias = Sequence[tuple[str, str, Sequence[FarFrame]]]
"""(vehicle, day, frames in their order), vehicle by vehicle, the newest day first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the page is made from. shown: key of each frame with a card."""

    fleet: Fleet
    days: Days
    shown: frozenset[str]

    @property
    def frames(self) -> list[FarFrame]:
        return [frame for _, _, frames in self.days for frame in frames]

    def cards(self, frames: Sequence[FarFrame]) -> list[FarFrame]:
        return [frame for frame in frames if frame.key in self.shown]


def write_far_report(
    fleet: Fleet,
    chosen: Sequence[FarFrame],
    store: Contents,
    cache: Cache,
    out: Path,
    *,
    pictures: int,
    watch: Observer,
) -> ReportSummary:
    """Write the page to `out`, complete or not at all, with at most so many pictures; of each its object is read, unless its
    thumbnail is in the cache.

    Raises UsageError where there is no such frame, UploadError where the far side does not answer, MissingDependency without
    Pillow, StorageError where `out` cannot be written.
    """
    require_a_file(out)
    require_pillow()
    if not chosen:
        raise UsageError(f"{fleet.url}: no such frame has arrived, so there is nothing to report.")
    look = _look(fleet, chosen, pictures)
    watch.begin("downloading pictures", len(look.shown))
    shown = [frame for _, _, frames in look.days for frame in look.cards(frames)]
    thumbnails = _pictures(shown, store, cache, watch)
    missing = 0
    title = f"What {_vehicles(look)} sent"
    with replacing(out) as file:
        before, after = page.around(f"{title}: {fleet.url}")
        file.write(before)
        file.write(_top(look, title))
        for number, (vehicle, day, frames) in enumerate(look.days):
            cards = look.cards(frames)
            found = list(zip(cards, islice(thumbnails, len(cards)), strict=True))
            missing += sum(isinstance(picture, Missing) for _, picture in found)
            file.writelines(_section(number, vehicle, day, frames, found))
        file.write(page.end(", ".join(sorted({frame.producer for frame in chosen}))))
        file.write(after)
    return ReportSummary(frames=len(shown), bytes=out.stat().st_size, missing_images=missing)


def _look(fleet: Fleet, chosen: Sequence[FarFrame], pictures: int) -> Look:
    of_vehicle: dict[str, list[FarFrame]] = {}
    for frame in chosen:
        of_vehicle.setdefault(frame.vehicle, []).append(frame)
    days = [
        (vehicle, day, of_day) for vehicle, frames in of_vehicle.items() for day, of_day in reversed(by_day(frames))
    ]
    in_turn = sorted(
        (rank, number, frame.key) for number, (_, _, frames) in enumerate(days) for rank, frame in enumerate(frames)
    )
    return Look(fleet=fleet, days=days, shown=frozenset(key for _, _, key in in_turn[:pictures]))


# -- the pictures ------------------------------------------------------------------------------------------------------


def _pictures(shown: Sequence[FarFrame], store: Contents, cache: Cache, watch: Observer) -> Iterator[Picture]:
    """One for each frame, in their order; one picture is decoded at a time."""
    stored = {frame.key: cache.get(_name(frame), frame.sha256) for frame in shown}
    fetched = at_once(_fetch(store), [frame for frame in shown if stored[frame.key] is None])
    for frame in shown:
        jpeg = stored[frame.key]
        picture = _thumbnail(next(fetched)) if jpeg is None else _from_cache(jpeg)
        if jpeg is None and isinstance(picture, Thumbnail):
            cache.put([(_name(frame), frame.sha256, picture.jpeg)])
        yield picture
        watch.advance()


def _name(frame: FarFrame) -> str:
    return f"{frame.key}#{WIDTH}"


def _fetch(store: Contents) -> Callable[[FarFrame], bytes | Missing]:
    def fetch(frame: FarFrame) -> bytes | Missing:
        try:
            data = store.get(frame.key, at_most=frame.bytes)
        except UploadError as error:
            if error.reason not in ("absent", "too_large"):
                raise
            return Missing(why=str(error))
        if sha256(data).hexdigest() != frame.sha256:
            return Missing(why="Its bytes are not those that its sidecar tells of.")
        return data

    return fetch


def _thumbnail(data: bytes | Missing) -> Picture:
    if isinstance(data, Missing):
        return data
    try:
        return shrink(decode_image(data).image, WIDTH)
    except FrameError as error:
        return Missing(why=error.detail)


def _from_cache(jpeg: bytes) -> Picture:
    width, height = size_of(jpeg) or (4, 3)
    return Thumbnail(jpeg=jpeg, width=width, height=height)


# -- the page ----------------------------------------------------------------------------------------------------------


def _vehicles(look: Look) -> str:
    n = len({vehicle for vehicle, _, _ in look.days})
    return "1 vehicle" if n == 1 else f"{n:,} vehicles"


def _top(look: Look, title: str) -> str:
    frames = look.frames
    days = sorted({day for _, day, _ in look.days})
    vehicles = len({frame.vehicle for frame in frames})
    when = f"Of {days[0]}" if len(days) == 1 else f"From {days[0]} to {days[-1]}"
    counts: Mapping[str, str] = {
        "frame" if len(frames) == 1 else "frames": f"{len(frames):,}",
        "vehicle" if vehicles == 1 else "vehicles": f"{vehicles:,}",
        "day" if len(days) == 1 else "days": f"{len(days):,}",
        "MB": f"{sum(frame.bytes for frame in frames) / 1e6:,.1f}",
    }
    told = "".join(f"<div><dt>{name}</dt><dd>{n}</dd></div>" for name, n in counts.items())
    untrained = any(frame.untrained for frame in frames)
    some = (
        f"Shown are {len(look.shown):,} of {frames_of(len(frames))}: of each vehicle and day those that come first in its "
        "order. More are shown with --pictures; all are told by `geal-edge list`."
    )
    facts = {
        "from": look.fleet.url + (f", {look.fleet.prefix}" if look.fleet.prefix else ""),
        "bundles": ", ".join(sorted({frame.bundle.removeprefix("sha256:")[:12] for frame in frames})),
        "weights": "untrained" if untrained else "",
    }
    return (
        '<a class="skip" href="#vehicles">To the vehicles</a>'
        f'<div class="bar"><div><strong aria-hidden="true">{escape(title)}</strong></div></div>'
        '<main><header class="top">'
        + (f'<p class="warning">{page.UNTRAINED}</p>' if untrained else "")
        + f'<h1>{escape(title)}</h1><p class="dek">{when}, by the day on which a frame was seen (UTC).</p>'
        + f'<dl class="counts">{told}</dl>'
        + '<div class="promise"><p>Each vehicle chose without knowing of the others: over vehicles no radius is promised.</p>'
        + f"<p>A distance is from what the same vehicle had chosen before in its round. {CHORD}</p></div>"
        + page.bullets([some] if len(look.shown) < len(frames) else [], "notes")
        + f"{page.made(facts)}</header>{_table(look)}"
    )


def _table(look: Look) -> str:
    rows = []
    for vehicle in look.fleet.vehicles:
        days = [(day, frames) for name, day, frames in look.days if name == vehicle.name]
        if not days:
            continue
        mine = [frame for _, frames in days for frame in frames]
        radius = radius_of(vehicle)
        rows.append(
            (
                page.as_text(vehicle.name),
                f"{len(mine):,}",
                f"{sum(frame.bytes for frame in mine) / 1e6:,.1f}",
                f"{len(days):,}",
                f"{len({frame.round for frame in mine}):,}",
                _median(mine),
                "none" if radius is None else f"{radius:.2f}",
                "never" if vehicle.heard is None else f"{vehicle.heard:%Y-%m-%d %H:%M}",
            )
        )
    heads = ("vehicle", "frames", "MB", "days", "rounds", "median distance", "radius when heard", "heard (UTC)")
    return (
        page.begin_section("vehicles", "Vehicles")
        + page.as_table("Vehicles", heads, rows, numbers=range(1, 7))
        + "</section>"
    )


def _median(frames: Sequence[FarFrame]) -> str:
    found = distances(frames)
    return "none" if found is None else f"{found['median']:.2f}"


def _section(
    number: int, vehicle: str, day: str, frames: Sequence[FarFrame], found: Sequence[tuple[FarFrame, Picture]]
) -> Iterator[str]:
    some = "" if len(found) == len(frames) else f", of which {len(found):,} are shown"
    lede = f"{frames_of(len(frames))}{some}; median distance {_median(frames)}."
    yield page.begin_section(f"day-{number}", f"{page.as_text(vehicle)}, {day}", lede)
    longest = max((frame.distance or 0.0 for frame in frames), default=0.0)
    box, pictures = page.usual_box((_shown(frame), picture) for frame, picture in found)
    yield f'<ol class="frames" style="--box:{box:.4f}">'
    for place, (frame, picture) in enumerate(pictures):
        yield page.card(frame, picture, longest, anchor=f"frame-{number}-{place}")
    yield "</ol></section>"


def _shown(frame: FarFrame) -> ShownFrame:
    return ShownFrame(
        order=frame.order,
        place=frame.place,
        id=frame.id,
        source=frame.source,
        frame_index=frame.frame_index,
        capture_time_ns=frame.capture_time_ns,
        distance=frame.distance,
        novelty=frame.novelty,
        radius=frame.radius,
        patches=frame.patches,
        heat=(),
        clusters=(),
        grid=frame.grid,
        seen_at=None,
        file=None,
        sha256=frame.sha256,
        metadata=frame.metadata,
    )
