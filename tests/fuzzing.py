"""Fuzzing of all that comes from outside: valid inputs, changed in every way that hypothesis draws, handed to whoever reads them.

    python -m tests.fuzzing [--minutes 10] [TARGET...]          `make fuzz`; a short form is tests/test_fuzz.py

A target takes an input and either reads it or raises one of our errors. Everything else that it raises is a find, and so is
anything that it leaves beside its own folder. Prints how many inputs were tried.
"""

import argparse
import copy
import io
import json
import os
import random
import re
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, get_args

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType
from typer.testing import CliRunner

from geal_edge.cli.app import app
from geal_edge.cli.inspect import inspect
from geal_edge.config import Position, UploadConfig
from geal_edge.errors import GealEdgeError
from geal_edge.export.exporter import ExportOptions, export_bundle
from geal_edge.models.bundle import MANIFEST_FILE
from geal_edge.models.vit import Geometry
from geal_edge.models.weights import load_weights
from geal_edge.runtime.budget import parse_cap
from geal_edge.runtime.compare.labels.reading import read_labels
from geal_edge.runtime.conditions import Condition
from geal_edge.runtime.exporter import answer
from geal_edge.runtime.extract import FormatName, extract
from geal_edge.runtime.frame import usable
from geal_edge.runtime.labelled import label_export
from geal_edge.runtime.live.camera import Shot
from geal_edge.runtime.live.opened import named
from geal_edge.runtime.live.ros2 import shot_of
from geal_edge.runtime.live.shm import HEAD as SHM_HEAD
from geal_edge.runtime.live.shm import RING, SEQUENCE, VERSION, SharedMemoryCamera
from geal_edge.runtime.live.sock import FILE, HEADER, MAGIC, PIXELS, TRIP_OVER, _receive
from geal_edge.runtime.memory import Entry, Memory, remember
from geal_edge.runtime.memoryfile import memory_bytes, read_memory
from geal_edge.runtime.metadata import read_metadata
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.privacy.picture import cleaned
from geal_edge.runtime.secrets import masked
from geal_edge.runtime.selection import read_selection
from geal_edge.runtime.settings.reading import read_configuration
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.sources.bagfile import Channel
from geal_edge.runtime.sources.bagfolder import METADATA
from geal_edge.runtime.sources.container import promised_frames
from geal_edge.runtime.sources.images import decode_image
from geal_edge.runtime.sources.mcapfile import MAGIC as MCAP_MAGIC
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spooldb import DATABASE
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.telemetry import SCHEMA as PULSE
from geal_edge.runtime.telemetry import _start_ticks, pulse_name, read_pulse
from geal_edge.runtime.upload.service import upload
from geal_edge.runtime.why import why
from tests.fakes import Clock, MemorySource
from tests.farside import fill_spool
from tests.films import write_mov, write_video
from tests.hooks import noise, talkative
from tests.recordings import compressed, drive, jpeg, raw, serialised, write_mcap, write_ros1, write_ros2
from tests.streams import random_stream
from tests.test_labels import COCO, VOC, frames
from tests.test_spool import fill
from tests.test_spool import settings as spool_settings
from tests.tiny import tiny_weights
from tests.torch_files import legacy_file, zip_file
from tests.web import safetensors_bytes

PLACES = ("", "x", "../../outside", "/tmp/outside", "a\0b", "\ud800", "rtsp://u:p@h/", "%s" * 9)
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    2**70,
    -(10**400),
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [1, 2],
    {"a": 1},
    *PLACES,
)


REQUESTS = [b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", b"POST /metrics?a=b HTTP/1.0\r\n\r\n"]
CONDITIONS = [
    b'speed_kmh > 5 and gear != "R"',
    b"not (within(48.137, 11.575, 5km) or speed_kmh <= -1e3)",
    b'any(detections.class == "pedestrian")',
]
EXAMPLES = [path.read_bytes() for path in (Path(__file__).parents[1] / "deploy").glob("*.toml")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """inputs: what is tried; read: hands one to the product, in a folder of its own, which begins as a copy of `among`."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any, Path], object]
    among: Path | None = None


def nowhere(_: bytes) -> list[int]:
    return []


def changed(originals: list[bytes], fields: Callable[[bytes], list[int]] = nowhere) -> st.SearchStrategy[bytes]:
    """One of these, cut, overwritten, grown and joined with another.

    fields  where in an original its lengths, kinds and offsets stand: every second change is made at one of them
    """

    def change(original: bytes, edits: list[tuple[int, float, bool, bytes]], other: bytes) -> bytes:
        data = bytearray(original)
        places = fields(original)
        for kind, at_share, at_field, new in edits:
            at = places[int(at_share * (len(places) - 1))] if at_field and places else int(at_share * len(data))
            if kind == 0:
                data[at : at + len(new)] = new
            elif kind == 1:
                data[at:at] = new
            elif kind == 2:
                del data[at : at + len(new) ** 2]
            elif kind == 3:
                del data[at:]
            elif kind == 4 and at < len(data):
                data[at] ^= 1 << new[0] % 8 if new else 1
            else:
                data[at:at] = other[at : at + 64]
        return bytes(data)

    numbers = st.sampled_from(
        [
            b"\0" * 4,
            b"\0" * 8,
            b"\xff" * 4,
            b"\xff" * 8,
            b"\x7f" + b"\xff" * 7,
            b"\xff" * 7 + b"\x7f",
            b"\xff" * 3 + b"\x7f",
            b"\0" * 64,
            b"\n",
            b"[" * 9000,
        ]
    )
    edit = st.tuples(st.integers(0, 5), st.floats(0, 1), st.booleans(), st.one_of(st.binary(max_size=12), numbers))
    one = st.sampled_from(originals)
    return st.builds(change, one, st.lists(edit, min_size=1, max_size=4), one)


def fields_of_bag(data: bytes) -> list[int]:
    """The names of all fields, the lengths before them and the values behind."""
    found = re.finditer(rb"[a-z_0-9]{2,}=", data)
    return sorted({at for name in found for at in (max(0, name.start() - 4), name.start(), name.end())})


def fields_of_mcap(data: bytes) -> list[int]:
    """Of every record outside of compressed chunks its kind, its length and what its content begins with."""
    places: list[int] = []
    at = len(MCAP_MAGIC)
    while at + 9 <= len(data) - len(MCAP_MAGIC):
        length = int.from_bytes(data[at + 1 : at + 9], "little")
        places += [at, at + 1, *range(at + 9, min(at + 9 + length, at + 49), 2)]
        at += 9 + length
    return places


def fields_of_film(data: bytes) -> list[int]:
    """The names of the boxes and chunks that are read, the lengths beside them and what they begin with."""
    names = (
        b"ftyp moov mvhd trak mdia hdlr mdhd minf stbl stsz stts ctts edts elst RIFF LIST hdrl strh idx1 movi".split()
    )
    found = [name.start() for name in re.finditer(b"|".join(names), data)]
    return sorted({max(0, at + by) for at in found for by in (-4, 0, 4, 8, 12, 16, 20)})


def changed_json(original: Any) -> st.SearchStrategy[bytes]:
    """The same object with fields taken away, added or of other values; or its text changed."""

    def change(dice: random.Random, count: int) -> bytes:
        whole = copy.deepcopy(original)
        for _ in range(count):
            node, parent, key = whole, None, None
            while isinstance(node, dict | list) and node and (parent is None or dice.random() < 0.7):
                parent, key = node, dice.choice(list(node) if isinstance(node, dict) else range(len(node)))
                node = parent[key]
            value = dice.choice(VALUES)
            if parent is None or key is None:
                whole = value
            elif isinstance(parent, dict) and dice.random() < 0.2:
                del parent[key]
            else:
                parent[key] = copy.deepcopy(value)
        return json.dumps(whole).encode()

    text = json.dumps(original, indent=1).encode()
    return st.one_of(st.builds(change, st.randoms(use_true_random=False), st.integers(1, 3)), changed([text]))


# -- who reads --------------------------------------------------------------------------------------------------------------


def read_manifest(data: bytes, place: Path) -> None:
    (place / MANIFEST_FILE).write_bytes(data)
    inspect(place)


def read_picks_file(data: bytes, place: Path) -> None:
    path = place / "picks.json"
    path.write_bytes(data)
    try:
        inspect(path)
    finally:
        read_selection(path)


def extract_picks(data: tuple[bytes, FormatName], place: Path) -> None:
    path = place / "picks.json"
    path.write_bytes(data[0])
    extract(path, place / "out", format_name=data[1])


def read_memory_file(data: bytes, place: Path) -> None:
    path = place / "known.memory"
    path.write_bytes(data)
    read_memory(path)


def read_frames_of(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, place: Path) -> None:
        path = place / name
        path.write_bytes(data)
        source = open_source(str(path))
        for item in islice(source.frames(), 30):
            usable(item)

    return read


def tell_of_the_far_side(file: Path) -> Callable[[bytes, Path], None]:
    """Whoever may write to the far side may write anything in the place of a file of ours."""

    def read(data: bytes, place: Path) -> None:
        (place / file).write_bytes(data)
        for words in (["status", "--json"], ["status"], ["list", "--json"], ["list"]):
            words += [str(place), "--prefix", "eu"]
            result = CliRunner().invoke(app, words, env={"GEAL_EDGE_STATE": str(place / "state")})
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception

    return read


def read_weights(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, place: Path) -> None:
        (place / name).write_bytes(data)
        load_weights(str(place / name))

    return read


def read_export(name: str) -> Callable[[bytes, Path], None]:
    """The labels of somebody: what images they name, and what is in them."""

    def read(data: bytes, place: Path) -> None:
        (place / name).write_bytes(data)
        try:
            label_export(place / name)
        finally:
            read_labels(place / name if name.endswith(".json") else place, frames("drive/a.jpg", "drive/b.jpg"))

    return read


def count_promised(name: str) -> Callable[[bytes, Path], None]:
    """Only our own reading of a film: a decoder is FFmpeg's."""

    def read(data: bytes, place: Path) -> None:
        (place / name).write_bytes(data)
        promised_frames(place / name)

    return read


def read_bag_folder(data: bytes, place: Path) -> None:
    (place / METADATA).write_bytes(data)
    for item in open_source(str(place)).frames():
        usable(item)


def read_spool(data: tuple[str, str, Any], place: Path) -> None:
    """A field of a spool's database holds something else."""
    table, column, value = data
    with closing(sqlite3.connect(place / DATABASE)) as db, db:
        if table == "meta":
            db.execute("UPDATE OR IGNORE meta SET value = ? WHERE key = ?", (value, column))
        else:
            db.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
    look_at_spool(place)


def read_spool_bytes(data: bytes, place: Path) -> None:
    (place / DATABASE).write_bytes(data)
    look_at_spool(place)


def look_at_spool(place: Path) -> None:
    try:
        with open_view(place) as view:
            json.dumps([view.status(), list(view.list_lines(retained=True)), list(view.events())])
            why(view, "memory#1")
            view.check()
    finally:
        with Spool(place, spool_settings(), monotonic=Clock()) as spool:
            spool.begin_source(MemorySource())
            spool.ladder()


class Taker:
    """An intake that looks at everything."""

    def offer(self, shot: Shot) -> bool:
        try:
            shot.read()
        finally:
            json.dumps(shot.metadata())
        return True

    def notice(self, name: str, **detail: Any) -> None:
        json.dumps(detail)

    def end_trip(self) -> None: ...


def receive(data: bytes, place: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.sendall(data[:100_000])
        theirs.close()
        _receive(ours, Taker(), Event())


class OneLook(Event):
    """Before the first look something else stands in the memory; then it is over."""

    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self.change = change

    def wait(self, timeout: float | None = None) -> bool:
        over = self.is_set()
        self.set()
        self.change()
        return over


def look_into_memory(data: bytes, place: Path) -> None:
    path = place / "ring"
    path.write_bytes(ring(0))
    camera = SharedMemoryCamera("/ring")
    camera._path = path
    camera.watch(Taker(), OneLook(lambda: path.write_bytes(data)))


def ring(newest: int) -> bytes:
    """Shared memory with two messages in four slots."""
    head = RING.pack(b"GESM", VERSION, 4, 448, newest)
    memory = bytearray(head.ljust(SHM_HEAD, b"\0") + 4 * bytes(SHM_HEAD + 448))
    for number in (1, 2):
        at = SHM_HEAD + (number - 1) * (SHM_HEAD + 448)
        message = HEADER.pack(MAGIC, PIXELS, 5, 24, 4, 2, 0, 9, b"rgb8") + bytes(24) + b'{"a": 31}'
        memory[at : at + 8] = SEQUENCE.pack(2 * number)
        memory[at + SHM_HEAD : at + SHM_HEAD + len(message)] = message
    return bytes(memory)


def read_toml(data: bytes, place: Path) -> None:
    path = place / "geal-edge.toml"
    path.write_bytes(data)
    read_configuration(path, {})


def ask_for_metrics(data: bytes, place: Path) -> None:
    """Whatever is asked is answered."""
    if not answer(data.partition(b"\r\n")[0], lambda: "page").startswith(b"HTTP/1.1 "):
        raise AssertionError(data)


def find_pulse(data: bytes, place: Path) -> None:
    (place / pulse_name(place / "spool")).write_bytes(data)
    read_pulse(place / "spool", {"RUNTIME_DIRECTORY": str(place)})


def read_message(data: tuple[str, bytes], place: Path) -> None:
    type_, message = data
    shot_of(Channel(topic="/cam", type=type_, encoding="cdr"), message).read()


def read_words(text: str, place: Path) -> None:
    named(text)
    parse_cap(text)


def read_condition(data: bytes, place: Path) -> None:
    condition = Condition(data.decode("utf-8", "replace"))
    for value in VALUES:
        condition.ask(
            {"speed_kmh": value, "detections": [{"class": value}, value], "lat": value, "lon": 11.5, "gear": value}
        )


def masks(data: tuple[str, str], place: Path) -> None:
    """What is printed is the same whatever the secret is: it tells nothing of it."""
    form, secret = data
    assert masked(form.format(secret)) == masked(form.format("another"))


# -- what is tried ----------------------------------------------------------------------------------------------------------


def targets(folder: Path) -> dict[str, Target]:
    """All of them; `folder` holds the valid inputs."""
    bundle, _ = export_bundle(tiny_weights(), folder / "bundle", ExportOptions(width=64, height=48), watch=Silent())
    manifest = json.loads((bundle.path / MANIFEST_FILE).read_bytes())
    pictures = [jpeg(1), jpeg(2, "PNG"), jpeg(3, "BMP"), jpeg(4, "WEBP"), jpeg(5, "GIF"), jpeg(6, "TIFF")]
    started = _start_ticks(os.getpid())
    pulse = {"schema": PULSE, "pid": os.getpid(), "start_ticks": started, "powered_s": 1.0, "frames": {"seen": 1}}
    pixels = bytes(4 * 2 * 3)
    messages = [
        HEADER.pack(MAGIC, kind, 5, len(data), 4, 2, 0, 2, encoding) + data + b"{}"
        for kind, data, encoding in (
            (FILE, pictures[0], b""),
            (PIXELS, pixels, b"rgb8"),
            (PIXELS, pixels, b"nv12"),
        )
    ] + [HEADER.pack(MAGIC, TRIP_OVER, 0, 0, 0, 0, 0, 0, b"")]
    words = [
        "select",
        "drawn:1:4",
        "--bundle",
        str(bundle.path),
        "--budget",
        "3",
        "-o",
        str(folder / "picks.json"),
        "--quiet",
    ]
    assert CliRunner().invoke(app, words).exit_code == 0
    picks = json.loads((folder / "picks.json").read_bytes())
    said_of_a_frame = {"speed_kmh": 31.5, "at": {"lat": 52.0, "lon": 13.0}, "tags": ["rain"], "gear": None}
    said = (compressed(1), raw(1, pixels, "rgb8", (4, 2)))
    fill(folder / "spool", random_stream(1, 12))
    database = (folder / "spool" / DATABASE).read_bytes()
    columns = [
        *(("meta", key) for key in ("grid", "untrained", "feature_space", "schema", "bundle", "preset", "producer")),
        *(
            ("rounds", column)
            for column in ("budget", "max_retained", "release", "price", "length_s", "elapsed_s", "open")
        ),
        *(
            ("units", column)
            for column in ("levels", "state", "squared_novelty", "radius", "witness", "nearest", "round")
        ),
        *(
            ("frames", column)
            for column in ("file", "clusters", "cluster_count", "patch_cluster", "id", "bytes", "sha256")
        ),
        *(("deaths", column) for column in ("level", "natural", "unit")),
        *(("sources", column) for column in ("cursor", "finished", "fps", "spec", "fingerprint")),
        *(("events", column) for column in ("detail", "name")),
        *(("counters", "n"), ("timeline", "novelty"), ("timeline", "frames"), ("verdicts", "detail")),
    ]
    with closing(sqlite3.connect(folder / "spool" / DATABASE)) as db:
        there = {(t, c[1]) for t in {t for t, _ in columns} for c in db.execute(f"PRAGMA table_info({t})")}
    columns = [(table, column) for table, column in columns if table == "meta" or (table, column) in there]
    entries = [
        Entry(id=f"f#{n}", kind="known", rows=c.rows, origin="x", sha256="0") for n, c in enumerate(random_stream(5, 4))
    ]
    memory = memory_bytes(remember(Memory(feature_space="fs-0"), entries))
    stored = st.one_of(
        st.none(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.binary(max_size=40),
        st.sampled_from(["{}", "[1", "null", *PLACES[:5]]),
    )
    secrets = st.text(st.characters(categories=["L", "N"]), min_size=6, max_size=20)
    forms = [
        "rtsp://u:{}@h/1",
        "rtsp://h/1?password={}&channel=1",
        "rtsp://h/user=a_pwd={}_channel=1",
        "gst:a user-pw={} ! b",
    ]
    return {
        "manifest": Target(inputs=changed_json(manifest), read=read_manifest, among=bundle.path),
        "picks": Target(inputs=changed_json(picks), read=read_picks_file),
        "extract": Target(
            inputs=st.tuples(
                changed_json(picks), st.sampled_from(["images", "coco", "yolo", "cvat", "label-studio", "fiftyone"])
            ),
            read=extract_picks,
        ),
        "memory": Target(inputs=st.one_of(changed([memory]), resealed(memory)), read=read_memory_file),
        "spool fields": Target(
            inputs=st.builds(lambda place, value: (*place, value), st.sampled_from(columns), stored),
            read=read_spool,
            among=folder / "spool",
        ),
        "spool bytes": Target(inputs=changed([database]), read=read_spool_bytes, among=folder / "spool"),
        "socket": Target(inputs=changed([*messages, b"".join(messages)]), read=receive),
        "shared memory": Target(inputs=changed([ring(2), ring(1), ring(2**64 - 1)]), read=look_into_memory),
        "metadata": Target(inputs=changed_json(said_of_a_frame), read=lambda data, _: json.dumps(read_metadata(data))),
        "configuration": Target(inputs=changed(EXAMPLES), read=read_toml),
        "ROS messages": Target(
            inputs=st.tuples(
                st.sampled_from(["sensor_msgs/Image", "sensor_msgs/CompressedImage"]),
                changed([serialised(s) for s in said]),
            ),
            read=read_message,
        ),
        "images": Target(inputs=changed(pictures), read=lambda data, _: decode_image(data)),
        "private pictures": Target(
            inputs=st.tuples(
                changed([talkative(noise(1), form) for form in ("JPEG", "PNG", "WEBP")]),
                st.sampled_from(get_args(Position)),
            ),
            read=lambda given, _: cleaned(*given),
        ),
        "image files": Target(inputs=changed(pictures), read=read_frames_of("a.jpg")),
        **recordings(folder),
        **far_side(folder),
        **checkpoints(),
        **labels(),
        "requests for metrics": Target(inputs=changed(REQUESTS), read=ask_for_metrics),
        "pulses": Target(inputs=changed_json(pulse), read=find_pulse),
        "conditions": Target(inputs=changed(CONDITIONS), read=read_condition),
        "budgets and addresses": Target(inputs=st.text(max_size=40), read=read_words),
        "secrets": Target(inputs=st.tuples(st.sampled_from(forms), secrets), read=masks),
    }


def recordings(folder: Path) -> dict[str, Target]:
    bags = {
        "mcap": write_mcap(folder / "a.mcap", drive(3)),
        "lz4.mcap": write_mcap(folder / "lz4.mcap", drive(3), compression=CompressionType.LZ4),
        "chunks.mcap": write_mcap(folder / "chunks.mcap", drive(3), compression=CompressionType.NONE),
        "plain.mcap": write_mcap(folder / "plain.mcap", drive(2), chunked=False, indexed=False),
        "bag": write_ros1(folder / "a.bag", drive(3)),
        "lz4.bag": write_ros1(folder / "lz4.bag", drive(3), compression="lz4"),
        "bz2.bag": write_ros1(folder / "bz2.bag", drive(3), compression="bz2"),
        "db3": next(write_ros2(folder / "c", drive(3)).glob("*.db3")),
    }
    films = {
        "mov": write_mov(folder / "a.mov", 9, edit=(80, 120)),
        "avi": write_video(folder / "a.avi", 5, fourcc="MJPG"),
    }
    ros2 = write_ros2(folder / "ros2", drive(3))
    fields = {".mcap": fields_of_mcap, ".bag": fields_of_bag}
    found = {
        f"bag, {name}": Target(
            inputs=changed([path.read_bytes()], fields.get(path.suffix, nowhere)), read=read_frames_of(path.name)
        )
        for name, path in bags.items()
    }
    found["bag, folder"] = Target(inputs=changed([(ros2 / METADATA).read_bytes()]), read=read_bag_folder, among=ros2)
    for name, path in films.items():
        strategy = changed([path.read_bytes()], fields_of_film)
        found[f"film, {name}"] = Target(inputs=strategy, read=count_promised(path.name))
    return found


def far_side(folder: Path) -> dict[str, Target]:
    """What two uploaded frames left there."""
    far = folder / "far"
    far.mkdir()
    fill_spool(folder / "sent", 2, size=50)
    upload(folder / "sent", UploadConfig(to=str(far), prefix="eu", vehicle="car"), once=True, watch=Silent())
    beat = next(far.glob("eu/car/status/*.json"))
    files = {"sidecar": min(far.glob("eu/car/memory/*.json")), "heartbeat": beat}
    return {
        name: Target(
            inputs=changed_json(json.loads(file.read_bytes())),
            read=tell_of_the_far_side(file.relative_to(far)),
            among=far,
        )
        for name, file in files.items()
    }


def checkpoints() -> dict[str, Target]:
    tensors = tiny_weights(Geometry(patch_size=4, embed_dim=64, depth=1, mlp_dim=64, trained_grid=(2, 2))).tensors
    files = {
        "a.pth": [zip_file(tensors), zip_file({"teacher": tensors})],
        "legacy.pth": [legacy_file(tensors)],
        "a.safetensors": [safetensors_bytes(tensors)],
    }
    return {
        f"checkpoint, {name}": Target(inputs=changed(originals), read=read_weights(name))
        for name, originals in files.items()
    }


def labels() -> dict[str, Target]:
    """Of people and of other programs: what was labelled where."""
    tasks = [{"id": 1, "data": {"image": "/data/local-files/?d=drive/a.jpg"}, "annotations": [{"result": []}]}]
    cvat = (
        b'<annotations><image id="0" name="drive/a.jpg" width="60" height="40"><box label="car"/></image></annotations>'
    )
    inputs = {
        "coco.json": changed_json(COCO),
        "tasks.json": changed_json(tasks),
        "a.xml": changed([VOC.encode(), cvat]),
        "a.txt": changed([b"0 0.5 0.5 0.1 0.2\n1 0.1 0.1 0.2 0.1 0.2 0.2\n"]),
    }
    return {f"labels, {name}": Target(inputs=strategy, read=read_export(name)) for name, strategy in inputs.items()}


def resealed(memory: bytes) -> st.SearchStrategy[bytes]:
    """A memory whose checksum fits, so that what stands behind it is read."""
    from hashlib import sha256

    begin = memory.index(b"\n") + 1
    end = memory.index(b"\n", begin)
    head, arrays = json.loads(memory[begin:end]), memory[end + 1 : -32]

    def seal(text: bytes) -> bytes:
        body = memory[:begin] + text.replace(b"\n", b" ") + b"\n" + arrays
        return body + sha256(body).digest()

    return changed_json(head).map(seal)


# -- trying them ------------------------------------------------------------------------------------------------------------


class Tries:
    """Counts inputs; fails where one ends in anything but an error of ours, or leaves something beside its folder."""

    def __init__(self, folder: Path) -> None:
        valid, self.work = folder / "valid", folder / "work"
        valid.mkdir()
        self.work.mkdir()
        self.targets = targets(valid)
        self.tried = 0

    def one(self, name: str, data: Any) -> None:
        place = self.work / "own"
        shutil.rmtree(place, ignore_errors=True)
        target = self.targets[name]
        if target.among is None:
            place.mkdir()
        else:
            shutil.copytree(target.among, place)
        self.tried += 1
        try:
            with redirect_stdout(io.StringIO()):
                target.read(data, place)
        except GealEdgeError:
            pass

    def some(self, name: str, count: int, number: int) -> None:
        """So many inputs of one target."""

        @seed(number)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(self.targets[name].inputs)
        def try_one(data: Any) -> None:
            self.one(name, data)

        surroundings = listing(self.work)
        here = in_the_current_folder()
        try_one()
        assert listing(self.work) == surroundings, f"{name} left something beside its folder"
        assert in_the_current_folder() == here, f"{name} left something in the current folder"


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.iterdir() if path.name != "own")


def in_the_current_folder() -> list[str]:
    """Without what Hypothesis itself keeps there."""
    return sorted(name for name in os.listdir() if name != ".hypothesis")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="TARGET", nargs="*")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tries = Tries(Path(folder))
        names = options.names or list(tries.targets)
        finds: list[str] = []
        each_s = 60.0 * options.minutes / len(names)
        for name in names:
            before, number, ends_at = tries.tried, options.seed, time.monotonic() + each_s
            found = None
            while time.monotonic() < ends_at and found is None:
                try:
                    tries.some(name, 200, number)
                except Exception as error:  # noqa: BLE001  it is what we look for: the other targets have their turn
                    found = error
                number += 1
            print(f"{name:<24} {tries.tried - before:>8} inputs", flush=True)
            if found is not None:
                finds.append(name)
                traceback.print_exception(found)
        print(f"{'in all':<24} {tries.tried:>8} inputs; finds: {', '.join(finds) or 'none'}, nothing written elsewhere")
    sys.exit(bool(finds))


if __name__ == "__main__":
    main()
