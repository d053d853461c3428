"""How a spool and the run that fills it stand, looked at again and again by somebody who must not slow it down.

The pulse (telemetry.py) is the run's own word, a second old. The rest is what the spool has stored: it is read only where its
files have changed, and reading it takes at most a tenth of the time. Nothing is written, and no run waits for it.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geal_edge.errors import GealEdgeError
from geal_edge.runtime.eventlog import Changes, Event
from geal_edge.runtime.spoolview import SpoolView, open_view
from geal_edge.runtime.telemetry import read_pulse
from geal_edge.runtime.timeline import Timeline

MINUTE_S = 60.0
"""Over which it is told what has changed."""
SHARE = 10.0
"""A look that took a second is followed by nine without one."""
EVENTS = 50
"""That are remembered; a terminal shows the newest."""
SILENT_S = 5.0
"""A camera that has shown nothing for so long has something wrong with it."""
CAMERA_STATES = {
    "camera_started": "",
    "camera_back": "",
    "camera_lost": "lost ({reason})",
    "camera_frozen": "frozen",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen at one moment.

    status     machine form of `status`, with the run's own counts where there is a pulse; None: nothing could be read yet
    problem    why nothing could be read now, a sentence; "" where it could
    pulse      what the run says of itself (telemetry.py), with `age_s`; None where none runs here, or it cannot be heard
    stored_ns  when the spool was written last, wall clock
    radii      radius over all that was seen, oldest first; None while only the top level was alive
    cameras    camera -> what is wrong with it, "" for nothing
    held_down  why the rate is lower than it was asked for, by the newest event of it; None: it is not
    changed    state -> frames more than `over_s` seconds ago; the same of `lost:REASON` and `gated:REASON`
    events     the newest, oldest first
    """

    status: dict[str, Any] | None = None
    problem: str = ""
    pulse: dict[str, Any] | None = None
    stored_ns: int = 0
    radii: tuple[float | None, ...] = ()
    cameras: Mapping[str, str] = field(default_factory=dict)
    held_down: str | None = None
    changed: Mapping[str, int] = field(default_factory=dict)
    over_s: float = 0.0
    events: tuple[Event, ...] = ()


class Onlook:
    """Looks at a spool, which may not be there yet, or not any more.

    monotonic, wall_ns, pulse  of the machine, for tests others
    """

    def __init__(
        self,
        spool: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        pulse: Callable[[Path], dict[str, Any] | None] = read_pulse,
    ) -> None:
        self.spool = spool
        self._monotonic = monotonic
        self._pulse = pulse
        self._changes = Changes(spool, wall_ns)
        self._not_before_s = -float("inf")
        self._status: dict[str, Any] | None = None
        self._problem = ""
        self._radii: tuple[float | None, ...] = ()
        self._after = 0
        self._events: deque[Event] = deque(maxlen=EVENTS)
        self._cameras: dict[str, str] = {}
        self._held_down: str | None = None
        self._counts: deque[tuple[float, dict[str, int]]] = deque()

    def look(self) -> Look:
        """Look once. Nothing is raised: what is wrong is said."""
        now = self._monotonic()
        if now >= self._not_before_s and self._changes.new():
            self._read()
            took_s = self._monotonic() - now
            self._not_before_s = now + SHARE * took_s
        pulse = self._pulse(self.spool)
        status = self._status and _as_the_run_counts(self._status, pulse)
        changed, over_s = self._since_a_minute(now, status)
        return Look(
            status=status,
            problem=self._problem,
            pulse=pulse,
            stored_ns=self._changes.stored_ns,
            radii=self._radii,
            cameras=_cameras(self._cameras, pulse),
            held_down=self._held_down,
            changed=changed,
            over_s=over_s,
            events=tuple(self._events),
        )

    # -- inside --------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            with open_view(self.spool) as view:
                self._take_events(view)
                self._status = view.status()
                self._radii = tuple(_radii(view.timeline))
        except (GealEdgeError, OSError) as error:
            self._changes.forget()
            self._problem, self._status = str(error), None
            self._counts.clear()
            return
        self._problem = ""

    def _take_events(self, view: SpoolView) -> None:
        if view.last_event < self._after:  # another spool in its place
            self._after, self._held_down = 0, None
            self._events.clear()
            self._cameras.clear()
            self._counts.clear()
        for event in view.events(after=self._after):
            self._after = event["event"]
            self._events.append(event)
            if (state := CAMERA_STATES.get(event["name"])) is not None:
                self._cameras[str(event.get("camera"))] = state.format(**event)
            elif event["name"] in ("rate_lowered", "rate_raised"):
                cause = event.get("cause")
                self._held_down = None if cause is None else str(cause)

    def _since_a_minute(self, now: float, status: Mapping[str, Any] | None) -> tuple[dict[str, int], float]:
        """(what has changed, since how many seconds)."""
        if status is None:
            return {}, 0.0
        counts = dict(status["frames"])
        for kind in ("lost", "gated"):
            counts |= {f"{kind}:{reason}": n for reason, n in status[kind].items()}
        self._counts.append((now, counts))
        while len(self._counts) > 2 and self._counts[1][0] <= now - MINUTE_S:
            self._counts.popleft()
        first_s, first = self._counts[0]
        return {name: n - first.get(name, 0) for name, n in counts.items()}, now - first_s


def _radii(line: Timeline) -> Iterator[float | None]:
    """Where nothing was judged the radius stayed what it was."""
    radius = None
    for bucket in line.buckets:
        radius = bucket.radius if bucket.lost < bucket.frames else radius
        yield radius


def _as_the_run_counts(status: dict[str, Any], pulse: Mapping[str, Any] | None) -> dict[str, Any]:
    """The spool's rows are stored with each decision, its counters half a minute later: those the run tells itself."""
    if pulse is None:
        return status
    told = pulse["frames"]
    if told["seen"] < status["frames"]["seen"]:  # of before the last look at the spool
        return status
    frames = {
        **status["frames"],
        **{name: told[name] for name in ("seen", "not_new", "evicted")},
        **{name: sum(told[name].values()) for name in ("lost", "gated")},
    }
    return {**status, "frames": frames, "lost": told["lost"], "gated": told["gated"], "budget": pulse["budget"]}


def _cameras(noted: Mapping[str, str], pulse: Mapping[str, Any] | None) -> dict[str, str]:
    """What is wrong with each camera that the run has now, by its newest event and by what it says itself."""
    if pulse is None:
        return {}
    found = {}
    for name, told in pulse["cameras"].items():
        silent_s = told.get("silent_s") or 0.0
        said = noted.get(name, "")
        found[name] = said if said or silent_s < SILENT_S else f"no picture for {silent_s:.0f} s"
    return found
