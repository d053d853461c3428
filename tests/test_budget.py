"""Budgets of live sources over days, power-offs and wrong clocks: a real spool, a vehicle whose clocks are told."""

import json
from dataclasses import dataclass

import pytest

from geal_edge.errors import SpoolMismatch, UsageError
from geal_edge.runtime.budget import Allowance, live_plan, parse_cap
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spooldb import DATABASE, connection
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.vehicletime import Moment, moment, passed_s
from tests.fakes import Clock, MemorySource, frame, judged
from tests.streams import random_stream
from tests.test_spool import settings

HOUR, DAY, YEAR = 3600.0, 86400.0, 365 * 86400.0
# Of 28 a day 4 are the fill's (release.py), which waits for the day to end: so 24 are paced, one an hour.


@dataclass
class Vehicle:
    """Clocks that are told: what is powered passes in both; what is off, in a synchronised wall clock alone."""

    boots: int = 1
    powered_s: float = 100.0
    wall_s: float = 1.7e9
    synchronised: bool = True

    def __call__(self) -> Moment:
        return Moment(
            boot_id=f"boot-{self.boots}",
            powered_s=self.powered_s,
            wall_ns=round(self.wall_s * 1e9),
            synchronised=self.synchronised,
        )

    def drive(self, seconds: float) -> None:
        self.powered_s += seconds
        self.wall_s += seconds

    sleep = drive  # CLOCK_BOOTTIME goes on in suspend

    def off(self, seconds: float) -> None:
        self.boots += 1
        self.powered_s = 20.0
        self.wall_s += seconds


def plan_of(*caps, release=None):
    return live_plan([parse_cap(cap) for cap in caps], release)


class Trips:
    """Drives with a spool, a frame every `every_s`; each drive opens the spool anew, as a process does."""

    def __init__(self, path, plan, *, every_s=60.0, size=1000):
        self.path, self.plan, self.every_s = path, plan, every_s
        self.vehicle = Vehicle()
        self.stream = iter(random_stream(1, 400, dim=12))
        self.size = size
        self.spent: list[tuple[float, int, int]] = []
        """(seconds of the world, units, bytes) of each release"""
        self.number = 0

    def drive(self, seconds, *, frames=True):
        chosen = settings(
            budget=self.plan.units, release=self.plan.release, length_s=self.plan.length_s, caps=self.plan.caps
        )
        with Spool(self.path, chosen, monotonic=Clock()) as spool:
            spool.begin_source(MemorySource())
            rounds = Rounds(spool, lambda: self.vehicle().powered_s, Allowance(self.plan, self.vehicle, spool.budget))
            self.note()
            for _ in range(int(seconds // self.every_s)):
                self.vehicle.drive(self.every_s)
                rounds.tick(idle=not frames)
                if frames:
                    clusters = next(self.stream)
                    decision = rounds.score(clusters)
                    item = frame(self.number, encoded=b"x" * self.size)
                    spool.append(judged(item, clusters), decision)
                    rounds.learn(decision)
                    self.number += 1
                self.note()
            spool.flush()
            self.note()

    def note(self):
        with connection(self.path / DATABASE) as db:
            (released,) = db.execute("SELECT count(*) FROM units WHERE state = 'released'").fetchone()
        before = sum(units for _, units, _ in self.spent)
        if released > before:
            self.spent.append((self.vehicle.wall_s, released - before, (released - before) * self.size))

    @property
    def released(self):
        return sum(units for _, units, _ in self.spent)

    def most_within(self, seconds):
        return max(
            (sum(n for at, n, _ in self.spent if start <= at < start + seconds) for start, _, _ in self.spent),
            default=0,
        )


def test_a_car_driven_one_hour_a_day_has_its_budget_every_day(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("3/day", release="round_end"), every_s=600.0)
    for _ in range(5):
        trips.drive(HOUR)
        trips.vehicle.off(23 * HOUR)
    trips.drive(HOUR)
    assert trips.released == 15  # those of the day that is open are not released yet


def test_a_clock_that_was_never_set_makes_a_day_of_24_powered_hours(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("2/day", release="round_end"), every_s=1800.0)
    trips.vehicle.synchronised, trips.vehicle.wall_s = False, 0.0
    for _ in range(23):
        trips.drive(HOUR)
        trips.vehicle.off(0.0)
        trips.vehicle.wall_s = 0.0  # 1970 again
    assert trips.released == 0
    trips.drive(HOUR)
    assert trips.released == 2


def test_an_ntp_jump_within_a_boot_neither_gives_nor_takes(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("28/day"), every_s=600.0)
    trips.vehicle.synchronised, trips.vehicle.wall_s = False, 0.0
    trips.drive(2 * HOUR)
    before = trips.released
    trips.vehicle.wall_s, trips.vehicle.synchronised = 1.7e9, True
    trips.drive(1200.0)
    assert before == 2
    assert trips.released == 2  # 140 minutes of the day are over, whatever the wall says


def test_time_off_counts_once_however_often_a_run_ends_before_its_first_frame(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("50/day", "20/trip"))
    trips.drive(HOUR)
    trips.vehicle.off(4 * HOUR)
    for _ in range(3):
        trips.drive(0.0)
    with open_view(tmp_path / "s") as view:
        assert view.elapsed_s == 5 * HOUR
        assert view.status()["budget"][1]["spent"] == 0  # and the trip before is over for its cap


def test_a_clock_that_is_set_a_while_after_the_start_counts_the_time_off_all_the_same(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("3/day", release="round_end"), every_s=600.0)
    for _ in range(5):
        trips.drive(HOUR)
        trips.vehicle.off(23 * HOUR)
        trips.vehicle.synchronised = False
        trips.drive(600.0)
        trips.vehicle.synchronised = True
    trips.drive(HOUR)
    assert trips.released == 15  # those of the day that is open are not released yet


def test_time_off_that_is_known_later_counts_once_for_every_cap_however_often_a_run_ends_before(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("50/day", "9/hour"))
    trips.drive(HOUR / 2)
    trips.vehicle.off(4 * HOUR)
    trips.vehicle.synchronised = False
    for _ in range(3):
        trips.drive(60.0)
    with open_view(tmp_path / "s") as view:
        assert view.elapsed_s == HOUR / 2 + 20.0 + 180.0
    trips.vehicle.synchronised = True
    for _ in range(3):
        trips.drive(60.0)
    with open_view(tmp_path / "s") as view:
        assert view.elapsed_s == pytest.approx(4.5 * HOUR + 360.0)
        day, hour = view.status()["budget"]
        assert day["spent"] == 9  # of 50, after 4.6 hours
        assert hour["spent"] == 8
        assert hour["refills_in_s"] == pytest.approx(HOUR - 120.0)  # it began anew when the time off was known


@pytest.mark.parametrize("why", ["the clock went back", "switched off again before"])
def test_time_off_that_no_clock_can_tell_afterwards_counts_for_nothing(tmp_path, why):
    trips = Trips(tmp_path / "s", plan_of("50/day"))
    trips.drive(HOUR)
    trips.vehicle.off(4 * HOUR)
    trips.vehicle.synchronised = False
    trips.drive(600.0)
    if why == "the clock went back":
        trips.vehicle.wall_s -= YEAR
    else:
        trips.vehicle.off(4 * HOUR)
        trips.drive(600.0)
    trips.vehicle.synchronised = True
    trips.drive(600.0)
    with open_view(tmp_path / "s") as view:
        powered_s = HOUR + 1220.0 + (620.0 if why == "switched off again before" else 0.0)
        assert view.elapsed_s == pytest.approx(powered_s)


def test_time_off_is_not_credited_where_the_clock_was_not_synchronised_before_it_or_went_back():
    off = Moment(boot_id="a", powered_s=HOUR, wall_ns=10**18, synchronised=True)
    on = Moment(boot_id="b", powered_s=30.0, wall_ns=10**18 + int(DAY * 1e9), synchronised=True)
    assert passed_s(off, on) == DAY
    assert passed_s(on, off) == HOUR
    assert passed_s(Moment(**{**off.as_dict(), "synchronised": False}), on) == 30.0  # type: ignore[arg-type]
    assert passed_s(off, Moment(**{**on.as_dict(), "synchronised": False})) == 30.0  # type: ignore[arg-type]


def test_a_year_in_the_garage_saves_up_no_more_than_one_window(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("5/day"), every_s=600.0)
    trips.drive(12 * HOUR)
    trips.vehicle.off(YEAR)
    trips.drive(12 * HOUR)
    assert trips.most_within(DAY) <= 5
    assert trips.released <= 5 + 3  # the first window whole, half of the next


def test_sleep_counts_as_it_does_when_awake(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("28/day"), every_s=600.0)
    trips.drive(1 * HOUR)
    trips.vehicle.sleep(5 * HOUR)
    trips.drive(600.0)
    assert trips.released == 6


@pytest.mark.parametrize("stops", [0, 3])
def test_a_restart_within_one_boot_changes_nothing(tmp_path, stops):
    trips = Trips(tmp_path / "s", plan_of("28/day", "3/hour"), every_s=600.0)
    for _ in range(stops + 1):
        trips.drive(4 * HOUR / (stops + 1))
    assert trips.released == 4


def test_caps_hold_together_and_each_is_hard(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("12/day", "1/hour", "9kB/day"), every_s=1200.0, size=1000)
    trips.drive(30 * HOUR)
    assert all(units == 1 for _, units, _ in trips.spent)
    assert trips.most_within(HOUR - 1) == 1
    assert sum(units for at, units, _ in trips.spent if at <= Vehicle().wall_s + DAY) == 9


@pytest.mark.parametrize("shorter", ["4/hour", "400kB/hour"])
def test_a_shorter_cap_beside_a_days_leaves_nothing_of_it_unspent(tmp_path, shorter):
    trips = Trips(tmp_path / "s", plan_of("28/day", shorter), every_s=600.0, size=60_000)
    trips.drive(24.4 * HOUR)
    assert 27 <= trips.released <= 28


def test_what_a_cap_held_back_is_released_once_it_has_room_though_no_frame_comes(tmp_path):
    # Each unit falls due at the beginning of an hour, of whose bytes nothing may be spent yet.
    trips = Trips(tmp_path / "s", plan_of("28/day", "100kB/hour"), size=60_000)
    trips.drive(2 * HOUR)
    trips.drive(8 * HOUR, frames=False)
    assert trips.released >= 7
    assert trips.most_within(HOUR) <= 2  # of two windows


def test_a_cap_on_bytes_alone_is_spent_evenly(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("2400kB/day"), every_s=1200.0, size=100_000)
    trips.drive(12 * HOUR)
    assert 10 <= trips.released <= 12
    with open_view(tmp_path / "s") as view:
        budget = view.status()["budget"]
    assert [(line["unit"], line["period"], line["limit"]) for line in budget] == [
        ("frames", "day", 24),
        ("bytes", "day", 2_400_000),
    ]
    assert budget[1]["spent"] == trips.released * 100_000
    assert budget[1]["refills_in_s"] == pytest.approx(12 * HOUR, abs=1.0)


def test_a_trip_ends_after_ten_minutes_without_frames_at_power_off_and_when_told(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("5/trip"), every_s=60.0)
    trips.drive(HOUR)
    assert trips.released == 0
    trips.drive(540.0, frames=False)
    assert trips.released == 0
    trips.drive(120.0, frames=False)
    assert trips.released == 5
    trips.drive(HOUR)
    trips.vehicle.off(10.0)
    trips.drive(60.0)
    assert trips.released == 10
    trips.drive(HOUR)
    with Spool(trips.path, settings(budget=5, release="round_end", caps=trips.plan.caps), monotonic=Clock()) as spool:
        Rounds(spool, lambda: trips.vehicle().powered_s, Allowance(trips.plan, trips.vehicle, spool.budget)).end_trip()
    trips.note()
    assert trips.released == 15


def test_a_trip_that_shows_nothing_ends_no_round(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("5/trip"))
    trips.drive(HOUR, frames=False)
    with open_view(tmp_path / "s") as view:
        assert view.round == 1


def test_status_says_what_is_left_when_it_refills_and_by_which_rule(tmp_path):
    trips = Trips(tmp_path / "s", plan_of("24/day", "10/hour"), every_s=600.0)
    trips.drive(2.5 * HOUR)
    with open_view(tmp_path / "s") as view:
        status = view.status()
    day, hour = status["budget"]
    assert (day["period"], day["limit"], day["spent"]) == ("day", 24, 2)
    assert day["refills_in_s"] == pytest.approx(21.5 * HOUR)
    assert (hour["period"], hour["limit"], hour["refills_in_s"]) == ("hour", 10, pytest.approx(HOUR / 2))
    assert status["time_rule"] == "synchronised"
    json.dumps(status)


def test_another_budget_is_refused_for_an_open_spool(tmp_path):
    Trips(tmp_path / "s", plan_of("5/day")).drive(60.0)
    with pytest.raises(SpoolMismatch, match="--budget 5/day"):
        Trips(tmp_path / "s", plan_of("5/day", "1MB/day")).drive(60.0)


@pytest.mark.parametrize(
    "text", ["50/week", "0/day", "x", "1.5/day", "50 per day", "-3/day", "99999999/day", "9" * 400 + "B/day"]
)
def test_what_is_no_budget_is_refused_with_the_forms(text):
    with pytest.raises(UsageError, match="--budget"):
        parse_cap(text)


def test_a_bare_number_shows_the_forms():
    with pytest.raises(UsageError, match="say how often: 50/day, 50/trip, 20/hour, 200MB/day"):
        plan_of("50")


@pytest.mark.parametrize(
    ("caps", "release"),
    [
        (["50/trip"], "paced"),
        (["50/trip"], "immediate"),
        (["50/day", "9MB/day"], "immediate"),
        (["50/day", "9/hour"], "round_end"),
    ],
)
def test_release_rules_that_cannot_meet_the_caps_are_refused(caps, release):
    with pytest.raises(UsageError, match=f"--release {release}"):
        plan_of(*caps, release=release)


def test_this_machine_knows_what_time_it_is():
    before, after = moment(), moment()
    assert before.boot_id == after.boot_id
    assert passed_s(before, after) >= 0.0


@pytest.mark.parametrize("release", ["paced", "round_end"])
def test_a_unit_larger_than_a_byte_cap_is_passed_over_and_holds_nothing_up_behind_it(tmp_path, release):
    plan, vehicle = plan_of("6/hour", "5000B/hour", release=release), Vehicle()
    chosen = settings(budget=plan.units, release=plan.release, length_s=plan.length_s, caps=plan.caps)
    stream = iter(random_stream(1, 60, dim=12))
    with Spool(tmp_path / "s", chosen, monotonic=Clock()) as spool:
        spool.begin_source(MemorySource())
        rounds = Rounds(spool, lambda: vehicle().powered_s, Allowance(plan, vehicle, spool.budget))
        for number in range(60):
            vehicle.drive(65.0)
            rounds.tick()
            clusters = next(stream)
            decision = rounds.score(clusters)
            size = 5001 if number % 2 == 0 else 1000
            rounds.learn(spool.append(judged(frame(number, encoded=b"x" * size), clusters), decision))
    with open_view(tmp_path / "s") as view:
        counts, lost = view.counts()
        sizes = {line["bytes"] for line in view.list_lines(retained=True)}
        events = [event for event in view.events() if event["name"] == "frame_lost"]
        assert view.check() == []
    assert lost["over_budget"] > 1
    assert len(events) == 1  # one a minute of the process's clock, which stood still
    assert counts["released"] == 5
    assert sizes == {1000}
