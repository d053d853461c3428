import tracemalloc
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.rows import drawn
from geal_edge.errors import UsageError
from geal_edge.runtime import farthest, kcenter
from geal_edge.runtime.clusters import unit_rows
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.kcenter import (
    count_distances,
    draw_first,
    k_center_by_mean,
    k_center_greedy,
    naive_k_center,
    offsets_of,
    sample_by_distance,
    trace,
)


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


def clustered_units(seed: int, count: int) -> list[np.ndarray]:
    """Rows around a few words, in scenes: near copies everywhere, as in a drive."""
    rng = np.random.default_rng(seed)
    words = rng.normal(size=(6, 8))
    return [
        unit_rows(words[rng.choice(6, 3)] + 10.0 ** -rng.integers(1, 5) * rng.normal(size=(3, 8))) for _ in range(count)
    ]


MAKERS = st.sampled_from([ragged_units, duplicated_units, tied_units, clustered_units])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 30), MAKERS, st.booleans(), st.booleans(), st.booleans()
)
def test_lazy_picks_are_those_of_the_full_form_to_the_last_bit(seed, count, budget, make, small, with_known, parted):
    units = make(seed, count)
    of, dim = np.random.default_rng(seed), units[0].shape[1]
    known = unit_rows(of.normal(size=(of.integers(1, 90), dim))) if with_known else None
    first = None if with_known and seed % 2 else int(of.integers(count))
    turned = of.permutation(count).tolist()
    if first is not None:
        turned.remove(first)
        turned.insert(0, first)
    cut = int(of.integers(1, count))
    pools = [turned[:cut], turned[cut : count - seed % 2]] if parted else None
    # Sizes at which every block, working set and hint list runs over.
    sizes = {"BLOCK_ROWS": 7, "BLOCK_CENTRES": 3, "FIRST_CENTRES": 2, "WORKING_SET": 6, "FRESH_ROWS": 4, "HINTED_ROWS": 3,
             "SCANNED_ROWS": 2, "SCANNED_MOST": 3, "CENTRES_PER_SCANNED": 9, "PART_ROWS": 2, "HINTED_PART": 2, "NEIGHBOURS": 4,
             "SETTLED_ROWS": 8, "LARGE_BLOCK": 5}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items() if small else ():
            patch.setattr(farthest, name, size)
        lazy = greedy(units, budget, first, known=known, pools=pools)
        order = greedy(units, budget, first, known=known, pools=pools, row_distances=False)
    full = naive_k_center(np.concatenate(units), offsets_of(units), budget, first=first, known=known, pools=pools)
    assert lazy == full
    assert order == [replace(pick, row_squared=()) for pick in full]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), MAKERS)
def test_prefixes_and_traces_of_a_lazy_order_agree_with_it(seed, make):
    units = make(seed, 15)
    whole = greedy(units, 15, first=seed % 15)
    for n in (1, 5, 11):
        assert greedy(units, n, first=seed % 15) == whole[:n]
    assert trace(np.concatenate(units), offsets_of(units), [pick.unit for pick in whole]) == whole


def test_at_384_dimensions_the_fp32_filter_decides_nothing_wrongly():
    rng = np.random.default_rng(0)
    words = rng.normal(size=(40, 384))
    units = [unit_rows(words[rng.integers(40, size=9)] + 0.3 * rng.normal(size=(9, 384))) for _ in range(300)]
    # Turned axes: the same distances exactly, and other roundings in fp32.
    near = (
        [rows[:, rng.permutation(384)] for rows in units[:1]]
        + units
        + [rows + np.float16(2**-12) for rows in units[:60]]
    )
    lazy = k_center_greedy(np.concatenate(near), offsets_of(near), 200, first=0)
    assert lazy == naive_k_center(np.concatenate(near), offsets_of(near), 200, first=0)


@pytest.mark.parametrize("make", [ragged_units, duplicated_units, tied_units, clustered_units])
@pytest.mark.parametrize("seed", range(4))
def test_compiled_loops_give_the_same_picks_and_distances(monkeypatch, make, seed):
    pytest.importorskip("numba", reason="the extra `fast` is not installed")
    units = make(seed, 60)
    full = naive_k_center(np.concatenate(units), offsets_of(units), 40, first=seed)
    monkeypatch.setattr(farthest, "COMPILE_FROM", 0)
    monkeypatch.setattr(farthest, "FIRST_CENTRES", 2)
    monkeypatch.setattr(farthest, "WORKING_SET", 20)
    monkeypatch.setattr(farthest, "PART_ROWS", 3)
    monkeypatch.setattr(farthest, "HINTED_PART", 5)
    assert greedy(units, 40, first=seed) == full


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 25), MAKERS)
def test_turning_the_rows_inside_frames_changes_no_pick(seed, count, make):
    units = make(seed, count)
    rng = np.random.default_rng(seed)
    turned = [rows[rng.permutation(len(rows))] for rows in units]
    picks, again = greedy(units, count, seed % count), greedy(turned, count, seed % count)
    assert [(p.unit, p.squared, p.cover_squared) for p in again] == [
        (p.unit, p.squared, p.cover_squared) for p in picks
    ]
    assert [sorted(p.row_squared) for p in again] == [sorted(p.row_squared) for p in picks]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_means_and_draws_over_a_mapped_file_are_taken_block_by_block(tmp_path, monkeypatch, metric):
    units = ragged_units(12, 40) if metric == "cosine" else raw_units(12, 40)
    rows, offsets = np.concatenate(units), offsets_of(units)
    means = k_center_by_mean(rows, offsets, 20, first=0, metric=metric)
    draws = sample_by_distance(rows, offsets, 20, first=0, seed=3, metric=metric)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    monkeypatch.setattr(kcenter, "WIDE_BYTES", 0)
    monkeypatch.setattr(kcenter, "BLOCK_ROWS", 7)
    assert [p.unit for p in k_center_by_mean(mapped, offsets, 20, first=0, metric=metric)] == [p.unit for p in means]
    blocks = sample_by_distance(mapped, offsets, 20, first=0, seed=3, metric=metric)
    assert [p.unit for p in blocks] == [p.unit for p in draws]


@pytest.mark.parametrize(
    "method", [k_center_greedy, naive_k_center, k_center_by_mean, partial(sample_by_distance, seed=3)]
)
def test_every_pick_is_told_and_stopping_leaves_those_so_far(method):
    units = ragged_units(16, 30)
    rows, offsets = np.concatenate(units), offsets_of(units)
    told: list[int] = []
    whole = method(rows, offsets, 12, first=2, on_pick=told.append)
    assert told == list(range(1, 13))
    left = iter(range(5))
    assert method(rows, offsets, 12, first=2, stop=lambda: next(left, None) is None) == whole[:5]
    assert method(rows, offsets, 12, first=2, stop=lambda: True) == []


@pytest.mark.parametrize("budget", [9, 10, 1000])
def test_a_budget_of_the_pool_or_more_orders_all_of_it(budget):
    units = ragged_units(17, 9)
    picks = greedy(units, budget, first=4)
    assert sorted(pick.unit for pick in picks) == list(range(9))
    assert picks == naive_k_center(np.concatenate(units), offsets_of(units), 9, first=4)
    assert picks[-1].cover_squared == 0.0


@pytest.mark.parametrize("make", [ragged_units, tied_units, clustered_units])
def test_neither_picks_nor_distances_depend_on_the_number_of_threads(monkeypatch, make):
    units = make(15, 50)
    rows, offsets = np.concatenate(units), offsets_of(units)
    full = naive_k_center(rows, offsets, 25, first=0)
    for name, size in {"FIRST_CENTRES": 2, "PART_ROWS": 2, "HINTED_PART": 3, "SETTLED_ROWS": 5}.items():
        monkeypatch.setattr(farthest, name, size)
    computed = set()
    for threads in (1, 2, 5):
        monkeypatch.setattr("os.cpu_count", lambda: threads)  # noqa: B023
        assert k_center_greedy(rows, offsets, 25, first=0) == full
        computed.add(count_distances(rows, offsets, 25, first=0))
    assert len(computed) == 1


def test_frames_that_follow_each_other_settle_each_other(monkeypatch):
    rows, offsets = drawn("video", 600, per_frame=10, dim=64)
    beside = count_distances(rows, offsets, 100, first=0)
    monkeypatch.setattr(farthest, "NEIGHBOURS", 0)
    assert beside < 0.9 * count_distances(rows, offsets, 100, first=0)


def test_distances_are_counted_from_threads_without_loss(monkeypatch):
    units = ragged_units(13, 200)
    monkeypatch.setattr(farthest, "SETTLED_ROWS", 2)

    def counted() -> int:
        bounds = farthest.Bounds(np.concatenate(units), 400)
        bounds.add(np.concatenate(ragged_units(14, 100))[:200])
        rows = np.arange(len(bounds.rows))
        bounds.settle_before(rows, np.full(len(rows), 200))
        return bounds.evaluations

    assert len({counted() for _ in range(5)}) == 1


def test_a_mapped_file_is_a_pool(tmp_path):
    units = ragged_units(11, 40)
    np.save(tmp_path / "rows.npy", np.concatenate(units))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert k_center_greedy(mapped, offsets_of(units), 20, first=0) == greedy(units, 20)


def test_a_mapped_pool_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    rows = unit_rows(np.random.default_rng(18).normal(size=(20_000, 128)))
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    monkeypatch.setattr(farthest, "BLOCK_ROWS", 256)
    monkeypatch.setattr(farthest, "WORKING_SET", 256)
    tracemalloc.start()
    try:
        k_center_greedy(mapped, np.arange(0, 20_001, 5), 10, first=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < rows.nbytes / 2


def test_far_fewer_distances_are_computed_than_in_the_full_form():
    rng = np.random.default_rng(1)
    scenes = rng.normal(size=(40, 6, 32))
    units = [unit_rows(scenes[i // 20] + 0.1 * rng.normal(size=(6, 32))) for i in range(800)]
    assert count_distances(np.concatenate(units), offsets_of(units), 100, first=0) < 800 * 6 * 6 * 100 / 5


def test_a_pool_too_large_to_widen_at_once_gives_the_same_picks(monkeypatch):
    units = ragged_units(6, 60)
    rows, offsets = np.concatenate(units), offsets_of(units)
    whole = naive_k_center(rows, offsets, 30, first=0)
    monkeypatch.setattr(kcenter, "WIDE_BYTES", 0)
    monkeypatch.setattr(kcenter, "BLOCK_ROWS", 7)
    assert naive_k_center(rows, offsets, 30, first=0) == whole


def test_the_first_unit_is_drawn_by_the_seed():
    assert draw_first(1000, 0) == draw_first(1000, 0)
    assert len({draw_first(1000, seed) for seed in range(20)}) > 10


def test_a_budget_below_one_is_refused_and_an_empty_pool_gives_nothing():
    with pytest.raises(UsageError, match="at least 1"):
        greedy(ragged_units(0, 3), 0)
    assert k_center_greedy(np.empty((0, 4), np.float16), np.zeros(1, np.intp), 3, first=0) == []


def raw_units(seed: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(9 * rng.normal(size=(rng.integers(1, 5), 8))).astype(np.float32) for _ in range(count)]


def euclid(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    distances: np.ndarray = np.linalg.norm(x[:, None].astype(np.float64) - y, axis=2)
    return distances


@pytest.mark.parametrize("seed", range(5))
def test_known_rows_are_covered_before_the_first_pick(seed):
    units, known = ragged_units(seed, 12), ragged_units(seed + 100, 4)
    # The naive loop, with all that is known as one unit that was picked first.
    expected = naive([np.concatenate(known), *units], 9, first=0)
    picks = greedy(units, 8, first=None, known=np.concatenate(known))
    assert [(p.unit + 1, p.squared) for p in picks] == expected[1:]
    assert all(p.witness is not None and p.row_squared for p in picks)
    begun = greedy(units, 8, first=3, known=np.concatenate(known))
    assert (begun[0].unit, begun[0].squared) == (3, squared_distances(units[3], np.concatenate(known)).min(1).max())


def test_many_known_rows_are_taken_block_by_block(monkeypatch):
    units, known = ragged_units(1, 30), np.concatenate(ragged_units(2, 20))
    whole = greedy(units, 9, first=None, known=known)
    monkeypatch.setattr(kcenter, "BLOCK_CENTRES", 3)
    assert naive_k_center(np.concatenate(units), offsets_of(units), 9, first=None, known=known) == whole


@pytest.mark.parametrize("seed", range(5))
def test_the_euclidean_metric_measures_raw_rows(seed):
    units = raw_units(seed, 12)
    picks = greedy(units, 12, first=2, metric="euclidean")
    for i, pick in enumerate(picks[1:], start=1):
        known = np.concatenate([units[p.unit] for p in picks[:i]])
        left = [u for u in range(12) if u not in {p.unit for p in picks[:i]}]
        assert pick.unit == max(left, key=lambda u: euclid(units[u], known).min(1).max())
        assert np.sqrt(pick.squared) == pytest.approx(euclid(units[pick.unit], known).min(1).max())
    copies = greedy([units[0], units[1], units[0]], 3, metric="euclidean")
    assert (copies[-1].unit, copies[-1].squared, copies[-1].witness) == (2, 0.0, None)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_by_the_mean_each_pick_has_the_largest_mean_distance(seed, metric):
    units = ragged_units(seed, 12) if metric == "cosine" else raw_units(seed, 12)
    picks = k_center_by_mean(np.concatenate(units), offsets_of(units), 12, first=5, metric=metric)
    distance = squared_distances if metric == "cosine" else euclid
    assert picks[0].unit == 5
    for i, pick in enumerate(picks[1:], start=1):
        known = np.concatenate([units[p.unit] for p in picks[:i]])
        left = [u for u in range(12) if u not in {p.unit for p in picks[:i]}]
        assert pick.unit == max(left, key=lambda u: distance(units[u], known).min(1).mean())
        assert pick.witness == distance(units[pick.unit], known).min(1).argmax()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_sampling_draws_units_by_the_squared_distance_of_their_rows(metric):
    units = ragged_units(7, 5) if metric == "cosine" else raw_units(7, 5)
    rows = np.concatenate(units)
    found = [
        sample_by_distance(rows, offsets_of(units), 2, first=0, seed=seed, metric=metric)[1].unit
        for seed in range(2000)
    ]
    # FreeSel: p ~ d^2 over clusters, d = 1-cos or Euclid; chi-square over units 1 to 4, 3 degrees of freedom.
    distance = (lambda x: squared_distances(x, units[0]) / 2) if metric == "cosine" else (lambda x: euclid(x, units[0]))
    weight = np.array([(distance(x).min(1) ** 2).sum() for x in units[1:]])
    expected = 2000 * weight / weight.sum()
    assert (((np.bincount(found, minlength=5)[1:] - expected) ** 2) / expected).sum() < 16.3  # p = 0.001


def test_sampling_picks_each_unit_once_and_copies_last_and_the_same_again():
    units = [*ragged_units(8, 6), *ragged_units(8, 2)]
    picks = sample_by_distance(np.concatenate(units), offsets_of(units), 20, first=3, seed=1)
    assert sorted(p.unit for p in picks) == list(range(8))
    assert [p.squared for p in picks[-2:]] == [0.0, 0.0]
    assert all(p.witness is not None and p.squared == p.row_squared[p.witness] > 0 for p in picks[1:6])
    assert picks == sample_by_distance(np.concatenate(units), offsets_of(units), 20, first=3, seed=1)
    assert picks != sample_by_distance(np.concatenate(units), offsets_of(units), 20, first=3, seed=2)
    nothing_known = sample_by_distance(np.concatenate(units), offsets_of(units), 1, first=None, seed=1)
    assert nothing_known[0].unit == 0


def test_only_units_that_may_be_picked_are():
    units = ragged_units(9, 8)
    for method in (k_center_by_mean, lambda *a, **k: sample_by_distance(*a, seed=0, **k)):
        picks = method(np.concatenate(units), offsets_of(units), 9, first=2, units=[2, 5, 6])
        assert {p.unit for p in picks} == {2, 5, 6}


def test_a_traced_order_tells_the_distances_of_that_order():
    units = ragged_units(10, 8)
    picks = greedy(units, 8)
    assert trace(np.concatenate(units), offsets_of(units), [p.unit for p in picks]) == picks
    backwards = trace(np.concatenate(units), offsets_of(units), [7, 6, 5])
    assert backwards[2].squared == squared_distances(units[5], np.concatenate([units[7], units[6]])).min(1).max()
