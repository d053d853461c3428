"""The float64 forward pass and the comparison: what engines are held against must be right itself, and hard to please."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from geal_edge.errors import ParityError, UsageError
from geal_edge.export.parity import reference_forward
from geal_edge.models.vit import Weights
from geal_edge.runtime.parity import Tolerances, compare
from tests.tiny import NORM, TINY8, TINY16, random_frames, tiny_weights


def test_the_forward_pass_says_what_torch_says():
    """Numbers of transformers 5.23.0's ViTModel in float64 (torch 2.13.0), from the same weights and frame.

    tests/oracle holds every number against torch; these few do so where torch is not installed.
    """
    answer = reference_forward(tiny_weights(TINY8), random_frames(1, 72, 40), **NORM)

    expected = {
        "patch_features": [-0.37791856712511424, 0.6749973219051274, 0.5654250100079509],
        "cls_attention": [0.03635235208374356, 0.0461563821834894, 0.011906383366098526],
        "cls_embedding": [-0.3219985155415935, -0.6611953894892934, 0.0280784202592875],
    }
    np.testing.assert_allclose(answer["patch_features"][0, 7, :3], expected["patch_features"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(answer["cls_attention"][0, :3], expected["cls_attention"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(answer["cls_embedding"][0, :3], expected["cls_embedding"], rtol=0, atol=1e-12)


def test_the_answers_are_float64_of_the_graphs_shapes():
    answer = reference_forward(tiny_weights(TINY8), random_frames(2, 72, 40), **NORM)

    shapes = {name: values.shape for name, values in answer.items()}
    assert shapes == {"patch_features": (2, 45, 128), "cls_attention": (2, 45), "cls_embedding": (2, 128)}
    assert {values.dtype for values in answer.values()} == {np.dtype(np.float64)}


def test_the_cls_embedding_can_be_left_out():
    answer = reference_forward(tiny_weights(), random_frames(1, 64, 64), cls_embedding=False, **NORM)

    assert list(answer) == ["patch_features", "cls_attention"]


def test_each_frame_is_answered_by_itself():
    weights, frames = tiny_weights(), random_frames(3, 96, 64)

    together = reference_forward(weights, frames, **NORM)

    for name, values in reference_forward(weights, frames[1:2], **NORM).items():
        assert np.array_equal(values[0], together[name][1])


def test_without_a_question_attention_is_even():
    """Q = 0 in the last block: every score is 0, whatever the keys."""
    weights = tiny_weights()
    tensors = dict(weights.tensors)
    for kind in ("weight", "bias"):
        tensors[f"blocks.1.attn.qkv.{kind}"] = tensors[f"blocks.1.attn.qkv.{kind}"].copy()
        tensors[f"blocks.1.attn.qkv.{kind}"][:64] = 0

    answer = reference_forward(replace(weights, tensors=tensors), random_frames(1, 96, 64), **NORM)

    np.testing.assert_allclose(answer["cls_attention"], 1 / 24, rtol=1e-12)


def test_equal_patches_differ_only_by_their_place():
    """One colour everywhere and no position embedding: all tokens are one."""
    weights = tiny_weights()
    nowhere = replace(weights, tensors={**weights.tensors, "pos_embed": 0 * weights.tensors["pos_embed"]})

    features = reference_forward(nowhere, np.full((1, 64, 64, 3), 90, np.uint8), **NORM)["patch_features"]

    np.testing.assert_allclose(features, np.broadcast_to(features[:, :1], features.shape), rtol=0, atol=1e-12)


def test_a_size_that_the_patches_do_not_fill_is_refused():
    with pytest.raises(UsageError, match="multiples of the patch size 16"):
        reference_forward(tiny_weights(), random_frames(1, 65, 64), **NORM)


# The comparison.


@pytest.fixture
def reference() -> dict[str, np.ndarray]:
    return reference_forward(tiny_weights(TINY16), random_frames(2, 64, 64), **NORM)


def test_the_reference_agrees_with_itself(reference):
    report = compare(reference, reference)

    assert report.passed
    assert [output.max_error for output in report.outputs] == [0, 0, 0]
    assert [output.min_cosine for output in report.outputs] == [pytest.approx(1), None, pytest.approx(1)]


def test_float32_is_near_enough(reference):
    assert compare(reference, {name: values.astype(np.float32) for name, values in reference.items()}).passed


@pytest.mark.parametrize("name", ["patch_features", "cls_attention", "cls_embedding"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_none_fails(reference, name, value):
    answer = {**reference, name: reference[name].copy()}
    answer[name].flat[5] = value

    report = compare(reference, answer)

    assert [output.name for output in report.outputs if not output.passed] == [name]
    assert f"{name}: FAILED, holds NaN or infinity" in str(report)


def test_a_reference_that_is_no_number_passes_nothing(reference):
    broken = {**reference, "cls_attention": np.full_like(reference["cls_attention"], np.nan)}

    assert not compare(broken, broken).passed


@pytest.mark.parametrize(
    "name, error", [("patch_features", 2.1e-3), ("cls_embedding", 2.1e-3), ("cls_attention", 1.1e-5)]
)
def test_one_number_that_is_too_far_fails(reference, name, error):
    for far, passed in ((error, False), (-error, False), (0.9 * error, True)):
        answer = {**reference, name: reference[name].copy()}
        answer[name].flat[5] += far

        assert compare(reference, answer).passed is passed


def test_one_token_that_turned_fails_even_where_its_numbers_are_near(reference):
    """Tokens of small numbers: an error below 2e-3 is another direction."""
    small = {"patch_features": reference["patch_features"] * 1e-2}
    answer = {"patch_features": small["patch_features"].copy()}
    answer["patch_features"][1, 3] = answer["patch_features"][1, 3] + 1e-3 * np.resize([1, -1], 64)

    (output,) = compare(small, answer).outputs

    assert output.max_error < output.error_tolerance
    assert not output.passed


def test_looser_tolerances_can_be_asked_for(reference):
    answer = {**reference, "patch_features": reference["patch_features"] + 0.01}

    assert not compare(reference, answer).passed
    assert compare(reference, answer, Tolerances(feature_error=0.02, feature_cosine=0.99)).passed


def test_a_token_of_zeros_is_like_itself_and_like_no_other():
    zero, one = {"cls_embedding": np.zeros((1, 4))}, {"cls_embedding": np.full((1, 4), 1e-4)}

    assert compare(zero, zero).passed
    assert not compare(zero, one).passed


def test_an_output_that_is_missing_is_named(reference):
    answer = {"patch_features": reference["patch_features"], "cls_attention": reference["cls_attention"]}

    with pytest.raises(ParityError, match="'cls_embedding' is missing"):
        compare(reference, answer)


def test_an_output_of_another_shape_is_named(reference):
    with pytest.raises(ParityError, match=r"'cls_attention' has shape \(2, 15\), expected \(2, 16\)"):
        compare(reference, {**reference, "cls_attention": reference["cls_attention"][:, 1:]})


def test_an_output_that_the_reference_does_not_know_is_not_judged(reference):
    assert compare(reference, {**reference, "clusters": np.full((2, 3, 64), np.nan)}).passed


def test_nothing_is_changed_by_looking(reference):
    before = {name: values.copy() for name, values in reference.items()}

    compare(reference, reference)

    assert all(np.array_equal(before[name], reference[name]) for name in before)


def test_the_report_has_a_line_for_each_output_and_fits_into_json(reference):
    answer = {**reference, "cls_attention": reference["cls_attention"] + np.inf}

    report = compare(reference, answer)

    assert [line.split(":")[0] for line in str(report).splitlines()] == list(reference)
    told = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert told["passed"] is False
    assert told["frames"] == 2
    assert told["outputs"]["cls_attention"] == {
        "max_error": None,
        "error_tolerance": 1e-5,
        "min_cosine": None,
        "cosine_tolerance": None,
        "passed": False,
    }
    assert told["outputs"]["patch_features"]["min_cosine"] == pytest.approx(1)


def test_a_float64_engine_passes_at_any_tolerance_and_other_weights_at_none():
    frames, mine, other = random_frames(1, 64, 64), tiny_weights(), tiny_weights(seed=1)

    def answer(weights: Weights) -> dict[str, np.ndarray]:
        return reference_forward(weights, frames, **NORM)

    assert compare(answer(mine), answer(mine), Tolerances(feature_error=0, feature_cosine=0, attention_error=0)).passed
    assert not compare(answer(mine), answer(other)).passed


def test_parity_needs_neither_onnx_nor_an_engine():
    code = "import sys, geal_edge.export.parity; print({'onnx', 'onnxruntime', 'torch'} & set(sys.modules))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "set()"
