"""Raw pixels of ROS messages as 8-bit RGB, in the meaning that cv_bridge gives to each encoding.

16-bit values are scaled from 0..65535 to 0..255 whatever range they really use, as those of image files are; alpha is
dropped. 8UC3 and 8UC4 say nothing of colours: taken as BGR(A), OpenCV's order. Bayer mosaics and YUV (BT.601, video
range) are converted by OpenCV. Floating-point and depth-only encodings are no pictures.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from geal_edge.errors import FrameError, missing_library
from geal_edge.runtime.frame import Image
from geal_edge.runtime.sources.images import MAX_PIXELS
from geal_edge.runtime.sources.rosmessages import RawPicture

# encoding -> (channels, bytes per channel, which channels are red, green and blue)
_PLAIN = {
    "rgb8": (3, 1, (0, 1, 2)),
    "bgr8": (3, 1, (2, 1, 0)),
    "rgba8": (4, 1, (0, 1, 2)),
    "bgra8": (4, 1, (2, 1, 0)),
    "mono8": (1, 1, (0, 0, 0)),
    "8uc1": (1, 1, (0, 0, 0)),
    "8uc3": (3, 1, (2, 1, 0)),
    "8uc4": (4, 1, (2, 1, 0)),
    "rgb16": (3, 2, (0, 1, 2)),
    "bgr16": (3, 2, (2, 1, 0)),
    "rgba16": (4, 2, (0, 1, 2)),
    "bgra16": (4, 2, (2, 1, 0)),
    "mono16": (1, 2, (0, 0, 0)),
    "16uc1": (1, 2, (0, 0, 0)),
    "16uc3": (3, 2, (2, 1, 0)),
}

# OpenCV names a mosaic after the second row's second and third pixel, ROS after the first row's first two.
_BAYER = {
    "rggb": "COLOR_BayerBG2RGB",
    "bggr": "COLOR_BayerRG2RGB",
    "gbrg": "COLOR_BayerGR2RGB",
    "grbg": "COLOR_BayerGB2RGB",
}

_YUV_422 = {
    "yuv422": "COLOR_YUV2RGB_UYVY",
    "uyvy": "COLOR_YUV2RGB_UYVY",
    "yuv422_yuy2": "COLOR_YUV2RGB_YUY2",
    "yuyv": "COLOR_YUV2RGB_YUY2",
}
_YUV_420 = {"nv12": "COLOR_YUV2RGB_NV12", "nv21": "COLOR_YUV2RGB_NV21"}


def rgb(picture: RawPicture) -> Image:
    """uint8 (H, W, 3) RGB.

    Raises FrameError: `too_large`, `empty`, `truncated` (fewer bytes than the size needs) or `undecodable`; and
    MissingDependency where Bayer or YUV needs OpenCV, which is not installed.
    """
    encoding = picture.encoding.lower().strip()
    if picture.width * picture.height == 0:
        raise FrameError("empty", f"a picture of {picture.width} x {picture.height} pixels.")
    if picture.width * picture.height > MAX_PIXELS:
        raise FrameError(
            "too_large", f"{picture.width} x {picture.height} pixels, more than 100 megapixels; not converted."
        )
    if encoding in _PLAIN:
        channels, size, order = _PLAIN[encoding]
        values = _values(picture, picture.height, channels, size)
        return np.ascontiguousarray(_eight_bits(values)[:, :, order])
    if encoding.startswith("bayer_") and encoding[6:10] in _BAYER and encoding[10:] in ("8", "16"):
        mosaic = _values(picture, picture.height, 1, 1 if encoding.endswith("8") else 2)[:, :, 0]
        return _eight_bits(_converted(mosaic, _BAYER[encoding[6:10]], picture))
    if encoding in _YUV_422:
        return _converted(_values(picture, picture.height, 2, 1), _YUV_422[encoding], picture)
    if encoding in _YUV_420 and picture.height % 2 == 0:
        return _converted(_values(picture, picture.height * 3 // 2, 1, 1)[:, :, 0], _YUV_420[encoding], picture)
    raise FrameError("undecodable", f"encoding {picture.encoding!r} at {picture.width} x {picture.height} is not read.")


def _values(picture: RawPicture, rows: int, channels: int, size: int) -> npt.NDArray[Any]:
    """(rows, width, channels) of uint8 or uint16, without the padding, in this machine's order of bytes."""
    used = picture.width * channels * size
    step = picture.step or used
    needed = step * (rows - 1) + used
    if step < used:
        raise FrameError(
            "undecodable", f"{step} bytes a row, where {picture.width} pixels of {picture.encoding} need {used}."
        )
    if len(picture.data) < needed:
        raise FrameError("truncated", f"{len(picture.data)} bytes of pixels, where its size needs {needed}.")
    packed: npt.NDArray[np.uint8] = np.ndarray((rows, used), np.uint8, picture.data, strides=(step, 1))
    values = np.ascontiguousarray(packed)
    if size == 2:
        order = ">u2" if picture.is_bigendian else "<u2"
        return values.view(order).astype(np.uint16, copy=False).reshape(rows, picture.width, channels)
    return values.reshape(rows, picture.width, channels)


def _eight_bits(values: npt.NDArray[Any]) -> Image:
    if values.dtype == np.uint8:
        return values
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _converted(values: npt.NDArray[Any], code: str, picture: RawPicture) -> Image:
    try:
        import cv2
    except ImportError as error:
        raise missing_library(
            f"Pictures in the encoding {picture.encoding} are converted with OpenCV", "OpenCV", error
        ) from error
    try:
        converted: Any = cv2.cvtColor(values, getattr(cv2, code))
    except cv2.error as error:
        raise FrameError(
            "undecodable", f"{picture.width} x {picture.height} pixels of {picture.encoding} cannot be converted."
        ) from error
    return np.asarray(converted)
