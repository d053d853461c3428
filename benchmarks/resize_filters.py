"""What the faster resize filter costs: time per frame, and how far its picks are from those of the default filter.

    python -m benchmarks.resize_filters --weights W SOURCE... [--fps 5] [--budget 50] [--mean R,G,B --std R,G,B] [--json]

Both filters' bundles are exported from the same weights and select from the same frames. The picks of each are then judged
in the default filter's clusters, over all frames: cover radius and mean cover distance, as ratios to the default's own picks.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import show, spread
from geal_edge.cli.export import parse_size, parse_triple
from geal_edge.config import IMAGENET_MEAN, IMAGENET_STD, RESIZE_FILTERS
from geal_edge.export.exporter import ExportOptions, export_bundle
from geal_edge.models.bundle import Bundle
from geal_edge.models.preprocess import resize
from geal_edge.models.weights import load_weights
from geal_edge.runtime import pool
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pool import PoolSelection
from geal_edge.runtime.sources import Source, open_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--size", default="voc")
    parser.add_argument("--mean")
    parser.add_argument("--std")
    parser.add_argument("--fps", type=float)
    parser.add_argument("--budget", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sources = [open_source(spec, fps=options.fps) for spec in options.sources]
    width, height = parse_size(options.size)
    selections: dict[str, PoolSelection] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in RESIZE_FILTERS:
            export = ExportOptions(
                width=width,
                height=height,
                resize=name,
                mean=parse_triple("--mean", options.mean, IMAGENET_MEAN),
                std=parse_triple("--std", options.std, IMAGENET_STD),
            )
            bundle, _ = export_bundle(load_weights(options.weights), Path(scratch) / name, export, watch=Silent())
            selections[name] = select(bundle, sources, options.budget)
    rows = {f"{name}: ms per frame": spread(times) for name, times in resize_ms(sources[0], width, height).items()}
    default = selections[RESIZE_FILTERS[0]]
    own = coverage(default, default)
    for name, selection in selections.items():
        radius, mean = coverage(selection, default)
        same = len(picked(selection) & picked(default)) / len(picked(selection) | picked(default))
        rows[f"{name}: picks"] = {"jaccard": same, "radius ratio": radius / own[0], "mean cover ratio": mean / own[1]}
    facts = {"frames": len(default.frames), "budget": options.budget, "size": f"{width}x{height}"}
    show("resize filters", rows, facts, as_json=options.json)


def select(bundle: Bundle, sources: list[Source], budget: int) -> PoolSelection:
    with Encoder(bundle, OrtCpu(bundle.graph)) as encoder:
        return pool.select(sources, encoder=encoder, budget=budget, watch=Silent())


def picked(selection: PoolSelection) -> set[str]:
    return {selection.frames[pick.unit].id for pick in selection.picks}


def coverage(selection: PoolSelection, space: PoolSelection) -> tuple[float, float]:
    """(radius, mean) of the chord from every cluster of `space` to the nearest one of the frames that were picked."""
    ids = picked(selection)
    rows = np.concatenate([frame.clusters.rows for frame in space.frames if frame.id in ids])
    nearest = [squared_distances(frame.clusters.rows, rows).min(axis=1) for frame in space.frames]
    chords = np.sqrt(np.concatenate(nearest))
    return float(chords.max()), float(chords.mean())


def resize_ms(source: Source, width: int, height: int, frames: int = 40) -> dict[str, list[float]]:
    """Milliseconds of each filter on the same frames, in turn."""
    times: dict[str, list[float]] = {name: [] for name in RESIZE_FILTERS}
    for frame in source.frames():
        if isinstance(frame, Frame):
            for name in RESIZE_FILTERS:
                began = time.perf_counter()
                resize(frame.image, width, height, name)
                times[name].append((time.perf_counter() - began) * 1e3)
        if len(times[RESIZE_FILTERS[0]]) == frames:
            break
    return times


if __name__ == "__main__":
    main()
