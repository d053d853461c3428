"""Boxes: PASCAL VOC's XML, COCO's JSON and YOLO's text, each box as a class and the share of the frame that it takes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from geal_edge.errors import UsageError
from geal_edge.models.jsontext import parse_json
from geal_edge.runtime.compare.labels.annotation import FrameLabels, Grid, class_list
from geal_edge.runtime.labelled import parse_xml


@dataclass(frozen=True, slots=True)
class Box:
    """area: the share of the frame, 0 to 1."""

    kind: str
    area: float


class BoxFiles(ABC):
    """What the three formats have in common. `named`: the classes, where the format names them apart from the boxes."""

    def __init__(self, names: Sequence[str], named: Sequence[str]) -> None:
        self.names = names
        self._named = tuple(named)

    @abstractmethod
    def boxes(self, name: str) -> list[Box]:
        """Those of one frame, by its name in `names`."""

    def read(self, names: Sequence[str], grid: Grid | None) -> tuple[tuple[str, ...], list[FrameLabels]]:
        """Raises UsageError where a file cannot be read. Boxes say nothing of single patches, whatever the grid."""
        found = [self.boxes(name) for name in names]
        classes = self._named or tuple(sorted({box.kind for boxes in found for box in boxes}))
        number = {name: i for i, name in enumerate(classes)}
        frames = []
        for boxes in found:
            instances, area = np.zeros(len(classes), np.int64), np.zeros(len(classes))
            for box in boxes:
                instances[number[box.kind]] += 1
                area[number[box.kind]] += box.area
            frames.append(FrameLabels(instances=instances, area=area))
        return classes, frames


class VocFiles(BoxFiles):
    """A folder of XML files as PASCAL VOC has them in `Annotations`, one for each frame."""

    def __init__(self, folder: Path) -> None:
        self._files = {str(file.relative_to(folder).with_suffix("")): file for file in sorted(folder.rglob("*.xml"))}
        super().__init__(list(self._files), ())

    def boxes(self, name: str) -> list[Box]:
        path = self._files[name]
        stack: list[str] = []
        texts: dict[str, str] = {}
        objects: list[dict[str, str]] = []

        def start(tag: str, _: dict[str, str]) -> None:
            stack.append(tag)
            if stack[1:] == ["object"]:
                objects.append({})

        def text(piece: str) -> None:
            place = objects[-1] if stack[1:2] == ["object"] else texts
            key = "/".join(stack[2:] if place is not texts else stack[1:])
            place[key] = place.get(key, "") + piece

        parse_xml(path, "a VOC annotation", start=start, text=text, end=lambda _: stack.pop())
        try:
            frame = float(texts["size/width"]) * float(texts["size/height"])
            return [Box(each["name"].strip(), _voc_area(each) / frame) for each in objects]
        except (KeyError, ValueError, OverflowError, ZeroDivisionError) as error:
            raise UsageError(
                f"{path}: no VOC annotation ({error!r}). Expected size/width, size/height, and for each object its name "
                "and bndbox."
            ) from error


def _voc_area(texts: dict[str, str]) -> float:
    left, top, right, bottom = (float(texts[f"bndbox/{side}"]) for side in ("xmin", "ymin", "xmax", "ymax"))
    return max(0.0, right - left) * max(0.0, bottom - top)


class CocoFile(BoxFiles):
    """One JSON file with `images`, `annotations` and `categories`. Crowds are no instances and are left out."""

    def __init__(self, path: Path) -> None:
        try:
            data = parse_json(path.read_bytes())
            kinds = {each["id"]: str(each["name"]) for each in data["categories"]}
            images = {each["id"]: each for each in data["images"]}
            self._boxes: dict[str, list[Box]] = {_stem(each["file_name"]): [] for each in images.values()}
            for each in data["annotations"]:
                if not each.get("iscrowd"):
                    image = images[each["image_id"]]
                    share = _coco_area(each) / (image["width"] * image["height"])
                    self._boxes[_stem(image["file_name"])].append(Box(kinds[each["category_id"]], share))
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
        except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError, AttributeError) as error:
            raise UsageError(
                f"{path}: no COCO file of instances ({error!r}). Expected `images` with their width and height, "
                "`annotations` with a bbox, and `categories`."
            ) from error
        super().__init__(list(self._boxes), list(dict.fromkeys(kinds.values())))

    def boxes(self, name: str) -> list[Box]:
        return self._boxes[name]


def _coco_area(annotation: dict[str, Any]) -> float:
    _, _, width, height = annotation["bbox"]
    return float(annotation.get("area", width * height))


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


class YoloFiles(BoxFiles):
    """Text files, one for each frame, with lines `CLASS X Y WIDTH HEIGHT` in shares of the frame (or polygons of such)."""

    def __init__(self, folder: Path, given: Path | None) -> None:
        listed = class_list(folder, given)
        self._files = {str(file.relative_to(folder).with_suffix("")): file for file in text_files(folder)}
        self._names = None if listed is None else [name or "void" for name in listed.names]
        super().__init__(list(self._files), self._names or ())

    def boxes(self, name: str) -> list[Box]:
        path = self._files[name]
        found = []
        try:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if line.strip():
                    found.append(self._box(line.split(), f"{path}:{number}"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: cannot be read ({error}).") from error
        return found

    def _box(self, words: list[str], where: str) -> Box:
        try:
            kind, values = int(words[0]), [float(word) for word in words[1:]]
            if len(values) == 4:
                area = values[2] * values[3]
            elif len(values) < 6:
                raise ValueError("neither a box nor a polygon")
            else:
                x, y = np.array(values).reshape(-1, 2).T
                area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
        except ValueError as error:
            raise UsageError(
                f"{where}: no YOLO label. Expected `CLASS X Y WIDTH HEIGHT`, shares of the frame."
            ) from error
        if self._names is not None and not 0 <= kind < len(self._names):
            raise UsageError(f"{where}: class {kind}, and the class list has {len(self._names)}.")
        return Box(str(kind) if self._names is None else self._names[kind], area)


def text_files(folder: Path) -> list[Path]:
    """What may be YOLO's: text that is not the list of classes, nor one of images."""
    other = ("classes.txt", "label_colors.txt", "train.txt", "val.txt", "test.txt")
    return [file for file in sorted(folder.rglob("*.txt")) if file.name not in other]
