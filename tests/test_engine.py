"""`build`: a plan is built where it can be, found again where it fits, and never given to TensorRT where it does not.

TensorRT-RTX builds without a GPU: `make test-rtx` runs those tests. No plan is run here.
"""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest

from geal_edge.errors import BackendError, Interrupted, MissingDependency, UsageError
from geal_edge.export import engine
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.plan import PlanFacts, why_not, write_plan
from geal_edge.runtime.state import State
from geal_edge.runtime.stopping import Stop
from tests.tampered import with_graph
from tests.test_gpu_backends import no_gpu

rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX: pip install 'geal-edge[rtx]'")
FACTS = PlanFacts(
    module="tensorrt", version="10.3.0", gpu="a GPU", compute_capability="8.7", graph="sha256:1", max_batch=1
)


@pytest.fixture
def state(tmp_path):
    return State(folder=tmp_path / "state")


class Phases(Silent):
    """What was said of the progress."""

    def __init__(self):
        self.began = []
        self.steps = 0

    def begin(self, what, total):
        self.began.append((what, total))

    def advance(self, **counts):
        self.steps += 1


def build(bundle, state, *, compute_capability="8.6", watch=None, stop=None, **more):
    return engine.build(
        bundle, state, compute_capability=compute_capability, watch=watch or Silent(), stop=stop or Stop(), **more
    )


@rtx
def test_a_plan_is_built_beside_its_json_outside_the_bundle_and_found_again(tiny_bundle, state):
    before = sorted(path.name for path in tiny_bundle.path.iterdir())
    phases = Phases()
    built = build(tiny_bundle, state, max_batch=8, watch=phases)
    assert built.why == "there was none"
    assert built.path.is_relative_to(state.of_bundle(tiny_bundle.digest))
    record = json.loads(built.path.with_suffix(".json").read_text())
    assert record["schema"] == "geal-edge/plan/1"
    assert (record["module"], record["compute_capability"], record["max_batch"]) == ("tensorrt_rtx", "8.6", 8)
    assert record["graph"] == tiny_bundle.manifest.graph_digest
    assert record["plan"]["bytes"] == built.path.stat().st_size
    assert sorted(path.name for path in tiny_bundle.path.iterdir()) == before
    assert phases.began
    assert phases.steps
    assert build(tiny_bundle, state, max_batch=8).why is None


@rtx
def test_a_plan_that_was_cut_off_is_built_anew(tiny_bundle, state):
    path = build(tiny_bundle, state).path
    path.write_bytes(path.read_bytes()[:1000])
    assert "damaged or cut off" in str(build(tiny_bundle, state).why)
    assert build(tiny_bundle, state).why is None


@rtx
def test_a_graph_that_is_none_is_refused_in_tensorrts_words(tiny_bundle, state, tmp_path):
    bundle = with_graph(tiny_bundle, tmp_path / "b", lambda graph: graph.write_bytes(b"not a graph"))
    with pytest.raises(BackendError, match="TensorRT cannot take this graph"):
        build(bundle, state)
    assert not state.of_bundle(bundle.digest).exists()


@rtx
def test_a_gpu_that_tensorrt_rtx_does_not_build_for_is_named_with_those_that_it_does(tiny_bundle, state):
    with pytest.raises(UsageError, match=r"--compute-capability 8\.7: .*8\.6"):
        build(tiny_bundle, state, compute_capability="8.7")


@rtx
def test_a_build_that_is_stopped_writes_nothing(tiny_bundle, state):
    stop = Stop()
    stop.ask()
    with pytest.raises(Interrupted, match="nothing was written"):
        build(tiny_bundle, state, stop=stop)
    assert not state.folder.exists()


@no_gpu
def test_without_a_driver_nothing_of_tensorrt_is_made_and_the_way_out_is_named(tiny_bundle, state):
    with pytest.raises(BackendError, match=r"no NVIDIA driver.*--compute-capability"):
        build(tiny_bundle, state, compute_capability=None)


def test_tensorrt_that_is_not_installed_names_the_command(tiny_bundle, state, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependency, match=r"geal-edge\[rtx\]"):
        build(tiny_bundle, state)


@pytest.mark.parametrize(
    ("here", "words"),
    [({"gpu": "another GPU"}, "its gpu is 'a GPU', here it is 'another GPU'"),
     ({"version": "11.4.0"}, "its version is '10.3.0'"), ({"graph": "sha256:2"}, "its graph")],
)  # fmt: skip
def test_a_plan_of_another_gpu_version_or_graph_is_refused_by_its_json(tmp_path, here, words):
    write_plan(tmp_path, FACTS, b"plan", driver="12.6")
    assert words in str(why_not(tmp_path, replace(FACTS, **here)))
    assert why_not(tmp_path, FACTS) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "null"])
def test_a_plan_whose_json_is_damaged_is_not_used(tmp_path, text):
    path = write_plan(tmp_path, FACTS, b"plan", driver=None)
    path.with_suffix(".json").write_text(text)
    assert "cannot be read" in str(why_not(tmp_path, FACTS))


def test_a_plan_of_another_schema_or_without_its_bytes_is_not_used(tmp_path):
    path = write_plan(tmp_path, FACTS, b"plan", driver=None)
    path.unlink()
    assert path.name in str(why_not(tmp_path, FACTS))
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**record, "schema": "geal-edge/plan/9"}))
    assert "schema" in str(why_not(tmp_path, FACTS))


def test_the_workspace_of_a_jetson_is_a_quarter_of_what_is_free(tmp_path):
    (tmp_path / "jetson").touch()
    (tmp_path / "meminfo").write_text("MemTotal:  8000000 kB\nMemAvailable:    2097152 kB\n")
    assert engine.workspace(tmp_path / "jetson", tmp_path / "meminfo") == 512
    assert engine.workspace(tmp_path / "no", tmp_path / "meminfo") == engine.WORKSPACE_MIB
