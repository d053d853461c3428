import copy
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geal_edge.errors import UsageError
from geal_edge.runtime import coverage as module
from geal_edge.runtime.coverage import CoverageSnapshot, StreamingCoverage
from geal_edge.runtime.distance import squared_distances
from tests.streams import STREAMS, drive_stream, random_stream, unit

streams = st.tuples(st.sampled_from(sorted(STREAMS)), st.integers(0, 10_000), st.integers(1, 60))
capacities = st.sampled_from([1, 2, 3, 5, 12])


def made(stream):
    name, seed, count = stream
    return STREAMS[name](seed, count)


def fed(frames, capacity, **more):
    coverage = StreamingCoverage(capacity=capacity, **more)
    for frame in frames:
        coverage.learn(coverage.score(frame))
    return coverage


def same(one, other):
    return (one.next_unit, one.seen) == (other.next_unit, other.seen) and all(
        np.array_equal(left, right)
        for left, right in zip(
            [one.sample, *(part for held in one.retained for part in held)],
            [other.sample, *(part for held in other.retained for part in held)],
            strict=True,
        )
    )


def value(sample, units):
    """f of the module's docstring, in its plainest form."""
    chords = np.sqrt(squared_distances(sample, np.concatenate(units)).min(axis=1))
    return float((2.0 - np.minimum(chords, 2.0)).sum())


ROUNDED = 1e-4
"""More than what rounding chords to 2^-20 does to any sum here."""


@settings(max_examples=40, deadline=None)
@given(streams, capacities)
def test_scoring_changes_nothing_and_says_the_same_twice(stream, capacity):
    *before, last = made(stream)
    coverage = fed(before, capacity)
    state = copy.deepcopy(coverage.snapshot())
    once, twice = coverage.score(last), coverage.score(last)
    assert once == twice
    assert same(coverage.snapshot(), state)


@settings(max_examples=40, deadline=None)
@given(streams, capacities)
def test_a_retained_unit_gains_nothing_when_it_comes_again(stream, capacity):
    coverage = fed(made(stream), capacity)
    for _, rows in coverage.snapshot().retained:
        again = coverage.score(unit(rows))
        assert again.gain == 0.0
        assert not again.retain


@settings(max_examples=40, deadline=None)
@given(streams, capacities, st.integers(0, 60), st.sampled_from([8, 50, 2048]))
def test_a_restored_one_goes_on_as_if_nothing_had_happened(stream, capacity, at, sample):
    frames = made(stream)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SAMPLE", sample)  # small enough that the draws decide
        through = fed(frames[:at], capacity, seed=3)
        restored = StreamingCoverage(capacity=capacity, seed=3, snapshot=through.snapshot())
        for frame in frames[at:]:
            one, other = through.score(frame), restored.score(frame)
            assert (one.retain, one.evicted, one.gain, one.sampled) == (
                other.retain,
                other.evicted,
                other.gain,
                other.sampled,
            )
            through.learn(one)
            restored.learn(other)
    assert same(through.snapshot(), restored.snapshot())
    assert through.selected() == restored.selected()


@settings(max_examples=40, deadline=None)
@given(streams, capacities, st.sampled_from([8, 2048]))
def test_what_is_remembered_of_the_chords_is_what_a_fresh_look_finds(stream, capacity, sample):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SAMPLE", sample)
        coverage = fed(made(stream), capacity)
        snapshot = coverage.snapshot()
        plain = 2.0 - value(snapshot.sample, [rows for _, rows in snapshot.retained]) / len(snapshot.sample)
        fresh = StreamingCoverage(capacity=capacity, snapshot=snapshot)
    assert coverage.mean_cover == fresh.mean_cover == pytest.approx(plain, abs=ROUNDED)


@settings(max_examples=40, deadline=None)
@given(streams, capacities)
def test_no_more_is_retained_than_the_capacity_and_all_of_it_is_selected(stream, capacity):
    coverage = StreamingCoverage(capacity=capacity)
    for frame in made(stream):
        before = coverage.retained
        decision = coverage.score(frame)
        coverage.learn(decision)
        joined = (decision.unit,) if decision.retain else ()
        assert set(coverage.retained) == (set(before) - set(decision.evicted)) | set(joined)
        assert len(coverage.retained) <= capacity
    assert sorted(s.unit for s in coverage.selected()) == list(coverage.retained)


@settings(max_examples=30, deadline=None)
@given(streams, capacities, st.randoms(use_true_random=False))
def test_the_order_of_clusters_within_a_frame_does_not_matter_while_all_are_in_the_sample(stream, capacity, random):
    frames = made(stream)
    shuffled = [unit(f.rows[random.sample(range(len(f.rows)), len(f.rows))]) for f in frames]
    one, other = fed(frames, capacity), fed(shuffled, capacity)
    assert one.retained == other.retained
    assert [s.unit for s in one.selected()] == [s.unit for s in other.selected()]


def unmoving(frames, capacity):
    """One whose sample is all clusters of the stream and hardly ever changes: as if very much had been seen."""
    sample = np.concatenate([frame.rows for frame in frames])
    return StreamingCoverage(
        capacity=capacity, snapshot=CoverageSnapshot(retained=(), sample=sample, seen=2**60, next_unit=1)
    ), sample


@pytest.mark.parametrize("capacity", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_the_value_on_an_unmoving_sample_never_falls_and_ends_within_half_of_the_best(seed, capacity):
    frames = random_stream(seed, 10, dim=3, most=3)
    coverage, sample = unmoving(frames, capacity)
    values = [0.0]
    joined = True
    while joined:  # the stream again and again, until nothing joins; values rise, so it ends
        joined = False
        for frame in frames:
            decision = coverage.score(frame)
            assert not decision.sampled
            coverage.learn(decision)
            joined |= decision.retain
            values.append(value(sample, [rows for _, rows in coverage.snapshot().retained]))
    assert all(after >= before - ROUNDED for before, after in pairwise(values))
    best = max(value(sample, [f.rows for f in some]) for some in combinations(frames, capacity))
    assert values[-1] >= best / 2


@pytest.mark.parametrize("seed", range(8))
def test_every_prefix_of_the_order_is_within_1_minus_1_over_e_of_the_best_of_the_retained(seed):
    coverage = fed(random_stream(seed, 40, dim=3, most=3), 7)
    snapshot = coverage.snapshot()
    rows, order = dict(snapshot.retained), [s.unit for s in coverage.selected()]
    for count in range(1, len(order) + 1):
        best = max(value(snapshot.sample, [rows[u] for u in some]) for some in combinations(rows, count))
        assert value(snapshot.sample, [rows[u] for u in order[:count]]) >= (1 - 1 / np.e) * best - ROUNDED


def test_every_cluster_seen_is_as_likely_to_be_in_the_sample(monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 10)
    frames = [unit(np.eye(20, dtype=np.float16)[[2 * i, 2 * i + 1]]) for i in range(10)]
    counts = np.sum([fed(frames, 1, seed=seed).snapshot().sample.sum(axis=0) for seed in range(400)], axis=0)
    assert counts.sum() == 400 * 10
    assert np.abs(counts - 200).max() < 5 * np.sqrt(400 * 0.5 * 0.5)  # five standard deviations


def test_the_sample_and_the_picks_are_those_of_the_seed(monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 20)
    frames = drive_stream(0, 80)
    assert same(fed(frames, 5, seed=1).snapshot(), fed(frames, 5, seed=1).snapshot())
    assert len({fed(frames, 5, seed=seed).snapshot().sample.tobytes() for seed in range(5)}) == 5


def test_a_cold_memory_is_bounded_whatever_comes():
    bound = StreamingCoverage(capacity=5)
    sizes = []
    for frame in drive_stream(1, 1500):
        bound.learn(bound.score(frame))
        sizes.append(bound.resident_bytes)
    held = 5 * 4 * 16 * 2  # rows of at most four clusters
    assert max(sizes) <= module.SAMPLE * (16 * (2 + 8) + 8 + 3 * 8 + 5 * 4) + held


def test_a_decision_out_of_turn_is_refused():
    coverage = StreamingCoverage(capacity=2)
    one, other = random_stream(0, 2)
    first, late = coverage.score(one), coverage.score(other)
    coverage.learn(first)
    with pytest.raises(ValueError, match="out of turn"):
        coverage.learn(late)


def test_nothing_seen_selects_nothing_and_a_capacity_of_none_is_refused():
    assert StreamingCoverage(capacity=3).selected() == []
    assert StreamingCoverage(capacity=3).mean_cover == 2.0
    with pytest.raises(UsageError, match="at least 1"):
        StreamingCoverage(capacity=0)
