from dataclasses import replace

import numpy as np
import pytest

from benchmarks.faults import FAULTS
from geal_edge.config import SelectionConfig
from geal_edge.errors import FrameGated, Interrupted, SpoolMismatch, UsageError
from geal_edge.runtime import pipeline, pool
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.features import Features
from geal_edge.runtime.frame import usable
from geal_edge.runtime.guard import Guard, guard_after
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.persistence import RHO, WINDOW, only, persists
from geal_edge.runtime.pipeline import clusters_of
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spoolview import open_view
from tests.fakes import MemorySource
from tests.guards import film, street
from tests.streams import random_stream
from tests.test_pipeline import StopAfter

ROW = np.array([[1, 0]], np.float16)
OTHER = np.array([[0, 1]], np.float16)


def outcome(path):
    with open_view(path) as view:
        assert view.check() == []
        return list(view.list_lines()), view.counts(), view.gated(), view.certificate()


def drive_with_faults() -> MemorySource:
    """A drawn drive of which every ninth frame is broken, and one stands still."""
    frames = [usable(item) for item in open_source("drawn:1:50").frames()]
    rng = np.random.default_rng(0)
    for i in range(8, 50, 9):
        kind = list(FAULTS.values())[i % len(FAULTS)]
        frames[i] = replace(frames[i], image=kind(frames[i].image, rng))
    for i in range(30, 36):
        frames[i] = replace(frames[i], image=frames[30].image)
    return MemorySource(list(frames), name=frames[0].source)


@pytest.mark.parametrize("seed", range(5))
def test_a_cluster_persists_where_the_frames_before_have_a_near_one(seed):
    units = [unit.rows.astype(float) for unit in random_stream(seed, 3)]
    expected = [min(np.linalg.norm(row - other) for u in units[1:] for other in u) <= RHO for row in units[0]]
    assert persists(units[0].astype(np.float16), [u.astype(np.float16) for u in units[1:]]).tolist() == expected


def test_what_counts_is_what_a_patch_map_still_names():
    whole = KnowledgeClusters(rows=np.eye(4, dtype=np.float16), patch_cluster=np.array([3, 0, -1, 1, 2, 3], np.int16))
    left = only(whole, np.array([False, True, False, True]))
    assert left.rows.tolist() == whole.rows[[1, 3]].tolist()
    assert [left.patches_of(cluster) for cluster in range(2)] == [whole.patches_of(1), whole.patches_of(3)]
    assert only(whole, np.ones(4, bool)) is whole


def test_an_object_counts_from_its_second_frame_on_and_a_flash_never_does():
    guard, frames = Guard(), film([street(i) for i in range(6)])
    told = []
    for frame, rows in zip(frames, (ROW, ROW, OTHER, ROW, np.concatenate([ROW, -OTHER]), -OTHER), strict=True):
        guard.before(frame)
        try:
            told.append(guard.counts(frame, rows).tolist())
        except FrameGated as gate:
            told.append(gate.reason)
    assert told == ["fleeting", [True], "fleeting", [True], [True, False], [True]]


def test_a_broken_frame_does_not_unsettle_the_one_behind_it():
    guard, pictures = Guard(), [street(0), street(1), np.zeros((180, 320, 3), np.uint8), street(2)]
    told = []
    for frame in film(pictures):
        try:
            guard.before(frame)
            told.append(guard.counts(frame, ROW).tolist())
        except FrameGated as gate:
            told.append(gate.reason)
    assert told == ["fleeting", [True], "dark", [True]]
    assert WINDOW == 2


def test_a_picture_that_comes_again_and_again_is_frozen_until_it_moves():
    guard, told = Guard(), []
    for frame in film([street(0)] * 6 + [street(1)]):
        try:
            guard.before(frame)
            told.append("")
        except FrameGated as gate:
            told.append(gate.reason)
    assert told == ["", "", "", "frozen", "frozen", "frozen", ""]


def test_cameras_of_one_recording_are_guarded_each_by_itself():
    guard = Guard()
    left, right = film([street(0), street(1)], topic="/left"), film([street(0), street(1)], topic="/right")
    for frame, rows in ((left[0], ROW), (right[0], OTHER)):
        guard.before(frame)
        with pytest.raises(FrameGated, match="fleeting"):
            guard.counts(frame, rows)
    guard.before(right[1])
    with pytest.raises(FrameGated, match="fleeting"):
        guard.counts(right[1], ROW)  # seen by the other camera alone
    guard.before(left[1])
    assert guard.counts(left[1], ROW).all()


def test_a_guard_that_is_shown_the_last_frames_again_judges_as_one_that_saw_all(encoder):
    source = drive_with_faults()

    def verdicts(guard, after):
        told = []
        for frame in map(usable, source.frames(after=after)):
            try:
                guard.before(frame)
                told.append(guard.counts(frame, clusters_of(frame, encoder).rows).tolist())
            except FrameGated as gate:
                told.append(gate.reason)
        return told

    whole = verdicts(Guard(), -1)
    assert {"frozen", "fleeting"} < {reason for reason in whole if isinstance(reason, str)}
    for cursor in (0, 8, 32, 35, 48):
        again = guard_after(source, cursor, lambda frame: clusters_of(frame, encoder))
        assert verdicts(again, cursor) == whole[cursor + 1 :]


def test_a_guarded_run_counts_every_frame_once_and_goes_on_as_if_never_stopped(encoder, tmp_path):
    source = drive_with_faults()

    def run(path, **more):
        pipeline.run([source], encoder=encoder, spool_path=path, budget=5, guard=True, watch=Silent(), **more)

    run(tmp_path / "whole")
    for n in (10, 24):
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", stop=StopAfter(n))
    run(tmp_path / "parts")
    listed, (counts, _), gated, certificate = outcome(tmp_path / "whole")
    assert (listed, (counts, {}), gated, certificate) == outcome(tmp_path / "parts")
    assert counts["gated"] == sum(gated.values()) >= 6
    broken = set(range(8, 50, 9))
    assert not broken & {line["frame_index"] for line in listed}
    with open_view(tmp_path / "whole") as view:
        assert {event["reason"] for event in view.events() if event["name"] == "frames_gated"} == set(gated)
        assert view.status()["gated"] == gated


def test_a_spool_is_not_gone_on_with_otherwise_guarded(encoder, tmp_path):
    for guard in (True, False):
        path = tmp_path / str(guard)
        pipeline.run(
            [open_source("drawn:1:5")], encoder=encoder, spool_path=path, budget=5, guard=guard, watch=Silent()
        )
        with pytest.raises(SpoolMismatch, match="--guard"):
            pipeline.run([], encoder=encoder, spool_path=path, budget=5, guard=not guard, watch=Silent())


def test_a_guarded_selection_picks_no_broken_frame_and_its_file_says_what_was_gated(encoder, tiny_bundle):
    source = drive_with_faults()
    selection = pool.select([source], encoder=encoder, budget=200, guard=True, watch=Silent())
    told = pool.picks_json(selection, [source], tiny_bundle, budget=200, seed=0)
    assert not set(range(8, 50, 9)) & {pick["frame_index"] for pick in told["picks"]}
    frames = told["frames"]
    assert frames["seen"] == 50 == len(told["picks"]) + frames["gated"]
    assert frames["gated"] == sum(told["gated"].values())
    assert told["guard"] is True


def test_raw_clusters_are_left_out_with_their_rows(encoder):
    selection = pool.select(
        [drive_with_faults()],
        encoder=encoder,
        budget=3,
        config=SelectionConfig(metric="euclidean"),
        guard=True,
        watch=Silent(),
    )
    assert all(len(frame.rows) == len(frame.clusters.rows) for frame in selection.frames)


def test_a_guard_needs_pictures_and_stored_features_have_none(encoder, tiny_bundle, tmp_path):
    with (
        Features(tmp_path / "f", tiny_bundle.manifest, writable=True) as features,
        pytest.raises(UsageError, match="--features"),
    ):
        pool.select(
            [open_source("drawn:1:5")], encoder=encoder, budget=2, guard=True, features=features, watch=Silent()
        )
