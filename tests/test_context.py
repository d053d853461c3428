"""Context: what cameras saw before and after a retained frame, stored beside it and gone with it."""

import errno
import json
import threading
from hashlib import sha256

import numpy as np
import pytest

from geal_edge.config import ContextConfig, DiskConfig
from geal_edge.errors import Interrupted, UsageError
from geal_edge.runtime import pipeline
from geal_edge.runtime.extract import extract
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.live import LiveSource, PushedCamera
from geal_edge.runtime.live.ring import Glimpse, Ring
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.release import ReleaseRule
from geal_edge.runtime.sources import Source, open_source
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.why import sentence, why
from tests.fakes import Clock, Died, MemorySource, dying_disk, frame, judge
from tests.streams import random_stream
from tests.test_live import DAY, picture
from tests.test_spool import fill, settings

STEP_NS = 10**8


def glimpses(count: int, first: int = 0) -> list[Glimpse]:
    return [
        Glimpse(capture_time_ns=n * STEP_NS, data=b"\xff\xd8\xff picture %d" % n, ending="jpg")
        for n in range(first, first + count)
    ]


def beside(path):
    """unit -> the files of its context that a reader sees."""
    with open_view(path) as view:
        assert view.check() == []
        for stored in view.retained():
            for each in stored.context:
                data = stored.file.with_name(each.file).read_bytes()
                assert (len(data), sha256(data).hexdigest()) == (each.bytes, each.sha256)
        return {stored.unit: [each.file for each in stored.context] for stored in view.retained() if stored.context}


def drive(encoder, spool, count: int, **more) -> None:
    """A camera at 10 Hz by a clock that is told, of which one picture a second is judged, until so many were."""
    clock, camera, stop, judged = Clock(), PushedCamera("front"), Stop(), threading.Semaphore(1)

    class Counting(Silent):
        left = count

        def advance(self, **counts: int) -> None:
            self.left -= 1
            judged.release()
            if not self.left:
                stop.ask()

    def push() -> None:
        while not camera.offer(picture(0), capture_time_ns=0) and not stop.asked:
            pass  # nobody runs it yet
        number = 1
        while not stop.asked and judged.acquire(timeout=10.0):
            for _ in range(10):
                clock.advance(0.1)
                camera.offer(picture(number), capture_time_ns=number * STEP_NS)
                number += 1

    thread = threading.Thread(target=push)
    thread.start()
    source = LiveSource([camera], rate_hz=1.0, monotonic=clock)
    try:
        pipeline.run([source], encoder=encoder, spool_path=spool, budget=DAY, watch=Counting(), stop=stop, **more)
    except Interrupted:
        pass
    finally:
        stop.ask()
        judged.release()
        thread.join()


def test_what_a_camera_saw_before_and_after_a_retained_frame_is_stored_listed_and_extracted(encoder, tmp_path):
    drive(encoder, tmp_path / "s", 4, context=ContextConfig(before_s=0.45, after_s=0.25, rate_hz=10.0))
    with open_view(tmp_path / "s") as view:
        lines = {line["capture_time_ns"]: line for line in view.list_lines(retained=True)}
        second = sorted(lines)[1]
        times = [each["capture_time_ns"] for each in lines[second]["context"]]
        facts = why(view, lines[second]["id"])
    assert times == [second + n * STEP_NS for n in (-4, -3, -2, -1, 1, 2)]
    assert "; 6 pictures of context beside it" in sentence(facts)
    names = beside(tmp_path / "s")
    assert names[2] == [f"00000002.c{number:02d}.jpg" for number in range(6)]
    extract(tmp_path / "s", tmp_path / "out", format_name="images")
    told = [json.loads(line) for line in (tmp_path / "out" / "context.jsonl").read_text().splitlines()]
    assert [each["capture_time_ns"] for each in told if each["of"] == lines[second]["id"]] == times
    for each in told:
        assert sha256((tmp_path / "out" / each["file"]).read_bytes()).hexdigest() == each["sha256"]


def test_without_being_asked_there_is_none(encoder, tmp_path):
    drive(encoder, tmp_path / "s", 2)
    assert beside(tmp_path / "s") == {}
    assert not list((tmp_path / "s" / "frames").glob("*.c*"))


def test_a_shadow_has_none(encoder, tmp_path):
    drive(encoder, tmp_path / "s", 2, context=ContextConfig(before_s=1.0, rate_hz=10.0), shadow=True)
    assert list((tmp_path / "s" / "frames").iterdir()) == []


def test_a_recorded_source_and_an_immediate_release_are_refused_by_name(encoder, tmp_path):
    context = ContextConfig(after_s=1.0)
    rules: tuple[ReleaseRule, ...] = ("round_end", "immediate")
    sources: tuple[Source | LiveSource, ...] = (open_source("drawn:1:3"), LiveSource([PushedCamera("a")]))
    for source, release in zip(sources, rules, strict=True):
        with pytest.raises(UsageError, match=r"drawn-1|context\.after_s"):
            pipeline.run(
                [source],
                encoder=encoder,
                spool_path=tmp_path / "s",
                budget=3,
                release=release,
                context=context,
                watch=Silent(),
            )
    assert not (tmp_path / "s").exists()


def test_it_counts_as_bytes_of_its_unit_and_goes_when_the_unit_is_evicted(tmp_path):
    stream = random_stream(0, 30)
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(stream):
            judge(spool, ladder, frame(index), clusters)
            if ladder.retained and ladder.retained[-1] == ladder.next_unit - 1:
                unit, [alone] = ladder.retained[-1], spool.sizes([ladder.retained[-1]])
                if spool.add_context(unit, 0, glimpses(2)):
                    assert spool.sizes([unit]) == [alone + sum(len(each.data) for each in glimpses(2))]
        retained = set(ladder.retained)
        evicted = set(range(1, ladder.next_unit)) - retained
    found = beside(tmp_path / "s")
    assert set(found) <= retained
    assert evicted
    assert len(list((tmp_path / "s" / "frames").glob("*.c*"))) == sum(map(len, found.values()))


def test_a_unit_that_is_released_or_gone_gets_no_more(tmp_path):
    fill(tmp_path / "s", random_stream(0, 10))
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        release = spool.ladder().release(1)
        [unit] = release.units
        assert spool.add_context(unit, 0, glimpses(1))
        spool.release(release)
        assert not spool.add_context(unit, 0, glimpses(1, first=5))
        assert not spool.add_context(999, 0, glimpses(1))
    assert len(beside(tmp_path / "s")[unit]) == 1


def test_where_there_is_no_room_the_frame_stands_without_and_nothing_gives_way_for_it(tmp_path, monkeypatch):
    fill(tmp_path / "s", random_stream(0, 10))
    large = [Glimpse(capture_time_ns=0, data=b"\xff\xd8\xff" + bytes(2_000_000), ending="jpg")]
    with Spool(tmp_path / "s", settings(), disk=DiskConfig(max_bytes=1_500_000), monotonic=Clock()) as spool:
        retained = spool.ladder().retained
        assert not spool.add_context(retained[0], 0, large)
        assert spool.ladder().retained == retained
        assert spool.add_context(retained[0], 0, glimpses(1))

    def refused(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool, monkeypatch.context() as patch:
        patch.setattr("geal_edge.runtime.durable.os.replace", refused)
        assert not spool.add_context(retained[1], 0, glimpses(2))
    assert beside(tmp_path / "s") == {retained[0]: [f"{retained[0]:08d}.c00.jpg"]}
    with open_view(tmp_path / "s") as view:
        causes = [event["cause"] for event in view.events() if event["name"] == "context_left_out"]
    assert causes == ["quota", "disk_full"]
    assert len(list((tmp_path / "s" / "frames").glob("*.c*"))) == 1


def test_a_unit_never_grows_beyond_what_its_budget_allows_or_it_could_never_be_released(tmp_path):
    caps = settings(caps=("3/day", "10kB/day"), length_s=86400.0)
    with Spool(tmp_path / "s", caps, monotonic=Clock()) as spool:
        spool.begin_source(MemorySource())
        judge(spool, spool.ladder(), frame(0), random_stream(0, 1)[0])
        large = [Glimpse(capture_time_ns=0, data=b"\xff\xd8\xff" + bytes(10_000), ending="jpg")]
        assert not spool.add_context(1, 0, large)
        assert spool.add_context(1, 0, glimpses(1))
    with open_view(tmp_path / "s") as view:
        assert [event["cause"] for event in view.events() if event["name"] == "context_left_out"] == ["over_budget"]


def test_dying_anywhere_while_it_is_stored_leaves_a_sound_spool_and_all_of_it_or_nothing(tmp_path, monkeypatch):
    fill(tmp_path / "s", random_stream(0, 4))
    path = tmp_path / "s"
    with Spool(path, settings(), monotonic=Clock()) as spool:
        unit = spool.ladder().retained[0]
    at, finished = 0, False
    while not finished:
        with Spool(path, settings(), monotonic=Clock()) as spool:
            before = len(beside(path).get(unit, []))
        with dying_disk(monkeypatch) as disk:
            try:
                with Spool(path, settings(), monotonic=Clock()) as spool:
                    disk.count, disk.at = 0, at
                    spool.add_context(unit, 0, glimpses(2, first=10 * at))
                    disk.at, finished = None, True
            except Died:
                at += 1
        with Spool(path, settings(), monotonic=Clock()):
            pass
        after = beside(path).get(unit, [])
        assert len(after) in (before, before + 2)
        assert {file.name for file in (path / "frames").glob("*.c*")} == set(after)
    assert at > 10


def test_a_ring_that_is_full_of_bytes_forgets_the_oldest_and_what_is_no_picture_is_not_held():
    ring = Ring(hold_s=100.0, most_bytes=3000)
    one = encode(np.zeros((8, 8, 3), np.uint8), "jpg")
    assert len(one) < 1500
    for number in range(20):
        ring.add(number, picture(number)[:8, :8], arrived_s=float(number))
    held = ring.between(0, 100)
    assert 0 < sum(len(each.data) for each in held) <= 3000
    assert held[-1].capture_time_ns == 19
    assert ring.add(20, b"no picture", arrived_s=20.0)
    assert ring.between(20, 20) == []


def test_a_picture_too_long_for_jpeg_is_context_like_any_other_and_ends_no_camera():
    ring = Ring(hold_s=1.0)
    assert ring.add(1, np.zeros((2, 70_000, 3), np.uint8), arrived_s=0.0)
    assert [glimpse.ending for glimpse in ring.between(0, 2)] == ["png"]
