"""The report's pictures: small JPEGs of frames, from the spool's files or read again from the sources of a picks file."""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from geal_edge.errors import FrameError, missing_library
from geal_edge.runtime.frame import Image
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.report.data import ShownFrame
from geal_edge.runtime.selection import Opener, read_again
from geal_edge.runtime.sources.images import decode_image

WIDTH = 320
SMALL_WIDTH = 128
MAX_BYTES = 24_000
"""Of one JPEG: with base64 and the words of its card a frame stays below 40 kB, however noisy it is."""
QUALITIES = (78, 64, 50, 36, 22, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Why there is no picture: a sentence for the page."""

    why: str


Picture: TypeAlias = Thumbnail | Missing
Pictures: TypeAlias = Callable[[ShownFrame], Picture]


def require_pillow() -> None:
    """Raise MissingDependency where there is no Pillow: before the first picture, and once for all."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise missing_library("The report's pictures are made with Pillow", "Pillow", error) from error


def shrink(image: Image, width: int) -> Thumbnail:
    """A frame, uint8 (H, W, 3) RGB, as a JPEG of at most `width` pixels each way, its aspect kept, never enlarged."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(image)
    picture.thumbnail((width, width), Pillow.Resampling.BICUBIC, reducing_gap=2.0)
    jpeg = b""
    for quality in QUALITIES:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        jpeg = buffer.getvalue()
        if len(jpeg) <= MAX_BYTES:
            break
    return Thumbnail(jpeg=jpeg, width=picture.width, height=picture.height)


def spool_pictures(width: int) -> Pictures:
    """Pictures from the spool's files, each read when it is asked for: memory does not grow with the spool."""

    def read(frame: ShownFrame) -> Picture:
        if frame.file is None:
            sent = frame.state == "sent"
            return Missing(why="It was sent: the far side has it." if sent else "A shadow writes no frames.")
        try:
            return shrink(decode_image(frame.file.read()).image, width)
        except FrameError as error:
            return Missing(why=f"{frame.file.file.name}: {error.detail}")

    return read


def pictures_again(frames: Iterable[ShownFrame], of: Iterable[Opener], width: int, watch: Observer) -> Pictures:
    """Pictures of frames, all read again now: each source once, front to back, up to the last of its frames."""
    sources = {source.name: source for source in of}
    wanted: dict[str, dict[int, ShownFrame]] = {}
    for frame in frames:
        wanted.setdefault(frame.source, {})[frame.frame_index] = frame
    pictures: dict[tuple[str, int], Picture] = {}
    for name, at in wanted.items():
        if name not in sources:
            why = Missing(why=f"The picks file names no source {name}.")
            pictures.update({(name, index): why for index in at})
            continue
        watch.begin(f"reading {name} again", len(at))
        for index, found in read_again(sources[name], at):
            pictures[name, index] = Missing(why=found) if isinstance(found, str) else shrink(found.image, width)
            watch.advance()
    return lambda frame: pictures[frame.source, frame.frame_index]
