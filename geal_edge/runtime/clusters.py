"""Knowledge clusters: K-Means over the distilled tokens of one frame, stored as unit rows in fp16.

The same recipe everywhere: start farthest-first from the most attended token, a few Lloyd steps, centres are plain means
of raw tokens in both metrics, clusters that end without a member are left out. Deterministic: no seed, no time, float64
inside, so that machines agree in nearly every bit of the fp16 result.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.config import ClusterConfig, Metric
from geal_edge.errors import FrameError
from geal_edge.runtime.distill import Distilled

Rows: TypeAlias = npt.NDArray[np.float16]
"""Knowledge clusters: fp16 (C, D), each row of unit length up to fp16 rounding. The canonical form of DESIGN section 5."""
Float64: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.intp]

AUTHORS_TOLERANCE = 1e-4
"""The authors' stop rule with a random start: (sum of the centres' shifts)^2 below this."""
SAME_TOKEN = 1e-12
"""Squared distance (1-cos) under which two tokens are the same but for float64 rounding; no second centre starts there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeClusters:
    """One frame's knowledge clusters.

    rows           fp16 (C, D), 1 <= C <= K: ragged, never padded
    patch_cluster  int16 (P,): the cluster that each patch went into, -1 = distilled away
    """

    rows: Rows
    patch_cluster: npt.NDArray[np.int16]

    def patches_of(self, cluster: int) -> list[int]:
        """Row-major indices of the patches of one cluster, ascending; never empty for a valid cluster."""
        return [int(p) for p in np.flatnonzero(self.patch_cluster == cluster)]


def knowledge_clusters(distilled: Distilled, config: ClusterConfig) -> KnowledgeClusters:
    """Group a frame's distilled tokens into at most K knowledge clusters.

    Paper section 3.2. With K tokens or fewer every token is its own cluster, and the count is ragged, as in the authors'
    code. Raises FrameError (`degenerate`) where a token has no direction, i.e. length zero.

    >>> tokens = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 2.0], [0.1, 1.9]])
    >>> d = Distilled(tokens=tokens, attention=np.full(4, 0.25), patches=np.array([0, 3, 5, 8]), patch_count=9)
    >>> knowledge_clusters(d, ClusterConfig(clusters_per_frame=2)).patch_cluster.tolist()
    [0, -1, -1, 0, -1, 1, -1, -1, 1]
    """
    tokens = distilled.tokens.astype(np.float64)
    if not np.linalg.norm(tokens, axis=1).all():
        raise FrameError("degenerate", "the encoder gave a patch token of length zero, which has no direction")
    k = config.clusters_per_frame
    if len(tokens) <= k:
        centres, labels = tokens, np.arange(len(tokens))
    elif config.kmeans_start == "farthest":
        start = farthest_first(tokens, k, config.kmeans_metric, first=int(np.argmax(distilled.attention)))
        centres, labels = lloyd(tokens, tokens[start], config.kmeans_metric, config.kmeans_steps)
    else:
        rng = np.random.default_rng(config.kmeans_seed)  # a fresh one per frame: frames do not depend on each other
        start = rng.choice(len(tokens), k, replace=False)
        centres, labels = lloyd(tokens, tokens[start], config.kmeans_metric, config.kmeans_steps, rng)
    occupied, labels = np.unique(labels, return_inverse=True)
    patch_cluster = np.full(distilled.patch_count, -1, np.int16)
    patch_cluster[distilled.patches] = labels
    return KnowledgeClusters(rows=unit_rows(centres[occupied]), patch_cluster=patch_cluster)


def farthest_first(tokens: Float64, k: int, metric: Metric, *, first: int) -> IntArray:
    """Indices of at most `k` tokens (M, D): `first`, then each time the one farthest from all chosen; ties: lower index.

    Fewer than `k` where the tokens left are copies of chosen ones.

    >>> farthest_first(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.0, 1.0]]), 4, "cosine", first=0).tolist()
    [0, 2, 1]
    """
    points = _directions(tokens) if metric == "cosine" else tokens
    squares = np.einsum("ij,ij->i", points, points)
    distances = squares[:, None] + squares - 2.0 * (points @ points.T)  # on unit rows: twice 1-cos, the same order
    scale = squares.max()
    chosen = [first]
    nearest = distances[first].copy()
    while len(chosen) < k:
        candidate = int(nearest.argmax())
        if nearest[candidate] <= SAME_TOKEN * scale:
            break
        chosen.append(candidate)
        np.minimum(nearest, distances[candidate], out=nearest)
    return np.array(chosen, np.intp)


def lloyd(
    tokens: Float64, centres: Float64, metric: Metric, steps: int, rng: np.random.Generator | None = None
) -> tuple[Float64, IntArray]:
    """At most `steps` rounds of assign and mean; returns the centres after the last mean and the assignment behind it.

    A centre that loses all members stays where it is; with `rng` (the authors' way) it jumps to a random token, and the
    authors' tolerance ends the loop. A step that moves no token ends it always: nothing would change any more.
    """
    points = _directions(tokens) if metric == "cosine" else tokens
    centres = centres.copy()
    labels = np.full(len(tokens), -1, np.intp)
    for _ in range(steps):
        previous, labels = labels, _nearest(points, centres, metric)
        if rng is None and np.array_equal(previous, labels):
            break
        member = labels == np.arange(len(centres))[:, None]  # (K, M)
        counts = member.sum(axis=1)
        moved = np.where(counts[:, None] > 0, member @ tokens / np.maximum(counts, 1)[:, None], centres)
        if rng is not None:
            for empty in np.flatnonzero(counts == 0):
                moved[empty] = tokens[rng.integers(len(tokens))]
            shift = np.linalg.norm(moved - centres, axis=1).sum()
            centres = moved
            if shift**2 < AUTHORS_TOLERANCE:
                break
        centres = moved
    return centres, labels


def unit_rows(vectors: Float64) -> Rows:
    """L2-normalise (C, D) rows in float64 and round them to fp16: the canonical form.

    Raises FrameError (`degenerate`) for a row of length zero (tokens that cancel each other out).
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        raise FrameError("degenerate", "a knowledge cluster has length zero: its tokens cancel each other out")
    rows: Rows = (vectors / norms).astype(np.float16)
    return rows


def _nearest(points: Float64, centres: Float64, metric: Metric) -> IntArray:
    if metric == "cosine":
        norms = np.linalg.norm(centres, axis=1, keepdims=True)
        affinity = points @ (centres / np.maximum(norms, np.finfo(np.float64).tiny)).T
    else:
        affinity = points @ centres.T - 0.5 * np.einsum("ij,ij->i", centres, centres)
    nearest: IntArray = affinity.argmax(axis=1)
    return nearest


def _directions(tokens: Float64) -> Float64:
    directions: Float64 = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    return directions
