"""A second selection from stored features against one from frames: the same picks, without inference.

    python -m benchmarks.features --bundle BUNDLE [SOURCE...] [--fps F] [--budget 50] [--repeats 3] [--json]

Per repeat, in turn: select from the frames (decode, encode, group, pick) with the bundle's recipe; then from stored features
with the same recipe, and with another attention ratio and K. Nothing but tokens is stored, so both group every frame anew.
Both picks with the bundle's recipe must be equal. Each selection opens the bundle for itself, as the command does; the
ratio is seconds from frames over seconds from features. Storing is timed once more, as what the first selection pays.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.common import show, spread
from geal_edge.config import ClusterConfig
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import pool
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.features import Features, LateEncoder
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pool import PoolSelection
from geal_edge.runtime.sources import open_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=["drawn:0"])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--budget", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    recipe = Bundle.open(options.bundle).manifest.clusters
    other = replace(recipe, attention_ratio=0.7 * recipe.attention_ratio, clusters_per_frame=15)

    def timed(folder: Path | None, recipe: ClusterConfig) -> tuple[float, PoolSelection]:
        began = time.perf_counter()
        selection = select(options.bundle, options.sources, options.fps, options.budget, folder, recipe)
        return time.perf_counter() - began, selection

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "features"
        storing, selection = timed(folder, recipe)
        frames_s, same_s, other_s = [], [], []
        for _ in range(options.repeats):
            seconds, from_frames = timed(None, recipe)
            frames_s.append(seconds)
            seconds, from_features = timed(folder, recipe)
            same_s.append(seconds)
            if from_features.picks != from_frames.picks:
                raise SystemExit("the picks from features are not those from frames")
            other_s.append(timed(folder, other)[0])
        stored = sum(file.stat().st_size for file in folder.iterdir())
    rows = {
        "from frames, s": spread(frames_s),
        "from features, same recipe, s": spread(same_s),
        "from features, other recipe, s": spread(other_s),
        "ratio, same recipe": spread([a / b for a, b in zip(frames_s, same_s, strict=True)]),
        "ratio, other recipe": spread([a / b for a, b in zip(frames_s, other_s, strict=True)]),
        "storing, s": spread([storing]),
    }
    facts = {
        "frames": len(selection.frames),
        "budget": options.budget,
        "grouped anew": "all frames",
        "other recipe": f"attention ratio {other.attention_ratio:g}, K {other.clusters_per_frame}",
        "KiB per frame": round(stored / len(selection.frames) / 1024),
    }
    show("a second selection from stored features", rows, facts, as_json=options.json)


def select(
    bundle: Path, specs: list[str], fps: float | None, budget: int, folder: Path | None, recipe: ClusterConfig
) -> PoolSelection:
    """One selection, from nothing to picks."""
    opened = Bundle.open(bundle)
    sources = [open_source(spec, fps=fps) for spec in specs]
    with LateEncoder(Encoder(opened, OrtCpu(opened.graph))) as encoder:
        if folder is None:
            return pool.select(sources, encoder=encoder, budget=budget, recipe=recipe, watch=Silent())
        with Features(folder, opened.manifest, writable=True) as features:
            return pool.select(
                sources, encoder=encoder, budget=budget, recipe=recipe, features=features, watch=Silent()
            )


if __name__ == "__main__":
    main()
