"""Live sources with real writers, real folders and real threads; no test waits for a time, only for a condition."""

import gc
import os
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from geal_edge.cli.status import result_lines
from geal_edge.config import ContextConfig
from geal_edge.errors import FrameError, Interrupted, SourceError, SpoolMismatch, UsageError
from geal_edge.runtime import pipeline
from geal_edge.runtime.budget import live_plan, parse_cap
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.live import LiveSource, PushedCamera, open_live
from geal_edge.runtime.live.camera import Shot
from geal_edge.runtime.live.intake import Arrivals, CameraIntake
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.report import write_report
from geal_edge.runtime.report.data import ShownSource, read_spool_report
from geal_edge.runtime.selection import read_again
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.units import units
from geal_edge.runtime.why import sentence, why
from tests.fakes import Clock
from tests.writers import FOLDER_WRITER, process

EVERY = 1e9
"""A rate that takes every shot."""
DAY = live_plan([parse_cap("50/day")])


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)


def shot(time_s: float, seed: int = 0) -> Shot:
    return Shot(capture_time_ns=round(time_s * 1e9), read=lambda: picture(seed))


def intake(clock: Clock, *, tolerance_ns: int | None = None, cameras=("front",), rate_hz: float = 10.0):
    arrivals = Arrivals(tolerance_ns)
    return arrivals, [CameraIntake(name, arrivals, rate_hz, clock) for name in cameras]


def names(arrivals: Arrivals) -> list[str]:
    return [notice.name for notice in arrivals.take_notices()]


def first(source: LiveSource, count: int) -> list[Frame | LostFrame]:
    """The first so many frames of a live source, which is then told to stop."""
    found: list[Frame | LostFrame] = []
    stream = source.frames()
    for item in stream:
        if item is not None:
            found.append(item)
        if len(found) == count:
            break
    stream.close()  # type: ignore[attr-defined]
    return found


def hand_in(camera: PushedCamera, stream: Iterator[Frame | LostFrame | None]) -> Frame | LostFrame:
    """Start a live source with the first picture of a camera."""

    def offer() -> None:
        while not camera.offer(picture(), capture_time_ns=0):
            pass

    thread = threading.Thread(target=offer)
    thread.start()
    found = next(item for item in stream if item is not None)
    thread.join()
    return found


def test_only_complete_files_of_a_watched_folder_are_frames_and_what_lay_there_before_is_none(tmp_path):
    (tmp_path / "old.jpg").write_bytes(encode(picture(), "jpg"))
    (tmp_path / "notes.txt").write_text("no image")
    threads = threading.active_count()
    source = open_live([f"watch:{tmp_path}"], rate_hz=EVERY)
    with process(FOLDER_WRITER, tmp_path, 300, 20):
        frames = first(source, 5)
    assert all(isinstance(frame, Frame) for frame in frames)  # half a file would be a lost frame
    assert [frame.frame_index for frame in frames] == [0, 1, 2, 3, 4]
    times = [frame.capture_time_ns or 0 for frame in frames]
    written = {path.stat().st_mtime_ns for path in tmp_path.glob("0*.jpg")}
    assert times == sorted(set(times))
    assert set(times) <= written
    assert frames[0].id == f"live#{tmp_path.name}@{times[0]}"
    assert threading.active_count() == threads


def test_a_file_that_is_renamed_into_the_folder_is_a_frame(tmp_path):
    source = open_live([f"watch:{tmp_path}"], rate_hz=EVERY)
    stream = source.frames()
    assert next(stream) is None  # the folder is watched by now, or soon: the writer goes on until it is seen
    seen: list[Frame | LostFrame] = []
    number = 0
    while not seen:
        number += 1
        half = tmp_path / "half.tmp"
        half.write_bytes(encode(picture(number), "png"))
        os.replace(half, tmp_path / f"{number}.png")
        seen += [item for item in [next(stream)] if item is not None]
    stream.close()  # type: ignore[attr-defined]
    assert isinstance(seen[0], Frame)
    assert any(np.array_equal(seen[0].image, picture(written)) for written in range(1, number + 1))


def test_a_folder_that_goes_away_is_an_event_and_it_is_watched_again_once_it_is_back(tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    source = open_live([f"watch:{folder}"], rate_hz=EVERY)
    events: list[str] = []
    stream = source.frames()
    while "camera_started" not in events:
        next(stream)
        events += [notice.name for notice in source.take_notices()]
    folder.rmdir()
    while "camera_lost" not in events:
        next(stream)
        events += [notice.name for notice in source.take_notices()]
    folder.mkdir()
    item = None
    while item is None:
        (folder / "a.png").write_bytes(encode(picture(), "png"))
        item = next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert item.topic == "incoming"


def test_an_absent_folder_is_said_before_anything_runs(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        open_live([f"watch:{tmp_path / 'absent'}"])


def test_frames_pushed_from_python_are_judged_and_counted_once(encoder, tmp_path):
    camera, stop, taken = PushedCamera("front"), Stop(), threading.Semaphore(1)

    class FourFrames(Silent):
        def advance(self, **counts: int) -> None:
            taken.release()
            if counts["retained"] == 4:
                stop.ask()

    def push() -> None:
        number = 0
        while not stop.asked and taken.acquire(timeout=10.0):
            while not camera.offer(picture(number), capture_time_ns=number * 10**9) and not stop.asked:
                pass  # the camera is not run yet, or the rate passes it over
            number += 1

    threads = threading.active_count()
    thread = threading.Thread(target=push)
    thread.start()
    source = LiveSource([camera], rate_hz=EVERY)
    with pytest.raises(Interrupted):
        pipeline.run([source], encoder=encoder, spool_path=tmp_path / "s", budget=DAY, watch=FourFrames(), stop=stop)
    taken.release()
    thread.join()
    assert threading.active_count() == threads
    with open_view(tmp_path / "s") as view:
        frames, _ = view.counts()
        ids = [line["id"] for line in view.list_lines(retained=True)]
        assert view.check() == []
    assert frames["retained"] == 4
    assert frames["seen"] == 4 + frames["lost"]  # of those that were still waiting
    assert sorted(ids) == [f"live#front@{number * 10**9}" for number in range(4)]


def test_a_run_that_is_paused_leaves_no_camera_running_beside_that_of_the_next(tmp_path, encoder):
    """As a service does that takes another configuration over: what a folder gets then would come twice."""
    stop, threads = Stop(), threading.active_count()

    class Pausing(Silent):
        def advance(self, **counts: int) -> None:
            (tmp_path / "broken.jpg").write_bytes(b"no picture")  # its error holds the loop that it was read in
            if counts["lost"]:
                stop.pause()

    source = open_live([f"watch:{tmp_path}"], rate_hz=EVERY)
    gc.disable()
    try:
        with process(FOLDER_WRITER, tmp_path, 300, 20):
            for _ in range(2):
                with pytest.raises(Interrupted):
                    pipeline.run(
                        [source],
                        encoder=encoder,
                        spool_path=tmp_path / "s",
                        budget=DAY,
                        context=ContextConfig(before_s=0.2),
                        watch=Pausing(),
                        stop=stop,
                    )
                assert threading.active_count() == threads
    finally:
        gc.enable()


def test_only_pictures_can_be_offered():
    camera = PushedCamera("front")
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), "frame.jpg"):
        with pytest.raises(UsageError, match="uint8 array"):
            camera.offer(wrong)  # type: ignore[arg-type]


def test_a_picture_comes_with_a_time_that_a_spool_can_hold():
    camera = PushedCamera("front")
    for wrong in (1.5, 2**63, "now"):
        with pytest.raises(UsageError, match="whole number of nanoseconds"):
            camera.offer(picture(), capture_time_ns=wrong)  # type: ignore[arg-type]
    taken: list[Shot] = []

    class Taking:
        def notice(self, name: str, **detail: object) -> None: ...

        def offer(self, shot: Shot) -> bool:
            taken.append(shot)
            return True

        def end_trip(self) -> None: ...

    stopped = threading.Event()
    thread = threading.Thread(target=camera.watch, args=(Taking(), stopped))
    thread.start()
    while not camera.offer(picture(), capture_time_ns=np.int64(7)):  # type: ignore[arg-type]
        pass
    stopped.set()
    thread.join()
    assert type(taken[0].capture_time_ns) is int


def test_the_newest_frames_win_and_what_they_push_out_is_counted():
    clock = Clock()
    arrivals, [front] = intake(clock)
    for number in range(50):
        clock.advance(0.1)
        assert front.offer(shot(clock.now, number))
    assert [round(waiting.capture_time_ns / 1e9, 1) for waiting in arrivals.pending] == [1004.9, 1005.0]
    [lost] = arrivals.take_lost()
    assert (lost.reason, lost.count) == ("queue_full", 48)


def test_a_full_queue_loses_whole_instants():
    clock = Clock()
    arrivals, [left, right] = intake(clock, tolerance_ns=20_000_000, cameras=("left", "right"))
    for _ in range(5):
        clock.advance(1.0)
        left.offer(shot(clock.now))
        right.offer(shot(clock.now + 0.01))
    assert [(w.camera, round(w.capture_time_ns / 1e9)) for w in arrivals.pending] == [
        ("left", 1004),
        ("right", 1004),
        ("left", 1005),
        ("right", 1005),
    ]


def test_cameras_of_one_instant_are_one_unit_also_when_one_of_them_is_missing():
    cameras = [PushedCamera("left"), PushedCamera("right")]
    source = LiveSource(cameras, rate_hz=EVERY, group_s=0.02)
    stream = source.frames()
    for camera in cameras:
        hand_in(camera, stream)
    assert cameras[0].offer(picture(1), capture_time_ns=1_000_000_000)
    assert cameras[1].offer(picture(2), capture_time_ns=1_010_000_000)
    found = units(stream, 0.02)
    whole = next(unit for unit in found if unit.frames)
    assert cameras[1].offer(picture(3), capture_time_ns=3_000_000_000)
    lone = next(unit for unit in found if unit.frames)
    stream.close()  # type: ignore[attr-defined]
    assert [frame.topic for frame in whole.frames] == ["left", "right"]
    assert [frame.topic for frame in lone.frames] == ["right"]


def test_a_frame_that_waited_too_long_is_lost_as_too_slow():
    clock = Clock()
    camera = PushedCamera("front")
    stream = LiveSource([camera], rate_hz=EVERY, latency_s=2.0, monotonic=clock).frames()
    hand_in(camera, stream)
    clock.advance(1.0)
    assert camera.offer(picture(), capture_time_ns=10**9)
    clock.advance(2.5)
    late = next(item for item in stream if item is not None)
    stream.close()  # type: ignore[attr-defined]
    assert isinstance(late, LostFrame)
    assert (late.reason, late.frame_index, late.topic) == ("too_slow", 1, "front")


def test_a_camera_that_repeats_jumps_or_freezes_makes_events_and_loses_nothing():
    clock = Clock()
    arrivals, [front] = intake(clock)
    for number in range(3):
        clock.advance(1.0)
        front.offer(shot(clock.now, number))
    assert names(arrivals) == []
    clock.advance(1.0)
    front.offer(shot(clock.now - 1.0, 3))
    assert names(arrivals) == ["time_repeated"]
    clock.advance(1.0)
    front.offer(shot(1.6e9, 4))  # the clock was set: 1970 is over
    assert names(arrivals) == ["time_jumped"]
    for _ in range(4):
        clock.advance(1.0)
        front.offer(shot(1.6e9 + clock.now, 5))
    assert "camera_frozen" in names(arrivals)
    assert front.offered == 9
    assert sum(lost.count for lost in arrivals.take_lost()) + len(arrivals.pending) == 9


def test_a_camera_that_changes_its_format_is_an_event():
    camera = PushedCamera("front")
    source = LiveSource([camera], rate_hz=EVERY)
    stream = source.frames()
    hand_in(camera, stream)
    assert camera.offer(encode(picture()[:12], "png"), capture_time_ns=10**9)
    assert isinstance(next(item for item in stream if item is not None), Frame)
    [changed] = [notice for notice in source.take_notices() if notice.name == "format_changed"]
    stream.close()  # type: ignore[attr-defined]
    assert changed.detail == {"camera": "front", "was": [32, 24], "now": [32, 12]}


def test_what_cannot_be_read_is_lost_for_its_own_reason():
    def unreadable() -> bytes:
        raise FrameError("unreadable", "cannot be read.")

    clock = Clock()
    arrivals, [front] = intake(clock)
    front.offer(Shot(capture_time_ns=0, read=unreadable))
    assert [(lost.reason, lost.count) for lost in arrivals.take_lost()] == [("unreadable", 1)]


def test_a_fault_in_a_cameras_thread_ends_the_run_and_is_not_swallowed():
    class Faulty:
        name = spec = "faulty"

        def watch(self, intake, stopped):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        first(LiveSource([Faulty()]), 1)


@pytest.mark.parametrize("after", [-1, 6])
def test_a_live_source_goes_on_with_its_numbers(after):
    camera = PushedCamera("front")
    stream = LiveSource([camera]).frames(after=after)
    assert hand_in(camera, stream).frame_index == after + 1
    stream.close()  # type: ignore[attr-defined]


def test_a_folder_and_a_socket_whose_names_are_no_text_have_one_that_a_spool_can_hold(tmp_path):
    folder = tmp_path / os.fsdecode(b"front\xff")
    folder.mkdir()
    source = open_live([f"watch:{folder}", f"unix:{folder}-socket"])
    assert "front\\xff" in source.spec
    for text in (source.spec, source.fingerprint(), *source.topics):
        text.encode()
    first(source, 0)  # closes the socket


def test_two_cameras_of_one_name_are_refused_and_both_are_said(tmp_path):
    with pytest.raises(UsageError, match="two cameras"):
        LiveSource([PushedCamera("a"), PushedCamera("a")])
    for side in ("left", "right"):
        (tmp_path / side / "images").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"watch:.*/left/images and watch:.*/right/images"):
        open_live([f"watch:{tmp_path / side / 'images'}" for side in ("left", "right")])


def test_the_first_of_the_order_is_not_said_to_be_near_frames_before_it():
    facts = {"state": "selected", "order": 1, "distance": 0.0, "novelty": None, "radius": None, "nearest": None}
    assert sentence(facts).startswith("selected, number 1 of the order; nothing was there to compare it with")
    assert "chord 0.700 from the frames before it" in sentence({**facts, "order": 2, "distance": 0.7})


def test_a_shadow_decides_as_a_run_does_and_writes_no_frames(encoder, tmp_path):
    drive = open_source("drawn:3:80")
    for name, shadow in (("real", False), ("shadow", True)):
        pipeline.run([drive], encoder=encoder, spool_path=tmp_path / name, budget=2, shadow=shadow, watch=Silent())
    with open_view(tmp_path / "real") as real, open_view(tmp_path / "shadow") as view:
        assert view.counts() == real.counts()
        alike = [[{**line, "file": None} for line in spool.list_lines(retained=True)] for spool in (real, view)]
        assert alike[0] == alike[1]
        assert view.counts()[0]["evicted"] > 0
        assert view.check() == []
    assert list((tmp_path / "shadow" / "frames").iterdir()) == []
    with pytest.raises(SpoolMismatch, match="--shadow"):
        pipeline.run([drive], encoder=encoder, spool_path=tmp_path / "shadow", budget=2, watch=Silent())
    write_report(tmp_path / "shadow", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "A shadow writes no frames" in page
    assert "No such file" not in page


def test_frames_that_are_released_are_told_and_covered_by(encoder, tmp_path):
    spool = tmp_path / "spool"
    drive = open_source("drawn:3:40")
    pipeline.run(
        [drive], encoder=encoder, spool_path=spool, budget=2, release="immediate", length_s=3600.0, watch=Silent()
    )
    with open_view(spool) as view:
        frames, _ = view.counts()
        told, covered = result_lines(view, spool)
    assert frames["released"] > 0
    assert frames["selected"] == 0
    assert f"({frames['released']} released, " in told
    assert "of a released frame" in covered
    assert "of a selected frame" in read_spool_report(spool).promise.sentence


def test_frames_of_a_live_source_are_not_looked_for_again(tmp_path):
    live = ShownSource(name="live", spec=f"watch:{tmp_path}", kind="live", fps=2.0, first_seen=0, finished=False)
    frame: Any = SimpleNamespace(id="live#a@1", sha256=None)
    said = "live was live and cannot be read again; what was sent is on the far side."
    assert list(read_again(live, {4: frame})) == [(4, said)]


def test_a_camera_faster_than_the_encoder_loses_the_older_frames_and_every_frame_is_counted(encoder, tmp_path):
    camera, stop, seen = PushedCamera("front"), Stop(), []

    class Thirty(Silent):
        def advance(self, **counts: int) -> None:
            seen.append(counts["lost"])
            if len(seen) == 30:
                stop.ask()

    taken = []

    def push() -> None:  # without a pause
        number = 0
        while not stop.asked:
            number += 1
            taken.append(camera.offer(picture(number % 8), capture_time_ns=number * 10**7))

    thread = threading.Thread(target=push)
    thread.start()
    source = LiveSource([camera], rate_hz=EVERY)
    with pytest.raises(Interrupted):
        pipeline.run([source], encoder=encoder, spool_path=tmp_path / "s", budget=DAY, watch=Thirty(), stop=stop)
    thread.join()
    with open_view(tmp_path / "s") as view:
        counts, lost = view.counts()
        assert view.check() == []
        lost_events = [event for event in view.events() if event["name"] == "frame_lost"]
        (first,) = [event["id"] for event in lost_events if event["reason"] == "queue_full"]
        assert why(view, first)["state"] == "lost"
    assert counts["seen"] == sum(taken)
    assert set(lost) <= {"queue_full", "stopped"}
    assert lost["queue_full"] >= seen[-1] > 0


def test_tags_are_those_of_the_run_that_retained_a_frame(encoder, tmp_path):
    for seed, tags in ((1, ["rain"]), (2, []), (3, ["night", "rain"])):
        sources = [open_source(f"drawn:{seed}:3")]
        pipeline.run(sources, encoder=encoder, spool_path=tmp_path / "s", budget=20, tags=tags, watch=Silent())
    with open_view(tmp_path / "s") as view:
        found = {(line["source"], *line["tags"]) for line in view.list_lines(retained=True)}
    assert found == {("drawn-1", "rain"), ("drawn-2",), ("drawn-3", "night", "rain")}


def test_what_was_taken_in_and_not_judged_when_a_live_source_ends_is_counted_as_stopped():
    clock = Clock()
    cameras = [PushedCamera("left"), PushedCamera("right")]
    source = LiveSource(cameras, rate_hz=EVERY, monotonic=clock)
    stream = source.frames()
    handed = [hand_in(camera, stream) for camera in cameras]
    for seed in range(3):
        clock.advance(1.0)
        assert cameras[0].offer(picture(seed), capture_time_ns=10**9 * (seed + 1))
    found = next(item for item in stream if item is not None)
    assert found.frame_index > handed[-1].frame_index  # issued, and never counted
    stream.close()  # type: ignore[attr-defined]
    left = list(source.leftover(after=found.frame_index - 1))
    assert not cameras[0].offer(picture(), capture_time_ns=10**10)
    assert [item.frame_index for item in left] == list(range(found.frame_index, found.frame_index + len(left)))
    assert [item.reason for item in left] == [
        found.reason if isinstance(found, LostFrame) else "stopped",
        *["stopped"] * 2,
    ]
    assert list(source.leftover(after=left[-1].frame_index)) == []


def test_a_camera_of_a_picture_a_minute_is_silent_once_and_then_its_pace_is_known():
    clock = Clock()
    camera = PushedCamera("gate")
    source = LiveSource([camera], rate_hz=EVERY, monotonic=clock, latency_s=1e9)
    stream = source.frames()
    hand_in(camera, stream)
    said = []
    for minute in range(1, 8):
        for _ in range(6):
            clock.advance(10.0)
            said += [(minute, notice.name) for notice in source.take_notices() if notice.name != "camera_started"]
        assert camera.offer(picture(minute), capture_time_ns=60 * 10**9 * minute)
    said += [(minute, notice.name) for notice in source.take_notices()]
    clock.advance(200.0)
    last = [notice.name for notice in source.take_notices()]
    stream.close()  # type: ignore[attr-defined]
    assert [what for _, what in said if what != "camera_silent"] == ["camera_back"]
    assert {minute for minute, what in said if what == "camera_silent"} == {1}
    assert last == ["camera_silent"]


@pytest.mark.parametrize(
    ("spec", "topic"),
    [("front=watch:{}", "front"), ("rear-1.a=watch:{}", "rear-1.a"), ("watch:{}", "in=watch:x")],
)
def test_a_camera_is_named_before_its_address(tmp_path, spec, topic):
    folder = tmp_path / "in=watch:x"
    folder.mkdir()
    source = open_live([spec.format(folder)])
    assert source.topics == (topic,)
    assert source.spec == f"watch:{folder}"


def test_two_cameras_of_one_name_are_told_how_to_be_named(tmp_path):
    with pytest.raises(UsageError, match="left=ADDRESS"):
        open_live([f"watch:{tmp_path}", f"watch:{tmp_path}"])
    assert open_live([f"a=watch:{tmp_path}", f"b=watch:{tmp_path}"]).topics == ("a", "b")


def test_cameras_that_all_hang_hold_up_the_end_no_longer_than_one():
    class Hanging:
        def __init__(self, name: str) -> None:
            self.name = self.spec = name

        def watch(self, intake: object, stopped: threading.Event) -> None:
            go_on.wait()

    go_on = threading.Event()
    stream = LiveSource([Hanging(str(number)) for number in range(8)]).frames()
    assert next(stream) is None
    began_s = time.monotonic()
    stream.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began_s < 4.0  # of eight seconds, one after another
    go_on.set()


def test_a_source_that_is_asked_for_frames_again_ends_when_it_would_have_ended():
    clock, camera = Clock(), PushedCamera("front")
    source = LiveSource([camera], for_s=600.0, monotonic=clock)
    hand_in(camera, stream := source.frames())
    stream.close()  # type: ignore[attr-defined]
    clock.advance(601.0)
    assert list(source.frames()) == []


def test_a_signal_in_the_middle_of_taking_a_frame_out_of_the_queue_loses_no_count(encoder, tmp_path):
    camera, stop = PushedCamera("front"), Stop()

    class Waiting(list):  # type: ignore[type-arg]
        def remove(self, arrival: object) -> None:
            super().remove(arrival)
            stop.ask()  # as the handler does, between any two lines

    source = LiveSource([camera], rate_hz=EVERY)
    source._arrivals.pending = Waiting()

    def push() -> None:
        while not camera.offer(picture(), capture_time_ns=0):
            pass  # nobody runs it yet

    thread = threading.Thread(target=push)
    thread.start()
    with pytest.raises(Interrupted):
        pipeline.run([source], encoder=encoder, spool_path=tmp_path / "s", budget=DAY, watch=Silent(), stop=stop)
    thread.join()
    with open_view(tmp_path / "s") as view:
        assert view.counts()[0]["seen"] == 1
