import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from geal_edge.errors import BackendError, MissingDependency
from geal_edge.runtime.backends import Arrays, Backend, TensorSpec
from geal_edge.runtime.backends.choice import open_backend
from geal_edge.runtime.backends.openvino import OpenVino
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.encoder import Encoder
from tests.contracts import BACKEND_CHECKS


class Doubles(Backend):
    """A small engine whose answers can be made wrong."""

    name = "doubles"
    answer: Arrays | None = None

    def _start(self):
        self.inputs = {"x": TensorSpec(dtype=np.dtype(np.uint8), shape=("N", 2))}
        self.outputs = {"y": TensorSpec(dtype=np.dtype(np.float32), shape=("N", 2))}

    def _infer(self, feeds):
        return self.answer or {"y": feeds["x"].astype(np.float32) * 2}

    def _stop(self):
        pass


def test_the_base_lets_through_what_the_graph_promises():
    with Doubles() as backend:
        assert backend.run({"x": np.ones((3, 2), np.uint8)})["y"].tolist() == [[2, 2]] * 3
        assert backend.last_s > 0


@pytest.mark.parametrize(
    "feeds",
    [{}, {"z": np.ones((1, 2), np.uint8)}, {"x": np.ones((1, 2), np.float32)}, {"x": np.ones((1, 3), np.uint8)},
     {"x": np.ones(2, np.uint8)}],
)  # fmt: skip
def test_the_base_refuses_wrong_names_dtypes_and_shapes_going_in(feeds):
    with Doubles() as backend, pytest.raises(BackendError, match="doubles: input"):
        backend.run(feeds)


@pytest.mark.parametrize(
    "answer",
    [{"z": np.ones((1, 2), np.float32)}, {"y": np.ones((1, 2))}, {"y": np.ones((2, 2), np.float32)},
     {"y": np.ones((1, 2, 1), np.float32)}],
)  # fmt: skip
def test_the_base_refuses_wrong_answers_coming_out(answer):
    doubles = Doubles()
    doubles.answer = answer
    with doubles, pytest.raises(BackendError, match="doubles: output"):
        doubles.run({"x": np.ones((1, 2), np.uint8)})


def test_onnx_runtime_tells_its_tensors_and_reuses_its_buffers(tiny_bundle):
    with OrtCpu(tiny_bundle.graph, threads=1) as backend:
        assert str(backend.inputs["image"]) == "uint8 [N, 160, 160, 3]"
        image = np.zeros((1, 160, 160, 3), np.uint8)
        first = backend.run({"image": image})["patch_features"]
        second = backend.run({"image": image})["patch_features"]
        assert first is second
        assert backend.run({"image": np.zeros((2, 160, 160, 3), np.uint8)})["patch_features"].shape[0] == 2


def test_the_same_frame_gives_the_same_bits_every_time(tiny_bundle):
    image = np.random.default_rng(0).integers(0, 256, (1, 160, 160, 3), dtype=np.uint8)
    answers = []
    for _ in range(2):
        with OrtCpu(tiny_bundle.graph, threads=2) as backend:
            answers.append({k: v.tobytes() for k, v in backend.run({"image": image}).items()})
    assert answers[0] == answers[1]


def test_a_graph_that_is_none_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match="cannot load this graph"):
        OrtCpu(tmp_path / "model.onnx").__enter__()


def test_telemetry_is_off_before_onnx_runtime_loads(tiny_bundle):
    script = f"""
import os
from pathlib import Path
from geal_edge.runtime.backends.ort import OrtCpu
with OrtCpu(Path({str(tiny_bundle.graph)!r})):
    print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
    bare = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    out = subprocess.run([sys.executable, "-c", script], env=bare, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "1"


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs OpenVINO: pip install 'geal-edge[openvino]'")
def test_openvino_reports_nothing_and_leaves_nothing_in_the_users_home(tiny_bundle, tmp_path):
    script = f"""
from pathlib import Path
from geal_edge.runtime.backends.openvino import OpenVino
with OpenVino(Path({str(tiny_bundle.graph)!r})):
    pass
"""
    # Where CI is set OpenVINO would be silent by itself.
    anyone = {**{k: v for k, v in os.environ.items() if k != "CI"}, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], env=anyone, check=True)
    assert list(tmp_path.iterdir()) == []


class Answering(OrtCpu):
    """ONNX Runtime with one output replaced on the way out."""

    change = staticmethod(lambda outputs: None)

    def _infer(self, feeds):
        outputs = {k: v.copy() for k, v in super()._infer(feeds).items()}
        self.change(outputs)
        return outputs


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("patch_features", np.nan, "NaN"), ("patch_features", 1e6, "beyond fp16"), ("cls_attention", np.nan, "instead of 1"),
     ("cls_attention", -1.0, "instead of 1")],
)  # fmt: skip
def test_an_answer_that_cannot_be_meant_is_not_believed(tiny_bundle, name, value, words):
    def change(outputs):
        outputs[name].flat[3] = value

    backend = Answering(tiny_bundle.graph, threads=1)
    backend.change = change
    with Encoder(tiny_bundle, backend) as encoder, pytest.raises(BackendError, match=words):
        encoder(np.zeros((40, 60, 3), np.uint8))


def test_a_manifest_that_lies_about_the_graph_is_found_at_the_start(tiny_bundle):
    from dataclasses import replace

    manifest = replace(tiny_bundle.manifest, outputs={"patch_features": ("N", 7, 64)})
    bundle = replace(tiny_bundle, manifest=manifest)
    with pytest.raises(BackendError, match="the manifest promises"):
        Encoder(bundle, OrtCpu(bundle.graph)).__enter__()


def test_the_encoder_rounds_tokens_to_fp16_and_keeps_attention_in_fp32(tiny_bundle):
    with Encoder(tiny_bundle, OrtCpu(tiny_bundle.graph)) as encoder:
        encoded = encoder(np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8))
    assert encoded.patch_features.dtype == np.float16
    assert encoded.patch_features.shape == (100, 64)
    assert encoded.cls_attention.dtype == np.float32
    assert abs(encoded.cls_attention.sum() - 1) < 1e-5


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ["ort-cpu", "openvino"])
def test_every_backend_holds_the_contract(tiny_bundle, tmp_path, name, check):
    if name == "openvino":
        pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'geal-edge[openvino]'")
    check(lambda graph: open_backend(name, graph, cache=tmp_path, threads=1), tiny_bundle)


@pytest.mark.parametrize("hint", ["bf16", "f16"])
def test_openvino_runs_the_precision_that_is_asked_for_or_says_that_the_processor_cannot(tiny_bundle, hint):
    openvino = pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'geal-edge[openvino]'")
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    backend = OpenVino(tiny_bundle.graph, hint=hint, threads=1)
    if {"bf16": "BF16", "f16": "FP16"}[hint] in able:
        with backend:
            answer = backend.run({"image": np.zeros((1, 160, 160, 3), np.uint8)})
        assert answer["patch_features"].dtype == np.float32
    else:
        with pytest.raises(BackendError, match=f"does not compute in {hint}"):
            backend.__enter__()


def test_openvino_without_an_intel_gpu_says_what_it_has(tiny_bundle, tmp_path):
    openvino = pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'geal-edge[openvino]'")
    backend = open_backend("openvino-gpu", tiny_bundle.graph, cache=tmp_path)
    if any(device.startswith("GPU") for device in openvino.Core().available_devices):
        with backend:
            assert backend.run({"image": np.zeros((1, 160, 160, 3), np.uint8)})["patch_features"].dtype == np.float32
    else:
        with pytest.raises(BackendError, match=r"no Intel GPU here \(it has CPU\)"):
            backend.__enter__()


def test_openvino_that_is_not_installed_names_the_command(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependency, match=r"pip install 'geal-edge\[openvino\]'"):
        OpenVino(tiny_bundle.graph).__enter__()
