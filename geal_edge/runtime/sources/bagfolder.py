"""Which files a recording consists of: one, or a rosbag2 folder's, also where a power cut left it without metadata.yaml."""

import os
import re
from pathlib import Path

from geal_edge.errors import SourceError
from geal_edge.runtime.sources.bagfile import BagFile
from geal_edge.runtime.sources.db3 import Db3File
from geal_edge.runtime.sources.mcapfile import McapFile
from geal_edge.runtime.sources.ros1bag import Ros1Bag

ENDINGS = (".mcap", ".db3", ".bag", ".bag.active")
METADATA = "metadata.yaml"

_PARTS = re.compile(r"(.*)_\d+\.(mcap|db3)")
_LISTED = re.compile(r"^\s*relative_file_paths:[ \t]*\n((?:[ \t]*-[ \t]+.+\n?)+)", re.MULTILINE)
_ITEM = re.compile(r"^[ \t]*-[ \t]+(.+)$", re.MULTILINE)


def is_bag(path: Path) -> bool:
    """Whether a file is a bag by its ending, or a folder by what rosbag2 puts there."""
    if path.is_dir():
        return (path / METADATA).is_file() or bool(_parts_of(path))
    return path.name.lower().endswith((*ENDINGS, ".zstd"))


def files_of(path: Path) -> tuple[list[BagFile], list[str]]:
    """The files of a recording, and the names of those that should be there and are not."""
    if not path.is_dir():
        return [_bag_file(path)], []
    listed = _listed_files(path)
    names = [name for name in listed if os.path.isfile(path / name)] or _parts_of(path)
    if not names:
        raise SourceError(
            f"{path}: none of the files that {METADATA} names is there ({', '.join(listed) or 'it names none'})"
        )
    return [_bag_file(path / name) for name in names], [name for name in listed if name not in names]


def _listed_files(folder: Path) -> list[str]:
    """What metadata.yaml lists, which rosbag2 writes when a recording ends well: one form of it, no YAML in general."""
    try:
        text = (folder / METADATA).read_text("utf-8", "replace")
    except OSError:
        return []
    found = _LISTED.search(text)
    paths = [item.strip().strip("'\"") for item in _ITEM.findall(found[1] if found else "")]
    # os.path.isfile, for whatever stands there: a name that is too long is no file, and no error either.
    return [path if os.path.isfile(folder / path) else os.path.basename(path) for path in paths]


def _parts_of(folder: Path) -> list[str]:
    """The files of one recording by their names, `NAME_0.mcap`, `NAME_1.mcap`; none where they are of several."""
    try:
        names = [name for name in os.listdir(folder) if name.endswith((".mcap", ".db3"))]
    except OSError:
        return []
    parts = [_PARTS.fullmatch(name) for name in names]
    return sorted(names) if len({part[1] if part else None for part in parts} - {None}) == 1 and all(parts) else []


def _bag_file(path: Path) -> BagFile:
    try:
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: the file is empty (0 bytes), a recording was expected")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
    name = path.name.lower()
    if name.endswith(".mcap"):
        return McapFile(path)
    if name.endswith(".db3"):
        return Db3File(path)
    if name.endswith((".bag", ".bag.active")):
        return Ros1Bag(path)
    if name.endswith(".zstd"):
        raise SourceError(
            f"{path}: is compressed as a whole and cannot be streamed. Unpack it first with: zstd -d FILE"
        )
    raise SourceError(f"{path}: not a recording by its ending (known: {' '.join(ENDINGS)})")
