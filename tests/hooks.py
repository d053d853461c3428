"""Privacy hooks, right and wrong, and pictures that say more than what is seen in them."""

import io
import struct
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image as Pillow

from geal_edge.runtime.frame import Frame, Image

MARK = b"(to be seen by nobody)"
"""Stands in every part of a file's metadata that is to go."""
LAT, LON = 48.137430, 11.575490
CALLS: list[tuple[int, ...]] = []
"""Shapes of what `black` was given."""


def black(image: Image) -> Image:
    """Blurs thoroughly."""
    CALLS.append(image.shape)
    return np.zeros_like(image)


def half_black(image: Image) -> Image:
    """Leaves enough to tell pictures apart."""
    image[len(image) // 2 :] = 0
    return image


def fails(image: Image) -> Image:
    raise RuntimeError("the detector has no weights")


def leaves(image: Image) -> Image:
    raise SystemExit(3)


def smaller(image: Image) -> Image:
    return image[:-1]


def floats(image: Image) -> Any:
    return image.astype(np.float32)


def nothing(image: Image) -> Any:
    return None


def degrees(value: float) -> tuple[Fraction, Fraction, Fraction]:
    """Degrees, minutes, seconds."""
    whole, rest = divmod(value * 60, 60)
    return Fraction(int(whole)), Fraction(int(rest)), Fraction(round(rest % 1 * 60 * 1000), 1000)


def noise(index: int, height: int = 24, width: int = 32) -> Image:
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)


def talkative(image: Image, form: str = "JPEG", *, orientation: int = 1) -> bytes:
    """A file of a picture with a position, a serial number and an owner in EXIF; of a JPEG also in XMP, a comment, a thumbnail in
    JFIF's head, and more behind its end."""
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    exif[0x8825] = {1: "N", 2: degrees(LAT), 3: "E", 4: degrees(LON), 29: "2026:05:11"}
    exif[0x8769] = {0xA430: MARK.decode(), 0xA431: MARK.decode()}
    buffer = io.BytesIO()
    more: dict[str, Any] = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    Pillow.fromarray(image).save(buffer, form, exif=exif, **more)
    data = buffer.getvalue()
    if form != "JPEG":
        return data
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + MARK
    said = b"".join(
        bytes((0xFF, kind)) + struct.pack(">H", len(body) + 2) + body for kind, body in ((0xE1, xmp), (0xFE, MARK))
    )
    thumbnail = b"JFIF\0\1\1\0\0\1\0\1" + bytes((1, 8)) + MARK.ljust(24)
    said = b"\xff\xe0" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + said
    return data[:2] + said + data[2:] + MARK


def gps(data: bytes) -> dict[int, Any]:
    with Pillow.open(io.BytesIO(data)) as picture:
        return dict(picture.getexif().get_ifd(0x8825))


def seen(data: bytes) -> Image:
    """The pixels as they stand in the file."""
    with Pillow.open(io.BytesIO(data)) as picture:
        return np.array(picture.convert("RGB"))


def private_frame(index: int) -> Frame:
    """Of a vehicle that says where it is, in the file and beside it."""
    image = noise(index)
    return Frame(
        id=f"memory#{index}",
        source="memory",
        frame_index=index,
        capture_time_ns=index * 40_000_000,
        image=image,
        encoded=talkative(image),
        encoding="jpg",
        metadata={"lat": LAT, "gps": {"lon": LON, "alt": 519.0}, "speed_kmh": 31.5},
    )
