"""The guard of a stream of frames: what is broken is gated, and what was there for one frame alone does not count.

    frame -> quality -> encoder -> knowledge clusters -> persistence -> selector

Before the encoder a frame is refused for its pixels (quality.py) or for being the same picture over and over (`frozen`):
that is all of `--guard pixels`, and costs no cover on the drives that were measured (`python -m benchmarks.faults`). With
`--guard all`, which costs some, clusters that nothing near came before do not count (persistence.py) after the encoder, and a
frame of which none counts is refused as `fleeting`. Refused frames are gated: they count as seen, with their reason, and no
decision sees them.

Cameras (topics of one recording) are guarded each by itself. What the guard remembers reaches back `DEPTH` frames of a camera
and is not stored: `guard_after` shows it those frames again, so that a resumed source is judged as in one uninterrupted run.
"""

from collections import deque
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from geal_edge.config import GuardKind
from geal_edge.errors import FrameError, FrameGated
from geal_edge.runtime.clusters import KnowledgeClusters, Rows
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.persistence import WINDOW, BoolArray, persists
from geal_edge.runtime.quality import Limits, Quality, fault, quality
from geal_edge.runtime.sources import Source

LIMITS = Limits()
DEPTH = WINDOW + LIMITS.frozen_repeats
"""Frames of a camera that decide what it says of the next: those it compares with, and what made each of them frozen or not."""

_SPAN = 64
"""frame_indexes that `guard_after` goes back at first."""


@dataclass(slots=True)
class _Camera:
    """fingerprint of the last picture, how often it came again, and the clusters of the last frames (None: it had none)."""

    fingerprint: int | None = None
    repeats: int = 0
    frames: deque[Rows | None] = field(default_factory=lambda: deque(maxlen=WINDOW + 1))


class Guard:
    """Ask `before` of every frame that could be read, in order. In the same order, at once or later, tell it to `advance` to each
    and ask `counts` of those that have clusters.

    `before` knows nothing of the other two, nor they of it, so a thread that looks ahead may ask it (overlap.py).

    kind  `pixels`: every cluster counts; `all`: those that persist

    >>> import numpy as np
    >>> guard = Guard("all")
    >>> street = np.random.default_rng(0).normal(0, 9, (90, 320, 3)).cumsum(axis=1).clip(-90, 90) + 120
    >>> frame = Frame(id="f", source="s", frame_index=0, capture_time_ns=None, image=street.astype(np.uint8))
    >>> for _ in range(4):
    ...     try:
    ...         guard.advance(frame)
    ...         guard.before(frame)
    ...         print(guard.counts(frame, np.eye(2, dtype=np.float16)).tolist())
    ...     except FrameGated as gate:
    ...         print(gate.reason)
    fleeting
    [True, True]
    [True, True]
    frozen
    """

    def __init__(self, kind: GuardKind) -> None:
        self.kind = kind
        self._cameras: dict[str | None, _Camera] = {}

    def before(self, frame: Frame) -> None:
        """Look at a frame's pixels. Raises FrameGated where they are not fit to be judged."""
        self.weigh(frame, quality(frame.image))

    def weigh(self, frame: Frame, seen: Quality) -> None:
        """`before`, for a frame whose pixels were looked at already."""
        camera = self._camera(frame)
        camera.repeats = camera.repeats + 1 if camera.fingerprint == seen.fingerprint else 0
        camera.fingerprint = seen.fingerprint
        reason = "frozen" if camera.repeats >= LIMITS.frozen_repeats else fault(seen, LIMITS)
        if reason is not None:
            raise FrameGated(reason, f"{frame.id} is not fit to be judged")

    def advance(self, item: Frame | LostFrame) -> None:
        """A frame comes in its turn: if it could be read, it parts those before it from those behind it, whatever is in it."""
        if isinstance(item, Frame):
            self._camera(item).frames.append(None)  # until `counts` knows better

    def counts(self, frame: Frame, rows: Rows) -> BoolArray:
        """Which of a frame's clusters (C, D) count, bool (C,), at least one. Raises FrameGated where none does."""
        if self.kind == "pixels":
            return np.ones(len(rows), bool)
        camera = self._camera(frame)
        counts = persists(rows, [known for known in list(camera.frames)[:-1] if known is not None])
        camera.frames[-1] = rows
        if not counts.any():
            raise FrameGated("fleeting", f"nothing in {frame.id} was there in the frames before it")
        return counts

    def _camera(self, frame: Frame) -> _Camera:
        return self._cameras.setdefault(frame.topic, _Camera())


def guard_after(
    source: Source,
    cursor: int,
    kind: GuardKind,
    clusters_of: Callable[[Frame], KnowledgeClusters],
    held_back: Container[str] = (),
) -> Guard:
    """The guard as it was when the frame at `cursor` (a frame_index; -1: none) had been judged.

    Reads at least the last `DEPTH` frames of each camera again; `all` encodes them too. `held_back`: ids of frames that a gate
    did not let through to it.
    """
    guard = Guard(kind)
    for frame in _last_frames(source, cursor, held_back):
        guard.advance(frame)
        with suppress(FrameError):  # lost or gated then, and so now
            guard.before(frame)
            if kind == "all":
                guard.counts(frame, clusters_of(frame).rows)
    return guard


def _last_frames(source: Source, cursor: int, held_back: Container[str]) -> list[Frame]:
    """The last `DEPTH` usable frames of each camera up to `cursor` that were not held back, in order; all there are, where there
    are fewer."""
    cameras: tuple[str | None, ...] = getattr(source, "topics", (None,))
    span = _SPAN
    while cursor >= 0:
        start = max(-1, cursor - span)
        last: dict[str | None, deque[Frame]] = {camera: deque(maxlen=DEPTH) for camera in cameras}
        for item in source.frames(after=start):
            if item.frame_index > cursor:
                break
            if isinstance(item, Frame) and item.id not in held_back:
                last[item.topic].append(item)
        if start == -1 or all(len(frames) == DEPTH for frames in last.values()):
            return sorted((f for frames in last.values() for f in frames), key=lambda f: f.frame_index)
        span *= 4  # with --fps a frame that is looked at may be far behind the one before it
    return []
