"""A live source: cameras that see now, each on a thread of its own, as one stream of frames that never waits for anybody.

    camera thread -> rate -> newest-frame queue -> frames(): the instant that waited longest, whatever was lost before it

A live source is not resumed: what nobody looked at in time is gone, and is counted as lost with its reason. Only the numbers of
its frames go on. `frames` yields None where a unit ends and where nothing came for a while, so that whoever reads can do what
is due meanwhile. A camera that fails is opened again, later and later; that is an event, never a stop.

Lost for: `queue_full` (newer frames pushed it out), `too_slow` (it waited longer than `latency_s`), `stopped` (it was still
waiting when the source ended), and what an image file may be lost for (images.py).
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Event, Thread
from typing import Any

from geal_edge.config import ContextConfig
from geal_edge.errors import FrameError, SourceError, UsageError
from geal_edge.runtime.clocks import UNTIMED
from geal_edge.runtime.frame import Frame, Image, LostFrame
from geal_edge.runtime.live.camera import Camera
from geal_edge.runtime.live.intake import Arrival, Arrivals, CameraIntake, Lost
from geal_edge.runtime.live.ring import Glimpse, Ring
from geal_edge.runtime.observer import Notice
from geal_edge.runtime.sources.images import decode_image
from geal_edge.runtime.sources.rate import MAX_FPS
from geal_edge.runtime.units import tolerance_ns

RATE_HZ = 2.0
LATENCY_S = 2.0
IDLE_S = 0.5
"""Seconds without a frame after which `frames` says so."""
GRACE_S = 0.2
"""Seconds that the first frame of an instant waits for those of the other cameras."""
SILENT_S = 5.0
"""Seconds without a shot after which a camera is said to be silent,"""
SILENT_GAPS = 3.0
"""or so many times that which usually lies between its shots, where that is longer."""
CONTEXT_SLACK_S = 5.0
"""Seconds that pictures are remembered beyond what context and latency need: a decision and its storage take a while."""
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0


class LiveSource:
    """Cameras as a Source (sources/__init__.py) whose `frames` has no end and yields None in between.

    rate_hz    frames of each camera that are looked at, per second
    group_s    frames of several cameras whose capture times differ by at most this are one unit
    latency_s  a frame that waited longer than this is lost
    for_s      ends so many seconds after it was first asked for frames; None: when it is told to

    Raises UsageError for two cameras of one name, or numbers that cannot be meant.
    """

    def __init__(
        self,
        cameras: Sequence[Camera],
        *,
        name: str = "live",
        rate_hz: float = RATE_HZ,
        group_s: float | None = None,
        latency_s: float = LATENCY_S,
        for_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        names = [camera.name for camera in cameras]
        if len(set(names)) < len(names):
            clash = max(names, key=names.count)
            specs = " and ".join(camera.spec for camera in cameras if camera.name == clash)
            raise UsageError(
                f"two cameras have the name {clash!r} ({specs}): give each once, under a name of its own, as left=ADDRESS and "
                "right=ADDRESS"
            )
        if not 0.0 < rate_hz <= MAX_FPS:
            raise UsageError(f"fps = {rate_hz:g}: must be a number of frames per second above 0, at most {MAX_FPS:g}")
        self.name = name
        self.rate_hz = rate_hz
        self.monotonic = monotonic
        self.spec = ", ".join(camera.spec for camera in cameras)
        self.kind = "live"
        self.fps: float | None = None  # the rate may be another at the next start: nothing is resumed
        self.size: tuple[int, int] | None = None
        self.frame_count: int | None = None
        self.topics = tuple(names)
        self._cameras = tuple(cameras)
        self._latency_s = latency_s
        self._for_s = for_s
        self._end_s: float | None = None  # of the clock, once it has begun
        self._arrivals = Arrivals(None if group_s is None else tolerance_ns(group_s))
        self._intakes = {c.name: CameraIntake(c.name, self._arrivals, rate_hz, monotonic) for c in cameras}
        self._rings: dict[str, Ring] = {}
        self._silent: set[str] = set()
        self._formats: dict[str, tuple[int, ...]] = {}  # (width, height)
        self._issued: list[Frame | LostFrame] = []  # since whoever reads was last known to have done with them
        self._taken: list[Arrival] = []  # out of the queue, not issued yet
        self._owed: list[Lost] = []  # the same of what is lost
        self._index = -1  # of the last one issued
        self.decoding = UNTIMED["decode"]
        """What times the decoding of pictures that come as a file's bytes; whoever runs it may put in another."""

    def fingerprint(self) -> str:
        return "live:" + self.spec

    def frames(self, after: int = -1) -> Iterator[Frame | LostFrame | None]:
        """Frames from now on, numbered from `after` + 1; None between units. Closing it stops the cameras' threads; they may be
        asked for again then."""
        self._arrivals.open()
        stopped = Event()
        threads = [Thread(target=self._work, args=(camera, stopped), daemon=True) for camera in self._cameras]
        for thread in threads:
            thread.start()
        self._index = after
        if self._end_s is None and self._for_s is not None:
            self._end_s = self.monotonic() + self._for_s
        end_s = self._end_s
        try:
            while end_s is None or self.monotonic() < end_s:
                self._taken = self._take(IDLE_S if end_s is None else min(IDLE_S, end_s - self.monotonic()))
                for lost in self._lost():
                    self._issued = [lost]
                    yield lost
                self._issued = []
                while self._taken:
                    frame = self._frame(self._taken[0], self._index + 1)
                    self._issued.append(frame)
                    self._index += 1
                    del self._taken[0]
                    yield frame
                yield None
                self._issued = []
        finally:
            stopped.set()
            until = (
                time.monotonic() + FIRST_RETRY_S
            )  # of all: drivers may hang in the kernel, and must not hold up the end
            for thread in threads:
                thread.join(timeout=max(0.0, until - time.monotonic()))

    def leftover(self, after: int) -> Iterator[LostFrame]:
        """What was taken in and will not be judged, once the last frame counted was `after`: asked when `frames` has ended,
        or whoever read it was told to stop. Nothing is taken in from then on."""
        left = self._arrivals.close()
        for item in self._issued:
            if item.frame_index > after:
                yield item if isinstance(item, LostFrame) else self._stopped(item.id, item.frame_index, item)
        yield from self._lost()
        self._issued, left, self._taken = [], self._taken + left, []
        for arrival in left:
            self._index += 1
            yield self._stopped(f"{self.name}#{arrival.id}", self._index, arrival)

    def take_notices(self) -> list[Notice]:
        """What happened to cameras since this was last asked."""
        self._look_for_silence()
        return self._arrivals.take_notices()

    def cameras(self) -> dict[str, dict[str, Any]]:
        """How each camera stands: shots it has shown since it was begun, how many wait to be judged, seconds since the last."""
        with self._arrivals.changed:
            waiting = Counter(arrival.camera for arrival in self._arrivals.pending)
        now = self.monotonic()
        return {
            name: {
                "offered": intake.offered,
                "waiting": waiting[name],
                "silent_s": round(max(0.0, now - intake.last_offer_s), 3),
            }
            for name, intake in self._intakes.items()
        }

    def set_rate(self, rate_hz: float) -> None:
        """Frames of each camera that are looked at per second, from now on."""
        self.rate_hz = rate_hz
        for intake in self._intakes.values():
            intake.pace.rate_hz = rate_hz

    def hold_context(self, config: ContextConfig) -> None:
        """Have the cameras remember their last seconds from now on, in memory, for `glimpses`."""
        hold_s = config.before_s + config.after_s + self._latency_s + CONTEXT_SLACK_S
        self._rings = {name: Ring(hold_s=hold_s) for name in self._intakes}
        for name, intake in self._intakes.items():
            intake.hold(self._rings[name], config.rate_hz)

    @property
    def holds_context(self) -> bool:
        return bool(self._rings)

    def forget_context(self) -> None:
        """Give that memory back."""
        for intake in self._intakes.values():
            intake.hold(None, 0.0)
        self._rings = {}

    def glimpses(self, camera: str, first_ns: int, last_ns: int) -> list[Glimpse]:
        """What a camera remembers of these capture times."""
        ring = self._rings.get(camera)
        return [] if ring is None else ring.between(first_ns, last_ns)

    def take_end_of_trip(self) -> bool:
        """Whether a camera's side has said, since this was last asked, that the trip is over."""
        with self._arrivals.changed:
            over, self._arrivals.trip_over = self._arrivals.trip_over, False
        return over

    def _take(self, wait_s: float) -> list[Arrival]:
        """The frames of the instant that waited longest, once they are complete or late; none after `wait_s` without any."""
        waiting = self._arrivals
        until = self.monotonic() + wait_s
        with waiting.changed:
            while True:
                if waiting.crashed is not None:
                    raise waiting.crashed
                self._lose_late()
                instant = waiting.instant_of(waiting.pending[0]) if waiting.pending else []
                if instant:
                    until = instant[0].arrived_s + GRACE_S
                now = self.monotonic()
                if not instant and waiting.any_lost:
                    return []
                whole = instant and (not waiting.grouped or waiting.live <= {arrival.camera for arrival in instant})
                if whole or now >= until:
                    for arrival in instant:
                        waiting.pending.remove(arrival)
                    return instant
                waiting.changed.wait(until - now)

    def _lost(self) -> Iterator[LostFrame]:
        """One for each frame that was lost before anybody could look at it."""
        self._owed += self._arrivals.take_lost()
        while self._owed:
            lost = self._owed[0]
            self._owed[:1] = [replace(lost, count=lost.count - 1)] if lost.count > 1 else []
            self._index += 1
            yield LostFrame(
                id=f"{self.name}#{lost.camera}@lost-{self._index}",
                source=self.name,
                frame_index=self._index,
                capture_time_ns=None,
                reason=lost.reason,
                detail=lost.detail,
                topic=lost.camera,
            )

    def _stopped(self, id_: str, index: int, item: Arrival | Frame) -> LostFrame:
        return LostFrame(
            id=id_,
            source=self.name,
            frame_index=index,
            capture_time_ns=item.capture_time_ns,
            reason="stopped",
            detail="the source ended before this one could be judged.",
            topic=item.camera if isinstance(item, Arrival) else item.topic,
        )

    def _lose_late(self) -> None:
        oldest_s = self.monotonic() - self._latency_s
        for late in [arrival for arrival in self._arrivals.pending if arrival.arrived_s < oldest_s]:
            self._arrivals.pending.remove(late)
            detail = f"it waited for more than {self._latency_s:g} s."
            self._arrivals.lose(late.camera, "too_slow", detail)

    def _frame(self, arrival: Arrival, index: int) -> Frame | LostFrame:
        common: dict[str, Any] = {
            "id": f"{self.name}#{arrival.id}",
            "source": self.name,
            "frame_index": index,
            "capture_time_ns": arrival.capture_time_ns,
            "topic": arrival.camera,
        }
        metadata = arrival.metadata
        if not isinstance(arrival.picture, bytes):
            self._watch_format(arrival.camera, arrival.picture)
            return Frame(image=arrival.picture, metadata=metadata, **common)
        try:
            with self.decoding:
                decoded = decode_image(arrival.picture)
        except FrameError as error:
            return LostFrame(reason=error.reason, detail=error.detail, **common)
        self._watch_format(arrival.camera, decoded.image)
        encoded, encoding = decoded.encoded, decoded.encoding
        return Frame(image=decoded.image, encoded=encoded, encoding=encoding, metadata=metadata, **common)

    def _watch_format(self, camera: str, image: Image) -> None:
        was, now = self._formats.get(camera), image.shape[1::-1]
        if was is not None and was != now:
            self._intakes[camera].notice("format_changed", was=list(was), now=list(now))
        self._formats[camera] = now

    def _work(self, camera: Camera, stopped: Event) -> None:
        """A camera's thread."""
        intake = self._intakes[camera.name]
        intake.last_offer_s = (
            self.monotonic()
        )  # what came before, such as loading the model, is no silence of the camera
        retry_s = FIRST_RETRY_S
        try:
            while not stopped.is_set():
                before = intake.offered
                self._set_live(camera.name, True)
                try:
                    camera.watch(intake, stopped)
                    reason = "it ended"
                except (SourceError, OSError) as error:  # of the system, such as no more files to be opened
                    reason = str(error)
                if stopped.is_set():
                    return
                self._set_live(camera.name, False)
                retry_s = FIRST_RETRY_S if intake.offered > before else min(2.0 * retry_s, LAST_RETRY_S)
                intake.notice("camera_lost", reason=reason, retry_in_s=retry_s)
                stopped.wait(retry_s)
        except BaseException as error:  # noqa: BLE001  a fault of ours must not end a thread in silence
            with self._arrivals.changed:
                self._arrivals.crashed = error
                self._arrivals.changed.notify_all()

    def _set_live(self, camera: str, live: bool) -> None:
        with self._arrivals.changed:
            (self._arrivals.live.add if live else self._arrivals.live.discard)(camera)

    def _look_for_silence(self) -> None:
        now = self.monotonic()
        for name, intake in self._intakes.items():
            silent_s = now - intake.last_offer_s
            is_silent = silent_s >= max(SILENT_S, SILENT_GAPS * intake.usual_gap_s)
            if is_silent and name not in self._silent:
                self._silent.add(name)
                self._set_live(name, False)  # an instant does not wait for it
                intake.notice("camera_silent", silent_s=round(silent_s, 1))
            elif not is_silent and name in self._silent:
                self._silent.discard(name)
                self._set_live(name, True)
                intake.notice("camera_back")
