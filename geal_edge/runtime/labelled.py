"""Label exports: the images that COCO JSON, CVAT's XML for images, Label Studio JSON, or a YOLO folder name, as a source.

Whatever was labelled in them does not matter here: an image that is named was looked at by a person. Tools write names as
they know them (relative to some folder, or as the address of their own server), so an image is looked for beside the export
and in the folder above, there in `images/` too, by as much of its path as is found.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from geal_edge.errors import UsageError
from geal_edge.models.jsontext import parse_json
from geal_edge.runtime.sources.images import ENDINGS, ImageSource, own_name

_IMAGES, _LABELS = "images", "labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelExport:
    """The images of an export that are here, and the names of those that are not."""

    source: ImageSource
    absent: tuple[str, ...]


def label_export(path: Path) -> LabelExport | None:
    """Open a label export; None where `path` is none, by its ending and what stands at its top.

    Raises UsageError where it is one that cannot be read, or none of its images is here.
    """
    if path.is_dir():
        names = _of_yolo(path) if (path / _IMAGES).is_dir() and (path / _LABELS).is_dir() else None
    elif path.suffix.lower() == ".xml":
        names = _of_cvat(path)
    elif path.suffix.lower() == ".json":
        names = _of_json(path)
    else:
        return None
    return None if names is None else _found(path, names)


def _of_yolo(path: Path) -> list[str]:
    """Images with a label file of their name; an empty one says that there is nothing to be seen, and was written too."""
    labelled = {file.relative_to(path / _LABELS).with_suffix("") for file in (path / _LABELS).rglob("*.txt")}
    images = (file.relative_to(path) for file in (path / _IMAGES).rglob("*") if file.suffix.lower() in ENDINGS)
    return [str(image) for image in images if image.relative_to(_IMAGES).with_suffix("") in labelled]


def _of_cvat(path: Path) -> list[str]:
    names: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "image" and "name" in attributes:
            names.append(attributes["name"])

    parse_xml(path, "an export of CVAT", start=start)
    return names


def parse_xml(
    path: Path,
    what: str,
    *,
    start: Callable[[str, dict[str, str]], None],
    text: Callable[[str], None] = lambda _: None,
    end: Callable[[str], object] = lambda _: None,
) -> None:
    """Call back for every tag and piece of text of a file. Raises UsageError where it is no XML, or declares an entity.

    what  the file is, for the message
    """
    from xml.parsers import expat

    def refuse(name: str, *_: Any) -> None:
        raise UsageError(
            f"{path}: declares the entity {name}, which no file of this kind does ({what}). It was not read."
        )

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.CharacterDataHandler = text
    parser.EndElementHandler = end
    parser.EntityDeclHandler = refuse  # entities within entities fill any memory
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except (expat.ExpatError, OSError) as error:
        raise UsageError(f"{path}: cannot be read as {what} ({error}). Export it again.") from error


def _of_json(path: Path) -> list[str] | None:
    try:
        data = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None  # whoever reads it as something else says what is wrong
    if isinstance(data, dict) and isinstance(data.get("images"), list):
        return [image["file_name"] for image in data["images"] if isinstance(image, dict) and "file_name" in image]
    if isinstance(data, list):
        tasks = (task["data"] for task in data if isinstance(task, dict) and isinstance(task.get("data"), dict))
        return [name for task in tasks if (name := _task_image(task)) is not None]
    return None


def _task_image(task: dict[str, Any]) -> str | None:
    """The image of a Label Studio task: the first text in it that ends as one, as a path.

    >>> _task_image({"frame_id": "a#1", "image": "/data/local-files/?d=drive/images/0001%20a.jpg"})
    'drive/images/0001 a.jpg'
    """
    for value in task.values():
        if isinstance(value, str):
            address = urlsplit(value)
            name = parse_qs(address.query).get("d", [unquote(address.path)])[0]
            if PurePosixPath(name).suffix.lower() in ENDINGS:
                return name
    return None


def _found(path: Path, names: Iterable[str]) -> LabelExport:
    here = path if path.is_dir() else path.parent
    bases = [folder for beside in (here, here.parent) for folder in (beside, beside / _IMAGES)]
    files: set[str] = set()
    absent = []
    for name in names:
        file = _look_for(str(name), bases)
        if file is None:
            absent.append(str(name))
        else:
            files.add(os.path.abspath(file))
    if not files:
        example = f", {absent[0]} for one" if absent else ""
        raise UsageError(
            f"{path}: a label export of {len(absent)} images, and none of them is here{example}. Put them beside it, "
            f"under the names that it gives or in {_IMAGES}/."
        )
    root = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    relative = [os.path.relpath(file, root) for file in files]
    source = ImageSource(root, relative, name=own_name(root), spec=os.path.abspath(path))
    return LabelExport(source=source, absent=tuple(absent))


def _look_for(name: str, bases: list[Path]) -> Path | None:
    """The first file that a name can mean: all of it first, then without its first folders."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    for begin in range(len(parts)):
        for base in bases:
            file = base.joinpath(*parts[begin:])
            # os.path.isfile: a name that is too long for any file is an OSError of Path.is_file.
            if file.suffix.lower() in ENDINGS and os.path.isfile(file):
                return file
    return None
