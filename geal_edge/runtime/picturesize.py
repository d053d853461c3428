"""How large a picture is, from the header of its file alone: where there is no library for pictures, and where decoding costs."""

import struct

_ORIENTATION = 0x0112
_TURNED = range(5, 9)
"""EXIF orientations that swap width and height."""
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers of JPEG without a length."""


def size_of(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG or PNG as people see it, EXIF rotation applied; None for anything else, or cut off before.

    >>> size_of(b"\\x89PNG\\r\\n\\x1a\\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480))
    (640, 480)
    >>> size_of(b"no picture") is None
    True
    """
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", data, 16)
            return (width, height) if width and height else None
        return _of_jpeg(data) if data.startswith(b"\xff\xd8") else None
    except struct.error:
        return None


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    at, turned = 2, False
    while True:
        mark, kind = struct.unpack_from(">BB", data, at)
        if mark != 0xFF:
            return None
        if kind == 0xFF or kind in _ALONE:  # padding, or a marker that stands alone
            at += 1 if kind == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if kind in _FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", data, at + 5)
            if not width or not height:
                return None
            return (height, width) if turned else (width, height)
        if kind == 0xE1 and data.startswith(b"Exif\0\0", at + 4):
            turned = _is_turned(data[at + 10 : at + 2 + length])
        at += 2 + length


def _is_turned(tiff: bytes) -> bool:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return False
    try:
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        entries = (struct.unpack_from(f"{order}HHIH", tiff, at + 2 + 12 * number) for number in range(count))
        return any(tag == _ORIENTATION and value in _TURNED for tag, _, _, value in entries)
    except struct.error:  # a damaged block says nothing; the picture itself may be whole
        return False
