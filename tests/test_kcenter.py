import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geal_edge.errors import UsageError
from geal_edge.runtime import kcenter
from geal_edge.runtime.clusters import unit_rows
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.kcenter import draw_first, k_center_greedy, offsets_of


def naive(units: list[np.ndarray], budget: int, first: int) -> list[tuple[int, float]]:
    """K-Center-Greedy as the paper writes it; ties by lower index, duplicates by lowest index."""
    picks = [(first, 0.0)]
    while len(picks) < min(budget, len(units)):
        known = np.concatenate([units[u] for u, _ in picks])
        novelty = [-1.0 if u in dict(picks) else squared_distances(x, known).min(1).max() for u, x in enumerate(units)]
        picks.append((int(np.argmax(novelty)), float(max(novelty))))
    return picks


def ragged_units(seed: int, count: int, dim: int = 8, most: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [unit_rows(rng.normal(size=(rng.integers(1, most + 1), dim))) for _ in range(count)]


def duplicated_units(seed: int, count: int) -> list[np.ndarray]:
    units = ragged_units(seed, max(1, count // 3))
    return [units[i % len(units)] for i in range(count)]


def tied_units(seed: int, count: int) -> list[np.ndarray]:
    """Rows from the corners of a cross: nearly every distance is 0, 2 or 4, so ties are everywhere."""
    rng = np.random.default_rng(seed)
    corners = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float16)
    return [corners[rng.choice(6, rng.integers(1, 4), replace=False)] for _ in range(count)]


def greedy(units, budget, first=0, **more):
    return k_center_greedy(np.concatenate(units), offsets_of(units), budget, first=first, **more)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 25),
    st.integers(1, 30),
    st.sampled_from([ragged_units, duplicated_units, tied_units]),
)
def test_picks_equal_those_of_the_naive_loop(seed, count, budget, make):
    units = make(seed, count)
    first = seed % count
    assert [(p.unit, p.squared) for p in greedy(units, budget, first)] == naive(units, budget, first)


def test_any_prefix_is_the_selection_of_that_size():
    units = ragged_units(1, 20)
    whole = greedy(units, 20, first=3)
    for n in range(1, 20):
        assert greedy(units, n, first=3) == whole[:n]


def test_the_order_of_clusters_within_a_unit_does_not_matter():
    units = ragged_units(2, 15)
    turned = [rows[::-1] for rows in units]
    assert [p.unit for p in greedy(units, 10)] == [p.unit for p in greedy(turned, 10)]


def test_the_witness_is_the_row_that_was_farthest():
    units = ragged_units(3, 12)
    picks = greedy(units, 12)
    for i, pick in enumerate(picks[1:], start=1):
        known = np.concatenate([units[p.unit] for p in picks[:i]])
        to_known = squared_distances(units[pick.unit], known).min(1)
        assert pick.squared == to_known.max()
        assert pick.witness == int(to_known.argmax())


def test_exact_copies_come_last_by_index_at_distance_zero_and_nothing_asserts():
    units = duplicated_units(4, 9)
    picks = greedy(units, 20)
    assert sorted(p.unit for p in picks) == list(range(9))
    copies = [p for p in picks[1:] if p.squared == 0.0]
    assert [p.unit for p in copies] == sorted(p.unit for p in copies)
    assert all(p.witness is None for p in copies)


def test_a_pool_is_used_up_before_the_next_is_touched():
    units = ragged_units(5, 12)
    picks = greedy(units, 12, first=4, pools=[[4, 7, 9], [0, 1, 2, 3, 5, 6, 8, 10, 11]])
    assert {p.unit for p in picks[:3]} == {4, 7, 9}


def test_radius_is_at_most_twice_the_best_of_as_many_single_points():
    # F4: b + 1 witnesses pairwise >= cov; checked against brute force over the rows themselves (discrete optimum <= 2x).
    from itertools import combinations

    for seed in range(5):
        units = ragged_units(seed, 6, dim=3, most=2)
        rows = np.concatenate(units)
        distances = np.sqrt(squared_distances(rows, rows))
        for budget in (1, 2, 3):
            picks = greedy(units, budget)
            picked = np.concatenate([units[p.unit] for p in picks])
            radius = np.sqrt(squared_distances(rows, picked).min(1).max())
            best = min(distances[:, list(c)].min(1).max() for c in combinations(range(len(rows)), budget))
            assert radius <= 2 * best + 1e-12


def test_a_pool_too_large_to_widen_at_once_gives_the_same_picks(monkeypatch):
    units = ragged_units(6, 60)
    whole = greedy(units, 30)
    monkeypatch.setattr(kcenter, "WIDE_BYTES", 0)
    monkeypatch.setattr(kcenter, "BLOCK_ROWS", 7)
    assert greedy(units, 30) == whole


def test_the_first_unit_is_drawn_by_the_seed():
    assert draw_first(1000, 0) == draw_first(1000, 0)
    assert len({draw_first(1000, seed) for seed in range(20)}) > 10


def test_a_budget_below_one_is_refused_and_an_empty_pool_gives_nothing():
    with pytest.raises(UsageError, match="at least 1"):
        greedy(ragged_units(0, 3), 0)
    assert k_center_greedy(np.empty((0, 4), np.float16), np.zeros(1, np.intp), 3, first=0) == []
