"""What the gate `standing_still` holds back on recorded drives, and of a vehicle that stands.

    python -m benchmarks.standing SOURCE... [--fps 2] [--frames 240] [--json]

Driving: a source's frames as they are, so many a second; printed is the share that the gate holds back, and the smallest and
the 5th percentile of how far edges moved between two frames. Standing: now and then a frame of it is shown 8 times, with another
noise of the sensor (3 and 8 levels) and another brightness (5 %) each time, the second time with a wiper over a twelfth of it;
printed is the share that is held back. Milliseconds are of looking at one frame and of comparing, median of all.
"""

import argparse
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import show, spread
from geal_edge.config import GateConfig
from geal_edge.errors import FrameGated
from geal_edge.runtime.frame import Frame, Image
from geal_edge.runtime.gates import Gates, shift, view_of
from geal_edge.runtime.sources import open_source

SHOWN = 8
"""How often a frame is shown to stand for a vehicle that stands."""
EVERY = 20
"""Frames of a drive between two that are."""


def is_held_back(gates: Gates, frame: Frame) -> bool:
    try:
        gates.learn(frame.topic, gates.before(frame))
    except FrameGated:
        return True
    return False


def standing(frame: Frame, sigma: float, rng: np.random.Generator, *, wiper: bool) -> list[Frame]:
    """A frame again and again, as a sensor sees it."""
    shown = [frame]
    for number in range(1, SHOWN):
        image = _bytes(frame.image * rng.uniform(0.95, 1.05) + rng.normal(0.0, sigma, frame.image.shape))
        if wiper and number % 2:
            width = frame.image.shape[1]
            begin = int(rng.integers(width - width // 12))
            image[:, begin : begin + width // 12] = 20
        shown.append(replace(frame, image=image))
    return shown


def _bytes(values: Any) -> Image:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def measure(spec: str, fps: float | None, most: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    gates, driving = Gates(GateConfig(standing_still=True)), list[bool]()
    stood: dict[str, list[bool]] = {"noise 3": [], "noise 8": [], "wiper": []}
    views: list[Any] = []
    ms: list[float] = []
    for item in open_source(spec, fps=fps if Path(spec).is_file() else None).frames():
        if not isinstance(item, Frame):
            continue
        if len(driving) % EVERY == 0:
            for name, told in stood.items():
                shown = standing(item, 8.0 if name == "noise 8" else 3.0, rng, wiper=name == "wiper")
                own = Gates(GateConfig(standing_still=True))
                told += [is_held_back(own, frame) for frame in shown][1:]
        driving.append(is_held_back(gates, item))
        began = time.perf_counter()
        views.append(view_of(item.image))
        shift(views[max(0, len(views) - 2)], views[-1])
        ms.append(1000 * (time.perf_counter() - began))
        if len(driving) == most:
            break
    moved = [shift(before, after) for before, after in pairwise(views)]
    return {
        "frames": len(driving),
        "held %": 100 * float(np.mean(driving)),
        "moved min": min(moved),
        "moved p5": float(np.quantile(moved, 0.05)),
        **{f"{name} %": 100 * float(np.mean(told)) for name, told in stood.items()},
        "ms": spread(ms)["median"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    rows = {Path(spec).name: measure(spec, words.fps, words.frames) for spec in words.sources}
    show("standing still, by image", rows, {"fps": words.fps}, as_json=words.json)


if __name__ == "__main__":
    main()
