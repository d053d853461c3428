"""What people labelled in a frame, whatever the format that they wrote it in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import UsageError

Counts: TypeAlias = npt.NDArray[np.int64]
Shares: TypeAlias = npt.NDArray[np.float64]
PatchClasses: TypeAlias = npt.NDArray[np.int16]
Grid: TypeAlias = tuple[int, int]

CLASS_LISTS = ("classes.txt", "label_colors.txt", "obj.names", "data.yaml")
"""Files that name the classes, looked for in the folder of the labels and in the one above it."""

VOID = frozenset({"void", "ignore", "ignored", "unlabeled", "unlabelled"})
"""Names that a class list gives to what is no class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLabels:
    """One labelled frame, by class.

    instances  (C,): boxes, or connected regions of a mask
    area       (C,): the share of the frame that they take, 0 to 1; overlapping boxes may add up to more
    patches    (P,): the class of most of a patch's labelled pixels, -1 where most have none; None of boxes, or unasked
    """

    instances: Counts
    area: Shares
    patches: PatchClasses | None = None


class LabelFiles(Protocol):
    """A reader of one format: `names` are the paths of what it labels, without their endings, as the labels tell them."""

    @property
    def names(self) -> Sequence[str]: ...

    def read(self, names: Sequence[str], grid: Grid | None) -> "tuple[tuple[str, ...], list[FrameLabels]]":
        """(classes, the labels of those names in their order); `grid`: rows and columns of patches, where they are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassList:
    """names: one per index, "" for void; colours: (C, 3) uint8, or None where the list has none."""

    names: tuple[str, ...]
    colours: npt.NDArray[np.uint8] | None


def class_list(folder: Path, given: Path | None) -> ClassList | None:
    """The class list that was given, or the one that lies in `folder` or above it; None where there is none.

    A line is `NAME`, or `R G B NAME` where masks are coloured; of a data.yaml the `names` are read. Raises UsageError.
    """
    beside = [place / name for place in (folder, folder.parent) for name in CLASS_LISTS]
    path = given or next((file for file in beside if file.is_file()), None)
    return None if path is None else _parse(path)


def _parse(path: Path) -> ClassList:
    try:
        text = path.read_text(encoding="utf-8-sig")  # as editors of Windows begin it
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the class list cannot be read ({error}).") from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if path.suffix in (".yaml", ".yml"):
        lines = yaml_names(text)
    coloured = [re.match(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(.+)$", line) for line in lines]
    if not lines or any(coloured) != all(coloured):
        raise UsageError(
            f"{path}: no class list. Expected a line for each class, `NAME`, or `R G B NAME` in all of them."
        )
    colours: Any = None
    if all(coloured):
        numbers = [[int(match[channel]) for channel in (1, 2, 3)] for match in coloured if match]
        if max(map(max, numbers)) > 255:
            raise UsageError(f"{path}: a colour has a channel above 255.")
        colours = np.array(numbers, np.uint8)
        lines = [match[4] for match in coloured if match]
    return ClassList(names=tuple("" if line.lower() in VOID else line for line in lines), colours=colours)


def yaml_names(text: str) -> list[str]:
    """The `names` of a YOLO data.yaml, in any of the forms in which they are written.

    >>> yaml_names("nc: 2\\nnames: [car, 'stop sign']")
    ['car', 'stop sign']
    >>> yaml_names("names:\\n  0: car\\n  1: stop sign\\nval: images"), yaml_names("names:\\n- car\\n- stop sign")
    (['car', 'stop sign'], ['car', 'stop sign'])
    """
    found = re.search(r"^names:[ \t]*(?:\[(?P<row>[^\]]*)\]|(?P<lines>(?:\n(?:[ \t]+|-).*)+))", text, re.MULTILINE)
    if found is None:
        return []
    if found["row"] is not None:
        items = found["row"].split(",")
    else:
        items = [re.sub(r"^\s*(?:-|\d+\s*:)\s*", "", line) for line in found["lines"].splitlines()]
    return [name for item in items if (name := item.strip().strip("'\""))]
