"""Small recordings for tests: messages by rosbags' own serialisers, containers by the writers of mcap and of rosbags."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from PIL import Image
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_typestore

from tests.films import picture

ROS1, ROS2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_HUMBLE)
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


@dataclass(frozen=True, kw_only=True)
class Said:
    """One message: on which topic, when it was logged, what it says (a message of ROS 2, or bytes as they stand)."""

    topic: str
    time_ns: int
    content: Any
    type: str


def jpeg(number: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(number)).save(buffer, form)
    return buffer.getvalue()


def header(stamp_ns: int, store: Any = ROS2) -> Any:
    stamp = store.types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    extra = {"seq": 7} if store is ROS1 else {}
    return store.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera", **extra)


def compressed(
    number: int, *, topic: str = "/cam", stamp_ns: int | None = None, data: bytes | None = None, format_: str = "jpeg"
) -> Said:
    """Picture `number` as a JPEG, logged and stamped `number` periods from the start."""
    time_ns = START_NS + number * PERIOD_NS
    data = jpeg(number) if data is None else data

    def content(store: Any) -> Any:
        stamp = header(time_ns if stamp_ns is None else stamp_ns, store)
        return store.types[COMPRESSED](header=stamp, format=format_, data=np.frombuffer(data, np.uint8))

    return Said(topic=topic, time_ns=time_ns, content=content, type=COMPRESSED)


def raw(
    number: int,
    pixels: bytes,
    encoding: str,
    size: tuple[int, int],
    *,
    topic: str = "/cam",
    step: int = 0,
    is_bigendian: bool = False,
) -> Said:
    """Pixels of `size` (width, height), logged and stamped `number` periods from the start."""
    time_ns = START_NS + number * PERIOD_NS

    def content(store: Any) -> Any:
        return store.types[IMAGE](
            header=header(time_ns, store),
            height=size[1],
            width=size[0],
            encoding=encoding,
            is_bigendian=int(is_bigendian),
            step=step,
            data=np.frombuffer(pixels, np.uint8),
        )

    return Said(topic=topic, time_ns=time_ns, content=content, type=IMAGE)


def text(number: int, topic: str = "/chatter") -> Said:
    """A message that carries no picture."""

    def content(store: Any) -> Any:
        return store.types["std_msgs/msg/String"](data=f"line {number}")

    return Said(topic=topic, time_ns=START_NS + number * PERIOD_NS + 1, content=content, type="std_msgs/msg/String")


def drive(frames: int = 9, topics: Sequence[str] = ("/cam",)) -> Iterator[Said]:
    """Pictures 0, 1, ... on each topic in turn, and what else is said on a vehicle."""
    for number in range(frames):
        yield text(number)
        for topic in topics:
            yield compressed(number, topic=topic)


def write_mcap(
    path: Path,
    messages: Iterable[Said],
    *,
    compression: CompressionType = CompressionType.ZSTD,
    chunk_size: int = 8 * 1024,
    chunked: bool = True,
    indexed: bool = True,
    profile: str = "ros2",
    encoding: str = "cdr",
) -> Path:
    """An MCAP file; `indexed=False` leaves out message and chunk indexes."""
    with path.open("wb") as file:
        writer = McapWriter(
            file,
            chunk_size=chunk_size,
            compression=compression,
            use_chunking=chunked,
            index_types=IndexType.ALL if indexed else IndexType.NONE,
        )
        writer.start(profile, "geal-edge tests")
        channels: dict[tuple[str, str], int] = {}
        for number, said in enumerate(messages):
            key = said.topic, said.type
            if key not in channels:
                schema = writer.register_schema(said.type, "ros2msg", b"")
                channels[key] = writer.register_channel(said.topic, encoding, schema)
            data = said.content if isinstance(said.content, bytes) else serialised(said, encoding)
            writer.add_message(channels[key], said.time_ns, data, said.time_ns, number)
        writer.finish()
    return path


def serialised(said: Said, encoding: str = "cdr") -> bytes:
    if encoding == "ros1":
        return bytes(ROS1.serialize_ros1(said.content(ROS1), said.type))
    return bytes(ROS2.serialize_cdr(said.content(ROS2), said.type))


def write_ros1(path: Path, messages: Iterable[Said], compression: str | None = None, chunk_size: int = 8192) -> Path:
    """A ROS 1 bag; compression `lz4` or `bz2`."""
    writer = Ros1Writer(path)
    if compression:
        writer.set_compression(Ros1Writer.CompressionFormat[compression.upper()])
    writer.chunk_threshold = chunk_size
    with writer:
        connections: dict[str, Any] = {}
        for said in messages:
            if said.topic not in connections:
                connections[said.topic] = writer.add_connection(said.topic, said.type, typestore=ROS1)
            writer.write(connections[said.topic], said.time_ns, serialised(said, "ros1"))
    return path


def write_ros2(path: Path, messages: Iterable[Said], *, plugin: str = "sqlite3", zipped: str | None = None) -> Path:
    """A rosbag2 folder of `sqlite3` or `mcap`, each `message` or the whole `file` compressed if asked for."""
    writer = Ros2Writer(path, version=9, storage_plugin=StoragePlugin[plugin.upper()])
    if zipped:
        writer.set_compression(CompressionMode[zipped.upper()], CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for said in messages:
            if said.topic not in connections:
                connections[said.topic] = writer.add_connection(said.topic, said.type, typestore=ROS2)
            writer.write(connections[said.topic], said.time_ns, serialised(said))
    return path


def cut(path: Path, share: float) -> Path:
    """Leave the first `share` of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path
