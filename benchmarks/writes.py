"""What a run writes to its disk: commits per seen frame, and bytes, files and syncs per 1,000, early in a cold drive and later.

    python -m benchmarks.writes --bundle BUNDLE [SOURCE...] [--budget 50] [--fps 5] [--json]

A commit is a decision's, or a flush of counters and cursor: those are told as the drive's own rate would have them, one every
FLUSH_S seconds at most (a decision's commit stores them too), since this runs at the machine's. Bytes are what the kernel counts
for this process (write_bytes in /proc/self/io: whole pages that go to the device, SQLite's log included); syncs are those of
durable.py plus one for each commit, as SQLite's WAL does with synchronous=FULL. The spool must lie on a real disk for the bytes
to count: it is made in the current folder.
"""

import argparse
import shutil
import tempfile
from itertools import islice
from pathlib import Path

from benchmarks.common import show
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import durable, pipeline
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import Source, open_source
from geal_edge.runtime.spool import FLUSH_S, Spool

EARLY_S = 60.0  # of the drives' own time: the cold start, when nearly everything is new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=["drawn:0:1500"])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--budget", type=int, default=50)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    sources = [open_source(spec, fps=options.fps) for spec in options.sources]
    early = round(EARLY_S * (options.fps or rate_of(sources[0])))
    meter = Meter()
    folder = Path(tempfile.mkdtemp(prefix="spool-", dir="."))
    try:
        with Encoder(bundle, OrtCpu(bundle.graph)) as encoder:
            pipeline.run(sources, encoder=encoder, spool_path=folder / "spool", budget=options.budget, watch=meter)
    finally:
        shutil.rmtree(folder)
    flushes = EARLY_S / early / FLUSH_S
    rows = {
        f"first {early} frames": meter.rates(0, early, flushes),
        "after them": meter.rates(early, None, flushes),
        "second half": meter.rates(len(meter.readings) // 2, None, flushes),
    }
    facts = {"frames": len(meter.readings) - 1, "early": f"{EARLY_S:g} s", "budget": options.budget}
    show("writes: commits per seen frame; the others per 1,000 frames", rows, facts, as_json=options.json)


def rate_of(source: Source) -> float:
    """Frames per second, by the times of the first two frames."""
    times = [item.capture_time_ns for item in islice(source.frames(), 2)]
    if len(times) < 2 or times[0] is None or times[1] is None:
        raise SystemExit(f"{source.name}: its frames have no times: give --fps")
    return 1e9 / (times[1] - times[0])


class Meter(Silent):
    """Reads the counters after every frame."""

    def __init__(self) -> None:
        self.syncs = self.commits = self.files = self.flushes = 0
        _count_calls(self, durable, "sync_folder", "syncs")
        _count_calls(self, durable, "write_file", "files")
        _count_calls(self, Spool, "flush", "flushes")
        original = Spool._transaction

        def transaction(spool: Spool):  # type: ignore[no-untyped-def]  # as the method it stands for
            self.commits += 1
            return original(spool)

        Spool._transaction = transaction  # type: ignore[method-assign]  # counted, otherwise unchanged
        self.readings = [self._read()]

    def advance(self, **counts: int) -> None:
        self.readings.append(self._read())

    def rates(self, begin: int, end: int | None, flushes_due: float) -> dict[str, float]:
        part = self.readings[begin : None if end is None else end + 1]
        if len(part) < 2:
            raise SystemExit(f"the sources have {len(self.readings) - 1} frames, all of them early: give more of them")
        bytes_, syncs, commits, files, flushes = (
            (b - a) / (len(part) - 1) for a, b in zip(part[0], part[-1], strict=True)
        )
        return {
            "commits per frame": commits - flushes + flushes_due,
            "of decisions": commits - flushes,
            "kB": 1000 * bytes_,
            "syncs": 1000 * (syncs - flushes + flushes_due),
            "frames stored": 1000 * files,
        }

    def _read(self) -> tuple[float, int, int, int, int]:
        written = next(
            line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("write_bytes")
        )
        # Each stored file is synced itself before its folder is.
        syncs = self.syncs + self.files + self.commits
        return int(written.split()[1]) / 1e3, syncs, self.commits, self.files, self.flushes


def _count_calls(meter: Meter, module: object, name: str, counter: str) -> None:
    original = getattr(module, name)

    def counted(*args: object, **options: object) -> object:
        setattr(meter, counter, getattr(meter, counter) + 1)
        return original(*args, **options)

    setattr(module, name, counted)


if __name__ == "__main__":
    main()
