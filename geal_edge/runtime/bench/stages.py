"""What a frame costs, stage by stage, one after another; and how fast the pipeline goes, with its stages at one time.

    source -> decode -> resize -> encode -> distil -> cluster -> score -> append          (measure_stages: each by itself)
    source -> pipeline.run -> frames per second                                           (pipeline_pace: all of it, as it runs)

Both fill a spool of their own, with the decisions of a cold start: what is stored is part of the price.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from geal_edge.errors import FrameError, Interrupted
from geal_edge.models.preprocess import resize
from geal_edge.runtime import pipeline
from geal_edge.runtime.clocks import STAGES
from geal_edge.runtime.clusters import KnowledgeClusters, knowledge_clusters
from geal_edge.runtime.distill import distill
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.frame import Image, usable
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.overlap import AHEAD
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.sources import Source
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.telemetry import bytes_written
from geal_edge.runtime.threads import one_blas_thread
from geal_edge.runtime.units import JudgedFrame, JudgedUnit
from geal_edge.runtime.vehicletime import powered_seconds

WARM_UP = 10
"""Frames at the beginning that count for nothing: buffers are made, caches filled, clocks raised."""
PIXELS = 64
"""Pictures of the model's size that are remembered, for what is asked of the encoder alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the frames behind the warm-up had written.

    commits, files  transactions, stored frames
    bytes_          what the kernel counts for this process, in whole pages that go to a device; None: it does not tell, or the
                    folder lies in memory
    """

    commits: int
    files: int
    bytes_: int | None

    @property
    def syncs(self) -> int:
        """Each file syncs its bytes and its folder (durable.py), each commit the database's log (synchronous=FULL)."""
        return 2 * self.files + self.commits


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCosts:
    """Per frame behind the warm-up.

    wall_ms, cpu_ms  stage -> milliseconds of each frame; CPU time is that of the whole process, its engine's threads included
    engine_ms        milliseconds of each frame inside the engine
    pixels           the first pictures, as the model saw them
    fps              frames per second of the source's own time; None where it has none
    """

    wall_ms: dict[str, list[float]]
    cpu_ms: dict[str, list[float]]
    engine_ms: list[float]
    pixels: list[Image]
    fps: float | None
    written: Written

    @property
    def frames(self) -> int:
        return len(self.engine_ms)

    def cpu_ms_per_frame(self, *stages: str) -> float:
        """Mean CPU milliseconds of a frame, in some stages or in all."""
        return sum(sum(self.cpu_ms[stage]) for stage in stages or STAGES) / self.frames


@dataclass(slots=True)
class _Clocks:
    wall_ms: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    cpu_ms: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what is done within; what fails has no time."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.cpu_ms[name].append(1e3 * (time.process_time() - cpu))
        self.wall_ms[name].append(1e3 * (time.perf_counter() - wall))

    def settled(self) -> dict[str, dict[str, list[float]]]:
        """Without the warm-up; a frame that was lost on the way is in the stages that it reached."""
        return {
            name: {stage: values[WARM_UP:] for stage, values in table.items()}
            for name, table in (("wall_ms", self.wall_ms), ("cpu_ms", self.cpu_ms))
        }


def measure_stages(
    source: Source, encoder: Encoder, folder: Path, *, budget: int, frames: int, stop: Stop | None = None
) -> StageCosts:
    """Put the first `frames` frames of a source behind the warm-up, or all there are, through the pipeline's stages by hand.

    folder  where the spool is made

    Raises Interrupted, what the engine raises and what a spool raises.
    """
    bundle, clocks = encoder.bundle, _Clocks()
    manifest = bundle.manifest
    pixels: list[Image] = []
    engine_ms: list[float] = []
    times: list[int] = []
    begun: tuple[int, int, int | None] = (0, 0, None)
    files = 0
    spool = Spool(folder, pipeline.spool_settings(bundle, budget))
    with one_blas_thread(), spool:
        spool.begin_source(source)
        selector = Rounds(spool, powered_seconds)
        items = source.frames()
        for number in range(WARM_UP + frames):
            (stop or Stop()).heed()
            if number == WARM_UP:
                begun = spool.commits, files, bytes_written()
            try:
                with clocks.stage("decode"):
                    item = next(items)
            except StopIteration:
                break
            try:
                frame = usable(item)
                with clocks.stage("resize"):
                    small = resize(frame.image, manifest.width, manifest.height, manifest.resize)
                with clocks.stage("encode"):
                    encoded = encoder(small)
                engine_ms.append(1e3 * encoder.backend.last_s)
                recipe = manifest.clusters
                # A graph that groups by itself leaves nothing to these two, as in pipeline.py.
                with clocks.stage("distil"):
                    grouped = encoded.clusters or distill(
                        encoded.patch_features,
                        encoded.cls_attention,
                        attention_ratio=recipe.attention_ratio,
                        ratio_rule=recipe.ratio_rule,
                    )
                with clocks.stage("cluster"):
                    clusters = (
                        grouped if isinstance(grouped, KnowledgeClusters) else knowledge_clusters(grouped, recipe)
                    )
            except FrameError as error:
                spool.pass_over(JudgedUnit(frames=(), lost=((item, error),)))
                continue
            with clocks.stage("score"):
                decision = selector.score(clusters)
            with clocks.stage("append"):
                spool.append(JudgedUnit(frames=(JudgedFrame(frame=frame, clusters=clusters),)), decision)
                selector.learn(decision)
            files += decision.retain
            if len(pixels) < PIXELS:
                pixels.append(small)
            if frame.capture_time_ns is not None:
                times.append(frame.capture_time_ns)
        ended = spool.commits, files, bytes_written()
    commits = ended[0] - begun[0]
    bytes_ = None if begun[2] is None or ended[2] is None else ended[2] - begun[2]
    return StageCosts(
        **clocks.settled(),
        engine_ms=engine_ms[WARM_UP:],
        pixels=pixels,
        fps=(len(times) - 1) * 1e9 / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else None,
        written=Written(
            commits=commits,
            files=ended[1] - begun[1],
            bytes_=bytes_ if bytes_ or not commits else None,
        ),
    )


def pipeline_pace(
    source: Source,
    encoder: Encoder,
    folder: Path,
    *,
    budget: int,
    enough: Callable[[int], bool],
    stop: Stop | None = None,
    ahead: int = AHEAD,
) -> list[float]:
    """When each frame was done (seconds of `time.perf_counter`), by `pipeline.run` on the source again and again.

    enough  asked after each frame with their number; True ends it. `stop`, the caller's own, ends it too

    Raises what `pipeline.run` raises, Interrupted alone when `stop` was asked from outside.
    """
    watch = _Pace(enough, stop or Stop())
    with suppress(_Enough):
        while True:
            seen = len(watch.done_at)
            pipeline.run(
                [source],
                encoder=encoder,
                spool_path=folder,
                budget=budget,
                again=True,
                ahead=ahead,
                watch=watch,
                stop=stop,
            )
            if len(watch.done_at) == seen:
                break  # a source without frames
    return watch.done_at


class _Enough(Interrupted):
    """The measurement is over: the spool is left as it is after Ctrl-C."""


class _Pace(Silent):
    def __init__(self, enough: Callable[[int], bool], stop: Stop) -> None:
        self.done_at: list[float] = []
        self._enough = enough

    def advance(self, **counts: int) -> None:
        self.done_at.append(time.perf_counter())
        if self._enough(len(self.done_at)):
            raise _Enough


def frames_per_s(done_at: list[float]) -> float:
    """The rate behind the warm-up.

    >>> frames_per_s([0.0] * WARM_UP + [1.0, 1.5, 2.0])
    2.0
    """
    settled = done_at[WARM_UP:]
    return (len(settled) - 1) / (settled[-1] - settled[0])


def encoder_pace(encoder: Encoder, pixels: list[Image], frames: int) -> float:
    """Frames per second of the encoder alone, one after another, on pictures that lie ready."""
    began = time.perf_counter()
    for number in range(frames):
        encoder(pixels[number % len(pixels)])
    return frames / (time.perf_counter() - began)


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p95 and p99.

    >>> percentiles([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    return {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)}
