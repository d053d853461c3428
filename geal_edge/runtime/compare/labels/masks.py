"""Masks: a picture for each frame in which every pixel tells its class, by its colour or by a number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import MissingDependency, UsageError
from geal_edge.runtime.compare.labels.annotation import (
    ClassList,
    FrameLabels,
    Grid,
    PatchClasses,
    class_list,
)

ClassMap: TypeAlias = npt.NDArray[np.int16]
"""(H, W): the class of every pixel, -1 for void."""

ENDINGS = (".png", ".bmp")
SUFFIXES = ("_L", "_gtFine_labelTrainIds")
"""What CamVid and Cityscapes put behind the name of the frame."""

_NONE = 255
"""In a mask of numbers: no class, as in PASCAL VOC and Cityscapes' train ids."""

_SPECK = 1e-4
"""The share of a frame below which a region is no instance but a ragged edge: 17 pixels of 480 x 360."""


class MaskFiles:
    """A folder of masks. Classes of masks without a class list are called by their numbers."""

    def __init__(self, folder: Path, given: Path | None) -> None:
        self._classes = class_list(folder, given)
        self._files: dict[str, Path] = {}
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in ENDINGS:
                whole = name = str(file.relative_to(folder).with_suffix(""))
                for suffix in SUFFIXES:
                    name = name.removesuffix(suffix)
                if (
                    name != whole or name not in self._files
                ):  # where frames lie beside their masks, the mask is called so
                    self._files[name] = file

    @property
    def names(self) -> Sequence[str]:
        return list(self._files)

    def read(self, names: Sequence[str], grid: Grid | None) -> tuple[tuple[str, ...], list[FrameLabels]]:
        """Raises UsageError where a mask cannot be read, or no pixel of any is of a class; MissingDependency."""
        count = _NONE if self._classes is None else len(self._classes.names)
        frames = [labels_of(read_mask(self._files[name], self._classes), count, grid) for name in names]
        present = np.flatnonzero(sum(frame.area for frame in frames) > 0)
        if not len(present):
            raise UsageError(
                f"{self._files[names[0]]}: neither this mask nor any other has a pixel of a class. "
                "Look whether the class list belongs to them."
            )
        if self._classes is not None:
            return self._classes.names, frames
        count = int(present[-1]) + 1
        cut = [
            FrameLabels(instances=frame.instances[:count], area=frame.area[:count], patches=frame.patches)
            for frame in frames
        ]
        return tuple(str(number) for number in range(count)), cut


def read_mask(path: Path, classes: ClassList | None) -> ClassMap:
    """The classes of a mask's pixels. Raises UsageError where it cannot be read, or is coloured and there are no colours."""
    try:
        from PIL import Image as Pillow
    except ImportError as error:
        raise MissingDependency(
            "Masks are read with Pillow, which is not installed. Install it with: pip install 'geal-edge[compare]'"
        ) from error
    try:
        with Pillow.open(path) as picture:
            if picture.mode not in ("RGB", "RGBA", "L", "P", "1"):
                raise UsageError(
                    f"{path}: its pixels are {picture.mode}. A mask is a picture in colours, or one of 8-bit numbers."
                )
            coloured = picture.mode.startswith("RGB")
            pixels: Any = np.asarray(picture.convert("RGB") if coloured else picture)
    except (OSError, ValueError, SyntaxError) as error:
        raise UsageError(f"{path}: the mask cannot be read ({error}).") from error
    if coloured:
        return _by_colour(path, pixels, classes)
    number = pixels.astype(np.int16)
    return _without_void(np.where(number == _NONE, -1, number).astype(np.int16), classes)


def _by_colour(path: Path, pixels: npt.NDArray[np.uint8], classes: ClassList | None) -> ClassMap:
    if classes is None or classes.colours is None:
        raise UsageError(
            f"{path}: a mask in colours, and there is no list of what they mean. Put a label_colors.txt with lines "
            "`R G B NAME` beside the masks."
        )
    packed = _packed(pixels)
    colours = _packed(classes.colours)
    order = np.argsort(colours)
    place = np.minimum(np.searchsorted(colours[order], packed), len(order) - 1)
    number = np.where(colours[order][place] == packed, order[place], -1)  # a colour of no class is void
    return _without_void(number.astype(np.int16), classes)


def _packed(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(..., 3) -> (...): one number for a colour."""
    wide = colours.astype(np.int64)
    packed: npt.NDArray[np.int64] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return packed


def _without_void(number: ClassMap, classes: ClassList | None) -> ClassMap:
    if classes is None:
        return number
    is_class = np.array([name != "" for name in classes.names] + [False])
    return np.where(is_class[np.clip(number, -1, len(classes.names))], number, -1).astype(np.int16)


def labels_of(mask: ClassMap, classes: int, grid: Grid | None) -> FrameLabels:
    """What a mask says of its frame. Regions connect over corners too; two cars side by side count as one. Raises
    MissingDependency without SciPy.

    >>> labels = labels_of(np.array([[0, 0, 1, -1], [0, 0, 1, -1], [1, -1, -1, -1], [1, -1, -1, 1]], np.int16), 2, (2, 2))
    >>> labels.instances.tolist(), labels.area.tolist(), labels.patches.tolist()
    ([1, 3], [0.25, 0.3125], [0, 1, 1, -1])
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise MissingDependency(
            "Regions of masks are counted with SciPy, which is not installed. "
            "Install it with: pip install 'geal-edge[compare]'"
        ) from error
    counts = np.bincount(mask[mask >= 0], minlength=classes)
    instances = np.zeros(classes, np.int64)
    for number, place in enumerate(ndimage.find_objects(mask + 1)):
        if place is not None:  # cut out: most classes lie in a corner of the frame
            found, _ = ndimage.label(mask[place] == number, structure=np.ones((3, 3)))
            instances[number] = (np.bincount(found.ravel())[1:] >= _SPECK * mask.size).sum()
    patches = None if grid is None else patch_classes(mask, classes, grid)
    return FrameLabels(instances=instances, area=counts / mask.size, patches=patches)


def patch_classes(mask: ClassMap, classes: int, grid: Grid) -> PatchClasses:
    """For each patch of the grid, which lies over the whole frame as the resize does, the class of most of its labelled
    pixels; -1 where less than half of its pixels are labelled."""
    rows, columns = grid
    row = np.arange(mask.shape[0]) * rows // mask.shape[0]
    column = np.arange(mask.shape[1]) * columns // mask.shape[1]
    patch = row[:, None] * columns + column
    votes = np.bincount((patch * (classes + 1) + mask + 1).ravel(), minlength=rows * columns * (classes + 1))
    votes = votes.reshape(rows * columns, classes + 1)
    labelled = votes[:, 1:].sum(axis=1)
    majority: PatchClasses = np.where(labelled >= votes[:, 0], votes[:, 1:].argmax(axis=1), -1).astype(np.int16)
    return np.where(labelled > 0, majority, -1).astype(np.int16)
