"""Verification: an engine answers for itself, the answer is recorded, and the record is all that later starts look at."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest

from geal_edge.errors import BundleError, EngineNotVerified, MissingDependency, UsageError
from geal_edge.runtime.backends.choice import open_backend
from geal_edge.runtime.backends.identity import Identity, identity, processor
from geal_edge.runtime.engines import choose, require_verified
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.records import Verification, record_path, standing, write_record
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.state import State
from geal_edge.runtime.verify import verify
from tests.tampered import nan_always, scaled, tampered, with_graph, with_manifest

openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs OpenVINO: pip install 'geal-edge[openvino]'")


@pytest.fixture
def state(tmp_path):
    return State(folder=tmp_path / "state")


def opener(bundle, tmp_path):
    return lambda name: open_backend(name, bundle.graph, cache=tmp_path, threads=1)


def verified(bundle, tmp_path, name="ort-cpu", **more):
    return verify(bundle, name, opener(bundle, tmp_path), watch=Silent(), **more)


def recorded(bundle, state, name, frame_ms, **more):
    """A record as a verification that passed would have left it."""
    record = {
        **Verification(backend=name, identity=identity(name), inside="fp32").as_json(bundle, wall_ns=0),
        "passed": True,
        "frame_ms": frame_ms,
        **more,
    }
    path = record_path(state, bundle, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def test_the_engine_that_export_asked_passes_and_its_record_says_all_that_it_holds_for(tiny_bundle, tmp_path, state):
    found = verified(tiny_bundle, tmp_path)
    assert found.passed, found
    path = write_record(state, tiny_bundle, found, wall_ns=7)
    record = json.loads(path.read_text())
    assert path.is_relative_to(state.folder)
    assert record["schema"] == "geal-edge/verify/1"
    assert (record["bundle"], record["graph"]) == (tiny_bundle.digest, tiny_bundle.manifest.graph_digest)
    assert record["engine"].startswith("onnxruntime ")
    assert record["device"] == processor()
    assert record["parity"]["frames"] == 8
    assert (record["frame_ms"] > 0, record["wall_ns"], record["error"]) == (True, 7, None)
    assert standing(state, tiny_bundle, "ort-cpu").verdict == "verified"


def test_verification_needs_neither_onnx_nor_scipy(tiny_bundle):
    code = f"""
import sys
from pathlib import Path
for name in ("onnx", "scipy", "sklearn", "torch"):
    sys.modules[name] = None
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.backends.choice import open_backend
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.verify import verify
bundle = Bundle.open(Path({str(tiny_bundle.path)!r}))
print(verify(bundle, "ort-cpu", lambda name: open_backend(name, bundle.graph, cache=Path(), threads=1), watch=Silent()).passed)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"


@pytest.mark.parametrize(("change", "words"), [(nan_always, "holds NaN"), (scaled(1.01), "FAILED, largest error")])
def test_a_graph_that_was_tampered_with_fails_and_says_which_output(tiny_bundle, tmp_path, state, change, words):
    bundle = tampered(tiny_bundle, tmp_path / "bundle", change)
    found = verified(bundle, tmp_path)
    assert not found.passed
    assert f"patch_features: {words}" in str(found) or words in str(found)
    json.dumps(found.as_json(bundle, wall_ns=0), allow_nan=False)
    write_record(state, bundle, found, wall_ns=0)
    assert standing(state, bundle, "ort-cpu").verdict == "failed"


def test_a_truncated_graph_is_a_failure_on_record_and_not_a_traceback(tiny_bundle, tmp_path, state):
    bundle = with_graph(tiny_bundle, tmp_path / "bundle", lambda graph: graph.write_bytes(graph.read_bytes()[:50_000]))
    found = verified(bundle, tmp_path)
    assert not found.passed
    assert "cannot load this graph" in str(found)
    write_record(state, bundle, found, wall_ns=0)
    assert "cannot load" in standing(state, bundle, "ort-cpu").why


def test_a_manifest_that_lies_about_the_frames_is_refused_before_an_engine_starts(tiny_bundle, tmp_path):
    bundle = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, width=320))
    with pytest.raises(BundleError, match="the manifest promises"):
        verified(bundle, tmp_path)


def test_a_manifest_that_lies_about_an_output_is_refused(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle.path, tmp_path / "b")
    bundle = with_manifest(tmp_path / "b", lambda data: data["outputs"].update(patch_features=["N", 7, 64]))
    with pytest.raises(BundleError, match="the manifest promises"):
        verified(bundle, tmp_path)


@openvino
def test_with_a_source_the_picks_are_measured_against_those_of_onnx_runtime(tiny_bundle, tmp_path):
    found = verified(tiny_bundle, tmp_path, "openvino", check=open_source("drawn:1:40"))
    assert found.passed, found
    record = found.as_json(tiny_bundle, wall_ns=0)
    assert record["selection"]["reference"] == "ort-cpu"
    assert record["selection"]["frames"] == 40


def test_the_reference_cannot_be_checked_against_itself(tiny_bundle, tmp_path):
    with pytest.raises(UsageError, match="--check"):
        verified(tiny_bundle, tmp_path, check=open_source("drawn:1:40"))


def test_an_engine_that_is_not_installed_is_named_with_the_command(tiny_bundle, tmp_path):
    with pytest.raises(MissingDependency, match=r"geal-edge\[gpu\]"):
        verified(tiny_bundle, tmp_path, "ort-cuda")


# -- choosing ------------------------------------------------------------------------------------------------------------


def test_without_a_record_auto_is_onnx_runtime_on_the_cpu_and_names_the_command(tiny_bundle, state):
    engines = choose("auto", tiny_bundle, state)
    assert engines.names == ("ort-cpu",)
    assert f"geal-edge verify {tiny_bundle.path} --backend" in engines.why


@openvino
def test_auto_takes_the_fastest_verified_engine_and_the_others_stand_behind_it(tiny_bundle, state):
    recorded(tiny_bundle, state, "ort-cpu", 9.0)
    recorded(tiny_bundle, state, "openvino", 4.0)
    engines = choose("auto", tiny_bundle, state)
    assert engines.names == ("openvino", "ort-cpu")
    assert "4.0 ms" in engines.why
    recorded(tiny_bundle, state, "openvino", 14.0)
    assert choose("auto", tiny_bundle, state).names == ("ort-cpu", "openvino")


@openvino
@pytest.mark.parametrize(
    ("changed", "words"),
    [({"engine": "openvino 1999.1"}, "was verified as openvino 1999.1"), ({"device": "another"}, "on another"),
     ({"graph": "sha256:0"}, "was verified"), ({"passed": False, "error": "holds NaN"}, "holds NaN")],
)  # fmt: skip
def test_a_record_of_another_version_device_or_graph_does_not_count(tiny_bundle, state, changed, words):
    recorded(tiny_bundle, state, "openvino", 4.0, **changed)
    engines = choose("auto", tiny_bundle, state)
    assert engines.names == ("ort-cpu",)
    assert words in engines.why
    with pytest.raises(EngineNotVerified, match="geal-edge verify"):
        require_verified("openvino", tiny_bundle, state)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"passed": true, "frame_ms": null}', "\x00"])
def test_a_record_that_is_damaged_counts_as_none(tiny_bundle, state, text):
    path = record_path(state, tiny_bundle, "ort-cpu")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert standing(state, tiny_bundle, "ort-cpu").verdict == "absent"


def test_the_processor_is_told_by_its_name_else_by_the_boards(tmp_path):
    (tmp_path / "x86").write_text("processor : 0\nmodel name\t: Some CPU @ 2.0GHz\n")
    (tmp_path / "arm").write_text("processor : 0\nBogoMIPS : 62.50\n")
    (tmp_path / "board").write_bytes(b"NVIDIA Jetson AGX Orin\0")
    assert processor(tmp_path / "x86", tmp_path / "board") == "Some CPU @ 2.0GHz"
    assert processor(tmp_path / "arm", tmp_path / "board") == "NVIDIA Jetson AGX Orin"
    assert processor(tmp_path / "none", tmp_path / "none")


def test_an_identity_names_package_version_and_device():
    import onnxruntime

    assert identity("ort-cpu") == Identity(engine=f"onnxruntime {onnxruntime.__version__}", device=processor())
