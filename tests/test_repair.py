import json
import os
import random
import shutil

import pytest

from geal_edge.errors import GealEdgeError, SpoolError, SpoolLocked
from geal_edge.runtime import erasure
from geal_edge.runtime.erasure import Rule, erase
from geal_edge.runtime.ladder import TOP
from geal_edge.runtime.live.ring import Glimpse
from geal_edge.runtime.memoryfile import read_memory
from geal_edge.runtime.metadata import store_metadata
from geal_edge.runtime.outbox import Outbox, Receipt
from geal_edge.runtime.pins import pin
from geal_edge.runtime.repair import _tie, repair
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spooldb import memory_path
from geal_edge.runtime.spoolview import is_sound, open_view
from tests.fakes import Clock, Died, MemorySource, frame, judge
from tests.streams import random_stream
from tests.test_spool import changed, fill, next_number, settings


def vehicle(path, frames=30):
    """A round that has ended, with its memory, and one that is open and has released."""
    with Spool(path, settings(budget=6), monotonic=Clock()) as spool:
        selector = Rounds(spool, Clock())
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(random_stream(0, frames)):
            if index == frames // 2:
                selector.end()
            judge(spool, selector, frame(index), clusters)
        selector._release(2)
    return path


def goes_on(path):
    """A writer opens it, retains and releases: what was mended is a spool again."""
    with Spool(path, settings(budget=6), monotonic=Clock()) as spool:
        selector = Rounds(spool, Clock())
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(random_stream(5, 20), start=100):
            judge(spool, selector, frame(index), clusters)
        selector.end()
    with open_view(path) as view:
        assert [p for p in view.check() if not p.harmless] == []


def everything(path):
    """All bytes and all times, of the folder too."""
    inside = [path, *path.rglob("*")]
    return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in inside}


def aside(path):
    lines = [json.loads(line) for line in (path / "set-aside" / "list.jsonl").read_text().splitlines()]
    assert {line["file"] for line in lines} | {"list.jsonl"} == {p.name for p in (path / "set-aside").iterdir()}
    return {line["was"]: path / "set-aside" / line["file"] for line in lines}


def mended(path):
    found = repair(path, wall_ns=lambda: 7)
    assert is_sound(path)
    assert [each.kind for each in repair(path)] == []  # nothing more to be found
    return {each.kind for each in found}


def a_missing_frame(path):
    sorted((path / "frames").iterdir())[-1].unlink()


def a_flipped_bit(path):
    file = sorted((path / "frames").iterdir())[-1]
    file.write_bytes(b"X" + file.read_bytes()[1:])


def a_torn_frame(path):
    file = sorted((path / "frames").iterdir())[0]
    file.write_bytes(file.read_bytes()[:3])


def an_orphan(path):
    (path / "frames" / f"{next_number(path)}.jpg").write_bytes(b"of the unit that was coming")


def half_a_frame(path):
    (path / "frames" / f"{next_number(path)}.jpg.tmp").write_bytes(b"half")


def a_file_whose_row_is_lost(path):
    (path / "frames" / "00000099.jpg").write_bytes(b"nobody says what this is")


def no_memory(path):
    memory_path(path, "fs-0000000000000000").unlink()


def a_damaged_log(path):
    """As a disk leaves it in the middle of the log of a writer that was killed."""
    whole = path.with_name("whole")
    with Spool(path, settings(budget=6), monotonic=Clock()) as spool:
        selector = Rounds(spool, Clock())
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(random_stream(5, 20), start=100):
            judge(spool, selector, frame(index), clusters)
            spool.flush()
        shutil.copytree(path, whole)
    shutil.rmtree(path)
    whole.rename(path)
    log = bytearray((path / "spool.db-wal").read_bytes())
    place = len(log) // 2
    log[place : place + 64] = bytes(64)
    (path / "spool.db-wal").write_bytes(log)


def levels_of_no_ladder(path):
    with changed(path) as database:
        database.execute("UPDATE units SET levels = x'ffff' WHERE unit = (SELECT max(unit) FROM units)")


def clusters_of_another_length(path):
    with changed(path) as database:
        database.execute(
            "UPDATE frames SET clusters = substr(clusters, 3) WHERE frame = (SELECT max(frame) FROM frames)"
        )


def no_level_that_lives(path):
    with changed(path) as database:
        database.execute(
            "INSERT OR IGNORE INTO deaths SELECT NULL, 2, value, 0, 1 FROM json_each(?)",
            (json.dumps(list(range(TOP))),),
        )


def a_level_too_full(path):
    with changed(path) as database:
        database.execute("UPDATE rounds SET budget = 6")
        (unit,) = database.execute("SELECT max(unit) FROM units WHERE state = 'retained'").fetchone()
        for number in range(unit + 1, unit + 9):
            database.execute(
                "INSERT INTO units SELECT ?, round, state, levels, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL "
                "FROM units WHERE unit = ?",
                (number, unit),
            )
            database.execute(
                "INSERT INTO frames SELECT NULL, ?, id || '.' || ?, source, frame_index, capture_time_ns, stored_ns, ?, bytes, "
                "sha256, clusters, cluster_count, patch_cluster FROM frames WHERE unit = ?",
                (number, number, f"{number:08d}.jpg", unit),
            )
            shutil.copyfile(path / "frames" / f"{unit:08d}.jpg", path / "frames" / f"{number:08d}.jpg")


def counters_that_lie(path):
    with changed(path) as database:
        database.execute("UPDATE counters SET n = 1 WHERE name = 'seen'")


def a_damaged_memory(path):
    file = memory_path(path, "fs-0000000000000000")
    file.write_bytes(file.read_bytes()[:-40] + bytes(40))


DAMAGE = {
    a_missing_frame: {"missing"},
    a_flipped_bit: {"altered"},
    a_torn_frame: {"altered"},
    an_orphan: {"orphan"},
    half_a_frame: {"orphan"},
    a_file_whose_row_is_lost: {"row_missing"},
    no_memory: {"memory"},
    levels_of_no_ladder: {"rows"},
    clusters_of_another_length: {"rows"},
    no_level_that_lives: {"levels"},
    a_level_too_full: {"levels", "counts"},
    counters_that_lie: {"counts"},
    a_damaged_memory: {"memory"},
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_what_can_be_mended_is_mended_said_and_goes_on(tmp_path, damage):
    path = vehicle(tmp_path / "s")
    damage(path)
    before = everything(path)
    with open_view(path, untouched=True) as view:
        assert {p.kind for p in view.check()} == DAMAGE[damage]
    assert everything(path) == before
    assert mended(path) == DAMAGE[damage]
    goes_on(path)


def test_a_damaged_log_is_set_aside_and_files_whose_rows_stood_behind_it_too(tmp_path):
    path = vehicle(tmp_path / "s")
    a_damaged_log(path)
    before = everything(path)
    with open_view(path, untouched=True) as view:
        assert "database" in {p.kind for p in view.check()}
    assert everything(path) == before
    assert {"database"} <= mended(path) <= {"database", "row_missing", "tombstone", "missing"}
    assert "spool.db-wal" in aside(path)
    goes_on(path)


def test_a_sound_spool_is_left_as_it_is_by_check_to_the_last_time_stamp(cli, tmp_path):
    path = vehicle(tmp_path / "s")
    before = everything(path)
    assert cli("check", path)[0] == 0
    assert everything(path) == before
    assert cli("repair", path)[:2] == (0, f"{path}: sound, 0 things mended\n")
    assert not (path / "set-aside").exists()


def test_after_a_kill_a_check_reads_the_log_and_changes_nothing(tmp_path):
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(random_stream(0, 20)):
            judge(spool, ladder, frame(index), clusters)
        shutil.copytree(tmp_path / "s", tmp_path / "killed")
    path = tmp_path / "killed"
    assert (path / "spool.db-wal").stat().st_size > 0
    before = everything(path)
    with open_view(path, untouched=True) as view:
        assert view.check() == []
        assert view.counts()[0]["retained"] > 0
    assert everything(path) == before


def test_a_check_beside_a_writer_takes_part_in_its_files(tmp_path):
    with Spool(tmp_path / "s", settings(), monotonic=Clock()) as spool:
        spool.begin_source(MemorySource())
        judge(spool, spool.ladder(), frame(0), random_stream(0, 1)[0])
        with open_view(tmp_path / "s", untouched=True) as view:
            assert view.check() == []
        with pytest.raises(SpoolLocked, match="stop it first"):
            repair(tmp_path / "s")


def test_what_was_set_aside_is_there_with_its_reason(tmp_path):
    path = vehicle(tmp_path / "s")
    file = sorted((path / "frames").iterdir())[-1]
    file.write_bytes(b"torn")
    repair(path)
    assert aside(path)[f"frames/{file.name}"].read_bytes() == b"torn"
    with open_view(path) as view:
        assert [e.cause for e in view.evicted()].count("repair") == 1
        assert [e["name"] for e in view.events()][-1] == "repaired"
        assert view.certificate().radius is None


def test_a_memory_is_written_anew_from_what_was_released(tmp_path):
    path = vehicle(tmp_path / "s")
    file = memory_path(path, "fs-0000000000000000")
    before = read_memory(file)
    a_damaged_memory(path)
    repair(path)
    after = read_memory(file)
    assert {entry.id for entry in after.entries} == {entry.id for entry in before.entries}
    assert after.through_round == before.through_round


@pytest.mark.parametrize("seed", range(5))
def test_of_a_damaged_database_all_rows_outside_the_damage_are_saved(tmp_path, seed):
    path = vehicle(tmp_path / "s", frames=120)
    with open_view(path) as view:
        before = {f.id for f in view.retained()}
    data = bytearray((path / "spool.db").read_bytes())
    rng = random.Random(seed)
    # The first page, or one behind those of the small tables, of which each has one.
    place = 0 if seed == 0 else 4096 * rng.randrange(20, len(data) // 4096)
    data[place : place + (100 if seed == 0 else 512)] = rng.randbytes(100 if seed == 0 else 512)
    (path / "spool.db").write_bytes(data)
    assert is_damaged(path)
    assert "database" in mended(path)
    assert aside(path)["spool.db"].read_bytes() == bytes(data)
    with open_view(path) as view:
        saved = {f.id for f in view.retained()}
    assert saved <= before
    assert len(saved) >= (len(before) if seed == 0 else len(before) / 3)  # a page holds a dozen units of so many levels
    goes_on(path)


def test_a_database_without_its_settings_is_set_aside_whole_with_the_frames(tmp_path):
    path = vehicle(tmp_path / "s")
    with changed(path) as database:
        database.execute("DELETE FROM meta WHERE key = 'grid'")
    assert "database" in mended(path)
    assert "spool.db" in aside(path)
    goes_on(path)


def is_damaged(path):
    try:
        return not is_sound(path)
    except GealEdgeError:
        return True


@pytest.mark.parametrize("how", ["gone", "empty", "nonsense"])
def test_a_spool_that_lost_its_database_is_emptied_into_set_aside_and_can_be_begun_anew(tmp_path, how):
    path = vehicle(tmp_path / "s")
    frames = {p.name for p in (path / "frames").iterdir()}
    for file in path.glob("spool.db*"):
        file.unlink()
    if how != "gone":
        (path / "spool.db").write_bytes(b"" if how == "empty" else b"nonsense" * 1000)
    repair(path)
    assert {was.removeprefix("frames/") for was in aside(path)} >= frames
    fill(path, random_stream(0, 10))
    with open_view(path) as view:
        assert view.check() == []


def test_a_spool_of_a_later_version_is_refused_and_nothing_is_changed(cli, tmp_path):
    path = vehicle(tmp_path / "s")
    with changed(path) as database:
        database.execute("UPDATE meta SET value = 'geal-edge/spool/99' WHERE key = 'schema'")
    for lock in ("lock", "upload.lock"):
        (path / lock).touch()
        os.utime(path / lock, ns=(0, 0))
    before = everything(path)
    with pytest.raises(SpoolError, match="spool/99"):
        repair(path)
    assert cli("check", path)[0] == 13
    assert everything(path) == before
    with pytest.raises(SpoolError, match="nothing of a spool"):
        repair(tmp_path / "nowhere")


def test_nothing_is_mended_beside_an_uploader_whose_acknowledgements_would_be_lost(tmp_path):
    path = vehicle(tmp_path / "s")
    with Outbox(path), pytest.raises(SpoolLocked, match="outbox"):
        repair(path)


def test_a_spool_that_was_uploaded_and_lost_its_database_can_be_begun_anew(tmp_path):
    path = vehicle(tmp_path / "s")
    with Outbox(path):
        pass
    for file in path.glob("spool.db*"):
        file.unlink()
    repair(path)
    goes_on(path)


def test_what_was_sent_stays_sent_whatever_became_of_its_clusters_and_its_place_is_not_free_again(tmp_path):
    path = vehicle(tmp_path / "s")
    with Outbox(path) as outbox:
        while (outgoing := outbox.next()) is not None:
            outbox.acknowledge(outgoing, [Receipt(key="k", verified="size")])
    with changed(path) as database:
        database.execute(
            "UPDATE frames SET clusters = substr(clusters, 3) WHERE unit IN (SELECT unit FROM units WHERE state = 'sent')"
        )
    with open_view(path) as view:
        sent, spent = view.counts()[0]["sent"], view.spent
    assert mended(path) == {"rows"}
    with open_view(path) as view:
        assert (view.counts()[0]["sent"], view.spent) == (sent, spent)
        assert [frame.witness_patches for frame in view.retained() if frame.state == "sent"] == [[]] * sent
    goes_on(path)


def beside_the_first(path):
    """Context and metadata of the first selected frame, which is given."""
    with open_view(path) as view:
        first = next(each for each in view.selected() if each.state == "retained")
    with Spool(path, settings(budget=6), monotonic=Clock()) as spool:
        assert spool.add_context(first.unit, 0, [Glimpse(capture_time_ns=0, data=b"what was beside it", ending="jpg")])
        with spool._transaction():
            store_metadata(spool._db, first.unit, [{"speed_kmh": 3}])
    return first


def test_what_lies_beside_a_damaged_unit_goes_with_it(tmp_path):
    path = vehicle(tmp_path / "s")
    first = beside_the_first(path)
    pin(path, first.id)
    first.file.unlink()
    assert mended(path) == {"missing"}
    assert f"frames/{first.unit:08d}.c00.jpg" in aside(path)
    with changed(path) as database:
        for table in ("context", "metadata", "pins"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_what_is_said_of_a_unit_that_a_damaged_database_has_lost_goes_too(tmp_path):
    path = vehicle(tmp_path / "s")
    first = beside_the_first(path)
    with changed(path) as database:
        database.execute("DELETE FROM units WHERE unit = ?", (first.unit,))
        _tie(database, path)
        for table in ("frames", "context", "metadata"):
            assert database.execute(f"SELECT count(*) FROM {table} WHERE unit = ?", (first.unit,)).fetchone() == (0,)
    mended(path)
    assert {f"frames/{first.unit:08d}.jpg", f"frames/{first.unit:08d}.c00.jpg"} <= set(aside(path))


def test_an_erasure_that_was_cut_off_is_finished_where_a_memory_is_damaged_and_nothing_of_it_is_set_aside(
    tmp_path, monkeypatch
):
    path = vehicle(tmp_path / "s")
    with open_view(path) as view:
        first = next(each for each in view.retained() if each.has_file)
        picture = first.file.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(
            erasure, "_begin", lambda *a, begin=erasure._begin: (begin(*a), patched.setattr(erasure, "finish", dies))
        )
        with pytest.raises(Died):
            erase(path, Rule(id=first.id), sure=lambda _: True)
    memory = memory_path(path, "fs-0000000000000000")
    memory.write_bytes(memory.read_bytes()[:-1])
    assert mended(path) == {"memory"}
    assert picture not in [file.read_bytes() for file in path.rglob("*") if file.is_file()]
    goes_on(path)


def dies(*_):
    raise Died


def test_a_source_whose_row_is_lost_goes_on_behind_its_last_retained_frame(tmp_path):
    path, stream = tmp_path / "s", random_stream(3, 40)
    fill(path, stream[:25])
    with changed(path) as database:
        (last,) = database.execute("SELECT max(frame_index) FROM frames").fetchone()
        database.execute("DELETE FROM sources")
    with Spool(path, settings(budget=3), monotonic=Clock()) as spool:
        assert spool.begin_source(MemorySource()).cursor == last
    fill(path, stream, first=last + 1)
    with open_view(path) as view:
        ids = [line["id"] for line in view.list_lines(retained=True)]
        assert len(set(ids)) == len(ids)
        assert view.check() == []
        found = [(e["source"], e["cursor"]) for e in view.events() if e["name"] == "source_row_missing"]
        assert found == [(MemorySource().name, last)]
