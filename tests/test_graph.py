"""The graph: it computes what the weights say at every size, a fault in it shows, and every engine can read the file."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, shape_inference

from geal_edge import __version__
from geal_edge.config import IMAGENET_MEAN, IMAGENET_STD, SIZES
from geal_edge.errors import UsageError
from geal_edge.export.graph import build_graph, serialize
from geal_edge.export.parity import reference_forward
from geal_edge.models.vit import Geometry, Weights
from geal_edge.models.weights import untrained
from geal_edge.runtime.parity import Tolerances, compare
from tests.tiny import NORM, TINY8, TINY16, random_frames, run_onnx, tiny_weights

SHARP = Tolerances(feature_error=2e-5, feature_cosine=0.999999999, attention_error=1e-6)
"""What float32 reaches on these models, with room to spare: a fault that the default tolerances forgive shows here."""

OPERATORS = {
    *("Add", "Cast", "Conv", "Div", "Erf", "Exp", "Gather", "LayerNormalization", "Log", "MatMul", "Mul", "Pad"),
    *("ReduceMax", "ReduceSum", "Reshape", "Slice", "Softmax", "Split", "Sub", "Transpose"),
}
"""Those that TensorRT 10, ONNX Runtime and OpenVINO all run in float32 and float16, in their form of opset 17."""

TINY_SIZES = [
    (TINY16, 64, 64),  # the trained grid
    (TINY16, 96, 64),
    (TINY16, 48, 112),
    (TINY16, 16, 16),  # one patch
    (TINY8, 40, 40),
    (TINY8, 72, 40),
    (TINY8, 24, 24),
]


def graph_of(weights: Weights, width: int, height: int, **options) -> onnx.ModelProto:
    return build_graph(weights, width=width, height=height, **{**NORM, **options})


@pytest.mark.parametrize("geometry, width, height", TINY_SIZES)
@pytest.mark.parametrize("tap", ["norm", "raw"])
def test_the_graph_computes_what_the_weights_say(geometry: Geometry, width, height, tap):
    weights, frames = tiny_weights(geometry), random_frames(2, width, height)

    answer = run_onnx(graph_of(weights, width, height, tap=tap), frames)

    report = compare(reference_forward(weights, frames, tap=tap, **NORM), answer, SHARP)
    assert report.passed, f"\n{report}"


@pytest.fixture(scope="module")
def vit_s16() -> Weights:
    return untrained(7)


@pytest.mark.parametrize("width, height", list(SIZES.values()), ids=list(SIZES))
def test_a_vit_s16_computes_what_its_weights_say(vit_s16: Weights, width, height):
    frames = random_frames(1, width, height)

    answer = run_onnx(graph_of(vit_s16, width, height), frames)

    report = compare(reference_forward(vit_s16, frames, **NORM), answer, SHARP)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_frames_may_come_at_once(count):
    weights, frames = tiny_weights(), random_frames(count, 96, 64)

    answer = run_onnx(graph_of(weights, 96, 64), frames)

    assert answer["patch_features"].shape == (count, 24, 64)
    assert compare(reference_forward(weights, frames, **NORM), answer, SHARP).passed


def test_a_fixed_batch_answers_like_any_other():
    weights, frames = tiny_weights(), random_frames(2, 96, 64)

    fixed = run_onnx(graph_of(weights, 96, 64, batch=2), frames)

    assert compare(reference_forward(weights, frames, **NORM), fixed, SHARP).passed
    assert shape_of(graph_of(weights, 96, 64, batch=2).graph.input[0]) == [2, 64, 96, 3]


def test_frames_do_not_look_at_each_other():
    model, frames = graph_of(tiny_weights(), 96, 64), random_frames(4, 96, 64)
    order = [2, 0, 3, 1]

    together, shuffled = run_onnx(model, frames), run_onnx(model, frames[order])

    for name, values in together.items():
        np.testing.assert_allclose(shuffled[name], values[order], rtol=0, atol=1e-6)


def test_the_attention_is_a_share_of_the_whole():
    attention = run_onnx(graph_of(tiny_weights(), 96, 64), random_frames(3, 96, 64))["cls_attention"]

    assert (attention >= 0).all()
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-6)


def test_the_attention_holds_where_cls_looks_at_itself_alone():
    """Every patch's attention is below the smallest float32: softmax, mean and a division would say 0 / 0."""
    weights, frames = looking_at_itself(tiny_weights(TINY8)), random_frames(2, 40, 40)
    model = graph_of(weights, 40, 40)
    model.graph.output.append(onnx.ValueInfoProto(name="blocks.2.attn.log"))

    answer = run_onnx(model, frames)

    patches = np.exp(answer["blocks.2.attn.log"][..., 1:])
    assert patches.max() == 0
    # Scores of some hundreds carry float32 errors of 1e-4, and so do their exponentials.
    expected = reference_forward(weights, frames, **NORM)["cls_attention"]
    np.testing.assert_allclose(answer["cls_attention"], expected, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(answer["cls_attention"].sum(axis=1), 1, rtol=1e-6)


def test_without_cls_embedding_nothing_of_its_own_is_left_and_the_rest_stays():
    weights, frames = tiny_weights(TINY8), random_frames(2, 72, 40)

    model = graph_of(weights, 72, 40, cls_embedding=False)

    answer = run_onnx(model, frames)
    assert list(answer) == ["patch_features", "cls_attention"]
    assert compare(reference_forward(weights, frames, cls_embedding=False, **NORM), answer, SHARP).passed
    last = [name for name in stored(model) if name.startswith("blocks.2.")]
    parts = ("norm1.weight", "norm1.bias", "attn.q.weight", "attn.q.bias", "attn.k.weight")
    assert sorted(name for name in last if not name.endswith(".shape")) == sorted(f"blocks.2.{part}" for part in parts)


def test_the_raw_features_become_the_others_under_the_final_layer_norm():
    weights, frames = tiny_weights(), random_frames(1, 64, 64)
    raw = run_onnx(graph_of(weights, 64, 64, tap="raw"), frames)["patch_features"]
    features = run_onnx(graph_of(weights, 64, 64), frames)["patch_features"]

    normed = (raw - raw.mean(-1, keepdims=True)) / np.sqrt(raw.var(-1, keepdims=True) + 1e-6)

    again = normed * weights.tensors["norm.weight"] + weights.tensors["norm.bias"]
    np.testing.assert_allclose(again, features, rtol=0, atol=1e-5)


# Would we see it? Each fault below is one that somebody's DINO export has.


@pytest.mark.parametrize("name", [name for name in TINY16.tensor_shapes() if "qkv" not in name])
def test_a_changed_tensor_is_seen(name):
    assert not passes_with(changed(tiny_weights(), name, slice(None)))


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("part", ["q", "k", "v"])
@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_a_changed_part_of_qkv_is_seen_unless_it_is_the_bias_of_k(block, part, kind):
    start = 64 * "qkv".index(part)

    other = changed(tiny_weights(), f"blocks.{block}.attn.qkv.{kind}", slice(start, start + 64))

    assert passes_with(other) == ((part, kind) == ("k", "bias"))


def test_another_epsilon_of_the_layer_norm_is_seen():
    """1e-12, the default of transformers' ViTConfig: it shows where a token's numbers hardly vary."""
    weights = tiny_weights()
    flat = replace_tensors(weights, {name: 0.01 * weights.tensors[name] for name in EMBEDDING})
    model = graph_of(flat, 64, 64)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-12

    assert answers_right(graph_of(flat, 64, 64), flat)
    assert not answers_right(model, flat)


def test_the_tanh_form_of_gelu_is_seen():
    model = graph_of(tiny_weights(), 64, 64)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.extend(tanh_for_erf(node) if node.op_type == "Erf" else [node])
    for name, value in {"tanh.three": 3, "tanh.cubic": 0.044715 * 2, "tanh.scale": 2 / np.sqrt(np.pi)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))

    assert not answers_right(model, tiny_weights())


def test_a_position_embedding_without_dinos_tenth_is_seen():
    """It shows at every size but the trained one; here the table is resampled from 4 x 4 to 4 x 6 without the 0.1."""
    weights = tiny_weights()
    model = graph_of(weights, 96, 64)
    (table,) = [tensor for tensor in model.graph.initializer if tensor.name == "pos_embed"]
    grid = weights.tensors["pos_embed"][0, 1:].reshape(4, 4, 64)
    without = numpy_helper.to_array(table).copy()
    without[0, 1:] = (cubic(4, 4) @ (cubic(6, 4) @ grid).transpose(1, 0, 2)).transpose(1, 0, 2).reshape(24, 64)
    table.CopyFrom(numpy_helper.from_array(without, "pos_embed"))

    assert answers_right(graph_of(weights, 96, 64), weights, 96)
    assert not answers_right(model, weights, 96)


@pytest.mark.parametrize(
    "wrong", [{"mean": IMAGENET_MEAN[::-1]}, {"std": IMAGENET_STD[::-1]}, {"std": (0.5, 0.5, 0.5)}]
)
def test_another_mean_or_deviation_is_seen(wrong):
    assert not answers_right(graph_of(tiny_weights(), 64, 64, **wrong), tiny_weights())


# The file.


@pytest.fixture(params=[{}, {"batch": 3}, {"tap": "raw", "cls_embedding": False}], ids=str)
def model(request) -> onnx.ModelProto:
    return graph_of(tiny_weights(TINY8), 72, 40, **request.param)


def test_onnx_finds_nothing_to_complain_about(model):
    onnx.checker.check_model(model, full_check=True)
    shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def test_every_value_has_a_shape_without_an_unknown_side(model):
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {value.name: shape_of(value) for value in inferred.value_info}

    assert set(shapes) >= {name for node in model.graph.node for name in node.output} - outputs_of(model)
    assert [name for name, shape in shapes.items() if None in shape or "" in shape] == []


def test_the_outputs_carry_their_whole_shapes():
    graph = graph_of(tiny_weights(TINY8), 72, 40).graph

    assert {value.name: shape_of(value) for value in graph.output} == {
        "patch_features": ["N", 45, 128],
        "cls_attention": ["N", 45],
        "cls_embedding": ["N", 128],
    }
    assert {value.name: shape_of(value) for value in graph.input} == {"image": ["N", 40, 72, 3]}


def test_only_standard_operators_of_opset_17_are_used(model):
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert {node.domain for node in model.graph.node} == {""}
    assert {node.op_type for node in model.graph.node} <= OPERATORS


def test_tensorrts_rules_hold(model):
    readers = [node for node in model.graph.node if "image" in node.input]

    assert [node.op_type for node in readers] == ["Cast"]  # uint8 goes nowhere else
    assert all(len(node.output) == 1 for node in model.graph.node if node.op_type == "LayerNormalization")
    assert all(
        name in stored(model) for node in model.graph.node if node.op_type == "Reshape" for name in node.input[1:]
    )


def test_every_stored_tensor_is_read_and_stored_once(model):
    read = {name for node in model.graph.node for name in node.input}
    contents = Counter(tensor.raw_data for tensor in model.graph.initializer if len(tensor.raw_data) > 1000)

    assert sorted(stored(model)) == sorted(set(stored(model)))
    assert set(stored(model)) <= read
    assert set(contents.values()) == {1}


def test_the_file_is_hardly_larger_than_the_weights():
    weights = tiny_weights(TINY8)
    table_grows = 4 * 128 * (45 - 25)

    assert (
        len(serialize(graph_of(weights, 72, 40)))
        < 4 * sum(t.size for t in weights.tensors.values()) + table_grows + 40_000
    )


def test_names_can_be_read_and_are_those_of_the_checkpoint(model):
    geometry = TINY8
    names = [*(node.name for node in model.graph.node), *stored(model)]
    dino = {
        *geometry.tensor_shapes(),
        *(f"blocks.2.attn.{part}.{kind}" for part in "qkv" for kind in ("weight", "bias")),
    }
    assert [name for name in names if not re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*", name)] == []
    assert len(set(names)) == len(names)
    assert [name for name in stored(model) if name.endswith(("weight", "bias")) and name not in dino] == []
    for node in model.graph.node:
        assert node.output[0] == node.name or node.op_type == "Split"


def test_the_file_says_who_wrote_it_and_nothing_of_where_or_when(model):
    assert (model.producer_name, model.producer_version) == ("geal-edge", __version__)
    assert (model.doc_string, model.graph.doc_string, list(model.metadata_props)) == ("", "", [])
    assert {node.doc_string for node in model.graph.node} == {""}


def test_the_same_weights_give_the_same_bytes_in_every_process():
    code = """if True:
        import hashlib
        from geal_edge.export.graph import build_graph, serialize
        from tests.tiny import NORM, TINY8, tiny_weights
        model = build_graph(tiny_weights(TINY8), width=72, height=40, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
        print(hashlib.sha256(serialize(model)).hexdigest())
    """

    other = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    here = serialize(graph_of(tiny_weights(TINY8), 72, 40, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3)))
    assert other.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_building_a_graph_leaves_the_weights_alone():
    weights = tiny_weights()
    before = {name: tensor.copy() for name, tensor in weights.tensors.items()}

    graph_of(weights, 64, 64)

    assert list(weights.tensors) == list(before)
    assert all(np.array_equal(weights.tensors[name], before[name]) for name in before)


def test_a_size_that_the_patches_do_not_fill_is_refused_with_one_that_they_do():
    with pytest.raises(UsageError, match="Use 96x64 or 112x64"):
        graph_of(tiny_weights(), 100, 64)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nothing_is_refused(batch):
    with pytest.raises(UsageError, match="batch"):
        graph_of(tiny_weights(), 64, 64, batch=batch)


EMBEDDING = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")


def replace_tensors(weights: Weights, tensors: dict[str, np.ndarray]) -> Weights:
    return replace(weights, tensors={**weights.tensors, **{k: v.astype(np.float32) for k, v in tensors.items()}})


def changed(weights: Weights, name: str, rows: slice) -> Weights:
    """With a hundredth of noise on some rows of a tensor."""
    tensor = weights.tensors[name].copy()
    tensor[rows] += 0.01 * np.random.default_rng(1).standard_normal(tensor[rows].shape).astype(np.float32)
    return replace_tensors(weights, {name: tensor})


def looking_at_itself(weights: Weights) -> Weights:
    """In the last block, CLS has a direction of its own, and what asks for it is loud."""
    dim, at = weights.geometry.embed_dim, f"blocks.{weights.geometry.depth - 1}"
    cls = 40 * np.random.default_rng(5).standard_normal((1, 1, dim))
    qkv = weights.tensors[f"{at}.attn.qkv.weight"].copy()
    qkv[: 2 * dim] = 5 * np.concatenate([np.eye(dim), np.eye(dim)])
    return replace_tensors(weights, {"cls_token": cls, f"{at}.attn.qkv.weight": qkv})


def passes_with(other: Weights) -> bool:
    """Does the graph of `other` pass for one of the tiny weights?"""
    return answers_right(graph_of(other, 64, 64), tiny_weights())


def answers_right(model: onnx.ModelProto, weights: Weights, width: int = 64) -> bool:
    frames = random_frames(2, width, 64)
    return compare(reference_forward(weights, frames, **NORM), run_onnx(model, frames), SHARP).passed


def tanh_for_erf(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """erf(y) as GELU's fast form has it: tanh(2 / sqrt(pi) * (y + 0.08943 y^3)), y = x / sqrt 2."""
    (y,), (erf,) = node.input, node.output
    make = onnx.helper.make_node
    return [
        make("Pow", [y, "tanh.three"], [f"{erf}.pow"]),
        make("Mul", [f"{erf}.pow", "tanh.cubic"], [f"{erf}.cubic"]),
        make("Add", [y, f"{erf}.cubic"], [f"{erf}.sum"]),
        make("Mul", [f"{erf}.sum", "tanh.scale"], [f"{erf}.scaled"]),
        make("Tanh", [f"{erf}.scaled"], [erf]),
    ]


def cubic(length: int, trained: int) -> np.ndarray:
    """Bicubic resampling of one axis as a matrix, by sizes alone: without the 0.1."""
    source = (np.arange(length) + 0.5) * trained / length - 0.5
    matrix = np.zeros((length, trained))
    for row, s in enumerate(source):
        for i in range(int(np.floor(s)) - 1, int(np.floor(s)) + 3):
            t = abs(s - i)
            weight = 1.25 * t**3 - 2.25 * t**2 + 1 if t <= 1 else -0.75 * t**3 + 3.75 * t**2 - 6 * t + 3
            matrix[row, min(max(i, 0), trained - 1)] += weight
    return matrix


def stored(model: onnx.ModelProto) -> list[str]:
    return [tensor.name for tensor in model.graph.initializer]


def outputs_of(model: onnx.ModelProto) -> set[str]:
    return {value.name for value in model.graph.output}


def shape_of(value: onnx.ValueInfoProto) -> list[int | str | None]:
    sides = value.type.tensor_type.shape.dim
    return [side.dim_value if side.HasField("dim_value") else side.dim_param or None for side in sides]
