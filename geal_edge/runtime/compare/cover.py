"""What a selection covers: for every cluster of every frame, the chord to the nearest cluster of a selected frame."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geal_edge.runtime.baselines import nearest_squared
from geal_edge.runtime.clusters import IntArray, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """Chords in [0, 2] over all clusters: the largest (the cover radius), the mean, the 95th percentile; smaller is better.

    The radius is what farthest-first is made for; one strange cluster decides it. The mean is about what is usual.
    """

    radius: float
    mean: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median of several draws with the 10th and 90th percentile; all three are the value where there is one."""

    median: float
    p10: float
    p90: float


def covers(rows: Rows, offsets: IntArray, order: Sequence[int], budgets: Sequence[int]) -> list[Cover]:
    """The cover of the first b frames of `order`, for every b of `budgets`; of all of them where there are fewer.

    rows     fp16 (R, D), canonical: frame i owns rows offsets[i]:offsets[i + 1]
    order    at least one frame
    budgets  ascending, at least 1

    >>> x = np.array([[1, 0], [0, 1], [-1, 0]], np.float16)
    >>> [round(cover.radius, 3) for cover in covers(x, np.arange(4), [0, 2, 1], [1, 2, 3])]
    [2.0, 1.414, 0.0]
    """
    nearest = np.full(len(rows), 4.0)
    found = []
    for begin, end in zip([0, *budgets], budgets, strict=False):
        if picked := order[begin:end]:
            selected = np.concatenate([rows[offsets[i] : offsets[i + 1]] for i in picked])
            nearest = np.minimum(nearest, nearest_squared(rows, selected))
        chords = np.sqrt(nearest)
        found.append(Cover(radius=float(chords.max()), mean=float(chords.mean()), p95=float(np.percentile(chords, 95))))
    return found


def spread(values: Sequence[float]) -> Spread:
    """
    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, p10=1.2, p90=2.8)
    """
    if len(values) < 2:
        return Spread(median=values[0], p10=values[0], p90=values[0])
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return Spread(median=statistics.median(values), p10=deciles[0], p90=deciles[-1])
