"""Image files as a source: a folder, a glob pattern, or one file.

What is usable becomes 8-bit RGB as people see it: EXIF rotation is applied, grey, 1-bit, palette and CMYK are converted,
alpha is dropped (what lies under it stays, as in the authors' `convert("RGB")`), 16-bit values are scaled from 0..65535
to 0..255 whatever range they really use, of an animation the first picture counts. What is not usable is a LostFrame
with its reason; nothing that stands in a file stops the source.
"""

import glob
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geal_edge.errors import FrameError, SourceError, missing_library
from geal_edge.runtime.frame import Frame, Image, LostFrame

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "GIF": (".gif",),
}
"""Pillow's name of each format that is read, and its endings; a file counts by its ending and is read by its content."""

ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)

MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 1024 * 1024 * 1024

_BROWSER_ENCODINGS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
}  # MPO: a JPEG with more JPEGs behind it

_MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG",
    b"RIFF",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"GIF8",
    b"P1",
    b"P2",
    b"P3",
    b"P4",
    b"P5",
    b"P6",
)

_UPRIGHT = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270"}
_UPRIGHT |= {7: "TRANSVERSE", 8: "ROTATE_90"}
"""EXIF orientation -> the turn (Pillow's name, counter-clockwise) that puts it right."""

_ORIENTATION_TAG = 0x0112
_LOOK_FOR_SIZE = 16  # frames; where none of them is usable, the size is not cheap to know


class ImageSource:
    """Image files under one folder, in the plain byte order of their relative paths. They have no capture time.

    root   the folder that ids are relative to
    files  paths relative to `root`, in any order
    spec   what the user named; a message says it, and `open_source` opens it again

    Raises SourceError where there are no files, MissingDependency where Pillow is not installed.
    """

    def __init__(self, root: Path, files: Sequence[str], *, name: str, spec: str) -> None:
        require_pillow()
        if not files:
            raise SourceError(
                f"{spec}: no image files were found there (looked for {' '.join(sorted(ENDINGS))}). Videos and bags are "
                "named one by one: drives/*.mp4 without quotes does so"
            )
        self.root = root
        self.name = name
        self.spec = spec
        self.kind = "images"
        self.fps: float | None = None
        self._files = sorted(files, key=os.fsencode)

    def fingerprint(self) -> str:
        """Digest of all relative paths and file sizes."""
        digest = hashlib.sha256()
        for file in self._files:
            digest.update(os.fsencode(file) + b"\0%d\n" % _size_of(self.root / file))
        return f"images:{len(self._files)}:{digest.hexdigest()}"

    @property
    def frame_count(self) -> int | None:
        return len(self._files)

    @cached_property
    def size(self) -> tuple[int, int] | None:
        usable = (item for item in islice(self.frames(), _LOOK_FOR_SIZE) if isinstance(item, Frame))
        first = next(usable, None)
        return None if first is None else (first.image.shape[1], first.image.shape[0])

    def frames(self, after: int = -1) -> Iterator[Frame | LostFrame]:
        for index, file in enumerate(self._files):
            if index > after:
                yield self._read(index, file)

    def _read(self, index: int, file: str) -> Frame | LostFrame:
        shown = as_text(file)
        identity = f"{self.name}/{shown}"
        try:
            decoded = read_image(self.root / file)
        except FrameError as error:
            return LostFrame(
                id=identity,
                source=self.name,
                frame_index=index,
                capture_time_ns=None,
                reason=error.reason,
                detail=f"{shown}: {error.detail}",
            )
        return Frame(
            id=identity,
            source=self.name,
            frame_index=index,
            capture_time_ns=None,
            image=decoded.image,
            encoded=decoded.encoded,
            encoding=decoded.encoding,
        )


def image_folder(path: Path, *, name: str | None = None) -> ImageSource:
    """All images below a folder. Names that begin with a dot are not looked at, links to folders not followed.

    Raises SourceError where a folder cannot be listed: its images would be missing without a word.
    """
    files: list[str] = []

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: the folder cannot be read ({error.strerror})") from error

    for folder, subfolders, names in os.walk(path, onerror=refuse):
        # A folder called x.jpg is taken for a frame (a lost one), not for a place to look into.
        names += [name for name in subfolders if is_image_name(name)]
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and not is_image_name(name)]
        files += [os.path.relpath(os.path.join(folder, name), path) for name in names if is_image_name(name)]
    return ImageSource(path, files, name=name or own_name(path), spec=as_text(os.path.abspath(path)))


def image_glob(pattern: str, *, name: str | None = None) -> ImageSource:
    """All images that match; ids are relative to the last folder before the first wildcard, which also gives the name."""
    folders = Path(pattern).parts
    fixed = next((number for number, part in enumerate(folders) if glob.has_magic(part)), len(folders) - 1)
    root = Path(*folders[:fixed])
    matches = [match for match in glob.iglob(pattern, recursive=True) if is_image_name(os.path.basename(match))]
    files = [os.path.relpath(match, root) for match in matches]
    return ImageSource(root, files, name=name or own_name(root), spec=as_text(os.path.abspath(pattern)))


def own_name(path: Path) -> str:
    """What a source of this path is called, as text: a name on disk is any bytes."""
    return as_text(os.path.basename(os.path.abspath(path))) or "images"


def as_text(path: str) -> str:
    """A path as text that JSON and SQLite can hold."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """`image` uint8 (H, W, 3) RGB upright; `encoded` the file's bytes and `encoding` their ending, or None and ""."""

    image: Image
    encoded: bytes | None
    encoding: str


def read_image(path: Path) -> DecodedImage:
    """Read one image file.

    Raises FrameError with the reason `unreadable` (no plain file, or no right to read it), `empty`, `not_an_image`,
    `too_large` (over 100 megapixels by its header, or over 1 GiB: never decoded), `truncated` or `undecodable`.
    """
    return decode_image(read_image_file(path))


def decode_image(data: bytes) -> DecodedImage:
    """The same for the bytes of an image file, wherever they stand. Raises FrameError as `read_image` does."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    if not data:
        raise FrameError("empty", "the image has 0 bytes.")
    # Pillow warns of large pictures, odd EXIF and palettes; each is either used or lost here, and said once by us.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Pillow.open(io.BytesIO(data), formats=list(FORMATS)) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise FrameError("too_large", f"{width} x {height} pixels, more than 100 megapixels; not decoded.")
                picture.load()
                encoding = _BROWSER_ENCODINGS.get(picture.format or "", "")
                image = _rgb(_upright(picture, Pillow.Transpose))
        except FrameError:
            raise
        except Pillow.DecompressionBombError as error:
            raise FrameError("too_large", "far more than 100 megapixels by its header; not decoded.") from error
        except UnidentifiedImageError as error:
            if data.startswith(_MAGIC):
                raise FrameError("undecodable", "begins as an image, but its header is damaged or cut off.") from error
            raise FrameError("not_an_image", "its content is not that of an image, whatever its name says.") from error
        except Exception as error:  # decoders raise anything from struct.error to SyntaxError on damaged bytes
            if _is_cut_off(data, error):
                raise FrameError("truncated", "the file ends before its image does.") from error
            raise FrameError("undecodable", f"the image is damaged ({error}).") from error
    return DecodedImage(image, data if encoding else None, encoding)


def read_image_file(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            # Opening a pipe called x.jpg would wait for ever.
            raise FrameError("unreadable", "is a folder." if stat.S_ISDIR(status.st_mode) else "is not a plain file.")
        if status.st_size == 0:
            raise FrameError("empty", "the file has 0 bytes.")
        if status.st_size > MAX_FILE_BYTES:
            raise FrameError("too_large", f"the file has {status.st_size} bytes, more than 1 GiB; not decoded.")
        return path.read_bytes()
    except OSError as error:
        raise FrameError("unreadable", f"cannot be read ({error.strerror or error}).") from error


def _upright(picture: "Picture", turns: Any) -> "Picture":
    if picture.format == "TIFF":
        return picture  # Pillow turns these itself when it loads them; some versions leave the tag, to be obeyed twice
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001  a damaged EXIF block says nothing; the picture itself is whole
        return picture
    turn = _UPRIGHT.get(orientation)
    return picture if turn is None else picture.transpose(turns[turn])


def _rgb(picture: "Picture") -> Image:
    if picture.mode == "F":
        raise FrameError("undecodable", "floating-point pixels: which value is white is not said.")
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        # Pillow's own convert("RGB") would clip everything above 255 to white.
        grey = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _is_cut_off(data: bytes, error: Exception) -> bool:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":  # its decoder gives no reason
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    message = str(error).lower()
    return isinstance(error, EOFError) or "truncated" in message or "eof" in message


def is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in ENDINGS


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise missing_library("Images are read with Pillow", "Pillow", error) from error
