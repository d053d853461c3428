"""Knowledge clusters: K-Means over the distilled tokens of one frame, stored as unit rows in fp16.

The same recipe everywhere: start farthest-first from the most attended token, a few Lloyd steps, centres are plain means
of raw tokens in both metrics, clusters that end without a member are left out. Deterministic: no seed, no time.

Every distance in it follows from the tokens' products with each other, which are worked out once. Products and sums of a frame's
fp16 tokens are exact in float64 in any order, so machines differ in nothing but the last bit of a quotient or a root.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.config import ClusterConfig, Metric
from geal_edge.errors import FrameError
from geal_edge.runtime.distill import Distilled
from geal_edge.runtime.product import product

Rows: TypeAlias = npt.NDArray[np.float16]
"""Knowledge clusters: fp16 (C, D), each row of unit length up to fp16 rounding. The canonical form of DESIGN section 5."""
Float64: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.intp]

AUTHORS_TOLERANCE = 1e-4
"""The authors' stop rule with a random start: (sum of the centres' shifts)^2 below this."""
SAME_TOKEN = 1e-12
"""Squared distance (1-cos) under which two tokens are the same but for float64 rounding; no second centre starts there."""
NO_LENGTH = 1e-24
"""Squared length of a centre, over the largest of a token, under which it has no direction: its tokens cancel each other out."""


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
    products = product(tokens, tokens.T)
    if not products.diagonal().all():
        raise FrameError("degenerate", "the encoder gave a patch token of length zero, which has no direction")
    k = config.clusters_per_frame
    if len(tokens) <= k:
        centres, labels = tokens, np.arange(len(tokens))
    elif config.kmeans_start == "farthest":
        start = farthest_first(products, k, config.kmeans_metric, first=int(np.argmax(distilled.attention)))
        centres, labels = lloyd(tokens, products, start, config.kmeans_metric, config.kmeans_steps)
    else:
        rng = np.random.default_rng(config.kmeans_seed)  # a fresh one per frame: frames do not depend on each other
        start = rng.choice(len(tokens), k, replace=False)
        centres, labels = lloyd(tokens, products, start, config.kmeans_metric, config.kmeans_steps, rng)
    occupied, labels = np.unique(labels, return_inverse=True)
    patch_cluster = np.full(distilled.patch_count, -1, np.int16)
    patch_cluster[distilled.patches] = labels
    return KnowledgeClusters(rows=unit_rows(centres[occupied]), patch_cluster=patch_cluster)


def farthest_first(products: Float64, k: int, metric: Metric, *, first: int) -> IntArray:
    """Indices of at most `k` tokens: `first`, then each time the one farthest from all chosen; ties: lower index.

    products  (M, M): of every token with every token

    Fewer than `k` where the tokens left are copies of chosen ones.

    >>> tokens = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.0, 1.0]])
    >>> farthest_first(tokens @ tokens.T, 4, "cosine", first=0).tolist()
    [0, 2, 1]
    """
    squares = products.diagonal()
    if metric == "cosine":
        lengths = np.sqrt(squares)
        distances, scale = 2.0 - 2.0 * (products / lengths / lengths[:, None]), 1.0  # twice 1-cos, the same order
    else:
        distances, scale = squares[:, None] + squares - 2.0 * products, float(squares.max())
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
    tokens: Float64,
    products: Float64,
    start: IntArray,
    metric: Metric,
    steps: int,
    rng: np.random.Generator | None = None,
) -> tuple[Float64, IntArray]:
    """At most `steps` rounds of assign and mean; returns the centres after the last mean and the assignment behind it.

    tokens    (M, D); products (M, M): of every one with every one
    start     (K,): the tokens that are the first centres

    A centre that loses all members stays where it is; with `rng` (the authors' way) it jumps to a random token, and the
    authors' tolerance ends the loop. A step that moves no token ends it always: nothing would change any more.
    """
    member = (np.arange(len(tokens)) == start[:, None]).astype(np.float64)  # (K, M): each centre is the mean of these
    labels = np.full(len(tokens), -1, np.intp)
    for _ in range(steps):
        previous, labels = labels, _nearest(products, member, metric)
        if rng is None and np.array_equal(previous, labels):
            break
        moved = (labels == np.arange(len(start))[:, None]).astype(np.float64)
        empty = np.flatnonzero(~moved.any(axis=1))
        moved[empty] = member[empty]
        if rng is not None:
            moved[empty] = 0.0
            for centre in empty:
                moved[centre, rng.integers(len(tokens))] = 1.0
            steps_taken = moved / moved.sum(axis=1, keepdims=True) - member / member.sum(axis=1, keepdims=True)
            shifts = np.einsum("ki,ki->k", product(steps_taken, products), steps_taken)
            if np.sqrt(np.maximum(shifts, 0.0)).sum() ** 2 < AUTHORS_TOLERANCE:
                member = moved
                break
        member = moved
    return product(member, tokens) / member.sum(axis=1, keepdims=True), labels


def unit_rows(vectors: Float64) -> Rows:
    """L2-normalise (C, D) rows in float64 and round them to fp16: the canonical form.

    Raises FrameError (`degenerate`) for a row of length zero (tokens that cancel each other out).
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        raise FrameError("degenerate", "a knowledge cluster has length zero: its tokens cancel each other out")
    rows: Rows = (vectors / norms).astype(np.float16)
    return rows


def _nearest(products: Float64, member: Float64, metric: Metric) -> IntArray:
    """The nearest centre (M,) of each token; a centre is the mean of its members (K, M)."""
    sums = product(products, member.T)  # (M, K): of each token with the sum of each centre's members
    squares = np.einsum("km,mk->k", member, sums)  # lengths of those sums
    if metric == "cosine":
        affinity = sums / np.sqrt(np.maximum(squares, NO_LENGTH * products.diagonal().max()))
    else:
        sizes = member.sum(axis=1)
        affinity = sums / sizes - 0.5 * squares / sizes**2
    nearest: IntArray = affinity.argmax(axis=1)
    return nearest
