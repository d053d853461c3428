import sqlite3
from hashlib import sha256

import pytest

from geal_edge.errors import SpoolError, SpoolLocked, UsageError
from geal_edge.runtime import durable, erasure
from geal_edge.runtime.erasure import Rule, erase, moment_ns, tombstones
from geal_edge.runtime.live.ring import Glimpse
from geal_edge.runtime.memoryfile import read_memory
from geal_edge.runtime.metadata import store_metadata
from geal_edge.runtime.outbox import Outbox
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spooldb import memory_path, next_unit
from geal_edge.runtime.spoolview import open_view
from tests.fakes import Clock, Died, MemorySource, frame, judge
from tests.streams import random_stream
from tests.test_spool import changed, fill, settings


def all_bytes(path):
    return b"".join(entry.read_bytes() for entry in sorted(path.rglob("*")) if entry.is_file())


def rounds_of(path, stream, *, name="memory", first=0):
    """A round that has ended, with its memory, and one that is open."""
    with Spool(path, settings(), monotonic=Clock()) as spool:
        selector = Rounds(spool, Clock())
        spool.begin_source(MemorySource(name=name))
        for index, clusters in enumerate(stream, start=first):
            if index - first == len(stream) // 2:
                selector._release(1)
                selector.end()
            judge(spool, selector, frame(index, source=name), clusters)
        selector._release(1)


def known(path):
    return {entry.id for entry in read_memory(memory_path(path, "fs-0000000000000000")).entries}


def erased(path):
    with open_view(path) as view:
        assert view.check() == []
        return view.counts()[0]["erased"], tombstones(view._db)


def yes(_):
    return True


def test_what_is_erased_is_gone_to_the_last_byte_and_leaves_a_tombstone(tmp_path):
    path = tmp_path / "s"
    stream = random_stream(0, 40)
    rounds_of(path, stream)
    with open_view(path) as view:
        ids = [view.selected()[0].id, view.retained()[-1].id, view.evicted()[0].id]
        picture = view.selected()[0].file.read_bytes()
    index = int(ids[0].partition("#")[2])
    rows = stream[index].rows.astype("<f2").tobytes()
    assert rows in all_bytes(path)
    assert ids[0] in known(path)
    for id_ in ids:
        erase(path, Rule(id=id_), sure=yes, wall_ns=lambda: 7)
    left = all_bytes(path)
    for id_ in ids:
        assert id_.encode() + b'"' not in left
    assert rows not in left
    assert picture not in left
    count, stones = erased(path)
    assert count == 3
    assert stones == [(sha256(id_.encode()).hexdigest(), 7, "id") for id_ in ids]
    assert ids[0] not in known(path)
    with open_view(path) as view:
        assert view.certificate().radius is None  # a retained frame of the open round went
        assert [e["frames"] for e in view.events() if e["name"] == "erased"] == [1, 1, 1]


def test_a_spool_goes_on_after_an_erasure_and_gives_no_place_of_the_order_twice(tmp_path):
    path = tmp_path / "s"
    rounds_of(path, random_stream(0, 40))
    with Spool(path, settings(), monotonic=Clock()) as spool:
        Rounds(spool, Clock())._release(1)
    with open_view(path) as view:
        first = next(f.id for f in view.selected() if f.state == "released" and f.round == 2)
    erase(path, Rule(id=first), sure=yes)
    with Spool(path, settings(), monotonic=Clock()) as spool:
        selector = Rounds(spool, Clock())
        selector._release(1)
        judge(spool, selector, frame(40), random_stream(9, 1)[0])
    with changed(path) as database:
        orders = database.execute("SELECT release_order FROM units WHERE round = 2 AND release_order > 0").fetchall()
    assert sorted(orders) == [(2,), (3,)]
    assert erased(path)[0] == 1


def test_a_source_is_erased_by_its_name_and_a_time_by_what_was_captured_or_stored_then(tmp_path):
    path = tmp_path / "s"
    rounds_of(path, random_stream(0, 30), name="front")
    rounds_of(path, random_stream(1, 30), name="front2", first=100)
    found = erase(path, Rule(source="front"), sure=yes)
    assert len(found.ids) > 0 < len(found.verdicts)
    assert b"front#" not in all_bytes(path)
    assert b"front2#" in all_bytes(path)
    found = erase(path, Rule(between_ns=(100 * 40_000_000, 110 * 40_000_000)), sure=yes)
    assert {int(id_.partition("#")[2]) for id_ in found.ids} <= set(range(100, 111))
    now = erase(path, Rule(between_ns=(moment_ns("0001-01-01"), moment_ns("9999-12-31"))), sure=yes)
    assert now.ids
    with open_view(path) as view:
        assert view.retained() == []
    erased(path)


def test_what_is_said_of_a_unit_in_other_tables_goes_with_it_and_files_beside_it_too(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 20))
    with open_view(path) as view:
        first = view.selected()[0]
    glimpse = Glimpse(capture_time_ns=0, data=b"what was beside it", ending="jpg")
    with Spool(path, settings(), monotonic=Clock()) as spool:
        assert spool.add_context(first.unit, 0, [glimpse])
    with changed(path) as database:
        store_metadata(database, first.unit, [{"said": "what was said of it"}])
        database.execute("CREATE TABLE acknowledged (frame INTEGER, key TEXT)")
        database.execute("INSERT INTO acknowledged SELECT frame, id FROM frames")
    erase(path, Rule(id=first.id), sure=yes)
    assert b"what was beside it" not in all_bytes(path)
    assert b"what was said of it" not in all_bytes(path)
    assert first.id.encode() + b'"' not in all_bytes(path)
    with changed(path) as database:
        assert database.execute("SELECT count(*) FROM context").fetchone() == (0,)
        assert database.execute("SELECT 1 FROM acknowledged WHERE key = ?", (first.id,)).fetchone() is None


def test_an_erasure_that_dies_is_finished_by_whoever_opens_the_spool_next(tmp_path, monkeypatch):
    """At every call that removes, writes or moves a file, and before and after each statement behind the first transaction."""
    count = 0
    while True:
        path = tmp_path / str(count)
        rounds_of(path, random_stream(0, 40))
        with open_view(path) as view:
            frame_ = view.selected()[0]
        left = [count]

        def die(call, left=left):
            def dying(*args, **kwargs):
                if left[0] == 0:
                    raise Died
                left[0] -= 1
                return call(*args, **kwargs)

            return dying

        with monkeypatch.context() as patch:
            for name in ("remove_file", "make_safe"):
                patch.setattr(durable, name, die(getattr(durable, name)))
            for name in ("write_memory", "transaction"):
                patch.setattr(erasure, name, die(getattr(erasure, name)))
            try:
                erase(path, Rule(id=frame_.id), sure=yes)
                died = False
            except Died:
                died = True
        with open_view(path) as view:
            assert [problem for problem in view.check() if not problem.harmless] == []
        fill(path, [])
        with open_view(path) as view:
            begun = view.counts()[0]["erased"] == 1
            assert view.check() == []
        assert begun is (frame_.id.encode() + b'"' not in all_bytes(path))
        assert begun is (frame_.id not in known(path))
        assert begun is not frame_.file.exists()
        assert begun or died
        if not died:
            assert count > 4
            return
        count += 1


def test_erasing_waits_for_nobody_and_asks_first(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 20))
    before = all_bytes(path)
    found = erase(path, Rule(id="memory#0"), sure=lambda _: False)
    assert found.ids == ("memory#0",)
    with open_view(path) as view:
        assert "memory#0" in {f.id for f in view.retained()}
    with pytest.raises(UsageError, match="holds nothing of that"):
        erase(path, Rule(id="memory#1000"), sure=yes)
    with pytest.raises(SpoolError, match="no spool here"):
        erase(tmp_path / "nothing", Rule(id="x"), sure=yes)
    with Spool(path, settings()), pytest.raises(SpoolLocked, match="stop it first"):
        erase(path, Rule(id="memory#0"), sure=yes)
    assert len(before) > 0


def test_a_reader_that_still_holds_old_pages_is_said_and_the_next_run_finishes(tmp_path, monkeypatch):
    path = tmp_path / "s"
    fill(path, random_stream(0, 20))
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: real(*args, **{**more, "timeout": 0.1}))
    with open_view(path) as view:
        view.counts()
        with pytest.raises(SpoolLocked, match="is reading it"):
            erase(path, Rule(id="memory#0"), sure=yes)
        fill(path, random_stream(0, 25), first=20)  # a run that starts now goes on, and says so
    with open_view(path) as view:
        assert "is reading it" in next(e["why"] for e in view.events() if e["name"] == "erasure_unfinished")
    fill(path, [])
    assert b'memory#0"' not in all_bytes(path)
    assert erased(path)[0] == 1


def test_context_of_a_time_that_is_erased_goes_though_its_frame_is_of_another(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 20))
    with open_view(path) as view:
        first = view.selected()[0]
    glimpse = Glimpse(capture_time_ns=10**15, data=b"what was beside it", ending="jpg")
    with Spool(path, settings(), monotonic=Clock()) as spool:
        assert spool.add_context(first.unit, 0, [glimpse])
    found = erase(path, Rule(between_ns=(10**15 - 5, 10**15 + 5)), sure=yes)
    assert found.ids == (first.id,)
    assert b"what was beside it" not in all_bytes(path)
    erased(path)


def test_an_id_and_a_digest_go_from_sentences_too_and_no_other_id_does(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 20))
    with open_view(path) as view:
        first = view.selected()[0]
    told = f"00000001.jpg: the retained frame {first.id} cannot be read, {first.id}9 can"
    key = f"car/memory/{first.sha256}.jpg: the far side cannot be reached"
    with Outbox(path) as outbox:
        outbox.note_link({"state": "failing", "detail": key, "failures": 1}, event="link_lost")
    with Spool(path, settings(), monotonic=Clock()) as spool:
        spool.event("repaired", mended=[told])
        spool.event("frame_lost", id=first.id, reason="unreadable", detail="/home/me/secret.jpg cannot be read")
    erase(path, Rule(id=first.id), sure=yes)
    assert first.sha256.encode() not in all_bytes(path)
    with open_view(path) as view:
        [mended] = next(e["mended"] for e in view.events() if e["name"] == "repaired")
    assert b"secret.jpg" not in all_bytes(path)
    assert mended == f"00000001.jpg: the retained frame (erased) cannot be read, {first.id}9 can"


def test_what_a_kill_left_of_a_frame_that_was_coming_goes_with_an_erasure(tmp_path):
    path = tmp_path / "s"
    fill(path, random_stream(0, 20))
    with changed(path) as database:
        coming = f"{next_unit(database):08d}.jpg"
    for name in (coming, f"{coming}.tmp"):
        (path / "frames" / name).write_bytes(b"somebody's face")
    (path / "frames" / "notes.txt").write_bytes(b"not ours")
    with open_view(path) as view:
        first = view.selected()[0]
    erase(path, Rule(id=first.id), sure=yes)
    assert b"somebody's face" not in all_bytes(path)
    assert (path / "frames" / "notes.txt").exists()
    assert {problem.kind for problem in open_and_check(path)} == {"foreign"}


def open_and_check(path):
    with open_view(path) as view:
        return view.check()
