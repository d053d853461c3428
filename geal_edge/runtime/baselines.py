"""What the method is measured against: orders over a pool by nothing at all, by time, by one vector per frame, by other goals.

Each gives indices of frames in the order in which they would be labelled, as the method does. Sampling evenly in time is hard
to beat on mean cover; the global Core-Set is what the paper compares with. Facility location and density go beyond it: they look
at the same knowledge clusters as the method, and care for the many instead of the farthest one.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.config import Metric
from geal_edge.runtime.clusters import IntArray, Rows, unit_rows
from geal_edge.runtime.distance import Float64, squared_distances
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
    offsets: IntArray | None = None,
    units: list[int] | None = None,
    known: Embeddings | None = None,
    on_pick: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[int]:
    """Global Core-Set: K-Center-Greedy over one vector per frame (Sener and Savarese, "Active Learning for Convolutional
    Neural Networks: A Core-Set Approach", section 4; over frozen features, as figures 3, 5 and 6 of the GEAL paper have it).

    offsets  (n + 1,): the vectors of unit u are those from offsets[u] to offsets[u + 1]; default: every frame is a unit
    first   the unit to begin with; None: the farthest from `known`
    units   the units that may be picked; default: all
    metric  "cosine" over unit rows in fp16, exact as everywhere; "euclidean" over the embeddings as they are

    >>> x = np.array([[1, 0], [9, 0], [0, 2]], np.float32)
    >>> core_set(x, 3, first=0, metric="cosine"), core_set(x, 3, first=0, metric="euclidean")
    ([0, 2, 1], [0, 1, 2])
    """

    if offsets is None:
        offsets = np.arange(len(embeddings) + 1)
    pools = None if units is None else [units]
    if known is not None and not len(known):
        known = None
    rows: Rows | Embeddings = embeddings
    covered: Rows | Embeddings | None = known
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


NEIGHBOURS = 10
SAMPLE = 4096
"""Rows over which facility location and density reckon, at most; above that a seeded sample stands for all."""


def facility_location(
    rows: Rows,
    offsets: IntArray,
    budget: int,
    *,
    units: Sequence[int],
    known: Rows | None = None,
    seed: int = 0,
    on_pick: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[int]:
    """Units that bring the mean chord from a cluster to the nearest one picked down the most, each after those before it.

    rows, offsets, known, on_pick, stop  as of `k_center_greedy`; `units` may be picked

    Greedy for a submodular gain, so within 1 - 1/e of the best set's (Nemhauser, Wolsey and Fisher 1978), worked out lazily
    (Minoux 1978): a gain only falls, so a stale one is a bound. Before the first pick every cluster is a diameter, 2, away.
    The mean is over all clusters, or over `SAMPLE` of them drawn by `seed`. Equal gains: lower index.

    >>> x = np.array([[1, 0], [0, 1], [0, 1], [0, 1], [-1, 0]], np.float16)
    >>> facility_location(x, np.arange(6), 3, units=range(5))
    [1, 0, 4]
    """
    points = rows[_sample(len(rows), seed)]
    nearest: Float64 = np.full(len(points), 2.0)
    if known is not None and len(known):
        nearest = np.minimum(nearest, np.sqrt(nearest_squared(points, known)))
    return cover_greedily(
        # Anew at each look: all at once may not fit.
        lambda unit: np.sqrt(nearest_squared(points, rows[offsets[unit] : offsets[unit + 1]])),
        nearest,
        budget,
        units=units,
        on_pick=on_pick,
        stop=stop,
    )


def cover_greedily(
    chords_of: Callable[[int], Float64],
    nearest: Float64,
    budget: int,
    *,
    units: Sequence[int],
    on_pick: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[int]:
    """The greedy order of `facility_location`, over any points.

    chords_of  a unit's chords (n,) from each point to its nearest cluster
    nearest    (n,): the chord from each point to what is covered before the first pick
    """
    heap = [(-np.inf, unit) for unit in sorted(units)]
    order: list[int] = []
    while heap and len(order) < budget and not stop():
        _, unit = heapq.heappop(heap)
        after = np.minimum(nearest, chords_of(unit))
        gain = float((nearest - after).sum())
        if heap and (-gain, unit) > heap[0]:
            heapq.heappush(heap, (-gain, unit))
            continue
        nearest = after
        order.append(unit)
        if on_pick is not None:
            on_pick(len(order))
    return order


def density_aware(
    rows: Rows,
    offsets: IntArray,
    budget: int,
    *,
    first: int | None,
    units: Sequence[int],
    known: Rows | None = None,
    seed: int = 0,
    on_pick: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[int]:
    """Farthest first, where a cluster's distance counts by how dense its surroundings are, so that outliers lose.

    rows, offsets, first, known, on_pick, stop  as of `k_center_greedy`; `units` may be picked

    A cluster's density is 1 over the mean squared chord to its `NEIGHBOURS` nearest clusters of *other* units, among all
    clusters or `SAMPLE` of them drawn by `seed`; the largest (squared chord to the nearest picked) x density decides. Equal
    products: lower index.

    >>> crowds = np.array([[1, 0], [0, 1], [-1, 0]], np.float16).repeat([12, 12, 1], axis=0)  # the last is alone, and farthest
    >>> density_aware(crowds, np.arange(26), 3, first=0, units=range(25))
    [0, 12, 24]
    """
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    weight = 1.0 / np.maximum(_crowding(rows, owner, seed), 1e-6)
    nearest: Float64 = np.full(len(rows), 4.0)
    if known is not None and len(known):
        nearest = np.minimum(nearest, nearest_squared(rows, known))
    left = np.zeros(len(offsets) - 1, bool)
    left[list(units)] = True
    order: list[int] = []
    while left.any() and len(order) < budget and not stop():
        farthest = np.where(left[owner], nearest * weight, -1.0).argmax()
        unit = first if not order and first is not None else int(owner[farthest])
        left[unit] = False
        order.append(unit)
        nearest = np.minimum(nearest, nearest_squared(rows, rows[offsets[unit] : offsets[unit + 1]]))
        if on_pick is not None:
            on_pick(len(order))
    return order


def _sample(count: int, seed: int) -> IntArray:
    """Ascending indices of all rows, or of `SAMPLE` of them."""
    if count <= SAMPLE:
        return np.arange(count)
    drawn: IntArray = np.sort(np.random.default_rng((seed, 2)).choice(count, SAMPLE, replace=False))
    return drawn


def nearest_squared(rows: Rows, others: Rows) -> Float64:
    """Exact squared chord (n,) from each row to the nearest of the others."""
    blocks = [
        squared_distances(rows[i : i + SAMPLE], others[j : j + SAMPLE]).min(axis=1)
        for i in range(0, len(rows), SAMPLE)
        for j in range(0, len(others), SAMPLE)
    ]
    per_row = -(-len(others) // SAMPLE)
    nearest: Float64 = np.concatenate([np.min(blocks[i : i + per_row], axis=0) for i in range(0, len(blocks), per_row)])
    return nearest


def _crowding(rows: Rows, owner: IntArray, seed: int) -> Float64:
    """Mean squared chord (n,) from each row to its `NEIGHBOURS` nearest of other units; 4 where no other unit is."""
    drawn = _sample(len(rows), seed)
    crowding = np.empty(len(rows))
    for i in range(0, len(rows), SAMPLE):
        distances = squared_distances(rows[i : i + SAMPLE], rows[drawn])
        distances[owner[i : i + SAMPLE, None] == owner[drawn]] = 4.0
        nearest = np.sort(distances, axis=1)[:, :NEIGHBOURS]
        crowding[i : i + SAMPLE] = nearest.mean(axis=1)
    return crowding
