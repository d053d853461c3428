import math
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from geal_edge.runtime.clusters import unit_rows
from geal_edge.runtime.distance import squared_distances, widen, widened_distances


def rows(seed: int, count: int, dim: int = 384) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, dim)))


def test_distances_are_exact_not_close():
    a, b = rows(0, 3), rows(1, 3)
    found = squared_distances(a, b)
    for i in range(3):
        for j in range(3):
            exact = sum((Fraction(float(x)) - Fraction(float(y))) ** 2 for x, y in zip(a[i], b[j], strict=True))
            assert Fraction(found[i, j]) == exact


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_distances_do_not_depend_on_order_blocking_or_the_blas(seed):
    a, b = rows(seed, 40), rows(seed + 1, 30)
    axes = np.random.default_rng(seed).permutation(384)
    whole = squared_distances(a, b)
    assert np.array_equal(whole, squared_distances(a[:, axes], b[:, axes]))
    assert np.array_equal(whole, np.concatenate([squared_distances(a[:7], b), squared_distances(a[7:], b)]))
    wide_a, wide_b = widen(a), widen(b)
    by_hand = wide_a[1][:, None] + wide_b[1] - 2 * np.einsum("id,jd->ij", wide_a[0], wide_b[0])
    assert np.array_equal(whole, by_hand)
    assert np.array_equal(widened_distances(wide_a, wide_b), whole)


def test_a_row_is_at_exactly_zero_from_itself_and_never_below():
    a = rows(4, 50)
    found = squared_distances(a, a)
    assert (np.diag(found) == 0.0).all()
    assert (found >= 0.0).all()


def test_subnormal_fp16_values_count():
    tiny = np.full((1, 4), 2.0**-24, np.float16)
    assert squared_distances(tiny, np.zeros((1, 4), np.float16))[0, 0] == 4 * 2.0**-48


def test_fsum_agrees():
    a, b = rows(7, 1), rows(8, 1)
    terms = (a[0].astype(float) - b[0].astype(float)) ** 2
    assert squared_distances(a, b)[0, 0] == math.fsum(terms)
