"""Between a camera's thread and the pipeline: a rate, a bounded queue, and a count of what is lost.

The newest frames win. A queue that is full loses its oldest frame; with `--group` the others of its instant go with it, so that
what is left are whole instants. Whatever is lost is counted by camera and reason, in a few numbers, however long the pipeline is
away: memory does not grow.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from threading import Condition
from typing import Any
from zlib import crc32

import numpy as np

from geal_edge.errors import FrameError, UsageError
from geal_edge.runtime.live.camera import Picture, Shot
from geal_edge.runtime.live.ring import Ring
from geal_edge.runtime.metadata import Metadata
from geal_edge.runtime.observer import Notice

QUEUE_FRAMES = 2
"""Frames of one camera that may wait: one that is next, and one that is newer."""
JUMP_S = 2.0
"""A camera's time has jumped where it went this much further than the time that passed here."""
FROZEN_SHOTS = 4
"""The same picture so many times in a row is no picture of a road."""
RECENT_GAPS = 5
"""Times between shots by whose median a camera's own pace is told: one outage is no pace."""
NOTICE_EVERY_S = 10.0
"""One camera says one thing at most this often: what happens with every frame must not push all other events out."""


class Pace:
    """Which shots are looked at: the first in every time slot of 1 / rate_hz seconds of the camera's clock.

    The slots are those of the clock, not of the first shot, so that cameras with one clock are looked at in the same instants.
    Where that clock stands still or jumps about, the time that passed here decides.

    >>> pace = Pace(2.0)
    >>> [at for at in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if pace.takes(round(at * 1e9), at)]
    [0.0, 0.6, 1.0]
    >>> stuck = Pace(2.0)
    >>> [at for at in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if stuck.takes(0, at)]
    [0.0, 0.8]
    """

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz = rate_hz  # may be changed at any time
        self._slot: int | None = None
        self._taken_s = 0.0

    def takes(self, capture_time_ns: int, arrived_s: float) -> bool:
        rate_hz = self.rate_hz
        slot = int((capture_time_ns + 1_000) * rate_hz / 1e9)
        if self._slot is not None:
            slots = (arrived_s - self._taken_s) * rate_hz
            if slots < 0.5 or (slot == self._slot and slots < 1.5):
                return False
        self._slot, self._taken_s = slot, arrived_s
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A shot that was taken. `arrived_s` is of the monotonic clock here; `id` is unique in the source, but for its name."""

    camera: str
    id: str
    capture_time_ns: int
    arrived_s: float
    picture: Picture
    metadata: Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """So many frames of a camera that nobody will look at, for one reason."""

    camera: str
    reason: str
    detail: str
    count: int


class Arrivals:
    """All that came in and was not taken out; every field is guarded by `changed`.

    tolerance_ns  frames whose capture times differ by at most this are of one instant; None: each stands alone
    """

    def __init__(self, tolerance_ns: int | None) -> None:
        self.changed = Condition()
        self.pending: list[Arrival] = []
        self.live: set[str] = set()
        self.notices: list[Notice] = []
        self.trip_over = False
        self.closed = False
        self.crashed: BaseException | None = None
        self._lost: Counter[tuple[str, str]] = Counter()
        self._details: dict[tuple[str, str], str] = {}
        self._tolerance_ns = tolerance_ns

    @property
    def grouped(self) -> bool:
        return self._tolerance_ns is not None

    @property
    def any_lost(self) -> bool:
        return bool(self._lost)

    def put(self, arrival: Arrival) -> bool:
        """False once nobody takes anything any more."""
        with self.changed:
            if self.closed:
                return False
            own = [waiting for waiting in self.pending if waiting.camera == arrival.camera]
            if len(own) >= QUEUE_FRAMES:
                for gone in self.instant_of(own[0]):
                    self.pending.remove(gone)
                    self._lose(gone.camera, "queue_full", "newer frames came before this one could be judged.")
            self.pending.append(arrival)
            self.changed.notify_all()
        return True

    def lose(self, camera: str, reason: str, detail: str) -> bool:
        """False once nobody counts any more."""
        with self.changed:
            if self.closed:
                return False
            self._lose(camera, reason, detail)
            self.changed.notify_all()
        return True

    def open(self) -> None:
        """Take what comes from now on, also where it was closed: a service's cameras go on under another configuration."""
        with self.changed:
            self.closed = False

    def close(self) -> list[Arrival]:
        """Take nothing any more; gives what was left waiting."""
        with self.changed:
            self.closed = True
            left, self.pending = self.pending, []
        return left

    def instant_of(self, first: Arrival) -> list[Arrival]:
        """What waits of the instant of a frame, at most one of each camera, in order of arrival."""
        if self._tolerance_ns is None:
            return [first]
        found: dict[str, Arrival] = {}
        for waiting in self.pending:
            if abs(waiting.capture_time_ns - first.capture_time_ns) <= self._tolerance_ns:
                found.setdefault(waiting.camera, waiting)
        return list(found.values())

    def take_lost(self) -> list[Lost]:
        with self.changed:
            taken = [
                Lost(camera=camera, reason=reason, detail=self._details[camera, reason], count=count)
                for (camera, reason), count in self._lost.items()
            ]
            self._lost.clear()
        return taken

    def take_notices(self) -> list[Notice]:
        with self.changed:
            taken, self.notices = self.notices, []
        return taken

    def _lose(self, camera: str, reason: str, detail: str) -> None:
        self._lost[camera, reason] += 1
        self._details[camera, reason] = detail


class CameraIntake:
    """The Intake of one camera. Used by its thread alone, but for what it puts into `arrivals`."""

    def __init__(self, camera: str, arrivals: Arrivals, rate_hz: float, monotonic: Callable[[], float]) -> None:
        self.camera = camera
        self.offered = 0
        self.last_offer_s = monotonic()
        self._gaps: tuple[float, ...] = ()  # seconds; replaced and never changed, since another thread reads it
        self._arrivals = arrivals
        self.pace = Pace(rate_hz)
        self._monotonic = monotonic
        self._noticed: dict[str, float] = {}
        self._last: tuple[int, float] | None = None  # capture time and arrival of the shot before
        self._repeats = 0
        self._digest, self._same = 0, 0
        self._ring: tuple[Ring, Pace] | None = None

    def hold(self, ring: Ring | None, rate_hz: float) -> None:
        """Put so many pictures a second into a ring as well, judged or not; None: no more."""
        self._ring = None if ring is None else (ring, Pace(rate_hz))

    def offer(self, shot: Shot) -> bool:
        now = self._monotonic()
        self.offered += 1
        self._gaps = (*self._gaps[1 - RECENT_GAPS :], now - self.last_offer_s)
        self.last_offer_s = now
        self._watch_time(shot.capture_time_ns, now)
        judged = self.pace.takes(shot.capture_time_ns, now)
        ring, pace = self._ring or (None, None)
        beside = pace is not None and pace.takes(shot.capture_time_ns, now)
        if not judged and not beside:
            return False
        try:
            picture = shot.read()
        except FrameError as error:
            return self._arrivals.lose(self.camera, error.reason, error.detail) if judged else False
        if ring is not None and beside and not ring.add(shot.capture_time_ns, picture, arrived_s=now):
            self.notice("context_full")
        if not judged:
            return False
        self._watch_picture(picture)
        label = f"{shot.capture_time_ns}.{self._repeats + 1}" if self._repeats else f"{shot.capture_time_ns}"
        arrival = Arrival(
            camera=self.camera,
            id=f"{self.camera}@{label}",
            capture_time_ns=shot.capture_time_ns,
            arrived_s=now,
            picture=picture,
            metadata=self._metadata(shot),
        )
        return self._arrivals.put(arrival)

    @property
    def usual_gap_s(self) -> float:
        """Seconds between its shots of late; 0 while none is known."""
        return median(self._gaps) if self._gaps else 0.0

    def notice(self, name: str, **detail: Any) -> None:
        now = self._monotonic()
        if now - self._noticed.get(name, -NOTICE_EVERY_S) < NOTICE_EVERY_S:
            return
        self._noticed[name] = now
        with self._arrivals.changed:
            self._arrivals.notices.append(Notice(name=name, detail={"camera": self.camera, **detail}))

    def end_trip(self) -> None:
        with self._arrivals.changed:
            self._arrivals.trip_over = True
            self._arrivals.changed.notify_all()

    def _metadata(self, shot: Shot) -> Metadata:
        """Empty where it cannot be read: a picture is worth judging all the same."""
        try:
            return shot.metadata()
        except UsageError as error:
            self.notice("metadata_unreadable", detail=str(error))
            return {}

    def _watch_time(self, capture_time_ns: int, now: float) -> None:
        if self._last is not None:
            before_ns, before_s = self._last
            step_s = (capture_time_ns - before_ns) / 1e9
            if step_s == 0.0:
                self._repeats += 1
                self.notice("time_repeated", capture_time_ns=capture_time_ns)
            else:
                self._repeats = 0
                if step_s < 0.0 or step_s - (now - before_s) > JUMP_S:
                    self.notice("time_jumped", by_s=round(step_s - (now - before_s), 3))
        self._last = capture_time_ns, now

    def _watch_picture(self, picture: Picture) -> None:
        digest = crc32(picture if isinstance(picture, bytes) else np.ascontiguousarray(picture).data)
        self._same = self._same + 1 if digest == self._digest else 1
        self._digest = digest
        if self._same == FROZEN_SHOTS:
            self.notice("camera_frozen", pictures=self._same)
