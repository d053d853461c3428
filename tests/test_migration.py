"""A spool whose vehicle gets a bundle of another feature space, and gets the old one back."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image as Pillow

from geal_edge.config import DiskConfig
from geal_edge.errors import FeatureSpaceMismatch, FrameError, SpoolDamaged, SpoolMismatch
from geal_edge.runtime.clusters import KnowledgeClusters, unit_rows
from geal_edge.runtime.memoryfile import read_memory
from geal_edge.runtime.outbox import Outbox, Receipt
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spooldb import memory_path
from geal_edge.runtime.spoolview import open_view
from tests.fakes import Clock, Died, MemorySource, dying_disk, frame, judged
from tests.old_spool import make_old
from tests.test_aging import DAY_S, Vehicle
from tests.test_spool import settings

OLD, NEW = "fs-000000000000000a", "fs-000000000000000b"
DIM = {OLD: 6, NEW: 9}
FRAMES = 24


def encode_in(space):
    """What stands for a bundle here: a picture's clusters follow from its pixels, and from the space."""

    def encode(image):
        rng = np.random.default_rng(int(image.astype(np.int64).sum()) % (1 << 32))
        rows = unit_rows(rng.normal(size=(2, DIM[space])))
        return KnowledgeClusters(rows=rows, patch_cluster=np.arange(8, dtype=np.int16) % 2)

    return encode


def picture(index):
    """A frame with real PNG bytes, so that it can be looked at again."""
    item = frame(index)
    buffer = io.BytesIO()
    Pillow.fromarray(item.image).save(buffer, "PNG")
    return frame(index, encoded=buffer.getvalue())


def drive(path, space, frames, *, trips=(11,), then=lambda rounds: None):
    """Judge these frames in a space; a trip's last frame ends its round."""
    with vehicle(path, space) as spool:
        spool.begin_source(MemorySource())
        rounds = Rounds(spool, Clock())
        for index in frames:
            item = picture(index)
            decision = rounds.score(encode_in(space)(item.image))
            spool.append(judged(item, decision.clusters), decision)
            rounds.learn(decision)
            if index in trips:
                rounds.end()
        then(rounds)


def vehicle(path, space, **more):
    wanted = settings(feature_space=space, bundle=f"sha256:{space[-1] * 64}", release="round_end")
    return Spool(path, wanted, encode=encode_in(space), monotonic=Clock(), **more)


def listed(path):
    with open_view(path) as view:
        assert view.check() == []
        return list(view.list_lines(retained=True)), view.meta["feature_space"], view.events(), view.clusters()


def test_what_was_sent_counts_under_a_new_bundle_and_covers_nothing_since_its_picture_is_gone(tmp_path):
    drive(tmp_path / "s", OLD, range(8), trips=())
    with vehicle(tmp_path / "s", OLD) as spool:
        ladder = spool.ladder()
        release = ladder.release(2)
        spool.release(release)
    with Outbox(tmp_path / "s") as outbox:
        first = outbox.next()
        assert first is not None
        outbox.acknowledge(first, [Receipt(key="k", verified="size")])
    with vehicle(tmp_path / "s", NEW) as spool:
        ladder = spool.ladder()
        assert ladder.released == release.units
        assert ladder.room == 1
    drive(tmp_path / "s", NEW, range(8, FRAMES), trips=(FRAMES - 1,))
    after, _, _, clusters = listed(tmp_path / "s")
    assert [line["state"] for line in after][:2] == ["sent", "released"]
    assert first.unit not in clusters
    memory = read_memory(memory_path(tmp_path / "s", NEW))
    assert first.frames[0].id not in {entry.id for entry in memory.entries}


def test_a_new_bundle_goes_on_with_what_is_released_in_its_order_and_what_is_retained_in_its_own_eyes(tmp_path):
    drive(tmp_path / "s", OLD, range(FRAMES))
    before, _, _, _ = listed(tmp_path / "s")
    with vehicle(tmp_path / "s", NEW):
        pass
    after, space, events, clusters = listed(tmp_path / "s")
    assert space == NEW
    assert [line["id"] for line in after if line["state"] == "released"] == [
        line["id"] for line in before if line["state"] == "released"
    ]
    assert {line["id"] for line in after} <= {line["id"] for line in before}
    assert {rows.shape[1] for rows in clusters.values()} == {DIM[NEW]}
    changed = next(event for event in events if event["name"] == "feature_space_changed")
    assert (changed["from_space"], changed["to_space"]) == (OLD, NEW)
    assert len(changed["evicted"]) + len(after) == len(before)


def test_the_round_goes_on_and_its_result_is_that_of_a_fresh_ladder_fed_with_what_was_retained(tmp_path):
    drive(tmp_path / "s", OLD, range(FRAMES), trips=())
    with open_view(tmp_path / "s") as view:
        retained = sorted(view.retained(), key=lambda f: f.unit)
    with vehicle(tmp_path / "s", NEW) as spool:
        migrated = spool.ladder()
    with vehicle(tmp_path / "fresh", NEW) as spool:
        ladder = spool.ladder()
        for stored in retained:
            ladder.number_next(stored.unit)
            ladder.learn(ladder.score(encode_in(NEW)(picture(stored.frame_index).image)))
    assert repr(migrated.snapshot()) == repr(ladder.snapshot())
    assert migrated.deaths == ladder.deaths


def test_the_old_memory_is_found_again_when_the_old_bundle_comes_back(tmp_path):
    drive(tmp_path / "s", OLD, range(FRAMES))
    old, old_bytes = read_memory(memory_path(tmp_path / "s", OLD)), memory_path(tmp_path / "s", OLD).read_bytes()
    with vehicle(tmp_path / "s", NEW):
        pass
    new = read_memory(memory_path(tmp_path / "s", NEW))
    assert [entry.id for entry in new.entries] == [entry.id for entry in old.entries]
    assert {entry.rows.shape[1] for entry in new.entries} == {DIM[NEW]}
    with vehicle(tmp_path / "s", OLD) as spool:
        ladder = spool.ladder()
    assert memory_path(tmp_path / "s", OLD).read_bytes() == old_bytes
    assert ladder.score(encode_in(OLD)(picture(int(old.entries[0].id.rpartition("#")[2])).image)).novelty == 0.0
    assert listed(tmp_path / "s")[1] == OLD


def test_dying_at_any_operation_of_a_migration_leaves_the_old_spool_or_the_new_one(tmp_path, monkeypatch):
    drive(tmp_path / "old", OLD, range(FRAMES))
    shutil.copytree(tmp_path / "old", tmp_path / "whole")
    with vehicle(tmp_path / "whole", NEW):
        pass
    expected = listed(tmp_path / "whole")
    shutil.copytree(tmp_path / "old", tmp_path / "counted")
    with dying_disk(monkeypatch) as disk, vehicle(tmp_path / "counted", NEW):
        pass
    for at in range(disk.count):
        path = tmp_path / "s"
        shutil.copytree(tmp_path / "old", path)
        with dying_disk(monkeypatch, at), pytest.raises(Died), vehicle(path, NEW):
            pass
        assert listed(path)[1] in (OLD, NEW)
        with vehicle(path, NEW):
            pass
        lines, space, _, clusters = listed(path)
        assert (lines, space) == expected[:2], f"died before operation {at} of {disk.count}"
        assert {unit: rows.tobytes() for unit, rows in clusters.items()} == {
            unit: rows.tobytes() for unit, rows in expected[3].items()
        }
        assert memory_path(path, OLD).read_bytes() == memory_path(tmp_path / "old", OLD).read_bytes()
        shutil.rmtree(path)


def test_after_a_migration_the_round_certifies_nothing_since_most_frames_were_never_seen_by_the_new_bundle(tmp_path):
    drive(tmp_path / "s", OLD, range(FRAMES), trips=())
    with open_view(tmp_path / "s") as view:
        assert view.certificate().radius is not None
    with vehicle(tmp_path / "s", NEW) as spool:
        assert Rounds(spool, Clock()).certificate().radius is None
    with open_view(tmp_path / "s") as view:
        assert view.certificate().radius is None
        assert all(frame.cover_radius is None for frame in view.retained())
    drive(tmp_path / "s", NEW, range(FRAMES, 2 * FRAMES), trips=(FRAMES + 2,))
    with open_view(tmp_path / "s") as view:
        assert view.certificate().radius is not None  # the next round has seen all of its frames


def test_other_settings_are_refused_before_anything_is_taken_over(tmp_path):
    drive(tmp_path / "s", OLD, range(FRAMES))
    for change in ({"budget": 4}, {"guard": "pixels"}, {"group_s": 0.1}, {"release": "paced", "length_s": 9.0}):
        base = {"feature_space": NEW, "bundle": "sha256:" + "b" * 64, "release": "round_end"}
        with pytest.raises(SpoolMismatch), Spool(tmp_path / "s", settings(**{**base, **change}), encode=encode_in(NEW)):
            pass
        assert listed(tmp_path / "s")[1] == OLD


def test_another_bundle_of_the_same_space_goes_on_with_an_event(tmp_path):
    drive(tmp_path / "s", OLD, range(FRAMES))
    before, _, _, _ = listed(tmp_path / "s")
    wanted = settings(feature_space=OLD, bundle="sha256:" + "c" * 64, release="round_end")
    with Spool(tmp_path / "s", wanted, encode=encode_in(OLD), monotonic=Clock()):
        pass
    after, _, events, _ = listed(tmp_path / "s")
    assert after == before
    assert [event["now"] for event in events if event["name"] == "bundle_changed"] == [wanted.bundle]
    with open_view(tmp_path / "s") as view:
        assert view.meta["bundle"] == wanted.bundle


def test_a_retained_frame_that_cannot_be_read_any_more_is_evicted_and_a_released_one_stops_the_change(tmp_path):
    drive(tmp_path / "s", OLD, range(FRAMES))
    lines, _, _, _ = listed(tmp_path / "s")
    of = {line["state"]: line for line in lines}
    (tmp_path / "s" / of["selected"]["file"]).write_bytes(b"not a picture")
    with vehicle(tmp_path / "s", NEW):
        pass
    after, _, _, _ = listed(tmp_path / "s")
    assert of["selected"]["id"] not in {line["id"] for line in after}
    (tmp_path / "s" / of["released"]["file"]).write_bytes(b"not a picture")
    with pytest.raises(SpoolDamaged, match="old bundle until it is sent"), vehicle(tmp_path / "s", OLD):
        pass


def test_a_spool_of_recorded_sources_is_not_taken_over(tmp_path):
    drive(tmp_path / "s", OLD, range(5))
    with pytest.raises(FeatureSpaceMismatch), Spool(tmp_path / "s", settings(feature_space=NEW)):
        pass


def test_a_frame_that_the_new_bundle_cannot_judge_is_as_good_as_unreadable(tmp_path):
    drive(tmp_path / "s", OLD, range(FRAMES), trips=())

    def refuse(_):
        raise FrameError("degenerate", "nothing in it")

    wanted = settings(feature_space=NEW, bundle="sha256:" + "b" * 64, release="round_end")
    with Spool(tmp_path / "s", wanted, encode=refuse, monotonic=Clock()):
        pass
    lines, space, _, _ = listed(tmp_path / "s")
    assert (lines, space) == ([], NEW)


def test_what_was_released_and_expired_counts_under_a_new_bundle_and_proves_nothing_there(tmp_path):
    """Levels of the old space that held it would let a level of the new one die of too few."""
    path, now = tmp_path / "s", Vehicle()
    disk = DiskConfig(max_age_days=7.0, min_free_bytes=0)
    drive(path, OLD, range(8), trips=())
    with vehicle(path, OLD, disk=disk, now=now) as spool:
        release = spool.ladder().release(2)
        spool.release(release)
    now.on(8 * DAY_S)
    with vehicle(path, OLD, disk=disk, now=now) as spool:
        assert spool.ladder().released == release.units
    with vehicle(path, NEW) as spool:
        ladder = spool.ladder()
        assert (ladder.released, ladder.room) == (release.units, 1)
        assert not ladder._released_counts.any()
    listed(path)


def test_a_spool_of_an_earlier_version_is_taken_over_though_it_has_no_table_for_what_lies_beside_a_unit(tmp_path):
    drive(tmp_path / "s", OLD, range(8), trips=())
    make_old(tmp_path / "s")
    with open_view(tmp_path / "s") as view:
        view.retained()[-1].file.write_bytes(b"no picture")  # it is evicted
    with vehicle(tmp_path / "s", NEW):
        pass
    assert listed(tmp_path / "s")[1] == NEW
