"""The selected frames as a folder that a labelling tool imports (`geal-edge extract`).

    spool or picks file -> selection.py -> pictures under safe names, in whatever order the sources give them
                                        -> frames.jsonl and the format's own files, in the selected order

A format is a module with the folder that its pictures go to (IMAGES) and one function (`write`), entered in FORMATS. Besides
them stands `mcap`, which writes no pictures but the recorded messages that they came in (mcap.py).
One picture is held at a time; what is known of the frames is held whole, about a kilobyte each.
"""

import contextlib
import io
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, get_args

from geal_edge.errors import (
    FrameError,
    Interrupted,
    SourceError,
    SpoolDamaged,
    StorageError,
    UsageError,
    missing_library,
)
from geal_edge.runtime.durable import TEMPORARY_SUFFIX
from geal_edge.runtime.extract import coco, cvat, fiftyone, images, label_studio, mcap, yolo
from geal_edge.runtime.extract.extraction import ExtractedFrame, Extraction
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.imagefile import Encoding, stored_form
from geal_edge.runtime.observer import Observer, Silent
from geal_edge.runtime.privacy.filter import PrivacyFilter
from geal_edge.runtime.privacy.leaving import Door
from geal_edge.runtime.selection import SelectedFrame, Selection, read_again, read_selection
from geal_edge.runtime.sources.images import ENDINGS

FormatName: TypeAlias = Literal["images", "coco", "cvat", "label-studio", "yolo", "fiftyone", "mcap"]


class Format(Protocol):
    IMAGES: str

    def write(self, folder: Path, extraction: Extraction) -> None:
        """Write the format's own files into `folder`, beside the pictures and `frames.jsonl`, which are there."""


MESSAGES: FormatName = "mcap"
FORMATS: dict[FormatName, Format] = {
    "images": images,
    "coco": coco,
    "cvat": cvat,
    "label-studio": label_studio,
    "yolo": yolo,
    "fiftyone": fiftyone,
}

_LONGEST_NAME = 100
_TURNED = {5, 6, 7, 8}
"""EXIF orientations that swap width and height."""
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A selected frame whose picture could not be had, and the sentence that says why."""

    id: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractSummary:
    """bytes: of the pictures or messages of the frames; left_out: in the selected order; untrained: as the selection says."""

    frames: int
    bytes: int
    left_out: tuple[LeftOut, ...]
    untrained: bool


def extract(
    source: Path,
    to: Path,
    *,
    format_name: FormatName,
    encoding: Encoding = "jpg",
    privacy: PrivacyFilter | None = None,
    watch: Observer | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> ExtractSummary:
    """Write the selected frames of a spool folder or a picks file to the folder `to`, complete or not at all.

    encoding  for frames that have no file of their own (those of videos in a picks file); all others keep their bytes
    privacy   what pictures of a spool pass where it asks for it (runtime/privacy/)

    A frame whose picture is gone or altered is left out and named; the order of the others keeps its numbers. Raises
    UsageError where `to` is taken, `source` is neither, or messages are wanted of what is no bag; SpoolError, SpoolDamaged or
    SourceError where no frame could be had at all, StorageError where `to` cannot be written, MissingDependency without
    Pillow (or what bags take), PrivacyError where a hook must be passed that `privacy` has not, Interrupted once `stop()`
    says so.
    """
    to = Path(os.path.abspath(to))
    chosen = FORMATS.get(format_name)
    if chosen is None and format_name != MESSAGES:
        raise UsageError(f"--format {format_name}: must be one of {', '.join(get_args(FormatName))}")
    require_free(to, source)
    require_pillow()
    selection = read_selection(source, privacy)
    if not selection.frames:
        raise UsageError(f"{source}: no frame is selected, so there is nothing to extract.")
    watch = watch or Silent()
    if chosen is None:
        mcap.require_bags(selection)
    with appearing(to) as folder:
        if chosen is None:
            written, missed, size = mcap.write_messages(selection, folder, name=to.name, watch=watch, stop=stop)
            left_out = [LeftOut(id=frame.id, why=why) for frame, why in missed]
        else:
            (folder / chosen.IMAGES).mkdir()
            written, left_out, size = write_pictures(
                selection,
                folder / chosen.IMAGES,
                _pictures(selection, encoding=encoding, watch=watch, stop=stop),
                watch,
            )
        if not written:
            stored = source.is_dir() and any(frame.file is not None for frame in selection.frames)
            kind = SpoolDamaged if stored and chosen is not None else SourceError
            raise kind(f"{source}: none of its {len(selection.frames)} frames could be had. {left_out[0].why}")
        extraction = Extraction(name=to.name, selection=selection, frames=tuple(written))
        images.write_frames(folder, extraction, "" if chosen is None else chosen.IMAGES)
        if chosen is not None:
            chosen.write(folder, extraction)
    return ExtractSummary(frames=len(written), bytes=size, left_out=tuple(left_out), untrained=selection.untrained)


def file_stem(frame: SelectedFrame, digits: int = 4) -> str:
    """A name for a frame's file without its ending: sorts in the selected order, is unique by its number (the frame's order,
    or where units hold several frames its place among all that are selected), and is safe on
    every file system and in every tool, whatever stands in the id.

    An ending is left away, dots and all else but letters and digits of ASCII become `_`; of a long id the end stays, which
    tells frames apart.
    """
    text = frame.id
    ending = os.path.splitext(text)[1]
    if ending.lower() in ENDINGS:
        text = text[: -len(ending)]
    safe = re.sub(r"[^A-Za-z0-9-]+", "_", text)[-_LONGEST_NAME:].strip("_-")
    return f"{frame.number:0{digits}d}_{safe or 'frame'}"


def require_free(to: Path, source: Path) -> None:
    try:
        taken = os.path.lexists(to) and not (to.is_dir() and not to.is_symlink() and not any(to.iterdir()))
    except OSError as error:
        raise UsageError(f"{to}: cannot be looked into ({error.strerror}). Choose another --to.") from error
    if taken:
        raise UsageError(
            f"{to}: is there already, and nothing is overwritten. Choose another --to, or remove it first."
        )
    if not to.parent.is_dir():
        raise UsageError(f"{to}: there is no folder {to.parent}. Create it first, or choose another --to.")
    if source.is_dir() and to.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{to}: lies in the spool that is extracted. Choose a --to outside of it.")


def require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise missing_library("Pictures are measured and encoded with Pillow", "Pillow", error) from error


@contextlib.contextmanager
def appearing(to: Path) -> Iterator[Path]:
    """A folder to fill, which stands under `to` once the block has ended well and is gone otherwise.

    Not synced: an extraction can be made again.
    """
    temporary = to.with_name(f".{to.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(to)
    except OSError as error:
        raise StorageError(
            f"{to}: cannot be written ({error.strerror or error}). Choose another --to, or free some space."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# -- the pictures ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picture:
    data: bytes
    ending: str
    width: int
    height: int


def write_pictures(
    selection: Selection, folder: Path, pictures: Iterable[tuple[SelectedFrame, Picture | str]], watch: Observer
) -> tuple[list[ExtractedFrame], list[LeftOut], int]:
    """(frames written, frames left out, bytes), each in the selected order; `pictures` has each frame once, in any order."""
    digits = max(4, len(str(len(selection.frames))))
    written: dict[int, ExtractedFrame] = {}
    left_out: dict[int, LeftOut] = {}
    size = 0
    for frame, picture in pictures:
        if isinstance(picture, str):
            left_out[frame.number] = LeftOut(id=frame.id, why=picture)
            watch.warn(f"{frame.id}: left out. {picture}")
        else:
            name = f"{file_stem(frame, digits)}.{picture.ending}"
            (folder / name).write_bytes(picture.data)
            size += len(picture.data)
            written[frame.number] = ExtractedFrame(
                frame=frame,
                file=name,
                width=picture.width,
                height=picture.height,
                sha256=sha256(picture.data).hexdigest(),
            )
        watch.advance(left_out=len(left_out))
    return [written[n] for n in sorted(written)], [left_out[n] for n in sorted(left_out)], size


def _pictures(
    selection: Selection, *, encoding: Encoding, watch: Observer, stop: Callable[[], bool]
) -> Iterator[tuple[SelectedFrame, Picture | str]]:
    """Each selected frame once, with its picture or the sentence that says why there is none."""
    stored = [frame for frame in selection.frames if frame.file is not None]
    if stored:
        watch.begin("extracting", len(stored))
    for frame in stored:
        if stop():
            raise Interrupted("Stopped; nothing was written.")
        yield frame, _stored(frame)
    sources = {source.name: source for source in selection.sources}
    wanted: dict[str, dict[int, SelectedFrame]] = {}
    for frame in selection.frames:
        if frame.file is None:
            wanted.setdefault(frame.source, {})[frame.frame_index] = frame
    for name, frames in wanted.items():
        watch.begin(f"reading {name} again", len(frames))
        if name not in sources:
            yield from ((frame, f"The picks file names no source {name}.") for frame in frames.values())
            continue
        for index, found in read_again(sources[name], frames, stop=stop):
            if isinstance(found, str):
                yield frames[index], found
            else:
                yield frames[index], _read_again(found, selection.door, encoding)


def _read_again(frame: Frame, door: Door | None, encoding: Encoding) -> Picture | str:
    """From its source; of a spool, which has sent it, as it may leave that."""
    height, width = frame.image.shape[:2]
    data, ending = stored_form(frame, encoding)
    try:
        return Picture(data if door is None else door.again(frame, data, ending), ending, width, height)
    except FrameError as error:
        return error.detail


def _stored(frame: SelectedFrame) -> Picture | str:
    """A spool's file, as it may leave it."""
    if frame.file is None:
        return "It has no file."
    file = frame.file.file
    try:
        data = frame.file.read()
    except FrameError as error:
        return f"{error.detail[:1].upper()}{error.detail[1:].rstrip('.')}."
    size = size_upright(data)
    if size is None:
        return f"{file.name} is not an image."
    return Picture(data, file.suffix.removeprefix("."), *size)


def size_upright(data: bytes) -> tuple[int, int] | None:
    """(width, height) as people see the picture, from its header; None where it has none."""
    from PIL import Image as Pillow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures and odd EXIF: it was decoded before it was stored
        try:
            with Pillow.open(io.BytesIO(data)) as picture:
                width, height = picture.size
                try:
                    turned = picture.getexif().get(_ORIENTATION_TAG) in _TURNED
                except Exception:  # noqa: BLE001  a damaged EXIF block says nothing; the picture itself is whole
                    turned = False
        except (OSError, ValueError, SyntaxError):
            return None
    return (height, width) if turned else (width, height)
