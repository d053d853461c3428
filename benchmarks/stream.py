"""Streaming selection: what a frame costs beside the encoder, and what its picks cover beside offline greedy.

    python -m benchmarks.stream --bundle BUNDLE SOURCE... [--features F] [--fps 5] [--frames N] [--part cost|quality] [--json]

Sources are drives that follow one another; each of --orders draws an order of them, so that no luck of one order decides.
With --features and no source, all that is stored there is taken; with both, frames are encoded once and stored.

cost     CPU time of `score` and `learn` on one thread per frame, its median (p50) and 99th percentile, over the median CPU
         time of the bundle's encoder, which runs once every 20 frames in between on one thread too. CPU time and not the
         clock: a neighbour's load is not ours. MB: rows resident at the end. Median over the orders, with p10 and p90.
quality  cover radius and mean cover (chord from every cluster of every frame to the nearest picked one) over those of offline
         greedy on the same frames: each order of the drives against each of --firsts drawn first frames. `ladder` is what a
         round's end releases, `paced` what a link that is always on has released of a cold memory, evenly over the round;
         random and uniform in time are what costs nothing.
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import show, spread
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import pool
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.baselines import random_order, uniform_in_time
from geal_edge.runtime.clusters import IntArray, KnowledgeClusters, Rows
from geal_edge.runtime.compare.cover import covers
from geal_edge.runtime.compare.simulate import released
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.features import Features, LateEncoder
from geal_edge.runtime.kcenter import k_center_greedy, offsets_of
from geal_edge.runtime.ladder import Ladder
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.release import ReleaseRule
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.threads import one_blas_thread

ENCODE_EVERY = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--frames", type=int, help="take so many frames of each order of the drives")
    parser.add_argument("--part", choices=("cost", "quality"), help="default: both")
    parser.add_argument("--attention-ratio", type=float, help="default: the bundle's")
    parser.add_argument("--cost-budgets", default="50,400,2000")
    parser.add_argument("--quality-budgets", default="20,50,100")
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--firsts", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    recipe = bundle.manifest.clusters
    if options.attention_ratio is not None:
        recipe = replace(recipe, attention_ratio=options.attention_ratio)
    sources = [open_source(spec, fps=options.fps) for spec in options.sources]
    folder = Features(options.features, bundle.manifest, writable=bool(sources)) if options.features else nullcontext()
    with LateEncoder(Encoder(bundle, OrtCpu(bundle.graph))) as encoder, folder as features:
        found = pool.read_pool(sources, encoder=encoder, recipe=recipe, features=features, watch=Silent())
    drives: dict[str, list[KnowledgeClusters]] = {}
    for frame in found.frames:
        drives.setdefault(frame.source, []).append(frame.clusters)
    orders = [drawn_order(list(drives.values()), seed)[: options.frames] for seed in range(options.orders)]
    rows: dict[str, dict[str, float]] = {}
    with one_blas_thread():
        if options.part != "quality":
            for budget in map(int, options.cost_budgets.split(",")):
                rows[f"cost, budget {budget}"] = cost(bundle, orders, budget)
        if options.part != "cost":
            rows.update(quality(orders, [int(b) for b in options.quality_budgets.split(",")], options.firsts))
    facts = {
        "drives": len(drives),
        "frames": len(orders[0]),
        "clusters per frame": round(float(np.mean([len(clusters.rows) for clusters in orders[0]])), 1),
        "numbers per cluster": orders[0][0].rows.shape[1],
        "attention_ratio": recipe.attention_ratio,
        "orders": options.orders,
        "untrained": bundle.manifest.untrained,
    }
    show("streaming selection", rows, facts, as_json=options.json)


def drawn_order(drives: list[list[KnowledgeClusters]], seed: int) -> list[KnowledgeClusters]:
    """The drives one after another; seed 0 leaves their order as it is."""
    places = np.random.default_rng(seed).permutation(len(drives)) if seed else range(len(drives))
    return [clusters for place in places for clusters in drives[place]]


# -- cost --------------------------------------------------------------------------------------------------------------


def cost(bundle: Bundle, orders: Sequence[Sequence[KnowledgeClusters]], budget: int) -> dict[str, float]:
    p50s, p99s, p50s_ms, encodes_ms, megabytes, retained = [], [], [], [], [], []
    m = bundle.manifest
    image = np.random.default_rng(0).integers(0, 256, (m.height, m.width, 3), dtype=np.uint8)
    with Encoder(bundle, OrtCpu(bundle.graph, threads=1)) as encoder:
        encoder(image)
        for frames in orders:
            ladder = Ladder(capacity=budget)
            judging, encoding = [], []
            for i, clusters in enumerate(frames):
                if i % ENCODE_EVERY == 0:
                    began = time.thread_time()
                    encoder(image)
                    encoding.append(1e3 * (time.thread_time() - began))
                began = time.thread_time()
                ladder.learn(ladder.score(clusters))
                judging.append(1e3 * (time.thread_time() - began))
            encodes_ms.append(float(np.median(encoding)))
            p50s_ms.append(float(np.median(judging)))
            p50s.append(p50s_ms[-1] / encodes_ms[-1])
            p99s.append(float(np.percentile(judging, 99)) / encodes_ms[-1])
            megabytes.append(ladder.resident_bytes / 1e6)
            retained.append(float(len(ladder.retained)))
    p50, p99 = spread(p50s), spread(p99s)
    return {
        "p50": p50["median"],
        "p50 p10": p50["p10"],
        "p50 p90": p50["p90"],
        "p99": p99["median"],
        "p99 p10": p99["p10"],
        "p99 p90": p99["p90"],
        "p50 ms": spread(p50s_ms)["median"],
        "encoder ms": spread(encodes_ms)["median"],
        "MB": spread(megabytes)["median"],
        "retained": spread(retained)["median"],
    }


# -- quality -----------------------------------------------------------------------------------------------------------


def quality(
    orders: Sequence[Sequence[KnowledgeClusters]], budgets: Sequence[int], firsts: int
) -> dict[str, dict[str, float]]:
    ratios: dict[tuple[int, str], list[tuple[float, float]]] = {}
    offline: dict[int, list[tuple[float, float]]] = {budget: [] for budget in budgets}
    for seed, frames in enumerate(orders):
        rows = np.concatenate([clusters.rows for clusters in frames])
        offsets = offsets_of([clusters.rows for clusters in frames])
        greedy = []
        for first in range(firsts):
            drawn = int(np.random.default_rng((seed, first)).integers(len(frames)))
            picks = k_center_greedy(rows, offsets, max(budgets), first=drawn)
            greedy.append([pick.unit for pick in picks])
        for budget in budgets:
            best = [cover(rows, offsets, picked[:budget]) for picked in greedy]
            offline[budget] += best
            for name, picked in (
                ("ladder", simulated(frames, budget, "round_end")),
                ("paced", simulated(frames, budget, "paced")),
                ("uniform in time", uniform_in_time(len(frames), budget)),
                ("random", random_order(len(frames), budget, seed)),
            ):
                radius, mean = cover(rows, offsets, picked)
                ratios.setdefault((budget, name), []).extend((radius / r, mean / m) for r, m in best)
    shown = {}
    for budget in budgets:
        shown[f"{budget} frames, offline greedy, chord"] = summary(offline[budget])
        for (of, name), values in ratios.items():
            if of == budget:
                shown[f"{budget} frames, {name} over offline"] = summary(values)
    return shown


def cover(rows: Rows, offsets: IntArray, picked: Sequence[int]) -> tuple[float, float]:
    (found,) = covers(rows, offsets, picked, [len(picked)])
    return found.radius, found.mean


def summary(values: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The spread of (radius, mean) pairs."""
    radius, mean = (spread(list(column)) for column in zip(*values, strict=True))
    return {
        "radius": radius["median"],
        "radius p10": radius["p10"],
        "radius p90": radius["p90"],
        "mean": mean["median"],
        "mean p10": mean["p10"],
        "mean p90": mean["p90"],
    }


def simulated(frames: Sequence[KnowledgeClusters], budget: int, rule: ReleaseRule) -> list[int]:
    """Indices of the frames that an always-on link has sent at the end of the round; a frame is a second."""
    return released(frames, budget, rule, seconds=range(len(frames)), length_s=len(frames))


if __name__ == "__main__":
    main()
