"""Rare events in a dull stream: how many of them each strategy finds.

    python -m benchmarks.skewed --bundle BUNDLE --features FOLDER [--dull NAME,...] [--budgets 20,50,100] [--events 20]
                                [--event-frames 5] [--dull-frames 150] [--attention-ratio 0.5] [--seeds 5] [--json]

The stored features (`geal-edge select CLIP... --fps 5 --features FOLDER`) are clips. Each seed builds a stream of them: a dull
stretch, an event, and so on. A dull stretch is a part of one dull clip, played forwards and backwards for as long as was drawn
(exponential, --dull-frames in the mean); an event is a run of --event-frames of another clip, and no frame is in two events.
The dull clips are those named, else half of all, drawn by the seed. An event is found where one of its frames is selected.

Median over the seeds with the 10th and 90th percentile; random is drawn 20 times for each. `over uniform` is the ratio to
uniform in time on the same stream at the same budget.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import machine, spread
from benchmarks.labels import PER_BUDGET, STREAM, streamed
from geal_edge.config import ClusterConfig
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import pool
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.baselines import core_set, random_order, uniform_in_time
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.features import Features, LateEncoder
from geal_edge.runtime.kcenter import draw_first, k_center_greedy, offsets_of
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pool import Pool
from geal_edge.runtime.poolframe import PoolFrame
from geal_edge.runtime.threads import one_blas_thread

STRATEGIES = (STREAM, "geal", "uniform", "random", "coreset-cosine")
RANDOM_DRAWS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--dull", default="")
    parser.add_argument("--budgets", default="20,50,100")
    parser.add_argument("--events", type=int, default=20)
    parser.add_argument("--event-frames", type=int, default=5)
    parser.add_argument("--dull-frames", type=int, default=150)
    parser.add_argument("--attention-ratio", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    recipe = ClusterConfig(attention_ratio=options.attention_ratio)
    with (
        one_blas_thread(),
        LateEncoder(Encoder(bundle, OrtCpu(bundle.graph))) as encoder,
        Features(options.features, bundle.manifest, writable=False) as features,
    ):
        whole = pool.read_pool([], encoder=encoder, recipe=recipe, features=features, embedding=True, watch=Silent())
        budgets = sorted(int(word) for word in options.budgets.split(","))
        results: dict[int, dict[str, list[float]]] = {budget: {} for budget in budgets}
        frames = []
        for seed in range(options.seeds):
            stream, event_of = skewed(
                clips_of(whole),
                [name for name in options.dull.split(",") if name],
                seed,
                events=options.events,
                event_frames=options.event_frames,
                dull_frames=options.dull_frames,
            )
            found = Pool(frames=stream, units=one_each(len(stream)), lost={}, gated={}, recipe=recipe)
            frames.append(len(stream))
            for strategy in STRATEGIES:
                for budget, count in found_by(found, event_of, strategy, budgets, seed):
                    results[budget].setdefault(strategy, []).append(count)
    rows = {
        str(budget): {
            strategy: {"found": spread(counts), "over_uniform": spread(ratios(counts, by_strategy["uniform"]))}
            for strategy, counts in by_strategy.items()
        }
        for budget, by_strategy in results.items()
    }
    facts = {
        "clips": len(clips_of(whole)),
        "dull": options.dull or "drawn",
        "frames a stream": spread([float(count) for count in frames]),
        "events": options.events,
        "frames an event": options.event_frames,
        "attention ratio": options.attention_ratio,
        "seeds": options.seeds,
        "untrained": bundle.manifest.untrained,
    }
    if options.json:
        print(json.dumps({"benchmark": "skewed", "machine": machine(), **facts, "results": rows}, indent=1))
        return
    print(f"events found, of {options.events}")
    print(", ".join(f"{name} {value}" for name, value in {**machine(), **facts}.items()))
    for budget, strategies in rows.items():
        print(f"\n{budget} frames".ljust(26) + "found".ljust(22) + "over uniform")
        for strategy, values in strategies.items():
            print(f"  {strategy:<22} {words(values['found'], 'g'):<21} {words(values['over_uniform'], '.2f')}")


def clips_of(whole: Pool) -> dict[str, list[PoolFrame]]:
    clips: dict[str, list[PoolFrame]] = {}
    for frame in whole.frames:
        clips.setdefault(frame.source, []).append(frame)
    return clips


def one_each(count: int) -> tuple[range, ...]:
    return tuple(range(i, i + 1) for i in range(count))


def skewed(
    clips: dict[str, list[PoolFrame]], dull: list[str], seed: int, *, events: int, event_frames: int, dull_frames: int
) -> tuple[tuple[PoolFrame, ...], list[int]]:
    """(the frames of a stream, the number of the event that each belongs to, -1 for dull ones)."""
    rng = np.random.default_rng(seed)
    names = sorted(clips)
    unknown = set(dull) - set(names)
    assert not unknown, f"--dull {sorted(unknown)}: the clips are {names}"
    dull = dull or [names[i] for i in rng.permutation(len(names))[: len(names) // 2]]
    windows = [
        clips[name][begin : begin + event_frames]
        for name in names
        if name not in dull
        for begin in range(0, len(clips[name]) - event_frames + 1, event_frames)
    ]
    assert len(windows) >= events, f"--events {events}: the other clips hold {len(windows)} runs of {event_frames}"
    stream: list[PoolFrame] = []
    event_of: list[int] = []
    for number, window in enumerate(rng.choice(len(windows), events, replace=False)):
        clip = clips[dull[rng.integers(len(dull))]]
        length = 1 + int(rng.exponential(dull_frames))
        place = (rng.integers(2 * len(clip)) + np.arange(length)) % (2 * len(clip))
        stretch = [clip[i] for i in np.where(place < len(clip), place, 2 * len(clip) - 1 - place)]
        stream += stretch + windows[window]
        event_of += [-1] * length + [number] * event_frames
    return tuple(replace(frame, id=f"stream#{i}", source="stream") for i, frame in enumerate(stream)), event_of


def found_by(found: Pool, event_of: list[int], strategy: str, budgets: list[int], seed: int) -> list[tuple[int, float]]:
    """(budget, events found) for each budget; of random selection the mean of its draws."""
    draws = range(seed * RANDOM_DRAWS, (seed + 1) * RANDOM_DRAWS) if strategy == "random" else range(seed, seed + 1)
    counts: dict[int, list[int]] = {budget: [] for budget in budgets}
    for draw in draws:
        whole = [] if strategy in PER_BUDGET else order_of(found, strategy, budgets[-1], draw)
        for budget in budgets:
            picked = order_of(found, strategy, budget, draw) if strategy in PER_BUDGET else whole[:budget]
            counts[budget].append(len({event_of[index] for index in picked} - {-1}))
    return [(budget, float(np.mean(each))) for budget, each in counts.items()]


def order_of(found: Pool, strategy: str, budget: int, seed: int) -> list[int]:
    """As `select` and `run` order; without the distances that a picks file tells, which cost more than the order does."""
    count = len(found.frames)
    if strategy == STREAM:
        return streamed(found, budget)
    if strategy == "uniform":
        return uniform_in_time(count, budget)
    if strategy == "random":
        return random_order(count, budget, seed)
    first = draw_first(count, seed)
    if strategy == "coreset-cosine":
        embeddings = np.stack([frame.embedding for frame in found.frames if frame.embedding is not None])
        return core_set(embeddings, budget, first=first, metric="cosine")
    units = [frame.clusters.rows for frame in found.frames]
    rows, offsets = np.concatenate(units), offsets_of(units)
    return [pick.unit for pick in k_center_greedy(rows, offsets, budget, first=first, row_distances=False)]


def ratios(counts: list[float], uniform: list[float]) -> list[float]:
    return [count / max(by_uniform, 1.0) for count, by_uniform in zip(counts, uniform, strict=True)]


def words(values: dict[str, float], form: str) -> str:
    return f"{values['median']:{form}} ({values['p10']:{form}} to {values['p90']:{form}})"


if __name__ == "__main__":
    main()
