"""The position embedding on other grids: DINO's formula, checked against a slow spelling of it and against torch."""

import math

import numpy as np
import pytest

from geal_edge.models.posembed import interpolate_pos_embed


def table(rows: int, cols: int, dim: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 1 + rows * cols, dim)).astype(np.float32)


def slowly(pos_embed: np.ndarray, trained: tuple[int, int], rows: int, cols: int, extra: float = 0.1) -> np.ndarray:
    """DINO's formula, number by number; `extra` is its 0.1."""

    def keys(t: float) -> float:
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    grid = pos_embed[0, 1:].astype(np.float64).reshape(*trained, -1)
    result = np.zeros((rows, cols, grid.shape[-1]))
    for r in range(rows):
        y = (r + 0.5) / ((rows + extra) / trained[0]) - 0.5
        for c in range(cols):
            x = (c + 0.5) / ((cols + extra) / trained[1]) - 0.5
            for i in range(math.floor(y) - 1, math.floor(y) + 3):
                for j in range(math.floor(x) - 1, math.floor(x) + 3):
                    nearest = grid[min(max(i, 0), trained[0] - 1), min(max(j, 0), trained[1] - 1)]
                    result[r, c] += keys(y - i) * keys(x - j) * nearest
    return np.concatenate([pos_embed[:, :1], result.reshape(1, rows * cols, -1)], axis=1)


@pytest.mark.parametrize(
    "trained, rows, cols",
    [
        ((14, 14), 14, 28),
        ((14, 14), 12, 40),
        ((14, 14), 28, 28),
        ((14, 14), 14, 13),
        ((5, 5), 1, 9),
        ((4, 4), 2, 2),
        ((3, 5), 3, 5),
        ((1, 1), 3, 2),
    ],
)
def test_it_is_dinos_formula(trained, rows, cols):
    trained_table = table(*trained)

    answer = interpolate_pos_embed(trained_table, trained, rows, cols)

    assert answer.shape == (1, 1 + rows * cols, 3)
    np.testing.assert_allclose(answer, slowly(trained_table, trained, rows, cols), rtol=0, atol=1e-13)


def test_it_agrees_with_torch():
    """Numbers of torch 2.13.0: `interpolate(mode="bicubic", scale_factor=(3.1 / 2, 4.1 / 2))` of this table in float64."""
    trained = np.array([[[9], [1], [2], [4], [8]]], np.float32)

    answer = interpolate_pos_embed(trained, (2, 2), 3, 4)

    expected = [
        [0.6523089707327795, 0.8815807729230255, 1.2712222733534795, 1.5310906101616817],
        [2.1370172605918545, 2.8881303383365267, 4.164627595345576, 5.015977409861501],
        [3.7534936256238813, 5.072761467502026, 7.314823057581491, 8.810148416383965],
    ]
    assert answer[0, 0, 0] == 9
    np.testing.assert_allclose(answer[0, 1:, 0].reshape(3, 4), expected, rtol=0, atol=1e-12)


def test_the_trained_grid_is_copied_where_it_is_square():
    trained = table(14, 14)

    assert np.array_equal(interpolate_pos_embed(trained, (14, 14), 14, 14), trained)


def test_an_axis_of_the_trained_length_is_resampled_when_the_other_one_is_not():
    """448x224: DINO asks for both at once, so the 14 rows of 14 move by up to a tenth of a cell."""
    rows_differ = np.zeros((1, 197, 1), np.float32)
    rows_differ[0, 1:, 0] = np.repeat(np.arange(14), 14)

    answer = interpolate_pos_embed(rows_differ, (14, 14), 14, 28)[0, 1:, 0].reshape(14, 28)

    assert 0.05 < np.abs(answer - np.arange(14)[:, None]).max() < 0.15


def test_the_cls_row_is_left_alone():
    trained = table(14, 14)

    assert np.array_equal(interpolate_pos_embed(trained, (14, 14), 12, 40)[0, 0], trained[0, 0])


@pytest.mark.parametrize("rows, cols", [(1, 1), (9, 5), (12, 40), (14, 28)])
def test_what_is_the_same_everywhere_stays_so(rows, cols):
    constant = np.full((1, 197, 2), 0.3, np.float32)

    np.testing.assert_allclose(interpolate_pos_embed(constant, (14, 14), rows, cols), np.float32(0.3), rtol=1e-14)


def test_rows_and_columns_are_treated_alike():
    trained = table(6, 6)
    mirrored = trained.copy()
    mirrored[0, 1:] = trained[0, 1:].reshape(6, 6, 3).swapaxes(0, 1).reshape(36, 3)

    wide = interpolate_pos_embed(trained, (6, 6), 4, 11)[0, 1:].reshape(4, 11, 3)
    tall = interpolate_pos_embed(mirrored, (6, 6), 11, 4)[0, 1:].reshape(11, 4, 3)

    np.testing.assert_allclose(wide, tall.swapaxes(0, 1), rtol=0, atol=1e-14)


def test_the_table_is_not_changed():
    trained = table(4, 4)
    before = trained.copy()

    interpolate_pos_embed(trained, (4, 4), 4, 4)[0, 0] += 1
    interpolate_pos_embed(trained, (4, 4), 3, 5)[0, 0] += 1

    assert np.array_equal(trained, before)
