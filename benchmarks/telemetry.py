"""What it costs a run to tell of itself: clocks, the pulse once a second, and a page of metrics.

    python -m benchmarks.telemetry --bundle BUNDLE [--frames 150] [--rounds 7] [--rows 100000] [--json]

A drawn drive goes through the pipeline alone and watched in turns, watched with a pulse in memory, ten times as often as it is at
work: `ratio` is of the processor time of both. A step, a clock and a page are told in the processor time of their thread; a page
with the spool read anew, once of the drive's and once of one with many rows of what was sent in earlier years.
"""

import argparse
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import show, spread
from geal_edge.config import MetricsConfig
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import exporter, pipeline, telemetry
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.clocks import Histogram
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources.drawn import DrawnDrive
from geal_edge.runtime.telemetry import Telemetry

MEMORY = Path("/dev/shm")  # noqa: S108  where pulses lie, which no disk is asked for
FIRST = 10_000_000
"""Behind all units of a drive."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    measured: dict[str, list[float]] = {}
    steps: list[float] = []
    telemetry.STEP_S = 0.1
    exporter.SPOOL_S = 0.0
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory(dir=MEMORY) as memory:
        with Encoder(bundle, OrtCpu(bundle.graph, threads=1)) as encoder:
            for number in range(options.rounds):
                alone_s = run(encoder, options.frames, Path(scratch, f"alone{number}"), None)
                watched = Watched(Path(memory), steps)
                watched_s = run(encoder, options.frames, spool := Path(scratch, f"watched{number}"), watched)
                measured.setdefault("ratio", []).append(watched_s / alone_s)
                measured.setdefault("page, ms", []).append(page_ms(watched, spool))
        years = Path(scratch, "years")
        shutil.copytree(spool, years)
        fill(years / "spool.db", options.rows)
        many = f"page of {options.rows:,} rows, ms"
        measured[many] = [page_ms(watched, years) for _ in range(options.rounds)]
    measured["step, ms"] = steps
    measured["clock, us"] = [clock_us() for _ in range(options.rounds)]
    rows = {name: spread(values) for name, values in measured.items()}
    show("what telling of itself costs a run", rows, {"frames": options.frames}, as_json=options.json)


class Watched(Telemetry):
    """Notes what each step takes that looks at something."""

    def __init__(self, pulse: Path, steps: list[float]) -> None:
        super().__init__(pulse)
        self._steps = steps

    def step(self, *args: Any, **more: Any) -> None:
        before, took_ms = self.snapshot, cpu_ms(lambda: super(Watched, self).step(*args, **more))
        if self.snapshot is not before:
            self._steps.append(took_ms)


def run(encoder: Encoder, frames: int, spool: Path, watched: Telemetry | None) -> float:
    """Seconds of the processor."""
    began = time.process_time()
    pipeline.run(
        [DrawnDrive(1, frames)], encoder=encoder, spool_path=spool, budget=20, telemetry=watched, watch=Silent()
    )
    return time.process_time() - began


def page_ms(watched: Telemetry, spool: Path) -> float:
    return cpu_ms(exporter.Exporter(MetricsConfig(), watched, spool, lambda notice: None).page)


def fill(database: Path, rows: int) -> None:
    """Units that were sent, each as the first retained one was."""
    db = sqlite3.connect(database)
    (unit,) = db.execute("SELECT unit FROM units WHERE state = 'retained'").fetchone()
    for table, own in (("units", "unit"), ("frames", "frame")):
        names = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
        values = {
            "unit": "?2 + n",
            own: "?2 + n",
            "state": "'sent'",
            "id": "'f' || n",
            "file": "NULL",
            "levels": "NULL",
        }
        chosen = ", ".join(values.get(name, name) for name in names)
        numbers = "WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM count WHERE n < ?2) "
        copies = f"{numbers} INSERT INTO {table} SELECT {chosen} FROM {table}, count WHERE unit = ?1"  # noqa: S608
        db.execute(copies, (unit, rows))
    db.commit()
    db.close()


def cpu_ms(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return 1e3 * (time.thread_time() - began)


def clock_us() -> float:
    clock, turns = Histogram(), 20_000

    def tick() -> None:
        for _ in range(turns):
            with clock:
                pass

    return 1e3 * cpu_ms(tick) / turns


if __name__ == "__main__":
    main()
