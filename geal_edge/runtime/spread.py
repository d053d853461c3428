"""A few hundred frames that stand for a whole source."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import SourceError
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.sources import Source

Frames: TypeAlias = npt.NDArray[np.uint8]

POOL_FRAMES = 1024
"""Frames that selection parity selects from, at most: spread evenly over its source."""


def spread_frames(
    source: Source, at_most: int, shrink: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]
) -> Frames:
    """At least half of `at_most` frames spread evenly over a source, or all of a shorter one: (n, H, W, 3).

    shrink  a frame's image -> at the input size

    Read once, however long: when twice too many are in hand, every other one is let go. Raises SourceError where there is
    no usable frame.
    """
    frames: list[npt.NDArray[np.uint8]] = []
    position, stride = 0, 1
    for item in source.frames():
        if isinstance(item, Frame):
            if position % stride == 0:
                frames.append(shrink(item.image))
            position += 1
            if len(frames) > at_most:
                frames, stride = frames[::2], 2 * stride
    if not frames:
        raise SourceError(f"{source.spec}: no usable frame. Give another source.")
    return np.stack(frames)
