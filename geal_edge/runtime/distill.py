"""Attention distillation: of a frame's patch tokens, keep those that the model itself attends to."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.config import RatioRule

FloatArray: TypeAlias = npt.NDArray[np.floating]
IntArray: TypeAlias = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """The tokens that stay, in patch order.

    tokens     (M, D) float, M >= 1
    attention  (M,) float64, as given (its sum is the share of the attention that stayed)
    patches    (M,) row-major patch indices, ascending
    patch_count  P, the number of patches before distillation
    """

    tokens: FloatArray
    attention: npt.NDArray[np.float64]
    patches: IntArray
    patch_count: int


def distill(
    tokens: FloatArray, attention: FloatArray, *, attention_ratio: float, ratio_rule: RatioRule = "reach"
) -> Distilled:
    """Keep the most attended patch tokens that together carry `attention_ratio` of the CLS attention.

    tokens     (P, D), CLS left out
    attention  (P,), >= 0, sums to 1 up to rounding (it is normalised once more in float64)
    returns    M >= 1 tokens in patch order: the most attended one always stays

    Paper section 3.2, Eq. 2. `reach` keeps the token that crosses the ratio, as the authors' code does; `paper` drops it,
    as Eq. 2 is written: exactly one token fewer, unless a prefix meets the ratio exactly. Equal attention: the lower
    patch index counts as the more attended.

    >>> attention = np.array([0.1, 0.6, 0.3])
    >>> distill(np.eye(3), attention, attention_ratio=0.7).patches.tolist()
    [1, 2]
    >>> distill(np.eye(3), attention, attention_ratio=0.7, ratio_rule="paper").patches.tolist()
    [1]
    """
    weight = np.asarray(attention, np.float64)
    order = np.argsort(-weight, kind="stable")
    reached = np.cumsum(weight[order] / weight.sum())
    if ratio_rule == "reach":
        count = 1 + int(np.count_nonzero(reached[:-1] < attention_ratio))  # what stood before this token fell short
    else:
        count = max(1, int(np.count_nonzero(reached <= attention_ratio)))
    patches = np.sort(order[:count])
    return Distilled(tokens=tokens[patches], attention=weight[patches], patches=patches, patch_count=len(weight))
