"""What forgetting costs, and what remembering a frame costs.

    python -m benchmarks.memory --bundle BUNDLE --features FOLDER [--max-frames 25,50,100] [--seeds 5] [--json]

The stored features (`geal-edge select SOURCE... --features FOLDER`) are drives; the memory takes their frames drive after
drive, in an order of drives that each seed draws, and forgets down to --max-frames: the most redundant frame first (the
project's rule), the oldest first, or one drawn. Then

  worst, mean   chord from the clusters of forgotten frames to the nearest remembered one: what is not covered any more
  again         share of all frames whose novelty is above --radius though the frame itself had been remembered: what a
                vehicle would take for new once more

Times are over one run of the encoder on this machine, interleaved: one frame more in a full memory of 2000 frames of 25
clusters of 384 numbers.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import show, spread
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import pool
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.clusters import unit_rows
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.features import Features, LateEncoder
from geal_edge.runtime.memory import Entry, Memory, remember
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.threads import one_blas_thread

EMPTY = Memory(feature_space="benchmark")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--max-frames", default="25,50,100")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--radius", type=float, default=0.6)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    drives = read_drives(bundle, options.features)
    rows = {}
    with one_blas_thread():
        for bound in (int(word) for word in options.max_frames.split(",")):
            rows.update(forgetting(drives, bound, options.seeds, options.radius))
        rows.update(times(bundle, options.repeats))
    facts = {"drives": len(drives), "frames": sum(map(len, drives)), "radius": options.radius}
    show("what forgetting costs", rows, {**facts, "untrained": bundle.manifest.untrained}, as_json=options.json)


def read_drives(bundle: Bundle, folder: Path) -> list[list[Entry]]:
    with (
        LateEncoder(Encoder(bundle, OrtCpu(bundle.graph))) as encoder,
        Features(folder, bundle.manifest, writable=False) as features,
    ):
        frames = pool.read_pool([], encoder=encoder, features=features, watch=Silent()).frames
    drives: dict[str, list[Entry]] = {}
    for frame in frames:
        entry = Entry(id=frame.id, kind="known", rows=frame.clusters.rows, origin=frame.source)
        drives.setdefault(frame.source, []).append(entry)
    return list(drives.values())


def forgetting(drives: list[list[Entry]], bound: int, seeds: int, radius: float) -> dict[str, dict[str, float]]:
    """Medians over the seeds, with the 10th and 90th percentile of the mean cover."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        frames = [entry for number in rng.permutation(len(drives)) for entry in drives[number]]
        memory = replace(EMPTY, max_frames=bound)
        for entry in frames:
            memory = remember(memory, [entry])
        drawn = sorted(rng.choice(len(frames), bound, replace=False))
        for rule, stayed in (
            ("redundant", list(memory.entries)),
            ("oldest", frames[-bound:]),
            ("drawn", [frames[i] for i in drawn]),
        ):
            found.setdefault(rule, []).append(cost(frames, stayed, radius))
    rows = {}
    for rule, values in found.items():
        worst, mean, again = (spread(list(column)) for column in zip(*values, strict=True))
        rows[f"{bound} frames, {rule} forgotten first"] = {
            "worst": worst["median"],
            "mean": mean["median"],
            "mean p10": mean["p10"],
            "mean p90": mean["p90"],
            "again": again["median"],
        }
    return rows


def cost(frames: list[Entry], remembered: list[Entry], radius: float) -> tuple[float, float, float]:
    ids = {entry.id for entry in remembered}
    covered = np.concatenate([entry.rows for entry in remembered])
    chords = [
        np.sqrt(squared_distances(entry.rows, covered).min(axis=1).clip(0)) for entry in frames if entry.id not in ids
    ]
    every = np.concatenate(chords)
    return float(every.max()), float(every.mean()), sum(chord.max() > radius for chord in chords) / len(frames)


def times(bundle: Bundle, repeats: int) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)

    def entry(number: int) -> Entry:
        return Entry(id=str(number), kind="known", rows=unit_rows(rng.normal(size=(25, 384))), origin="drawn")

    memory = remember(EMPTY, [entry(number) for number in range(EMPTY.max_frames)])
    m = bundle.manifest
    image = rng.integers(0, 256, (m.height, m.width, 3), dtype=np.uint8)
    ratios, remembering, encoding = [], [], []
    with Encoder(bundle, OrtCpu(bundle.graph, threads=1)) as encoder:
        encoder(image)
        for number in range(repeats):
            new = entry(10_000 + number)
            encoding.append(1e3 * seconds(lambda: encoder(image)))
            remembering.append(1e3 * seconds(lambda new=new: remember(memory, [new])))  # type: ignore[misc]
            ratios.append(remembering[-1] / encoding[-1])
    return {
        "one frame more / one run of the encoder": spread(ratios),
        "ms one frame more, one thread": spread(remembering),
        "ms one run of the encoder, one thread": spread(encoding),
    }


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
