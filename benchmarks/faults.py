"""What broken frames cost a selection, and what guards against them: faults are put into a real drive.

    python -m benchmarks.faults --bundle BUNDLE [SOURCE...] [--fps F] [--budgets 20,50] [--seeds 5] [--share 0.05] [--json]

A seed draws which frames are broken (5 % of them, in stretches of one or three) and how: black, white, flare, frozen, half
covered, block noise, a decode cut off, heavy blur, a colour channel of noise, a dead colour channel. Each drive is selected
from as a pool and as a stream, with no guard, with the signals of the pixels (`--guard pixels`), with persistence alone, and
with both (`--guard all`). Printed: the share of the budget that went to broken frames, and which they were; what the guards
do to the same drive when nothing is broken (cover radius and mean cover over all its clusters, those that did not count too);
real frames gated per source and reason; milliseconds per frame. Median over the seeds, with the 10th and 90th percentile.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine, spread
from geal_edge.errors import FrameGated
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.frame import Frame, Image
from geal_edge.runtime.guard import Guard
from geal_edge.runtime.kcenter import draw_first, k_center_greedy, offsets_of
from geal_edge.runtime.ladder import Ladder
from geal_edge.runtime.persistence import only
from geal_edge.runtime.pipeline import clusters_of
from geal_edge.runtime.quality import Quality, quality
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.threads import one_blas_thread

GUARDS = ("none", "pixels", "persistence", "all")


def black(image: Image, rng: np.random.Generator) -> Image:
    return _bytes(rng.normal(2.0, 1.5, image.shape))


def white(image: Image, rng: np.random.Generator) -> Image:
    return _bytes(255.0 - np.abs(rng.normal(0.0, 3.0, image.shape)))


def flare(image: Image, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    down, across = np.mgrid[:height, :width]
    x, y = width * rng.uniform(0.3, 0.7), height * rng.uniform(0.2, 0.6)
    light = np.exp(-(((across - x) / (0.35 * width)) ** 2) - ((down - y) / (0.45 * height)) ** 2)
    return _bytes(image + 400.0 * light[..., None])


def half_covered(image: Image, rng: np.random.Generator) -> Image:
    covered, middle = image.copy(), image.shape[1] // 2
    side = slice(0, middle) if rng.random() < 0.5 else slice(middle, None)
    covered[:, side] = _bytes(rng.normal(rng.uniform(5.0, 80.0), 3.0, covered[:, side].shape))
    return covered


def block_noise(image: Image, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    blocks = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8)
    return _from_row(image, blocks.repeat(16, axis=0).repeat(16, axis=1)[:height, :width], rng)


def cut_off(image: Image, rng: np.random.Generator) -> Image:
    """A decoder without data goes on in grey, or with the last row it had."""
    first = int(image.shape[0] * rng.uniform(0.1, 0.6))
    rest = np.full_like(image, 128) if rng.random() < 0.5 else np.broadcast_to(image[first], image.shape)
    return np.concatenate([image[:first], rest[first:]])


def blur(image: Image, rng: np.random.Generator) -> Image:
    import cv2

    return np.asarray(cv2.GaussianBlur(image, (0, 0), image.shape[1] / 50), np.uint8)


def channel_noise(image: Image, rng: np.random.Generator) -> Image:
    broken = image.copy()
    broken[..., rng.integers(3)] = rng.integers(0, 256, image.shape[:2])
    return broken


def channel_dead(image: Image, rng: np.random.Generator) -> Image:
    broken = image.copy()
    broken[..., rng.integers(3)] = rng.choice([0, 255])
    return broken


FAULTS: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    f.__name__: f for f in (black, white, flare, half_covered, block_noise, cut_off, blur, channel_noise, channel_dead)
}


def _bytes(values: Any) -> Image:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def _from_row(image: Image, other: Image, rng: np.random.Generator) -> Image:
    first = int(image.shape[0] * rng.uniform(0.1, 0.6))
    return np.concatenate([image[:first], other[first:]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One frame as the guards and the selector meet it, without its picture. broken: the fault; None for a real frame."""

    frame: Frame
    quality: Quality
    clusters: KnowledgeClusters
    broken: str | None


def plan(count: int, share: float, seed: int) -> dict[int, str]:
    """frame -> fault: `share` of them in stretches of one or three, never the first."""
    rng = np.random.default_rng(seed)
    broken: dict[int, str] = {}
    while len(broken) < round(share * count):
        first, length = int(rng.integers(1, count)), int(rng.choice([1, 3]))
        kind = str(rng.choice([*FAULTS, "frozen"]))
        for i in range(first, min(first + length, count)):
            broken.setdefault(i, kind)
    return broken


class Asked(Guard):
    """The guard, or one of its halves."""

    def __init__(self, asked: str) -> None:
        super().__init__("all")
        self._asked = asked

    def clusters(self, seen: Seen) -> KnowledgeClusters | str:
        """What counts of a frame, or the reason why it is gated."""
        if self._asked == "none":
            return seen.clusters
        self.advance(seen.frame)
        try:
            self.weigh(seen.frame, seen.quality)
        except FrameGated as gate:
            if self._asked != "persistence":
                return gate.reason
        if self._asked == "pixels":
            return seen.clusters
        try:
            return only(seen.clusters, self.counts(seen.frame, seen.clusters.rows))
        except FrameGated as gate:
            return gate.reason


def guarded(drives: list[list[Seen]], kind: str) -> tuple[list[Seen], Counter[str]]:
    """The frames that are left, with the clusters that count, and how many were gated by reason."""
    left, gated = [], Counter[str]()
    for drive in drives:
        guard = Asked(kind)
        for seen in drive:
            clusters = guard.clusters(seen)
            if isinstance(clusters, str):
                gated[clusters] += 1
            else:
                left.append(replace(seen, clusters=clusters))
    return left, gated


def from_pool(frames: list[Seen], budget: int, seed: int) -> list[Seen]:
    rows = [seen.clusters.rows for seen in frames]
    picks = k_center_greedy(np.concatenate(rows), offsets_of(rows), budget, first=draw_first(len(rows), seed))
    return [frames[pick.unit] for pick in picks]


def from_stream(frames: list[Seen], budget: int, seed: int) -> list[Seen]:
    ladder, by_unit = Ladder(capacity=budget), {}
    for seen in frames:
        decision = ladder.score(seen.clusters)
        by_unit[decision.unit] = seen
        ladder.learn(decision)
    return [by_unit[unit.unit] for unit in ladder.selected()]


WAYS: dict[str, Callable[[list[Seen], int, int], list[Seen]]] = {"pool": from_pool, "stream": from_stream}


def cover(frames: list[Seen], picks: list[Seen]) -> tuple[float, float]:
    """(radius, mean) of the chord from every cluster of the drive, counted or not, to the nearest one that was picked."""
    rows = np.concatenate([seen.clusters.rows for seen in picks])
    squared = np.concatenate([squared_distances(seen.clusters.rows, rows).min(axis=1) for seen in frames])
    return float(np.sqrt(squared.max())), float(np.sqrt(squared).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=["drawn:0"])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--budgets", default="20,50")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    budgets = [int(word) for word in options.budgets.split(",")]
    bundle = Bundle.open(options.bundle)
    with one_blas_thread():
        run(options, bundle, budgets)


def run(options: argparse.Namespace, bundle: Bundle, budgets: list[int]) -> None:
    with Encoder(bundle, OrtCpu(bundle.graph)) as encoder:
        clean, by_seed, ms = read(options, encoder)
    results: dict[str, Any] = {"gated": {}, "broken": {}, "which": {}, "clean": {}}
    for drive in clean:
        results["gated"][drive[0].frame.source] = {"frames": len(drive), **guarded([drive], "all")[1]}
    for kind in GUARDS:
        for budget in budgets:
            measure(results, f"{kind}, {budget}", kind, budget, clean, by_seed)
    facts = {"sources": len(clean), "frames": sum(map(len, clean)), "share": options.share, "seeds": options.seeds}
    if options.json:
        print(json.dumps({"benchmark": "faults", "machine": machine(), **facts, **results, "ms": ms}, indent=1))
    else:
        show(results, {**machine(), **facts}, ms)


def read(
    options: argparse.Namespace, encoder: Encoder
) -> tuple[list[list[Seen]], list[list[list[Seen]]], dict[str, Any]]:
    """(drives, the same with faults for each seed, ms per frame); a frame is decoded once, and its picture is not held."""
    clean: list[list[Seen]] = []
    by_seed: list[list[list[Seen]]] = [[] for _ in range(options.seeds)]
    times: list[float] = []
    for number, spec in enumerate(options.sources):
        count = sum(isinstance(item, Frame) for item in open_source(spec, fps=options.fps).frames())
        plans = [plan(count, options.share, 1000 * seed + number) for seed in range(options.seeds)]
        rngs = [np.random.default_rng((seed, number)) for seed in range(options.seeds)]
        clean.append([])
        for drives in by_seed:
            drives.append([])
        frames = (item for item in open_source(spec, fps=options.fps).frames() if isinstance(item, Frame))
        for i, frame in enumerate(frames):
            real = see(frame, None, encoder, times)
            clean[-1].append(real)
            for drives, broken, rng in zip(by_seed, plans, rngs, strict=True):
                kind = broken.get(i)
                if kind == "frozen":
                    drives[-1].append(replace(drives[-1][-1], broken="frozen"))
                elif kind is not None:
                    image = FAULTS[kind](frame.image, rng)
                    drives[-1].append(see(replace(frame, image=image), kind, encoder, times))
                else:
                    drives[-1].append(real)
    return clean, by_seed, spread(times)


def see(frame: Frame, broken: str | None, encoder: Encoder, times: list[float]) -> Seen:
    begun = time.perf_counter()
    pixels = quality(frame.image)
    times.append(1e3 * (time.perf_counter() - begun))
    thin = replace(frame, image=np.zeros((1, 1, 3), np.uint8), encoded=None)  # nothing behind this needs the picture
    return Seen(frame=thin, quality=pixels, clusters=clusters_of(frame, encoder), broken=broken)


def measure(
    results: dict[str, Any],
    name: str,
    kind: str,
    budget: int,
    clean: list[list[Seen]],
    by_seed: list[list[list[Seen]]],
) -> None:
    """One guard at one budget: what it spends on faults, and what its picks cover where there is none."""
    every = [seen for drive in clean for seen in drive]
    whole, _ = guarded(clean, kind)
    for way, choose in WAYS.items():
        shares: list[float] = []
        which: Counter[str] = Counter()
        for seed, drives in enumerate(by_seed):
            picks = choose(guarded(drives, kind)[0], budget, seed)
            spent = [seen.broken for seen in picks if seen.broken is not None]
            shares.append(100 * len(spent) / len(picks))
            which.update(spent)
        # A stream draws nothing, so its picks of the clean drive are the same for every seed.
        draws = range(len(by_seed)) if way == "pool" else range(1)
        covers = [cover(every, choose(whole, budget, seed)) for seed in draws]
        results["broken"].setdefault(name, {})[way] = spread(shares)
        results["which"].setdefault(name, {})[way] = dict(which.most_common())
        results["clean"].setdefault(name, {})[way] = {
            "radius": spread([radius for radius, _ in covers]),
            "mean": spread([mean for _, mean in covers]),
        }


def show(results: dict[str, Any], facts: dict[str, Any], ms: dict[str, float]) -> None:
    print("what broken frames cost a selection, by guard and budget")
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"quality signals: {words(ms)} ms per frame\n")
    for name, ways in results["broken"].items():
        for way, share in ways.items():
            clean = results["clean"][name][way]
            print(
                f"  {name:<16} {way:<7} broken {words(share)} % of the budget   "
                f"clean: radius {words(clean['radius'])}, mean cover {words(clean['mean'])}   {results['which'][name][way]}"
            )
    print("\nreal frames gated by `all`")
    for source, counts in results["gated"].items():
        print(f"  {source:<32} {counts}")


def words(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['p10']:.2f} to {values['p90']:.2f})"


if __name__ == "__main__":
    main()
