"""Shared memory: a compiled C++ sender, and a Python one that can be made to misbehave at every step."""

import json
import mmap
import os
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geal_edge.errors import FrameError, SourceError, UsageError
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.live import open_live, shm
from geal_edge.runtime.live.camera import Shot
from geal_edge.runtime.live.shm import HEAD, MAGIC, RING, SharedMemoryCamera
from geal_edge.runtime.live.sock import HEADER, PIXELS, TRIP_OVER
from geal_edge.runtime.live.sock import MAGIC as MESSAGE
from tests.test_live import EVERY, picture
from tests.test_live_cameras import next_frame, running, wait_for_event

EXAMPLE = Path(__file__).parents[1] / "examples" / "push_shm.cpp"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where shared memory is in this test."""
    monkeypatch.setattr(shm, "FOLDER", tmp_path)
    return tmp_path


class Sender:
    """Writes as examples/push_shm.cpp does."""

    def __init__(self, path: Path, *, slots: int = 3, slot_bytes: int = 8000) -> None:
        self.slots, self.stride = slots, -(-(HEAD + slot_bytes) // 64) * 64
        path.unlink(missing_ok=True)
        path.write_bytes(bytes(HEAD + slots * self.stride))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        self.memory[: RING.size] = RING.pack(MAGIC, 1, slots, slot_bytes, 0)
        self.sent = 0

    def send(self, message: bytes, *, half: bool = False) -> None:
        self.sent += 1
        at = HEAD + (self.sent - 1) % self.slots * self.stride
        struct.pack_into("<Q", self.memory, at, 2 * self.sent - 1)
        self.memory[at + HEAD : at + HEAD + len(message)] = message
        if not half:
            struct.pack_into("<Q", self.memory, at, 2 * self.sent)
        struct.pack_into("<Q", self.memory, 16, self.sent)


def message(image: np.ndarray, *, time_ns: int = 5, said: bytes = b"", kind: int = PIXELS) -> bytes:
    height, width = image.shape[:2]
    head = HEADER.pack(MESSAGE, kind, time_ns, image.size, width, height, 0, len(said), b"rgb8")
    return head + image.tobytes() + said


class Taking:
    """An intake that does something before it reads a shot, and notes what came of it."""

    def __init__(self, before=lambda: None) -> None:
        self.before = before
        self.told: list[str] = []

    def offer(self, shot: Shot) -> bool:
        self.before()
        try:
            shot.read()
            self.told.append("whole")
        except FrameError as error:
            self.told.append(error.reason)
        return True

    def notice(self, name: str, **detail: object) -> None:
        pass

    def end_trip(self) -> None:
        self.told.append("trip over")


def look(path: Path, intake: Taking, number: int) -> None:
    """One look at a message."""
    handle = os.open(path, os.O_RDONLY)
    try:
        ring = SharedMemoryCamera("/front")._ring(handle)
        shm._offer(handle, ring, number, intake)
    finally:
        os.close(handle)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_the_example_in_cpp_hands_over_frames_metadata_and_the_end_of_the_trip(tmp_path):
    program, name = tmp_path / "push_shm", f"/geal-edge-test-{os.getpid()}"
    subprocess.run(["g++", "-std=c++17", "-O1", "-o", program, EXAMPLE, "-lrt"], check=True)
    source = open_live([f"shm:{name}"], rate_hz=EVERY)
    with running(source) as stream, subprocess.Popen([program, name, "60", "20"]) as sending:
        frames = [next_frame(stream) for _ in range(2)]
        while not source.take_end_of_trip():
            next(stream)
        assert sending.wait() == 0
    number = frames[0].metadata["frame"]
    assert frames[0].metadata == {"frame": number, "speed_kmh": 31.5}
    expected = np.array([(i * 7 + number * (i % 251)) % 256 for i in range(3)], np.uint8)
    assert frames[0].image.shape == (180, 320, 3)
    assert np.array_equal(frames[0].image[0, 0], expected[::-1])  # the sender's are B, G, R
    assert frames[0].topic == name[1:]
    assert not Path("/dev/shm" + name).exists()


def test_frames_come_whole_with_time_and_metadata_and_what_lay_there_before_is_none(folder):
    sending = Sender(folder / "front")
    sending.send(message(picture(9), time_ns=1))
    source = open_live(["shm:/front"], rate_hz=EVERY)
    with running(source) as stream:
        wait_for_event(stream, source, "camera_started")
        sending.send(message(picture(1), time_ns=7, said=b'{"gear": "D"}'))
        first = next_frame(stream)
        sending.send(HEADER.pack(MESSAGE, TRIP_OVER, 0, 0, 0, 0, 0, 0, b""))
        while not source.take_end_of_trip():
            next(stream)
    assert np.array_equal(first.image, picture(1))
    assert (first.id, first.capture_time_ns, first.metadata) == ("live#front@7", 7, {"gear": "D"})


def test_a_slot_that_is_written_while_it_is_read_is_torn_and_counted(folder):
    sending = Sender(folder / "front", slots=2)
    sending.send(message(picture(1)))

    def overtake() -> None:
        for number in (2, 3):
            sending.send(message(picture(number)))

    intake = Taking(overtake)
    look(folder / "front", intake, 1)
    intake.before = lambda: None
    look(folder / "front", intake, 1)  # it is gone before its header is read
    look(folder / "front", intake, 3)
    sending.send(message(picture(4)), half=True)
    look(folder / "front", intake, 4)
    assert intake.told == ["torn", "torn", "whole", "torn"]


def test_a_sender_that_never_pauses_tears_frames_but_never_mixes_two(folder):
    size, stop = (40, 60, 3), threading.Event()
    sending = Sender(folder / "front", slots=2)

    def push() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            image = np.full(size, number % 256, np.uint8)
            sending.send(message(image, time_ns=number, said=json.dumps({"n": number}).encode()))

    source = open_live(["shm:/front"], rate_hz=EVERY)
    thread = threading.Thread(target=push)
    thread.start()
    whole = 0
    try:
        with running(source) as stream:
            while whole < 20:
                item = next(stream)
                if isinstance(item, Frame):
                    whole += 1
                    number = item.capture_time_ns or 0
                    assert item.metadata == {"n": number}
                    assert (item.image == number % 256).all()
                elif isinstance(item, LostFrame):
                    assert item.reason in ("torn", "queue_full")
    finally:
        stop.set()
        thread.join()


def test_a_ring_that_is_not_there_yet_or_is_made_anew_is_found_again(folder):
    source = open_live(["shm:/front"], rate_hz=EVERY)
    with running(source) as stream:
        assert "no such shared memory" in str(wait_for_event(stream, source, "camera_lost")["reason"])
        for number in range(2):
            sending = Sender(folder / "front")
            found = None
            while not isinstance(found, Frame) or not np.array_equal(found.image, picture(number)):
                sending.send(message(picture(number)))
                found = next(stream)


def test_what_is_no_ring_is_told_and_a_ring_that_shrinks_kills_nobody(folder):
    path = folder / "front"
    for garbage in (b"", b"GESM", bytes(100), RING.pack(MAGIC, 2, 2, 100, 0), RING.pack(MAGIC, 1, 2, 10, 0)):
        path.write_bytes(garbage)
        with pytest.raises(SourceError, match="no ring of frames"):
            SharedMemoryCamera("/front").watch(Taking(), threading.Event())
    sending = Sender(path)
    sending.send(message(picture(1)))
    intake = Taking(lambda: os.truncate(path, HEAD + HEAD + HEADER.size + 10))
    look(path, intake, 1)
    assert intake.told == ["truncated"]


@pytest.mark.parametrize("name", ["front", "/", "/a/b", "/..", "/a\0b", ""])
def test_a_name_that_posix_does_not_know_is_refused(name):
    with pytest.raises(UsageError, match="shm:/front"):
        open_live([f"shm:{name}"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slots=st.integers(0, 5),
    slot_bytes=st.integers(0, 2**32 - 1),
    newest=st.integers(0, 2**64 - 1),
    rest=st.binary(max_size=400),
    size=st.integers(0, 2**64 - 1),
)
def test_no_bytes_do_more_than_be_lost(folder, slots, slot_bytes, newest, rest, size):
    path = folder / "front"
    slot = struct.pack("<Q", 2 * newest % 2**64) + bytes(HEAD - 8)
    slot += HEADER.pack(MESSAGE, PIXELS, 0, size, 9, 9, 0, 7, b"rgb8") + rest
    path.write_bytes(RING.pack(MAGIC, 1, slots, slot_bytes, newest).ljust(HEAD, b"\0") + slot)
    intake = Taking()
    try:
        look(path, intake, max(1, newest))
    except SourceError:
        return
    assert set(intake.told) <= {"torn", "truncated", "undecodable", "whole"}
