"""Reading, encoding and selecting at one time gives what one after the other gives, and leaves no thread behind."""

import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import replace
from functools import cache
from itertools import islice

import pytest

from geal_edge.cli.common import stopping_well
from geal_edge.errors import Interrupted
from geal_edge.runtime import pipeline
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.encoder import Encoder, EngineChange
from geal_edge.runtime.frame import LostFrame, usable
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.overlap import overlapped
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spooldb import connection
from geal_edge.runtime.stopping import Stop
from tests.fakes import MemorySource, StopAfter, frame

TIMED = {"stored_ns", "wall_ns"}
TABLES = ("meta", "units", "frames", "deaths", "counters", "sources", "timeline", "events")


UNTIMED = re.compile(r', "powered_s": [\d.]+')


def ours():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("geal-edge")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert ours() == []


def counted(n: int, made: list[int]) -> Generator[int, None, None]:
    for i in range(n):
        made.append(i)
        yield i


def everything(path):
    """All that a spool's database says, but for what the wall clock said."""
    with connection(path / "spool.db") as db:
        tables = {}
        for table in TABLES:
            columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})") if name not in TIMED]
            tables[table] = db.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1").fetchall()
        # Where the clock is not synchronised events say when they were by another one.
        tables["events"] = [(*of_event, UNTIMED.sub("", detail)) for *of_event, detail in tables["events"]]
        return tables


@cache
def uneven_drive():
    """A drawn drive of which frames are lost, dark, or stand still."""
    items = list(open_source("drawn:1:36").frames())
    for i in (0, 7, 8, 19):
        lost = LostFrame(
            id=items[i].id, source="drive", frame_index=i, capture_time_ns=None, reason="truncated", detail="cut off"
        )
        items[i] = lost
    for i in (12, 13, 14):
        items[i] = replace(usable(items[i]), image=usable(items[i]).image * 0)
    for i in range(24, 30):
        items[i] = replace(usable(items[i]), image=usable(items[24]).image)
    return MemorySource([replace(item, source="drive") for item in items], name="drive")


@pytest.mark.parametrize("guard", [None, "all"])
def test_a_spool_says_the_same_however_far_ahead_its_frames_are_read(encoder, tmp_path, guard):
    told = []
    for ahead in (0, 3):
        path = tmp_path / str(ahead)
        pipeline.run(
            [uneven_drive()], encoder=encoder, spool_path=path, budget=5, guard=guard, ahead=ahead, watch=Silent()
        )
        told.append(everything(path))
    assert told[0] == told[1]


def test_stopped_ahead_of_frames_that_were_read_already_a_run_goes_on_as_one_that_was_not(encoder, tmp_path):
    for ahead, path in ((0, tmp_path / "whole"), (4, tmp_path / "parts")):
        for n in (5, 13):
            with pytest.raises(Interrupted):
                pipeline.run(
                    [uneven_drive()],
                    encoder=encoder,
                    spool_path=path,
                    budget=5,
                    guard="all",
                    ahead=ahead,
                    watch=Silent(),
                    stop=StopAfter(n),
                )
    assert everything(tmp_path / "whole") == everything(tmp_path / "parts")


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_items_come_in_their_order_and_an_error_at_the_place_of_its_item_with_its_own_traceback(ahead):
    def then(n):
        if n == 5:
            raise ZeroDivisionError(n)
        return n * n

    got: list[object] = []
    with (
        pytest.raises(ZeroDivisionError) as caught,
        closing(overlapped(counted(9, []), then, ahead=ahead, stop=Stop())) as results,
    ):
        got.extend(iter(results.__next__, None))
    assert got == [0, 1, 4, 9, 16]
    assert "then" in [entry.name for entry in traceback.extract_tb(caught.value.__traceback__)]


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_error_of_the_source_comes_behind_the_items_before_it(ahead):
    def breaking():
        yield from range(3)
        raise OSError("the stick was pulled out")

    got: list[object] = []
    with (
        pytest.raises(OSError, match="pulled out"),
        closing(overlapped(breaking(), str, ahead=ahead, stop=Stop())) as results,
    ):
        got.extend(iter(results.__next__, None))
    assert got == ["0", "1", "2"]


@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
def test_no_more_items_are_made_than_are_asked_for_beforehand(ahead):
    made: list[int] = []
    with closing(overlapped(counted(100, made), str, ahead=ahead, stop=Stop())) as results:
        for taken, _ in enumerate(results, start=1):
            assert len(made) <= taken + 2 * ahead
    assert len(made) == 100


def test_the_first_item_is_read_by_the_caller_and_all_else_is_made_by_a_thread_for_each_step():
    def names():
        while True:
            yield [threading.current_thread().name]

    with closing(overlapped(names(), lambda n: [*n, threading.current_thread().name], ahead=2, stop=Stop())) as results:
        first, *others = islice(results, 4)
    # A signal's exception comes up in the caller alone: never in an encoder, which would take it for a fault of its engine.
    assert first == [threading.current_thread().name, "geal-edge encode"]
    assert others == [["geal-edge read", "geal-edge encode"]] * 3


def test_what_came_of_a_stop_that_a_decoder_swallowed_is_no_frame_and_no_end_of_the_source():
    def swallowing(stop, *made):
        with suppress(Exception):  # as decoders do, whose libraries raise anything
            stop.ask()
        yield from made

    for made in ((), ("undecodable",)):
        stop = Stop()
        with pytest.raises(Interrupted):
            list(stop.between(swallowing(stop, *made)))


def test_an_empty_source_gives_nothing_and_one_that_nobody_asks_is_not_begun():
    made: list[int] = []
    assert list(overlapped(counted(0, []), str, ahead=2, stop=Stop())) == []
    overlapped(counted(3, made), str, ahead=2, stop=Stop()).close()
    assert made == []


@pytest.mark.parametrize("ahead", [0, 2])
def test_closing_closes_the_source(ahead):
    closed = threading.Event()

    def source():
        try:
            yield from range(100)
        finally:
            closed.set()

    with closing(overlapped(source(), str, ahead=ahead, stop=Stop())) as results:
        assert list(islice(results, 3)) == ["0", "1", "2"]
    assert closed.is_set()


class Hanging:
    """A source of two frames that then asks to stop, as a hand on the keyboard would, and answers when told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def items(self):
        yield from range(2)
        os.kill(os.getpid(), signal.SIGINT)
        self.answers.wait()
        yield 2


def test_asked_while_a_frame_is_read_it_stops_once_that_is_done():
    hanging = Hanging()

    class Answering(Stop):
        def ask(self):
            hanging.answers.set()
            super().ask()

    stop = Answering()
    before = signal.signal(signal.SIGINT, lambda *_: stop.ask())
    try:
        with pytest.raises(Interrupted):
            list(overlapped(hanging.items(), str, ahead=1, stop=stop))
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_source_that_hangs_is_left_behind_at_the_second_press():
    hanging = Hanging()

    caller = threading.get_ident()

    def press_again_while_the_end_waits():
        while "join" not in {entry.name for entry in traceback.extract_stack(sys._current_frames()[caller])}:
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_again_while_the_end_waits, daemon=True).start()
    with pytest.raises(KeyboardInterrupt), stopping_well() as stop:
        list(overlapped(hanging.items(), str, ahead=1, stop=stop))
    hanging.answers.set()
    while ours():  # and not `join`, for which a thread is at its end once an exception has cut short a wait for it
        threading.Event().wait(0.01)


class Replaced(Encoder):
    """Says at its fourth frame that it was replaced."""

    calls = 0
    told = threading.Event()

    def __call__(self, image):
        self.calls += 1
        return super().__call__(image)

    def take_changes(self):
        if self.calls != 4:
            return []
        self.told.set()
        return [EngineChange(was="openvino", now="ort-cpu", reason="drifts", unchecked=3)]


def test_what_happened_to_an_engine_ahead_of_the_last_frame_judged_is_told_all_the_same(tiny_bundle, tmp_path):
    class StopOnceAhead(StopAfter):
        """Asked while a frame is in hand, once the engine was replaced over a later one."""

        def ask(self):
            assert Replaced.told.wait(60)
            super().ask()

    with Replaced(tiny_bundle, OrtCpu(tiny_bundle.graph, threads=1)) as encoder, pytest.raises(Interrupted):
        source = MemorySource([frame(i) for i in range(12)])
        pipeline.run(
            [source],
            encoder=encoder,
            spool_path=tmp_path / "s",
            budget=3,
            ahead=2,
            watch=Silent(),
            stop=StopOnceAhead(2),
        )
    told = everything(tmp_path / "s")
    assert [name for _, name, *_ in told["events"] if name.startswith("engine")] == ["engine_changed"]
    assert ("seen", 2) in told["counters"]
