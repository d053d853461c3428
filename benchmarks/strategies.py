"""The method and its baselines on the same frames: what each strategy's picks cover.

    python -m benchmarks.strategies --bundle BUNDLE [SOURCE...] [--fps F] [--budgets 10,20,50] [--features FOLDER] [--json]

For every cluster of every frame, the chord to the nearest cluster of a picked frame: the largest (the cover radius), the mean
and the 95th percentile. Farthest-first selection is made for the radius; sampling evenly in time is hard to beat on the mean.
Random is drawn with 20 seeds: median, with the 10th and 90th percentile. Strategies that begin with a drawn frame (geal and
the Core-Sets) are given the same seeds where --seeds says so, else seed 0 alone.
"""

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.common import machine, spread
from geal_edge.config import SelectionConfig, Strategy
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import pool
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.features import Features, LateEncoder
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pool import Pool
from geal_edge.runtime.sources import open_source

RANDOM_SEEDS = 20
PREFIXES = ("geal", "random", "coreset-cosine", "coreset-euclidean", "facility-location", "density")
"""Strategies whose picks for a smaller budget are the first of those for a larger one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=["drawn:0"])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--budgets", default="10,20,50")
    parser.add_argument("--seeds", type=int, default=1, help="draws of the first frame, for geal and the Core-Sets")
    parser.add_argument("--features", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    budgets = sorted(int(word) for word in options.budgets.split(","))
    bundle = Bundle.open(options.bundle)
    sources = [open_source(spec, fps=options.fps) for spec in options.sources]
    folder = Features(options.features, bundle.manifest, writable=True) if options.features else nullcontext()
    with LateEncoder(Encoder(bundle, OrtCpu(bundle.graph))) as encoder, folder as features:
        found = pool.read_pool(sources, encoder=encoder, features=features, embedding=True, watch=Silent())
    rows = {strategy: covers(found, strategy, budgets, options.seeds) for strategy in get_args(Strategy)}
    facts = {"sources": options.sources, "frames": len(found.frames), "untrained": bundle.manifest.untrained}
    if options.json:
        print(json.dumps({"benchmark": "strategies", "machine": machine(), **facts, "results": rows}, indent=1))
        return
    print("what the picks of each strategy cover: chord from a cluster to the nearest one picked")
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    width = max(len(name) for name in rows)
    for budget in budgets:
        print(f"\n{budget} frames".ljust(width + 5) + f"{'cover radius':28}{'mean cover':28}95th percentile")
        for strategy, by_budget in rows.items():
            cover = by_budget[str(budget)]
            print(f"  {strategy:<{width}}  " + "   ".join(words(cover[name]) for name in ("radius", "mean", "p95")))


def covers(found: Pool, strategy: Strategy, budgets: list[int], seeds: int) -> dict[str, dict[str, dict[str, float]]]:
    """budget -> radius, mean and p95 of the cover, each with its spread over the seeds that the strategy draws with."""
    drawn = {"random": RANDOM_SEEDS, "uniform": 1, "every-nth": 1, "facility-location": 1}.get(strategy, seeds)
    values: dict[int, list[tuple[float, float, float]]] = {budget: [] for budget in budgets}
    for seed in range(drawn):
        whole = order(found, strategy, budgets[-1], seed) if strategy in PREFIXES else []
        for budget in budgets:
            picked = whole[:budget] if strategy in PREFIXES else order(found, strategy, budget, seed)
            values[budget].append(cover(found, picked))
    return {
        str(budget): {
            name: spread(list(column))
            for name, column in zip(("radius", "mean", "p95"), zip(*of, strict=True), strict=True)
        }
        for budget, of in values.items()
    }


def order(found: Pool, strategy: Strategy, budget: int, seed: int) -> list[int]:
    picks = pool.choose(found, SelectionConfig(strategy=strategy), budget, seed=seed, watch=Silent())
    return [pick.unit for pick in picks]


def cover(found: Pool, picked: list[int]) -> tuple[float, float, float]:
    """(radius, mean, 95th percentile) of the chord from every cluster of the pool to the nearest one that was picked."""
    rows = np.concatenate([found.frames[unit].clusters.rows for unit in picked])
    nearest = [squared_distances(frame.clusters.rows, rows).min(axis=1) for frame in found.frames]
    chords: Any = np.sqrt(np.concatenate(nearest))
    return float(chords.max()), float(chords.mean()), float(np.percentile(chords, 95))


def words(values: dict[str, float]) -> str:
    if values["p10"] == values["p90"]:
        return f"{values['median']:.3f}" + " " * 17
    return f"{values['median']:.3f} ({values['p10']:.3f} to {values['p90']:.3f})"


if __name__ == "__main__":
    main()
