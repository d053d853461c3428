"""The resize filters against what they are defined to be, and the advice on aspect."""

import re
import sys
from math import ceil, floor

import numpy as np
import pytest

from geal_edge.errors import MissingDependency, UsageError
from geal_edge.models.preprocess import aspect_warning, matching_size, resize


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Noise over slow waves: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = 120 + 80 * np.sin(x / 17.0)[:, :, None] + 50 * np.cos(y / 11.0)[:, :, None]
    pixels: np.ndarray = np.clip(waves + rng.normal(0, 30, (height, width, 3)), 0, 255).astype(np.uint8)
    return pixels


def bicubic_in_integers(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pillow's definition: a = -0.5, support widened by the reduction, 22-bit integer weights, rows first, then columns."""

    def weights(before: int, after: int) -> np.ndarray:
        scale = max(1.0, before / after)
        table = np.zeros((after, before), np.int64)
        for place in range(after):
            centre = (place + 0.5) * before / after
            first = max(0, floor(centre - 2.0 * scale + 0.5))
            last = min(before, floor(centre + 2.0 * scale + 0.5))
            x = np.abs((np.arange(first, last) - centre + 0.5) / scale)
            curve = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
            exact = curve / curve.sum() * (1 << 22)
            table[place, first:last] = [floor(w + 0.5) if w >= 0 else ceil(w - 0.5) for w in exact]
        return table

    def apply(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
        summed: np.ndarray = np.clip((np.einsum("ab,b...->a...", table, rows) + (1 << 21)) >> 22, 0, 255)
        return summed

    wide = apply(weights(image.shape[1], width), image.astype(np.int64).transpose(1, 0, 2)).transpose(1, 0, 2)
    return apply(weights(image.shape[0], height), wide).astype(np.uint8)


@pytest.mark.parametrize("source", [(320, 180), (120, 200)])
@pytest.mark.parametrize(("width", "height"), [(224, 224), (48, 32), (448, 224), (300, 40)])
def test_pil_bicubic_is_the_filter_of_the_authors_code_bit_for_bit_in_every_version(source, width, height):
    image = photo(*source)
    expected = bicubic_in_integers(image, width, height)
    np.testing.assert_array_equal(resize(image, width, height, "pil_bicubic"), expected)


def test_area_is_the_mean_of_the_covered_pixels():
    image = photo(320, 180)
    mean = image.reshape(45, 4, 80, 4, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(resize(image, 80, 45, "area") - mean).max() <= 0.5


@pytest.mark.parametrize("resize_filter", ["pil_bicubic", "area"])
@pytest.mark.parametrize(("width", "height"), [(224, 224), (64, 400), (400, 64), (640, 360), (320, 180), (1, 1)])
def test_the_result_has_exactly_the_size_asked_for(width, height, resize_filter):
    image = photo(320, 180)
    before = image.copy()

    small = resize(image, width, height, resize_filter)

    assert small.shape == (height, width, 3)
    assert small.dtype == np.uint8
    assert small.flags.c_contiguous
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("resize_filter", ["pil_bicubic", "area"])
def test_how_the_picture_lies_in_memory_does_not_matter(resize_filter):
    image = photo(320, 180)
    views = [np.asfortranarray(image), image[::-1][::-1], np.ascontiguousarray(image[:, :, ::-1])[:, :, ::-1]]
    for width, height in ((224, 224), (320, 180)):
        expected = resize(image, width, height, resize_filter)
        for view in views:
            same = resize(view, width, height, resize_filter)
            np.testing.assert_array_equal(same, expected)
            assert same.flags.c_contiguous


def test_a_picture_of_the_right_size_is_not_touched():
    image = photo(224, 224)
    assert resize(image, 224, 224, "pil_bicubic") is image


@pytest.mark.parametrize(("resize_filter", "package"), [("pil_bicubic", "PIL"), ("area", "cv2")])
def test_a_missing_package_is_a_sentence_with_the_command(resize_filter, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=resize_filter + ".*" + re.escape("pip install 'geal-edge[cpu]'")):
        resize(photo(32, 32), 16, 16, resize_filter)


def test_an_unknown_filter_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="'lanczos': must be one of pil_bicubic, area"):
        resize(photo(32, 32), 16, 16, "lanczos")  # type: ignore[arg-type]  # as it may come from a manifest


@pytest.mark.parametrize(
    ("source", "target", "advice"),
    [
        ((1280, 720), (224, 224), "304x176"),
        ((1920, 1080), (224, 224), "304x176"),
        ((480, 850), (448, 224), "240x432"),
        ((640, 480), (224, 224), "256x192"),
        ((1241, 376), (640, 192), None),
        ((1280, 720), (448, 224), None),
        ((640, 512), (224, 224), None),
    ],
)
def test_a_squeeze_beyond_a_third_gets_a_size_to_use(source, target, advice):
    message = aspect_warning(source, target, 16)
    assert (message is None) if advice is None else (message is not None and f"--size {advice}" in message)


@pytest.mark.parametrize("patch", [8, 16])
def test_the_size_to_use_costs_about_the_same_and_squeezes_little(patch):
    for source in ((1920, 1080), (1080, 1920), (1241, 376), (1600, 900), (960, 540), (3840, 800)):
        for target in ((224, 224), (448, 224), (640, 192)):
            width, height = matching_size(source, target, patch)
            assert width % patch == height % patch == 0
            assert 0.85 < (width * height) / (target[0] * target[1]) < 1.18
            assert aspect_warning(source, (width, height), patch) is None


def test_no_source_is_too_narrow_for_an_answer():
    assert matching_size((4000, 1), (224, 224), 16)[1] == 16
    assert matching_size((1, 4000), (224, 224), 16)[0] == 16
