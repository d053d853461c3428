"""What the method is measured against: orders over a pool by nothing at all, by time, and by one vector per frame.

Each gives indices of frames in the order in which they would be labelled, as the method does. Sampling evenly in time is hard
to beat on mean cover; the global Core-Set is what the paper compares with.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.config import Metric
from geal_edge.runtime.clusters import unit_rows
from geal_edge.runtime.kcenter import k_center_greedy

Embeddings: TypeAlias = npt.NDArray[np.float32]
"""fp32 (n, D): the CLS embedding of each frame, as the model gave it."""


def random_order(count: int, budget: int, seed: int) -> list[int]:
    """Indices of `budget` of `count` frames, drawn by `seed`; any prefix is a draw of that size.

    >>> random_order(10, 3, seed=0)
    [4, 6, 2]
    >>> random_order(10, 2, seed=0)
    [4, 6]
    """
    return [int(i) for i in np.random.default_rng(seed).permutation(count)[:budget]]


def uniform_in_time(count: int, budget: int) -> list[int]:
    """Indices of `budget` of `count` frames, evenly spaced: the middle frame of each of `budget` equal stretches.

    >>> uniform_in_time(10, 3)
    [1, 5, 8]
    >>> uniform_in_time(2, 5)
    [0, 1]
    """
    budget = min(count, budget)
    return [(2 * i + 1) * count // (2 * budget) for i in range(budget)]


def every_nth(count: int, budget: int) -> list[int]:
    """Indices 0, n, 2n, ... for the largest n that gives `budget` frames: what most recorders do.

    Unlike `uniform_in_time` it begins with the first frame, and may leave out up to n - 1 frames at the end.

    >>> every_nth(10, 3)
    [0, 3, 6]
    >>> every_nth(2, 5)
    [0, 1]
    """
    budget = min(count, budget)
    return [i * (count // budget) for i in range(budget)]


def core_set(
    embeddings: Embeddings,
    budget: int,
    *,
    first: int | None,
    metric: Metric,
    units: list[int] | None = None,
    known: Embeddings | None = None,
    on_pick: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[int]:
    """Global Core-Set: K-Center-Greedy over one vector per frame (Sener and Savarese, "Active Learning for Convolutional
    Neural Networks: A Core-Set Approach", section 4; over frozen features, as figures 3, 5 and 6 of the GEAL paper have it).

    first   the frame to begin with; None: the farthest from `known`
    units   the frames that may be picked; default: all
    metric  "cosine" over unit rows in fp16, exact as everywhere; "euclidean" over the embeddings as they are

    >>> x = np.array([[1, 0], [9, 0], [0, 2]], np.float32)
    >>> core_set(x, 3, first=0, metric="cosine"), core_set(x, 3, first=0, metric="euclidean")
    ([0, 2, 1], [0, 1, 2])
    """

    offsets = np.arange(len(embeddings) + 1)
    pools = None if units is None else [units]
    if known is not None and not len(known):
        known = None
    rows, covered = embeddings, known
    if metric == "cosine":
        rows = unit_rows(embeddings.astype(np.float64))
        covered = None if known is None else unit_rows(known.astype(np.float64))
    picks = k_center_greedy(
        rows,
        offsets,
        budget,
        first=first,
        pools=pools,
        known=covered,
        metric=metric,
        row_distances=False,
        on_pick=on_pick,
        stop=stop,
    )
    return [pick.unit for pick in picks]
