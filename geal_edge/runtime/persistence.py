"""The persistence guard: a cluster's novelty counts once something near it was seen in a frame shortly before.

A sensor's fault is new in one frame and gone in the next; an object stays. The rule is causal: a cluster counts where one of
the last `WINDOW` frames of its camera has a cluster within `RHO`, so an object counts from its second frame on and nothing
waits for a frame to come. Farthest-first sees only the clusters that count: the others are left out of what is scored,
stored and learned, so that they neither bring a frame in nor cover anything.

A cluster is not believed for its size ("n tokens"): a covered lens makes the largest clusters of all. Nor does the guard help
against a fault that stays; those are for `quality.py`. It needs frames that follow each other: among pictures that were
gathered one by one nothing persists, and nothing would count.

Its state is the clusters of the last `WINDOW` frames, and it is not stored: 30 kB in every transaction would be as much as the
frames themselves. A resumed source shows those frames again (guard.py).
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.runtime.clusters import KnowledgeClusters, Rows
from geal_edge.runtime.distance import squared_distances

BoolArray: TypeAlias = npt.NDArray[np.bool_]

WINDOW = 2
"""Frames back. One would be enough on a whole film; with two, a frame that is missing or broken does not unsettle the next."""
RHO = 0.8
"""Chord within which a cluster is the one of a moment ago (python -m benchmarks.faults)."""


def persists(rows: Rows, before: Sequence[Rows], *, rho: float = RHO) -> BoolArray:
    """Which of a frame's clusters have a neighbour within `rho` (chord) in one of the frames before.

    rows (C, D), before: (C', D) each -> bool (C,)

    >>> x = np.array([[1, 0], [0, 1]], np.float16)
    >>> persists(x, [x[:1]]).tolist(), persists(x, []).tolist()
    ([True, False], [False, False])
    """
    if not before:
        return np.zeros(len(rows), bool)
    near: BoolArray = squared_distances(rows, np.concatenate(before)).min(axis=1) <= rho * rho
    return near


def only(clusters: KnowledgeClusters, counts: BoolArray) -> KnowledgeClusters:
    """The clusters that count, numbered anew; the patches of the others are as if they had been distilled away.

    >>> whole = KnowledgeClusters(rows=np.eye(3, dtype=np.float16), patch_cluster=np.array([0, 1, -1, 2], np.int16))
    >>> only(whole, np.array([True, False, True])).patch_cluster.tolist()
    [0, -1, -1, 1]
    """
    if counts.all():
        return clusters
    # The last place is that of -1, patches that have no cluster.
    number = np.append(np.where(counts, np.cumsum(counts) - 1, -1), -1).astype(np.int16)
    return KnowledgeClusters(rows=clusters.rows[counts], patch_cluster=number[clusters.patch_cluster])
