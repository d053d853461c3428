"""The canonical distance between knowledge clusters: squared Euclidean distance of fp16 rows, computed exactly.

Products of fp16 numbers are multiples of 2^-48, and sums over unit rows stay near 1, so every partial sum fits the 53 bits
of a double: float64 arithmetic is exact here in any order, on any machine, with any BLAS. Picks therefore depend on the
clusters alone. All thresholds are compared as squares; the chord that people see is the root (1-cos = chord^2 / 2).
"""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.product import product

Float64: TypeAlias = npt.NDArray[np.float64]


def squared_distances(a: Rows, b: Rows) -> Float64:
    """Exact squared Euclidean distances of canonical rows: a (n, D), b (m, D) -> float64 (n, m) in [0, ~4].

    >>> x = np.array([[1, 0], [0, 1]], np.float16)
    >>> squared_distances(x, x).tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    return widened_distances(widen(a), widen(b))


def widen(rows: Rows | npt.NDArray[np.float32]) -> tuple[Float64, Float64]:
    """Canonical (or raw fp32) rows as (float64 rows (n, D), exact squared lengths (n,)): four times the memory, done once."""
    wide = rows.astype(np.float64)
    return wide, np.einsum("ij,ij->i", wide, wide)


def widened_distances(a: tuple[Float64, Float64], b: tuple[Float64, Float64]) -> Float64:
    """`squared_distances` of rows that `widen` has seen."""
    (x, x2), (y, y2) = a, b
    distances: Float64 = product(x, y.T)
    distances *= -2.0
    distances += x2[:, None]
    distances += y2
    return distances


def grid_chords(squared: Float64) -> Float64:
    """Chords in [0, 2] of exact squared distances, rounded to multiples of 2^-20: sums of fewer than 2^30 of them are exact in
    float64, in any order, so that what is decided by a mean is the same on every machine. (They are exact in fp32 too.)

    >>> float(grid_chords(np.array([2.0]))[0]) * 2**20
    1482910.0
    """
    chords: Float64 = np.minimum(np.rint(np.sqrt(squared) * 2.0**20) / 2.0**20, 2.0)
    return chords


def affinity_error(dim: int, square: float) -> float:
    """How far an fp32 x.y - |y|^2 / 2 may lie from the exact one: fp16 rows of `dim` numbers, squared length at most `square`.

    Products of fp16 values are exact in fp32; each of `dim` additions errs by at most 2^-24 of a partial sum, and partial
    sums stay below |x| |y| + |y|^2 / 2 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), in whatever order.

    >>> f"{affinity_error(384, 1.0):.1e}"
    '3.5e-05'
    """
    return 1.01 * (dim + 2) * 2.0**-24 * 1.5 * square


def chord(squared: float) -> float:
    """The chord of a squared distance, for people and for certificates."""
    return math.sqrt(squared)
