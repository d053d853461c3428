"""What selections are worth where labels exist: rare classes found, instances, and probes trained on what was selected.

    python -m benchmarks.labels --bundle BUNDLE --features FOLDER --labels LABELS [--class-list FILE] [--budgets 20,50,100]
                                [--strategies geal,random,...] [--attention-ratios 0.5] [--clusters 25]
                                [--downsampling clusters,A1,...] [--hold-outs 5] [--draws 2] [--json]

The stored features (`geal-edge select FRAMES --features FOLDER`) are frames that people have labelled. Each seed holds out a
quarter of them in whole stretches, on which the probes are tested; every strategy selects from the rest. What begins with a drawn
frame, and random, is drawn --draws times for each; median, with the 10th and 90th percentile, over all of it. With
--hold-outs 1 it is the draw of the first frame alone that varies.

With several --attention-ratios, --clusters or --downsampling, every strategy is shown in every combination.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.common import machine
from geal_edge.config import ClusterConfig, SelectionConfig, Strategy
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import pool
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.compare.choice import Choice
from geal_edge.runtime.compare.labels import evaluate
from geal_edge.runtime.compare.labels.probes import hold_out
from geal_edge.runtime.compare.labels.table import LabelResult, LabelTable, summary, text_of
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.features import Features, LateEncoder
from geal_edge.runtime.ladder import Ladder
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pool import Pool
from geal_edge.runtime.threads import one_blas_thread

STREAM = "stream"
STRATEGIES: dict[str, SelectionConfig] = {
    "geal": SelectionConfig(),
    STREAM: SelectionConfig(),
    "mean": SelectionConfig(reduction="mean"),
    "probability": SelectionConfig(sampling="probability"),
    **{name: SelectionConfig(strategy=name) for name in get_args(Strategy) if name != "geal"},
}
"""`stream`: what a round's end releases; `mean`: geal with the paper's Eq. 5; `probability`: with FreeSel's draw."""

UNDRAWN = (STREAM, "uniform", "every-nth", "facility-location")
PER_BUDGET = (STREAM, "uniform", "every-nth")
"""Strategies whose selection at a smaller budget is not the beginning of that at a larger one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--class-list", type=Path)
    parser.add_argument("--budgets", default="20,50,100")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--attention-ratios", default="0.5")
    parser.add_argument("--clusters", default="25")
    parser.add_argument("--downsampling", default="clusters")
    parser.add_argument("--hold-outs", type=int, default=5)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    budgets = sorted(int(word) for word in options.budgets.split(","))
    recipes = [
        ClusterConfig(attention_ratio=float(ratio), clusters_per_frame=int(k), downsampling=downsampling)  # type: ignore[arg-type]
        for ratio, k, downsampling in product(
            options.attention_ratios.split(","), options.clusters.split(","), options.downsampling.split(",")
        )
    ]
    tables: list[LabelTable] = []
    results: list[LabelResult] = []
    clusters: list[float] = []
    with (
        one_blas_thread(),
        LateEncoder(Encoder(bundle, OrtCpu(bundle.graph))) as encoder,
        Features(options.features, bundle.manifest, writable=False) as features,
    ):
        for recipe in recipes:
            suffix = f" {recipe.attention_ratio:g}, K = {recipe.clusters_per_frame}, {recipe.downsampling}"
            whole = pool.read_pool(
                [], encoder=encoder, recipe=recipe, features=features, embedding=True, watch=Silent()
            )
            clusters.append(float(np.mean([len(frame.clusters.rows) for frame in whole.frames])))
            for seed in range(options.hold_outs):
                found, held_out = hold_out(whole, seed=seed)
                seeds = range(seed * options.draws, (seed + 1) * options.draws)
                choices = choices_of(
                    found, options.strategies.split(","), budgets, seeds, suffix if len(recipes) > 1 else ""
                )
                table = evaluate(
                    found,
                    choices,
                    budgets,
                    options.labels,
                    class_list=options.class_list,
                    features=features,
                    held_out=held_out,
                    watch=Silent(),
                )
                tables.append(table)
                results += table.results
    facts: dict[str, Any] = {
        "labels": tables[0].kind,
        "frames to select from": tables[0].frames,
        "labelled": tables[0].labelled,
        "held out": tables[0].held_out,
        "classes": len(tables[0].classes),
        "rarest": sorted({name for table in tables for name in table.rare}),
        "clusters per frame": [round(each, 1) for each in clusters],
        "hold-outs": options.hold_outs,
        "draws": options.draws,
        "untrained": bundle.manifest.untrained,
    }
    if options.json:
        print(json.dumps({"benchmark": "labels", "machine": machine(), **facts, "results": summary(results)}, indent=1))
        return
    print("what selections found of what is labelled, and what probes learn of them")
    print(", ".join(f"{key} {value}" for key, value in {**machine(), **facts}.items()))
    print(text_of(results))


def choices_of(found: Pool, names: list[str], budgets: list[int], seeds: range, suffix: str) -> list[Choice]:
    return [
        Choice(strategy=name + suffix, seed=seed, order=tuple(order_of(found, name, budget, seed)))
        for name in names
        for seed in (seeds[:1] if name in UNDRAWN else seeds)
        for budget in (budgets if name in PER_BUDGET else budgets[-1:])
    ]


def order_of(found: Pool, name: str, budget: int, seed: int) -> list[int]:
    if name == STREAM:
        return streamed(found, budget)
    return [pick.unit for pick in pool.choose(found, STRATEGIES[name], budget, seed=seed, watch=Silent())]


def streamed(found: Pool, budget: int) -> list[int]:
    """What a round's end releases of the pool's frames, seen once in their order."""
    ladder = Ladder(capacity=budget)
    frame_of: dict[int, int] = {}
    for index, frame in enumerate(found.frames):
        decision = ladder.score(frame.clusters)
        if decision.retain:
            frame_of[decision.unit] = index
        ladder.learn(decision)
    return [frame_of[pick.unit] for pick in ladder.selected()][:budget]


if __name__ == "__main__":
    main()
