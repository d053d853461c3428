"""What the readers of recorded ROS data share: where a file's image messages lie, and how one of them is fetched.

A bag is never loaded. One pass over its own index (or, where a power cut left none, over its records) notes the place of
every image message, 40 bytes each; messages are fetched one by one afterwards, in order of time. So memory holds the list
of places, one message and the chunk it lies in, however large the bag is.
"""

import bz2
import os
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from geal_edge.errors import FrameError, MissingDependency

CHUNK_CACHE_BYTES = 32 * 1024 * 1024
_PIECE_BYTES = 256 * 1024
_MOST_BYTES = 1024 * 1024 * 1024
_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What must be known of a channel, beside its topic, to record its messages once more.

    name      of the type, as the recording spells it
    encoding  of the schema: `ros1msg`, `ros2msg`, `ros2idl`, `protobuf`, ...
    schema    the type's definition in that encoding
    metadata  what else the recording says of the channel (quality of service, caller), name and value
    """

    name: str
    encoding: str
    schema: bytes
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A stream of messages: its topic, its type in ROS 1 spelling (`sensor_msgs/Image`), and how messages are serialised.

    encoding    `cdr` (ROS 2), `ros1`, or what an MCAP file says (`protobuf`, `json`, ...)
    definition  None where the recording holds none
    """

    topic: str
    type: str
    encoding: str
    definition: Definition | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message lies.

    position  of its record in the file, of the chunk it is compressed in, or its row in a database
    offset    of its record in the decompressed chunk; -1 where it is in none
    """

    position: int
    offset: int


class Places:
    """The places of a file's image messages, as columns: log time, channel, position, offset."""

    def __init__(self) -> None:
        self.times: array[int] = array("q")
        self.channels: array[int] = array("q")
        self.positions: array[int] = array("q")
        self.offsets: array[int] = array("q")

    def __len__(self) -> int:
        return len(self.times)

    def add(self, time_ns: int, channel: int, position: int, offset: int = -1) -> None:
        self.times.append(min(time_ns, 2**63 - 1))  # a damaged stamp may be anything that fits 64 bits
        self.channels.append(channel)
        self.positions.append(position)
        self.offsets.append(offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a file holds.

    channels  of all types; `places` only has messages of those that carry pictures
    cut       how the file ends before its time, as a sentence for a person; None: it is whole
    gaps      a sentence for every stretch that cannot be read and of which nobody knows how many frames it held
    """

    channels: dict[int, Channel]
    places: Places
    cut: str | None = None
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What a recorder writes beside a message; `publish_ns` is when it was sent, `sequence` its sender's counter."""

    time_ns: int
    publish_ns: int
    sequence: int


class Messages(Protocol):
    """An open file, from which messages are fetched."""

    def read(self, place: Place, at_most: int | None = None) -> bytes:
        """A message's bytes, or the first `at_most` of them. Raises FrameError where it cannot be read."""

    def logged(self, place: Place) -> Logged | None:
        """What the file says of a message; None where it says no more than its log time. Raises FrameError."""


class BagFile(Protocol):
    """One file of recorded ROS data, opened only while it is asked for something."""

    @property
    def path(self) -> Path: ...

    def contents(self) -> Contents:
        """Raises SourceError where the file cannot be read at all."""

    def open(self) -> AbstractContextManager[Messages]: ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """A decompressed chunk, or the part of it that could be had.

    why  the reason why the rest could not: `truncated` or `undecodable`; "" where nothing is missing
    """

    data: bytes
    why: str = ""


class ChunkCache:
    """Chunks most recently used, so that messages of cameras that take turns need not decompress one chunk twice."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[int, Chunk] = OrderedDict()

    def get(self, position: int, load: Callable[[int], Chunk]) -> Chunk:
        """`load` is not kept: a cache that knew its file would outlive it until the garbage collector comes by."""
        if position not in self._chunks:
            self._chunks[position] = load(position)
            while len(self._chunks) > 1 and self._bytes() > CHUNK_CACHE_BYTES:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(position)
        return self._chunks[position]

    def _bytes(self) -> int:
        return sum(len(chunk.data) for chunk in self._chunks.values())


def decompress(compression: str, data: bytes, *, size: int, cut: bool) -> Chunk:
    """A chunk's content, as far as it goes: damage and a missing end cost what lies behind them, not the whole chunk.

    compression  `lz4`, `zstd`, `bz2`
    size         what the content should come to; no more than that is unpacked, nor more than 1 GiB: it may be a lie
    cut          whether the file ends before `data` does
    """
    pieces: list[bytes] = []
    have = 0
    try:
        for piece in _unpacked(compression, data):
            pieces.append(piece)
            have += len(piece)
            if have >= min(size, _MOST_BYTES):
                break
    except (FrameError, MissingDependency):
        raise
    except Exception:  # noqa: BLE001, S110  the three libraries have no error in common; what came before it is good
        pass
    content = b"".join(pieces)[: min(size, _MOST_BYTES)]
    return Chunk(content, "" if len(content) == size else "truncated" if cut else "undecodable")


def _unpacked(compression: str, data: bytes) -> Iterator[bytes]:
    unpack: Any
    try:
        if compression == "zstd":
            import zstandard

            reader = zstandard.ZstdDecompressor().stream_reader(data)
            yield from iter(lambda: reader.read(_PIECE_BYTES), b"")
            return
        elif compression == "lz4":
            import lz4.frame

            unpack = lz4.frame.LZ4FrameDecompressor()
        elif compression == "bz2":
            unpack = bz2.BZ2Decompressor()
        else:
            raise FrameError("undecodable", f"its chunk is compressed in an unknown way ({compression!r}).")
    except ImportError as error:
        raise missing(compression) from error
    for at in range(0, len(data), _PIECE_BYTES):
        yield unpack.decompress(data[at : at + _PIECE_BYTES], _PIECE_BYTES)
        while not (unpack.needs_input or unpack.eof):
            yield unpack.decompress(b"", _PIECE_BYTES)
        if unpack.eof:
            return


def missing(what: str) -> MissingDependency:
    """The error where a package of the extra is not installed."""
    return MissingDependency(
        f"Recorded ROS data needs packages that are not installed ({what}). Install them with: pip install 'geal-edge[bags]'"
    )


def read_up_to(stream: IO[bytes], length: int) -> bytes:
    """So many bytes, or as many as there are. A stream asked directly sets memory aside for all that a damaged length
    promises, up to 2^64 bytes."""
    if length > _PIECE_BYTES:
        at = stream.tell()
        length = min(length, max(0, stream.seek(0, os.SEEK_END) - at))
        stream.seek(at)
    return stream.read(length)


def whole(data: bytes, wanted: int, chunk: Chunk | None) -> bytes:
    """`data`, if it has the length wanted; raises FrameError with the reason where its chunk or file ends before it."""
    if len(data) == wanted:
        return data
    if chunk is not None and chunk.why == "undecodable":
        raise FrameError("undecodable", "the chunk that it is compressed in is damaged.")
    raise FrameError("truncated", "the file ends before the message does.")


def is_zipped(start: bytes) -> bool:
    """Whether rosbag2 compressed this message by itself: CDR begins with a 0, so none is taken for it by chance."""
    return start.startswith(_ZSTD)


def unzipped(message: bytes) -> bytes:
    """A message as its sender wrote it; where its compressed form is damaged, as far as that goes."""
    if not is_zipped(message):
        return message
    return decompress("zstd", message, size=_MOST_BYTES, cut=False).data
