"""Precisions: what is lowered stays near, what stays float32 stays exact, and every engine can read the file."""

import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from geal_edge.config import PRESETS
from geal_edge.errors import MissingDependency, ParityError, SourceError, UsageError
from geal_edge.export import exporter, lowering
from geal_edge.export.answers import answer_each
from geal_edge.export.exporter import ExportOptions, export
from geal_edge.export.graph import build_graph, serialize
from geal_edge.export.layers import MOVES, role_of
from geal_edge.export.lint import lint
from geal_edge.export.lowering import layers_of, lowered_model
from geal_edge.export.parity import reference_forward
from geal_edge.export.precision import to_fp16, with_ranges
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.parity import FLOAT32, compare
from geal_edge.runtime.selection_parity import COVER_TOLERANCE
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spread import spread_frames
from tests.tiny import NORM, TINY8, random_frames, run_onnx, tiny_weights

LOWER = ("fp16", "int8", "int8-dynamic")
SMALL = ExportOptions(width=96, height=64)
DRIVE = "drawn:0:24"


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return build_graph(tiny_weights(TINY8), width=72, height=40, **NORM)


@pytest.fixture(scope="module")
def ranges(model) -> dict[str, float]:
    names = sorted({node.input[0] for node in model.graph.node if node.op_type in ("MatMul", "Conv")})
    answer = list(answer_each(serialize(with_ranges(model, names)), random_frames(4, 72, 40)))
    return {name: max(float(one[f"{name}.largest"]) for one in answer) for name in names}


def lowered(model, precision, ranges, layers=None) -> onnx.ModelProto:
    found = layers_of(model, precision, TINY8.depth)
    return lowered_model(model, precision, set().union(*(found[layer] for layer in layers or found)), ranges)


@pytest.mark.parametrize("precision", LOWER)
def test_a_lowered_graph_stays_near_the_weights_and_is_not_the_same(model, ranges, precision):
    frames = random_frames(3, 72, 40)
    reference = reference_forward(tiny_weights(TINY8), frames, **NORM)

    answer = run_onnx(lowered(model, precision, ranges), frames)

    cosine = {"fp16": 0.99999}.get(precision, 0.97)
    near = replace(FLOAT32, feature_error=1.0, feature_cosine=cosine, attention_error=5e-3)
    assert compare(reference, answer, near).passed
    assert not compare(reference, answer, replace(FLOAT32, feature_error=1e-5)).passed
    assert all(values.dtype == np.float32 for values in answer.values())


@pytest.mark.parametrize("precision", LOWER)
def test_where_nothing_is_lowered_the_graph_is_the_same(model, ranges, precision):
    frames = random_frames(2, 72, 40)

    nothing = run_onnx(lowered_model(model, precision, set(), ranges), frames)

    for name, values in run_onnx(model, frames).items():
        np.testing.assert_array_equal(nothing[name], values)


@pytest.mark.parametrize("precision", LOWER)
def test_a_lowered_graph_takes_any_number_of_frames(model, ranges, precision):
    frames = random_frames(3, 72, 40)
    graph = lowered(model, precision, ranges)

    together = run_onnx(graph, frames)

    if precision == "int8-dynamic":  # its ranges are taken over all frames of a batch
        assert together["patch_features"].shape[0] == 3
    else:
        alone = np.concatenate([run_onnx(graph, frame[None])["patch_features"] for frame in frames])
        np.testing.assert_allclose(together["patch_features"], alone, rtol=0, atol=5e-2)


def test_every_computing_node_has_a_role(model):
    without = [
        node.name
        for node in model.graph.node
        if role_of(node, TINY8.depth) is None and node.op_type not in MOVES and not node.name.startswith("pixels")
    ]
    assert without == []


def test_fp16_casts_only_where_two_types_meet(model):
    everything = to_fp16(model, lambda node: role_of(node, TINY8.depth) is not None)
    casts = [node.name for node in everything.graph.node if node.op_type == "Cast"]
    # The pixels, once on the way in; each output on the way out.
    assert sorted(casts) == sorted(
        ["pixels", "pixels.scaled.fp16", "cls_embedding.fp32", "patch_features.fp32", "cls_attention.fp32"]
    )
    kinds = Counter(t.data_type for t in everything.graph.initializer if t.name.startswith("blocks"))
    assert set(kinds) <= {TensorProto.FLOAT16, TensorProto.INT64}


def test_fp16_is_typed_without_a_contradiction(model):
    everything = to_fp16(model, lambda node: role_of(node, TINY8.depth) not in (None, "layer_norm", "softmax"))
    onnx.checker.check_model(everything, full_check=True)  # infers the type of every value, strictly


def test_a_weight_beyond_float16_is_refused_by_name(model):
    loud = tiny_weights(TINY8)
    loud.tensors["blocks.1.mlp.fc2.bias"][3] = 1e6
    with pytest.raises(ParityError, match=r"blocks\.1\.mlp\.fc2\.bias"):
        to_fp16(build_graph(loud, width=72, height=40, **NORM), lambda node: role_of(node, TINY8.depth) is not None)


def test_int8_is_symmetric_with_a_scale_for_each_column_and_none_for_a_bias(model, ranges):
    graph = lowered(model, "int8", ranges).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert pairs
    for node in pairs:
        value, scale, zero = node.input
        assert stored[zero].dtype == np.int8
        assert not stored[zero].any()
        if value in stored:
            axis = next(a.i for a in node.attribute if a.name == "axis")
            assert stored[scale].shape == (stored[value].shape[axis],)
            levels = np.moveaxis(stored[value], axis, -1) / stored[scale]
            assert 126 < np.abs(levels).max() < 127.01
        assert not value.endswith("bias")


def test_a_column_of_zeros_is_not_divided_by(ranges):
    silent = tiny_weights(TINY8)
    silent.tensors["blocks.0.mlp.fc1.weight"][5] = 0
    model = build_graph(silent, width=72, height=40, **NORM)
    answer = run_onnx(lowered(model, "int8", ranges), random_frames(1, 72, 40))
    assert np.isfinite(answer["patch_features"]).all()


# The operator rules of TensorRT 10.0 to 10.3


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("tap", ["norm", "raw"])
def test_every_graph_but_int8_dynamic_follows_the_rules_of_tensorrt_10(precision, tap, ranges):
    model = build_graph(tiny_weights(TINY8), width=72, height=40, tap=tap, **NORM)
    assert lint(model if precision == "fp32" else lowered(model, precision, ranges)) == []


def test_int8_dynamic_does_not(model, ranges):
    assert any("DynamicQuantizeLinear" in fault for fault in lint(lowered(model, "int8-dynamic", ranges)))


def make(op: str, inputs: list[str], outputs: list[str], **attributes) -> onnx.NodeProto:
    return onnx.helper.make_node(op, inputs, outputs, "bad", **attributes)


@pytest.mark.parametrize(
    ("node", "stored", "words"),
    [
        (make("Attention", ["q", "k", "v"], ["y"]), {}, "not among the operators"),
        (make("BiasGelu", ["x", "b"], ["y"], domain="com.microsoft"), {}, "com.microsoft"),
        (make("TopK", ["x", "k"], ["v", "i"]), {"k": np.array([3840])}, "below 3840"),
        (make("TopK", ["x", "k"], ["v", "i"], sorted=0), {"k": np.array([10])}, "unsorted"),
        (make("CumSum", ["x", "axis"], ["y"]), {}, "axis is computed"),
        (make("LayerNormalization", ["x", "w"], ["y", "mean"]), {}, "expected one"),
        (make("Reshape", ["x", "shape"], ["y"]), {}, "shape is computed"),
        (make("Transpose", ["image"], ["y"]), {}, "takes uint8"),
        (make("QuantizeLinear", ["x", "s", "z"], ["y"]), {"s": np.float32(1), "z": np.int8(3)}, "zero point"),
        (make("QuantizeLinear", ["x", "s", "z"], ["y"]), {"s": np.float32(1), "z": np.uint8(0)}, "zero point"),
        (make("QuantizeLinear", ["x", "s", "z"], ["y"]), {"s": np.float32(0), "z": np.int8(0)}, "positive"),
        (make("DequantizeLinear", ["q", "s", "z"], ["y"]), {"q": np.array([1], np.int8), "s": np.float32(1), "z": np.int8(0)},
         "already quantised"),
    ],
)  # fmt: skip
def test_what_tensorrt_10_refuses_is_found(model, node, stored, words):
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.node.append(node)
    broken.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in stored.items())
    assert any(words in fault for fault in lint(broken))


def test_a_newer_opset_is_found(model):
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.opset_import[0].version = 21
    assert "operator sets" in lint(broken)[0]


# Export


@pytest.mark.parametrize("precision", LOWER)
def test_a_lower_precision_is_a_bundle_of_the_same_feature_space(tmp_path, tiny_bundle: Bundle, precision):
    options = ExportOptions(width=160, height=160, precision=precision, max_loss=1e-3)
    drive = open_source(DRIVE)

    exported = export(tiny_weights(), tmp_path / "b", options, calibrate=drive, watch=Silent())

    manifest = exported.bundle.manifest
    assert manifest.precision == precision
    assert manifest.feature_space == tiny_bundle.manifest.feature_space
    assert manifest.parity["passed"]
    assert manifest.parity["selection"]["passed"]
    assert manifest.parity["calibration"] == {"origin": drive.name, "frames": 24}
    assert manifest.parity["loss"] <= 1e-3
    assert exported.lowered is not None
    assert any(layer.lowered for layer in exported.lowered.sensitivity.layers)
    with Encoder(exported.bundle, OrtCpu(exported.bundle.graph, threads=1)) as encoder:
        assert encoder(random_frames(1, 80, 60)[0]).patch_features.shape == (100, 64)


def test_the_same_frames_give_the_same_int8_bundle(tmp_path):
    options = replace(SMALL, precision="int8", max_loss=1e-3)
    one, two = (
        export(tiny_weights(), tmp_path / name, options, calibrate=open_source(DRIVE), watch=Silent()).bundle
        for name in ("one", "two")
    )
    assert one.digest == two.digest


def test_what_selects_worse_is_not_written_and_says_what_to_change(tmp_path, monkeypatch):
    monkeypatch.setitem(COVER_TOLERANCE, "int8", -0.5)
    options = replace(SMALL, precision="int8")
    with pytest.raises(ParityError, match=r"Lower --max-loss from 0\.00") as refused:
        export(tiny_weights(), tmp_path / "b", options, calibrate=open_source(DRIVE), watch=Silent())
    assert "blocks.0.mlp.fc1" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_what_breaks_an_operator_rule_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "lint", lambda _: ["TopK bad: is unsorted"])
    options = replace(SMALL, precision="fp16")
    with pytest.raises(ParityError, match="TensorRT would refuse"):
        export(tiny_weights(), tmp_path / "b", options, calibrate=open_source(DRIVE), watch=Silent())


@pytest.mark.parametrize(
    ("options", "calibrate", "words"),
    [
        (replace(SMALL, precision="int8"), None, "Name some: --calibrate SOURCE"),
        (SMALL, DRIVE, "nothing to calibrate"),
        (replace(SMALL, max_loss=0.1), None, "nothing to calibrate"),
    ],
)
def test_a_precision_without_its_frames_and_frames_without_a_precision_are_refused(tmp_path, options, calibrate, words):
    source = None if calibrate is None else open_source(calibrate)
    with pytest.raises(UsageError, match=words):
        export(tiny_weights(), tmp_path / "b", options, calibrate=source, watch=Silent())


def test_one_frame_is_too_few_to_compare_selections(tmp_path):
    with pytest.raises(SourceError, match="two are the least"):
        export(
            tiny_weights(),
            tmp_path / "b",
            replace(SMALL, precision="int8"),
            calibrate=open_source("drawn:0:1"),
            watch=Silent(),
        )


def test_int8_dynamic_without_onnx_runtime_names_the_command(model, ranges, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(MissingDependency, match=r"pip install 'geal-edge\[export,cpu\]'"):
        lowered(model, "int8-dynamic", ranges)


@pytest.mark.parametrize(("count", "expected"), [(5, 5), (8, 8), (9, 5), (40, 5)])
def test_frames_of_any_source_are_spread_over_all_of_it(count, expected):
    source = open_source(f"drawn:0:{count}")
    frames = spread_frames(source, 8, lambda image: image[:4, :4])
    assert frames.shape == (expected, 4, 4, 3)


def test_layers_stay_fp32_until_the_others_cost_little_enough():
    losses = [lowering.LayerLoss(layer=str(i), tokens=0.001, attention=0.0, cover=0.0) for i in range(10)]
    for limit, high in ((1.0, 0), (0.0051, 5), (0.0, 10)):
        chosen = lowering.stay_fp32(losses, limit)
        assert sum(not layer.lowered for layer in chosen) == high


def test_a_layer_that_answers_nan_is_never_lowered():
    good = {"patch_features": np.ones((1, 2, 3), np.float32), "cls_attention": np.full((1, 2), 0.5, np.float32)}
    bad = {**good, "patch_features": np.full((1, 2, 3), np.nan, np.float32)}
    loss = lowering.layer_loss("fc2", good, bad, np.ones((1, 3), np.float16), PRESETS["geal"])
    assert loss.loss == loss.cover == np.inf
    assert not lowering.stay_fp32([loss], 1e9)[0].lowered
