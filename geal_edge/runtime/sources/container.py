"""How many frames a video file promises to show: what OpenCV's own count does not say.

OpenCV tells the number of stored samples. Two kinds of samples are stored and never shown, and taken for losses they
would make healthy drives look damaged:

MP4 and MOV: a lossless cutter keeps all samples from the key frame before the cut and hides those before it by an edit
list; FFmpeg obeys (102 of 1,392 samples in one real drive). Boxes read (ISO 14496-12): moov/trak/mdia/hdlr says `vide`;
stsz the number of samples; stts and ctts when each is shown, in units of mdhd; moov/trak/edts/elst which stretches of
that time are shown at all, their length in units of mvhd.

AVI: a recorder that is late writes an empty chunk in place of a frame. idx1 lists all chunks with their sizes.
"""

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geal_edge.runtime.sources.bagfile import read_up_to

_MOOV_AT_MOST = 256 * 1024 * 1024
_HEADERS_AT_MOST = 1024 * 1024
_FIRST_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"))


def promised_frames(path: Path) -> tuple[int, int] | None:
    """Of the first video stream: frames that are shown, samples that are stored.

    None where the file does not say: Matroska, MPEG-TS, fragmented MP4, AVI beyond 1 GB, damaged tables.
    Raises OSError where the file cannot be read.
    """
    try:
        if (moov := read_moov(path)) is not None:
            return _mp4_frames(moov, path.stat().st_size)
        return _avi_frames(path)
    except (struct.error, ValueError, KeyError, IndexError):
        return None  # damaged tables; whether the file can be played all the same is FFmpeg's to say


def read_moov(path: Path) -> bytes | None:
    """The table of contents of an MP4 or MOV file; None where it has none, or is another kind of file."""
    left = path.stat().st_size
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            header = 8
            if length == 1:
                length, header = int.from_bytes(file.read(8), "big"), 16
            if not header <= length <= left or (file.tell() == header and kind not in _FIRST_BOXES):
                return None
            left -= length
            if kind == b"moov":
                return file.read(length - header) if length <= _MOOV_AT_MOST else None
            file.seek(length - header, os.SEEK_CUR)
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            raise ValueError("a box reaches past its parent")
        yield kind, data[at + 8 : at + size]
        at += size


def _mp4_frames(moov: bytes, file_size: int) -> tuple[int, int] | None:
    boxes = list(_boxes(moov))
    if any(kind == b"mvex" for kind, _ in boxes):
        return None  # fragmented: the samples are listed all over the file
    movie_scale = _timescale(dict(boxes)[b"mvhd"])
    for kind, trak in boxes:
        if kind != b"trak":
            continue
        track = dict(_boxes(trak))
        media = dict(_boxes(track[b"mdia"]))
        if media[b"hdlr"][8:12] != b"vide":
            continue
        table = dict(_boxes(dict(_boxes(media[b"minf"]))[b"stbl"]))
        (samples,) = struct.unpack_from(">I", table[b"stsz"], 8)
        if not 0 < samples <= file_size:
            return None  # no sample is smaller than a byte: a lie, or all samples are in fragments
        edits = dict(_boxes(track.get(b"edts", b""))).get(b"elst")
        if edits is None:
            return samples, samples
        shown_at = np.cumsum(_runs(table[b"stts"], samples)) - _runs(table[b"stts"], samples)
        if b"ctts" in table:
            shown_at = shown_at + _runs(table[b"ctts"], samples)
        stretches = _stretches(edits, _timescale(media[b"mdhd"]), movie_scale)
        shown = sum(int(np.count_nonzero((shown_at >= start) & (shown_at < end))) for start, end in stretches)
        return shown, samples
    return None


def _timescale(header: bytes) -> int:
    (scale,) = struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)
    if scale == 0:
        raise ValueError("a timescale of 0")
    return int(scale)


def _runs(box: bytes, samples: int) -> npt.NDArray[np.int64]:
    """stts or ctts, (how many samples, value) pairs, as one int64 value per sample; ctts may be negative."""
    (entries,) = struct.unpack_from(">I", box, 4)
    pairs = np.frombuffer(box, ">i4", count=2 * entries, offset=8).reshape(-1, 2).astype(np.int64)
    if pairs[:, 0].min(initial=0) < 0 or pairs[:, 0].sum() != samples:
        raise ValueError("the table is for another number of samples")
    return np.repeat(pairs[:, 1], pairs[:, 0])


def _stretches(elst: bytes, media_scale: int, movie_scale: int) -> Iterator[tuple[int, float]]:
    """(start, end) in media time of each stretch that is shown; a length of 0 means up to the end."""
    (entries,) = struct.unpack_from(">I", elst, 4)
    form = ">Qq4x" if elst[0] == 1 else ">Ii4x"
    for entry in range(entries):
        length, start = struct.unpack_from(form, elst, 8 + entry * struct.calcsize(form))
        if start >= 0:  # -1: a pause before the first sample
            # Rounded half up, as FFmpeg does it: it decides which samples are shown in the end.
            yield start, start + (2 * length * media_scale + movie_scale) // (2 * movie_scale) if length else math.inf


def _avi_frames(path: Path) -> tuple[int, int] | None:
    with path.open("rb") as file:
        riff, length, kind = struct.unpack("<4sI4s", file.read(12))
        if riff != b"RIFF" or kind != b"AVI ":
            return None
        stream, stored, index = -1, 0, None
        while len(head := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", head)
            if name == b"RIFF":
                return None  # OpenDML, beyond 1 GB: idx1 lists the first part only
            at = file.tell()
            if name == b"LIST" and file.read(4) == b"hdrl" and length <= _HEADERS_AT_MOST:
                stream, stored = _avi_video_stream(file.read(max(0, length - 4)))
            if name == b"idx1":
                index = np.frombuffer(read_up_to(file, length), [("chunk", "S4"), ("flags", "<u4", 2), ("size", "<u4")])
            file.seek(at + length + length % 2)
        if stream < 0 or not 0 < stored <= file.seek(0, os.SEEK_END):
            return None
    if index is None:
        return stored, stored  # cut off before its end: what the header says is all there is
    of_stream = np.isin(index["chunk"], [b"%02d%s" % (stream, kind) for kind in (b"dc", b"db")])
    return int(np.count_nonzero(of_stream & (index["size"] > 0))), int(np.count_nonzero(of_stream))


def _avi_video_stream(headers: bytes) -> tuple[int, int]:
    """Number and length of the first video stream; (-1, 0) where there is none."""
    at, stream = 0, -1
    while at + 8 <= len(headers):
        name, length = struct.unpack_from("<4sI", headers, at)
        if name == b"LIST":
            at += 12  # into the list, whatever it is of
            continue
        if name == b"strh":
            stream += 1
            if headers[at + 8 : at + 12] == b"vids":
                return stream, int.from_bytes(headers[at + 40 : at + 44], "little")
        at += 8 + length + length % 2
    return -1, 0
