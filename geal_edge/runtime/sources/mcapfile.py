"""MCAP files: https://mcap.dev/spec. Indexed by their summary; without one (a power cut while recording) by their records.

A file that ends early gives every message that is complete, also those in the part of a chunk that was written. A chunk
damaged in the middle costs its messages from there on; its message index still says which those were.
Checksums are not compared: the picture that a flipped bit falls into is used or lost by what its decoder says of it.
"""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from geal_edge.errors import FrameError, SourceError
from geal_edge.runtime.sources.bagfile import (
    Channel,
    Chunk,
    ChunkCache,
    Contents,
    Definition,
    Logged,
    Place,
    Places,
    decompress,
    missing,
    read_up_to,
    whole,
)
from geal_edge.runtime.sources.rosmessages import carries_pictures, declare, plain_type

if TYPE_CHECKING:
    from mcap.records import Channel as ChannelRecord
    from mcap.records import Schema
    from mcap.summary import Summary

MAGIC = b"\x89MCAP0\r\n"

_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _DATA_END, _FOOTER = 3, 4, 5, 6, 7, 15, 2
_RECORD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<BQHIQQ")  # the record's head, then channel, sequence, log time, publish time
_MESSAGE_FIELDS = _MESSAGE_HEAD.size - _RECORD.size
_RECORD_AT_MOST = 2**30
_CHUNK_HEAD = struct.Struct("<QQQII")  # start, end, uncompressed size, its CRC, length of the compression's name


class McapFile:
    """One .mcap file. Raises MissingDependency where the package `mcap` is not installed."""

    def __init__(self, path: Path) -> None:
        try:
            import mcap.reader  # noqa: F401
        except ImportError as error:
            raise missing("mcap") from error
        self.path = path

    def contents(self) -> Contents:
        with self.path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise SourceError(f"{self.path}: is not an MCAP file: it does not begin as one")
            indexed = self._by_summary(file)
            return _Scan(file).contents() if indexed is None else indexed

    @contextmanager
    def open(self) -> Iterator["McapMessages"]:
        with self.path.open("rb") as file:
            yield McapMessages(file)

    def _by_summary(self, file: IO[bytes]) -> Contents | None:
        """None where there is no summary, or it does not say all."""
        from mcap.exceptions import McapError
        from mcap.reader import SeekingReader

        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        try:
            reader = SeekingReader(
                cast("IO[bytes]", _NoMoreThanThereIs(file)), record_size_limit=min(size, _RECORD_AT_MOST)
            )
            summary = reader.get_summary()
            return None if summary is None else _indexed(file, summary, size)
        except (McapError, struct.error, ValueError, KeyError, OSError, OverflowError, StopIteration):
            return None


class _NoMoreThanThereIs:
    """A file for the package `mcap`, which believes the lengths inside a record."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, length: int = -1) -> bytes:
        return read_up_to(self._file, length)


def _indexed(file: IO[bytes], summary: "Summary", size: int) -> Contents | None:
    """None, or one of the errors that `_by_summary` knows, where the summary does not say all or points beyond the file."""
    channels = {
        number: _channel(record, summary.schemas[record.schema_id] if record.schema_id else None)
        for number, record in summary.channels.items()
    }
    statistics = summary.statistics
    if statistics is None or statistics.channel_count != len(channels):
        return None
    pictures = {number for number, channel in channels.items() if carries_pictures(channel)}
    places = Places()
    for chunk in summary.chunk_indexes:
        data_start = chunk.chunk_start_offset + chunk.chunk_length - chunk.compressed_size
        file.seek(chunk.chunk_start_offset)
        if _RECORD.unpack(file.read(_RECORD.size)) != (_CHUNK, chunk.chunk_length - _RECORD.size):
            return None
        for number in pictures & chunk.message_index_offsets.keys():
            for time_ns, offset in _message_index(file, chunk.message_index_offsets[number], number):
                if chunk.compression:
                    places.add(time_ns, number, chunk.chunk_start_offset, offset)
                elif chunk.chunk_start_offset < data_start + offset < size:
                    places.add(time_ns, number, data_start + offset)
                else:
                    return None
    promised = sum(statistics.channel_message_counts.get(number, 0) for number in pictures)
    # Messages outside of chunks, or chunks without an index, are only found by going through the records.
    return Contents(channels=channels, places=places) if len(places) == promised else None


def _channel(record: "ChannelRecord", schema: "Schema | None") -> Channel:
    definition = None
    if schema is not None:
        metadata = tuple(sorted(record.metadata.items()))
        definition = Definition(name=schema.name, encoding=schema.encoding, schema=schema.data, metadata=metadata)
    return Channel(
        topic=record.topic,
        type=plain_type(schema.name if schema else ""),
        encoding=record.message_encoding,
        definition=definition,
    )


def _message_index(file: IO[bytes], at: int, channel: int) -> Iterator[tuple[int, int]]:
    file.seek(at)
    opcode, length = _RECORD.unpack(file.read(_RECORD.size))
    if opcode != _MESSAGE_INDEX or length > _RECORD_AT_MOST:
        raise ValueError("no message index where the summary says it is")
    body = read_up_to(file, length)
    number, size = struct.unpack_from("<HI", body)
    if number != channel or size != length - 6:
        raise ValueError("the message index of another channel")
    return struct.iter_unpack("<QQ", body[6:])


class _Scan:
    """Reads the heads of all records from front to back; content only of chunks, whose messages have no other trace."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._pictures: set[int] = set()
        self._places = Places()
        self._gaps: list[str] = []
        self._told = 0
        self._ended = False
        self._load = McapMessages(file)

    def contents(self) -> Contents:
        self._walk(self._file, len(MAGIC), self._size, chunk=-1)
        cut = None if self._ended else "it ends without its closing records, as after a power cut while recording"
        return Contents(channels=self._channels, places=self._places, cut=cut, gaps=tuple(self._gaps))

    def _walk(self, stream: IO[bytes], at: int, end: int, *, chunk: int) -> None:
        """Go through the records of a file or of a decompressed chunk; a record that reaches past `end` is the last."""
        while at < end and not self._ended:
            stream.seek(at)
            head = stream.read(_MESSAGE_HEAD.size)
            opcode, length = _RECORD.unpack_from(head) if len(head) >= _RECORD.size else (0, 0)
            if opcode == 0:  # never a record's: zeros are what a file system leaves after a power cut
                self._gap(f"from byte {at} on there are no records")
                return
            after = at + _RECORD.size + length
            if opcode == _MESSAGE:
                self._message(head, at, chunk, is_cut=after > end)
            elif opcode == _CHUNK and chunk < 0:
                self._chunk(at, after)
            elif after > end:
                self._gap(f"the record at byte {at} is not complete")
            elif opcode in (_SCHEMA, _CHANNEL):
                stream.seek(at + _RECORD.size)
                self._declare(opcode, stream.read(length))
            elif opcode in (_DATA_END, _FOOTER):
                self._ended = True
            at = after

    def _message(self, head: bytes, at: int, chunk: int, *, is_cut: bool) -> None:
        if len(head) < _MESSAGE_HEAD.size:
            self._gap(f"the message at byte {at} is not complete")
            return
        _, _, channel, _, time_ns, _ = _MESSAGE_HEAD.unpack(head)
        if channel in self._pictures:
            self._places.add(time_ns, channel, *((at,) if chunk < 0 else (chunk, at)))
            self._told += is_cut  # reading it will say that it is lost
        elif is_cut and channel not in self._channels:
            self._gap(f"the message at byte {at} is not complete")

    def _chunk(self, at: int, after: int) -> None:
        head = _chunk_head(self._file, at)
        if head is None:
            self._gap(f"the chunk at byte {at} is not complete")
            return
        compression, data_start, _ = head
        told = self._told
        if not compression:
            self._walk(self._file, data_start, min(after, self._size), chunk=-1)
            lacks = after > self._size
        else:
            content = self._load.chunk(at)
            self._walk(io.BytesIO(content.data), 0, len(content.data), chunk=at)
            lacks = content.why != ""
        if lacks and self._told == told:
            self._gap(f"the chunk at byte {at} is not complete, or damaged")

    def _declare(self, opcode: int, body: bytes) -> None:
        from mcap.data_stream import ReadDataStream
        from mcap.exceptions import McapError
        from mcap.records import Channel as ChannelRecord
        from mcap.records import Schema

        try:
            if opcode == _SCHEMA:
                schema = Schema.read(ReadDataStream(io.BytesIO(body)))
                self._schemas[schema.id] = schema
                return
            record = ChannelRecord.read(ReadDataStream(io.BytesIO(body)))
        except (McapError, struct.error, ValueError):
            self._gap("the description of a channel is damaged")
            return
        channel = _channel(record, self._schemas.get(record.schema_id))
        declare(self._channels, record.id, channel)
        if carries_pictures(channel):
            self._pictures.add(record.id)

    def _gap(self, what: str) -> None:
        self._gaps.append(what)
        self._told += 1


def _chunk_head(file: IO[bytes], at: int) -> tuple[str, int, int] | None:
    """(compression, where its data starts, uncompressed size) of the chunk at `at`; None where that is not readable."""
    file.seek(at + _RECORD.size)
    head = file.read(_CHUNK_HEAD.size + 64)
    if len(head) < _CHUNK_HEAD.size:
        return None
    _, _, size, _, length = _CHUNK_HEAD.unpack_from(head)
    name = head[_CHUNK_HEAD.size : _CHUNK_HEAD.size + length]
    if length > 32 or len(head) < _CHUNK_HEAD.size + length + 8:
        return None
    return name.decode("ascii", "replace"), at + _RECORD.size + _CHUNK_HEAD.size + length + 8, size


class McapMessages:
    """Fetches messages of an open MCAP file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._chunks = ChunkCache()

    def chunk(self, at: int) -> Chunk:
        """The content of the compressed chunk at this place of the file."""
        head = _chunk_head(self._file, at)
        if head is None:
            return Chunk(b"", "undecodable")
        compression, data_start, size = head
        self._file.seek(data_start - 8)
        (length,) = struct.unpack("<Q", self._file.read(8))
        self._file.seek(data_start)
        data = read_up_to(self._file, length)
        return decompress(compression, data, size=size, cut=len(data) < length)

    def read(self, place: Place, at_most: int | None = None) -> bytes:
        stream, chunk, length, _ = self._message(place)
        length = length if at_most is None else min(at_most, length)
        return whole(read_up_to(stream, length), length, chunk)

    def logged(self, place: Place) -> Logged:
        return self._message(place)[3]

    def _message(self, place: Place) -> tuple[IO[bytes], Chunk | None, int, Logged]:
        """(stream that stands at the message's data, the chunk that it is, the data's length, what stands before it)."""
        chunk = None if place.offset < 0 else self._chunks.get(place.position, self.chunk)
        stream = self._file if chunk is None else io.BytesIO(chunk.data)
        stream.seek(place.position if chunk is None else place.offset)
        head = whole(stream.read(_MESSAGE_HEAD.size), _MESSAGE_HEAD.size, chunk)
        opcode, length, _, sequence, time_ns, publish_ns = _MESSAGE_HEAD.unpack(head)
        if opcode != _MESSAGE or not _MESSAGE_FIELDS <= length < 2**32:
            raise FrameError("undecodable", "the index of the file points to something that is no message.")
        logged = Logged(time_ns=time_ns, publish_ns=publish_ns, sequence=sequence)
        return stream, chunk, length - _MESSAGE_FIELDS, logged
