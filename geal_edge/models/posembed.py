"""The position embedding, resampled from the grid it was trained on to the grid of an input size.

The formula is DINO's own, as the authors' code runs it: bicubic (Keys, A = -0.75) with the scale (n + 0.1) / trained on
each axis. The 0.1 guards DINO against a rounded-down output size and shifts every sample a little, up to 0.1 of a grid
cell. Other libraries leave it out: their models agree with DINO's at the trained size and at no other.
"""

import numpy as np
import numpy.typing as npt

KEYS_A = -0.75


def interpolate_pos_embed(
    pos_embed: npt.NDArray[np.floating], trained_grid: tuple[int, int], rows: int, cols: int
) -> npt.NDArray[np.float64]:
    """Position embedding for a grid of `rows` x `cols` patches.

    pos_embed     (1, 1 + gh * gw, D), CLS first, then patches in row-major order
    trained_grid  (gh, gw)
    returns       (1, 1 + rows * cols, D), the CLS row as it was

    A square grid of the trained size is copied, any other is resampled on both axes: at 448x224 the 14 rows of 14 are
    resampled too, as DINO copies only for an equal number of patches and a square image.

    >>> trained = np.arange(5, dtype=np.float32).reshape(1, 5, 1)
    >>> bool((interpolate_pos_embed(trained, (2, 2), 2, 2) == trained).all())
    True
    >>> interpolate_pos_embed(trained, (2, 2), 2, 3).shape
    (1, 7, 1)
    """
    if (rows, cols) == trained_grid and rows == cols:
        return pos_embed.astype(np.float64)
    table = pos_embed[0].astype(np.float64)
    cls, patches = table[:1], table[1:]
    dim = patches.shape[-1]
    grid = patches.reshape(*trained_grid, dim)  # (gh, gw, D)
    grid = _resample(grid, rows)  # (rows, gw, D)
    grid = _resample(grid.swapaxes(0, 1), cols).swapaxes(0, 1)  # (rows, cols, D)
    return np.concatenate([cls, grid.reshape(rows * cols, dim)])[np.newaxis]


def _resample(values: npt.NDArray[np.float64], length: int) -> npt.NDArray[np.float64]:
    """Axis 0 to `length` samples, four taps each.

    Sums run tap by tap and not through BLAS, whose last bits depend on the machine: an exported file must not.
    """
    trained = values.shape[0]
    source = (np.arange(length) + 0.5) * (trained / (length + 0.1)) - 0.5
    left = np.floor(source)  # the coordinate stays as it is, -0.3 too; only the indices stop at the border
    result = np.zeros((length, *values.shape[1:]))
    for tap in (-1, 0, 1, 2):
        weight = _keys(np.abs(source - (left + tap)))
        index = np.clip(left + tap, 0, trained - 1).astype(np.intp)
        result += weight[:, np.newaxis, np.newaxis] * values[index]
    return result


def _keys(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic convolution kernel at 0 <= distance <= 2 (Keys 1981, Eq. 4 and its family in A)."""
    a, t = KEYS_A, distance
    inner = ((a + 2) * t - (a + 3)) * t * t + 1
    outer = a * (((t - 5) * t + 8) * t - 4)
    return np.where(t <= 1, inner, outer)
