"""What a run writes to its disk: bytes, files and syncs per 1,000 frames seen, early in a cold drive and later.

    python -m benchmarks.writes --bundle BUNDLE [SOURCE...] [--budget 50] [--fps 5] [--json]

Bytes are what the kernel counts for this process (write_bytes in /proc/self/io: whole pages that go to the device, SQLite's
log included); syncs are those of durable.py plus one for each commit, as SQLite's WAL does with synchronous=FULL. The spool
must lie on a real disk for the bytes to count: it is made in the current folder.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.common import show
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import durable, pipeline
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spool import Spool

EARLY = 300  # frames: the cold start, when nearly everything is new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=["drawn:0:1500"])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--budget", type=int, default=50)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    meter = Meter()
    folder = Path(tempfile.mkdtemp(prefix="spool-", dir="."))
    try:
        with Encoder(bundle, OrtCpu(bundle.graph)) as encoder:
            sources = [open_source(spec, fps=options.fps) for spec in options.sources]
            pipeline.run(sources, encoder=encoder, spool_path=folder / "spool", budget=options.budget, watch=meter)
    finally:
        shutil.rmtree(folder)
    rows = {f"first {EARLY} frames": meter.rates(0, EARLY), "after them": meter.rates(EARLY, None)}
    facts = {"frames": len(meter.readings) - 1, "budget": options.budget}
    show("writes per 1,000 frames seen", rows, facts, as_json=options.json)


class Meter(Silent):
    """Reads the counters after every frame."""

    def __init__(self) -> None:
        self.syncs = self.commits = self.files = 0
        _count_calls(self, durable, "sync_folder", "syncs")
        _count_calls(self, durable, "write_file", "files")
        original = Spool._transaction

        def transaction(spool: Spool):  # type: ignore[no-untyped-def]  # as the method it stands for
            self.commits += 1
            return original(spool)

        Spool._transaction = transaction  # type: ignore[method-assign]  # counted, otherwise unchanged
        self.readings = [self._read()]

    def advance(self, **counts: int) -> None:
        self.readings.append(self._read())

    def rates(self, begin: int, end: int | None) -> dict[str, float]:
        part = self.readings[begin : None if end is None else end + 1]
        if len(part) < 2:
            raise SystemExit(f"the sources have fewer than {EARLY + 1} frames: give more of them")
        per_1000 = [(b - a) * 1000 / (len(part) - 1) for a, b in zip(part[0], part[-1], strict=True)]
        return dict(zip(("kB", "syncs", "commits", "files"), per_1000, strict=True))

    def _read(self) -> tuple[float, int, int, int]:
        os.sync()
        written = next(
            line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("write_bytes")
        )
        # Each stored file is synced itself before its folder is.
        return int(written.split()[1]) / 1e3, self.syncs + self.files + self.commits, self.commits, self.files


def _count_calls(meter: Meter, module: object, name: str, counter: str) -> None:
    original = getattr(module, name)

    def counted(*args: object, **options: object) -> object:
        setattr(meter, counter, getattr(meter, counter) + 1)
        return original(*args, **options)

    setattr(module, name, counted)


if __name__ == "__main__":
    main()
