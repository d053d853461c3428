"""The rate of a live source under limits: a machine that is told, a clock that is told, and once a real encoder."""

import os
import subprocess
import sys
import threading
from itertools import pairwise

import pytest

from geal_edge.config import ContextConfig, LimitConfig
from geal_edge.errors import Interrupted, LimitExceeded, UsageError
from geal_edge.runtime import pipeline
from geal_edge.runtime.live import LiveSource, PushedCamera
from geal_edge.runtime.live.governor import (
    CALM_S,
    LEAST_HZ,
    PATIENCE_S,
    WAIT_S,
    Governor,
    Load,
    LoadOfProcess,
    step_back,
)
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.stopping import Stop
from tests.fakes import Clock
from tests.test_live import DAY, picture


class Machine:
    """One that takes so much CPU for every frame, grows warm with the rate, and has so much memory."""

    def __init__(
        self,
        limits: LimitConfig,
        rate_hz: float = 8.0,
        *,
        context: bool = False,
        frame_s: float = 0.2,
        rss_bytes: int = 10**8,
    ) -> None:
        self.clock = Clock()
        self.frame_s, self.rss_bytes, self.ambient_c = frame_s, rss_bytes, 40.0
        self.cpu_s, self.temperature_c = 0.0, 40.0
        self.frames, self.late, self.late_share = 0.0, 0.0, 0.0
        self.governor = Governor(limits, rate_hz, context=context, load=self.load, monotonic=self.clock)
        self.changes: list[tuple[float, str, str | None, float]] = []

    def load(self) -> Load:
        return Load(cpu_s=self.cpu_s, rss_bytes=self.rss_bytes, temperature_c=self.temperature_c)

    def run(self, seconds: int) -> list[str]:
        """The names of what happened."""
        before = len(self.changes)
        for _ in range(seconds):
            self.clock.advance(1.0)
            rate = self.governor.rate_hz
            self.cpu_s += self.frame_s * rate * (1.0 - self.late_share)
            self.temperature_c += 0.1 * (self.ambient_c + 10.0 * rate - self.temperature_c)
            self.frames += rate
            self.late += rate * self.late_share
            for change in self.governor.step(frames=round(self.frames), late=round(self.late)):
                self.changes.append((self.clock.now, change.name, change.cause, change.rate_hz))
        return [name for _, name, _, _ in self.changes[before:]]


def test_without_a_limit_and_in_time_nothing_happens():
    assert Machine(LimitConfig()).run(1000) == []


def test_above_its_share_of_the_cpu_the_rate_is_halved_until_it_fits_and_stays_there():
    machine = Machine(LimitConfig(cpu_percent=50.0))  # 8 Hz take 160 %
    machine.run(300)
    assert [(name, cause, rate) for _, name, cause, rate in machine.changes] == [
        ("rate_lowered", "cpu_percent", 4.0),
        ("rate_lowered", "cpu_percent", 2.0),
    ]
    times = [at for at, *_ in machine.changes]
    assert times[0] - 1000.0 >= WAIT_S
    assert times[1] - times[0] >= WAIT_S


def test_when_there_is_room_again_the_rate_goes_up_slowly_and_never_above_what_was_asked_for():
    machine = Machine(LimitConfig(cpu_percent=50.0))
    machine.run(300)
    machine.frame_s = 0.01
    assert machine.run(3000) == ["rate_raised"] * 7
    assert machine.governor.rate_hz == 8.0
    times = [at for at, name, *_ in machine.changes if name == "rate_raised"]
    assert min(later - earlier for earlier, later in pairwise(times)) >= CALM_S


def test_a_hot_machine_cools_down_and_its_rate_settles_under_the_limit():
    machine = Machine(LimitConfig(max_temperature_c=70.0))  # 8 Hz lead to 120 degrees
    machine.run(3600)
    assert {cause for _, name, cause, _ in machine.changes if name == "rate_lowered"} == {"max_temperature_c"}
    hot = 0
    for _ in range(3600):
        machine.run(1)
        hot += machine.temperature_c > 70.0
    assert hot < 360
    assert machine.governor.rate_hz >= 1.0


def test_it_never_goes_below_a_tenth_of_a_hertz_and_does_not_raise_a_rate_that_was_lower():
    machine = Machine(LimitConfig(max_temperature_c=35.0))
    machine.run(2000)
    assert machine.governor.rate_hz == LEAST_HZ
    slow = Machine(LimitConfig(max_temperature_c=35.0), rate_hz=0.05)
    assert slow.run(2000) == []


def test_where_more_than_half_of_the_frames_come_too_fast_for_a_minute_fewer_are_looked_at():
    machine = Machine(LimitConfig())
    machine.late_share = 0.6
    assert machine.run(59) == []
    assert machine.run(30) == ["rate_lowered"]
    assert machine.changes[0][2:] == ("too_slow", 4.0)
    machine.late_share = 0.3  # neither too slow nor calm
    assert machine.run(1000) == []


def test_with_too_much_memory_context_goes_first_then_the_rate_and_in_the_end_the_run():
    machine = Machine(LimitConfig(max_rss_bytes=2 * 10**8), context=True, rss_bytes=3 * 10**8)
    assert machine.run(20)[:2] == ["context_given_up", "rate_lowered"]
    with pytest.raises(LimitExceeded, match="goes on"):
        machine.run(round(PATIENCE_S) + 5)
    spared = Machine(LimitConfig(max_rss_bytes=2 * 10**8), rss_bytes=3 * 10**8)
    assert "context_given_up" not in spared.run(50)  # it has none
    spared.rss_bytes = 10**8
    spared.run(1000)
    assert spared.governor.rate_hz == 8.0


def test_this_process_tells_what_it_takes():
    load = LoadOfProcess(with_heat=False)
    first = load()
    while load().cpu_s < first.cpu_s + 0.02:
        pass
    assert first.rss_bytes > 10**7
    assert first.temperature_c is None


def test_a_real_encoder_that_takes_more_than_its_share_is_asked_less_often(encoder, tmp_path):
    clock, camera, stop, judged = Clock(), PushedCamera("front"), Stop(), threading.Semaphore(1)
    said: list[str] = []

    class Counting(Silent):
        left = 60

        def advance(self, **counts: int) -> None:
            self.left -= 1
            judged.release()
            if not self.left or source.rate_hz < 0.5:
                stop.ask()

        def warn(self, message: str) -> None:
            said.append(message)

    def push() -> None:
        number = 0
        while not stop.asked and judged.acquire(timeout=10.0):
            while not stop.asked:
                clock.advance(1.0)
                number += 1
                if camera.offer(picture(number), capture_time_ns=round(clock.now * 1e9)):
                    break

    source = LiveSource([camera], rate_hz=0.5, latency_s=1e9, monotonic=clock)
    thread = threading.Thread(target=push)
    thread.start()
    try:
        with pytest.raises(Interrupted):
            pipeline.run(
                [source],
                encoder=encoder,
                spool_path=tmp_path / "s",
                budget=DAY,
                limits=LimitConfig(cpu_percent=1e-6),
                context=ContextConfig(before_s=1.0),
                watch=Counting(),
                stop=stop,
            )
    finally:
        stop.ask()
        judged.release()
        thread.join()
    assert source.rate_hz < 0.5
    with open_view(tmp_path / "s") as view:
        lowered = [event for event in view.events() if event["name"] == "rate_lowered"]
        assert view.check() == []
    assert lowered[0]["cause"] == "cpu_percent"
    assert lowered[0]["cpu_percent"] > 0.0
    assert (lowered[0]["was_hz"], lowered[0]["rate_hz"]) == (0.5, 0.25)
    assert any(message.startswith("rate 0.5 -> 0.25 Hz (cpu_percent") for message in said)


def test_limits_that_lower_a_rate_are_refused_for_what_has_none(encoder, tmp_path):
    for limits in (LimitConfig(cpu_percent=50), LimitConfig(max_rss_bytes=10**9), LimitConfig(max_temperature_c=80)):
        with pytest.raises(UsageError, match="drawn-1"):
            pipeline.run(
                [open_source("drawn:1:3")],
                encoder=encoder,
                spool_path=tmp_path / "s",
                budget=3,
                limits=limits,
                watch=Silent(),
            )
    assert not (tmp_path / "s").exists()


STEPPING_BACK = """
import os, threading
from geal_edge.runtime.live.governor import step_back
waiting = threading.Event()
threading.Thread(target=waiting.wait).start()
for nice in (7, 3):
    step_back(nice)
    print(*(os.getpriority(os.PRIO_PROCESS, int(name)) for name in os.listdir("/proc/self/task")))
waiting.set()
"""


def test_every_thread_steps_back_and_none_goes_forward():
    """In a process of its own, since nobody goes forward again."""
    told = subprocess.run([sys.executable, "-c", STEPPING_BACK], check=True, capture_output=True, text=True).stdout
    first, second = ([int(number) for number in line.split()] for line in told.splitlines())
    assert len(first) >= 2
    assert min(first) >= 7
    assert second == first


def test_a_run_that_ends_over_its_memory_has_counted_every_frame_that_was_taken_in(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("geal_edge.runtime.live.governor.LOOK_S", 0.0)
    monkeypatch.setattr("geal_edge.runtime.live.governor.PATIENCE_S", 0.2)
    camera, over, taken = PushedCamera("front"), threading.Event(), []

    def push() -> None:
        number = 0
        while not over.is_set():
            taken.append(camera.offer(picture(number), capture_time_ns=number * 10**9))
            number += 1

    thread = threading.Thread(target=push)
    thread.start()
    source, limits = LiveSource([camera], rate_hz=1e9), LimitConfig(max_rss_bytes=100_000_000)
    with pytest.raises(LimitExceeded):
        pipeline.run([source], encoder=encoder, spool_path=tmp_path / "s", budget=DAY, limits=limits, watch=Silent())
    over.set()
    thread.join()
    with open_view(tmp_path / "s") as view:
        assert view.counts()[0]["seen"] == sum(taken)
        assert view.check() == []


def test_threads_that_end_while_the_process_steps_back_are_no_fault(monkeypatch):
    def gone(which: int, who: int) -> int:
        raise ProcessLookupError

    monkeypatch.setattr(os, "getpriority", gone)
    step_back(10)
