"""Recorded ROS data: containers, messages, pixels. The tests write their recordings; the last ones read the shared bags."""

import base64
import bz2
import io
import json
import re
import shutil
import sqlite3
import struct
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.writer import CompressionType

from geal_edge.cli.start import main
from geal_edge.errors import FrameError, MissingDependency, SourceClash, SourceError, UsageError
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.sources import bagfile, open_source, pixels
from geal_edge.runtime.sources.bagfile import Place
from geal_edge.runtime.sources.bags import BagSource
from geal_edge.runtime.sources.mcapfile import McapFile
from geal_edge.runtime.sources.ros1bag import Ros1Bag
from geal_edge.runtime.sources.rosmessages import RawPicture
from tests.contracts import RECORDED_SOURCE_CHECKS
from tests.films import number_of, picture
from tests.recordings import (
    COMPRESSED,
    PERIOD_NS,
    START_NS,
    Said,
    compressed,
    cut,
    drive,
    jpeg,
    raw,
    serialised,
    text,
    write_mcap,
    write_ros1,
    write_ros2,
)


def numbers(source, after: int = -1) -> list[int | str]:
    """The number in each picture; of a lost one the reason."""
    return [number_of(item.image) if isinstance(item, Frame) else item.reason for item in source.frames(after)]


def only(path: Path) -> Frame | LostFrame:
    (item,) = open_source(str(path)).frames()
    return item


# One contract for all containers


def unended(path: Path) -> Path:
    """An MCAP as a power cut leaves it: its data, and nothing of the closing records."""
    content = path.read_bytes()
    (summary,) = struct.unpack("<Q", content[-28:-20])
    path.write_bytes(content[: summary - 13])  # before DataEnd: its head (9 bytes) and its checksum
    return path


def without_index(path: Path) -> Path:
    """A ROS 1 bag as a power cut leaves it: the header says that there is no index yet, and there is none."""
    content = bytearray(path.read_bytes())
    at = content.index(b"index_pos=") + len(b"index_pos=")
    (index,) = struct.unpack_from("<Q", content, at)
    content[at : at + 8] = bytes(8)
    path.write_bytes(content[:index])
    return path


RECORDED = {
    "mcap": lambda folder: write_mcap(folder / "drive.mcap", drive()),
    "mcap lz4": lambda folder: write_mcap(folder / "drive.mcap", drive(), compression=CompressionType.LZ4),
    "mcap plain": lambda folder: write_mcap(folder / "drive.mcap", drive(), compression=CompressionType.NONE),
    "mcap without chunks": lambda folder: write_mcap(folder / "drive.mcap", drive(), chunked=False),
    "mcap without indexes": lambda folder: write_mcap(folder / "drive.mcap", drive(), indexed=False),
    "mcap unended": lambda folder: unended(write_mcap(folder / "drive.mcap", drive())),
    "mcap unended plain": lambda folder: unended(
        write_mcap(folder / "drive.mcap", drive(), compression=CompressionType.NONE)
    ),
    "mcap ros1": lambda folder: write_mcap(folder / "drive.mcap", drive(), profile="ros1", encoding="ros1"),
    "bag": lambda folder: write_ros1(folder / "drive.bag", drive()),
    "bag lz4": lambda folder: write_ros1(folder / "drive.bag", drive(), "lz4"),
    "bag bz2": lambda folder: write_ros1(folder / "drive.bag", drive(), "bz2"),
    "bag unended": lambda folder: without_index(write_ros1(folder / "drive.bag", drive())),
    "bag unended lz4": lambda folder: without_index(write_ros1(folder / "drive.bag", drive(), "lz4")),
    "rosbag2 db3": lambda folder: write_ros2(folder / "drive", drive()),
    "rosbag2 mcap": lambda folder: write_ros2(folder / "drive", drive(), plugin="mcap"),
    "rosbag2 zipped messages": lambda folder: write_ros2(folder / "drive", drive(), zipped="message"),
    "db3": lambda folder: next(write_ros2(folder / "drive", drive()).glob("*.db3")),
}


@pytest.mark.parametrize("kind", RECORDED)
def test_every_container_gives_the_same_frames(kind, tmp_path):
    source = open_source(str(RECORDED[kind](tmp_path)))

    items = list(source.frames())

    assert [number_of(item.image) for item in items if isinstance(item, Frame)] == list(range(9))
    assert [item.frame_index for item in items] == list(range(9))
    assert [item.capture_time_ns for item in items] == [START_NS + number * PERIOD_NS for number in range(9)]
    assert [item.id for item in items] == [f"{source.name}#/cam@{item.capture_time_ns}" for item in items]
    assert {item.topic for item in items} == {"/cam"}
    assert [item.encoded for item in items if isinstance(item, Frame)] == [jpeg(number) for number in range(9)]
    assert source.frame_count == 9
    assert source.size == (96, 64)


DAMAGED = {
    "two cameras": lambda folder: f"{write_mcap(folder / 'drive.mcap', drive(5, ('/a', '/b')))}#/a#/b",
    "cut mcap": lambda folder: str(cut(write_mcap(folder / "drive.mcap", drive(), chunk_size=2000), 0.5)),
    "cut bag": lambda folder: str(cut(write_ros1(folder / "drive.bag", drive(), "bz2", 2000), 0.5)),
    "cut db3": lambda folder: str(cut(next(write_ros2(folder / "drive", drive(40)).glob("*.db3")), 0.6)),
    "damaged pictures": lambda folder: str(
        write_mcap(folder / "drive.mcap", [compressed(0), compressed(1, data=b""), compressed(2, data=b"no picture")])
    ),
}


@pytest.mark.parametrize("check", RECORDED_SOURCE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", ["mcap", "mcap unended plain", "bag lz4", "rosbag2 zipped messages", *DAMAGED])
def test_every_recording_keeps_the_contract(kind, check, tmp_path):
    spec = str((RECORDED | DAMAGED)[kind](tmp_path))
    check(lambda: open_source(spec))


@pytest.mark.parametrize("check", RECORDED_SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_every_recording_keeps_the_contract_at_a_lower_rate(check, tmp_path):
    spec = str(DAMAGED["two cameras"](tmp_path))
    check(lambda: open_source(spec, fps=5))


# Topics


def several(folder: Path) -> str:
    messages = [
        *drive(3, ("/cam/left", "/cam/right", "/rear")),
        *(compressed(number, topic="/coded", format_="h264", data=b"\0\0\0\1") for number in range(4)),
        Said(topic="/video", time_ns=START_NS, content=b"", type="foxglove.CompressedVideo"),
        compressed(0, topic="/depth", format_="16UC1; compressedDepth", data=b"x"),
    ]
    return str(write_mcap(folder / "drive.mcap", messages))


def test_several_topics_and_no_choice_are_listed_with_types_and_counts(tmp_path):
    with pytest.raises(UsageError, match=r"holds 3 image topics[.] Choose with --topic NAME") as caught:
        open_source(several(tmp_path))

    lines = str(caught.value).splitlines()[1:]
    assert [line.split()[0] for line in lines] == sorted(
        ["/cam/left", "/cam/right", "/coded", "/depth", "/rear", "/video"]
    )
    assert "  /rear  (sensor_msgs/CompressedImage jpeg, 3 messages)" in lines
    assert "  /coded  (sensor_msgs/CompressedImage h264, 4 messages; video (H.264, H.265 and the like)" in str(
        caught.value
    )
    assert "  /depth  (sensor_msgs/CompressedImage 16UC1; compressedDepth, 1 message; distances, not pictures)" in lines


def test_topics_are_chosen_by_name_or_glob_and_come_in_order_of_time(tmp_path):
    spec = several(tmp_path)

    source = open_source(spec, topics=["/rear", "/cam/l*"])

    assert isinstance(source, BagSource)
    assert source.topics == ("/cam/left", "/rear")
    assert [(item.topic, item.frame_index) for item in source.frames()] == [
        (topic, 2 * number + place) for number in range(3) for place, topic in enumerate(("/cam/left", "/rear"))
    ]
    assert [item.id for item in open_source(f"{spec}#/rear").frames()] == [
        f"drive.mcap#/rear@{START_NS + number * PERIOD_NS}" for number in range(3)
    ]


def test_frames_of_several_files_come_in_order_of_time(tmp_path):
    folder = tmp_path / "drive"
    folder.mkdir()
    messages = list(drive(9, ("/a", "/b")))
    for part in range(3):
        write_mcap(folder / f"drive_{part}.mcap", messages[part::3])

    source = open_source(str(folder), topics=["*"])

    assert numbers(source) == [number for number in range(9) for _ in "ab"]
    assert numbers(source, after=10) == numbers(source)[11:]


@pytest.mark.parametrize(
    ("topics", "error", "words"),
    [
        (["/front"], UsageError, r"--topic /front matches none of its image topics:\n  /cam/left"),
        (["/rear", "/x*"], UsageError, r"--topic /x\* matches none"),
        (
            ["/video"],
            SourceError,
            "--topic /video matches no topic that can be read:(.|\n)*/video .*H.264.*not decoded",
        ),
        (["/coded"], SourceError, "h264, 4 messages; video"),
        (["/depth"], SourceError, "distances, not pictures"),
    ],
)
def test_a_topic_that_gives_no_frames_is_refused_with_what_there_is(topics, error, words, tmp_path):
    with pytest.raises(error, match=words):
        open_source(several(tmp_path), topics=topics)


def test_topics_that_a_glob_meant_and_that_cannot_be_read_are_named(tmp_path):
    source = open_source(several(tmp_path), topics=["/c*"])

    assert isinstance(source, BagSource)
    assert source.topics == ("/cam/left", "/cam/right")
    (note,) = source.notes
    assert note.startswith("/coded ")


def test_a_recording_without_pictures_says_what_it_holds(tmp_path):
    path = write_mcap(tmp_path / "drive.mcap", [text(0), text(1, "/rosout")])
    with pytest.raises(SourceError, match=r"holds no image topic .* Its topics: /chatter, /rosout"):
        open_source(str(path))


def test_a_topic_for_what_is_no_recording_is_refused():
    with pytest.raises(UsageError, match="--topic /cam: is for recorded ROS data"):
        open_source("drawn:1", topics=["/cam"])


def test_another_choice_of_topics_is_another_source(tmp_path):
    spec = several(tmp_path)
    prints = {open_source(spec, topics=topics).fingerprint() for topics in (["/rear"], ["/cam/*"], ["/cam/left"])}
    assert len(prints) == 3
    assert open_source(spec, topics=["/r*"]).fingerprint() in prints


# Times


def test_without_a_stamp_the_log_time_counts(tmp_path):
    path = write_mcap(tmp_path / "drive.mcap", [compressed(3, stamp_ns=0)])
    assert only(path).capture_time_ns == START_NS + 3 * PERIOD_NS


def test_frames_come_in_order_of_log_time_and_a_stamp_that_comes_again_gets_a_number(tmp_path):
    stamps = [500, 400, 500, 400, 500]
    messages = [compressed(number, stamp_ns=stamp) for number, stamp in enumerate(stamps)]
    path = write_mcap(tmp_path / "drive.mcap", reversed(messages))

    source = open_source(str(path))

    assert numbers(source) == [0, 1, 2, 3, 4]
    ids = [item.id.partition("@")[2] for item in source.frames()]
    assert ids == ["500", "400", "500.2", "400.2", "500.3"]
    assert [item.id.partition("@")[2] for item in source.frames(after=2)] == ids[3:]


def test_a_rate_is_kept_on_each_topic_and_starts_anew_where_the_clock_was_set_back(tmp_path):
    path = write_mcap(tmp_path / "drive.mcap", drive(10, ("/a", "/b")))
    assert numbers(open_source(f"{path}#/a#/b", fps=2)) == [0, 0, 5, 5]

    hour = 3600 * 10**9
    stamps = [START_NS + number * PERIOD_NS - (hour if number >= 4 else 0) for number in range(10)]
    path = write_mcap(tmp_path / "set.mcap", [compressed(n, stamp_ns=stamp) for n, stamp in enumerate(stamps)])
    assert numbers(open_source(str(path), fps=2)) == [0, 4, 9]


# Recordings that were cut off, or damaged


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize("chunked", [True, False])
def test_a_cut_mcap_gives_what_it_holds_and_says_so(share, compression, chunked, tmp_path):
    path = cut(
        write_mcap(tmp_path / "drive.mcap", drive(40), compression=compression, chunked=chunked, chunk_size=2000), share
    )

    source = open_source(str(path))
    found = numbers(source)

    assert isinstance(source, BagSource)
    assert any("power cut" in note for note in source.notes)
    assert found.count("truncated") <= 1
    usable = [number for number in found if number != "truncated"]
    assert usable == list(range(len(usable)))
    assert len(usable) >= int(40 * share) - 4


def test_a_message_that_was_cut_off_is_lost_by_its_own_id(tmp_path):
    path = write_mcap(tmp_path / "drive.mcap", [compressed(0), compressed(1)], chunked=False)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(jpeg(1)) + 20])

    *_, last = open_source(str(path)).frames()

    assert isinstance(last, LostFrame)
    assert (last.reason, last.id) == ("truncated", f"drive.mcap#/cam@{START_NS + PERIOD_NS}")


def test_zeros_at_the_end_as_some_file_systems_leave_them_are_one_gap(tmp_path):
    path = unended(write_mcap(tmp_path / "drive.mcap", drive()))
    path.write_bytes(path.read_bytes() + bytes(5000))

    *frames, gap = open_source(str(path)).frames()

    assert len(frames) == 9
    assert isinstance(gap, LostFrame)
    assert (gap.reason, gap.frame_index, gap.topic) == ("truncated", 9, None)


def test_a_damaged_chunk_costs_its_messages_and_no_other(tmp_path):
    path = write_mcap(tmp_path / "drive.mcap", drive(), chunk_size=4000)
    contents = McapFile(path).contents()
    at = contents.places.positions[4]
    chunk = [n for n, position in enumerate(contents.places.positions) if position == at]
    content = bytearray(path.read_bytes())
    content[at + 53 : at + 73] = bytes(20)  # where the compressed data starts
    path.write_bytes(content)

    found = numbers(open_source(str(path)))

    assert [number for number in found if isinstance(number, int)] == [n for n in range(9) if n not in chunk]
    assert [found[number] for number in chunk] == ["undecodable"] * len(chunk)


@pytest.mark.parametrize("compression", [None, "lz4", "bz2"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_cut_ros1_bag_gives_what_it_holds_and_says_so(compression, share, tmp_path):
    path = cut(write_ros1(tmp_path / "drive.bag", drive(40), compression, chunk_size=2000), share)

    source = open_source(str(path))
    found = numbers(source)

    assert isinstance(source, BagSource)
    assert any("power cut" in note for note in source.notes)
    assert found.count("truncated") <= 1
    usable = [number for number in found if number != "truncated"]
    assert usable == list(range(len(usable)))
    assert len(usable) >= int(40 * share) - 5


def test_a_cut_database_gives_the_rows_that_are_left(tmp_path):
    source = open_source(DAMAGED["cut db3"](tmp_path))

    found = numbers(source)

    assert isinstance(source, BagSource)
    assert any("damaged or cut off" in note for note in source.notes)
    usable = [number for number in found if number != "truncated"]
    assert usable == list(range(len(usable)))
    assert len(usable) >= 10
    assert "truncated" in found


def test_a_rosbag2_folder_is_read_without_its_metadata_and_says_which_part_is_absent(tmp_path):
    folder = write_ros2(tmp_path / "drive", drive(), plugin="mcap")
    metadata = (folder / "metadata.yaml").read_text()
    (folder / "metadata.yaml").unlink()
    (folder / "drive.mcap").rename(folder / "drive_0.mcap")
    assert numbers(open_source(str(folder))) == list(range(9))

    (folder / "metadata.yaml").write_text(metadata.replace("- drive.mcap", "- drive_0.mcap\n  - drive_1.mcap"))
    *frames, gap = open_source(str(folder)).frames()
    assert len(frames) == 9
    assert isinstance(gap, LostFrame)
    assert "drive_1.mcap: is named in metadata.yaml, but is not there" in gap.detail


def test_a_folder_of_several_recordings_is_no_recording(tmp_path):
    write_mcap(tmp_path / "monday.mcap", drive(2))
    write_mcap(tmp_path / "tuesday.mcap", drive(2))
    with pytest.raises(SourceError, match="no image files were found"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.mcap", b"", "0 bytes"),
        ("a.mcap", b"This is a text.", "not an MCAP file"),
        ("a.mcap", b"\x89MCAP0\r\n", "no image topic"),
        ("a.bag", b"This is a text.", "not a ROS bag"),
        ("a.bag", b"#ROSBAG V1.2\n", "format 1.2; 2.0 is read"),
        ("a.db3", b"This is a text. " * 99, "not a rosbag2 database"),
        ("a.db3.zstd", b"\x28\xb5\x2f\xfd", "zstd -d"),
    ],
)
def test_what_is_no_recording_is_refused_with_a_sentence(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=words) as caught:
        open_source(str(tmp_path / name))
    assert name in str(caught.value)


def test_a_recording_compressed_as_a_whole_is_refused_with_the_way_out(tmp_path):
    folder = write_ros2(tmp_path / "drive", drive(), zipped="file")
    with pytest.raises(SourceError, match="zstd -d"):
        open_source(str(folder))


@pytest.mark.parametrize("package", ["mcap.reader", "zstandard"])
def test_a_missing_package_is_a_sentence_with_the_command(package, tmp_path, monkeypatch):
    path = RECORDED["mcap unended"](tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=re.escape("pip install 'geal-edge[bags]'")):
        open_source(str(path))


def test_an_index_that_points_elsewhere_loses_a_frame_and_says_why(tmp_path):
    for file in (McapFile(RECORDED["mcap plain"](tmp_path)), Ros1Bag(RECORDED["bag"](tmp_path))):
        with file.open() as messages, pytest.raises(FrameError, match=r"truncated|undecodable"):
            messages.read(Place(13, -1))


def test_a_channel_that_is_described_again_and_wrongly_keeps_its_pictures(tmp_path):
    bag = RECORDED["bag"](tmp_path)
    before, found, after = bag.read_bytes().rpartition(b"type=sensor_msgs/CompressedImage")
    after = re.sub(
        b"chunk_pos=" + b"." * 8, b"chunk_pos=" + bytes(8), after, flags=re.DOTALL
    )  # there is no chunk there
    bag.write_bytes(before + found.replace(b"Image", b"Omage") + after)
    assert numbers(open_source(str(bag))) == list(range(9))

    mcap = unended(write_mcap(tmp_path / "drive.mcap", drive(), chunked=False, indexed=False))
    content = mcap.read_bytes()
    at = content.index(b"/cam") - 4 - 4 - 9  # the length of the topic, two numbers, the head of the record
    (length,) = struct.unpack_from("<Q", content, at + 1)
    again = content[at : at + 11] + bytes(2) + content[at + 13 : at + 9 + length]  # of no schema
    mcap.write_bytes(content + again)
    assert numbers(open_source(str(mcap))) == list(range(9))


@pytest.mark.parametrize("position", [0, 2**45, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("kind", ["bag", "mcap"])
def test_where_an_index_points_beyond_the_file_the_records_are_read(kind, position, tmp_path):
    path = RECORDED[kind](tmp_path)
    content = bytearray(path.read_bytes())
    if kind == "bag":
        at = content.index(b"chunk_pos=") + len(b"chunk_pos=")
    else:
        (summary,) = struct.unpack("<Q", content[-28:-20])
        at = content.index(b"\x08", summary)
        while struct.unpack_from("<Q", content, at + 1)[0] > 500:
            at = content.index(b"\x08", at + 1)
        at += 9 + 16  # of a ChunkIndex its kind and length, when it starts and ends, then where
    struct.pack_into("<Q", content, at, position)
    path.write_bytes(content)

    assert numbers(open_source(str(path))) == list(range(9))


@pytest.mark.parametrize("field", [b"compression=none", b"size=", b"conn=", b"op=\x05"])
def test_a_record_that_lacks_what_it_must_say_costs_what_it_holds_and_no_more(field, tmp_path):
    path = without_index(write_ros1(tmp_path / "drive.bag", drive(40), chunk_size=2000))
    content = path.read_bytes()
    at = content.index(field, len(content) // 2)
    path.write_bytes(content[:at] + field.replace(field[:2], b"xx") + content[at + len(field) :])

    found = numbers(open_source(str(path)))

    usable = [number for number in found if isinstance(number, int)]
    assert found.count("truncated") <= 1
    assert usable == sorted(usable)
    assert len(usable) >= 37


def test_a_length_that_is_a_lie_sets_no_memory_aside():
    class Stream(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size <= 1_000_000
            return super().read(size)

    stream = Stream(bytes(900_000))
    stream.seek(10)
    assert len(bagfile.read_up_to(stream, 2**62)) == 900_000 - 10
    assert bagfile.read_up_to(stream, 2**62) == b""


def test_a_chunk_whose_data_are_said_to_be_longer_than_memory_is_no_reason_to_end(tmp_path):
    path = RECORDED["mcap plain"](tmp_path)
    content = bytearray(path.read_bytes())
    (summary,) = struct.unpack("<Q", content[-28:-20])
    at = McapFile(path).contents().places.positions[0]
    chunk = content.rindex(b"\x06", 0, at)  # the kind of its record
    struct.pack_into("<Q", content, len(content) - 28, chunk)  # the summary is said to begin at a chunk
    struct.pack_into(
        "<Q", content, chunk + 9 + 32, 2**45
    )  # behind start, end, size and checksum, and no name: its length
    path.write_bytes(content)

    assert summary > chunk
    assert numbers(open_source(str(path))) == list(range(9))


def test_names_in_a_rosbag2_folder_that_no_file_can_have_are_files_that_are_not_there(tmp_path):
    folder = write_ros2(tmp_path / "drive", drive(), plugin="mcap")
    metadata = (folder / "metadata.yaml").read_text()
    odd = ["x" * 5000, "a\x1cb", "a\0b", "- c"]
    listed = "".join(f"\n  - {name}" for name in ["drive.mcap", *odd])
    (folder / "metadata.yaml").write_text(metadata.replace("\n  - drive.mcap", listed))

    found = numbers(open_source(str(folder)))

    assert found == [*range(9), *["truncated"] * len(odd)]


def test_a_row_of_a_database_without_a_number_is_passed_over(tmp_path):
    path = RECORDED["db3"](tmp_path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE odd AS SELECT * FROM messages")  # its id is a column like any other
        database.execute("UPDATE odd SET id = NULL WHERE rowid = 2")
        database.execute("DROP TABLE messages")
        database.execute("ALTER TABLE odd RENAME TO messages")

    assert len(numbers(open_source(str(path)))) == 8


# Messages


def test_broken_messages_are_lost_with_their_reason(tmp_path):
    whole = serialised(compressed(1))
    messages = [
        compressed(0),
        Said(topic="/cam", time_ns=START_NS + 1, content=whole[:30], type=COMPRESSED),
        Said(topic="/cam", time_ns=START_NS + 2, content=b"", type=COMPRESSED),
        compressed(1, data=b""),
        compressed(2, data=jpeg(2)[:600]),
        compressed(3, data=b"no picture at all"),
        compressed(4, format_="h264", data=b"\0\0\0\1"),
        compressed(5),
    ]
    found = numbers(open_source(str(write_mcap(tmp_path / "drive.mcap", messages))))
    assert found == [0, "undecodable", "undecodable", "empty", "truncated", "not_an_image", "undecodable", 5]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_the_senders_own_bytes_come_along(form, tmp_path):
    data = jpeg(5, form)
    item = only(write_mcap(tmp_path / "drive.mcap", [compressed(0, data=data, format_="anything")]))
    assert isinstance(item, Frame)
    assert (item.encoded, item.encoding) == (data, {"JPEG": "jpg"}.get(form, form.lower()))


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number: int, value: bytes | int) -> bytes:
    """A field of a protobuf message, by the encoding's own description."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def foxglove(encoding: str, number: int) -> Said:
    data, time_ns = jpeg(number), START_NS + number * PERIOD_NS
    seconds, nanoseconds = divmod(time_ns, 10**9)
    if encoding == "protobuf":
        time = field(1, seconds) + (field(2, nanoseconds) if nanoseconds else b"")
        content = field(4, b"camera") + field(1, time) + field(2, data) + field(3, b"jpeg")
    elif encoding == "json":
        time_json = {"sec": seconds, "nsec": nanoseconds}
        picture_json = {
            "timestamp": time_json,
            "frame_id": "c",
            "data": base64.b64encode(data).decode(),
            "format": "jpeg",
        }
        content = json.dumps(picture_json).encode()
    else:
        start = b"\0\1\0\0" if encoding == "cdr" else b""
        name = struct.pack("<I", 7) + b"camera\0" + b"\0" if encoding == "cdr" else struct.pack("<I", 6) + b"camera"
        content = start + struct.pack("<II", seconds, nanoseconds) + name + struct.pack("<I", len(data)) + data
        content += bytes(-len(content) % 4 if encoding == "cdr" else 0) + struct.pack("<I", 5) + b"jpeg\0"
    types = {"cdr": "foxglove_msgs/msg/CompressedImage", "ros1": "foxglove_msgs/CompressedImage"}
    return Said(topic="/cam", time_ns=1 + number, content=content, type=types.get(encoding, "foxglove.CompressedImage"))


@pytest.mark.parametrize("encoding", ["protobuf", "json", "cdr", "ros1"])
def test_foxgloves_images_are_read_in_every_serialisation(encoding, tmp_path):
    messages = [foxglove(encoding, number) for number in range(3)]
    source = open_source(str(write_mcap(tmp_path / "drive.mcap", messages, encoding=encoding)))

    assert numbers(source) == [0, 1, 2]
    assert [item.capture_time_ns for item in source.frames()] == [START_NS + n * PERIOD_NS for n in range(3)]


def test_foxgloves_raw_images_are_read(tmp_path):
    def fixed(number: int, value: int) -> bytes:
        return varint(number << 3 | 5) + struct.pack("<I", value)

    content = fixed(2, 96) + fixed(3, 64) + field(4, b"rgb8") + fixed(5, 288) + field(6, picture(5).tobytes())
    said = Said(topic="/cam", time_ns=START_NS, content=content, type="foxglove.RawImage")
    item = only(write_mcap(tmp_path / "drive.mcap", [said], encoding="protobuf"))
    assert isinstance(item, Frame)
    np.testing.assert_array_equal(item.image, picture(5))


def test_a_message_in_another_serialisation_is_named(tmp_path):
    said = Said(topic="/cam", time_ns=START_NS, content=b"abc", type="foxglove.CompressedImage")
    with pytest.raises(SourceError, match="messages serialised as flatbuffer are not read"):
        open_source(str(write_mcap(tmp_path / "drive.mcap", [said], encoding="flatbuffer")))


# Raw pixels


def image_of(tmp_path: Path, data: bytes, encoding: str, size: tuple[int, int], **options) -> np.ndarray:
    item = only(write_mcap(tmp_path / "drive.mcap", [raw(0, data, encoding, size, **options)]))
    assert isinstance(item, Frame), item
    assert (item.encoded, item.encoding) == (None, "")
    return item.image


RGB = picture(5)
GREY = RGB.mean(axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("encoding", "data", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[:, :, ::-1], RGB),
        ("8UC3", RGB[:, :, ::-1], RGB),
        ("rgba8", np.dstack([RGB, GREY]), RGB),
        ("bgra8", np.dstack([RGB[:, :, ::-1], GREY]), RGB),
        ("mono8", GREY, np.dstack([GREY] * 3)),
        ("8UC1", GREY, np.dstack([GREY] * 3)),
        ("rgb16", RGB.astype(np.uint16) * 257, RGB),
        ("mono16", GREY.astype(np.uint16) * 257, np.dstack([GREY] * 3)),
        ("16UC1", GREY.astype(np.uint16) * 257, np.dstack([GREY] * 3)),
    ],
)
@pytest.mark.parametrize("padding", [0, 12])
def test_plain_pixels_become_rgb_without_their_padding(encoding, data, expected, padding, tmp_path):
    rows = data.reshape(64, -1).view(np.uint8)
    padded = np.hstack([rows, np.full((64, padding), 99, np.uint8)])
    image = image_of(tmp_path, padded.tobytes(), encoding, (96, 64), step=padded.shape[1])
    np.testing.assert_array_equal(image, expected)


def test_the_order_of_bytes_is_obeyed(tmp_path):
    values = np.array([[0, 257, 514, 65535]], np.uint16)
    for order in (">u2", "<u2"):
        image = image_of(tmp_path, values.astype(order).tobytes(), "mono16", (4, 1), is_bigendian=order == ">u2")
        assert image[0, :, 0].tolist() == [0, 1, 2, 255]


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_bayer_mosaic_of_one_colour_becomes_that_colour(pattern, bits, tmp_path):
    colour = {"r": 200, "g": 120, "b": 40}
    tile = np.array([colour[letter] for letter in pattern], np.uint16).reshape(2, 2)
    mosaic = np.tile(tile, (16, 24))
    data = mosaic.astype(np.uint8) if bits == 8 else mosaic * 257
    image = image_of(tmp_path, data.tobytes(), f"bayer_{pattern}{bits}", (48, 32))
    assert np.unique(image.reshape(-1, 3), axis=0).tolist() == [[200, 120, 40]]


def test_yuv_pictures_come_out_near_their_colours(tmp_path):
    # OpenCV's own way into YUV is the reference; chroma is shared by neighbours, so on smooth ground.
    ground = np.full((64, 96, 3), (200, 90, 40), np.uint8)
    ground[32:] = (30, 60, 220)
    planes = cv2.cvtColor(ground, cv2.COLOR_RGB2YUV_I420)
    luma, u, v = planes[:64], planes[64:80].reshape(32, 48), planes[80:].reshape(32, 48)
    pairs = np.stack([np.repeat(u, 2, axis=0), luma[:, ::2], np.repeat(v, 2, axis=0), luma[:, 1::2]], axis=2)
    packed = {
        "yuv422": pairs,
        "uyvy": pairs,
        "yuv422_yuy2": pairs[:, :, [1, 0, 3, 2]],
        "nv12": np.vstack([luma, np.stack([u, v], axis=2).reshape(32, 96)]),
        "nv21": np.vstack([luma, np.stack([v, u], axis=2).reshape(32, 96)]),
    }
    for encoding, data in packed.items():
        image = image_of(tmp_path, data.tobytes(), encoding, (96, 64))
        assert np.abs(image.astype(int) - ground).max() <= 3, encoding


@pytest.mark.parametrize(
    ("encoding", "size", "step", "length", "reason"),
    [
        ("rgb8", (10, 10), 30, 299, "truncated"),
        ("rgb8", (10, 10), 29, 300, "undecodable"),
        ("rgb8", (0, 10), 0, 0, "empty"),
        ("rgb8", (20_000, 20_000), 60_000, 10, "too_large"),
        ("32FC1", (10, 10), 40, 400, "undecodable"),
        ("polaroid", (10, 10), 30, 300, "undecodable"),
        ("nv12", (11, 11), 11, 500, "undecodable"),
        ("uyvy", (11, 10), 22, 500, "undecodable"),
    ],
)
def test_pixels_that_make_no_picture_are_lost_with_their_reason(encoding, size, step, length, reason):
    said = RawPicture(
        stamp_ns=0,
        width=size[0],
        height=size[1],
        encoding=encoding,
        is_bigendian=False,
        step=step,
        data=memoryview(bytes(length)),
    )
    with pytest.raises(FrameError) as caught:
        pixels.rgb(said)
    assert caught.value.reason == reason
    assert caught.value.detail.endswith(".")


# Memory


def test_a_recording_of_60_mb_is_streamed(tmp_path):
    data = jpeg(1) + bytes(1_000_000)
    path = write_mcap(
        tmp_path / "drive.mcap",
        (compressed(number, data=data) for number in range(60)),
        compression=CompressionType.NONE,
        chunk_size=4_000_000,
    )
    assert path.stat().st_size > 60_000_000

    tracemalloc.start()
    try:
        assert sum(isinstance(item, Frame) for item in open_source(str(path)).frames()) == 60
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30_000_000


# On the command line


def test_run_and_select_take_topics_and_another_choice_is_a_clash(tiny_bundle, tmp_path, capsys, monkeypatch):
    def cli(*words) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["geal-edge", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    path = cut(write_mcap(tmp_path / "drive.mcap", drive(20, ("/a", "/b")), chunk_size=2000), 0.7)
    bundle = ("--bundle", tiny_bundle.path)

    code, said = cli("select", path, *bundle, "-n", 3, "-o", tmp_path / "picks.json")
    assert code == 2
    assert "/a  (sensor_msgs/CompressedImage jpeg, " in said

    code, said = cli(
        "select", path, "--topic", "/a", "--topic", "/[b]", *bundle, "-n", 3, "-o", tmp_path / "picks.json"
    )
    assert code == 0, said
    assert "as after a power cut" in said
    picks = json.loads((tmp_path / "picks.json").read_text())
    assert all(re.fullmatch(r"drive\.mcap#/[ab]@\d+", pick["id"]) for pick in picks["picks"])
    (source,) = picks["sources"]
    assert open_source(source["spec"]).frame_count == picks["frames"]["seen"]

    code, said = cli("run", path, "--topic", "/a", *bundle, "--spool", tmp_path / "spool", "--budget", 3)
    assert code == 0, said
    code, said = cli("run", path, "--topic", "/b", *bundle, "--spool", tmp_path / "spool", "--budget", 3)
    assert code == SourceClash.exit_code
    assert "--name" in said


# The shared recordings


def test_the_shared_recordings_are_read(shared):
    bags = shared / "data" / "bags"
    for name, topics, expected in (
        ("made_nuscenes_6cam.mcap", ["/cam_*"], {(1600, 900): 54}),
        ("rerun_rosbag2_sensor_msgs.mcap", ["/compressed_image"], {(640, 480): 1}),
        ("rerun_rosbag2_sensor_msgs.mcap", ["/image"], {(640, 480): 1}),
        ("robologs_tiny.bag", ["*"], {(346, 260): 7}),
    ):
        found: dict[tuple[int, int], int] = {}
        for item in open_source(str(bags / name), topics=topics).frames():
            assert isinstance(item, Frame), item
            size = item.image.shape[1], item.image.shape[0]
            found[size] = found.get(size, 0) + 1
        assert found == expected, name


def test_the_shared_six_cameras_are_the_files_that_were_recorded(shared):
    source = open_source(str(shared / "data" / "bags" / "made_nuscenes_6cam.mcap"), topics=["*"])
    recorded = {item.encoded for item in source.frames() if isinstance(item, Frame)}
    assert recorded == {path.read_bytes() for path in (shared / "data/seq/nuscenes_drivelm_6cam").rglob("*.jpg")}


@pytest.mark.parametrize(("name", "share"), [("made_nuscenes_6cam.mcap", 0.3), ("robologs_tiny.bag", 0.6)])
def test_a_shared_recording_that_is_cut_gives_the_beginning_of_the_whole(name, share, shared, tmp_path):
    whole = {item.id for item in open_source(str(shared / "data" / "bags" / name), topics=["*"]).frames()}
    path = tmp_path / name
    shutil.copyfile(shared / "data" / "bags" / name, path)

    items = list(open_source(str(cut(path, share)), topics=["*"]).frames())

    usable = [item for item in items if isinstance(item, Frame)]
    assert {item.id for item in usable} < whole
    assert len(usable) >= int(len(whole) * share) - 6
    assert len(items) - len(usable) <= 1


@pytest.mark.parametrize("compression", ["zstd", "lz4", "bz2"])
def test_a_chunk_that_unpacks_to_more_than_any_chunk_has_is_cut_there_whatever_it_says(compression, monkeypatch):
    import lz4.frame
    import zstandard

    monkeypatch.setattr(bagfile, "_MOST_BYTES", 10_000_000)
    packed = {"zstd": zstandard.compress, "lz4": lz4.frame.compress, "bz2": bz2.compress}[compression](
        bytes(300_000_000)
    )
    tracemalloc.start()
    try:
        chunk = bagfile.decompress(compression, packed, size=10**12, cut=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(chunk.data), chunk.why) == (10_000_000, "undecodable")
    assert peak < 50_000_000  # of what a small piece unpacks to, too, only so much at a time
