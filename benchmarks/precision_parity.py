"""Selection parity of every precision: how well its picks cover, measured in the float32 bundle's clusters.

    python -m benchmarks.precision_parity --weights W [--fps 3] [--size 224] [--mean R,G,B --std R,G,B] [--json] DRIVE DRIVE...

Each precision is made as `geal-edge export --calibrate DRIVE` makes it, with its own limit of losses, and judged by the same
gate. Ratios are over the float32 picks' (1 = as good, above 1 = worse): the median of nine first frames, and the worst one.
"""

import argparse
from pathlib import Path

from benchmarks.common import show
from geal_edge.cli.export import parse_triple
from geal_edge.config import IMAGENET_MEAN, IMAGENET_STD, PRESETS, Precision
from geal_edge.export.graph import build_graph
from geal_edge.export.lowering import lower
from geal_edge.models.preprocess import resize
from geal_edge.models.weights import load_weights
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spread import POOL_FRAMES, spread_frames

PRECISIONS: tuple[Precision, ...] = ("fp16", "int8", "int8-dynamic")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drives", nargs="+")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--mean")
    parser.add_argument("--std")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    weights, side = load_weights(options.weights), options.size
    mean = parse_triple("--mean", options.mean, IMAGENET_MEAN)
    std = parse_triple("--std", options.std, IMAGENET_STD)
    model = build_graph(weights, width=side, height=side, mean=mean, std=std)
    rows = {}
    for drive in options.drives:
        source = open_source(drive, fps=options.fps)
        frames = spread_frames(source, POOL_FRAMES, lambda image: resize(image, side, side, "pil_bicubic"))
        for precision in PRECISIONS:
            lowered = lower(
                model,
                precision,
                frames,
                origin=source.name,
                depth=weights.geometry.depth,
                batch=None,
                recipe=PRESETS["geal"],
                max_loss=None,
                watch=Silent(),
            )
            parity = lowered.selection.as_dict()
            told = ("frames", "budget", "radius_ratio", "worst_radius_ratio", "mean_ratio", "jaccard", "passed")
            high = len(lowered.sensitivity.stays_fp32)
            layers = len(lowered.sensitivity.layers)
            rows[f"{Path(drive).stem}: {precision}"] = {
                **{name: float(parity[name]) for name in told},
                "stay fp32": float(high),
                "of layers": float(layers),
            }
    facts = {"model": weights.geometry.name, "weights": weights.origin, "size": f"{side}x{side}", "fps": options.fps}
    show("selection parity of precisions", rows, facts, as_json=options.json)


if __name__ == "__main__":
    main()
