import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geal_edge.runtime import baselines
from geal_edge.runtime.baselines import (
    NEIGHBOURS,
    core_set,
    density_aware,
    every_nth,
    facility_location,
    random_order,
    uniform_in_time,
)
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.kcenter import offsets_of
from tests.streams import random_stream


@given(st.integers(1, 60), st.integers(1, 80))
def test_every_baseline_picks_as_many_frames_as_there_are_and_none_twice(count, budget):
    embeddings = np.random.default_rng(count).standard_normal((count, 4)).astype(np.float32)
    orders = [
        random_order(count, budget, seed=1),
        uniform_in_time(count, budget),
        every_nth(count, budget),
        core_set(embeddings, budget, first=0, metric="cosine"),
        core_set(embeddings, budget, first=0, metric="euclidean"),
    ]
    for order in orders:
        assert len(order) == len(set(order)) == min(count, budget)
        assert set(order) <= set(range(count))


def test_a_random_order_is_that_of_its_seed():
    assert random_order(50, 20, seed=3) == random_order(50, 50, seed=3)[:20]
    assert len({tuple(random_order(50, 5, seed=seed)) for seed in range(20)}) == 20


def test_in_time_means_evenly():
    for count, budget in ((100, 7), (33, 32), (5, 1)):
        gaps = np.diff(uniform_in_time(count, budget))
        assert not len(gaps) or gaps.max() - gaps.min() <= 1
        assert len(set(np.diff(every_nth(count, budget)))) <= 1


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_core_set_takes_the_frame_farthest_from_all_before(metric):
    x = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32) * np.arange(1, 21)[:, None]
    y = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
    order = [4]
    while len(order) < 10:
        order.append(int(np.linalg.norm(y[:, None] - y[order], axis=2).min(1).argmax()))
    assert core_set(x, 10, first=4, metric=metric) == order


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_core_set_begins_far_from_what_is_known_and_picks_only_what_it_may(metric):
    x = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    whole = core_set(x, 10, first=4, metric=metric)
    units = [i for i in range(20) if i != 4]
    assert core_set(x, 9, first=None, metric=metric, units=units, known=x[[4]]) == whole[1:]


def pool_of(seed, count=14):
    units = [unit.rows for unit in random_stream(seed, count)]
    chords = [[np.sqrt(squared_distances(u, v)) for v in units] for u in units]
    return np.concatenate(units), offsets_of(units), chords


@pytest.mark.parametrize("seed", range(6))
def test_facility_location_takes_what_brings_the_mean_chord_down_most(seed):
    rows, offsets, chords = pool_of(seed)
    order: list[int] = []
    nearest = np.full(len(rows), 2.0)
    while len(order) < 8:
        means = [np.minimum(nearest, np.concatenate([c[u].min(1) for c in chords])).sum() for u in range(14)]
        order.append(min((u for u in range(14) if u not in order), key=lambda u: round(means[u], 9)))
        nearest = np.minimum(nearest, np.concatenate([c[order[-1]].min(1) for c in chords]))
    assert facility_location(rows, offsets, 8, units=range(14)) == order


@pytest.mark.parametrize("seed", range(6))
def test_density_weighs_the_distance_by_how_near_the_neighbours_in_other_frames_are(seed):
    rows, offsets, chords = pool_of(seed)
    others = [np.concatenate([c for v, c in enumerate(chords[u]) if v != u], axis=1) for u in range(14)]
    density = [1 / (np.sort(o, axis=1)[:, :NEIGHBOURS] ** 2).mean(1) for o in others]
    order = [3]
    while len(order) < 8:
        worth = [(np.min([chords[u][v].min(1) for v in order], axis=0) ** 2 * density[u]).max() for u in range(14)]
        order.append(max((u for u in range(14) if u not in order), key=lambda u: worth[u]))
    assert density_aware(rows, offsets, 8, first=3, units=range(14)) == order


@pytest.mark.parametrize("seed", range(3))
def test_other_goals_heed_what_is_known_and_pick_only_what_they_may(seed):
    rows, offsets, _ = pool_of(seed)
    first = facility_location(rows, offsets, 1, units=range(14))[0]
    known, left = rows[offsets[first] : offsets[first + 1]], [u for u in range(14) if u != first]
    whole = facility_location(rows, offsets, 9, units=range(14))
    assert facility_location(rows, offsets, 8, units=left, known=known) == whole[1:]
    whole = density_aware(rows, offsets, 9, first=first, units=range(14))
    assert density_aware(rows, offsets, 8, first=None, units=left, known=known) == whole[1:]
    assert sorted(facility_location(rows, offsets, 99, units=[5, 2, 9])) == [2, 5, 9]


def test_a_large_pool_is_reckoned_on_a_sample_and_the_sample_is_that_of_its_seed(monkeypatch):
    rows, offsets, _ = pool_of(0)
    whole = facility_location(rows, offsets, 14, units=range(14))
    monkeypatch.setattr(baselines, "SAMPLE", 7)
    orders = [facility_location(rows, offsets, 5, units=range(14), seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders} | {tuple(whole[:5])}) > 1
    assert sorted(density_aware(rows, offsets, 14, first=0, units=range(14), seed=1)) == list(range(14))
