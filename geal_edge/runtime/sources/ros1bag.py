"""ROS 1 bags, format 2.0. Indexed by their index; without one (`.bag.active`, a power cut while recording) by their records.

A record is a header (fields `name=value`, each with its length before it) and data, both with their length before them:
connections say topic and type, chunks hold messages, and behind each chunk stands an index record per connection in it.
"""

import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from geal_edge.errors import FrameError, SourceError
from geal_edge.runtime.sources.bagfile import (
    Channel,
    Chunk,
    ChunkCache,
    Contents,
    Definition,
    Place,
    Places,
    decompress,
    read_up_to,
    whole,
)
from geal_edge.runtime.sources.rosmessages import carries_pictures, declare, plain_type

_MAGIC = re.compile(rb"#ROSBAG V(\d+)\.(\d+)\n")
_DAMAGED, _MESSAGE, _BAG, _INDEX, _CHUNK, _CHUNK_INFO, _CONNECTION = 0, 2, 3, 4, 5, 6, 7
_NEEDED: dict[int, dict[bytes, int]] = {
    _MESSAGE: {b"conn": 4, b"time": 8},
    _BAG: {b"index_pos": 8, b"chunk_count": 4, b"conn_count": 4},
    _INDEX: {b"conn": 4},
    _CHUNK: {b"compression": 1, b"size": 4},
    _CHUNK_INFO: {b"chunk_pos": 8},
    _CONNECTION: {b"conn": 4, b"topic": 1},
}
"""op -> the fields without which a record says nothing, and the bytes that each has at least."""
_SAID_OF_A_CONNECTION = ("callerid", "latching", "md5sum")
_HEADER_AT_MOST = 16 * 1024 * 1024


class Record:
    """A record's header fields, where its data starts and how long that is; of op `_DAMAGED` where it lacks what it must say."""

    def __init__(self, fields: dict[bytes, bytes], data_at: int, length: int) -> None:
        self.fields, self.data_at, self.length = fields, data_at, length

    @property
    def op(self) -> int:
        op = self.fields.get(b"op", b"\0")[:1] or b"\0"
        lacks = any(len(self.fields.get(name, b"")) < size for name, size in _NEEDED.get(op[0], {}).items())
        return _DAMAGED if lacks else op[0]

    def number(self, name: bytes, form: str = "<I") -> int:
        return int(struct.unpack_from(form, self.fields[name])[0])

    def text(self, name: bytes) -> str:
        return self.fields[name].decode("utf-8", "replace")


def read_record(stream: IO[bytes], at: int) -> Record | None:
    """The record at this place of a file or chunk; None where it is cut off, or there is none."""
    stream.seek(at)
    start = stream.read(4)
    if len(start) < 4:
        return None
    (length,) = struct.unpack("<I", start)
    header = stream.read(length + 4) if length <= _HEADER_AT_MOST else b""
    if len(header) < length + 4:
        return None
    fields: dict[bytes, bytes] = {}
    place = 0
    while place + 4 <= length:
        (size,) = struct.unpack_from("<I", header, place)
        name, _, value = header[place + 4 : min(place + 4 + size, length)].partition(b"=")
        fields[name] = value
        place += 4 + size
    (data_length,) = struct.unpack_from("<I", header, length)
    return Record(fields, at + 4 + length + 4, data_length)


class Ros1Bag:
    """One .bag file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def contents(self) -> Contents:
        with self.path.open("rb") as file:
            magic = _MAGIC.match(file.read(32))
            if magic is None:
                raise SourceError(f"{self.path}: is not a ROS bag: it does not begin as one")
            if (int(magic[1]), int(magic[2])) != (2, 0):
                raise SourceError(
                    f"{self.path}: is a bag of format {int(magic[1])}.{int(magic[2])}; 2.0 is read. "
                    "`rosbag fix` of ROS 1 brings it up to date"
                )
            scan = _Scan(file, magic.end())
            try:
                if scan.by_index():
                    return scan.contents(None)
            except (struct.error, KeyError, ValueError, OSError):
                scan = _Scan(file, magic.end())  # a damaged index; the records are still there
            scan.by_records()
            return scan.contents("it has no usable index, as after a power cut while recording")

    @contextmanager
    def open(self) -> Iterator["Ros1Messages"]:
        with self.path.open("rb") as file:
            yield Ros1Messages(file)


class _Scan:
    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file = file
        self._start = start
        self._size = file.seek(0, os.SEEK_END)
        self._channels: dict[int, Channel] = {}
        self._places = Places()
        self._gaps: list[str] = []
        self._told = 0
        self._load = Ros1Messages(file)

    def contents(self, cut: str | None) -> Contents:
        return Contents(channels=self._channels, places=self._places, cut=cut, gaps=tuple(self._gaps))

    def by_index(self) -> bool:
        """False, or struct.error, KeyError, ValueError or OSError, where the index is absent or not whole."""
        bag = read_record(self._file, self._start)
        if bag is None or bag.op != _BAG:
            raise ValueError("no bag header")
        at, chunks = bag.number(b"index_pos", "<Q"), bag.number(b"chunk_count")
        if at == 0:
            return False
        if bag.fields.get(b"encryptor"):
            raise SourceError(f"{self._file.name}: the bag is encrypted; decrypt it first")
        positions: list[int] = []
        while at < self._size:
            record = read_record(self._file, at)
            if record is None or record.op == _DAMAGED:
                return False
            if record.op == _CONNECTION:
                self._connection(self._file, record)
            elif record.op == _CHUNK_INFO:
                positions.append(record.number(b"chunk_pos", "<Q"))
            at = record.data_at + record.length
        if len(positions) != chunks or len(self._channels) != bag.number(b"conn_count"):
            return False
        for position in positions:
            self._index_of(position)
        return True

    def _index_of(self, position: int) -> None:
        """The index records behind a chunk."""
        chunk = read_record(self._file, position)
        if chunk is None or chunk.op != _CHUNK:
            raise ValueError("no chunk where the index says it is")
        packed = chunk.text(b"compression") != "none"
        at = chunk.data_at + chunk.length
        while (record := read_record(self._file, at)) is not None and record.op in (_INDEX, _DAMAGED):
            if record.op == _DAMAGED:
                raise ValueError("a damaged index record")
            at = record.data_at + record.length
            connection = record.number(b"conn")
            if not carries_pictures(self._channels[connection]):
                continue
            self._file.seek(record.data_at)
            entries = read_up_to(self._file, record.length)
            for seconds, nanoseconds, offset in struct.iter_unpack("<III", entries):
                time_ns = seconds * 1_000_000_000 + nanoseconds
                if packed:
                    self._places.add(time_ns, connection, position, offset)
                else:
                    self._places.add(time_ns, connection, chunk.data_at + offset)

    def by_records(self) -> None:
        at = self._start
        while at < self._size:
            record = read_record(self._file, at)
            if record is None:
                self._gaps.append(f"the record at byte {at} is not complete")
                return
            end = record.data_at + record.length
            if record.op == _CHUNK:
                self._chunk(at, record)
            elif record.op == _CONNECTION and end <= self._size:
                self._connection(self._file, record)
            elif record.op == _MESSAGE:
                self._message(record, self._size, at)
            elif record.op == _DAMAGED:
                self._gaps.append(f"the record at byte {at} is damaged")
            at = end

    def _chunk(self, position: int, chunk: Record) -> None:
        end = chunk.data_at + chunk.length
        packed = chunk.text(b"compression") != "none"
        if packed:
            content = self._load.chunk(position)
            stream: IO[bytes] = io.BytesIO(content.data)
            at, limit, lacks = 0, len(content.data), content.why != ""
        else:
            stream, at, limit, lacks = self._file, chunk.data_at, min(end, self._size), end > self._size
        told = self._told
        while at < limit:
            record = read_record(stream, at)
            if record is None or record.data_at > limit:
                lacks = True
                break
            after = record.data_at + record.length
            if record.op == _CONNECTION and after <= limit:
                self._connection(stream, record)
            elif record.op == _MESSAGE:
                self._message(record, limit, *((position, at) if packed else (at,)))
            elif record.op == _DAMAGED:
                lacks = True
            at = after
        if lacks and self._told == told:
            self._gaps.append(f"the chunk at byte {position} is not complete, or damaged")

    def _message(self, record: Record, limit: int, position: int, offset: int = -1) -> None:
        connection = record.number(b"conn")
        if connection in self._channels and carries_pictures(self._channels[connection]):
            seconds, nanoseconds = struct.unpack_from("<II", record.fields[b"time"])
            self._places.add(seconds * 1_000_000_000 + nanoseconds, connection, position, offset)
            self._told += record.data_at + record.length > limit  # reading it will say that it is lost

    def _connection(self, stream: IO[bytes], record: Record) -> None:
        stream.seek(record.data_at)
        data = read_up_to(stream, record.length)
        fields: dict[bytes, bytes] = {}
        at = 0
        while at + 4 <= len(data):
            (size,) = struct.unpack_from("<I", data, at)
            name, _, value = data[at + 4 : at + 4 + size].partition(b"=")
            fields[name] = value
            at += 4 + size
        said = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in fields.items()}
        definition = None
        if "message_definition" in said:
            definition = Definition(
                name=said.get("type", ""),
                encoding="ros1msg",
                schema=fields[b"message_definition"],
                metadata=tuple((name, said[name]) for name in _SAID_OF_A_CONNECTION if name in said),
            )
        channel = Channel(
            topic=record.text(b"topic"),
            type=plain_type(said.get("type", "")),
            encoding="ros1",
            definition=definition,
        )
        declare(self._channels, record.number(b"conn"), channel)


class Ros1Messages:
    """Fetches messages of an open bag."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._chunks = ChunkCache()

    def chunk(self, at: int) -> Chunk:
        """The content of the compressed chunk at this place of the file."""
        record = read_record(self._file, at)
        if record is None or record.op != _CHUNK:
            return Chunk(b"", "undecodable")
        self._file.seek(record.data_at)
        data = read_up_to(self._file, record.length)
        return decompress(record.text(b"compression"), data, size=record.number(b"size"), cut=len(data) < record.length)

    def read(self, place: Place, at_most: int | None = None) -> bytes:
        chunk = None if place.offset < 0 else self._chunks.get(place.position, self.chunk)
        stream: IO[bytes] = self._file if chunk is None else io.BytesIO(chunk.data)
        at = place.position if chunk is None else place.offset
        record = read_record(stream, at)
        # The first message of a connection may have the connection's record before it, and the index points to that.
        while record is not None and record.op == _CONNECTION:
            record = read_record(stream, record.data_at + record.length)
        if record is None:
            return whole(b"", 1, chunk)
        if record.op != _MESSAGE:
            raise FrameError("undecodable", "the index of the bag points to something that is no message.")
        stream.seek(record.data_at)
        length = record.length if at_most is None else min(at_most, record.length)
        return whole(read_up_to(stream, length), length, chunk)

    def logged(self, place: Place) -> None:
        """A bag says no more of a message than its log time."""
