"""Knowledge clusters against scikit-learn's K-Means, on the tokens of real frames.

    python -m benchmarks.clusters --bundle BUNDLE [SOURCE] [--frames 60] [--attention-ratio 0.5] [--json]

Same tokens for all, one thread, interleaved frame by frame. Inertia is over scikit-learn's best of ten starts (1.00 = as
good); time is over one k-means++ start of scikit-learn (below 1 = faster).
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from benchmarks.common import show, spread
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.clusters import farthest_first, knowledge_clusters, lloyd
from geal_edge.runtime.distill import Distilled, distill
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.threads import one_blas_thread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="drawn:0")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--attention-ratio", type=float, default=0.5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct tokens than clusters: said by the count below
    frames = tokens_of_frames(options.source, options.bundle, options.frames, options.attention_ratio)
    with one_blas_thread():
        rows, facts = measure(frames, Bundle.open(options.bundle))
    show("knowledge clusters against scikit-learn", rows, facts, as_json=options.json)


def tokens_of_frames(spec: str, bundle: Path, count: int, ratio: float) -> list[Distilled]:
    """The distilled tokens of `count` frames, spread over the source."""
    source, opened = open_source(spec), Bundle.open(bundle)
    stride = max(1, (source.frame_count or count) // count)
    found = []
    with Encoder(opened, OrtCpu(opened.graph)) as encoder:
        for frame in source.frames():
            if isinstance(frame, Frame) and frame.frame_index % stride == 0:
                encoded = encoder(frame.image)
                found.append(distill(encoded.patch_features, encoded.cls_attention, attention_ratio=ratio))
            if len(found) == count:
                break
    return found


def measure(frames: list[Distilled], bundle: Bundle) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    recipe = bundle.manifest.clusters
    k = recipe.clusters_per_frame
    ratios, ours_ms, speed = [], [], []
    clustered = [frame for frame in frames if len(frame.tokens) > k]
    for frame in clustered:
        tokens = frame.tokens.astype(np.float64)
        products = tokens @ tokens.T
        start = farthest_first(products, k, "euclidean", first=int(frame.attention.argmax()))
        centres, _ = lloyd(tokens, products, start, "euclidean", recipe.kmeans_steps)
        best = KMeans(k, n_init=10, random_state=0).fit(tokens).inertia_
        ratios.append(float(((tokens[:, None] - centres) ** 2).sum(-1).min(1).sum() / best))
        ours, theirs = timed(
            lambda frame=frame: knowledge_clusters(frame, replace(recipe, kmeans_metric="cosine")),  # type: ignore[misc]
            lambda tokens=tokens: KMeans(k, n_init=1, random_state=0).fit(tokens),  # type: ignore[misc]
        )
        ours_ms.append(ours * 1e3)
        speed.append(ours / theirs)
    counts = [len(frame.tokens) for frame in frames]
    facts = {
        "frames": len(frames),
        "clustered": len(clustered),
        "tokens_median": int(np.median(counts)),
        "k": k,
    }
    if not clustered:
        raise SystemExit(f"no frame keeps more than {k} tokens: raise --attention-ratio")
    return {
        "inertia / best of 10": spread(ratios),
        "ms per frame": spread(ours_ms),
        "time / one k-means++ start": spread(speed),
    }, facts


def timed(a: Callable[[], object], b: Callable[[], object], repeats: int = 5) -> tuple[float, float]:
    """Smallest seconds of `a` and of `b`, run in turn."""
    best = [float("inf"), float("inf")]
    for _ in range(repeats):
        for i, call in enumerate((a, b)):
            began = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - began)
    return best[0], best[1]


if __name__ == "__main__":
    main()
