from dataclasses import replace

import pytest

from geal_edge.config import DiskConfig
from geal_edge.runtime.erasure import Rule, erase
from geal_edge.runtime.memoryfile import read_memory
from geal_edge.runtime.outbox import Outbox
from geal_edge.runtime.pins import pin
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.spool import SWEEP_S, Spool
from geal_edge.runtime.spooldb import memory_path
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.vehicletime import Moment
from geal_edge.runtime.why import sentence, why
from tests.fakes import Clock, MemorySource, frame, judge
from tests.streams import random_stream
from tests.test_spool import settings

DAY_S = 86_400.0
START = Moment(boot_id="a", powered_s=100.0, wall_ns=10**18, synchronised=True)


class Vehicle:
    """Its time, as the test says."""

    def __init__(self):
        self.moment = START

    def __call__(self):
        return self.moment

    def on(self, seconds):
        later = self.moment.wall_ns + int(seconds * 1e9)
        self.moment = replace(self.moment, powered_s=self.moment.powered_s + seconds, wall_ns=later)

    def off(self, seconds, *, synchronised=True):
        boot = Moment(
            boot_id=self.moment.boot_id + "+",
            powered_s=10.0,
            wall_ns=self.moment.wall_ns + int(seconds * 1e9),
            synchronised=synchronised,
        )
        self.moment = boot


def opened(path, vehicle, clock=None, days=7.0):
    disk = DiskConfig(max_age_days=days, min_free_bytes=0)
    return Spool(path, settings(), disk=disk, monotonic=clock or Clock(), now=vehicle)


def drive(spool, stream):
    """Retain, and be on until the next sweep has seen it."""
    selector = Rounds(spool, Clock())
    spool.begin_source(MemorySource())
    for index, clusters in enumerate(stream):
        judge(spool, selector, frame(index), clusters)
    spool._monotonic.advance(SWEEP_S)
    assert not spool.sweep_when_due()
    return selector


def expired(path):
    with open_view(path) as view:
        assert view.check() == []
        return view.counts()[0]["expired"], [e for e in view.events() if e["name"] == "retention_expired"]


def test_what_was_released_and_is_too_old_goes_and_stays_in_the_memory(tmp_path):
    path, vehicle = tmp_path / "s", Vehicle()
    with opened(path, vehicle) as spool:
        drive(spool, random_stream(0, 20)).end()
    vehicle.on(6.9 * DAY_S)
    with opened(path, vehicle):
        assert expired(path)[0] == 0
    vehicle.on(0.2 * DAY_S)
    with opened(path, vehicle):
        pass
    count, events = expired(path)
    assert count == 3 == len(events[0]["ids"])
    assert events[0]["bytes"] > 0
    assert events[0]["clock"] == "synchronised"
    assert list((path / "frames").iterdir()) == []
    assert len(read_memory(memory_path(path, "fs-0000000000000000")).entries) == 3
    with opened(path, vehicle):
        assert len(expired(path)[1]) == 1


def test_what_a_round_still_holds_expires_too_and_is_covered_from_then_on(tmp_path):
    path, vehicle, clock = tmp_path / "s", Vehicle(), Clock()
    stream = random_stream(0, 20)
    with opened(path, vehicle, clock) as spool:
        selector = drive(spool, stream)
        before = selector.certificate()
        vehicle.on(8 * DAY_S)
        clock.advance(SWEEP_S)
        assert spool.sweep_when_due()
        selector.restore()
        assert selector.retained == ()
        assert all(selector.score(clusters).empty or not selector.score(clusters).retain for clusters in stream[:5])
        assert selector.certificate().lower_bound == before.lower_bound
        selector.end()
    assert expired(path)[0] > 3
    ids = {entry.id for entry in read_memory(memory_path(path, "fs-0000000000000000")).entries}
    assert ids == set(expired(path)[1][0]["ids"])


@pytest.mark.parametrize(("synchronised", "goes"), [(True, True), (False, False)])
def test_time_switched_off_counts_only_where_the_clock_can_be_believed(tmp_path, synchronised, goes):
    path, vehicle = tmp_path / "s", Vehicle()
    with opened(path, vehicle) as spool:
        drive(spool, random_stream(0, 20)).end()
    vehicle.off(30 * DAY_S, synchronised=synchronised)
    with opened(path, vehicle):
        pass
    assert (expired(path)[0] > 0) is goes


@pytest.mark.parametrize("starts", [1, 3])
def test_time_switched_off_counts_later_where_the_clock_can_be_believed_only_minutes_or_starts_later(tmp_path, starts):
    path, vehicle = tmp_path / "s", Vehicle()
    with opened(path, vehicle) as spool:
        drive(spool, random_stream(0, 20)).end()
    for _ in range(starts):
        vehicle.off(30 * DAY_S / starts, synchronised=False)
        with opened(path, vehicle) as spool:
            vehicle.on(600.0)
            assert not spool.sweep_when_due()
    assert expired(path)[0] == 0
    with opened(path, vehicle) as spool:
        vehicle.moment = replace(vehicle.moment, synchronised=True)
        spool.sweep_when_due()
    assert expired(path)[0] == 3


def test_what_was_retained_before_the_clock_could_be_believed_is_not_as_old_as_the_time_off(tmp_path):
    path, vehicle = tmp_path / "s", Vehicle()
    with opened(path, vehicle):
        pass
    vehicle.off(30 * DAY_S, synchronised=False)
    with opened(path, vehicle) as spool:
        drive(spool, random_stream(0, 20)).end()
        vehicle.on(3600.0)
    with opened(path, vehicle) as spool:
        vehicle.moment = replace(vehicle.moment, synchronised=True)
        spool.sweep_when_due()
    assert expired(path)[0] == 0
    vehicle.on(7.1 * DAY_S)
    with opened(path, vehicle):
        pass
    assert expired(path)[0] == 3


def test_a_clock_that_jumps_while_the_vehicle_is_on_makes_nothing_old(tmp_path):
    path, vehicle = tmp_path / "s", Vehicle()
    with opened(path, vehicle) as spool:
        drive(spool, random_stream(0, 20)).end()
    vehicle.moment = replace(vehicle.moment, wall_ns=2 * 10**18)
    with opened(path, vehicle):
        pass
    assert expired(path)[0] == 0


def test_a_pinned_unit_is_never_too_old(tmp_path):
    path, vehicle = tmp_path / "s", Vehicle()
    with opened(path, vehicle) as spool:
        drive(spool, random_stream(0, 20)).end()
    with open_view(path) as view:
        stays = view.selected()[0].id
    pin(path, stays)
    vehicle.on(8 * DAY_S)
    with opened(path, vehicle):
        pass
    with open_view(path) as view:
        assert [f.id for f in view.selected()] == [stays]
    assert expired(path)[0] == 2


def test_what_expired_has_spent_the_budget_of_its_round_and_the_next_sweep_asks_anew(tmp_path):
    path, vehicle, clock = tmp_path / "s", Vehicle(), Clock()
    with opened(path, vehicle, clock) as spool:
        selector = drive(spool, random_stream(0, 20))
        selector._release(2)
        vehicle.on(8 * DAY_S)
        clock.advance(SWEEP_S)
        assert spool.sweep_when_due()
        assert not spool.sweep_when_due()
        selector.restore()
        assert len(selector.released) == 2
    with open_view(path) as view:
        assert view.spent == 2


def test_a_vehicle_that_sees_nothing_new_leaves_no_more_marks(tmp_path):
    now, clock = Vehicle(), Clock()
    with opened(tmp_path / "s", now, clock) as spool:
        for _ in range(200):
            now.on(SWEEP_S)
            clock.advance(SWEEP_S)
            assert not spool.sweep_when_due()
        assert spool._db.execute("SELECT count(*) FROM ages").fetchone() == (1,)


def test_what_is_too_old_is_set_aside_no_more_and_why_says_what_became_of_it(tmp_path):
    path, vehicle = tmp_path / "s", Vehicle()
    with opened(path, vehicle) as spool:
        drive(spool, random_stream(0, 20)).end()
    with Outbox(path) as outbox:
        first = outbox.next()
        assert first is not None
        outbox.set_aside(first, reason="refused", detail="it is too large")
        assert upload_state(path) == 1
        vehicle.on(8 * DAY_S)
        with opened(path, vehicle):
            pass
        outbox.set_aside(first, reason="unreadable", detail="it is gone")
    assert upload_state(path) == 0
    with open_view(path) as view:
        assert len([event for event in view.events() if event["name"] == "set_aside"]) == 1
        facts = why(view, first.frames[0].id)
        assert (facts["state"], facts["cause"]) == ("expired", "retention")
        assert "too old" in sentence(facts)
    erase(path, Rule(id=first.frames[0].id), sure=lambda _: True, wall_ns=lambda: 7)
    with open_view(path) as view:
        facts = why(view, first.frames[0].id)
        assert (facts["state"], facts["rule"]) == ("erased", "id")
        assert sentence(facts) == "erased on 1970-01-01 by the rule: id"


def upload_state(path):
    with open_view(path) as view:
        return view.status()["upload"]["set_aside"]
