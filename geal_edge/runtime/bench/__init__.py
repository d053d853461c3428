"""What a bundle costs on this machine (`geal-edge bench`): its stages, the pipeline beside its encoder, heat, energy, memory.

    source -> stages.py, frame by frame -> the encoder alone and the pipeline, in turns -> with minutes: the pipeline, sensors.py
    looking on -> memory so far -> batches -> Bench -> told.py for people, plot.py for the eye, `as_json` for machines

What the system does not tell stands as None or is absent, and is told as such: never 0.
"""

import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import geal_edge
from geal_edge.errors import SourceError
from geal_edge.runtime.backends.choice import BackendName
from geal_edge.runtime.backends.identity import ON_GPU, identity
from geal_edge.runtime.bench.stages import (
    WARM_UP,
    StageCosts,
    encoder_pace,
    frames_per_s,
    measure_stages,
    percentiles,
    pipeline_pace,
)
from geal_edge.runtime.clocks import STAGES
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.sensors import Reading, Sensors, energy_j, load_average
from geal_edge.runtime.sources import Source
from geal_edge.runtime.stopping import Stop

SCHEMA = "geal-edge/bench/1"
BUDGET = 50
FRAMES = 100
"""Of a measurement, where the source has so many."""
TURNS = 3
BATCHES = (1, 2, 4, 8)
BATCH_REPEATS = 5
LOOK_S = 1.0
"""Between two looks at the sensors."""
INTERVAL_S = 10.0
"""A point of the sustained curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Milliseconds of a frame: percentiles by the clock, and the mean of the CPU time of all threads."""

    p50: float
    p95: float
    p99: float
    cpu_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """An interval of the sustained run: when it ended, its rate, and what the sensors said at its end."""

    at_s: float
    frames_per_s: float
    temperatures: dict[str, float]
    clocks: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What was measured.

    stages                 in the order of the data
    batches                batch size -> frames/s inside the engine; one size where the graph has a fixed one
    encoder_frames_per_s   the encoder alone, one frame after another; a number for each turn
    pipeline_frames_per_s  everything, a number for each turn
    cpu_ms                 CPU milliseconds of a frame of the pipeline, all threads
    gpu_ms                 median milliseconds of a frame in an engine on a GPU; None: it is on the CPU
    source_frames_per_s    of the source's own time; None where it has none
    sustained              None without `minutes`
    energy_j               counter or rail -> joules a frame, what the idle machine takes included; empty: not told
    peak_memory_mb         of this process, before it makes batches; None: not told
    commits, syncs, bytes_ per 1,000 frames seen, of the cold start's; bytes_ None: not told
    load                   processes that wanted a CPU in the minute before
    """

    bundle: dict[str, Any]
    machine: dict[str, Any]
    source: dict[str, Any]
    frames: int
    budget: int
    stages: dict[str, Stage]
    batches: dict[int, float]
    encoder_frames_per_s: list[float]
    pipeline_frames_per_s: list[float]
    cpu_ms: float
    gpu_ms: float | None
    source_frames_per_s: float | None
    sustained: list[Point] | None
    energy_j: dict[str, float]
    peak_memory_mb: float | None
    commits: float
    syncs: float
    bytes_: float | None
    load: float

    @property
    def pipeline_over_encoder(self) -> list[float]:
        """Of each turn, since other work on the machine meets both alike."""
        return [a / b for a, b in zip(self.pipeline_frames_per_s, self.encoder_frames_per_s, strict=True)]

    def as_json(self) -> dict[str, Any]:
        """The machine form (docs/formats.md)."""
        told = asdict(self)
        written = {"commits": told.pop("commits"), "syncs": told.pop("syncs"), "bytes": told.pop("bytes_")}
        return {
            "schema": SCHEMA,
            "producer": f"geal-edge {geal_edge.__version__}",
            **told,
            "batches": {str(size): rate for size, rate in self.batches.items()},
            "written_per_1000_frames": written,
        }


def bench(
    encoder: Encoder,
    source: Source,
    *,
    frames: int = FRAMES,
    minutes: float | None = None,
    sensors: Sensors | None = None,
    watch: Observer,
    stop: Stop | None = None,
) -> Bench:
    """Measure an entered encoder on the first `frames` frames of a source behind a warm-up; with `minutes`, the pipeline on all
    of it too, again and again.

    Spools are made in the folder for temporary files (TMPDIR) and removed. Raises SourceError where the source has too few
    frames, Interrupted where `stop` was asked before the last part, which it only makes shorter, and what engine and spool raise.
    """
    stop, sensors = stop or Stop(), sensors or Sensors()
    load = load_average()
    with tempfile.TemporaryDirectory(prefix="geal-edge-bench-") as folder:
        spools = Path(folder)
        watch.begin("stages", None)
        costs = measure_stages(source, encoder, spools / "stages", budget=BUDGET, frames=frames, stop=stop)
        if costs.frames < 2:
            raise SourceError(
                f"{source.name}: has too few usable frames to measure, {WARM_UP + 2} are the least. Name another --source."
            )
        watch.begin("the encoder alone and the pipeline, in turns", TURNS)
        alone, together, cpu_ms = [], [], []
        joules: dict[str, float] = {}
        for turn in range(TURNS):
            stop.heed()
            alone.append(encoder_pace(encoder, costs.pixels, costs.frames))
            run = _Looking(sensors, lambda n: n >= WARM_UP + costs.frames)
            done_at = pipeline_pace(
                source, encoder, spools / f"turn-{turn}", budget=BUDGET, enough=run.enough, stop=stop
            )
            together.append(frames_per_s(done_at))
            cpu_ms.append(run.cpu_ms / (len(done_at) - WARM_UP))
            for name, used in energy_j([*run.readings, sensors.read(time.perf_counter())], sensors.wraps).items():
                joules[name] = joules.get(name, 0.0) + used / (len(done_at) - WARM_UP)
            watch.advance()
        sustained = None
        if minutes is not None:
            watch.begin(f"the pipeline for {minutes:g} minutes", None)
            sustained = _sustained(encoder, source, spools / "sustained", minutes, sensors, stop)
        # Before the batches, of which a vehicle makes none: the largest takes more memory than all that a run does.
        peak_memory_mb = _peak_mb()
        watch.begin("batches", None)
        batches = _batches(encoder, costs)
    return Bench(
        bundle=_bundle(encoder),
        machine=_machine(encoder),
        source={"name": source.name, "spec": source.spec, "size": list(source.size) if source.size else None},
        frames=costs.frames,
        budget=BUDGET,
        stages={
            name: Stage(**percentiles(costs.wall_ms[name]), cpu_ms=costs.cpu_ms_per_frame(name)) for name in STAGES
        },
        batches=batches,
        encoder_frames_per_s=alone,
        pipeline_frames_per_s=together,
        cpu_ms=statistics.median(cpu_ms),
        gpu_ms=statistics.median(costs.engine_ms) if encoder.backend.name in ON_GPU else None,
        source_frames_per_s=costs.fps,
        sustained=sustained,
        energy_j={name: used / TURNS for name, used in joules.items()},
        peak_memory_mb=peak_memory_mb,
        commits=1000 * costs.written.commits / costs.frames,
        syncs=1000 * costs.written.syncs / costs.frames,
        bytes_=None if costs.written.bytes_ is None else 1000 * costs.written.bytes_ / costs.frames,
        load=load,
    )


class _Looking:
    """Looks at the sensors and at the CPU time while frames go by, from the end of the warm-up on."""

    def __init__(self, sensors: Sensors, enough: Callable[[int], bool]) -> None:
        self.readings: list[Reading] = []
        self._sensors = sensors
        self._enough = enough
        self._cpu_s = 0.0

    def enough(self, frames: int) -> bool:
        now = time.perf_counter()
        if frames == WARM_UP:
            self._cpu_s = time.process_time()
        if frames >= WARM_UP and (not self.readings or now - self.readings[-1].at_s >= LOOK_S):
            self.readings.append(self._sensors.read(now))
        return self._enough(frames)

    @property
    def cpu_ms(self) -> float:
        """Since the warm-up."""
        return 1e3 * (time.process_time() - self._cpu_s)


def _sustained(
    encoder: Encoder, source: Source, folder: Path, minutes: float, sensors: Sensors, stop: Stop
) -> list[Point]:
    end_s = time.perf_counter() + 60.0 * minutes
    # Asked to stop, it is over, and not the measurement: who has waited for half of an hour wants to read what that gave.
    run = _Looking(sensors, lambda _: stop() or time.perf_counter() >= end_s)
    done_at = np.array(pipeline_pace(source, encoder, folder, budget=BUDGET, enough=run.enough))
    began_s, points = float(done_at[0]), list[Point]()
    for begin in np.arange(began_s, done_at[-1], INTERVAL_S):
        inside = done_at[(done_at >= begin) & (done_at < begin + INTERVAL_S)]
        if len(inside) < 2:
            continue  # the last one may be too short to have a rate
        last = [reading for reading in run.readings if reading.at_s <= inside[-1]]
        points.append(
            Point(
                at_s=float(inside[-1]) - began_s,
                frames_per_s=float((len(inside) - 1) / (inside[-1] - inside[0])),
                temperatures=last[-1].temperatures if last else {},
                clocks=last[-1].clocks if last else {},
            )
        )
    return points


def _batches(encoder: Encoder, costs: StageCosts) -> dict[int, float]:
    """Frames per second inside the engine, by batch size: the median of a few, behind one that warms up."""
    fixed = encoder.bundle.manifest.batch
    rates: dict[int, float] = {}
    for size in BATCHES if fixed is None else (fixed,):
        frames = np.stack([costs.pixels[i % len(costs.pixels)] for i in range(size)])
        took = []
        for _ in range(1 + BATCH_REPEATS):
            encoder.backend.run({"image": frames})
            took.append(encoder.backend.last_s)
        rates[size] = size / statistics.median(took[1:])
    return rates


def _peak_mb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _bundle(encoder: Encoder) -> dict[str, Any]:
    manifest = encoder.bundle.manifest
    return {
        "digest": encoder.bundle.digest,
        "model": manifest.model["name"],
        "precision": manifest.precision,
        "size": [manifest.width, manifest.height],
        "untrained": manifest.untrained,
    }


def _machine(encoder: Encoder) -> dict[str, Any]:
    name: BackendName = encoder.backend.name  # type: ignore[assignment]  # a backend bears the name that opens it
    found = identity(name)
    return {
        "backend": name,
        "engine": found.engine,
        "device": found.device,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
