"""What `geal-edge bench` measures and tells; no number of a clock is asserted."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from geal_edge.cli.app import app
from geal_edge.errors import Interrupted, SourceError, UsageError
from geal_edge.runtime import bench as benching
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.bench import SCHEMA, Bench, Point, bench
from geal_edge.runtime.bench.plot import svg
from geal_edge.runtime.bench.stages import WARM_UP, measure_stages, pipeline_pace
from geal_edge.runtime.bench.told import UNTOLD, last_line, lines
from geal_edge.runtime.clocks import STAGES
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.frame import LostFrame
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sensors import Reading, Sensors, energy_j
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.stopping import Stop
from tests.fakes import MemorySource, frame


def told_by(root: Path, **files: str) -> Path:
    """A /sys with these files, `__` for `/`."""
    for name, text in files.items():
        path = root / "sys" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.fixture(scope="module")
def found(tiny_bundle, tmp_path_factory) -> Bench:
    silent = Sensors(tmp_path_factory.mktemp("root"), nvml="no-such-library.so")
    with Encoder(tiny_bundle, OrtCpu(tiny_bundle.graph, threads=1)) as encoder:
        return bench(encoder, open_source("drawn:0:16"), frames=4, sensors=silent, watch=Silent())


def test_every_stage_and_every_batch_has_its_numbers(found):
    assert tuple(found.stages) == STAGES
    assert all(0.0 < stage.p50 <= stage.p95 <= stage.p99 for stage in found.stages.values())
    assert list(found.batches) == [1, 2, 4, 8]
    assert found.frames == 4
    assert len(found.pipeline_frames_per_s) == len(found.encoder_frames_per_s) == 3
    assert found.source_frames_per_s == 5.0
    assert found.commits > 0
    assert found.syncs >= found.commits


def test_the_peak_is_of_what_a_run_does_and_not_of_the_batches(tiny_bundle, tmp_path, monkeypatch):
    """A batch of eight takes more than all else, and no vehicle makes one."""
    made: list[int] = []

    def batches(encoder, costs):
        made.append(8)
        return {8: 1.0}

    monkeypatch.setattr(benching, "_batches", batches)
    monkeypatch.setattr(benching, "_peak_mb", lambda: 425.0 if made else 301.0)
    with Encoder(tiny_bundle, OrtCpu(tiny_bundle.graph, threads=1)) as encoder:
        found = bench(
            encoder,
            open_source("drawn:0:16"),
            frames=4,
            sensors=Sensors(tmp_path, nvml="no-such-library.so"),
            watch=Silent(),
        )
    assert (made, found.peak_memory_mb) == ([8], 301.0)


def test_what_the_system_does_not_tell_is_said_so_and_is_no_zero(found):
    text = "\n".join(lines(found))
    assert found.energy_j == {}
    assert f"energy      {UNTOLD}" in text
    assert f"bytes {UNTOLD}" in "\n".join(lines(replace(found, bytes_=None)))
    point = Point(at_s=30.0, frames_per_s=4.0, temperatures={}, clocks={})
    assert f"temperature: {UNTOLD}; clocks: {UNTOLD}" in "\n".join(lines(replace(found, sustained=[point])))
    assert last_line(replace(found, peak_memory_mb=None)).endswith(UNTOLD)


def test_the_last_line_says_what_an_integrator_wants_at_the_rate_of_a_live_source(found):
    of_gpu = replace(found, cpu_ms=20.0, gpu_ms=3.0, peak_memory_mb=412.4, pipeline_frames_per_s=[9.0, 10.0, 11.0])
    assert (
        last_line(of_gpu) == "at 2 frames a second, as of a live source: 4 % of one core, 3.0 ms GPU per frame, 412 MB"
    )
    assert last_line(replace(of_gpu, gpu_ms=None, pipeline_frames_per_s=[0.5])).startswith(
        "at 0.5 frames a second, all that it makes: 1 % of one core, no GPU"
    )
    assert list(lines(found))[-1] == last_line(found)


def test_the_machine_form_can_be_written_and_names_its_schema(found):
    told = json.loads(json.dumps(found.as_json()))
    assert told["schema"] == SCHEMA
    assert set(told["written_per_1000_frames"]) == {"commits", "syncs", "bytes"}
    assert told["stages"]["encode"]["p50"] == found.stages["encode"].p50


def test_the_drawing_is_sound_with_and_without_a_sustained_run(found):
    points = [
        Point(at_s=10.0 * i, frames_per_s=20.0 - i, temperatures={"cpu": 50.0 + i}, clocks={}) for i in range(1, 4)
    ]
    for each, curves in ((found, 0), (replace(found, sustained=points), 2)):
        drawing = ET.fromstring(svg(each))
        assert len(drawing.findall("{http://www.w3.org/2000/svg}polyline")) == curves


def test_frames_that_are_lost_are_passed_over_and_what_was_measured_is_a_sound_spool(encoder, tmp_path):
    lost = LostFrame(
        id="memory#3", source="memory", frame_index=3, capture_time_ns=None, reason="truncated", detail="cut off"
    )
    items = [lost if i == 3 else frame(i) for i in range(WARM_UP + 6)]
    costs = measure_stages(MemorySource(items), encoder, tmp_path / "s", budget=3, frames=6)
    assert costs.frames == 5
    with open_view(tmp_path / "s") as view:
        assert view.check() == []
        assert view.counts()[0]["seen"] == WARM_UP + 6


def test_a_source_with_too_few_frames_is_refused_by_name(encoder):
    with pytest.raises(SourceError, match="memory: has too few"):
        bench(encoder, MemorySource([frame(0)]), watch=Silent())


def test_the_pace_is_taken_on_the_source_again_and_again_and_stops_when_asked(encoder, tmp_path):
    source = MemorySource([frame(i) for i in range(5)])
    done_at = pipeline_pace(source, encoder, tmp_path / "s", budget=2, enough=lambda n: n >= 12)
    assert done_at == sorted(done_at)
    assert len(done_at) == 12
    stop = Stop()
    stop.ask()
    with pytest.raises(Interrupted):
        pipeline_pace(source, encoder, tmp_path / "t", budget=2, enough=lambda n: False, stop=stop)


def test_stopped_while_it_goes_on_for_minutes_it_tells_what_it_has(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(benching, "LOOK_S", 0.0)
    stop, silent = Stop(), Sensors(tmp_path, nvml="no-such-library.so")

    class Watch(Silent):
        def begin(self, what: str, total: int | None) -> None:
            if what == "the pipeline for 600 minutes":
                monkeypatch.setattr(silent, "read", stopping)

    readings: list[Reading] = []

    def stopping(at_s: float) -> Reading:
        readings.append(Reading(at_s=at_s, temperatures={}, clocks={}, joules={}, watts={}))
        if len(readings) == 30:
            stop.ask()
        return readings[-1]

    source = MemorySource([frame(i) for i in range(WARM_UP + 4)])
    found = bench(encoder, source, frames=3, minutes=600, sensors=silent, watch=Watch(), stop=stop)

    assert len(readings) == 30
    assert found.sustained is not None
    assert [point.frames_per_s > 0 for point in found.sustained] == [True]
    assert any(line.startswith("sustained") for line in lines(found))
    assert list(found.batches) == [1, 2, 4, 8]


def test_sensors_are_read_where_they_are_and_absent_where_not(tmp_path):
    root = told_by(
        tmp_path,
        class__thermal__thermal_zone0__type="cpu-thermal",
        class__thermal__thermal_zone0__temp="61500",
        class__thermal__thermal_zone1__type="off",
        devices__system__cpu__cpu0__cpufreq__scaling_cur_freq="1500000",
        devices__system__cpu__cpu1__cpufreq__scaling_cur_freq="2500000",
        class__hwmon__hwmon3__name="ina3221",
        class__hwmon__hwmon3__in1_label="VDD_IN",
        class__hwmon__hwmon3__in1_input="5000",
        class__hwmon__hwmon3__curr1_input="1200",
        class__hwmon__hwmon4__name="nvme",
    )
    package = root / "sys/class/powercap/intel-rapl:0"
    package.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "7000000"), ("max_energy_range_uj", "9000000")):
        (package / name).write_text(text)
    sensors = Sensors(root, nvml="no-such-library.so")
    reading = sensors.read(3.0)
    assert reading.temperatures == {"cpu-thermal": 61.5}
    assert reading.clocks == {"cpu": 2000.0}
    assert reading.watts == {"VDD_IN": 6.0}
    assert reading.joules == {"package-0": 7.0}
    assert sensors.wraps == {"package-0": 9.0}
    nothing = Sensors(tmp_path / "none", nvml="no-such-library.so").read(0.0)
    assert nothing == Reading(at_s=0.0, temperatures={}, clocks={}, joules={}, watts={})


def test_a_counter_that_begins_again_has_used_what_is_left_to_its_range():
    def at(second: float, joules: float) -> Reading:
        return Reading(at_s=second, temperatures={}, clocks={}, joules={"package-0": joules}, watts={})

    assert energy_j([at(0, 8.0), at(1, 1.0), at(2, 4.0)], {"package-0": 9.0}) == {"package-0": 2.0 + 3.0}
    assert energy_j([at(0, 8.0)], {}) == {}


def test_the_command_prints_the_table_and_draws(tiny_bundle, tmp_path):
    plot = tmp_path / "bench.svg"
    words = ["bench", str(tiny_bundle.path), "--backend", "ort-cpu", "--source", "drawn:0:16", "--plot", str(plot)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "ms a frame" in result.output
    assert "% of one core" in result.output.splitlines()[-1]
    ET.parse(plot)


def test_a_live_source_is_refused_as_what_it_is(tiny_bundle):
    result = CliRunner().invoke(app, ["bench", str(tiny_bundle.path), "--source", "rtsp://127.0.0.1:1/stream"])
    assert isinstance(result.exception, UsageError)
    assert "is a live source" in str(result.exception)
