"""Does a faster engine or a lower precision still select well? Its picks, measured in the exact bundle's own clusters.

Tensors that are close do not say that the picks are good, nor do other picks say that they are bad: K-Center-Greedy turns on
the last bits where two frames are equally far. So both bundles select from the same frames, and the cover of both picks is
measured in the clusters of the float32 bundle: the largest chord from a cluster to the nearest one picked (cover radius),
and the mean of all. Selections begin with several drawn frames, as one draw may fall well or ill for either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from geal_edge.errors import UsageError
from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.compare.cover import covers
from geal_edge.runtime.kcenter import draw_first, k_center_greedy, offsets_of
from geal_edge.runtime.parity import Inside
from geal_edge.runtime.threads import one_blas_thread

DRAWS = 9
"""First frames that are drawn. The median of their ratios is judged."""
SHARE_PICKED = 0.05
"""The budget is this share of the frames. A vehicle picks fewer; where more are picked of many alike, the radius shrinks to
what the precision itself moves, and its ratio says less of the frames that differ."""
LEAST_PICKED = 5
COVER_TOLERANCE: dict[Inside, float] = {"fp32": 0.02, "fp16": 0.02, "bf16": 0.05, "int8": 0.05, "int8-dynamic": 0.05}
"""How far above 1 the cover of the picks may be, by what the faster side computes in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionParity:
    """How well one bundle's picks cover, over how well the exact one's do.

    frames, budget  what was selected from, and how many
    radius_ratios   cover radius over that of the exact picks, one per draw; 1 = as good, above 1 = worse
    mean_ratios     the same of the mean cover distance
    jaccard         median share of picks that both have; told, not judged
    tolerance       how far above 1 the median of either ratio may be
    """

    frames: int
    budget: int
    radius_ratios: tuple[float, ...]
    mean_ratios: tuple[float, ...]
    jaccard: float
    tolerance: float

    @property
    def radius_ratio(self) -> float:
        return median(self.radius_ratios)

    @property
    def mean_ratio(self) -> float:
        return median(self.mean_ratios)

    @property
    def passed(self) -> bool:
        return max(self.radius_ratio, self.mean_ratio) <= 1 + self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """For JSON: medians, with the worst draw beside them."""
        return {
            "passed": self.passed,
            "frames": self.frames,
            "budget": self.budget,
            "draws": len(self.radius_ratios),
            "radius_ratio": self.radius_ratio,
            "worst_radius_ratio": max(self.radius_ratios),
            "mean_ratio": self.mean_ratio,
            "worst_mean_ratio": max(self.mean_ratios),
            "jaccard": self.jaccard,
            "tolerance": self.tolerance,
        }

    def __str__(self) -> str:
        return (
            f"selection: {'ok' if self.passed else 'FAILED'}, cover radius x {self.radius_ratio:.3f}, mean cover "
            f"x {self.mean_ratio:.3f} of the exact picks' (allowed x {1 + self.tolerance:.2f}), Jaccard {self.jaccard:.2f}, "
            f"{self.budget} of {self.frames} frames, {len(self.radius_ratios)} draws"
        )


def selection_parity(exact: Sequence[Rows], found: Sequence[Rows], *, tolerance: float) -> SelectionParity:
    """Select by both bundles' clusters, and measure both selections in the exact one's.

    exact, found  knowledge clusters of the same frames in the same order, fp16 (C, D) each; at least two frames
    tolerance     0.02 allows ratios up to 1.02

    Raises UsageError where there is nothing to select from.

    >>> rows = [np.array([[np.cos(a), np.sin(a)]], np.float16) for a in np.linspace(0, 3, 40)]
    >>> parity = selection_parity(rows, rows, tolerance=0.0)
    >>> parity.passed, parity.radius_ratio, parity.jaccard, parity.budget
    (True, 1.0, 1.0, 5)
    """
    if len(exact) != len(found) or len(exact) < 2:
        raise UsageError(
            f"selection parity needs two or more frames that both bundles could judge, not {len(exact)} and {len(found)}."
        )
    budget = min(len(exact), max(LEAST_PICKED, round(SHARE_PICKED * len(exact))))
    pool, other = np.concatenate(exact), np.concatenate(found)
    offsets, other_offsets = offsets_of(exact), offsets_of(found)
    radius_ratios, mean_ratios, shares = [], [], []
    with one_blas_thread():
        for first in dict.fromkeys(draw_first(len(exact), seed) for seed in range(DRAWS)):
            ours = [pick.unit for pick in k_center_greedy(pool, offsets, budget, first=first)]
            theirs = [pick.unit for pick in k_center_greedy(other, other_offsets, budget, first=first)]
            (cover,), (their,) = (covers(pool, offsets, picked, [budget]) for picked in (ours, theirs))
            radius_ratios.append(_ratio(their.radius, cover.radius))
            mean_ratios.append(_ratio(their.mean, cover.mean))
            shares.append(len(set(ours) & set(theirs)) / len(set(ours) | set(theirs)))
    return SelectionParity(
        frames=len(exact),
        budget=budget,
        radius_ratios=tuple(radius_ratios),
        mean_ratios=tuple(mean_ratios),
        jaccard=median(shares),
        tolerance=tolerance,
    )


def _ratio(value: float, reference: float) -> float:
    """1 where both are nothing: a pool of copies is covered by any pick."""
    return value / reference if reference > 0.0 else float("inf") if value > 0.0 else 1.0
