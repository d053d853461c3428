"""A frame becomes the model's input: one resize. Scale, mean and standard deviation are in the graph.

The filter is part of the feature space: two filters give two different pictures, and other picks.
"""

from math import sqrt

import numpy as np
import numpy.typing as npt

from geal_edge.config import RESIZE_FILTERS, ResizeFilter
from geal_edge.errors import UsageError, missing_library

ASPECT_TOLERANCE = 1.3


def resize(image: npt.NDArray[np.uint8], width: int, height: int, resize_filter: ResizeFilter) -> npt.NDArray[np.uint8]:
    """Bring a picture to exactly `width` x `height`; its aspect is not kept (paper C.3, C.4).

    image          uint8 (H, W, 3)
    resize_filter  `pil_bicubic`: Pillow's, antialiased (its support widens with the reduction), a = -0.5, rows before
                   columns with 8 bits between: what the authors' code does, bit for bit in every version.
                   `area`: OpenCV's INTER_AREA, the mean of the covered pixels; where a side grows, OpenCV itself goes
                   over to a bilinear kind
    returns        uint8 (height, width, 3), C-contiguous; `image` itself where it has that size already

    Raises MissingDependency where the filter's library is not installed, UsageError for an unknown filter.
    """
    if resize_filter not in RESIZE_FILTERS:
        raise UsageError(f"resize filter {resize_filter!r}: must be one of {', '.join(RESIZE_FILTERS)}")
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    return _pil_bicubic(image, width, height) if resize_filter == "pil_bicubic" else _area(image, width, height)


def aspect_warning(source_size: tuple[int, int], input_size: tuple[int, int], patch_size: int) -> str | None:
    """A sentence where the resize squeezes the source by more than 1.3x, with a size that would not; else None.

    source_size, input_size  (width, height) in pixels

    >>> aspect_warning((1280, 720), (224, 224), 16)
    'its 1280x720 pixels are squeezed 1.8x into 224x224. Export with --size 304x176, about as fast, to keep their shape'
    >>> aspect_warning((640, 480), (224, 224), 16) is None
    False
    >>> aspect_warning((640, 512), (224, 224), 16) is None
    True
    """
    source, target = source_size[0] / source_size[1], input_size[0] / input_size[1]
    squeeze = max(source / target, target / source)
    if squeeze <= ASPECT_TOLERANCE:
        return None
    width, height = matching_size(source_size, input_size, patch_size)
    return (
        f"its {source_size[0]}x{source_size[1]} pixels are squeezed {squeeze:.1f}x into {input_size[0]}x{input_size[1]}. "
        f"Export with --size {width}x{height}, about as fast, to keep their shape"
    )


def matching_size(source_size: tuple[int, int], input_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """The (width, height), multiples of the patch, of the source's aspect and about the input's number of patches."""
    patches = (input_size[0] // patch_size) * (input_size[1] // patch_size)
    columns = max(1, round(sqrt(patches * source_size[0] / source_size[1])))
    rows = max(1, round(columns * source_size[1] / source_size[0]))
    return columns * patch_size, rows * patch_size


def _pil_bicubic(image: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_library("The resize filter pil_bicubic is that of Pillow", "Pillow", error) from error
    # Rows first, then columns, each in a call of its own: given both at once, Pillow 13 begins with the columns where that
    # is cheaper (portrait pictures, flat inputs), and then up to a quarter of the bytes differ from older versions'.
    rows = Image.fromarray(image).resize((width, image.shape[0]), Image.Resampling.BICUBIC)
    return np.array(rows.resize((width, height), Image.Resampling.BICUBIC))


def _area(image: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    try:
        import cv2
    except ImportError as error:
        raise missing_library("The resize filter area is that of OpenCV", "OpenCV", error) from error
    return np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
