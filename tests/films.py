"""Small video files for tests: written with OpenCV, or box by box where OpenCV cannot say what we need to say."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIZE = (96, 64)


def picture(number: int) -> np.ndarray:
    """uint8 (64, 96, 3) RGB: a grey ground, a red bar that moves right, and `number` as blue blocks, one a binary digit."""
    width, height = SIZE
    image = np.full((height, width, 3), 110, np.uint8)
    image[:, (number * 3) % width : (number * 3) % width + 8] = (230, 30, 30)
    for digit in range(8):
        if number >> digit & 1:
            image[48:60, 4 + 11 * digit : 12 + 11 * digit] = (20, 20, 240)
    return image


def number_of(image: np.ndarray) -> int:
    """The `number` of the picture that this is a compressed copy of."""
    blocks = [image[50:58, 6 + 11 * digit : 10 + 11 * digit].astype(int).mean(axis=(0, 1)) for digit in range(8)]
    return sum(1 << digit for digit, block in enumerate(blocks) if block[2] > 180 and block[0] < 100)


def write_video(path: Path, frames: int, *, fourcc: str = "mp4v", fps: float = 25.0) -> Path:
    """Pictures 0, 1, ... through OpenCV's own writer."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*fourcc), fps, SIZE)
    assert writer.isOpened(), f"this OpenCV cannot write {fourcc}"
    for number in range(frames):
        writer.write(picture(number)[:, :, ::-1])
    writer.release()
    return path


def write_mov(
    path: Path,
    frames: int,
    *,
    milliseconds: Sequence[int] | None = None,
    edit: tuple[int, int] | None = None,
    broken: Sequence[int] = (),
    turned: bool = False,
) -> Path:
    """Pictures 0, 1, ... as Motion JPEG in a QuickTime file whose table of contents stands at the front.

    milliseconds  how long each is shown; 40 each by default
    edit          an edit list that shows `length` milliseconds from `start` on
    broken        samples to fill with zeros
    turned        the track says that its pictures lie on their left side
    """
    durations = [40] * frames if milliseconds is None else list(milliseconds)
    samples = [_jpeg(picture(number)) for number in range(frames)]
    samples = [bytes(len(sample)) if number in broken else sample for number, sample in enumerate(samples)]
    file_type = _box(b"ftyp", b"qt  " + struct.pack(">I", 512) + b"qt  ")
    # The table of contents has one size whatever offset it holds, so it can be made twice.
    at = len(file_type) + len(_moov(samples, durations, edit, turned, 0)) + 8
    path.write_bytes(file_type + _moov(samples, durations, edit, turned, at) + _box(b"mdat", b"".join(samples)))
    return path


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _moov(samples: list[bytes], durations: list[int], edit: tuple[int, int] | None, turned: bool, at: int) -> bytes:
    width, height = SIZE
    total = sum(durations)
    matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, height << 16, 0, 1 << 30)
    upright = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    entry = struct.pack(">6xH16xHHII4xH32sHh", 1, width, height, 72 << 16, 72 << 16, 1, b"", 24, -1)
    table = b"".join(
        (
            _box(b"stsd", struct.pack(">II", 0, 1) + _box(b"jpeg", entry)),
            _box(
                b"stts", struct.pack(">II", 0, len(durations)) + b"".join(struct.pack(">II", 1, d) for d in durations)
            ),
            _box(b"stsc", struct.pack(">IIIII", 0, 1, 1, len(samples), 1)),
            _box(
                b"stsz", struct.pack(">III", 0, 0, len(samples)) + b"".join(struct.pack(">I", len(s)) for s in samples)
            ),
            _box(b"stco", struct.pack(">III", 0, 1, at)),
        )
    )
    media = b"".join(
        (
            _box(b"mdhd", struct.pack(">IIIIIHH", 0, 0, 0, 1000, total, 0, 0)),
            _box(b"hdlr", struct.pack(">I4s4s12x", 0, b"mhlr", b"vide") + b"\0"),
            _box(b"minf", _box(b"vmhd", struct.pack(">I8x", 1)) + _box(b"stbl", table)),
        )
    )
    shown = total if edit is None else edit[1]
    track = _box(
        b"tkhd",
        struct.pack(
            ">IIIIIIQhhhh9iII",
            7,
            0,
            0,
            1,
            0,
            shown,
            0,
            0,
            0,
            0,
            0,
            *(matrix if turned else upright),
            width << 16,
            height << 16,
        ),
    )
    if edit is not None:
        track += _box(b"edts", _box(b"elst", struct.pack(">IIIiI", 0, 1, edit[1], edit[0], 1 << 16)))
    movie = _box(b"mvhd", struct.pack(">IIIIIIH10x9i24xI", 0, 0, 0, 1000, shown, 1 << 16, 256, *upright, 2))
    return _box(b"moov", movie + _box(b"trak", track + _box(b"mdia", media)))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content
