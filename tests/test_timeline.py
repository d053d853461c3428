from hypothesis import given
from hypothesis import strategies as st

from geal_edge.runtime.timeline import Bucket, Timeline

frames = st.lists(st.tuples(st.none() | st.floats(0, 2), st.booleans(), st.booleans()), max_size=200)


def add(line, item):
    novelty, retained, lost = item
    if lost:
        line.add(lost=True)
    else:
        line.add(novelty=novelty, radius=0.5, retained=retained)


@given(frames, st.integers(0, 200))
def test_a_time_line_restored_in_the_middle_has_the_same_buckets(items, cut):
    whole, half = Timeline(max_buckets=8), Timeline(max_buckets=8)
    for item in items:
        add(whole, item)
    for item in items[:cut]:
        add(half, item)
    restored = Timeline(list(half.buckets), width=half.width, max_buckets=8)
    for item in items[cut:]:
        add(restored, item)
    assert restored.buckets == whole.buckets
    assert restored.width == whole.width


@given(frames)
def test_nothing_is_lost_by_merging(items):
    line = Timeline(max_buckets=8)
    for item in items:
        add(line, item)
    assert sum(b.frames for b in line.buckets) == len(items)
    assert sum(b.lost for b in line.buckets) == sum(lost for _, _, lost in items)
    assert sum(b.retained for b in line.buckets) == sum(retained and not lost for _, retained, lost in items)
    judged = [n for n, _, lost in items if not lost and n is not None]
    assert max((b.novelty for b in line.buckets if b.novelty is not None), default=None) == max(judged, default=None)
    assert len(line.buckets) <= 8


@given(frames)
def test_changed_from_never_misses_a_change(items):
    line = Timeline(max_buckets=8)
    stored: list[Bucket] = []
    for item in items:
        add(line, item)
        stored = stored[: line.changed_from] + line.buckets[line.changed_from :]
        line.changed_from = len(line.buckets)
        assert stored == line.buckets
