"""The paper's alternatives to knowledge clusters (appendix B, "Feature Map Down-sampling"), to measure the method by.

Each makes at most K = `clusters_per_frame` vectors of a frame: A1 the feature map resized to sqrt(K) x sqrt(K), A2 random
patches, A3 random patches of the distilled ones, A4 the patches of the greatest attention.
"""

import math
from zlib import crc32

import numpy as np
import numpy.typing as npt

from geal_edge.config import ClusterConfig
from geal_edge.errors import UsageError
from geal_edge.runtime.clusters import Float64
from geal_edge.runtime.distill import FloatArray, distill


def downsample(
    tokens: FloatArray, attention: FloatArray, recipe: ClusterConfig, *, grid: tuple[int, int], frame_id: str
) -> tuple[Float64, npt.NDArray[np.int16]]:
    """Vectors that stand for a frame, by `recipe.downsampling`, which is not "clusters".

    tokens     (P, D), attention (P,), grid (rows, columns) with P patches in row-major order
    frame_id   with `recipe.kmeans_seed` decides what A2 and A3 draw, so that a frame's draw depends on no other frame
    returns    float64 (C, D), and int16 (P,): the vector that each patch went into, -1 = none. Of A1 every patch, by its place

    Where there are fewer patches than K, each is taken. Raises UsageError where the grid is smaller than A1's map.

    >>> recipe = ClusterConfig(downsampling="A4", clusters_per_frame=2)
    >>> downsample(np.eye(4), np.array([0.1, 0.4, 0.2, 0.3]), recipe, grid=(2, 2), frame_id="a")[1].tolist()
    [-1, 0, -1, 1]
    """
    wide, k = tokens.astype(np.float64), recipe.clusters_per_frame
    if recipe.downsampling == "A1":
        return _resized(wide, grid, math.isqrt(k))
    rng = np.random.default_rng((recipe.kmeans_seed, crc32(frame_id.encode())))
    if recipe.downsampling == "A4":
        chosen = np.argsort(-np.asarray(attention, np.float64), kind="stable")[:k]
    elif recipe.downsampling == "A2":
        chosen = rng.permutation(len(wide))[:k]
    else:
        left = distill(tokens, attention, attention_ratio=recipe.attention_ratio, ratio_rule=recipe.ratio_rule).patches
        chosen = rng.permutation(left)[:k]
    chosen = np.sort(chosen)
    patch_cluster = np.full(len(wide), -1, np.int16)
    patch_cluster[chosen] = np.arange(len(chosen))
    return wide[chosen], patch_cluster


def _resized(tokens: Float64, grid: tuple[int, int], side: int) -> tuple[Float64, npt.NDArray[np.int16]]:
    """Bilinear, half-pixel centres, no antialias: what `interpolate(mode="bilinear")` does."""
    rows, columns = grid
    if min(grid) < side:
        raise UsageError(
            f"downsampling A1: a grid of {rows} x {columns} patches is smaller than {side} x {side}. "
            "Choose fewer clusters per frame."
        )
    fields = tokens.reshape(rows, columns, -1)
    resized = np.einsum("ir,jc,rcd->ijd", _bilinear(rows, side), _bilinear(columns, side), fields)
    cells = (np.arange(rows) * side // rows)[:, None] * side + np.arange(columns) * side // columns
    return resized.reshape(side * side, -1), cells.ravel().astype(np.int16)


def _bilinear(count: int, side: int) -> Float64:
    """Weights (side, count): each of `side` places between its two nearest of `count`."""
    place = np.maximum((np.arange(side) + 0.5) * count / side - 0.5, 0.0)
    weights: Float64 = np.maximum(1.0 - np.abs(place[:, None] - np.arange(count)), 0.0)
    return weights
