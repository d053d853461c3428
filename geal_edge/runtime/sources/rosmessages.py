"""The messages that carry pictures, field by field: sensor_msgs of ROS 1 and 2, and Foxglove's, which have the same content.

    sensor_msgs/Image             header, height, width, encoding, is_bigendian, step, data
    sensor_msgs/CompressedImage   header, format, data
    foxglove_msgs/RawImage        timestamp, frame_id, width, height, encoding, step, data
    foxglove_msgs/CompressedImage timestamp, frame_id, data, format

as `ros1` (fields one after another), `cdr` (ROS 2: each aligned to its size), and Foxglove's also as `protobuf` and `json`.
"""

import base64
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from geal_edge.errors import FrameError
from geal_edge.models.jsontext import parse_json

if TYPE_CHECKING:
    from geal_edge.runtime.sources.bagfile import Channel

_ROS = frozenset(("cdr", "ros1"))
_FOXGLOVE = frozenset(("cdr", "ros1", "protobuf", "json"))
_READABLE = {
    "sensor_msgs/Image": _ROS,
    "sensor_msgs/CompressedImage": _ROS,
    "foxglove/RawImage": _FOXGLOVE,
    "foxglove/CompressedImage": _FOXGLOVE,
}
_VIDEO = frozenset(
    ("foxglove/CompressedVideo", "ffmpeg_image_transport_msgs/FFMPEGPacket", "theora_image_transport/Packet")
)
_VIDEO_FORMATS = ("h264", "h265", "h.264", "h.265", "hevc", "vp8", "vp9", "av1")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedPicture:
    """The bytes of an image file. `format` is what the recorder wrote there: a hint in many spellings, not believed."""

    stamp_ns: int
    format: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RawPicture:
    """Pixels, `step` bytes a row (0: not said, so without padding), in one of the encodings that pixels.py knows."""

    stamp_ns: int
    height: int
    width: int
    encoding: str
    is_bigendian: bool
    step: int
    data: memoryview


Picture: TypeAlias = CompressedPicture | RawPicture


def plain_type(name: str) -> str:
    """One spelling for the types of ROS 1, ROS 2 and Foxglove.

    >>> plain_type("sensor_msgs/msg/Image"), plain_type("foxglove.RawImage"), plain_type("foxglove_msgs/msg/RawImage")
    ('sensor_msgs/Image', 'foxglove/RawImage', 'foxglove/RawImage')
    """
    parts = [part for part in name.replace(".", "/").split("/") if part != "msg"]
    return "/".join(["foxglove" if part == "foxglove_msgs" else part for part in parts])


def carries_pictures(channel: "Channel") -> bool:
    return channel.type in _READABLE or channel.type in _VIDEO


def declare(channels: "dict[int, Channel]", number: int, channel: "Channel") -> None:
    """Add a channel to those of a file. A number may be declared again, in every chunk and at the end, and any of these may
    be damaged: the first that carries pictures stands, for messages may have been noted as its own."""
    if number not in channels or not carries_pictures(channels[number]):
        channels[number] = channel


def why_unreadable(channel: "Channel", format_: str = "") -> str | None:
    """Why no message of a channel gives a frame, in a few words; None where they do.

    format_  what its first message says of itself
    """
    if channel.type in _VIDEO or any(name in format_.lower() for name in _VIDEO_FORMATS):
        return "video (H.264, H.265 and the like) inside messages is not decoded"
    if "compresseddepth" in format_.lower():
        return "distances, not pictures"
    if channel.encoding not in _READABLE[channel.type]:
        return f"messages serialised as {channel.encoding or 'nobody says what'} are not read"
    return None


def prefix_bytes(channel: "Channel") -> int | None:
    """How much of a message holds its stamp; None where that takes all of it."""
    return 16 if channel.encoding in _ROS else None


def stamp_ns(channel: "Channel", data: bytes) -> int:
    """When the picture was taken, by the message itself; 0 where its sender did not say. Raises FrameError."""
    if channel.encoding in _ROS:
        with _message_fields():
            fields = _RosFields(data, channel.encoding)
            return fields.header() if channel.type.startswith("sensor_msgs/") else fields.time()
    return picture_in(channel, data).stamp_ns


def picture_in(channel: "Channel", data: bytes) -> Picture:
    """A message's picture, not decoded yet. Raises FrameError where the bytes are not such a message."""
    with _message_fields():
        if channel.encoding == "protobuf":
            return _from_protobuf(channel.type, data)
        if channel.encoding == "json":
            return _from_json(channel.type, data)
        return _from_ros(channel.type, _RosFields(data, channel.encoding))


def readable_picture(channel: "Channel", data: bytes) -> Picture:
    """`picture_in`, where its picture can be decoded. Raises FrameError also where it cannot."""
    picture = picture_in(channel, data)
    problem = why_unreadable(channel, picture.format if isinstance(picture, CompressedPicture) else "")
    if problem:
        raise FrameError("undecodable", f"{problem}.")
    return picture


@contextmanager
def _message_fields() -> Iterator[None]:
    """Turns whatever reading damaged fields raises into one FrameError."""
    try:
        yield
    except (struct.error, ValueError, OverflowError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise FrameError("undecodable", f"its fields are damaged ({error}).") from error


class _RosFields:
    """Reads the fields of a ROS 1 or CDR message, one after another."""

    def __init__(self, data: bytes, encoding: str) -> None:
        self._data = memoryview(data)
        self._is_cdr = encoding == "cdr"
        self._at = 4 if self._is_cdr else 0
        # The second of CDR's four leading bytes says the order of bytes; ROS 1 has only one.
        self._order = ">" if self._is_cdr and not data[1] & 1 else "<"

    def u32(self) -> int:
        return self._number("I")

    def u8(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def time(self) -> int:
        seconds = self._number("i" if self._is_cdr else "I")
        return max(seconds * 1_000_000_000 + self.u32(), 0)

    def header(self) -> int:
        """The stamp; `frame_id` is left to be read."""
        if not self._is_cdr:
            self.u32()  # seq
        return self.time()

    def text(self) -> str:
        return bytes(self.blob()).rstrip(b"\0").decode("utf-8", "replace")

    def blob(self) -> memoryview:
        length = self.u32()
        blob = self._data[self._at : self._at + length]
        if len(blob) < length:
            raise ValueError(f"a field of {length} bytes where {len(blob)} are left")
        self._at += length
        return blob

    def _number(self, form: str) -> int:
        if self._is_cdr:
            self._at += -self._at % 4
        (value,) = struct.unpack_from(self._order + form, self._data, self._at)
        self._at += 4
        return int(value)


def _from_ros(type_: str, fields: _RosFields) -> Picture:
    is_ours = type_.startswith("sensor_msgs/")
    stamp = fields.header() if is_ours else fields.time()
    fields.text()  # frame_id
    if type_ == "sensor_msgs/CompressedImage":
        format_ = fields.text()
        return CompressedPicture(stamp_ns=stamp, format=format_, data=bytes(fields.blob()))
    if type_ == "foxglove/CompressedImage":
        data = bytes(fields.blob())
        return CompressedPicture(stamp_ns=stamp, format=fields.text(), data=data)
    height, width = fields.u32(), fields.u32()
    if not is_ours:
        height, width = width, height
    encoding = fields.text()
    is_bigendian = bool(fields.u8()) if is_ours else False
    step = fields.u32()
    return RawPicture(
        stamp_ns=stamp,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=step,
        data=fields.blob(),
    )


def _from_protobuf(type_: str, data: bytes) -> Picture:
    fields = dict(_protobuf_fields(memoryview(data)))
    time = dict(_protobuf_fields(_block(fields.get(1, b""))))
    stamp = max(int(time.get(1, 0)) * 1_000_000_000 + int(time.get(2, 0)), 0)
    if type_ == "foxglove/CompressedImage":
        return CompressedPicture(
            stamp_ns=stamp, format=_words(fields.get(3, b"")), data=bytes(_block(fields.get(2, b"")))
        )
    return RawPicture(
        stamp_ns=stamp,
        width=int(fields.get(2, 0)),
        height=int(fields.get(3, 0)),
        encoding=_words(fields.get(4, b"")),
        is_bigendian=False,
        step=int(fields.get(5, 0)),
        data=_block(fields.get(6, b"")),
    )


def _protobuf_fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: an int, or the bytes of a string, of bytes or of a message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            yield key >> 3, int.from_bytes(data[at : at + size], "little")
            at += size
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError(f"a field of {length} bytes where {len(data) - at} are left")
            yield key >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"field type {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number that does not end")


def _block(value: Any) -> memoryview:
    return memoryview(value)


def _words(value: Any) -> str:
    return bytes(value).decode("utf-8", "replace")


def _from_json(type_: str, data: bytes) -> Picture:
    fields = parse_json(data)
    time = fields.get("timestamp") or {}
    stamp = max(int(time.get("sec", 0)) * 1_000_000_000 + int(time.get("nsec", time.get("nanosec", 0))), 0)
    content = base64.b64decode(fields["data"], validate=True)
    if type_ == "foxglove/CompressedImage":
        return CompressedPicture(stamp_ns=stamp, format=str(fields.get("format", "")), data=content)
    return RawPicture(
        stamp_ns=stamp,
        height=int(fields["height"]),
        width=int(fields["width"]),
        encoding=str(fields["encoding"]),
        is_bigendian=False,
        step=int(fields.get("step", 0)),
        data=memoryview(content),
    )
