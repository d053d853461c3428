"""Streaming facility location beside the ladder and the pool's orders: what is covered, on drives in several orders.

    python -m benchmarks.coverage --bundle BUNDLE --features FOLDER [--budgets 20,50,100] [--orders 5] [--json]

The stored features (`geal-edge select SOURCE... --features FOLDER`) are drives, which each seed puts into another order. For
every cluster of every frame, the chord to the nearest cluster of a selected one: the largest (the cover radius) and the mean,
each also over that of offline geal on the same order. Streams also say how many frames they retained on the way, which a vehicle
would have written, and the ladder by two orders: its own, and facility location among its retained at the end.

Times are those of one whole stream over the ladder's, interleaved; one thread.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.common import machine, spread
from benchmarks.memory import read_drives
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.baselines import facility_location, random_order, uniform_in_time
from geal_edge.runtime.clusters import KnowledgeClusters, Rows
from geal_edge.runtime.compare.cover import covers
from geal_edge.runtime.coverage import StreamingCoverage
from geal_edge.runtime.kcenter import draw_first, k_center_greedy, offsets_of
from geal_edge.runtime.ladder import Ladder
from geal_edge.runtime.threads import one_blas_thread

COLUMNS = {
    "radius": "cover radius",
    "mean": "mean cover",
    "radius_over_geal": "radius / offline geal",
    "mean_over_geal": "mean / offline geal",
    "retained": "frames retained on the way",
    "time_over_ladder": "time / ladder",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--budgets", default="20,50,100")
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    drives = [[entry.rows for entry in drive] for drive in read_drives(bundle, options.features)]
    with one_blas_thread():
        rows = {
            budget: over_orders(drives, int(budget), options.orders)
            for budget in sorted(options.budgets.split(","), key=int)
        }
    facts = {
        "drives": len(drives),
        "frames": sum(map(len, drives)),
        "orders": options.orders,
        "untrained": bundle.manifest.untrained,
    }
    if options.json:
        print(json.dumps({"benchmark": "coverage", "machine": machine(), **facts, "results": rows}, indent=1))
        return
    print("what a stream's selection covers: chord from a cluster to the nearest one selected")
    print(", ".join(f"{name} {value}" for name, value in {**machine(), **facts}.items()))
    for budget, results in rows.items():
        print(f"\n{budget} frames")
        for strategy, values in results.items():
            print(f"  {strategy}")
            for name, value in values.items():
                print(f"    {COLUMNS[name]:27} {value['median']:8.3f} ({value['p10']:.3f} to {value['p90']:.3f})")


def over_orders(drives: list[list[Rows]], budget: int, orders: int) -> dict[str, dict[str, dict[str, float]]]:
    """strategy -> column -> its spread over the orders of the drives."""
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(orders):
        drawn = np.random.default_rng(seed).permutation(len(drives))
        frames = [rows for number in drawn for rows in drives[number]]
        for strategy, values in one_order(frames, budget, seed).items():
            for name, value in values.items():
                found.setdefault(strategy, {}).setdefault(name, []).append(value)
    return {strategy: {name: spread(values) for name, values in columns.items()} for strategy, columns in found.items()}


def one_order(frames: list[Rows], budget: int, seed: int) -> dict[str, dict[str, float]]:
    """strategy -> column -> value, for one stream of frames."""
    rows, offsets = np.concatenate(frames), offsets_of(frames)
    ladder, coverage = Ladder(capacity=budget), StreamingCoverage(capacity=budget, seed=seed)
    by_ladder, passed_ladder, ladder_s = streamed(ladder, frames)
    by_coverage, passed_coverage, coverage_s = streamed(coverage, frames)
    held = [by_ladder[unit] for unit in ladder.retained]
    inside = np.concatenate([frames[index] for index in held])
    again = facility_location(inside, offsets_of([frames[i] for i in held]), budget, units=range(len(held)), seed=seed)
    greedy = k_center_greedy(rows, offsets, budget, first=draw_first(len(frames), seed), row_distances=False)
    orders = {
        "offline geal": [pick.unit for pick in greedy],
        "offline facility location": facility_location(rows, offsets, budget, units=range(len(frames)), seed=seed),
        "ladder": [by_ladder[pick.unit] for pick in ladder.selected()],
        "ladder, facility location among its retained": [held[index] for index in again],
        "streaming facility location": [by_coverage[pick.unit] for pick in coverage.selected()],
        "uniform in time": uniform_in_time(len(frames), budget),
        "random": random_order(len(frames), budget, seed),
    }
    found = {strategy: covers(rows, offsets, order, [budget])[0] for strategy, order in orders.items()}
    geal = found["offline geal"]
    results = {
        strategy: {
            "radius": cover.radius,
            "mean": cover.mean,
            "radius_over_geal": cover.radius / geal.radius,
            "mean_over_geal": cover.mean / geal.mean,
        }
        for strategy, cover in found.items()
    }
    results["ladder"]["retained"] = passed_ladder
    results["streaming facility location"] |= {"retained": passed_coverage, "time_over_ladder": coverage_s / ladder_s}
    return results


def streamed(selector: Ladder | StreamingCoverage, frames: list[Rows]) -> tuple[dict[int, int], int, float]:
    """(unit -> frame of those retained at some time, how many they were, seconds)."""
    frame_of: dict[int, int] = {}
    begun = time.perf_counter()
    for index, rows in enumerate(frames):
        retain, unit = judged(selector, rows)
        if retain:
            frame_of[unit] = index
    return frame_of, len(frame_of), time.perf_counter() - begun


def judged(selector: Ladder | StreamingCoverage, rows: Rows) -> tuple[bool, int]:
    clusters = KnowledgeClusters(rows=rows, patch_cluster=np.zeros(0, np.int16))
    if isinstance(selector, Ladder):
        decision = selector.score(clusters)
        selector.learn(decision)
        return decision.retain, decision.unit
    covering = selector.score(clusters)
    selector.learn(covering)
    return covering.retain, covering.unit


if __name__ == "__main__":
    main()
