"""What a running process knows of itself: how long its stages take, what it has seen, how its cameras, its budget and its disk
stand. For whoever looks at it now (`geal-edge status`), and for metrics (docs/metrics.md).

    the deciding thread -> Telemetry.step, once a second at most -> snapshot, in memory -> the pulse: a file on tmpfs
    each stage's own thread -> its Histogram

Nothing of it goes to the spool or to a disk, and nothing is decided by it. The pulse lies where systemd keeps a service's files
of one boot (RUNTIME_DIRECTORY), else where a login has its own (XDG_RUNTIME_DIR), else nowhere; it is readable by its owner
alone, written whole and without a sync, and removed when the run ends. docs/formats.md has its fields.
"""

import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geal_edge
from geal_edge.errors import StorageError
from geal_edge.models.jsontext import parse_json
from geal_edge.runtime import durable
from geal_edge.runtime.budget import budget_lines
from geal_edge.runtime.clocks import BOUNDS_S, STAGES, Histogram
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.live.governor import LOOK_S, Governor, Load, LoadOfProcess
from geal_edge.runtime.live.source import LiveSource
from geal_edge.runtime.units import JudgedUnit
from geal_edge.runtime.vehicletime import powered_seconds

if TYPE_CHECKING:  # for the types alone: they come from modules that know this one
    from geal_edge.runtime.encoder import Encoder
    from geal_edge.runtime.rounds import Rounds
    from geal_edge.runtime.sources import Source
    from geal_edge.runtime.spool import Spool
    from geal_edge.runtime.watched import WatchedEncoder

SCHEMA = "geal-edge/pulse/1"
STEP_S = 1.0
PACE_S = 10.0
"""Over which frames per second are told."""
DISK_S = 30.0
"""So often the disk is asked: the sum over a spool's files takes a while where they are many."""
MAX_PULSE_BYTES = 256 * 1024
SERVICE_FOLDER = Path("/run/geal-edge")
"""RUNTIME_DIRECTORY of deploy/systemd/geal-edge.service, which a person's shell does not know of."""


class Telemetry:
    """All that is told of a run, over as many runs as one process makes of one spool.

    pulse      folder that its pulse goes to; None: it has none
    load, monotonic, wall_ns  of the machine, for tests others

    stages     stage -> Histogram
    snapshot   what the pulse says, at most `STEP_S` old while frames come or are waited for; {} before the first step. It is
               replaced and never changed: any thread may read it
    """

    def __init__(
        self,
        pulse: Path | None = None,
        *,
        load: Callable[[], Load] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.stages = {name: Histogram() for name in STAGES}
        self.snapshot: dict[str, Any] = {}
        self._folder = pulse
        self._pulse: Path | None = None
        self._load = load
        self._monotonic = monotonic
        self._wall_ns = wall_ns
        self._began_s = monotonic()
        self._began_ns = wall_ns()
        self._stepped_s = self._loaded_s = self._weighed_s = -float("inf")
        self._paces: deque[tuple[float, int, int]] = deque()  # (when, frames seen, frames judged)
        self._first: Counter[str] | None = None  # counters of the spool when this process came
        self._first_bytes = bytes_written() or 0
        self._commits = self._commits_before = 0
        self._judged = 0
        self._newest: tuple[float, str] | None = None  # (when it was judged, its id)
        self._lost: Counter[tuple[str, str]] = Counter()  # by camera and reason
        self._machine: dict[str, float | None] = {}
        self._cpu: tuple[float, float] | None = None  # (when, CPU seconds)
        self._disk: dict[str, Any] = {}
        self._engines: list[str] = []  # one after another, the first one first

    def count(self, unit: JudgedUnit) -> None:
        """A unit that was judged, or passed over."""
        self._judged += len(unit.frames)
        if unit.frames:
            self._newest = self._monotonic(), unit.frames[-1].frame.id
        for item, error in unit.lost:
            self._lost[_camera(item), error.reason] += 1

    def step(
        self,
        source: "Source | LiveSource",
        selector: "Rounds",
        spool: "Spool",
        *,
        encoder: "Encoder | WatchedEncoder",
        governor: Governor | None,
    ) -> None:
        """Look at everything, if it is time; asked between units by the thread that decides."""
        now = self._monotonic()
        if now - self._stepped_s < STEP_S:
            return
        self._stepped_s = now
        if self._first is None:
            self._first = Counter(spool.counters)
        self._weigh(now, spool)
        self._feel(now)
        if not self._engines or self._engines[-1] != encoder.backend.name:
            self._engines.append(encoder.backend.name)
        certificate = selector.certificate()
        group_s = spool.settings.group_s
        self.snapshot = {
            "schema": SCHEMA,
            "version": geal_edge.__version__,
            "pid": os.getpid(),
            "start_ticks": _start_ticks(os.getpid()),
            "spool": os.path.realpath(spool.path),
            "bundle": spool.settings.bundle,
            "wall_ns": self._wall_ns(),
            "powered_s": powered_seconds(),
            "began_wall_ns": self._began_ns,
            "uptime_s": round(now - self._began_s, 3),
            "source": source.name,
            "frames": by_state(spool.counters),
            "since_start": by_state({name: n - self._first[name] for name, n in spool.counters.items()}),
            "pace": self._pace(now, spool.seen),
            "newest": None
            if self._newest is None
            else {"id": self._newest[1], "age_s": round(now - self._newest[0], 3)},
            "cameras": self._cameras(source),
            "rate": _rate(source, governor),
            "machine": self._machine,
            "engine": {"name": self._engines[-1], "first": self._engines[0], "changes": len(self._engines) - 1},
            "round": spool.round.number,
            "retained_units": len(selector.retained),
            "radius": certificate.radius,
            "certificate": {"radius": certificate.radius, "lower_bound": certificate.lower_bound},
            "budget": budget_lines(
                spool.budget,
                counted="frames" if group_s is None else "units",
                limit=spool.settings.budget,
                spent=len(selector.released),
                length_s=spool.settings.length_s,
                elapsed_s=spool.round.elapsed_s,
            ),
            "disk": self._disk,
            "written": self._written(spool),
            "bounds_s": BOUNDS_S,
            "stages": {name: histogram.as_dict() for name, histogram in self.stages.items()},
        }
        self._beat(spool.path)

    def close(self) -> None:
        """The run is over: its pulse is gone. What was counted stays, for the next one."""
        self._stepped_s = self._weighed_s = -float("inf")
        self._commits_before += self._commits
        self._commits = 0
        if self._pulse is not None:
            with suppress(StorageError):
                durable.remove_file(self._pulse)
            self._pulse = None

    # -- inside --------------------------------------------------------------------------------------------------------

    def _beat(self, spool: Path) -> None:
        if self._folder is None:
            return
        self._pulse = self._pulse or self._folder / pulse_name(spool)
        with suppress(StorageError):  # a full tmpfs is no reason to stop
            durable.write_passing(self._pulse, json.dumps(self.snapshot, ensure_ascii=False).encode())

    def _pace(self, now: float, seen: int) -> dict[str, float | None]:
        """Frames per second, over the last `PACE_S`."""
        self._paces.append((now, seen, self._judged))
        while len(self._paces) > 2 and self._paces[1][0] <= now - PACE_S:
            self._paces.popleft()
        first_s, first_seen, first_judged = self._paces[0]
        if now <= first_s:
            return {"seen_per_s": None, "judged_per_s": None}
        return {
            "seen_per_s": round((seen - first_seen) / (now - first_s), 3),
            "judged_per_s": round((self._judged - first_judged) / (now - first_s), 3),
        }

    def _cameras(self, source: "Source | LiveSource") -> dict[str, dict[str, Any]]:
        told = source.cameras() if isinstance(source, LiveSource) else {}
        names = sorted({*told, *(camera for camera, _ in self._lost if camera)})
        return {
            name: {
                **told.get(name, {}),
                "lost": {reason: n for (camera, reason), n in sorted(self._lost.items()) if camera == name},
            }
            for name in names
        }

    def _feel(self, now: float) -> None:
        """What the process takes of the machine, as often as a governor looks."""
        if now - self._loaded_s < LOOK_S:
            return
        self._loaded_s = now
        self._load = self._load or LoadOfProcess(with_heat=True)
        load = self._load()
        before, self._cpu = self._cpu, (now, load.cpu_s)
        self._machine = {
            "cpu_percent": None if before is None else round(100.0 * (load.cpu_s - before[1]) / (now - before[0]), 1),
            "cpu_s": round(load.cpu_s, 3),
            "rss_bytes": load.rss_bytes,
            "temperature_c": load.temperature_c,
        }

    def _weigh(self, now: float, spool: "Spool") -> None:
        if now - self._weighed_s >= DISK_S:
            self._weighed_s = now
            self._disk = spool.disk()

    def _written(self, spool: "Spool") -> dict[str, int | None]:
        now = bytes_written()
        self._commits = spool.commits
        return {
            "bytes": None if now is None else now - self._first_bytes,
            "commits": self._commits_before + self._commits,
        }


def by_state(counters: Mapping[str, int]) -> dict[str, Any]:
    """A spool's counters as states. retained: frames that a decision took, whatever became of them later.

    >>> by_state({"seen": 9, "not_new": 4, "lost:too_slow": 2, "gated:dark": 1, "evicted": 1})["retained"]
    2
    """
    lost = {name.removeprefix("lost:"): n for name, n in counters.items() if name.startswith("lost:")}
    gated = {name.removeprefix("gated:"): n for name, n in counters.items() if name.startswith("gated:")}
    seen, not_new = counters.get("seen", 0), counters.get("not_new", 0)
    return {
        "seen": seen,
        "not_new": not_new,
        "retained": seen - not_new - sum(lost.values()) - sum(gated.values()),
        "evicted": counters.get("evicted", 0),
        "lost": dict(sorted(lost.items())),
        "gated": dict(sorted(gated.items())),
    }


def pulse_folder(environ: Mapping[str, str]) -> Path | None:
    """Where a run of this environment leaves its pulse; made if it is a login's. None: nowhere."""
    if service := environ.get("RUNTIME_DIRECTORY"):
        return Path(service.partition(":")[0])  # systemd has made it
    if login := environ.get("XDG_RUNTIME_DIR"):
        folder = Path(login) / "geal-edge"
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            return folder
    return None


def pulse_name(spool: Path) -> str:
    return f"{sha256(os.path.realpath(spool).encode()).hexdigest()[:16]}.json"


def read_pulse(spool: Path, environ: Mapping[str, str] = os.environ) -> dict[str, Any] | None:
    """What the run that fills a spool now says of itself, and `age_s`, how long ago; None where none runs here, it has nowhere
    to say it, or this user may not read it."""
    places = [*environ.get("RUNTIME_DIRECTORY", "").split(":"), environ.get("XDG_RUNTIME_DIR", "")]
    folders = [Path(place) for place in places if place]
    for folder in [*folders, *(folder / "geal-edge" for folder in folders), SERVICE_FOLDER]:
        try:
            with open(folder / pulse_name(spool), "rb") as file:
                pulse = parse_json(file.read(MAX_PULSE_BYTES))
            if pulse["schema"] == SCHEMA and _lives(pulse):
                return {**pulse, "age_s": max(0.0, powered_seconds() - pulse["powered_s"])}
        except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
            # None, or none of ours.
            continue
    return None


def bytes_written() -> int | None:
    """What the kernel has counted of this process's bytes that go to a device; None where it does not tell."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes:")), None)


def _camera(item: Frame | LostFrame) -> str:
    return item.topic or ""


def _rate(source: "Source | LiveSource", governor: Governor | None) -> dict[str, Any] | None:
    """Of a live source: frames of each camera per second that were asked for, those in force, and why they are fewer."""
    if governor is None or not isinstance(source, LiveSource):
        return None
    return {"asked_hz": governor.asked_hz, "in_force_hz": source.rate_hz, "cause": governor.cause}


def _lives(pulse: Mapping[str, Any]) -> bool:
    """Whether the process that wrote it is there: its number alone may be another's by now."""
    pid = pulse.get("pid")
    ticks = _start_ticks(pid) if isinstance(pid, int) else None
    return ticks is not None and ticks == pulse.get("start_ticks")


def _start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine did; None where there is none."""
    try:
        # The second field is the program's name, in brackets, and may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
