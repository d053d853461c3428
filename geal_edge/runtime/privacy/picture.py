"""What a picture file says beside its pixels, and what of it stays: how it is to be turned, its colours, and where it was taken.

All else goes as soon as a picture passes here: thumbnails, which are small copies of what a hook has just blurred, serial
numbers and owners of cameras, maker's notes and XMP, which say positions once more, comments, and what stands behind the end.
The pixels are not decoded: every byte of them stays.
"""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from geal_edge.config import Position
from geal_edge.errors import FrameError
from geal_edge.runtime.privacy.position import DECIMALS

_ORIENTATION, _GPS = 0x0112, 0x8825
_LATITUDE, _LONGITUDE = 2, 4
"""GPS tags; the one before each says which half of the earth."""
_EXIF = b"Exif\0\0"
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_STAY = frozenset(
    (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"pHYS")
)
_WEBP_STAY = frozenset((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"))
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04


def cleaned(data: bytes, position: Position, *, taken: bytes | None = None) -> bytes:
    """A JPEG, PNG or WebP file without all that tells more than the picture.

    position  keep, coarsen (latitude and longitude alone, rounded to 0.01 degrees) or strip what EXIF says of where it was taken
    taken     the file whose EXIF says that; None: `data` itself

    Raises FrameError `privacy` for what is none of these, or is not built as they are: nobody knows what would stay in it.
    """
    rewrite = next((rewrite for magic, rewrite in _REWRITES if magic.match(data)), None)
    if rewrite is None:
        raise FrameError("privacy", "it is no JPEG, PNG or WebP file.")
    try:
        return rewrite(data, _exif(data, position, data if taken is None else taken))
    except (struct.error, IndexError, ValueError) as error:
        raise FrameError("privacy", f"its parts cannot be told apart ({error}).") from error


def _exif(data: bytes, position: Position, taken: bytes) -> bytes:
    """An EXIF block of what stays, without its head; b"" where nothing does."""
    from PIL import Image as Pillow

    exif = Pillow.Exif()
    turned = _read(data).get(_ORIENTATION)
    if isinstance(turned, int) and 1 < turned <= 8:
        exif[_ORIENTATION] = turned
    gps = {} if position == "strip" else _gps(_read(taken).get_ifd(_GPS), position)
    if gps:
        exif[_GPS] = gps
    try:
        return exif.tobytes().removeprefix(_EXIF) if len(exif) else b""
    except Exception:  # noqa: BLE001  a position that was damaged cannot be written again, in as many ways as it can be damaged
        del exif[_GPS]
        return exif.tobytes().removeprefix(_EXIF) if len(exif) else b""


def _read(data: bytes) -> Any:
    """A file's EXIF as Pillow has it; an empty one where that is damaged."""
    from PIL import Image as Pillow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Pillow.open(io.BytesIO(data)) as picture:
                exif = picture.getexif()
                exif.get_ifd(_GPS)
                return exif
        except Exception:  # noqa: BLE001  as in sources/images.py: a damaged block says nothing
            return Pillow.Exif()


def _gps(told: dict[int, Any], position: Position) -> dict[int, Any]:
    if position == "keep":
        return dict(told)
    found: dict[int, Any] = {}
    for tag in (_LATITUDE, _LONGITUDE):
        try:
            degrees, minutes, seconds = (float(part) for part in told[tag])
            hundredths = round((degrees + minutes / 60 + seconds / 3600) * 10**DECIMALS)
            found |= {tag - 1: str(told[tag - 1]), tag: (hundredths / 10**DECIMALS, 0.0, 0.0)}
        except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
            continue
    return found


def _jpeg(data: bytes, exif: bytes) -> bytes:
    """Its segments in their order, of APPn only JFIF's head, colour profiles and Adobe's; ended where the picture does."""
    head, at = [data[:2]], 2
    block = _EXIF + exif
    own = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block if exif else b""
    rest: list[bytes] = []
    while True:
        marker = _NEXT_MARKER.match(data, at)
        if marker is None:
            raise ValueError(f"no marker at byte {at}")
        kind, at = marker[1][0], marker.end()
        if kind == 0xD9:
            return b"".join([*head, own, *rest, b"\xff\xd9"])
        (size,) = struct.unpack_from(">H", data, at)
        body, at = data[at + 2 : at + size], at + size
        if kind == 0xE0 and body.startswith(b"JFIF\0"):
            head.append(b"\xff\xe0\x00\x10" + body[:12].ljust(12, b"\0") + b"\0\0")  # no thumbnail
        elif _stays(kind, body):
            rest.append(bytes((0xFF, kind)) + struct.pack(">H", size) + body)
        if kind == 0xDA:  # pixels, up to the next marker that is one
            found = _NEXT_MARKER.search(data, at)
            end = len(data) if found is None else found.start()
            rest.append(data[at:end])
            if found is None:  # some cameras leave the end away, and every reader takes it
                return b"".join([*head, own, *rest, b"\xff\xd9"])
            at = end


def _stays(kind: int, body: bytes) -> bool:
    if kind == 0xFE:
        return False
    if not 0xE0 <= kind <= 0xEF:
        return True
    return (kind == 0xE2 and body.startswith(b"ICC_PROFILE\0")) or (kind == 0xEE and body.startswith(b"Adobe"))


def _png(data: bytes, exif: bytes) -> bytes:
    parts, at = [data[:8]], 8
    while True:
        size, kind = struct.unpack_from(">I4s", data, at)
        chunk, at = data[at : at + 12 + size], at + 12 + size
        if len(chunk) < 12 + size:
            raise ValueError(f"its part {kind!r} is cut off")
        if kind == b"IEND" and exif:
            parts.append(struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif)))
        if kind in _PNG_STAY:
            parts.append(chunk)
        if kind == b"IEND":
            return b"".join(parts)


def _webp(data: bytes, exif: bytes) -> bytes:
    chunks = [(kind, body) for kind, body in _webp_chunks(data) if kind in _WEBP_STAY]
    if chunks[0][0] == b"VP8X":
        flags = chunks[0][1][0] & ~(_WEBP_EXIF | _WEBP_XMP) | (_WEBP_EXIF if exif else 0)
        chunks[0] = (b"VP8X", bytes((flags,)) + chunks[0][1][1:])
        chunks += [(b"EXIF", exif)] if exif else []
    elif exif:
        width, height = _read_size(data)
        corner = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        chunks = [(b"VP8X", bytes((_WEBP_EXIF, 0, 0, 0)) + corner), *chunks, (b"EXIF", exif)]
    body = b"".join(kind + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for kind, part in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    (size,) = struct.unpack_from("<I", data, 4)
    at, end = 12, min(len(data), 8 + size)
    while at < end:
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, data[at + 8 : min(end, at + 8 + length)]
        at += 8 + length + length % 2


def _read_size(data: bytes) -> tuple[int, int]:
    from PIL import Image as Pillow

    with Pillow.open(io.BytesIO(data)) as picture:
        return picture.size


_REWRITES: tuple[tuple["re.Pattern[bytes]", Callable[[bytes, bytes], bytes]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
    (re.compile(re.escape(_PNG)), _png),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
)
"""How a file begins, and what writes it anew."""
