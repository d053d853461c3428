"""TensorRT plans at work, on a driver and a TensorRT that are drawn (tests/fakegpu.py): no GPU has run any of this.

What is real: which plan is taken and which refused, the order in which things are asked, buffers, threads, capture. What the
fakes cannot show is that the real ones answer as they do; that the names exist in them is asked of the real packages below.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import benchmarks.gpu
from geal_edge.errors import BackendError, MissingDependency, UsageError
from geal_edge.export import engine
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.backends import cuda as cuda_calls
from geal_edge.runtime.backends import identity as identity_calls
from geal_edge.runtime.backends import tensorrt as tensorrt_calls
from geal_edge.runtime.backends.choice import open_backend
from geal_edge.runtime.backends.tensorrt import TensorRt
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.engines import choose
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.plan import find_plan
from geal_edge.runtime.records import standing, write_record
from geal_edge.runtime.state import State
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.verify import verify
from geal_edge.runtime.watched import WatchedEncoder
from tests.contracts import BACKEND_CHECKS, it_refuses_a_file_that_is_no_graph
from tests.fakegpu import DRIVER, FakeDriver, FakeTensorRt
from tests.fakes import MemorySource, frame
from tests.tampered import nan_always, tampered
from tests.test_gpu_backends import no_gpu
from tests.test_watched import events, outcome, run


@pytest.fixture
def state(state_folder):
    return State(folder=state_folder)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A machine with a GPU, TensorRT 10.3.0 and cuda-bindings."""
    driver = FakeDriver()
    for module in (tensorrt_calls, engine, identity_calls):
        monkeypatch.setattr(module, "probe", lambda: DRIVER)
    for module in (cuda_calls, engine):
        monkeypatch.setattr(module, "cuda_bindings", lambda: driver)
    trt = FakeTensorRt(driver)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    folder = tmp_path / "site" / "tensorrt-10.3.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt\nVersion: 10.3.0\n")
    monkeypatch.syspath_prepend(folder.parent)
    return trt


def build(bundle, state, **more):
    return engine.build(bundle, state, watch=more.pop("watch", Silent()), stop=Stop(), **more)


def on_plan(bundle, state):
    return TensorRt(bundle.graph, cache=state.of_bundle(bundle.digest))


def frames(bundle, count, seed=0):
    shape = (count, bundle.manifest.height, bundle.manifest.width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# -- at work -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
def test_a_plan_holds_the_contract_of_every_backend(gpu, tiny_bundle, state, check):
    if check is it_refuses_a_file_that_is_no_graph:
        pytest.skip("a plan is found by its graph's digest: another file has none")
    build(tiny_bundle, state, max_batch=8)
    check(
        lambda graph: open_backend("tensorrt", graph, cache=state.of_bundle(tiny_bundle.digest)),
        tiny_bundle,
    )


def test_all_that_was_taken_of_the_gpu_is_given_back(gpu, tiny_bundle, state):
    build(tiny_bundle, state)
    with on_plan(tiny_bundle, state) as backend:
        for seed in range(4):
            backend.run({"image": frames(tiny_bundle, 1, seed)})
        assert ("stream", 1, 0) in gpu.driver.alive.values()  # 0 is the lowest priority of this one, -5 the highest
    assert gpu.driver.alive == {}


def test_from_the_third_run_on_a_captured_graph_answers_as_the_plan_did(gpu, tiny_bundle, state):
    build(tiny_bundle, state, max_batch=2)
    with on_plan(tiny_bundle, state) as backend:
        answers = []
        for count in (1, 1, 1, 1, 2, 1):
            image = frames(tiny_bundle, count, 5)
            answers.append(backend.run({"image": image})["patch_features"][0].copy())
    # Captured at the second run; a batch of another size and back again begins anew.
    assert gpu.driver.calls.count("cuGraphLaunch") == 3
    assert gpu.driver.calls.count("cuStreamBeginCapture") == 1
    np.testing.assert_allclose(answers, [answers[0]] * len(answers), rtol=0, atol=1e-4)


@pytest.mark.parametrize("refused", ["plan", "cuStreamEndCapture", "cuGraphInstantiate"])
def test_what_cannot_be_captured_runs_all_the_same(gpu, tiny_bundle, state, refused):
    gpu.capturable = refused != "plan"
    gpu.driver.refuses = {refused}
    build(tiny_bundle, state)
    with on_plan(tiny_bundle, state) as backend:
        first = backend.run({"image": frames(tiny_bundle, 1)})["patch_features"].copy()
        for _ in range(3):
            assert np.array_equal(backend.run({"image": frames(tiny_bundle, 1)})["patch_features"], first)
    assert "cuGraphLaunch" not in gpu.driver.calls
    assert gpu.driver.calls.count("cuStreamBeginCapture") == 1
    assert gpu.driver.alive == {}


def test_no_more_is_copied_than_the_batch_in_hand(gpu, tiny_bundle, state):
    build(tiny_bundle, state, max_batch=8)
    with on_plan(tiny_bundle, state) as backend:
        backend.run({"image": frames(tiny_bundle, 1)})
        assert gpu.driver.copied == [160 * 160 * 3, *(4 * size for size in (100 * 64, 100, 64))]
        with pytest.raises(BackendError, match=r"9 frames at once, this plan takes 8 .*--max-batch 9"):
            backend.run({"image": frames(tiny_bundle, 9)})


def test_a_plan_answers_in_another_thread_than_the_one_that_opened_it(gpu, tiny_bundle, state):
    build(tiny_bundle, state)
    found = []
    with on_plan(tiny_bundle, state) as backend:
        thread = threading.Thread(target=lambda: found.append(backend.run({"image": frames(tiny_bundle, 1)})))
        thread.start()
        thread.join()
    assert len(found) == 1


def test_a_gpu_that_fails_at_work_is_a_sentence_and_gives_back_what_it_can(gpu, tiny_bundle, state):
    build(tiny_bundle, state)
    with on_plan(tiny_bundle, state) as backend:
        backend.run({"image": frames(tiny_bundle, 1)})
        gpu.driver.refuses = {"cuEventSynchronize"}
        with pytest.raises(BackendError, match=r"the GPU refused a call \(719\)"):
            backend.run({"image": frames(tiny_bundle, 1)})
    assert gpu.driver.alive == {}


@pytest.mark.parametrize("call", ["cuStreamCreateWithPriority", "cuEventCreate", "cuMemAlloc", "cuMemAllocHost"])
def test_a_gpu_that_has_nothing_left_is_given_back_what_it_gave(gpu, tiny_bundle, state, call):
    build(tiny_bundle, state)
    gpu.driver.refuses = {call}
    with pytest.raises(BackendError, match="the GPU refused a call"):
        on_plan(tiny_bundle, state).__enter__()
    assert gpu.driver.alive == {}


def test_a_manifest_that_lies_about_shapes_is_found_against_the_plan(gpu, tiny_bundle, state):
    build(tiny_bundle, state)
    bundle = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, outputs={"patch_features": ("N", 7, 64)}))
    with pytest.raises(BackendError, match="the manifest promises"):
        Encoder(bundle, on_plan(bundle, state)).__enter__()
    assert gpu.driver.alive == {}


# -- which plan ----------------------------------------------------------------------------------------------------------


def edited(built, **facts):
    place = built.path.with_suffix(".json")
    place.write_text(json.dumps({**json.loads(place.read_text()), **facts}))


@no_gpu
def test_without_a_driver_nothing_of_tensorrt_is_touched(tiny_bundle, state, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # importing it would raise
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        on_plan(tiny_bundle, state).__enter__()


def test_a_machine_with_no_plan_is_told_the_command(gpu, tiny_bundle, state):
    with pytest.raises(BackendError, match=rf"no TensorRT plan .*geal-edge build {tiny_bundle.path}"):
        on_plan(tiny_bundle, state).__enter__()


@pytest.mark.parametrize(
    ("facts", "words"),
    [({"gpu": "another GPU"}, "its gpu is 'another GPU', here it is 'a GPU'"),
     ({"compute_capability": "8.6"}, "its compute_capability is '8.6', here it is '8.7'"),
     ({"compute_capability": "9.0+"}, "its compute_capability is"),
     ({"version": "10.16.1"}, "its version is '10.16.1', here it is '10.3.0'"),
     ({"module": "tensorrt_rtx"}, "its module is"), ({"graph": "sha256:0"}, "its graph is"),
     ({"schema": "geal-edge/plan/9"}, "its schema is"), ({"plan": None}, "cannot be read"),
     ({"compute_capability": "new"}, "cannot be read"), ({"max_batch": "8"}, "cannot be read")],
)  # fmt: skip
def test_a_plan_of_another_machine_or_graph_is_refused_before_any_object_of_tensorrt(
    gpu, tiny_bundle, state, facts, words
):
    edited(build(tiny_bundle, state), **facts)
    gpu.objects.clear()
    with pytest.raises(BackendError, match=words) as said:
        on_plan(tiny_bundle, state).__enter__()
    assert f"Build one: geal-edge build {tiny_bundle.path}" in str(said.value)
    assert gpu.objects == []
    assert gpu.driver.calls == []


def test_a_plan_that_was_cut_off_is_refused_before_any_object_of_tensorrt_and_built_anew(gpu, tiny_bundle, state):
    path = build(tiny_bundle, state).path
    path.write_bytes(path.read_bytes()[:1000])
    gpu.objects.clear()
    with pytest.raises(BackendError, match="damaged or cut off"):
        on_plan(tiny_bundle, state).__enter__()
    assert gpu.objects == []
    assert "damaged or cut off" in str(build(tiny_bundle, state).why)
    with on_plan(tiny_bundle, state) as backend:
        assert backend.name == "tensorrt"


def test_a_plan_that_tensorrt_refuses_all_the_same_is_told_in_its_words(gpu, tiny_bundle, state, monkeypatch):
    monkeypatch.setattr("tests.fakegpu.MAGIC", b"")
    build(tiny_bundle, state)
    monkeypatch.undo()
    monkeypatch.setattr(tensorrt_calls, "probe", lambda: DRIVER)
    monkeypatch.setattr(cuda_calls, "cuda_bindings", lambda: gpu.driver)
    monkeypatch.setitem(sys.modules, "tensorrt", gpu)
    with pytest.raises(BackendError, match="cannot load this plan: magic tag does not match"):
        on_plan(tiny_bundle, state).__enter__()
    assert gpu.driver.alive == {}


def test_identical_vehicles_may_share_a_plan(gpu, tiny_bundle, state, tmp_path):
    build(tiny_bundle, state)
    shutil.copytree(state.folder, tmp_path / "other")
    with on_plan(tiny_bundle, State(folder=tmp_path / "other")) as backend:
        assert backend.run({"image": frames(tiny_bundle, 1)})


def test_of_several_plans_that_of_the_smallest_batch_and_of_this_gpu_runs(gpu, tiny_bundle, state):
    for batch in (8, 2):
        build(tiny_bundle, state, max_batch=batch)
    with on_plan(tiny_bundle, state) as backend, pytest.raises(BackendError, match="takes 2 at most"):
        backend.run({"image": frames(tiny_bundle, 3)})
    build(tiny_bundle, state, max_batch=2, hardware_compatible=True)
    folder = state.of_bundle(tiny_bundle.digest)
    here = tensorrt_calls.facts_here(gpu, DRIVER, tiny_bundle.graph)
    assert find_plan(folder, here, build="")[1].gpu == "a GPU"


def test_a_hardware_compatible_plan_runs_on_any_gpu_from_ampere_on(gpu, tiny_bundle, state):
    built = build(tiny_bundle, state, hardware_compatible=True)
    assert (built.facts.gpu, built.facts.compute_capability) == (None, "8.0+")
    assert gpu.built[-1].hardware_compatibility_level == "ampere_plus"
    with on_plan(tiny_bundle, state) as backend:
        assert backend.run({"image": frames(tiny_bundle, 1)})


def test_hardware_compatible_plans_are_refused_where_tensorrt_has_none(gpu, tiny_bundle, state, monkeypatch, tmp_path):
    (tmp_path / "jetson").touch()
    monkeypatch.setattr(engine, "_JETSON", tmp_path / "jetson")
    with pytest.raises(UsageError, match=r"--hardware-compatible: .*Jetson"):
        build(tiny_bundle, state, hardware_compatible=True)
    with pytest.raises((UsageError, MissingDependency), match=r"TensorRT-RTX|rtx"):
        build(tiny_bundle, state, hardware_compatible=True, compute_capability="8.6")


# -- building and trusting -----------------------------------------------------------------------------------------------


def test_a_plan_is_verified_chosen_and_loses_its_record_when_it_is_built_anew(gpu, tiny_bundle, state):
    open_ = lambda name: open_backend(name, tiny_bundle.graph, cache=state.of_bundle(tiny_bundle.digest))  # noqa: E731
    path = build(tiny_bundle, state).path
    found = verify(tiny_bundle, "tensorrt", open_, watch=Silent())
    assert found.passed, found
    assert found.identity.engine.startswith("tensorrt 10.3.0")
    assert found.identity.device == str(DRIVER)
    write_record(state, tiny_bundle, found, wall_ns=0)
    assert choose("auto", tiny_bundle, state).names[0] == "tensorrt"
    assert build(tiny_bundle, state).why is None
    assert standing(state, tiny_bundle, "tensorrt").verdict == "verified"
    path.write_bytes(b"")
    build(tiny_bundle, state)
    assert standing(state, tiny_bundle, "tensorrt").verdict == "absent"


def test_a_plan_that_answers_nan_is_not_verified(gpu, tiny_bundle, state, tmp_path):
    bundle = tampered(tiny_bundle, tmp_path / "bad", nan_always)
    build(bundle, state)
    found = verify(
        bundle,
        "tensorrt",
        lambda name: open_backend(name, bundle.graph, cache=state.of_bundle(bundle.digest)),
        watch=Silent(),
    )
    assert not found.passed
    assert "NaN" in str(found)


def lose_the_gpu(gpu):
    gpu.driver.refuses = {"cuEventSynchronize"}


def answer_nan(gpu):
    gpu.answers_nan = True


@pytest.mark.parametrize(("fault", "words"), [(lose_the_gpu, "the GPU refused a call"), (answer_nan, "NaN")])
def test_a_plan_that_fails_at_work_is_replaced_and_no_frame_is_lost(gpu, tiny_bundle, state, tmp_path, fault, words):
    build(tiny_bundle, state)

    class Faulty(MemorySource):
        """A source at whose seventh frame the GPU fails; or so, as frames are read ahead."""

        def frames(self, after=-1):
            for item in super().frames(after):
                if item.frame_index == 6:
                    fault(gpu)
                yield item

    def encoder(*names):
        cache = state.of_bundle(tiny_bundle.digest)
        open_ = partial(open_backend, graph=tiny_bundle.graph, cache=cache, threads=1)
        return WatchedEncoder(tiny_bundle, names, open_, on_failure="cpu", state=state, wall_ns=lambda: 0)

    items: list[Frame | LostFrame] = [frame(i) for i in range(12)]
    run(Faulty(items), encoder("tensorrt", "ort-cpu"), tmp_path / "s")
    run(MemorySource(items), encoder("ort-cpu"), tmp_path / "plain")
    assert outcome(tmp_path / "s") == outcome(tmp_path / "plain")
    ((name, detail),) = events(tmp_path / "s")
    assert (name, detail["was"], detail["now"]) == ("engine_changed", "tensorrt", "ort-cpu")
    assert words in detail["reason"]
    assert standing(state, tiny_bundle, "tensorrt").verdict == "failed"
    assert gpu.driver.alive == {}


class Warnings(Silent):
    def __init__(self):
        self.said = []

    def warn(self, message):
        self.said.append(message)


@pytest.mark.parametrize(
    ("told", "warns"),
    [("a GPU, 37", True), ("a GPU, 0", False), ("another GPU, 99", False), ("a GPU, [N/A]", False), ("", False)],
)
def test_a_gpu_that_has_other_work_is_told_before_it_is_timed(
    gpu, tiny_bundle, state, tmp_path, monkeypatch, told, warns
):
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho '{told}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    watch = Warnings()
    build(tiny_bundle, state, watch=watch)
    assert [("busy (37 %)" in said) for said in watch.said] == [True] * warns


def test_where_nobody_can_say_whether_the_gpu_is_busy_nothing_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine.busy_words(DRIVER) is None


@no_gpu
def test_an_export_with_an_engine_is_refused_before_it_begins_where_there_is_no_gpu(cli, tmp_path):
    code, _, error = cli("export", "-w", "untrained:0", "--engine", "--out", tmp_path / "b")
    assert code == 12
    assert "no NVIDIA driver on this machine" in error
    assert not (tmp_path / "b").exists()


def test_an_engine_of_the_precision_for_cpus_is_refused(gpu, cli, tmp_path):
    words = ("export", "-w", "untrained:0", "--engine", "--precision", "int8-dynamic", "--calibrate", "drawn:0:40")
    code, _, error = cli(*words, "--out", tmp_path / "b")
    assert code == 2
    assert "int8-dynamic is for CPUs alone" in error


def test_an_export_with_an_engine_builds_and_verifies_it_so_that_run_takes_it(gpu, cli, tmp_path, state):
    code, out, error = cli("export", "-w", "untrained:0", "--size", "64x64", "--engine", "--out", tmp_path / "b")
    assert code == 0, error
    assert "tensorrt 10.3.0, a GPU of compute capability 8.7" in out
    assert "tensorrt: verified, tensorrt 10.3.0 on a GPU" in out
    assert "--backend tensorrt" in out
    assert standing(state, Bundle.open(tmp_path / "b"), "tensorrt").verdict == "verified"
    run = ("run", "drawn:1:10", "--bundle", tmp_path / "b", "--spool", tmp_path / "s", "--budget", 3)
    code, out, error = cli(*run, "--backend", "tensorrt")
    assert code == 0, error
    assert "3 of 10 frames selected" in out
    assert gpu.driver.alive == {}


def test_inspect_reads_plans_and_verifications(gpu, cli, tiny_bundle, state):
    path = build(tiny_bundle, state).path
    assert cli("verify", tiny_bundle.path, "--backend", "tensorrt")[0] == 0
    for place in (path, path.with_suffix(".json")):
        code, out, error = cli("inspect", place)
        assert code == 0, error
        assert "a GPU of compute capability 8.7" in out
        assert "whole" in out
    record = path.with_name("verify-tensorrt.json")
    code, out, error = cli("inspect", record)
    assert code == 0, error
    assert "tensorrt: verified" in out
    assert json.loads(cli("inspect", record, "--json")[1])["passed"] is True
    path.write_bytes(b"cut")
    assert "damaged or cut off" in cli("inspect", path)[1]
    assert "damaged" in json.loads(cli("inspect", path, "--json")[1])["damage"]
    record.write_text('{"schema": "geal-edge/verify/1"}')
    code, _, error = cli("inspect", record)
    assert (code, "is not whole" in error) == (2, True)
    path.with_suffix(".json").unlink()
    code, _, error = cli("inspect", path)
    assert (code, "for whom it is" in error) == (2, True)


@no_gpu
def test_the_benchmark_of_gpus_says_that_there_is_none(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit) as ended:
        benchmarks.gpu.main()
    assert ended.value.code == BackendError.exit_code
    assert "There is no GPU here, so nothing was measured: there is no NVIDIA driver" in capsys.readouterr().out


# -- the real packages ---------------------------------------------------------------------------------------------------


def names_asked_of(path: Path, *objects: str) -> set[str]:
    """Attributes that a file asks of a module, under these names of it."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in objects
    }


def test_cuda_bindings_has_every_name_that_is_asked_of_it():
    driver = pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings: pip install 'geal-edge[rtx]'")
    asked = names_asked_of(Path(str(cuda_calls.__file__)), "cuda", "self._cuda") - {"bindings"}
    assert len(asked) > 20
    assert [name for name in sorted(asked) if not hasattr(driver, name)] == []
    for flag in ("CU_STREAM_NON_BLOCKING", "CU_EVENT_BLOCKING_SYNC", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"):
        assert any(
            hasattr(getattr(driver, kind), flag) for kind in ("CUstream_flags", "CUevent_flags", "CUstreamCaptureMode")
        )


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for a library that answers as a driver does")
def test_the_real_cuda_bindings_make_each_call_as_a_driver_expects_it(tmp_path):
    pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings: pip install 'geal-edge[rtx]'")
    source, library = Path(__file__).with_name("fakecuda.c"), tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source, "-ldl"], check=True)
    script = """
import threading
import numpy as np
from geal_edge.runtime.backends.cuda import Stream

with Stream() as stream:
    device, host, back = stream.device_memory(1000), stream.pinned_memory(1000), stream.pinned_memory(1000)
    host[:] = np.arange(1000) % 251
    stream.copy_in(device, host[:500])
    stream.copy_out(back[:500], device)
    stream.wait()
    assert np.array_equal(host[:500], back[:500])

    def elsewhere():
        stream.use()
        stream.begin_capture()
        graph = stream.end_capture()
        graph.launch()
        graph.close()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
"""
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stderr == ""
    assert found.stdout.splitlines() == [
        *("stream of flags 1, priority 0", "event of flags 1", "capture of mode 1", "graph launched"),
        *("pinned memory freed", "pinned memory freed", "memory freed", "stream destroyed", "context released"),
    ]


def test_the_fakes_have_no_name_that_the_real_packages_have_not():
    driver = pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings: pip install 'geal-edge[rtx]'")
    assert [name for name in vars(FakeDriver) if name.startswith(("cu", "CU")) and not hasattr(driver, name)] == []


@no_gpu
def test_tensorrt_has_every_name_that_is_asked_of_it_and_of_its_objects():
    trt = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'geal-edge[rtx]'")
    paths = [Path(str(module.__file__)) for module in (engine, tensorrt_calls)]
    asked = set().union(*(names_asked_of(path, "trt") for path in paths))
    assert [name for name in sorted(asked - {"__name__", "__version__"}) if not hasattr(trt, name)] == []
    for kind, names in (
        (trt.ICudaEngine, names_asked_of(paths[1], "engine", "self._engine")),
        (trt.IExecutionContext, names_asked_of(paths[1], "self._context")),
        (trt.Runtime, names_asked_of(paths[1], "self._runtime")),
        (trt.IBuilderConfig, names_asked_of(paths[0], "config")),
        (trt.Builder, names_asked_of(paths[0], "builder")),
    ):
        assert names
        assert [name for name in sorted(names) if not hasattr(kind, name)] == []
