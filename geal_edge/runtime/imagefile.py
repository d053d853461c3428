"""Frames as image files: what the spool stores of a frame that its source does not already have as a file."""

import io
from contextlib import suppress
from typing import Literal, TypeAlias, get_args

from geal_edge.errors import UsageError, missing_library
from geal_edge.runtime.frame import Frame, Image

Encoding: TypeAlias = Literal["jpg", "png"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
JPEG_QUALITY = 95
JPEG_MAX_SIDE = 65500
"""Pixels; the limit of libjpeg, a little below the format's own."""


def stored_form(frame: Frame, encoding: Encoding) -> tuple[bytes, str]:
    """(bytes, file ending): the source's own file bytes where it has them, else the image in the chosen encoding.

    A picture too long for JPEG becomes PNG.
    """
    if frame.encoded is not None:
        return frame.encoded, frame.encoding
    if not fits_jpeg(frame.image):
        encoding = "png"
    return encode(frame.image, encoding), encoding


def fits_jpeg(image: Image) -> bool:
    return bool(max(image.shape[:2]) <= JPEG_MAX_SIDE)


def encode(image: Image, encoding: Encoding) -> bytes:
    """uint8 (H, W, 3) RGB as JPEG (quality 95) or PNG (exact)."""
    if encoding not in ENCODINGS:
        raise UsageError(f"encoding {encoding!r}: must be one of {', '.join(ENCODINGS)}")
    if encoding == "jpg":
        # Where OpenCV is installed, it takes three quarters of Pillow's time for the same JPEG: it needs no copy of its own.
        with suppress(ImportError):
            return _jpeg_of_opencv(image)
    try:
        from PIL import Image as Pillow
    except ImportError as error:
        raise missing_library("Frames are stored with Pillow", "Pillow", error) from error
    buffer = io.BytesIO()
    picture = Pillow.fromarray(image)
    if encoding == "jpg":
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    else:
        picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _jpeg_of_opencv(image: Image) -> bytes:
    import cv2

    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()
