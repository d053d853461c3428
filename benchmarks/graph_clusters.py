"""What distillation and K-Means cost in the graph, beside the encoder alone and beside the same work by the host.

    python -m benchmarks.graph_clusters [SOURCE] [--fps 5] [--weights untrained:0] [--size 224] [--attention-ratio 0.5]
        [--repeats 60] [--threads 1] [--json]

One frame through each in turn on ONNX Runtime's CPU, `--repeats` times over the source's; a ratio is taken within each turn,
so that other work on the machine meets all alike. Seconds of the processor are those of all threads, and tell the cost also
where the clock on the wall does not, as other programs wait for the same cores. `same` counts the frames whose patches
all go into the same clusters in the graph and on the host, `largest_difference` is that of one number of their rows, and
`grouped` counts those with more tokens than clusters.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.common import show, spread
from geal_edge.config import IMAGENET_MEAN, IMAGENET_STD, PRESETS, ClusterConfig
from geal_edge.export.clustergraph import with_clusters
from geal_edge.export.graph import build_graph, serialize
from geal_edge.models.preprocess import resize
from geal_edge.models.weights import load_weights
from geal_edge.runtime.backends import Arrays, Backend
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.clusters import KnowledgeClusters, knowledge_clusters
from geal_edge.runtime.distill import distill
from geal_edge.runtime.encoder import graph_clusters
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.threads import one_blas_thread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="drawn:0:20")
    parser.add_argument("--fps", type=float)
    parser.add_argument("--weights", default="untrained:0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--attention-ratio", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    weights, side = load_weights(options.weights), options.size
    drive = open_source(options.source, fps=options.fps)
    frames = [resize(f.image, side, side, "area")[None] for f in drive.frames() if isinstance(f, Frame)]
    model = build_graph(weights, width=side, height=side, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    recipe = replace(PRESETS["geal"], attention_ratio=options.attention_ratio)
    grown = with_clusters(model, recipe)
    with TemporaryDirectory() as scratch, ExitStack() as stack, one_blas_thread():

        def opened(name: str, graph: Any) -> Backend:
            path = Path(scratch) / name
            path.write_bytes(serialize(graph))
            return stack.enter_context(OrtCpu(path, threads=options.threads))

        plain, grouping = opened("plain.onnx", model), opened("grouping.onnx", grown)
        calls: dict[str, Callable[[Any], object]] = {
            "encoder alone": lambda image: plain.run({"image": image}),
            "encoder, then the host": lambda image: by_host(plain.run({"image": image}), recipe),
            "clusters in the graph": lambda image: by_graph(grouping.run({"image": image})),
        }
        rows = measured(calls, frames, options.repeats)
        pairs = [(by_host(answer := grouping.run({"image": image}), recipe), by_graph(answer)) for image in frames]
    facts = {
        "model": weights.geometry.name,
        "size": f"{side}x{side}",
        "repeats": options.repeats,
        "threads": options.threads,
        "nodes": f"{len(model.graph.node)} + {len(grown.graph.node) - len(model.graph.node)}",
        "source": drive.name,
        "frames": len(frames),
        "tokens_median": int(np.median([(host.patch_cluster >= 0).sum() for host, _ in pairs])),
        "grouped": sum(int((host.patch_cluster >= 0).sum() > recipe.clusters_per_frame) for host, _ in pairs),
        "same": sum(int((host.patch_cluster == graph.patch_cluster).all()) for host, graph in pairs),
        "largest_difference": max(
            float(np.abs(host.rows.astype(np.float64) - graph.rows).max())
            for host, graph in pairs
            if (host.patch_cluster == graph.patch_cluster).all()
        ),
    }
    show("clusters in the graph", rows, facts, as_json=options.json)


def by_host(answer: Arrays, recipe: ClusterConfig) -> KnowledgeClusters:
    tokens, attention = answer["patch_features"][0].astype(np.float16), answer["cls_attention"][0]
    return knowledge_clusters(distill(tokens, attention, attention_ratio=recipe.attention_ratio), recipe)


def by_graph(answer: Arrays) -> KnowledgeClusters:
    return graph_clusters({name: values[0] for name, values in answer.items()})


def measured(calls: dict[str, Callable[[Any], object]], frames: list[Any], repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds by the wall and of the processor, and their ratios to the first call's of the same turn."""
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            image = frames[turn % len(frames)]
            began, spent = time.perf_counter(), time.process_time()
            call(image)
            cpu[name].append(time.process_time() - spent)
            wall[name].append(time.perf_counter() - began)
    first = next(iter(calls))
    rows = {}
    for name in calls:  # the first turn warms up
        row = {"ms": 1e3 * float(np.median(wall[name][1:])), "cpu ms": 1e3 * float(np.median(cpu[name][1:]))}
        for word, took in (("x", wall), ("cpu x", cpu)):
            ratios = spread(list(np.array(took[name][1:]) / np.array(took[first][1:])))
            row |= {f"{word} {key}": value for key, value in ratios.items()}
        rows[name] = row
    return rows


if __name__ == "__main__":
    main()
