"""What a picture's pixels alone say of its fitness: a few cheap numbers, and the fault that they amount to.

A fault of the sensor looks new to farthest-first, so it would be picked first. Everything is read from a thin copy of the
picture, at most 320 columns by 96 rows without any average: a millisecond or two, before the encoder has worked. The limits
stand where `python -m benchmarks.faults` found room between faults and recorded drives, night and rain among them; they are
to miss a fault rather than to call a real frame broken.
"""

import zlib
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.runtime.frame import Image

Fault: TypeAlias = Literal["dark", "glare", "blurred", "noise", "garbled", "discoloured", "covered"]

COLUMNS, ROWS = 320, 96
COARSE = 8
"""Columns of the copy over which the coarse gradient is taken; also the side of a tile."""
CLIPPED, BLACK = 248, 20
"""Luminance from which a pixel is blown out, and up to which a tile or row is too dark to tell anything by."""
FLAT, SAME_LEVEL = 4.0, 6
"""Standard deviation of luminance under which a tile has no texture; levels (half the width) that count as one surface."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Signals of one frame.

    light       [0, 1], 99th percentile of the luminance: a night street has lamps, a covered or dead sensor has nothing
    glare       [0, 1], share of blown-out pixels
    sharpness   [0, ~1.4], mean fine gradient over mean coarse gradient along rows: 1/8 for a smooth ramp, 1 for white noise
    repeated    [0, 1], share of rows, dark ones aside, that are the row below them again: rows that a decoder made up
    balance     [0, 1], contrast of the flattest colour channel over that of the liveliest; 1 for a grey picture
    uniform     [0, 1], share of the picture that is one surface without texture, dark ones aside
    fingerprint CRC-32 of the copy: the same for the same picture
    """

    light: float
    glare: float
    sharpness: float
    repeated: float
    balance: float
    uniform: float
    fingerprint: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a signal becomes a fault. `frozen_repeats` is how often a picture may come again before it counts as frozen."""

    min_light: float = 0.1
    max_glare: float = 0.4
    min_sharpness: float = 0.17
    max_sharpness: float = 0.72
    max_repeated: float = 0.25
    min_balance: float = 0.1
    max_uniform: float = 0.4
    frozen_repeats: int = 3


def quality(image: Image) -> Quality:
    """The signals of one frame, uint8 (H, W, 3) RGB of any size.

    >>> ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 90, axis=0).repeat(3, axis=2)
    >>> seen = quality(ramp)
    >>> round(seen.sharpness, 2), seen.repeated > 0.9, seen.balance
    (0.12, True, 1.0)
    """
    down, across = -(-image.shape[0] // ROWS), -(-image.shape[1] // COLUMNS)
    thin = np.ascontiguousarray(image[::down, ::across])
    below = np.ascontiguousarray(image[1::down, ::across])
    grey, under = _luminance(thin), _luminance(below)
    bright = (grey.max(axis=1) > BLACK)[: len(under)]
    again = (np.abs(under - grey[: len(under)]) <= 1).all(axis=1) & bright
    contrast = thin[::2, ::2].std(axis=(0, 1), dtype=np.float32)
    levels = np.bincount(grey.ravel(), minlength=256)
    return Quality(
        light=int(np.searchsorted(np.cumsum(levels), 0.99 * grey.size)) / 255,
        glare=float(levels[CLIPPED:].sum() / grey.size),
        sharpness=(_gradient(grey, 1) + 1e-3) / (_gradient(grey, COARSE) + 1e-3),
        repeated=float(again.sum() / len(grey)),
        balance=float(contrast.min() / contrast.max()) if contrast.max() > 0.0 else 1.0,
        uniform=_uniform(grey),
        fingerprint=zlib.crc32(thin.tobytes()),
    )


def fault(seen: Quality, limits: Limits | None = None) -> Fault | None:
    """What is wrong with a frame, by the first signal beyond its limit; None where nothing is.

    >>> fault(quality(np.zeros((90, 160, 3), np.uint8)))
    'dark'
    """
    limits = limits or Limits()
    if seen.light < limits.min_light:
        return "dark"
    if seen.glare > limits.max_glare:
        return "glare"
    if seen.sharpness > limits.max_sharpness:
        return "noise"
    if seen.repeated > limits.max_repeated:
        return "garbled"
    if seen.balance < limits.min_balance:
        return "discoloured"
    if seen.uniform > limits.max_uniform:
        return "covered"
    if seen.sharpness < limits.min_sharpness:
        return "blurred"
    return None


def _luminance(pixels: Image) -> npt.NDArray[np.int16]:
    """Green counts twice; whole numbers, 0 to 253: bytes are halved before they are added, which costs a third of the time."""
    halves: Image = (pixels[..., 0] >> 2) + (pixels[..., 1] >> 1) + (pixels[..., 2] >> 2)
    return halves.astype(np.int16)


def _gradient(grey: npt.NDArray[np.int16], lag: int) -> float:
    """Mean absolute difference of pixels `lag` columns apart; 0 where the picture is narrower."""
    if grey.shape[1] <= lag:
        return 0.0
    return float(np.abs(grey[:, lag:] - grey[:, :-lag]).mean(dtype=np.float32))


def _uniform(grey: npt.NDArray[np.int16]) -> float:
    """Share of tiles, of all, that have no texture and the same luminance as the most others of their kind."""
    rows, columns = grey.shape[0] // COARSE, grey.shape[1] // COARSE
    if not rows or not columns:
        return 0.0
    whole = grey[: rows * COARSE, : columns * COARSE].astype(np.float32)
    tiles: Any = whole.reshape(rows, COARSE, columns, COARSE)
    means = tiles.mean(axis=(1, 3))
    spread = np.sqrt(np.maximum((tiles * tiles).mean(axis=(1, 3)) - means * means, 0.0))
    surface = means[(spread < FLAT) & (means > BLACK)].astype(np.intp)
    of_level = np.bincount(surface, minlength=256)
    return float(np.convolve(of_level, np.ones(2 * SAME_LEVEL + 1, np.intp)).max() / means.size)
