"""An engine that fails at work: the next one answers the same frame, or the run pauses, and no frame is lost either way."""

import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from geal_edge.errors import BackendError, EngineStopped
from geal_edge.runtime import pipeline
from geal_edge.runtime.backends.choice import BackendName, open_backend
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.backends.ortgpu import OrtCuda
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.records import standing, write_record
from geal_edge.runtime.spooldb import connection
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.state import State
from geal_edge.runtime.verify import verify
from geal_edge.runtime.watched import WatchedEncoder, default_on_failure
from tests.fakes import MemorySource, frame
from tests.tampered import nan_always, nan_on_black, scaled, tampered

FIRST: BackendName = "openvino"
"""The name under which the engine runs that fails; what runs is ONNX Runtime, on a graph that was changed."""

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="needs OpenVINO: pip install 'geal-edge[openvino]'"
)


class Drifting(OrtCpu):
    """Right for a number of frames; then all its answers grow by a tenth."""

    name = FIRST
    left = 3

    def _infer(self, feeds):
        self.left -= 1
        answer = super()._infer(feeds)
        if self.left < 0:
            answer["patch_features"] *= np.float32(1.1)
        return answer


class FallenBack(OrtCuda):
    """The CUDA provider asked of an ONNX Runtime that cannot have it: a real session, which falls back."""

    def _providers(self, ort):
        return [("CUDAExecutionProvider", {})]


@pytest.fixture
def state(tmp_path):
    return State(folder=tmp_path / "state")


@pytest.fixture
def watched(tiny_bundle, tmp_path, state):
    """`watched({name: backend, ...})` -> the tiny bundle on these engines in their order."""

    def make(engines, *, on_failure="cpu", check_every=5):
        return WatchedEncoder(
            tiny_bundle,
            list(engines),
            engines.__getitem__,
            on_failure=on_failure,
            state=state,
            check_every=check_every,
            wall_ns=lambda: 0,
        )

    return make


def honest(bundle):
    return OrtCpu(bundle.graph, threads=1)


def black_at(*places, frames=12):
    """Frames of noise, and black ones."""
    items = [frame(i) for i in range(frames)]
    return MemorySource([replace(f, image=f.image * 0) if f.frame_index in places else f for f in items])


class Notes(Silent):
    def __init__(self):
        self.said = []

    def warn(self, message):
        self.said.append(message)


def run(source, encoder, path, watch=None):
    with encoder:
        pipeline.run([source], encoder=encoder, spool_path=path, budget=4, watch=watch or Silent())


def outcome(path):
    with open_view(path) as view:
        assert view.check() == []
        return [(line["id"], line["distance"]) for line in view.list_lines()], view.counts()


def events(path):
    with connection(path / "spool.db") as db:
        rows = db.execute("SELECT name, detail FROM events WHERE name LIKE 'engine%' ORDER BY event").fetchall()
    return [(name, json.loads(detail)) for name, detail in rows]


def test_an_engine_that_answers_nan_is_replaced_and_every_frame_is_judged(tiny_bundle, watched, tmp_path):
    bad = tampered(tiny_bundle, tmp_path / "bad", nan_on_black)
    notes = Notes()
    run(black_at(7), watched({FIRST: honest(bad), "ort-cpu": honest(tiny_bundle)}), tmp_path / "s", notes)
    run(black_at(7), watched({"ort-cpu": honest(tiny_bundle)}), tmp_path / "plain")
    assert outcome(tmp_path / "s") == outcome(tmp_path / "plain")
    assert any(f"engine {FIRST} failed, ort-cpu goes on" in said for said in notes.said)
    ((name, detail),) = events(tmp_path / "s")
    assert name == "engine_changed"
    assert (detail["was"], detail["now"]) == (FIRST, "ort-cpu")
    assert "NaN, infinity" in detail["reason"]
    assert detail["unchecked"] == 2  # of frames 0 to 6 five were followed by a check


def test_with_pause_the_run_stops_before_the_frame_and_the_same_command_goes_on_with_it(tiny_bundle, watched, tmp_path):
    bad = tampered(tiny_bundle, tmp_path / "bad", nan_on_black)
    engines = {FIRST: honest(bad), "ort-cpu": honest(tiny_bundle)}
    with pytest.raises(EngineStopped, match="Nothing is lost"):
        run(black_at(7), watched(engines, on_failure="pause"), tmp_path / "s")
    assert outcome(tmp_path / "s")[1][0]["seen"] == 7
    ((name, detail),) = events(tmp_path / "s")
    assert (name, detail["now"]) == ("engine_stopped", None)
    run(black_at(7), watched({"ort-cpu": honest(tiny_bundle)}), tmp_path / "s")
    run(black_at(7), watched({"ort-cpu": honest(tiny_bundle)}), tmp_path / "plain")
    assert outcome(tmp_path / "s") == outcome(tmp_path / "plain")


def test_an_engine_that_drifts_is_found_at_the_next_reference_frame(tiny_bundle, watched, tmp_path):
    # It answers one reference frame and two frames right, then three wrong ones before it is asked again.
    run(black_at(), watched({FIRST: Drifting(tiny_bundle.graph), "ort-cpu": honest(tiny_bundle)}), tmp_path / "s")
    ((name, detail),) = events(tmp_path / "s")
    assert name == "engine_changed"
    assert "drifts from the reference" in detail["reason"]
    assert detail["unchecked"] == 5
    assert outcome(tmp_path / "s")[1][0]["seen"] == 12


@pytest.mark.parametrize("change", [nan_always, scaled(1.1)])
def test_an_engine_that_is_wrong_from_the_start_judges_no_frame_at_all(tiny_bundle, watched, tmp_path, change):
    bad = tampered(tiny_bundle, tmp_path / "bad", change)
    encoder = watched({FIRST: honest(bad), "ort-cpu": honest(tiny_bundle)})
    run(black_at(), encoder, tmp_path / "s")
    run(black_at(), watched({"ort-cpu": honest(tiny_bundle)}), tmp_path / "plain")
    assert outcome(tmp_path / "s") == outcome(tmp_path / "plain")
    assert events(tmp_path / "s")[0][1]["unchecked"] == 0


def test_engines_that_do_not_start_are_passed_over(tiny_bundle, watched, tmp_path):
    bad = tampered(tiny_bundle, tmp_path / "bad", nan_always)
    engines = {FIRST: honest(bad), "ort-cuda": FallenBack(tiny_bundle.graph), "ort-cpu": honest(tiny_bundle)}
    run(black_at(), watched(engines), tmp_path / "s")
    ((_, detail),) = events(tmp_path / "s")
    assert detail["now"] == "ort-cpu"
    assert "fell back from CUDAExecutionProvider to CPUExecutionProvider" in detail["reason"]


def test_where_all_engines_fail_the_run_stops_and_names_each(tiny_bundle, watched, tmp_path):
    bad = tampered(tiny_bundle, tmp_path / "bad", nan_always)
    with pytest.raises(EngineStopped, match="fell back"):
        run(black_at(), watched({FIRST: honest(bad), "ort-cuda": FallenBack(bad.graph)}), tmp_path / "s")
    assert outcome(tmp_path / "s")[1][0]["seen"] == 0


def test_a_first_engine_that_does_not_start_ends_the_run_with_its_own_sentence(tiny_bundle, watched):
    engines = {"ort-cuda": FallenBack(tiny_bundle.graph), "ort-cpu": honest(tiny_bundle)}
    with pytest.raises(BackendError, match="fell back"):
        watched(engines).__enter__()


@needs_openvino
def test_a_verified_engine_that_fails_is_not_verified_any_more(tiny_bundle, watched, state, tmp_path):
    found = verify(
        tiny_bundle,
        FIRST,
        lambda name: open_backend(name, tiny_bundle.graph, cache=tmp_path, threads=1),
        watch=Silent(),
    )
    write_record(state, tiny_bundle, found, wall_ns=0)
    assert standing(state, tiny_bundle, FIRST).verdict == "verified"
    run(black_at(), watched({FIRST: Drifting(tiny_bundle.graph), "ort-cpu": honest(tiny_bundle)}), tmp_path / "s")
    assert standing(state, tiny_bundle, FIRST).verdict == "failed"
    assert "drifts" in standing(state, tiny_bundle, FIRST).why


def test_a_state_that_cannot_be_written_stops_no_run(tiny_bundle, watched, state, tmp_path):
    state.folder.write_text("a file in the way")
    bad = tampered(tiny_bundle, tmp_path / "bad", nan_always)
    run(black_at(), watched({"ort-cpu": honest(bad), FIRST: honest(tiny_bundle)}), tmp_path / "s")
    assert outcome(tmp_path / "s")[1][0]["seen"] == 12


def test_a_jetson_pauses_by_default(tmp_path):
    (tmp_path / "nv_tegra_release").touch()
    assert default_on_failure(tmp_path / "nv_tegra_release") == "pause"
    assert default_on_failure(tmp_path / "absent") == "cpu"
