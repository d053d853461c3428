import json
import os
import shutil
import sqlite3
from contextlib import closing, contextmanager

import pytest

from geal_edge.errors import (
    FeatureSpaceMismatch,
    SourceClash,
    SpoolDamaged,
    SpoolError,
    SpoolLocked,
    SpoolMismatch,
    StorageError,
)
from geal_edge.runtime.memory import Entry
from geal_edge.runtime.spool import EVENT_FLUSH_S, FLUSH_FRAMES, FLUSH_S, Spool
from geal_edge.runtime.spooldb import memory_path, next_unit
from geal_edge.runtime.spoolsettings import SpoolSettings
from geal_edge.runtime.spoolview import open_view
from tests.fakes import Clock, Died, MemorySource, dying_disk, frame, judge, judged, lost
from tests.streams import adversarial_stream, drive_stream, random_stream


def settings(**changes):
    base = {
        "bundle": "sha256:" + "0" * 64,
        "feature_space": "fs-0000000000000000",
        "preset": "geal",
        "grid": (2, 4),
        "untrained": True,
        "budget": 3,
    }
    return SpoolSettings(**{**base, **changes})


@contextmanager
def changed(path):
    """The spool's database in the hands of someone else."""
    with closing(sqlite3.connect(path / "spool.db")) as database, database:
        yield database


def fill(path, stream, *, first=0, budget=3, source=None, clock=None):
    with Spool(path, settings(budget=budget), monotonic=clock or Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(source or MemorySource())
        for index, clusters in enumerate(stream):
            if index >= first:
                judge(spool, ladder, frame(index), clusters)


def summary(path):
    """All that a spool says about the outcome, apart from wall times."""
    with open_view(path) as view:
        listed = list(view.list_lines(retained=True))
        return listed, view.counts(), view.certificate(), view.timeline.buckets, view.check()


def test_a_filled_spool_is_sound_and_counts_every_frame_once(tmp_path):
    fill(tmp_path / "s", random_stream(0, 60))
    listed, (counts, lost), certificate, _, problems = summary(tmp_path / "s")
    assert problems == []
    assert counts["seen"] == 60 == counts["not_new"] + counts["retained"] + counts["evicted"]
    assert lost == {}
    assert counts["selected"] == 3 == sum(line["order"] is not None for line in listed)
    assert certificate.radius > certificate.lower_bound > 0


def test_the_spool_holds_the_sources_own_bytes_and_their_digest(tmp_path):
    from hashlib import sha256

    fill(tmp_path / "s", random_stream(1, 30))
    with open_view(tmp_path / "s") as view:
        for stored in view.retained():
            assert stored.file.read_bytes() == b"bytes of frame %d" % stored.frame_index
            assert stored.sha256 == sha256(stored.file.read_bytes()).hexdigest()


def test_a_ladder_restored_from_disk_is_the_ladder_that_was_fed(tmp_path):
    stream = adversarial_stream(3, 80)
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(stream):
            judge(spool, ladder, frame(index), clusters)
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        restored = spool.ladder()
    assert repr(restored.snapshot()) == repr(ladder.snapshot())
    assert restored.deaths == ladder.deaths
    assert restored.next_unit == ladder.next_unit


def test_a_frame_that_changes_nothing_writes_nothing_until_the_flush_is_due(tmp_path, monkeypatch):
    clock = Clock()
    clusters = random_stream(0, 1)[0]
    with dying_disk(monkeypatch) as disk, Spool(tmp_path / "s", settings(), monotonic=clock) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        judge(spool, ladder, frame(0), clusters)
        before = disk.count
        for index in range(1, 50):
            judge(spool, ladder, frame(index), clusters)
        assert disk.count == before
        clock.advance(FLUSH_S)
        judge(spool, ladder, frame(50), clusters)
        assert disk.count > before
    with open_view(tmp_path / "s") as view:
        assert view.counts()[0]["seen"] == 51


def test_so_many_frames_are_stored_however_fast_they_come_and_an_event_does_not_wait_long(tmp_path):
    clock, clusters = Clock(), random_stream(0, 1)[0]
    with Spool(tmp_path / "s", settings(), monotonic=clock) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        for index in range(FLUSH_FRAMES + 2):
            judge(spool, ladder, frame(index), clusters)
        with open_view(tmp_path / "s") as view:
            assert view.counts()[0]["seen"] == FLUSH_FRAMES + 1  # the first was retained, and stored with all before it
        spool.event("camera_lost", camera="front")
        clock.advance(EVENT_FLUSH_S)
        spool.idle()
        with open_view(tmp_path / "s") as view:
            assert "camera_lost" in [event["name"] for event in view.events()]


def operations(tmp_path, monkeypatch, stream):
    with dying_disk(monkeypatch) as disk:
        fill(tmp_path / "counted", stream)
    return disk.count


def test_dying_at_any_operation_and_going_on_gives_the_uninterrupted_result(tmp_path, monkeypatch):
    """Every operation of a whole short drive: appends, evictions, deaths of levels, opening, creating, closing."""
    stream = drive_stream(2, 3) + adversarial_stream(1, 9, dim=16)
    fill(tmp_path / "whole", stream)
    expected = summary(tmp_path / "whole")
    assert expected[1][0]["evicted"] > 0  # otherwise the drive would not show what it should
    total = operations(tmp_path, monkeypatch, stream)
    for at in range(total):
        path = tmp_path / "spool"
        with dying_disk(monkeypatch, at), pytest.raises(Died):
            fill(path, stream)
        with Spool(path, settings(), monotonic=Clock()) as spool:
            cursor = spool.begin_source(MemorySource()).cursor
        fill(path, stream, first=cursor + 1)
        assert summary(path) == expected, f"died before operation {at} of {total}"
        shutil.rmtree(path)


def test_lost_frames_are_counted_by_reason_with_an_event(tmp_path):
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        spool.begin_source(MemorySource())
        spool.pass_over(lost(frame(0), "truncated", "cut off after 12 bytes"))
        spool.pass_over(lost(frame(1), "empty", "zero bytes"))
        assert spool.lost == 2
    with open_view(tmp_path / "s") as view:
        counts, by_reason = view.counts()
        assert counts["seen"] == counts["lost"] == 2
        assert by_reason == {"truncated": 1, "empty": 1}
        assert [e["detail"] for e in view.events()] == ["cut off after 12 bytes", "zero bytes"]


def test_evictions_are_events_and_their_files_are_gone(tmp_path):
    fill(tmp_path / "s", random_stream(5, 60, dim=4))
    with open_view(tmp_path / "s") as view:
        counts, _ = view.counts()
        evicted = [unit for e in view.events() if e["name"] == "units_evicted" for unit in e["units"]]
        assert len(evicted) == counts["evicted"] > 0
        files = {f.file.name for f in view.retained()}
    assert {p.name for p in (tmp_path / "s" / "frames").iterdir()} == files


def test_evicted_frames_keep_what_they_were_retained_for_and_why_they_gave_way(tmp_path):
    gone, causes = {}, {}
    fill(tmp_path / "s", [])
    with changed(tmp_path / "s") as database:
        database.execute("UPDATE rounds SET max_retained = 5")  # of a budget of 3: the limit is reached often
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        stored = {}
        for index, clusters in enumerate(random_stream(5, 60, dim=4)):
            decision = ladder.score(clusters)
            judge(spool, ladder, frame(index), clusters)
            if decision.retain:
                stored[decision.unit] = (index, decision)
            gone.update(dict.fromkeys(decision.evicted, index))
            pressed = any(not death.natural for death in decision.deaths)
            causes.update(dict.fromkeys(decision.evicted, "max_retained" if pressed else "one_too_many"))
    with open_view(tmp_path / "s") as view:
        evicted = view.evicted()
        newest = view.evicted(at_most=2)
    assert [e.unit for e in evicted] == sorted(gone, reverse=True)
    assert newest == evicted[:2]
    for e in evicted:
        index, decision = stored[e.unit]
        assert (e.id, e.frame_index, e.novelty, e.radius) == (
            f"memory#{index}",
            index,
            decision.novelty,
            decision.radius,
        )
        assert e.bytes == len(b"bytes of frame %d" % index)
        assert (e.evicted_by, e.cause) == (f"memory#{gone[e.unit]}", causes[e.unit])
    assert set(causes.values()) == {"one_too_many", "max_retained"}


def test_of_an_eviction_older_than_the_events_that_are_kept_no_cause_is_made_up(tmp_path):
    fill(tmp_path / "s", random_stream(5, 60, dim=4))
    with changed(tmp_path / "s") as database:
        database.execute("DELETE FROM events")
        database.execute("UPDATE deaths SET natural = 0 WHERE death = 1")
    with open_view(tmp_path / "s") as view:
        assert {e.cause for e in view.evicted()} == {None}  # a level ended by pressure: it may have been either
    with changed(tmp_path / "s") as database:
        database.execute("UPDATE deaths SET natural = 1")
    with open_view(tmp_path / "s") as view:
        assert {e.cause for e in view.evicted()} == {"one_too_many"}


def test_orphans_of_ours_are_removed_with_an_event_and_foreign_files_are_left(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 10))
    coming = next_number(path)
    (path / "frames" / f"{coming}.jpg").write_bytes(b"its transaction never happened")
    (path / "frames" / f"{coming}-1.jpg.tmp").write_bytes(b"half")
    (path / "frames" / "notes.txt").write_bytes(b"a person's")
    with open_view(path) as view:
        assert {p.kind for p in view.check()} == {"orphan", "foreign"}
        assert all(p.harmless for p in view.check())
    fill(path, [])
    with open_view(path) as view:
        names = [(e["name"], e["file"]) for e in view.events() if "file" in e]
    assert ("orphan_removed", f"{coming}.jpg") in names
    assert ("orphan_removed", f"{coming}-1.jpg.tmp") in names
    assert ("foreign_file", "notes.txt") in names
    assert (path / "frames" / "notes.txt").exists()
    assert not (path / "frames" / f"{coming}.jpg").exists()


def test_a_frame_whose_row_a_damaged_disk_has_taken_is_damage_stays_and_is_not_written_over(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 10))
    coming = next_number(path)
    lost = [f"{int(coming) + more:08d}.jpg" for more in (0, 2)]
    for name in lost:
        (path / "frames" / name).write_bytes(b"promised once")
    with open_view(path) as view:
        assert [(p.kind, p.detail[:12], p.harmless) for p in view.check()] == [
            ("row_missing", name, False) for name in lost
        ]
    fill(path, random_stream(9, 30))
    with open_view(path) as view:
        assert [e["file"] for e in view.events() if e["name"] == "frame_row_missing"] == lost
        assert [p.kind for p in view.check()] == ["row_missing", "row_missing"]
        assert max(line["file"] for line in view.list_lines(retained=True)) > f"frames/{lost[1]}"
    assert all((path / "frames" / name).read_bytes() == b"promised once" for name in lost)


def test_a_memory_that_is_gone_or_none_is_damage(tmp_path):
    path = tmp_path / "s"
    with Spool(path, settings(), monotonic=Clock()) as spool:
        spool.know("a.memory", "sha256:a", [Entry(id="k", kind="known", rows=random_stream(6, 1)[0].rows, origin="s")])
    memory = memory_path(path, settings().feature_space)
    memory.write_bytes(b"a person's notes")
    with open_view(path) as view:
        [problem] = view.check()
    assert problem.kind == "memory"
    assert problem.detail.startswith(f"{memory}: is no memory")
    with pytest.raises(SpoolDamaged, match=f"{memory}: is no memory"), Spool(path, settings()) as spool:
        spool.ladder()
    memory.unlink()
    with open_view(path) as view:
        assert [(p.kind, p.harmless) for p in view.check()] == [("memory", False)]


def next_number(path) -> str:
    """How the file of the next unit is named, without its ending."""
    with changed(path) as database:
        return f"{next_unit(database):08d}"


def test_a_frame_file_that_is_gone_or_altered_is_found(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 30))
    first, second, *_ = sorted((path / "frames").iterdir())
    first.unlink()
    second.write_bytes(b"something else")
    with open_view(path) as view:
        problems = {p.kind: p for p in view.check()}
    assert {"missing", "altered"} <= set(problems)
    assert not problems["missing"].harmless
    fill(path, [])  # a writer goes on, and says so
    with open_view(path) as view:
        assert [e["file"] for e in view.events() if e["name"] == "frame_file_missing"] == [first.name]


def test_a_check_beside_a_running_writer_does_not_take_its_evictions_for_damage(tmp_path):
    path, stream = tmp_path / "s", drive_stream(2, 60)
    with Spool(path, settings(), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(stream[:20]):
            judge(spool, ladder, frame(index), clusters)
        with open_view(path) as view:
            before = set(ladder.retained)
            view.counts()  # the view stands on this state ...
            for index, clusters in enumerate(stream[20:], start=20):
                judge(spool, ladder, frame(index), clusters)
            assert before - set(ladder.retained)  # ... of which some are gone by now
            assert [p for p in view.check() if not p.harmless] == []


def test_a_frames_folder_that_is_gone_is_damage_and_no_traceback(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 10))
    shutil.rmtree(path / "frames")
    with open_view(path) as view:
        assert {p.kind for p in view.check()} == {"missing"}


def test_an_error_in_the_middle_of_an_append_leaves_the_frame_to_be_judged_again(tmp_path, monkeypatch):
    path, stream = tmp_path / "s", random_stream(0, 6)
    fill(tmp_path / "whole", stream)

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Spool(path, settings(), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        judge(spool, ladder, frame(0), stream[0])
        monkeypatch.setattr(os, "replace", interrupted)
        judge(spool, ladder, frame(1), stream[1])
    monkeypatch.undo()
    with Spool(path, settings(), monotonic=Clock()) as spool:
        cursor = spool.begin_source(MemorySource()).cursor
    assert cursor == 0
    fill(path, stream, first=cursor + 1)
    assert summary(path) == summary(tmp_path / "whole")


def test_counters_that_do_not_add_up_are_found(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 10))
    with changed(path) as database:
        database.execute("UPDATE counters SET n = n + 1 WHERE name = 'seen'")
    with open_view(path) as view:
        assert [p.kind for p in view.check()] == ["counts"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"budget": 4}, SpoolMismatch, "budget is 3, not 4"),
        ({"bundle": "sha256:" + "1" * 64}, SpoolMismatch, "bundle"),
        ({"feature_space": "fs-1111111111111111"}, FeatureSpaceMismatch, "fs-0000000000000000.*fs-1111111111111111"),
    ],
)
def test_an_open_round_is_continued_only_with_the_same_settings(tmp_path, change, error, words):
    fill(tmp_path / "s", random_stream(0, 5))
    with pytest.raises(error, match=words), Spool(tmp_path / "s", settings(**change)):
        pass


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path):
    with Spool(tmp_path / "s", settings()) as spool:
        spool.begin_source(MemorySource())
        with pytest.raises(SpoolLocked, match="another process"), Spool(tmp_path / "s", settings()):
            pass
        with open_view(tmp_path / "s") as view:
            assert view.counts()[0]["seen"] == 0


def test_two_sources_of_one_name_clash_whatever_is_asked(tmp_path):
    with Spool(tmp_path / "s", settings()) as spool:
        spool.begin_source(MemorySource([frame(0)]))
        with pytest.raises(SourceClash, match="--name"):
            spool.begin_source(MemorySource([frame(0), frame(1)]))
        with pytest.raises(SourceClash, match="--name"):
            spool.begin_source(MemorySource([frame(0), frame(1)]), again=True)


def test_an_unfinished_source_goes_on_only_with_its_own_fps(tmp_path):
    with Spool(tmp_path / "s", settings()) as spool:
        spool.begin_source(MemorySource(fps=2.0))
        with pytest.raises(SpoolMismatch, match="--fps 2"):
            spool.begin_source(MemorySource(fps=None))
        spool.finish_source("memory")
        assert spool.begin_source(MemorySource(fps=None)).finished


def test_a_folder_of_something_else_is_not_taken_for_a_spool(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(SpoolError, match="not a spool"), Spool(tmp_path / "photos", settings()):
        pass
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolError, match="is a file"), Spool(tmp_path / "file", settings()):
        pass
    with pytest.raises(SpoolError, match="no spool here"), open_view(tmp_path / "photos"):
        pass


def test_a_database_that_is_no_database_is_damage(tmp_path):
    path = tmp_path / "s"
    path.mkdir()
    (path / "spool.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(SpoolDamaged, match="is damaged"), Spool(path, settings()):
        pass
    with pytest.raises(SpoolDamaged), open_view(path):
        pass


def test_frames_whose_database_is_lost_are_not_touched(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 10))
    for file in path.glob("spool.db*"):
        file.unlink()
    before = sorted((path / "frames").iterdir())
    with pytest.raises(SpoolDamaged, match="is lost"), Spool(path, settings()):
        pass
    assert sorted((path / "frames").iterdir()) == before


def test_rows_that_cannot_be_read_are_damage_and_no_traceback(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 10))
    with changed(path) as database:
        database.execute("UPDATE units SET levels = x'ffff' WHERE state = 'retained'")
    with open_view(path) as view:
        assert {p.kind for p in view.check()} == {"rows"}
    with pytest.raises(SpoolDamaged, match="cannot be read"), open_view(path) as view:
        view.ladder()


def test_a_spool_of_a_later_version_is_refused_and_untouched(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 5))
    with changed(path) as database:
        database.execute("UPDATE meta SET value = 'geal-edge/spool/99' WHERE key = 'schema'")
    with pytest.raises(SpoolError, match="spool/99"), Spool(path, settings()):
        pass
    with pytest.raises(SpoolError, match="spool/99"), open_view(path):
        pass


def test_a_full_disk_stops_the_append_and_what_was_stored_stays(tmp_path, monkeypatch):
    path = tmp_path / "s"
    stream = random_stream(0, 12)
    with Spool(path, settings(), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        judge(spool, ladder, frame(0), stream[0])
        decision = ladder.score(stream[1])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(StorageError, match="disk is full"):
                spool.append(judged(frame(1), stream[1]), decision)
    with open_view(path) as view:
        assert [f.frame_index for f in view.retained()] == [0]


def test_a_spool_on_a_read_only_card_can_be_read(tmp_path, monkeypatch):
    path = tmp_path / "s"
    fill(path, random_stream(0, 20))
    expected = summary(path)
    import geal_edge.runtime.spoolview as spoolview

    def refused(_):
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(spoolview, "_read_only", refused)
    assert summary(path) == expected


@pytest.mark.parametrize("was_there", [False, True])
def test_nothing_but_the_owner_can_enter_the_spool(tmp_path, was_there):
    if was_there:
        (tmp_path / "s").mkdir(mode=0o755)
    fill(tmp_path / "s", random_stream(0, 5))
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "s" / "frames").stat().st_mode & 0o777 == 0o700


def test_the_machine_forms_have_the_documented_fields(tmp_path):
    fill(tmp_path / "s", random_stream(0, 30))
    with open_view(tmp_path / "s") as view:
        status = json.loads(json.dumps(view.status()))
        lines = [json.loads(json.dumps(line)) for line in view.list_lines()]
    assert {"schema", "feature_space", "frames", "lost", "budget", "rounds"} <= set(status)
    assert set(status["frames"]) == {
        "seen", "not_new", "gated", "lost", "retained", "selected", "released", "sent", "evicted",
        "pinned", "expired", "erased",
    }  # fmt: skip
    assert set(status["budget"][0]) == {"unit", "period", "limit", "spent", "refills_in_s"}
    assert {"round", "open", "release", "radius", "certificate"} <= set(status["rounds"][0])
    assert [line["order"] for line in lines] == [1, 2, 3]
    assert lines[0]["distance"] == 0.0
    assert lines[0]["witness"]["patches"] == []
    assert lines[1]["witness"]["patches"] != []
    assert lines[1]["witness"]["grid"] == [2, 4]
