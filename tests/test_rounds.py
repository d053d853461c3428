"""Rounds over a live stream: a real spool, a clock that is told, and a frame every second."""

import math
import shutil
from typing import Any

import numpy as np
import pytest

from geal_edge.errors import SpoolMismatch
from geal_edge.runtime.clusters import KnowledgeClusters, unit_rows
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.ladder import Ladder
from geal_edge.runtime.memory import Entry
from geal_edge.runtime.memoryfile import read_memory
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.spool import FLUSH_S, Spool
from geal_edge.runtime.spooldb import memory_path
from geal_edge.runtime.spoolview import open_view
from tests.fakes import Clock, Died, MemorySource, dying_disk, frame, judged
from tests.streams import drive_stream, random_stream, unit
from tests.test_spool import settings, summary

SPACE = settings().feature_space


def live(path, stream, *, release="paced", length_s=20.0, budget=3, trips=(), each=lambda rounds: None):
    """Drive from the spool's cursor on. Frame i comes at second i + 1 of the first round; a trip's last frame ends its round."""
    clock = Clock()
    chosen = settings(release=release, length_s=length_s, budget=budget)
    with Spool(path, chosen, monotonic=clock) as spool:
        cursor = spool.begin_source(MemorySource()).cursor
        # The clock goes on where it was last noted: what passes while a vehicle is off is not the round's.
        clock.now = (spool.round.number - 1) * (length_s or 0.0) + spool.round.elapsed_s
        rounds = Rounds(spool, clock)
        for i, clusters in enumerate(stream):
            if i <= cursor:
                continue
            clock.now = i + 1.0
            rounds.tick()
            decision = rounds.score(clusters)
            spool.append(judged(frame(i), clusters), decision)
            rounds.learn(decision)
            if i in trips:
                rounds.end()
            each(rounds)
    return rounds


def released(path):
    """round -> ids in the order in which they were released"""
    with open_view(path) as view:
        lines = [line for line in view.list_lines() if line["state"] == "released"]
    found: dict[int, list[str]] = {}
    for line in lines:
        found.setdefault(line["round"], []).append(line["id"])
    assert [line["order"] for line in lines] == list(range(1, len(lines) + 1))
    return found


def test_paced_releases_follow_the_clock_and_a_rounds_end_releases_the_rest(tmp_path):
    spent = []
    live(
        tmp_path / "s", random_stream(1, 50), each=lambda rounds: spent.append((rounds.progress, len(rounds.released)))
    )
    assert all(n <= math.floor(3 * progress) for progress, n in spent)
    assert max(n for _, n in spent) == 2
    assert [len(ids) for ids in released(tmp_path / "s").values()] == [3, 3, 1]
    with open_view(tmp_path / "s") as view:
        status = view.status()
        assert view.check() == []
    assert status["rounds"][0]["round"] == 3
    assert status["budget"][0]["spent"] == 1
    assert status["frames"]["released"] == 7


def test_round_end_holds_everything_back_until_the_round_is_over(tmp_path):
    live(tmp_path / "s", random_stream(2, 19), release="round_end")
    assert released(tmp_path / "s") == {}
    live(tmp_path / "s", random_stream(2, 30), release="round_end")
    assert [len(ids) for ids in released(tmp_path / "s").values()] == [3]


def test_a_trip_is_a_round_that_ends_when_it_is_told(tmp_path):
    live(tmp_path / "s", random_stream(3, 40), release="round_end", length_s=None, trips=(9, 24))
    assert [len(ids) for ids in released(tmp_path / "s").values()] == [3, 3]
    with open_view(tmp_path / "s") as view:
        assert view.counts()[0]["selected"] == 3


def test_what_a_round_released_is_remembered_and_not_new_in_the_next(tmp_path):
    stream = random_stream(4, 20)
    live(tmp_path / "s", stream, release="round_end", length_s=None, trips=(19,))
    memory = read_memory(memory_path(tmp_path / "s", SPACE))
    first = released(tmp_path / "s")[1]
    assert [entry.id for entry in memory.entries] == first
    assert {entry.kind for entry in memory.entries} == {"released"}
    with Spool(tmp_path / "s", settings(release="round_end"), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        for id_ in first:
            assert ladder.score(stream[int(id_.rpartition("#")[2])]).empty


def test_what_is_not_selected_at_a_rounds_end_is_evicted_with_an_event(tmp_path):
    live(tmp_path / "s", random_stream(5, 30), release="round_end", length_s=None, trips=(29,))
    with open_view(tmp_path / "s") as view:
        frames, _ = view.counts()
        events = [event for event in view.events() if event["name"] == "units_evicted" and event["by"] == "round_end"]
        assert view.check() == []
    assert frames["retained"] == 0
    assert frames["released"] == 3
    assert sum(len(event["units"]) for event in events) > 0
    assert len(list((tmp_path / "s" / "frames").iterdir())) == 3


def test_known_frames_count_as_covered_from_the_next_opening_on(tmp_path):
    stream = random_stream(6, 10)
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        spool.remember([Entry(id=f"k{i}", kind="known", rows=c.rows, origin="test") for i, c in enumerate(stream)])
        ladder = spool.ladder()
    assert all(ladder.score(clusters).novelty == 0.0 for clusters in stream)


@pytest.mark.parametrize("budget", [1, 4])
def test_immediate_releases_a_frame_at_its_moment_and_meets_the_budget_of_every_round(tmp_path, budget):
    stream = drive_stream(7, 350)
    rounds = live(tmp_path / "s", stream, release="immediate", length_s=120.0, budget=budget)
    by_round = released(tmp_path / "s")
    assert all(abs(len(by_round[number]) - budget) <= 1 for number in (1, 2))
    assert rounds.retained == ()
    with open_view(tmp_path / "s") as view:
        assert view.check() == []
        certified = view.certificate().radius
    # All that the open round has seen lies within its certificate of what is released or remembered.
    rows = np.concatenate([stream[int(id_.rpartition("#")[2])].rows for ids in by_round.values() for id_ in ids])
    seen = stream[239:]
    assert certified is not None
    assert max(math.sqrt(squared_distances(c.rows, rows).min(axis=1).max()) for c in seen) <= certified + 1e-12


def test_a_cold_memory_does_not_spend_the_budget_in_the_first_seconds_and_covers_no_worse_than_uniform_sampling(
    tmp_path,
):
    """`paced`, with a link that is always on: mean cover of what is released, against as many frames evenly in time."""
    for seed in range(2):
        stream = uneven_stream(seed, 400)
        early: list[tuple[int, ...]] = []
        path = tmp_path / str(seed)
        live(
            path, [*stream, stream[0]], length_s=400.0, budget=24, each=lambda r, early=early: early.append(r.released)
        )
        picked = [int(id_.rpartition("#")[2]) for id_ in released(path)[1]]
        assert len(early[12]) == 0
        assert len(picked) == 24
        uniform = [int((i + 0.5) * len(stream) / len(picked)) for i in range(len(picked))]
        assert mean_cover(stream, picked) <= mean_cover(stream, uniform)


def uneven_stream(seed, count, dim=32):
    """Long dull stretches and short scenes, all of one world (they share a direction), as on a road."""
    rng = np.random.default_rng(seed)
    frames: list[KnowledgeClusters] = []
    while len(frames) < count:
        scene = rng.normal(size=(4, dim)) + 0.5 * rng.normal(size=dim) + 1.0
        for _ in range(int(rng.choice([5, 10, 80], p=[0.4, 0.4, 0.2]))):
            scene = scene + 0.05 * rng.normal(size=scene.shape)
            frames.append(unit(unit_rows(scene)))
    return frames[:count]


def mean_cover(stream, picked):
    rows = np.concatenate([stream[i].rows for i in picked])
    return np.concatenate([np.sqrt(squared_distances(c.rows, rows).min(axis=1)) for c in stream]).mean()


def remembered(path):
    return [entry.id for entry in read_memory(memory_path(path, SPACE)).entries]


SHORT: dict[str, Any] = {"length_s": 2.0, "budget": 2}
"""Two rounds of two frames, and one more frame: appends, releases, the end of a round, its memory, the next round."""


def deaths(tmp_path, monkeypatch, stream, release, *, every):
    """The spool after the process has ended before each so many disk operation, and another one has gone on to the end."""
    with dying_disk(monkeypatch) as disk:
        live(tmp_path / "counted", stream, release=release, **SHORT)
    for at in range(0, disk.count, every):
        path = tmp_path / "spool"
        with dying_disk(monkeypatch, at), pytest.raises(Died):
            live(path, stream, release=release, **SHORT)
        live(path, stream, release=release, **SHORT)
        yield path
        shutil.rmtree(path)


def paced_rounds_die(tmp_path, monkeypatch, every):
    stream = random_stream(8, 5)
    live(tmp_path / "whole", stream, **SHORT)
    expected = summary(tmp_path / "whole"), released(tmp_path / "whole")
    assert {1, 2} <= set(expected[1])
    for path in deaths(tmp_path, monkeypatch, stream, "paced", every=every):
        assert (summary(path), released(path)) == expected
        assert remembered(path) == expected[1][1] + expected[1][2]


def immediate_rounds_die(tmp_path, monkeypatch, every):
    # The price of a frame in flight may be lost, so that a later frame may be judged by another one; nothing else is.
    stream = random_stream(8, 5)
    for path in deaths(tmp_path, monkeypatch, stream, "immediate", every=every):
        found = released(path)
        assert all(1 <= len(ids) <= SHORT["budget"] for ids in found.values())
        assert remembered(path) == [id_ for number in (1, 2) for id_ in found.get(number, [])]
        with open_view(path) as view:
            assert view.check() == []
            assert view.counts()[0]["retained"] == 0
            assert view.counts()[0]["seen"] == len(stream)


def test_paced_rounds_that_died_go_on_to_the_uninterrupted_result(tmp_path, monkeypatch):
    paced_rounds_die(tmp_path, monkeypatch, every=5)  # tests/slow has every single operation


def test_immediate_rounds_that_died_are_sound_and_have_released_what_they_retained(tmp_path, monkeypatch):
    immediate_rounds_die(tmp_path, monkeypatch, every=7)


def test_what_was_passed_over_is_in_the_certificate_of_whoever_reads_after_a_kill(tmp_path):
    stream, clock = random_stream(12, 30), Clock()
    step_s = FLUSH_S + 1.0
    chosen = settings(release="immediate", length_s=17 * step_s, budget=1)
    with Spool(tmp_path / "s", chosen, monotonic=clock) as spool:
        spool.begin_source(MemorySource())
        rounds = Rounds(spool, clock)
        for i, clusters in enumerate(stream):
            clock.advance(step_s)  # above the time between flushes: every append stores what stands behind the cursor
            rounds.tick()
            decision = rounds.score(clusters)
            spool.append(judged(frame(i), clusters), decision)
            with open_view(tmp_path / "s") as view:  # what a process that is started now would find
                stored = view.certificate().radius
            assert stored is not None
            assert decision.retain or (decision.novelty or 0.0) <= stored
            rounds.learn(decision)
            if rounds.progress >= 0.9:
                break


def test_a_set_of_known_frames_is_taken_once_and_not_behind_the_first_frame(tmp_path):
    entries = [Entry(id=f"k{i}", kind="known", rows=c.rows, origin="test") for i, c in enumerate(random_stream(6, 4))]
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        spool.know("a.memory", "sha256:a", entries)
        before = memory_path(tmp_path / "s", SPACE).read_bytes()
        spool.know("a.memory", "sha256:a", entries[:2])
        spool.begin_source(MemorySource())
        rounds = Rounds(spool, Clock())
        spool.append(judged(frame(0), random_stream(7, 1)[0]), rounds.score(random_stream(7, 1)[0]))
        spool.know("a.memory", "sha256:a", entries)
        with pytest.raises(SpoolMismatch, match=r"judged without b\.memory"):
            spool.know("b.memory", "sha256:b", entries)
    assert memory_path(tmp_path / "s", SPACE).read_bytes() == before


def test_a_full_memory_does_not_take_a_round_twice(tmp_path):
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        entries = [
            Entry(id=f"r{i}", kind="released", rows=c.rows, origin="s") for i, c in enumerate(random_stream(6, 4))
        ]
        spool.remember(entries, through_round=3)
        before = memory_path(tmp_path / "s", SPACE).read_bytes()
        spool.remember(entries[:1], through_round=3)
        assert memory_path(tmp_path / "s", SPACE).read_bytes() == before


def test_what_lies_within_the_radius_is_asked_about_once_and_not_at_every_frame(tmp_path, monkeypatch):
    asked: list[int] = []
    release = Ladder.release

    def counted(ladder, count, **how):
        asked.append(count)
        return release(ladder, count, **how)

    monkeypatch.setattr(Ladder, "release", counted)
    live(tmp_path / "s", [random_stream(1, 1)[0]] * 60, length_s=100.0, budget=50)  # one scene that never changes
    assert 1 <= len(asked) <= 35  # when one more is due, and when it was retained; not at each of 60 frames


def test_an_open_round_goes_on_only_by_its_own_rule(tmp_path):
    live(tmp_path / "s", random_stream(9, 5))
    for other in (settings(release="round_end", length_s=20.0), settings(release="paced", length_s=30.0)):
        with pytest.raises(SpoolMismatch, match="releases by paced over 20 s"), Spool(tmp_path / "s", other):
            pass
