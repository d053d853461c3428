"""Labels of a pool: which format a path holds, and which label belongs to which frame."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geal_edge.errors import UsageError
from geal_edge.runtime.compare.labels.annotation import FrameLabels, Grid, LabelFiles
from geal_edge.runtime.compare.labels.boxes import CocoFile, VocFiles, YoloFiles, text_files
from geal_edge.runtime.compare.labels.masks import ENDINGS as MASK_ENDINGS
from geal_edge.runtime.compare.labels.masks import MaskFiles
from geal_edge.runtime.poolframe import PoolFrame
from geal_edge.runtime.sources.images import ENDINGS as IMAGE_ENDINGS

_FRAME_SUFFIXES = ("_leftImg8bit",)
"""What Cityscapes puts behind the name of a frame that its masks do not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """kind: the format; classes: their names, "" for void; frames: index -> what is labelled in it, where anything was."""

    kind: str
    classes: tuple[str, ...]
    frames: dict[int, FrameLabels]


def read_labels(
    path: Path, frames: Sequence[PoolFrame], *, grid: Grid | None = None, class_list: Path | None = None
) -> Labels:
    """The labels of those frames that have any.

    path        a folder of masks, of VOC's XML, or of YOLO's text (or one that holds `labels/`), or a COCO JSON
    grid        rows and columns of patches, where masks are to say the class of each; default: they need not
    class_list  default: what lies beside the labels

    Raises UsageError where the format cannot be told, a file is damaged, or no label belongs to any frame.
    """
    kind, files = _open(path, class_list)
    pairs = match(frames, files.names, path)
    classes, labels = files.read([name for _, name in pairs], grid)
    return Labels(kind=kind, classes=classes, frames=dict(zip((index for index, _ in pairs), labels, strict=True)))


def _open(path: Path, class_list: Path | None) -> tuple[str, LabelFiles]:
    if path.suffix.lower() == ".json" and path.is_file():
        return "COCO boxes", CocoFile(path)
    if not path.is_dir():
        raise UsageError(f"{path}: no labels. Expected a folder of masks, VOC XML or YOLO text, or a COCO .json file.")
    folder = path / "labels" if (path / "labels").is_dir() else path
    xml = any(folder.rglob("*.xml"))
    masks = any(file.suffix.lower() in MASK_ENDINGS for file in folder.rglob("*"))
    found = {"VOC boxes": xml, "YOLO boxes": bool(text_files(folder)) and not xml and not masks, "masks": masks}
    kinds = [kind for kind, there in found.items() if there]
    if len(kinds) != 1:
        what = " and ".join(kinds) or "nothing that holds labels"
        raise UsageError(
            f"{path}: holds {what}. Name the folder of one kind of labels, such as `Annotations` or `SegmentationClass`."
        )
    (kind,) = kinds
    if kind == "masks":
        return kind, MaskFiles(folder, class_list)
    return kind, VocFiles(folder) if xml else YoloFiles(folder, class_list)


def match(frames: Sequence[PoolFrame], names: Sequence[str], path: Path) -> list[tuple[int, str]]:
    """(index of a frame, name of its label) for all that belong together.

    The whole relative path decides where it can, with the name of the source before it or without; else the name of the file
    alone. Raises UsageError where a frame would have two labels or a label two frames, or nothing belongs together.
    """
    whole = {_slashed(name) for name in names}
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(_slashed(name).rpartition("/")[2], []).append(name)
    exact = {_slashed(name): name for name in names}
    pairs: list[tuple[int, str]] = []
    owner: dict[str, str] = {}
    for index, frame in enumerate(frames):
        own = frame_name(frame.id)
        inside = own.removeprefix(f"{frame.source}/")
        stem = own.rpartition("/")[2]
        paths = [candidate for candidate in (own, inside) if candidate in whole]
        candidates = [exact[paths[0]]] if paths else by_stem.get(stem, [])
        if len(candidates) > 1:
            raise UsageError(
                f"{path}: both {candidates[0]} and {candidates[1]} may be the labels of {frame.id}. "
                "Name the folder of the labels of this source alone."
            )
        for name in candidates:
            if name in owner:
                raise UsageError(
                    f"{path}: {name} may be the labels of {owner[name]} and of {frame.id}. "
                    "Sort the labels into folders as the frames are."
                )
            owner[name] = frame.id
            pairs.append((index, name))
    if not pairs:
        example = f", such as {names[0]}" if names else ""
        raise UsageError(
            f"{path}: none of its {len(names)} labels{example} has the name of a frame, such as {frames[0].id}."
        )
    return pairs


def frame_name(id_: str) -> str:
    """A frame's id as its label would be called: no ending, none of the suffixes that data sets put behind a frame's name.

    >>> frame_name("train/aachen/a_000019_leftImg8bit.png"), frame_name("drive.mp4#120")
    ('train/aachen/a_000019', 'drive.mp4#120')
    """
    name, ending = os.path.splitext(id_)
    if ending.lower() not in IMAGE_ENDINGS:
        return id_
    for suffix in _FRAME_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _slashed(name: str) -> str:
    return name.replace(os.sep, "/")
