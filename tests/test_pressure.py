import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from geal_edge.config import DiskConfig
from geal_edge.errors import DiskFull
from geal_edge.runtime import pressure
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolrows import insert_unit
from geal_edge.runtime.spoolview import open_view
from tests.fakes import Clock, MemorySource, frame, judged
from tests.streams import random_stream
from tests.test_spool import settings

QUOTA = 1_000_000
BYTES = 80_000
"""Of a frame, so that a handful fills the quota."""


def drive():
    """So much in it is new that more is retained than fits."""
    return random_stream(4, 60, dim=64, most=2)


def size_of(path):
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())


def seen(spool, selector, index, clusters, size=BYTES):
    item = frame(index, encoded=bytes([index % 256]) * size)
    decision = spool.append(judged(item, clusters), selector.score(clusters), selector.press)
    selector.learn(decision)
    return decision


def filled(path, stream, disk, *, size=BYTES, each=None):
    with Spool(path, settings(budget=6), disk=disk, monotonic=Clock()) as spool:
        spool.begin_source(MemorySource())
        selector = Rounds(spool, Clock())
        for index, clusters in enumerate(stream):
            seen(spool, selector, index, clusters, size)
            if each is not None:
                each()


def view_of(path):
    with open_view(path) as view:
        return view.counts(), view.certificate(), view.events(), view.check(), view.disk()


def test_a_quota_holds_at_every_moment_and_the_radius_rises_for_it(tmp_path):
    path, most = tmp_path / "s", []
    stream = drive()
    filled(path, stream, DiskConfig(max_bytes=QUOTA, min_free_bytes=0), each=lambda: most.append(size_of(path)))
    assert max(most) <= QUOTA
    (counts, _), certificate, events, problems, disk = view_of(path)
    assert problems == []
    assert counts["seen"] == 60 == sum(n for state, n in counts.items() if state not in ("seen", "selected"))
    raised = [event for event in events if event["name"] == "radius_raised"]
    assert {event["cause"] for event in raised} == {"quota"}
    assert disk["max_bytes"] == QUOTA
    filled(tmp_path / "free", stream, None)
    free = view_of(tmp_path / "free")[1]
    assert certificate.radius > free.radius
    with open_view(path) as view:
        assert {e.cause for e in view.evicted()} == {"quota"}


def test_what_is_counted_is_what_lies_there(tmp_path):
    filled(tmp_path / "s", drive(), DiskConfig(max_bytes=QUOTA, min_free_bytes=0))
    assert view_of(tmp_path / "s")[4]["used_bytes"] == size_of(tmp_path / "s")


def test_a_quota_full_of_released_units_refuses_new_ones_once_said_and_each_counted(tmp_path):
    path = tmp_path / "s"
    filled(path, drive()[:30], None, size=150_000)
    with Spool(path, settings(budget=6), disk=DiskConfig(max_bytes=QUOTA), monotonic=Clock()) as spool:
        spool.begin_source(MemorySource())
        selector = Rounds(spool, Clock())
        selector.end()  # a new round: what the last one released is not sent
        for index, clusters in enumerate(drive()[30:], start=30):
            seen(spool, selector, index, clusters)
    (counts, lost), _, events, problems, disk = view_of(path)
    assert lost["disk_quota"] == counts["lost"] > 0
    assert counts["released"] == 6
    assert problems == []
    full = [event for event in events if event["name"] == "disk_full"]
    assert len(full) == 1
    assert full[0]["cause"] == "quota"
    assert full[0]["unsent_units"] == disk["unsent_units"] == 6
    assert full[0]["oldest_age_s"] >= 0
    assert not any(event["name"] == "frame_lost" for event in events)


def test_a_second_stretch_without_room_is_a_second_event(tmp_path, monkeypatch):
    free = [0]
    monkeypatch.setattr(pressure, "free_bytes", lambda _: free[0])
    with Spool(tmp_path / "s", settings(), disk=DiskConfig(), monotonic=Clock()) as spool:
        spool.begin_source(MemorySource())
        selector = Rounds(spool, Clock())
        for index, clusters in enumerate(drive()):
            free[0] = 10**9 if 10 <= index < 20 else 0
            seen(spool, selector, index, clusters)
    (_, lost), _, events, _, _ = view_of(tmp_path / "s")
    assert [event["cause"] for event in events if event["name"] == "disk_full"] == ["free_space", "free_space"]
    assert lost["disk_quota"] > 2


def test_free_space_that_others_take_is_given_back_by_the_smallest_levels(tmp_path, monkeypatch):
    free = [10**9]
    monkeypatch.setattr(pressure, "free_bytes", lambda _: free[0])
    with Spool(tmp_path / "s", settings(budget=6), disk=DiskConfig(), monotonic=Clock()) as spool:
        spool.begin_source(MemorySource())
        selector = Rounds(spool, Clock())
        stream = drive()
        for index, clusters in enumerate(stream[:30]):
            seen(spool, selector, index, clusters)
        before = len(selector.retained)
        free[0] = DiskConfig().min_free_bytes - BYTES
        for index, clusters in enumerate(stream[30:], start=30):
            seen(spool, selector, index, clusters)
    events = view_of(tmp_path / "s")[2]
    assert {event["cause"] for event in events if event["name"] == "radius_raised"} == {"free_space"}
    assert len(selector.retained) < before


@pytest.mark.parametrize("full_at", ["write", "database"])
def test_a_disk_that_is_really_full_presses_once_and_what_was_counted_is_counted_once(tmp_path, monkeypatch, full_at):
    path, stream, room = tmp_path / "s", drive(), [10**9]
    real_write, real_unlink, insert = os.write, os.unlink, insert_unit

    def refused():
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(handle, data):
        if full_at == "write" and len(data) > room[0]:
            refused()
        room[0] -= len(data)
        return real_write(handle, data)

    def unlink(file):
        room[0] += os.stat(file).st_size
        real_unlink(file)

    def inserted(*of_unit, **beside):
        if full_at == "database" and room[0] < 0:
            raise DiskFull("the database refused (database or disk is full)")
        insert(*of_unit, **beside)

    monkeypatch.setattr("geal_edge.runtime.spool.insert_unit", inserted)
    with Spool(path, settings(budget=6), disk=DiskConfig(min_free_bytes=0), monotonic=Clock()) as spool:
        spool.begin_source(MemorySource())
        selector = Rounds(spool, Clock())
        monkeypatch.setattr(os, "write", write)
        monkeypatch.setattr(os, "unlink", unlink)
        for index, clusters in enumerate(stream):
            if index == 30:
                room[0] = BYTES // 2
            seen(spool, selector, index, clusters)
        assert repr(spool.ladder().snapshot()) == repr(selector._ladder.snapshot())
        monkeypatch.undo()
    (counts, lost), _, events, problems, _ = view_of(path)
    assert problems == []
    assert counts["seen"] == index + 1
    assert {event["cause"] for event in events if event["name"] == "radius_raised"} == {"disk_full"}
    assert lost == {}


def test_a_full_disk_on_which_nothing_may_give_way_stops_and_what_was_stored_stays(tmp_path, monkeypatch):
    path, stream = tmp_path / "s", random_stream(0, 12)
    with pytest.raises(DiskFull, match="disk is full"), Spool(path, settings(), disk=DiskConfig()) as spool:
        spool.begin_source(MemorySource())
        selector = Rounds(spool, Clock())
        seen(spool, selector, 0, stream[0])
        monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        seen(spool, selector, 1, replace(stream[1], rows=-stream[0].rows, patch_cluster=stream[0].patch_cluster))
    monkeypatch.undo()
    (counts, _), _, _, problems, _ = view_of(path)
    assert (counts["seen"], counts["retained"], problems) == (1, 1, [])


def test_a_spool_that_is_a_file_system_of_its_own_has_a_folder_that_nobody_may_read(tmp_path, cli, monkeypatch):
    filled(tmp_path / "s", drive()[:5], None)
    (tmp_path / "s" / "lost+found").mkdir()
    (tmp_path / "s" / "round").symlink_to(tmp_path / "s")
    listed = Path.iterdir

    def refused(folder):
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    code, out, error = cli("status", tmp_path / "s")
    assert code == 0, error
    assert " used, " in out
