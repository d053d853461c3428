import copy
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geal_edge.errors import UsageError
from geal_edge.runtime.clusters import unit_rows
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.ladder import RADII, TOP, Ladder
from tests.plain_ladder import PlainLadder
from tests.streams import STREAMS, drive_stream, random_stream, unit

streams = st.tuples(st.sampled_from(sorted(STREAMS)), st.integers(0, 10_000), st.integers(1, 60))
budgets = st.sampled_from([1, 2, 3, 5, 12])


def made(stream):
    name, seed, count = stream
    return STREAMS[name](seed, count)


def fed(frames, budget, **more):
    ladder = Ladder(capacity=budget, **more)
    for frame in frames:
        ladder.learn(ladder.score(frame))
    return ladder


def measured_radius(ladder, frames):
    selected = {s.unit for s in ladder.selected()}
    rows = np.concatenate([u.rows for u in ladder.snapshot() if u.unit in selected])
    return max(np.sqrt(squared_distances(f.rows, rows).min(1).max()) for f in frames)


@settings(max_examples=50, deadline=None)
@given(streams, budgets)
def test_the_certified_radius_is_never_below_the_measured_one(stream, budget):
    frames = made(stream)
    ladder = fed(frames, budget)
    certified = ladder.certificate().radius
    if certified is None:
        assert ladder.answering == TOP
    else:
        assert measured_radius(ladder, frames) <= certified


@settings(max_examples=25, deadline=None)
@given(streams, budgets)
def test_the_lower_bound_is_true_of_the_best_single_patches(stream, budget):
    # budget + 1 rows pairwise >= 2 * bound must exist among all that was seen: then no `budget` points cover below bound.
    frames = made(stream)
    bound = fed(frames, budget).certificate().lower_bound
    rows = np.concatenate([f.rows for f in frames])
    if bound > 0:
        apart = np.sqrt(squared_distances(rows, rows)) >= 2 * bound
        assert largest_clique_at_least(apart, budget + 1)


def largest_clique_at_least(adjacent, size):
    """Greedy with a few restarts; the ladder's own witnesses are such a clique, so one is found easily."""

    def grow(chosen, candidates):
        if len(chosen) == size:
            return True
        while len(candidates) >= size - len(chosen):
            node = max(candidates, key=lambda n: int(adjacent[n, candidates].sum()))
            if grow([*chosen, node], [c for c in candidates if c != node and adjacent[node, c]]):
                return True
            candidates = [c for c in candidates if c != node]
        return False

    return grow([], list(range(len(adjacent))))


def test_the_factor_holds_where_the_optimum_can_be_found_by_brute_force():
    for seed in range(12):
        frames = random_stream(seed, 9, dim=3, most=2)
        rows = np.concatenate([f.rows for f in frames])
        distances = np.sqrt(squared_distances(rows, rows))
        for budget in (1, 2, 3):
            ladder = fed(frames, budget, max_retained=100)
            certificate = ladder.certificate()
            best = min(distances[:, list(c)].min(1).max() for c in combinations(range(len(rows)), budget))
            assert certificate.lower_bound <= best
            if certificate.radius is not None and certificate.lower_bound > 0:
                assert measured_radius(ladder, frames) <= 2 * 1.01 * best + 1e-9


@settings(max_examples=25, deadline=None)
@given(streams, budgets)
def test_scoring_is_pure_and_says_the_same_twice(stream, budget):
    *before, last = made(stream) + [unit(unit_rows(np.eye(made(stream)[0].rows.shape[1])[:1]))]
    ladder = fed(before, budget)
    state = copy.deepcopy((ladder.snapshot(), ladder.deaths, ladder.next_unit))
    once, twice = ladder.score(last), ladder.score(last)
    assert (once.levels, once.deaths, once.evicted, once.squared_novelty, once.witness, once.nearest) == (
        twice.levels,
        twice.deaths,
        twice.evicted,
        twice.squared_novelty,
        twice.witness,
        twice.nearest,
    )
    after = (ladder.snapshot(), ladder.deaths, ladder.next_unit)
    assert repr(after) == repr(state)


@settings(max_examples=25, deadline=None)
@given(streams, budgets)
def test_a_unit_that_was_learned_is_not_new_when_it_comes_again(stream, budget):
    frames = made(stream)
    ladder = fed(frames, budget)
    for frame in frames:
        assert ladder.score(frame).empty  # every alive level has it within its radius
    retained = {u.unit: u for u in ladder.snapshot()}
    for number in ladder.members(ladder.answering):
        assert ladder.score(unit(retained[number].rows)).novelty == 0.0


@settings(max_examples=25, deadline=None)
@given(streams, budgets, st.integers(0, 60))
def test_a_ladder_restored_in_the_middle_goes_on_as_if_nothing_had_happened(stream, budget, cut):
    frames = made(stream)
    whole = fed(frames, budget)
    half = fed(frames[:cut], budget)
    restored = Ladder(capacity=budget, retained=half.snapshot(), deaths=half.deaths, next_unit=half.next_unit)
    for frame in frames[cut:]:
        restored.learn(restored.score(frame))
    assert repr(restored.snapshot()) == repr(whole.snapshot())
    assert restored.deaths == whole.deaths
    assert restored.selected() == whole.selected()


@settings(max_examples=25, deadline=None)
@given(streams, budgets)
def test_a_unit_is_retained_while_some_alive_level_holds_it_and_no_longer(stream, budget):
    ladder = Ladder(capacity=budget)
    retained: set[int] = set()
    for frame in made(stream):
        decision = ladder.score(frame)
        ladder.learn(decision)
        retained -= set(decision.evicted)
        if decision.retain:
            retained.add(decision.unit)
        assert set(ladder.retained) == retained
        assert all(u.levels for u in ladder.snapshot())
        assert len(retained) <= ladder.max_retained
    dead = {d.level for d in ladder.deaths}
    assert not any(dead & set(u.levels) for u in ladder.snapshot())


@settings(max_examples=25, deadline=None)
@given(streams, budgets)
def test_no_level_holds_more_than_the_budget_and_the_order_never_exceeds_it(stream, budget):
    ladder = fed(made(stream), budget)
    assert all(len(ladder.members(level)) <= budget for level in range(TOP + 1))
    selected = ladder.selected()
    assert len(selected) == min(budget, len(ladder.retained))
    assert len({s.unit for s in selected}) == len(selected)


@settings(max_examples=80, deadline=None)
@given(
    streams,
    budgets,
    st.integers(0, 3),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 59), st.integers(1, 3)), max_size=4),
)
def test_every_answer_is_that_of_the_plain_form_with_a_base_a_fill_and_releases_too(
    stream, budget, known, fill, releases
):
    frames = made(stream)
    base, fill = [frame.rows for frame in frames[:known]], min(fill, budget - 1)
    ladder = Ladder(capacity=budget, base=base, fill=fill)
    plain = PlainLadder(budget=budget, base=list(base), max_retained=ladder.max_retained, fill=fill)
    for i, frame in enumerate(frames[known:]):
        decision = ladder.score(frame)
        ladder.learn(decision)
        number, novelty, evicted = plain.see(frame)
        assert (decision.unit if decision.retain else None) == number
        assert (np.inf if decision.squared_novelty is None else decision.squared_novelty) == novelty
        assert list(decision.evicted) == evicted
        for _, count in (each for each in releases if each[0] == i):
            release = ladder.release(count)
            assert list(release.units) == plain.selected()[:count]
            ladder.learn_release(release)
            plain.release(list(release.units))
        assert list(ladder.retained) == plain.retained
        assert ladder.certificate().lower_bound == max((RADII[x] / 2 for x in plain.natural), default=0.0)
        assert ladder.answering == plain.answering
    assert [s.unit for s in ladder.selected()] == plain.selected()


@pytest.mark.parametrize("dim", [64, 384])
def test_wide_rows_of_a_long_drive_are_judged_as_by_the_plain_form(dim):
    # Many clusters, many units, slots that are given back and used again, and units of different sizes.
    ladder, plain = Ladder(capacity=4), PlainLadder(budget=4, max_retained=16)
    for frame in drive_stream(5, 150, dim=dim, most=12):
        decision = ladder.score(frame)
        ladder.learn(decision)
        number, novelty, evicted = plain.see(frame)
        assert (decision.unit if decision.retain else None, list(decision.evicted)) == (number, evicted)
        assert decision.squared_novelty in (novelty, None)
    assert list(ladder.retained) == plain.retained


@settings(max_examples=50, deadline=None)
@given(streams, budgets, st.lists(st.integers(0, 59), max_size=6))
def test_with_releases_the_certificate_still_covers_all_that_was_seen_and_the_bound_is_still_true(stream, budget, when):
    frames = made(stream)
    ladder = Ladder(capacity=budget)
    out = []
    for i, frame in enumerate(frames):
        ladder.learn(ladder.score(frame))
        if i in when:
            held = {u.unit: u.rows for u in ladder.snapshot()}
            release = ladder.release(1)
            ladder.learn_release(release)
            out += [held[unit] for unit in release.units]
    certificate = ladder.certificate()
    answer = {s.unit for s in ladder.selected()}
    assert len(out) + len(answer) <= budget
    out += [u.rows for u in ladder.snapshot() if u.unit in answer]
    if certificate.radius is not None:
        covered = np.concatenate(out)
        assert max(np.sqrt(squared_distances(f.rows, covered).min(1).max()) for f in frames) <= certificate.radius
    if certificate.lower_bound > 0:
        rows = np.concatenate([f.rows for f in frames])
        apart = np.sqrt(squared_distances(rows, rows)) >= 2 * certificate.lower_bound
        assert largest_clique_at_least(apart, budget + 1)


@settings(max_examples=25, deadline=None)
@given(streams, budgets, st.integers(0, 60), st.integers(1, 3))
def test_a_ladder_restored_after_a_release_goes_on_as_if_nothing_had_happened(stream, budget, cut, count):
    frames = made(stream)
    whole = fed(frames[:cut], budget)
    before = {u.unit: u for u in whole.snapshot()}
    release = whole.release(count)
    whole.learn_release(release)
    restored = Ladder(
        capacity=budget,
        retained=whole.snapshot(),
        deaths=whole.deaths,
        next_unit=whole.next_unit,
        released=[before[unit] for unit in release.units],
    )
    for frame in frames[cut:]:
        one, other = restored.score(frame), whole.score(frame)
        assert repr(one) == repr(other)
        restored.learn(one)
        whole.learn(other)
    assert repr(restored.snapshot()) == repr(whole.snapshot())
    assert restored.certificate() == whole.certificate()


def test_a_release_of_few_says_what_the_whole_order_says():
    # A base of more than one block, units that leave and come, and questions that are asked again with nothing released.
    ladder = Ladder(capacity=40, base=[frame.rows for frame in drive_stream(1, 200)], fill=4)
    released = 0
    for i, frame in enumerate(drive_stream(2, 240)):
        ladder.learn(ladder.score(frame))
        if i % 8 == 7:
            release = ladder.release(1 + i % 3)
            whole = ladder.selected(row_distances=False)
            assert release.picks == tuple(whole[: 1 + i % 3])
            assert ladder.release(1 + i % 3) == release
            if i % 16 == 15:
                ladder.learn_release(release)
                released += len(release.picks)
    assert released == len(ladder.released) > 20


def test_the_fill_leaves_levels_and_bounds_as_they_are_and_the_certificate_true():
    frames = drive_stream(3, 200)
    plain, filled = fed(frames, 20), fed(frames, 20, fill=5)
    assert len(filled.members(filled.answering)) <= 15
    assert filled.retained == plain.retained
    assert filled.certificate().lower_bound == plain.certificate().lower_bound
    assert measured_radius(filled, frames) <= filled.certificate().radius


def test_what_was_released_is_known_from_then_on_and_spends_the_budget():
    frames = random_stream(11, 60)
    ladder = fed(frames, 6)
    first = ladder.selected()[:2]
    rows = {u.unit: u.rows for u in ladder.snapshot()}
    ladder.learn_release(ladder.release(2))
    assert ladder.released == tuple(s.unit for s in first)
    assert ladder.room == 4
    assert all(ladder.score(unit(rows[s.unit])).novelty == 0.0 for s in first)
    assert not set(ladder.released) & set(ladder.retained)
    assert len(ladder.selected()) == 4


def test_a_round_that_has_released_its_whole_budget_retains_nothing_more():
    ladder = fed(random_stream(2, 30), 3)
    ladder.learn_release(ladder.release(3))
    assert ladder.selected() == []
    for frame in random_stream(3, 30):
        decision = ladder.score(frame)
        assert not decision.retain
        ladder.learn(decision)


def test_what_the_base_covers_is_not_new():
    frames = random_stream(8, 20)
    ladder = Ladder(capacity=5, base=[frame.rows for frame in frames])
    decisions = [ladder.score(frame) for frame in frames]
    assert all(d.empty and d.novelty == 0.0 for d in decisions)
    assert [d.nearest_base for d in decisions] == list(range(20))
    assert all(d.nearest is None for d in decisions)


def test_the_order_of_clusters_within_a_unit_does_not_matter():
    frames = random_stream(3, 40)
    turned = [unit(f.rows[::-1]) for f in frames]
    assert [s.unit for s in fed(frames, 5).selected()] == [s.unit for s in fed(turned, 5).selected()]


def test_the_order_begins_with_the_oldest_unit_of_the_answering_level_and_fills_from_the_rest():
    ladder = fed(random_stream(4, 80), 6)
    inside = ladder.members(ladder.answering)
    order = [s.unit for s in ladder.selected()]
    assert order[0] == inside[0]
    assert set(order[: len(inside)]) == set(inside)
    assert ladder.selected()[0].squared_distance == 0.0
    assert ladder.selected()[0].witness is None


def test_small_budgets_are_spent_by_the_top_level():
    # Two frames far apart for every radius of the ladder: all finite levels with one place die, the top level keeps one.
    rows = [unit_rows(np.array([[1.0, 0.0]])), unit_rows(np.array([[-1.0, 0.0]]))]
    ladder = fed([unit(r) for r in rows], 1)
    assert ladder.radius is None
    assert ladder.certificate().lower_bound == RADII[-1] / 2
    assert [s.unit for s in ladder.selected()] == [1]


def test_pressure_raises_the_radius_and_leaves_the_lower_bound():
    frames = random_stream(7, 60, dim=4, most=1)
    free, pressed = fed(frames, 3, max_retained=1000), fed(frames, 3, max_retained=3)
    assert len(pressed.retained) <= 3 < len(free.retained)
    assert any(not d.natural for d in pressed.deaths)
    assert free.certificate().radius <= (pressed.certificate().radius or np.inf)
    natural = [RADII[d.level] / 2 for d in pressed.deaths if d.natural]
    assert pressed.certificate().lower_bound == max(natural, default=0.0)
    radius = pressed.certificate().radius
    assert radius is None or measured_radius(pressed, frames) <= radius


def test_a_decision_is_applied_once_and_in_its_turn():
    ladder = Ladder(capacity=3)
    decision = ladder.score(random_stream(0, 1)[0])
    ladder.learn(decision)
    with pytest.raises(ValueError, match="out of turn"):
        ladder.learn(decision)


def test_an_untouched_ladder_has_nothing_selected_and_the_smallest_radius():
    ladder = Ladder(capacity=2)
    assert ladder.selected() == []
    assert ladder.certificate().radius == RADII[0]
    assert ladder.certificate().lower_bound == 0.0


@pytest.mark.parametrize("options", [{"capacity": 0}, {"capacity": 3, "max_retained": 2}, {"capacity": 3, "fill": 3}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(UsageError):
        Ladder(**options)


class PressedLadder:
    """A ladder whose disk is small: what comes is pressed before it is learned, as the spool does."""

    def __init__(self, budget, limit, **more):
        self.ladder = Ladder(capacity=budget, **more)
        self.limit, self.sizes, self.refused = limit, {}, []

    def see(self, index, frame, own):
        """(decision that was taken or None, bytes that were needed); nothing is needed where there is room."""
        decision = self.ladder.score(frame)
        needed = sum(self.sizes.values()) + own - self.limit if decision.retain else 0
        taken = self.ladder.press(decision, needed=needed, own=own, sizes=self.sizes) if needed > 0 else decision
        if taken is None:
            self.refused.append(index)
            return None, needed
        self.ladder.learn(taken)
        for unit_ in taken.evicted:
            del self.sizes[unit_]
        if taken.retain:
            self.sizes[taken.unit] = own
        return taken, needed


@settings(max_examples=15, deadline=None)
@given(streams, budgets, st.integers(1, 30), st.integers(0, 1000))
def test_under_pressure_of_the_disk_every_answer_is_that_of_the_plain_form_and_it_always_fits(
    stream, budget, limit, seed
):
    frames, rng = made(stream), np.random.default_rng(seed)
    pressed = PressedLadder(budget, limit)
    plain = PlainLadder(budget=budget, max_retained=pressed.ladder.max_retained)
    for index, frame in enumerate(frames):
        own, before = int(rng.integers(1, 5)), dict(pressed.sizes)
        decision, needed = pressed.see(index, frame, own)
        if needed > 0:
            assert plain.press(needed, own, before, frame) == (decision is not None)
        else:
            plain.see(frame)
        assert list(pressed.ladder.retained) == plain.retained
        assert pressed.ladder.answering == plain.answering
        assert sum(pressed.sizes.values()) <= limit


@settings(max_examples=15, deadline=None)
@given(streams, budgets, st.integers(1, 30))
def test_under_pressure_of_the_disk_the_certificate_covers_all_that_was_not_refused_and_the_bound_is_true(
    stream, budget, limit
):
    frames = made(stream)
    pressed = PressedLadder(budget, limit)
    for index, frame in enumerate(frames):
        pressed.see(index, frame, 1 + index % 3)
    seen = [frame for index, frame in enumerate(frames) if index not in pressed.refused]
    certificate = pressed.ladder.certificate()
    if certificate.radius is not None and seen:
        assert measured_radius(pressed.ladder, seen) <= certificate.radius
    if certificate.lower_bound > 0:
        rows = np.concatenate([f.rows for f in seen])
        apart = np.sqrt(squared_distances(rows, rows)) >= 2 * certificate.lower_bound
        assert largest_clique_at_least(apart, budget + 1)


def test_the_disk_never_takes_the_last_level_that_has_a_radius():
    frames = random_stream(3, 40)
    ladder = fed(frames, 3)
    new = ladder.score(unit(-frames[0].rows))
    assert ladder.press(new, needed=10**9, own=1, sizes={}) is None
    assert ladder.press(new, needed=0, own=1, sizes={}) == new


def test_a_pinned_unit_frees_nothing():
    ladder = fed(random_stream(3, 40), 3)
    new = ladder.score(random_stream(9, 1)[0])
    sizes = dict.fromkeys(ladder.retained, 1)
    gone = ladder.press(new, needed=2, own=0, sizes=sizes).evicted
    more = ladder.press(new, needed=2, own=0, sizes={unit: 1 for unit in sizes if unit != gone[0]})
    assert more is None or len(more.evicted) > len(gone)
