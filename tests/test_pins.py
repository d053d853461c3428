import pytest

from geal_edge.errors import SpoolError, UsageError
from geal_edge.runtime.pins import pin, unpin
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.spool import SWEEP_S, Spool
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.why import why
from tests.fakes import Clock, MemorySource, frame, judge
from tests.streams import random_stream
from tests.test_spool import fill, settings


def states(path):
    with open_view(path) as view:
        assert view.check() == []
        return {line["id"]: (line["state"], line.get("pinned", False)) for line in view.list_lines(retained=True)}


def test_a_pinned_unit_stays_when_its_levels_end_while_the_writer_runs_and_nothing_else_changes(tmp_path):
    stream = random_stream(5, 60, dim=4)
    fill(tmp_path / "plain", stream)
    with open_view(tmp_path / "plain") as view:
        gone = {each.frame_index for each in view.evicted()}
    path = tmp_path / "s"
    with Spool(path, settings(), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(stream):
            judge(spool, ladder, frame(index), clusters)
            if index in gone:
                spool.flush()
                pin(path, f"memory#{index}")  # another process, between two frames
    listed = states(path)
    assert {id_ for id_, (state, _) in listed.items() if state == "pinned"} == {f"memory#{index}" for index in gone}
    with open_view(path) as view, open_view(tmp_path / "plain") as plain:
        assert view.counts()[0]["evicted"] == 0
        assert view.counts()[0]["pinned"] == len(gone) == plain.counts()[0]["evicted"]
        assert view.certificate() == plain.certificate()
        assert [f.id for f in view.selected()] == [f.id for f in plain.selected()]
        assert why(view, f"memory#{min(gone)}")["state"] == "pinned"
        assert all((path / line["file"]).is_file() for line in view.list_lines(retained=True))


def test_what_only_a_removed_pin_held_is_evicted_within_the_hour_and_at_the_next_start(tmp_path):
    path, clock = tmp_path / "s", Clock()
    stream = random_stream(5, 60, dim=4)
    with Spool(path, settings(), monotonic=clock) as spool:
        selector = Rounds(spool, clock)
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(stream[:20]):
            judge(spool, selector, frame(index), clusters)
        spool.flush()
        first, second = sorted(set(states(path)) - {f.id for f in selected(path)})[:2]
        pin(path, first)
        pin(path, second)
        selector.end()
        assert {states(path)[id_] for id_ in (first, second)} == {("pinned", True)}
        unpin(path, first)
        assert not spool.sweep_when_due()
        assert first in states(path)
        clock.advance(SWEEP_S)
        spool.sweep_when_due()
        assert first not in states(path)
        unpin(path, second)
    fill(path, [])
    assert second not in states(path)
    with open_view(path) as view:
        assert {e.cause for e in view.evicted() if e.id in (first, second)} == {"unpinned"}


def selected(path):
    with open_view(path) as view:
        return view.selected()


def test_what_is_gone_or_never_was_cannot_be_pinned(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(5, 60, dim=4))
    with open_view(path) as view:
        gone = view.evicted()[0].id
    with pytest.raises(UsageError, match="evicted: its file is gone"):
        pin(path, gone)
    with pytest.raises(UsageError, match="Did you mean memory#"):
        pin(path, "memory#1000")
    with pytest.raises(UsageError, match="not pinned"):
        unpin(path, next(iter(states(path))))
    with pytest.raises(SpoolError, match="no spool here"):
        pin(tmp_path / "nothing", gone)
    assert not (tmp_path / "nothing").exists()
