"""`extract --format mcap`: what is written is read by the mcap library and by rosbags, and is what had been recorded."""

import json
import shutil
import sqlite3
import sys
import tracemalloc
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Reader as Ros1Reader
from typer.testing import CliRunner

from geal_edge.cli.app import app
from geal_edge.errors import Interrupted, MissingDependency, SourceError, UsageError
from geal_edge.runtime.extract import extract
from geal_edge.runtime.frame import usable
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import Source, open_source
from tests.recordings import (
    IMAGE,
    PERIOD_NS,
    ROS2,
    START_NS,
    compressed,
    cut,
    drive,
    jpeg,
    raw,
    serialised,
    write_mcap,
    write_ros1,
    write_ros2,
)
from tests.test_extract import fill, lines_of, pick, picks_file, selected, write_images


class Recorded(NamedTuple):
    topic: str
    schema: str
    schema_encoding: str
    definition: bytes
    encoding: str
    metadata: tuple[tuple[str, str], ...]
    log_ns: int
    publish_ns: int
    sequence: int
    data: bytes


def messages_of(path: Path) -> list[Recorded]:
    """All messages of a file as the mcap library reads them, in the order in which they lie there."""
    with path.open("rb") as file:
        return [
            Recorded(
                channel.topic,
                schema.name if schema else "",
                schema.encoding if schema else "",
                schema.data if schema else b"",
                channel.message_encoding,
                tuple(sorted(channel.metadata.items())),
                message.log_time,
                message.publish_time,
                message.sequence,
                message.data,
            )
            for schema, channel, message in make_reader(file).iter_messages(log_time_order=False)
        ]


def profile_of(path: Path) -> str:
    with path.open("rb") as file:
        return str(make_reader(file).get_header().profile)


def picks_of(path: Path, source: Source, indices: list[int]) -> Path:
    chosen = []
    for order, index in enumerate(indices, start=1):
        item = usable(next(item for item in source.frames() if item.frame_index == index))
        digest = None if item.encoded is None else sha256(item.encoded).hexdigest()
        chosen.append(pick(order, source, index, patches=[0] if order > 1 else [], digest=digest))
    return picks_file(path, [source], chosen)


def recording(path: Path, **how: Any) -> Path:
    """Two cameras and a chatter, with a definition, metadata, and publish times that differ from log times."""
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=8 * 1024, **how)
        writer.start("ros2", "geal-edge tests")
        channels: dict[str, int] = {}
        for number, said in enumerate(drive(9, ("/front", "/rear"))):
            if said.topic not in channels:
                definition, _ = ROS2.generate_msgdef(said.type, ros_version=2)
                schema = writer.register_schema(said.type, "ros2msg", definition.encode())
                channels[said.topic] = writer.register_channel(said.topic, "cdr", schema, {"offered_qos_profiles": ""})
            writer.add_message(channels[said.topic], said.time_ns + 5, serialised(said), said.time_ns + 2, number)
        writer.finish()
    return path


HOW: dict[str, dict[str, Any]] = {
    "zstd": {"compression": CompressionType.ZSTD},
    "lz4": {"compression": CompressionType.LZ4},
    "plain": {"compression": CompressionType.NONE},
    "without chunks": {"use_chunking": False},
}


@pytest.mark.parametrize("how", HOW)
def test_the_messages_of_the_selected_frames_are_copied_as_they_were_recorded(how: str, tmp_path: Path) -> None:
    bag = recording(tmp_path / "drive.mcap", **HOW[how])
    source = open_source(str(bag), topics=["*"])
    picks = picks_of(tmp_path / "picks.json", source, [16, 3, 0, 5])

    summary = extract(picks, tmp_path / "out", format_name="mcap")

    pictures = [message for message in messages_of(bag) if message.topic != "/chatter"]
    written = messages_of(tmp_path / "out" / "selected.mcap")
    assert written == [pictures[index] for index in (0, 3, 5, 16)]
    assert written[0].log_ns - written[0].publish_ns == 3
    lines = lines_of(tmp_path / "out")
    assert [(line["order"], line["frame_index"]) for line in lines] == [(1, 16), (2, 3), (3, 0), (4, 5)]
    for line in lines:
        message = pictures[line["frame_index"]]
        assert (line["topic"], line["log_time_ns"], line["publish_time_ns"], line["sequence"]) == (
            *(message.topic, message.log_ns, message.publish_ns),
            message.sequence,
        )
        assert (line["file"], line["sha256"]) == ("selected.mcap", sha256(message.data).hexdigest())
        assert (line["width"], line["height"]) == source.size
    assert (summary.frames, summary.bytes) == (4, sum(len(message.data) for message in written))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["frames.jsonl", "selected.mcap"]


def test_rosbags_reads_it_with_the_definitions_that_it_carries(tmp_path: Path) -> None:
    source = open_source(str(recording(tmp_path / "drive.mcap")), topics=["/front"])
    picks = picks_of(tmp_path / "picks.json", source, [7, 2])

    extract(picks, tmp_path / "out", format_name="mcap")

    originals = {item.capture_time_ns: usable(item).encoded for item in source.frames()}
    with AnyReader([tmp_path / "out" / "selected.mcap"]) as reader:
        assert {connection.topic for connection in reader.connections} == {"/front"}
        read = [(time, reader.deserialize(data, c.msgtype)) for c, time, data in reader.messages()]
    assert [time for time, _ in read] == [START_NS + number * PERIOD_NS + 5 for number in (2, 7)]
    for _, message in read:
        stamp: Any = message
        time_ns = stamp.header.stamp.sec * 10**9 + stamp.header.stamp.nanosec
        assert stamp.data.tobytes() == originals[time_ns]


def test_each_frames_facts_stand_in_the_file_in_the_selected_order(tmp_path: Path) -> None:
    source = open_source(str(write_mcap(tmp_path / "drive.mcap", drive())))
    picks = picks_of(tmp_path / "picks.json", source, [8, 1, 4])

    extract(picks, tmp_path / "out", format_name="mcap")

    with (tmp_path / "out" / "selected.mcap").open("rb") as file:
        records = list(make_reader(file).iter_metadata())
    assert [record.name for record in records] == ["geal_edge/frame"] * 3
    for record, line in zip(records, lines_of(tmp_path / "out"), strict=True):
        assert record.metadata.keys() == line.keys()
        for name, value in line.items():
            kept = record.metadata[name]
            assert (kept if isinstance(value, str) else json.loads(kept)) == value
    assert [record.metadata["frame_index"] for record in records] == ["8", "1", "4"]
    assert records[0].metadata["untrained"] == "true"


def test_the_written_file_is_a_source_with_the_same_pictures(tmp_path: Path) -> None:
    source = open_source(str(write_mcap(tmp_path / "drive.mcap", drive())))
    extract(picks_of(tmp_path / "picks.json", source, [8, 1, 4]), tmp_path / "out", format_name="mcap")

    again = [usable(item) for item in open_source(str(tmp_path / "out" / "selected.mcap")).frames()]

    originals = {item.capture_time_ns: usable(item).encoded for item in source.frames()}
    assert [item.frame_index for item in again] == [0, 1, 2]
    assert all(originals[item.capture_time_ns] == item.encoded for item in again)


def test_a_spools_messages_come_from_its_bag_also_where_they_are_pixels(tmp_path: Path) -> None:
    pixels = [bytes([number * 20, 90, 7]) * (48 * 32) for number in range(9)]
    bag = write_mcap(
        tmp_path / "drive.mcap", (raw(number, data, "rgb8", (48, 32)) for number, data in enumerate(pixels))
    )
    spool = fill(tmp_path / "spool", open_source(str(bag)))

    summary = extract(spool, tmp_path / "out", format_name="mcap")

    frames = selected(spool)
    assert summary.left_out == ()
    assert [line["id"] for line in lines_of(tmp_path / "out")] == [frame.id for frame in frames]
    written = messages_of(tmp_path / "out" / "selected.mcap")
    assert {message.schema for message in written} == {IMAGE}
    originals = messages_of(bag)
    assert written == [originals[index] for index in sorted(frame.frame_index for frame in frames)]


@pytest.mark.parametrize("compression", [None, "lz4", "bz2"])
def test_messages_of_a_ros1_bag_keep_their_bytes_and_definition(compression: str | None, tmp_path: Path) -> None:
    bag = write_ros1(tmp_path / "drive.bag", drive(), compression)
    picks = picks_of(tmp_path / "picks.json", open_source(str(bag)), [6, 2])

    extract(picks, tmp_path / "out", format_name="mcap")

    file = tmp_path / "out" / "selected.mcap"
    assert profile_of(file) == "ros1"
    with Ros1Reader(bag) as reader:
        (connection,) = (c for c in reader.connections if c.topic == "/cam")
        originals = [(time, bytes(data)) for _, time, data in reader.messages([connection])]
    written = messages_of(file)
    assert [(message.log_ns, message.data) for message in written] == [originals[2], originals[6]]
    for message in written:
        assert (message.topic, message.schema) == ("/cam", "sensor_msgs/CompressedImage")
        assert (message.schema_encoding, message.encoding) == ("ros1msg", "ros1")
        assert message.definition.decode() == connection.msgdef.data
        assert dict(message.metadata)["md5sum"] == connection.digest
    assert len(list(open_source(str(file)).frames())) == 2


@pytest.mark.parametrize("zipped", [None, "message"])
def test_messages_of_a_db3_bag_come_with_its_definitions_and_unpacked(zipped: str | None, tmp_path: Path) -> None:
    bag = write_ros2(tmp_path / "drive", drive(), zipped=zipped)
    picks = picks_of(tmp_path / "picks.json", open_source(str(bag)), [6, 2])

    extract(picks, tmp_path / "out", format_name="mcap")

    with AnyReader([tmp_path / "out" / "selected.mcap"]) as reader:
        read = [(c.topic, time, bytes(data)) for c, time, data in reader.messages()]
    said = [compressed(number) for number in (2, 6)]
    assert read == [("/cam", one.time_ns, serialised(one)) for one in said]


def test_a_db3_bag_without_definitions_is_refused_with_a_sentence(tmp_path: Path) -> None:
    bag = next(write_ros2(tmp_path / "drive", drive()).glob("*.db3"))
    with sqlite3.connect(bag) as database:
        database.execute("DROP TABLE message_definitions")
    database.close()
    picks = picks_of(tmp_path / "picks.json", open_source(str(bag)), [6, 2])

    with pytest.raises(SourceError, match=r"db3 holds no message definitions.*--format images"):
        extract(picks, tmp_path / "out", format_name="mcap")


def test_bags_of_one_kind_are_merged_in_time_and_those_of_two_stay_apart(tmp_path: Path) -> None:
    a = open_source(str(write_mcap(tmp_path / "a.mcap", (compressed(n, topic="/a") for n in (0, 2, 4)))))
    b = open_source(str(write_mcap(tmp_path / "b.mcap", (compressed(n, topic="/b") for n in (1, 3, 5)))))
    c = open_source(str(write_ros1(tmp_path / "c é.bag", (compressed(n, topic="/c") for n in (0, 1)))))
    chosen = [pick(1, b, 0), pick(2, a, 2), pick(3, a, 0), pick(4, b, 1)]
    picks_file(tmp_path / "two.json", [a, b], chosen)
    picks_file(tmp_path / "three.json", [a, b, c], [*chosen, pick(5, c, 1)])

    extract(tmp_path / "two.json", tmp_path / "merged", format_name="mcap")
    extract(tmp_path / "three.json", tmp_path / "apart", format_name="mcap")

    topics = [message.topic for message in messages_of(tmp_path / "merged" / "selected.mcap")]
    assert topics == ["/a", "/b", "/b", "/a"]
    names = ["selected_1_b_mcap.mcap", "selected_2_a_mcap.mcap", "selected_3_c_bag.mcap"]
    assert sorted(path.name for path in (tmp_path / "apart").iterdir()) == ["frames.jsonl", *names]
    assert [profile_of(tmp_path / "apart" / name) for name in names] == ["ros2", "ros2", "ros1"]
    lines = lines_of(tmp_path / "apart")
    assert [line["order"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["file"] for line in lines] == [names[0], names[1], names[1], names[0], names[2]]


def test_a_bag_that_changed_or_is_gone_is_named_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    bags = {name: tmp_path / f"{name}.mcap" for name in ("same", "changed", "shifted", "gone", "shorter")}
    for path in bags.values():
        write_mcap(path, drive())
    sources = [open_source(str(path)) for path in bags.values()]
    chosen = []
    for order, source in enumerate(sources, start=1):
        digest = sha256(usable(list(source.frames())[5]).encoded or b"").hexdigest()
        chosen.append(pick(order, source, 5, digest=digest))
    picks = picks_file(tmp_path / "picks.json", sources, chosen)
    write_mcap(bags["changed"], (compressed(n, data=jpeg(8 if n == 5 else n)) for n in range(9)))
    write_mcap(bags["shifted"], (compressed(number) for number in range(1, 9)))
    bags["gone"].unlink()
    write_mcap(bags["shorter"], drive(3))

    done = CliRunner().invoke(
        app, ["extract", str(picks), "--to", str(tmp_path / "out"), "--format", "mcap", "--quiet"]
    )

    assert done.exit_code == 9
    assert [line["order"] for line in lines_of(tmp_path / "out")] == [1]
    summary = extract(picks, tmp_path / "again", format_name="mcap")
    assert [left.id.split("#")[0] for left in summary.left_out] == [f"{name}.mcap" for name in list(bags)[1:]]
    why = [left.why for left in summary.left_out]
    assert "has changed since" in why[0]
    assert f"shifted.mcap#/cam@{START_NS + 6 * PERIOD_NS} stands in its place now" in why[1]
    assert "gone.mcap: no such file" in why[2]
    assert "shorter.mcap has no such frame any more" in why[3]


class CutsTheBag(Silent):
    """Takes a recording's end away between its being checked and its being copied."""

    def __init__(self, bag: Path) -> None:
        self.bag = bag

    def begin(self, what: str, total: int | None) -> None:
        if what == "writing messages":
            cut(self.bag, 0.3)


def test_a_bag_that_changes_while_it_is_copied_is_a_sentence_and_nothing_is_written(tmp_path: Path) -> None:
    bag = write_mcap(tmp_path / "drive.mcap", drive())
    picks = picks_of(tmp_path / "picks.json", open_source(str(bag)), [1, 7])

    with pytest.raises(SourceError, match=r"drive\.mcap: changed while it was read"):
        extract(picks, tmp_path / "out", format_name="mcap", watch=CutsTheBag(bag))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive.mcap", "picks.json"]


def test_what_a_cut_recording_still_holds_is_copied_and_the_rest_is_named(tmp_path: Path) -> None:
    bag = recording(tmp_path / "drive.mcap")
    picks = picks_of(tmp_path / "picks.json", open_source(str(bag), topics=["/front"]), [8, 0])
    original = messages_of(bag)
    cut(bag, 0.5)

    summary = extract(picks, tmp_path / "out", format_name="mcap")

    assert [left.id for left in summary.left_out] == [f"drive.mcap#/front@{START_NS + 8 * PERIOD_NS}"]
    (message,) = messages_of(tmp_path / "out" / "selected.mcap")
    assert message in original


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    bag = write_ros2(tmp_path / "drive", drive(), plugin="mcap")
    picks = picks_of(tmp_path / "picks.json", open_source(str(bag)), [4, 2])

    done = CliRunner().invoke(app, ["extract", str(picks), "--to", str(tmp_path / "out"), "--format", "mcap"])

    assert done.exit_code == 0
    assert f"{tmp_path / 'out'}: 2 frames" in done.stdout
    assert ".mcap holds the recorded messages" in done.stdout
    with AnyReader([tmp_path / "out" / "selected.mcap"]) as reader:
        assert reader.message_count == 2


def test_a_spool_whose_bag_is_gone_is_a_sentence_and_nothing_is_written(tmp_path: Path) -> None:
    bag = write_mcap(tmp_path / "drive.mcap", drive())
    spool = fill(tmp_path / "spool", open_source(str(bag)))
    bag.unlink()

    with pytest.raises(SourceError, match=r"none of its 5 frames could be had.*drive\.mcap: no such file"):
        extract(spool, tmp_path / "out", format_name="mcap")

    assert [path.name for path in tmp_path.iterdir()] == ["spool"]


def test_frames_of_images_are_refused_and_another_format_is_named(tmp_path: Path) -> None:
    spool = fill(tmp_path / "spool", open_source(str(write_images(tmp_path / "drive", 6))))

    with pytest.raises(UsageError, match=r"drive is no bag \(images\).*--format images"):
        extract(spool, tmp_path / "out", format_name="mcap")

    assert not (tmp_path / "out").exists()


def test_without_the_writer_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(write_ros1(tmp_path / "drive.bag", drive())))
    picks = picks_of(tmp_path / "picks.json", source, [1])
    monkeypatch.setitem(sys.modules, "mcap.writer", None)

    with pytest.raises(MissingDependency, match=r"pip install 'geal-edge\[bags\]'"):
        extract(picks, tmp_path / "out", format_name="mcap")


@pytest.mark.parametrize("after", range(4))
def test_a_stop_leaves_nothing_behind(after: int, tmp_path: Path) -> None:
    source = open_source(str(write_mcap(tmp_path / "drive.mcap", drive())))
    picks = picks_of(tmp_path / "picks.json", source, [1, 5])
    asked = iter([False] * after)

    with pytest.raises(Interrupted, match="nothing was written"):
        extract(picks, tmp_path / "out", format_name="mcap", stop=partial(next, asked, True))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive.mcap", "picks.json"]


def test_the_same_selection_gives_the_same_bytes(tmp_path: Path) -> None:
    source = open_source(str(recording(tmp_path / "drive.mcap")), topics=["*"])
    picks = picks_of(tmp_path / "picks.json", source, [11, 4])
    for name in ("a", "b"):
        extract(picks, tmp_path / name, format_name="mcap")

    for name in ("selected.mcap", "frames.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_memory_does_not_grow_with_the_messages(tmp_path: Path) -> None:
    """120 pictures of a megabyte: what is held at the peak is a few of them."""
    white = b"\xff" * (640 * 540 * 3)
    bag = write_mcap(
        tmp_path / "drive.mcap", (raw(number, white, "rgb8", (640, 540)) for number in range(120)), chunk_size=1
    )
    source = open_source(str(bag))
    first = pick(1, source, 0)
    ids = [f"drive.mcap#/cam@{START_NS + number * PERIOD_NS}" for number in range(120)]
    chosen = [first | {"order": index + 1, "id": id_, "frame_index": index} for index, id_ in enumerate(ids)]
    picks = picks_file(tmp_path / "picks.json", [source], chosen)

    tracemalloc.start()
    try:
        summary = extract(picks, tmp_path / "out", format_name="mcap")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert summary.frames == 120
    assert summary.bytes > 120_000_000
    # Of that the chunks that are kept unpacked, 32 MiB: twice, where the first pass's are not collected yet.
    assert peak < 90_000_000


def test_the_shared_six_cameras_are_extracted_byte_for_byte(shared: Path, tmp_path: Path) -> None:
    bag = shared / "data" / "bags" / "made_nuscenes_6cam.mcap"
    source = open_source(str(bag), topics=["*"])
    spool = fill(tmp_path / "spool", source, budget=7)

    summary = extract(spool, tmp_path / "out", format_name="mcap")

    frames = selected(spool)
    assert (summary.frames, summary.left_out) == (len(frames), ())
    with bag.open("rb") as file:
        originals = {(c.topic, m.log_time): m.data for _, c, m in make_reader(file).iter_messages()}
    lines = {(line["topic"], line["log_time_ns"]): line for line in lines_of(tmp_path / "out")}
    with AnyReader([tmp_path / "out" / "selected.mcap"]) as reader:
        read = {(c.topic, time): (c.msgtype, bytes(data)) for c, time, data in reader.messages()}
        pictures = {key: reader.deserialize(data, type_) for key, (type_, data) in read.items()}
    assert read.keys() == lines.keys()
    stored = {frame.id: frame.file.read_bytes() for frame in frames}
    for key, (_, data) in read.items():
        picture: Any = pictures[key]
        assert data == originals[key]
        assert picture.data.tobytes() == stored[lines[key]["id"]]


def test_the_shared_ros1_bag_is_extracted_byte_for_byte(shared: Path, tmp_path: Path) -> None:
    bag = tmp_path / "tiny.bag"
    shutil.copyfile(shared / "data" / "bags" / "robologs_tiny.bag", bag)
    spool = fill(tmp_path / "spool", open_source(str(bag), topics=["*"]), budget=3)

    extract(spool, tmp_path / "out", format_name="mcap")

    written = messages_of(tmp_path / "out" / "selected.mcap")
    with Ros1Reader(bag) as reader:
        originals = {(c.topic, time, bytes(data)) for c, time, data in reader.messages()}
    assert len(written) == 3
    assert {(message.topic, message.log_ns, message.data) for message in written} <= originals
    assert all(message.definition for message in written)
