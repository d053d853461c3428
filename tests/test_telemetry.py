"""What a run knows of itself, and the pulse that says so while it runs."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from geal_edge.errors import FrameError
from geal_edge.runtime import pipeline
from geal_edge.runtime.clocks import BOUNDS_S, STAGES, UNTIMED, Histogram, timed
from geal_edge.runtime.frame import LostFrame
from geal_edge.runtime.live.governor import Load
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources.drawn import DrawnDrive
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.telemetry import Telemetry, pulse_folder, pulse_name, read_pulse
from tests.fakes import Clock, MemorySource, frame


class Ticking(Clock):
    """Every look at it is half a second later."""

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


def machine() -> Load:
    return Load(cpu_s=3.0, rss_bytes=10**8, temperature_c=61.5)


def told(pulse: Path | None = None) -> Telemetry:
    return Telemetry(pulse, load=machine, monotonic=Ticking())


class Looking(Silent):
    """Reads the pulse of a spool whenever a frame is done."""

    def __init__(self, spool: Path, environ: dict[str, str]) -> None:
        self.pulses: list[dict[str, Any]] = []
        self._spool, self._environ = spool, environ

    def advance(self, **counts: int) -> None:
        pulse = read_pulse(self._spool, self._environ)
        if pulse is not None:
            self.pulses.append(pulse)


def test_a_run_tells_of_every_stage_and_counts_as_its_spool_does(encoder, tmp_path):
    telemetry = told()
    bad = LostFrame(
        id="drawn#20", source="drawn", frame_index=20, capture_time_ns=None, reason="torn", detail="", topic="front"
    )
    source = MemorySource([*(f for f in DrawnDrive(1, 20).frames()), bad], name="drawn")
    pipeline.run([source], encoder=encoder, spool_path=tmp_path / "s", budget=4, telemetry=telemetry, watch=Silent())
    found = telemetry.snapshot
    assert {name: histogram.as_dict()["count"] for name, histogram in telemetry.stages.items()} == {
        **dict.fromkeys(STAGES, 20),
        "decode": 21,
    }
    with open_view(tmp_path / "s") as view:
        frames, lost = view.counts()
        (budget,) = view.budgets("frames")
        assert found["certificate"]["lower_bound"] == view.certificate().lower_bound
    assert lost == {"torn": 1}
    assert found["frames"]["seen"] == 20  # as it was before the last one
    assert found["frames"]["not_new"] == frames["not_new"]
    assert found["frames"]["retained"] == frames["retained"] + frames["evicted"]
    assert found["since_start"] == found["frames"]
    assert found["budget"] == [budget]
    assert found["newest"]["id"].endswith("19")
    assert found["machine"]["temperature_c"] == 61.5
    assert found["disk"]["used_bytes"] > 0
    assert found["written"]["commits"] > 0
    assert found["engine"] == {"name": "ort-cpu", "first": "ort-cpu", "changes": 0}


def test_what_a_run_decides_does_not_depend_on_who_looks(encoder, tmp_path):
    listed = []
    for name, telemetry in (("alone", None), ("watched", told(tmp_path))):
        pipeline.run(
            [DrawnDrive(1, 30)],
            encoder=encoder,
            spool_path=tmp_path / name,
            budget=4,
            telemetry=telemetry,
            watch=Silent(),
        )
        with open_view(tmp_path / name) as view:
            listed.append([(line["id"], line["distance"]) for line in view.list_lines()])
    assert listed[0] == listed[1]


def test_a_pulse_is_there_while_the_run_is_and_is_its_owners_alone(encoder, tmp_path):
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    spool, folder = tmp_path / "s", pulse_folder(environ)
    assert folder is not None
    (tmp_path / "link").symlink_to(spool)
    place = folder / pulse_name(spool)
    watch = Looking(tmp_path / "link", environ)  # by whatever name
    modes = set()

    class Modes(Telemetry):
        def count(self, unit):
            super().count(unit)
            modes.add(stat.S_IMODE(place.stat().st_mode))

    telemetry = Modes(folder, load=machine, monotonic=Ticking())
    pipeline.run([DrawnDrive(1, 10)], encoder=encoder, spool_path=spool, budget=4, telemetry=telemetry, watch=watch)
    assert modes == {0o600}
    assert list(folder.iterdir()) == []
    assert watch.pulses[-1]["schema"] == "geal-edge/pulse/1"
    assert watch.pulses[-1]["spool"] == str(spool.resolve())
    assert 0.0 <= watch.pulses[-1]["age_s"] < 60.0
    assert watch.pulses[-1].keys() - telemetry.snapshot.keys() == {"age_s"}
    assert read_pulse(spool, environ) is None


def test_the_pulse_of_a_process_that_is_gone_is_none(tmp_path):
    spool, environ = tmp_path / "s", {"RUNTIME_DIRECTORY": f"{tmp_path}:/nowhere"}
    assert pulse_folder(environ) == tmp_path
    file = tmp_path / pulse_name(spool)
    own = {"schema": "geal-edge/pulse/1", "pid": os.getpid(), "start_ticks": 1}  # its number is another's now
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    pulses: list[Any] = [own, {**own, "pid": dead.pid}, {**own, "schema": "other/1"}, [], {**own, "pid": "1"}]
    for pulse in pulses:
        file.write_text(json.dumps(pulse))
        assert read_pulse(spool, environ) is None
    file.write_text("{")
    assert read_pulse(spool, environ) is None


@pytest.mark.parametrize("environ", [{}, {"XDG_RUNTIME_DIR": "/proc/nowhere"}])
def test_without_a_place_in_memory_there_is_no_pulse(environ):
    assert pulse_folder(environ) is None


def test_a_pulse_that_cannot_be_written_stops_nothing(encoder, tmp_path):
    telemetry = told(tmp_path / "gone")
    pipeline.run(
        [DrawnDrive(1, 3)], encoder=encoder, spool_path=tmp_path / "s", budget=4, telemetry=telemetry, watch=Silent()
    )
    assert telemetry.snapshot["frames"]["seen"] == 2


def test_what_fails_has_no_time_and_each_bound_is_its_buckets():
    clock = Histogram()
    with pytest.raises(FrameError), clock:
        raise FrameError("torn", "")
    assert sum(clock.counts) == 0
    for bound in BOUNDS_S:
        clock.add(bound)
    clock.add(2 * BOUNDS_S[-1])
    assert clock.counts == [1] * (len(BOUNDS_S) + 1)
    assert (clock.quantile_s(1 / len(clock.counts)), clock.quantile_s(1.0)) == (BOUNDS_S[0], BOUNDS_S[-1])
    assert list(timed([1, 2], UNTIMED["decode"])) == [1, 2]


def test_the_frames_a_second_are_those_of_the_last_seconds(encoder, tmp_path):
    telemetry = told()
    pipeline.run(
        [MemorySource([frame(n) for n in range(40)])],
        encoder=encoder,
        spool_path=tmp_path / "s",
        budget=4,
        telemetry=telemetry,
        watch=Silent(),
    )
    pace = telemetry.snapshot["pace"]
    assert pace["seen_per_s"] == pace["judged_per_s"] > 0.0
