import shutil
import sqlite3
from contextlib import closing

import pytest

from geal_edge.errors import SpoolDamaged, SpoolError, SpoolLocked
from geal_edge.runtime.context import context_files
from geal_edge.runtime.outbox import Outbox, Receipt, release_recorded
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spooldb import next_unit
from geal_edge.runtime.spoolsettings import SpoolSettings
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.trips import trip_of
from geal_edge.runtime.why import sentence, why
from tests.fakes import Clock, Died, MemorySource, dying_disk, frame, judge
from tests.streams import random_stream


def settings(**changes):
    base = {
        "bundle": "sha256:" + "0" * 64,
        "feature_space": "fs-0000000000000000",
        "preset": "geal",
        "grid": (2, 4),
        "untrained": True,
        "budget": 6,
    }
    return SpoolSettings(**{**base, **changes})


def fill(path, stream, *, finish=True, **changes):
    with Spool(path, settings(**changes), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(stream):
            judge(spool, ladder, frame(index), clusters)
        if finish:
            spool.finish_source("memory")


def released(path, **changes):
    fill(path, random_stream(0, 40), **changes)
    release_recorded(path)


def receipt_of(outgoing):
    return [Receipt(key=frame.sha256, verified="size") for frame in outgoing.frames]


def send(outbox, at_most=None):
    """What a far side that takes everything gets: (place, id, bytes), in order."""
    got: list[tuple[int, str, bytes]] = []
    while (outgoing := outbox.next()) is not None and (at_most is None or len(got) < at_most):
        got += [(outgoing.place, frame.id, frame.file.read_bytes()) for frame in outgoing.frames]
        outbox.acknowledge(outgoing, receipt_of(outgoing))
    return got


def listed(path):
    with open_view(path) as view:
        return list(view.list_lines(retained=True)), view.counts()[0], view.check()


def test_what_is_selected_of_recorded_sources_is_released_in_its_order_and_the_rest_evicted(tmp_path):
    fill(tmp_path / "s", random_stream(0, 40))
    before = [line["id"] for line in listed(tmp_path / "s")[0] if line["order"] is not None]
    assert release_recorded(tmp_path / "s") == 6
    lines, counts, problems = listed(tmp_path / "s")
    assert [line["id"] for line in lines] == before
    assert (counts["released"], counts["retained"], problems) == (6, 0, [])
    assert release_recorded(tmp_path / "s") == 0


@pytest.mark.parametrize("why_not", ["unfinished", "live", "locked"])
def test_a_spool_whose_run_is_not_over_releases_nothing_for_the_uploader(tmp_path, why_not):
    fill(
        tmp_path / "s",
        random_stream(0, 30),
        finish=why_not != "unfinished",
        length_s=60.0 if why_not == "live" else None,
    )
    if why_not == "locked":
        with Spool(tmp_path / "s", settings(), monotonic=Clock()):
            assert release_recorded(tmp_path / "s") == 0
    assert why_not == "locked" or release_recorded(tmp_path / "s") == 0
    assert listed(tmp_path / "s")[1]["retained"] > 0


def test_units_leave_in_the_order_that_was_frozen_and_their_files_go_once_they_are_acknowledged(tmp_path):
    released(tmp_path / "s")
    expected = [line["id"] for line in listed(tmp_path / "s")[0]]
    with Outbox(tmp_path / "s") as outbox:
        got = send(outbox)
    assert [(place, id_) for place, id_, _ in got] == list(enumerate(expected, start=1))
    assert got[0][2] == b"bytes of frame %d" % int(expected[0].rpartition("#")[2])
    lines, counts, problems = listed(tmp_path / "s")
    assert [(line["id"], line["state"], line["file"]) for line in lines] == [(id_, "sent", None) for id_ in expected]
    assert (counts["sent"], counts["released"], problems) == (6, 0, [])
    assert list((tmp_path / "s" / "frames").iterdir()) == []
    with open_view(tmp_path / "s") as view:
        assert sentence(why(view, expected[0])).startswith(
            "released in round 1, number 1 of the order of sending, and sent"
        )


def test_a_unit_that_is_set_aside_does_not_hold_up_the_others_and_can_be_forced(tmp_path):
    released(tmp_path / "s")
    with Outbox(tmp_path / "s") as outbox:
        first = outbox.next()
        assert first is not None
        outbox.set_aside(first, reason="refused", detail="the far side does not take it")
        assert len(send(outbox)) == 5
        assert outbox.forced(first.frames[0].id) == first
        outbox.acknowledge(first, receipt_of(first))
        assert outbox.forced(first.frames[0].id) is None
    assert listed(tmp_path / "s")[1]["sent"] == 6


def test_dying_at_any_operation_of_sending_leaves_each_unit_sent_or_still_to_be_sent(tmp_path, monkeypatch):
    released(tmp_path / "before", budget=2)
    shutil.copytree(tmp_path / "before", tmp_path / "whole")
    with dying_disk(monkeypatch) as disk, Outbox(tmp_path / "whole") as outbox:
        whole = send(outbox)
    assert len(whole) == 2
    for at in range(disk.count):
        path = tmp_path / "s"
        shutil.copytree(tmp_path / "before", path)
        first: list[tuple[int, str, bytes]] = []
        with dying_disk(monkeypatch, at), pytest.raises(Died), Outbox(path) as outbox:
            while (outgoing := outbox.next()) is not None:
                first += [(outgoing.place, f.id, f.file.read_bytes()) for f in outgoing.frames]
                outbox.acknowledge(outgoing, receipt_of(outgoing))
        with Outbox(path) as outbox:
            rest = send(outbox)
        # What was on its way when the process died may go once more, to the same key: it is in both halves or in one.
        both = set(first) & set(rest)
        assert len(both) <= 1
        assert sorted({*first, *rest}) == whole, f"died before operation {at}"
        assert listed(path)[1]["sent"] == len(whole)
        assert listed(path)[2] == []
        assert list((path / "frames").iterdir()) == []
        shutil.rmtree(path)


def test_a_check_takes_no_file_that_is_sent_meanwhile_for_a_sign_of_damage(tmp_path):
    path = tmp_path / "s"
    released(path)
    with closing(sqlite3.connect(path / "spool.db")) as db:
        coming = next_unit(db)
    (path / "frames" / f"{coming:08d}.jpg").write_bytes(b"in flight when run was killed")
    with open_view(path) as view:
        with Outbox(path) as outbox:
            assert send(outbox)
        assert {problem.kind for problem in view.check()} == {"orphan"}


def test_a_run_that_opens_the_spool_finishes_what_an_uploader_left(tmp_path):
    released(tmp_path / "s")
    with closing(sqlite3.connect(tmp_path / "s" / "spool.db")) as db, db:
        db.execute("UPDATE units SET state = 'sent' WHERE release_order = 1")  # and died before it unlinked anything
    with Spool(tmp_path / "s", settings(), monotonic=Clock()):
        pass
    lines, _, problems = listed(tmp_path / "s")
    assert problems == []
    assert len(list((tmp_path / "s" / "frames").iterdir())) == 5
    assert [line["state"] for line in lines] == ["sent"] + ["released"] * 5


def test_what_is_sent_while_a_round_is_open_counts_as_released_for_a_run_that_goes_on(tmp_path):
    """Two vehicles see the same and release the same; one has a link."""
    stream, outcome = random_stream(5, 60), []
    for linked in (False, True):
        path, clock = tmp_path / str(linked), Clock()
        for half in (range(30), range(30, 60)):
            with Spool(path, settings(length_s=100.0, release="paced"), monotonic=clock) as spool:
                rounds = Rounds(spool, clock)
                spool.begin_source(MemorySource())
                for index in half:
                    clock.advance(1.0)
                    rounds.tick()
                    judge(spool, rounds, frame(index), stream[index])
            if linked:
                with Outbox(path) as outbox:
                    assert send(outbox)
        with open_view(path) as view:
            lines = [{**line, "state": None, "file": None} for line in view.list_lines(retained=True)]
            outcome.append((lines, view.certificate(), view.spent, view.check()))
    assert outcome[0] == outcome[1]
    assert outcome[0][2] > 2


def test_an_uploader_beside_a_run_that_holds_the_spool(tmp_path):
    clock, stream = Clock(), random_stream(1, 40)
    with (
        Spool(tmp_path / "s", settings(length_s=20.0, release="paced"), monotonic=clock) as spool,
        Outbox(tmp_path / "s") as outbox,
    ):
        rounds = Rounds(spool, clock)
        spool.begin_source(MemorySource())
        sent = []
        for index, clusters in enumerate(stream):
            clock.advance(1.0)
            rounds.tick()
            judge(spool, rounds, frame(index), clusters)
            sent += send(outbox, at_most=1)
    lines, counts, problems = listed(tmp_path / "s")
    assert problems == []
    assert counts["sent"] == len(sent) > 6
    assert [line["id"] for line in lines if line["state"] == "sent"] == [id_ for _, id_, _ in sent]


def test_frames_of_the_same_bytes_are_told_apart(tmp_path):
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(random_stream(0, 8)):
            judge(spool, ladder, frame(index, encoded=b"the same"), clusters)
        spool.finish_source("memory")
    release_recorded(tmp_path / "s")
    with Outbox(tmp_path / "s") as outbox:
        seen: list[int] = []
        while (outgoing := outbox.next()) is not None:
            seen += outbox.same_before(outgoing).values()
            outbox.acknowledge(outgoing, receipt_of(outgoing))
    assert seen == list(range(len(seen)))
    assert len(seen) > 2


def test_two_uploaders_exclude_each_other(tmp_path):
    released(tmp_path / "s")
    with Outbox(tmp_path / "s"), pytest.raises(SpoolLocked, match=r"upload\.lock"), Outbox(tmp_path / "s"):
        pass


def test_a_shadow_has_nothing_to_send(tmp_path):
    fill(tmp_path / "s", random_stream(0, 5), shadow=True)
    with pytest.raises(SpoolError, match="--shadow"), Outbox(tmp_path / "s"):
        pass


def test_trips_of_a_live_source_are_numbered_and_a_recorded_source_is_one(tmp_path):
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        source = MemorySource()
        source.kind = "live"
        spool.begin_source(source)
        ladder = spool.ladder()
        stream, boundary = random_stream(0, 9), 0
        for index, clusters in enumerate(stream):
            judge(spool, ladder, frame(index), clusters)
            if index == 4:
                boundary = ladder.next_unit
                spool.trip_ended("call")
    with closing(sqlite3.connect(tmp_path / "s" / "spool.db")) as db:
        assert trip_of(db, boundary - 1, "memory") == "memory-0001"
        assert trip_of(db, boundary, "memory") == "memory-0002"
        db.execute("UPDATE sources SET kind = 'video'")
        assert trip_of(db, boundary, "memory") == "memory"


def test_the_order_of_sending_is_the_same_for_list_and_sidecars_and_never_changes(tmp_path):
    path = tmp_path / "s"
    released(path)
    with open_view(path) as view:
        before = {line["id"]: line["order"] for line in view.list_lines()}
    with Outbox(path) as outbox:
        send(outbox, 2)
    with closing(sqlite3.connect(path / "spool.db")) as db, db:
        db.execute("UPDATE units SET state = 'expired' WHERE release_order = 3")
    with Spool(path, settings(), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource(name="other"))
        for index, clusters in enumerate(random_stream(1, 20), start=100):
            judge(spool, ladder, frame(index, source="other"), clusters)
    with open_view(path) as view:
        lines = list(view.list_lines())
        waiting = {unit.frames[0].id: unit.place for unit in view.outgoing()}
    after = {line["id"]: line["order"] for line in lines}
    assert [line["order"] for line in lines] == [1, 2, 4, 5, 6, *range(7, 7 + 6)]
    assert {id_: order for id_, order in after.items() if id_ in before} == {
        id_: order for id_, order in before.items() if order != 3
    }
    assert waiting == {id_: order for id_, order in before.items() if order > 3}


def test_rows_that_make_no_sense_are_damage_in_a_sentence_and_no_traceback(tmp_path):
    released(tmp_path / "s")
    with closing(sqlite3.connect(tmp_path / "s" / "spool.db")) as db, db:
        db.execute("DELETE FROM sources")
    with Outbox(tmp_path / "s") as outbox, pytest.raises(SpoolDamaged, match="repair"):
        outbox.next()


def test_what_an_uploader_finishes_while_a_run_looks_into_the_folder_is_not_missing(tmp_path, monkeypatch):
    released(tmp_path / "s")
    with closing(sqlite3.connect(tmp_path / "s" / "spool.db", isolation_level=None)) as uploader:
        (unit, file) = uploader.execute(
            "SELECT unit, file FROM units JOIN frames USING (unit) WHERE file IS NOT NULL"
        ).fetchone()
        uploader.execute("UPDATE units SET state = 'sent' WHERE unit = ?", (unit,))
        (tmp_path / "s" / "frames" / file).unlink()

        def finish(db):
            uploader.execute("UPDATE frames SET file = NULL WHERE unit = ?", (unit,))
            return context_files(db)

        monkeypatch.setattr("geal_edge.runtime.spool.context_files", finish)
        with Spool(tmp_path / "s", settings()):
            pass
    with open_view(tmp_path / "s") as view:
        assert "frame_file_missing" not in [event["name"] for event in view.events()]
        assert view.check() == []
