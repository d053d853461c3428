"""The selected frames of a spool or of a picks file, in their order, and their bytes: what `report` and `extract` start from."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from geal_edge.errors import GealEdgeError, Interrupted, MissingDependency, UsageError
from geal_edge.runtime.context import ContextFrame
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.live.opened import is_live
from geal_edge.runtime.metadata import Metadata
from geal_edge.runtime.pool import read_picks
from geal_edge.runtime.privacy.filter import PrivacyFilter
from geal_edge.runtime.privacy.leaving import Door, Leaving
from geal_edge.runtime.sources import Source, open_source
from geal_edge.runtime.sources.bags import BagSource
from geal_edge.runtime.spoolview import open_view


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedFrame:
    """One selected frame.

    number    its place among all selected frames, from 1: its order, where every unit is one frame
    order     place of its unit in the selected order, from 1
    place     in its unit, from 0
    distance  chord to the frames before it in that order; 0.0 for the first
    novelty   chord to what was retained when it was seen; None for the first frame seen, and in picks files
    patches   row-major indices of the witness on the grid; empty for the first, and where another frame of the unit has it
    grid      (rows, columns)
    file      its bytes in the spool; None in picks files, and once it was sent
    sha256    of the spool's file, or of the source's own file; None for a video's frame in a picks file
    metadata  what the vehicle said of it; empty where it said nothing, and in picks files
    context   pictures before and after it, files beside `file`; none in picks files
    sent      of a frame on the far side `vehicle`, `trip`, `key` and `tags`; else empty
    made_by   what chose that one; empty where the selection says it of all
    """

    number: int
    order: int
    place: int
    id: str
    source: str
    frame_index: int
    capture_time_ns: int | None
    distance: float
    novelty: float | None
    patches: tuple[int, ...]
    grid: tuple[int, int]
    file: Leaving | None
    sha256: str | None
    metadata: Metadata = field(default_factory=dict)
    context: tuple[ContextFrame, ...] = ()
    sent: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedSource:
    """A source of selected frames; spec and fps are what opens it again."""

    name: str
    spec: str
    kind: str
    fps: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """name is that of the spool or picks file; frames stand in their order, their units numbered 1, 2, 3, ...

    door  what pictures of a spool leave through; None for a picks file
    """

    name: str
    producer: str
    bundle: str
    feature_space: str
    preset: str
    untrained: bool
    sources: tuple[SelectedSource, ...]
    frames: tuple[SelectedFrame, ...]
    door: Door | None = None


def read_selection(path: Path, privacy: PrivacyFilter | None = None) -> Selection:
    """Read the selected frames of a spool (also beside a running writer) or of a picks file, without their pictures.

    privacy  what those of a spool pass where it asks for it

    Raises UsageError where `path` is neither, SpoolError where the folder is no spool.
    """
    if path.is_dir():
        return _of_spool(path, privacy)
    if path.exists():
        picks = read_picks(path)
        try:
            return _of_picks(path.name, picks)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise not_whole(path, error) from error
    raise nothing_there(path)


def nothing_there(path: Path) -> UsageError:
    return UsageError(
        f"{path}: no such file or folder. Give a spool (of `geal-edge run`) or a picks file (of `geal-edge select`)."
    )


def not_whole(path: Path, error: Exception) -> UsageError:
    """What to raise where a picks file lacks a field, or has one of another type."""
    what = f"no {error}" if isinstance(error, KeyError) else error
    return UsageError(f"{path}: is not a whole picks file ({what}). Write it again with `geal-edge select -o`.")


def _of_spool(path: Path, privacy: PrivacyFilter | None) -> Selection:
    with open_view(path) as view:
        door = view.door(privacy)
        return Selection(
            name=path.resolve().name,
            producer=view.meta["producer"],
            bundle=view.meta["bundle"],
            feature_space=view.meta["feature_space"],
            preset=view.meta["preset"],
            untrained=view.untrained,
            sources=tuple(
                SelectedSource(name=s["name"], spec=s["spec"], kind=s["kind"], fps=s["fps"]) for s in view.sources()
            ),
            frames=tuple(
                SelectedFrame(
                    number=number,
                    order=frame.order or 0,
                    place=frame.place,
                    id=frame.id,
                    source=frame.source,
                    frame_index=frame.frame_index,
                    capture_time_ns=frame.capture_time_ns,
                    distance=frame.distance or 0.0,
                    novelty=frame.novelty,
                    patches=tuple(frame.witness_patches),
                    grid=view.grid,
                    file=frame.leaving(door),
                    # What was stored in place of the source's own bytes says nothing of these when they are read again.
                    sha256=frame.sha256 if frame.has_file or door.rules.under(frame.unit).when == "upload" else None,
                    metadata=frame.metadata,
                    context=() if view.shadow else frame.context,
                )
                for number, frame in enumerate(view.selected(rules=door.rules), start=1)
            ),
            door=door,
        )


def _of_picks(name: str, picks: Mapping[str, Any]) -> Selection:
    return Selection(
        name=name,
        producer=str(picks["producer"]),
        bundle=str(picks["bundle"]),
        feature_space=str(picks["feature_space"]),
        preset=str(picks["preset"]),
        untrained=bool(picks["untrained"]),
        sources=tuple(picked_source(source) for source in picks["sources"]),
        frames=picked_frames(picks),
    )


def picked_source(source: Mapping[str, Any]) -> SelectedSource:
    """A picks file's source. Raises KeyError, TypeError or ValueError where it is not whole."""
    return SelectedSource(
        name=str(source["name"]),
        spec=str(source["spec"]),
        kind=str(source["kind"]),
        fps=None if source["fps"] is None else float(source["fps"]),
    )


def picked_frames(picks: Mapping[str, Any]) -> tuple[SelectedFrame, ...]:
    """A picks file's frames in their order. Raises KeyError, TypeError or ValueError where they are not whole."""
    frames: list[SelectedFrame] = []
    orders, unit = [0], None
    for number, pick in enumerate(picks["picks"], start=1):
        joins = (pick["order"], pick["unit"]) == (orders[-1], unit)
        unit = pick["unit"]
        orders.append(orders[-1] + (not joins))
        frames.append(_picked(pick, number, frames[-1].place + 1 if joins else 0))
    if len({(frame.source, frame.frame_index) for frame in frames}) < len(frames):
        raise ValueError("a frame is picked twice")
    if [frame.order for frame in frames] != orders[1:]:
        raise ValueError("the picks are not numbered 1, 2, 3, ...")
    return tuple(frames)


def _picked(pick: Mapping[str, Any], number: int, place: int) -> SelectedFrame:
    rows, columns = (int(n) for n in pick["witness"]["grid"])
    patches = tuple(int(patch) for patch in pick["witness"]["patches"])
    if rows < 1 or columns < 1 or any(not 0 <= patch < rows * columns for patch in patches):
        raise ValueError(f"pick {pick['order']}: a patch lies outside the grid of {rows} x {columns}")
    distance = float(pick["distance"])
    if not 0.0 <= distance < math.inf:
        raise ValueError(f"pick {pick['order']}: a distance of {distance}")
    time_ns = pick["capture_time_ns"]
    return SelectedFrame(
        number=number,
        order=int(pick["order"]),
        place=place,
        id=str(pick["id"]),
        source=str(pick["source"]),
        frame_index=int(pick["frame_index"]),
        capture_time_ns=None if time_ns is None else int(time_ns),
        distance=distance,
        novelty=None,
        patches=patches,
        grid=(rows, columns),
        file=None,
        sha256=pick["sha256"],
    )


# -- the frames of a picks file, read again from their sources ---------------------------------------------------------


class Wanted(Protocol):
    """What must be known of a frame to tell that it is still the one that was picked."""

    @property
    def id(self) -> str: ...

    @property
    def sha256(self) -> str | None: ...


class Opener(Protocol):
    """What must be known of a source to open it again."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> str: ...

    @property
    def fps(self) -> float | None: ...


def read_again(
    source: Opener, wanted: Mapping[int, Wanted], *, stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, Frame | str]]:
    """(frame_index, frame) for each wanted one, in the source's own order; in place of a frame that is not there any
    more, the sentence that says why. One frame is held at a time, and nothing behind the last wanted one is read.

    Raises Interrupted once `stop()` says so, MissingDependency where one command would mend it for all frames.
    """
    left = dict(wanted)
    if is_live(source.spec):
        yield from (
            (index, f"{source.name} was live and cannot be read again; what was sent is on the far side.")
            for index in left
        )
        return
    try:
        opened = open_source(source.spec, name=source.name, fps=source.fps)
        for found in _frames_at(opened, sorted(wanted), stop):
            yield found.frame_index, still(found, left.pop(found.frame_index))
        why = f"{source.spec} has no such frame any more."
    except (MissingDependency, Interrupted):
        raise
    except GealEdgeError as error:
        why = f"The source cannot be read again: {error}"
    for index in left:
        yield index, why


def _frames_at(source: Source, indices: list[int], stop: Callable[[], bool]) -> Iterator[Frame | LostFrame]:
    """The frames at these ascending indices; those that are not there any more are left out."""
    left = set(indices)
    if isinstance(source, BagSource):
        for recorded in source.recorded(indices):
            _stop_if(stop)
            yield recorded.frame
        return
    if source.kind == "images":  # each is a file of its own: nothing between two picks need be decoded
        for index in indices:
            _stop_if(stop)
            found = next(source.frames(after=index - 1), None)
            if found is not None and found.frame_index == index:
                yield found
        return
    for frame in source.frames(after=indices[0] - 1):
        _stop_if(stop)
        if frame.frame_index in left:
            yield frame
        if frame.frame_index >= indices[-1]:
            return


def _stop_if(stop: Callable[[], bool]) -> None:
    if stop():
        raise Interrupted("Stopped while reading the sources again; nothing was written.")


def still(found: Frame | LostFrame, wanted: Wanted) -> Frame | str:
    """The frame, where it is the one that was picked; else the sentence that says why not."""
    if isinstance(found, LostFrame):
        return found.detail
    if found.id != wanted.id:
        return f"{found.id} stands in its place now."
    if wanted.sha256 is not None and found.encoded is not None and sha256(found.encoded).hexdigest() != wanted.sha256:
        return "The file has changed since it was picked."
    return found
