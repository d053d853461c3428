"""The selection at the size of the paper's PASCAL VOC job: 16,551 frames x 25 clusters x 384, up to 8000 picks.

    python -m benchmarks.voc_scale [--frames 16551] [--budgets 1000,2000,4000,8000] [--kind iid|video] [--complete] [--json]

One run to the largest budget: any prefix is the smaller selection, so the seconds at each budget, and how they grow, are read
in passing. The rows lie in a file and are mapped, as a pool larger than the memory would be. --complete also settles the
distances of all rows of every pick, which a picks file tells. The paper's whole job, encoding included, took 648 s on a
TITAN RTX.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import show
from benchmarks.rows import drawn
from geal_edge.runtime.compiled import loops
from geal_edge.runtime.kcenter import k_center_greedy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16_551)
    parser.add_argument("--budgets", default="1000,2000,4000,8000")
    parser.add_argument("--kind", choices=("iid", "video"), default="iid")
    parser.add_argument("--complete", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    budgets = sorted(int(word) for word in options.budgets.split(","))
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        rows, offsets = drawn(options.kind, options.frames)
        np.save(path, rows)
        del rows
        mapped = np.load(path, mmap_mode="r")
        begin = time.perf_counter()

        def passed(picks: int) -> None:
            if picks in budgets:
                seconds = time.perf_counter() - begin
                smallest = results[f"{budgets[0]} picks"]["seconds"] if results else seconds
                results[f"{picks} picks"] = {
                    "seconds": seconds,
                    f"times that of {budgets[0]}": seconds / smallest,
                    "MiB at peak": peak(),
                }

        k_center_greedy(mapped, offsets, budgets[-1], first=0, row_distances=False, on_pick=passed)
        if options.complete:
            begin = time.perf_counter()
            k_center_greedy(mapped, offsets, budgets[-1], first=0)
            results["all distances too"] = {"seconds": time.perf_counter() - begin, "MiB at peak": peak()}
    facts = {"compiled": loops() is not None, "frames": options.frames, "rows": int(offsets[-1]), "kind": options.kind}
    show("selection at VOC scale", results, facts, as_json=options.json)


def peak() -> float:
    """MiB of this process at its largest so far: the file's mapped pages that were resident are in it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
