"""How fast the pipeline goes beside what its encoder and the machine's cores would allow.

    python -m benchmarks.pipeline --bundle BUNDLE DRIVE [--threads 1] [--device-ms 200] [--budget 50] [--frames 100] [--repeats 5]
                                  [--after DRIVE ...] [--json]

Each repeat measures in turn, on the first frames of the drive: what a frame costs stage by stage (CPU time, one after the
other), the encoder alone on pictures that lie ready, the pipeline with its stages at one time, the pipeline with one after the
other. The bound is min(encoder alone, cores / CPU time of a frame); ratios are taken within each repeat, so that other work on
the machine meets all alike. "beside" is the CPU time of everything but decode and encode, resize told apart.

In the first seconds of an empty memory nearly every frame is new, and stored. With --after those drives (5 frames a second) have
been through the same spool before the costs are taken, and what is new on the drive is new after them.

With --device-ms the engine takes so many milliseconds of a device of its own, as a GPU does, and no CPU: it gives again what the
CPU said of the first frames. Where other work takes the CPUs, this alone tells how well the stages overlap.
"""

import argparse
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from benchmarks.common import machine, show, spread
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.backends import Arrays
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.bench.stages import WARM_UP, encoder_pace, frames_per_s, measure_stages, pipeline_pace
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.overlap import AHEAD
from geal_edge.runtime.sources import open_source

REMEMBERED = 40
"""Answers that a `Device` gives again: under `WARM_UP` + --frames, so that it has them before anything is compared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device-ms", type=float)
    parser.add_argument("--budget", type=int, default=50)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--after", nargs="*", default=[], metavar="DRIVE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle, source = Bundle.open(options.bundle), open_source(options.source)
    cores = machine()["cpus"]
    columns: dict[str, list[float]] = {}
    engine = (
        OrtCpu(bundle.graph, threads=options.threads)
        if options.device_ms is None
        else Device(bundle.graph, options.device_ms / 1e3)
    )
    with Encoder(bundle, engine) as encoder:
        for _ in range(options.repeats):
            for name, value in once(encoder, source, cores, options).items():
                columns.setdefault(name, []).append(value)
    facts = {
        "drive": source.name,
        "size": source.size,
        "threads of the encoder": options.threads,
        "ms of a device": options.device_ms,
        "budget": options.budget,
        "frames": options.frames,
        "repeats": options.repeats,
        "after": len(options.after),
    }
    show("pipeline", {name: spread(values) for name, values in columns.items()}, facts, as_json=options.json)


class Device(OrtCpu):
    """An engine on a device of its own."""

    def __init__(self, graph: Path, frame_s: float) -> None:
        super().__init__(graph, threads=1)
        self._frame_s = frame_s
        self._answers: list[Arrays] = []
        self._asked = 0

    def _infer(self, feeds: Arrays) -> Arrays:
        self._asked += 1
        if len(self._answers) < REMEMBERED:
            self._answers.append({name: values.copy() for name, values in super()._infer(feeds).items()})
        else:
            threading.Event().wait(self._frame_s)
        return self._answers[self._asked % len(self._answers)]


def once(encoder: Encoder, source, cores: int, options: argparse.Namespace) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """One of each; a spool for each, on the disk of the current folder."""
    folder = Path(tempfile.mkdtemp(prefix="spool-", dir="."))
    try:
        for drive in options.after:
            before = open_source(drive, fps=5.0)
            measure_stages(before, encoder, folder / "stages", budget=options.budget, frames=sys.maxsize)
        costs = measure_stages(source, encoder, folder / "stages", budget=options.budget, frames=options.frames)
        alone = encoder_pace(encoder, costs.pixels, options.frames)
        paces = {
            ahead: frames_per_s(
                pipeline_pace(
                    source,
                    encoder,
                    folder / f"ahead-{ahead}",
                    budget=options.budget,
                    enough=lambda n: n >= WARM_UP + options.frames,
                    ahead=ahead,
                )
            )
            for ahead in (AHEAD, 0)
        }
    finally:
        shutil.rmtree(folder)
    bound = min(alone, 1e3 * cores / costs.cpu_ms_per_frame())
    return {
        "pipeline over bound": paces[AHEAD] / bound,
        "one after another over bound": paces[0] / bound,
        "pipeline, frames/s": paces[AHEAD],
        "one after another, frames/s": paces[0],
        "encoder alone, frames/s": alone,
        "cores over CPU time, frames/s": 1e3 * cores / costs.cpu_ms_per_frame(),
        "CPU ms, decode": costs.cpu_ms_per_frame("decode"),
        "CPU ms, encode": costs.cpu_ms_per_frame("encode"),
        "CPU ms, resize": costs.cpu_ms_per_frame("resize"),
        "CPU ms, beside": costs.cpu_ms_per_frame("distil", "cluster", "score", "append"),
        "CPU ms, append": costs.cpu_ms_per_frame("append"),
        "retained of the frames": costs.written.files / costs.frames,
    }


if __name__ == "__main__":
    main()
