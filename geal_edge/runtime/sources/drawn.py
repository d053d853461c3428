"""The drawn drive, `drawn:SEED`: a road that needs no download, with rare events whose frames are known.

Long dull stretches, and in them every now and then something worth a label. Road, events and their places follow from
the seed alone and were fixed before anything was selected from them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from geal_edge.errors import UsageError
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.sources import scenery
from geal_edge.runtime.sources.rate import Rate

FRAMES = 360
FRAMES_PER_S = 5
EVENTS_AT_MOST = 12
FRAMES_PER_EVENT = 25  # a shorter drive has fewer events, so that its dull stretches stay long
EVENT_FRAMES = (4, 9)  # shortest and longest
QUIET_FRAMES = 5  # at least, before, between and after events


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens on a drawn drive, in the frames `first` to `last`, both included."""

    name: str
    first: int
    last: int


class DrawnDrive:
    """A drive of `frame_count` frames (480 x 270, 5 a second) and its `events`, in order of time.

    name   defaults to `drawn-SEED`
    fps    see Rate; the drive's own rate is 5

    Raises UsageError for a negative seed, no frames or a senseless rate, MissingDependency where Pillow is not installed.

    >>> drive = DrawnDrive(7)
    >>> len(drive.events), drive.frame_count
    (12, 360)
    """

    def __init__(self, seed: int, frames: int = FRAMES, *, name: str | None = None, fps: float | None = None) -> None:
        if seed < 0:
            raise UsageError(f"drawn:{seed}: the seed must be 0 or more")
        if frames < 1:
            raise UsageError(f"drawn:{seed}:{frames}: a drive has at least 1 frame")
        self.name = name or f"drawn-{seed}"
        self.spec = f"drawn:{seed}:{frames}"
        self.kind = "drawn"
        self.fps = fps
        self.size: tuple[int, int] | None = (scenery.WIDTH, scenery.HEIGHT)
        self.events = _place_events(seed, frames)
        self._frames = frames
        self._frame_count = Rate(fps).count(frames, FRAMES_PER_S)
        self._scenery = scenery.Scenery(seed)

    def fingerprint(self) -> str:
        return self.spec

    @property
    def frame_count(self) -> int:
        return self._frame_count

    def event_at(self, frame_index: int) -> Event | None:
        """What happens in a frame, None in a dull one."""
        return next((event for event in self.events if event.first <= frame_index <= event.last), None)

    def frames(self, after: int = -1) -> Iterator[Frame | LostFrame]:
        rate = Rate(self.fps)
        for index in range(self._frames):
            time_ns = index * 1_000_000_000 // FRAMES_PER_S
            if not rate.takes(time_ns) or index <= after:
                continue
            event = self.event_at(index)
            progress = (index - event.first) / (event.last - event.first) if event else 0.0
            yield Frame(
                id=f"{self.name}#{index}",
                source=self.name,
                frame_index=index,
                capture_time_ns=time_ns,
                image=self._scenery.paint(index, event.name if event else None, progress),
            )


def _place_events(seed: int, frames: int) -> tuple[Event, ...]:
    rng = np.random.default_rng([seed, 0])
    names = list(scenery.EVENTS)
    number = min(EVENTS_AT_MOST, len(names), frames // FRAMES_PER_EVENT)
    chosen = [names[index] for index in rng.permutation(len(names))[:number].tolist()]
    lengths = rng.integers(EVENT_FRAMES[0], EVENT_FRAMES[1], size=number, endpoint=True).tolist()
    quiet = frames - sum(lengths) - QUIET_FRAMES * (number + 1)
    # Cutting the quiet frames at random places makes some stretches short and some very long, as on a road.
    starts = np.sort(rng.integers(0, quiet, size=number, endpoint=True)).tolist()
    events: list[Event] = []
    taken = 0
    for name, length, start in zip(chosen, lengths, starts, strict=True):
        first = start + taken + QUIET_FRAMES * (len(events) + 1)
        events.append(Event(name, first, first + length - 1))
        taken += length
    return tuple(events)
