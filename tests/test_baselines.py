import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geal_edge.runtime.baselines import core_set, every_nth, random_order, uniform_in_time


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
