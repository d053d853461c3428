"""Gates on drawn drives: what they hold back, and that a kill changes nothing of it."""

from dataclasses import replace

import numpy as np
import pytest

from geal_edge.config import GateConfig
from geal_edge.errors import FrameGated, Interrupted, UsageError
from geal_edge.runtime import pipeline
from geal_edge.runtime.frame import Frame, usable
from geal_edge.runtime.gates import MAX_SHIFT, Gates, shift, view_of
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.why import sentence, why
from tests.fakes import Died, MemorySource, StopAfter, dying_disk

SLOW = GateConfig(
    min_interval_s=0.5,
    standing_still=True,
    only_if=("speed_kmh >= 0",),
    inhibit=('gear == "R"',),
)


def street(number: int = 0) -> np.ndarray:
    return usable(list(open_source(f"drawn:1:{number + 1}").frames())[number]).image


def noisy(image: np.ndarray, seed: int, sigma: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(image * rng.uniform(0.95, 1.05) + rng.normal(0.0, sigma, image.shape), 0, 255).astype(np.uint8)


def drive() -> MemorySource:
    """A drawn drive at 2.5 Hz: frames 10 to 15 stand still, 18 to 20 go backwards, of 22 and 23 nothing is known, and at 26
    the clock is set back."""
    frames = [usable(item) for item in open_source("drawn:1:30").frames()]
    for i, frame in enumerate(frames):
        said = {"speed_kmh": float(i), "gear": "R" if 18 <= i < 21 else "D"}
        frames[i] = replace(
            frame,
            capture_time_ns=(i if i < 26 else i - 20) * 400_000_000,
            image=noisy(frames[10].image, i) if 10 <= i < 16 else frame.image,
            metadata={} if 22 <= i < 24 else said,
        )
    return MemorySource(list(frames), name=frames[0].source)


def film(times_s: list[float], topic: str | None = None, **more) -> list[Frame]:
    return [
        Frame(
            id=f"s#{i}",
            source="s",
            frame_index=i,
            capture_time_ns=round(time_s * 1e9),
            image=np.zeros((9, 9, 3), np.uint8),
            topic=topic,
            **more,
        )
        for i, time_s in enumerate(times_s)
    ]


def told(gates: Gates, frames: list[Frame]) -> list[str]:
    reasons = []
    for frame in frames:
        try:
            gates.learn(frame.topic, gates.before(frame))
            reasons.append("")
        except FrameGated as gate:
            reasons.append(gate.reason)
    return reasons


def outcome(path):
    with open_view(path) as view:
        assert view.check() == []
        lines = [{**line, "file": None} for line in view.list_lines(retained=True)]
        return lines, view.counts(), view.gated(), view.certificate(), view.timeline.buckets


def run(encoder, path, gates=SLOW, **more) -> None:
    pipeline.run([drive()], encoder=encoder, spool_path=path, budget=5, gates=gates, watch=Silent(), **more)


def test_frames_of_a_camera_come_at_least_so_far_apart_and_a_clock_that_is_set_back_blocks_nothing():
    gates = Gates(GateConfig(min_interval_s=1.0))
    assert told(gates, film([0, 0.5, 0.999, 1.0, 1.9, 100.0, 100.5, 3.0, 3.9, 4.0])) == [
        *("", "too_soon", "too_soon", "", "too_soon"),
        *("", "too_soon", "", "too_soon", ""),
    ]
    assert told(gates, film([4.1], topic="other")) == [""]


def test_a_clock_that_stands_blocks_nothing():
    assert told(Gates(GateConfig(min_interval_s=1.0)), film([7.0, 7.0, 7.0])) == ["", "", ""]


def test_a_frame_without_a_time_is_never_too_soon():
    frames = [replace(frame, capture_time_ns=None) for frame in film([0, 0])]
    assert told(Gates(GateConfig(min_interval_s=1.0)), frames) == ["", ""]


def test_only_if_needs_to_know_and_inhibit_does_not_fire_on_what_nobody_knows():
    only, inhibit = GateConfig(only_if=("speed_kmh > 5",)), GateConfig(inhibit=("speed_kmh > 5",))
    for said, reasons in (
        ({"speed_kmh": 9}, ("", "inhibited")),
        ({"speed_kmh": 1}, ("condition", "")),
        ({"speed_kmh": "?"}, ("condition", "")),
        ({}, ("condition", "")),
    ):
        found = tuple(told(Gates(config), film([0], metadata=said))[0] for config in (only, inhibit))
        assert found == reasons


def test_a_condition_that_is_none_is_said_before_a_spool_is_made(encoder, tmp_path):
    with pytest.raises(UsageError, match="character 8"):
        run(encoder, tmp_path / "s", gates=GateConfig(only_if=("speed >",)))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("number", [0, 7])
def test_noise_brightness_and_a_wiper_leave_the_view_the_same_and_a_drive_does_not(number):
    image = street(number)
    before = view_of(image)
    wiped = noisy(image, 1)
    wiped[:, 30:50] = 20
    for still in (image, noisy(image, 2), noisy(image, 3, sigma=8.0), wiped, (image * 0.7).astype(np.uint8)):
        assert shift(before, view_of(still)) < MAX_SHIFT
    assert shift(before, view_of(np.roll(image, 3, axis=1))) > MAX_SHIFT
    assert shift(before, view_of(street(number + 10))) > MAX_SHIFT


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 700, 3), (48, 80, 3)])
def test_a_picture_of_any_size_has_a_view(shape):
    view = view_of(np.full(shape, 255, np.uint8))
    assert (view == 255).all()
    assert shift(view, view) == 0.0


def test_what_gates_hold_back_is_counted_and_explained_and_no_guard_sees_it(encoder, tmp_path):
    run(encoder, tmp_path / "s", guard="pixels")
    lines, (counts, _), gated, *_ = outcome(tmp_path / "s")
    assert gated.keys() == {"too_soon", "standing_still", "condition", "inhibited"}
    assert (gated["inhibited"], gated["condition"]) == (3, 2)
    assert gated["standing_still"] >= 3
    assert counts["seen"] == 30
    assert not {18, 19, 20, 22, 23} & {line["frame_index"] for line in lines}
    with open_view(tmp_path / "s") as view:
        facts = why(view, drive().items[22].id)
        (changed,) = [event for event in view.events() if event["name"] == "gates_changed"]
    assert sentence(facts) == "gated, condition: speed_kmh >= 0: is not known"
    assert changed["now"]["min_interval_s"] == 0.5


def test_a_run_that_is_stopped_and_gone_on_with_is_one_uninterrupted_run(encoder, tmp_path):
    run(encoder, tmp_path / "whole", guard="all")
    for n in (13, 8):
        with pytest.raises(Interrupted):
            run(encoder, tmp_path / "parts", guard="all", stop=StopAfter(n))
    run(encoder, tmp_path / "parts", guard="all")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_run_that_dies_at_the_disk_and_goes_on_is_one_uninterrupted_run(encoder, tmp_path, monkeypatch):
    run(encoder, tmp_path / "whole")
    with dying_disk(monkeypatch) as disk:
        run(encoder, tmp_path / "counted")
    for at in (disk.count // 3, 2 * disk.count // 3):
        path = tmp_path / f"killed-{at}"
        with dying_disk(monkeypatch, at), pytest.raises(Died):
            run(encoder, path)
        run(encoder, path)
        assert outcome(path) == outcome(tmp_path / "whole")


def test_gates_may_change_between_runs_and_what_changed_is_an_event(encoder, tmp_path):
    with pytest.raises(Interrupted):
        run(encoder, tmp_path / "s", stop=StopAfter(10))
    run(encoder, tmp_path / "s", gates=GateConfig())
    with open_view(tmp_path / "s") as view:
        events = [event for event in view.events() if event["name"] == "gates_changed"]
    assert [event["now"]["standing_still"] for event in events] == [True, False]


def test_a_source_that_is_read_again_is_gated_as_if_for_the_first_time(encoder, tmp_path):
    run(encoder, tmp_path / "s")
    once = outcome(tmp_path / "s")[2]
    run(encoder, tmp_path / "s", again=True)
    assert outcome(tmp_path / "s")[2] == {reason: 2 * n for reason, n in once.items()}
