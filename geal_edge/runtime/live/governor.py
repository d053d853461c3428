"""The governor of a live source: where the machine is too slow or too hot, or others need it, fewer frames are looked at.

Asked between units, it looks every `LOOK_S` at what the process takes and at how hot the machine is. By rule:

- Over a limit, or with more than half of the last minute's frames lost because nobody could look at them in time, the rate is
  halved, never below `LEAST_HZ`; then not again for `WAIT_S`, since what follows from it shows only then.
- After `CALM_S` with room under every limit the rate goes up by a quarter, never above the one that was asked for.
- With too much memory the context that cameras hold is given up as well; `PATIENCE_S` of too much end the run.

Each step is an event with its cause and what was seen. CPU time is that of the whole process over the last `WAIT_S`.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geal_edge.config import LimitConfig
from geal_edge.errors import LimitExceeded
from geal_edge.runtime.sensors import Sensors

LOOK_S, WAIT_S, CALM_S, PATIENCE_S, LATE_S = 5.0, 20.0, 60.0, 60.0, 60.0
"""LATE_S: of frames that were lost because they came too fast."""
LEAST_HZ = 0.1
LATE_SHARE, LATE_CALM = 0.5, 0.1
RAISED = 1.25
ROOM_BYTES, ROOM_C = 0.9, 3.0
"""Under their limits: a share of the bytes, degrees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the machine says now.

    cpu_s          CPU seconds that this process has taken so far
    rss_bytes      of memory that it has
    temperature_c  of the hottest sensor; None where none tells
    """

    cpu_s: float
    rss_bytes: int
    temperature_c: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An event. `cause` is the name of a limit, or `too_slow`; None where nothing holds the rate down any more."""

    name: Literal["rate_lowered", "rate_raised", "context_given_up"]
    cause: str | None
    rate_hz: float
    was_hz: float
    seen: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        cause = {} if self.cause is None else {"cause": self.cause}
        return {**cause, "rate_hz": self.rate_hz, "was_hz": self.was_hz, **self.seen}


@dataclass(frozen=True, slots=True)
class _Look:
    at_s: float
    cpu_s: float
    frames: int
    late: int


class Governor:
    """rate_hz: the rate that was asked for; context: whether cameras hold any; load, monotonic: of the machine, for tests others.

    >>> clock, hot = iter([0.0, 5.0, 30.0, 55.0]), Load(cpu_s=0.0, rss_bytes=0, temperature_c=99.0)
    >>> governor = Governor(LimitConfig(max_temperature_c=80.0), 2.0, load=lambda: hot, monotonic=lambda: next(clock))
    >>> [change.rate_hz for _ in range(3) for change in governor.step(frames=0, late=0)]
    [1.0, 0.5, 0.25]
    """

    def __init__(
        self,
        limits: LimitConfig,
        rate_hz: float,
        *,
        context: bool = False,
        load: Callable[[], Load] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate_hz = self.asked_hz = rate_hz
        self.cause: str | None = None
        """What it was lowered for last; None while it is the one that was asked for."""
        self._limits = limits
        self._load = load or LoadOfProcess(with_heat=limits.max_temperature_c is not None)
        self._monotonic = monotonic
        self._looks: deque[_Look] = deque()
        self._looked_s = monotonic()
        self._changed_s = -float("inf")
        self._calm_since_s: float | None = None
        self._over_memory_since_s: float | None = None
        self._has_context = context

    @property
    def can_be_told(self) -> bool:
        """Whether there is a sensor for every limit."""
        return self._limits.max_temperature_c is None or self._load().temperature_c is not None

    def step(self, *, frames: int, late: int) -> list[Change]:
        """What is to be done, mostly nothing. `frames`: counted so far; `late`: of them lost because they came too fast.

        Raises LimitExceeded where too much memory was in use for too long.
        """
        now = self._monotonic()
        if now - self._looked_s < LOOK_S:
            return []
        self._looked_s = now
        load = self._load()
        self._looks.append(_Look(now, load.cpu_s, frames, late))
        while len(self._looks) > 1 and self._looks[1].at_s <= now - LATE_S:
            self._looks.popleft()  # the first that stays is as old as any question
        seen, over, calm = self._weigh(now, load)
        changes = self._heed_memory(now, load, seen)
        if not calm:
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = now
        lowered_hz = max(LEAST_HZ, self.rate_hz / 2.0)
        if over is not None and lowered_hz < self.rate_hz and now - self._changed_s >= WAIT_S:
            changes.append(self._change("rate_lowered", over, lowered_hz, seen, now))
        elif self._calm_since_s is not None and self.rate_hz < self.asked_hz and now - self._calm_since_s >= CALM_S:
            raised_hz = min(self.asked_hz, RAISED * self.rate_hz)
            changes.append(self._change("rate_raised", None, raised_hz, seen, now))
        return changes

    def _weigh(self, now: float, load: Load) -> tuple[dict[str, float], str | None, bool]:
        """(what was seen, the limit that is exceeded, whether there is room under all of them)."""
        limits, seen = self._limits, dict[str, float]()
        over: str | None = None
        calm = True

        def hold(name: str, value: float, limit: float, room: float) -> None:
            nonlocal over, calm
            seen[name] = round(value, 3)
            over = name if over is None and value > limit else over
            calm = calm and value <= room

        if limits.max_rss_bytes is not None:
            room_bytes = ROOM_BYTES * limits.max_rss_bytes
            hold("max_rss_bytes", load.rss_bytes, limits.max_rss_bytes, room_bytes)
        if limits.max_temperature_c is not None and load.temperature_c is not None:
            room_c = limits.max_temperature_c - ROOM_C
            hold("max_temperature_c", load.temperature_c, limits.max_temperature_c, room_c)
        first = self._since(now - WAIT_S)
        if limits.cpu_percent is not None and first is not None:
            percent = 100.0 * (load.cpu_s - first.cpu_s) / (now - first.at_s)
            hold("cpu_percent", percent, limits.cpu_percent, limits.cpu_percent / RAISED)
        first = self._since(now - LATE_S)
        if first is not None and (frames := self._looks[-1].frames - first.frames) > 0:
            hold("too_slow", (self._looks[-1].late - first.late) / frames, LATE_SHARE, LATE_CALM)
        return seen, over, calm

    def _since(self, at_s: float) -> _Look | None:
        """The look from which a span that begins at `at_s` is told, none before the last change; None while it is not over."""
        if self._looks[0].at_s > at_s:
            return None
        return next((look for look in reversed(self._looks) if look.at_s <= at_s), None)

    def _heed_memory(self, now: float, load: Load, seen: dict[str, float]) -> list[Change]:
        limit = self._limits.max_rss_bytes
        if limit is None or load.rss_bytes <= limit:
            self._over_memory_since_s = None
            return []
        if self._over_memory_since_s is None:
            self._over_memory_since_s = now
        if now - self._over_memory_since_s >= PATIENCE_S:
            raise LimitExceeded(
                f"limits.max_rss_bytes = {limit}: the process has had more for {PATIENCE_S:g} s, {load.rss_bytes} bytes now, "
                "though its rate was lowered. What was decided is safe, and the same command goes on: allow more, or use fewer "
                "cameras, less context or a smaller memory"
            )
        if not self._has_context:
            return []
        self._has_context = False
        given_up = Change(
            name="context_given_up", cause="max_rss_bytes", rate_hz=self.rate_hz, was_hz=self.rate_hz, seen=seen
        )
        return [given_up]

    def _change(
        self,
        name: Literal["rate_lowered", "rate_raised"],
        cause: str | None,
        rate_hz: float,
        seen: dict[str, float],
        now: float,
    ) -> Change:
        self.cause = None if rate_hz >= self.asked_hz else cause or self.cause
        change = Change(name=name, cause=cause, rate_hz=rate_hz, was_hz=self.rate_hz, seen=seen)
        self.rate_hz, self._changed_s, self._calm_since_s = rate_hz, now, None
        last = self._looks[-1]
        self._looks.clear()  # what was before says nothing of this rate
        self._looks.append(last)
        return change


class LoadOfProcess:
    """What /proc and the sensors of this machine say. with_heat: whether the sensors are asked at all."""

    def __init__(self, *, with_heat: bool) -> None:
        self._sensors = Sensors() if with_heat else None
        self._page = os.sysconf("SC_PAGE_SIZE")

    def __call__(self) -> Load:
        temperatures = {} if self._sensors is None else self._sensors.read(0.0).temperatures
        return Load(
            cpu_s=time.process_time(),
            rss_bytes=int(Path("/proc/self/statm").read_text().split()[1]) * self._page,
            temperature_c=max(temperatures.values(), default=None),
        )


def step_back(nice: int) -> None:
    """Let other processes go first: every thread of this one that goes before `nice` is set to it, and so are those that they
    start. It is for the rest of the process's life: nobody but root may go forward again."""
    for thread in Path("/proc/self/task").iterdir():
        number = int(thread.name)
        with suppress(ProcessLookupError):  # it has ended meanwhile
            if os.getpriority(os.PRIO_PROCESS, number) < nice:
                os.setpriority(os.PRIO_PROCESS, number, nice)
