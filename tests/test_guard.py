import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pictures

from benchmarks.faults import FAULTS
from geal_edge.config import GuardKind, SelectionConfig
from geal_edge.errors import FrameGated, Interrupted, SpoolMismatch, UsageError
from geal_edge.runtime import pipeline, pool
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.features import Features
from geal_edge.runtime.frame import Image, usable
from geal_edge.runtime.guard import Guard, guard_after
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.persistence import RHO, WINDOW, only, persists
from geal_edge.runtime.pipeline import clusters_of
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.sources.bags import BagSource
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.units import units
from tests.fakes import Died, MemorySource, StopAfter, dying_disk, judge_unit
from tests.guards import film, street
from tests.recordings import PERIOD_NS, START_NS, compressed, write_mcap
from tests.streams import random_stream

ROW = np.array([[1, 0]], np.float16)
OTHER = np.array([[0, 1]], np.float16)
KINDS: tuple[GuardKind, ...] = ("pixels", "all")


def outcome(path):
    with open_view(path) as view:
        assert view.check() == []
        return list(view.list_lines(retained=True)), view.counts(), view.gated(), view.certificate()


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
    guard, frames = Guard("all"), film([street(i) for i in range(6)])
    told = []
    for frame, rows in zip(frames, (ROW, ROW, OTHER, ROW, np.concatenate([ROW, -OTHER]), -OTHER), strict=True):
        guard.advance(frame)
        guard.before(frame)
        try:
            told.append(guard.counts(frame, rows).tolist())
        except FrameGated as gate:
            told.append(gate.reason)
    assert told == ["fleeting", [True], "fleeting", [True], [True, False], [True]]


def test_a_broken_frame_does_not_unsettle_the_one_behind_it():
    guard, pictures = Guard("all"), [street(0), street(1), np.zeros((180, 320, 3), np.uint8), street(2)]
    told = []
    for frame in film(pictures):
        try:
            guard.advance(frame)
            guard.before(frame)
            told.append(guard.counts(frame, ROW).tolist())
        except FrameGated as gate:
            told.append(gate.reason)
    assert told == ["fleeting", [True], "dark", [True]]
    assert WINDOW == 2


def test_a_picture_that_comes_again_and_again_is_frozen_until_it_moves():
    guard, told = Guard("all"), []
    for frame in film([street(0)] * 6 + [street(1)]):
        try:
            guard.advance(frame)
            guard.before(frame)
            told.append("")
        except FrameGated as gate:
            told.append(gate.reason)
    assert told == ["", "", "", "frozen", "frozen", "frozen", ""]


def test_cameras_of_one_recording_are_guarded_each_by_itself():
    guard = Guard("all")
    left, right = film([street(0), street(1)], topic="/left"), film([street(0), street(1)], topic="/right")
    for frame, rows in ((left[0], ROW), (right[0], OTHER)):
        guard.advance(frame)
        guard.before(frame)
        with pytest.raises(FrameGated, match="fleeting"):
            guard.counts(frame, rows)
    guard.advance(right[1])
    guard.before(right[1])
    with pytest.raises(FrameGated, match="fleeting"):
        guard.counts(right[1], ROW)  # seen by the other camera alone
    guard.advance(left[1])
    guard.before(left[1])
    assert guard.counts(left[1], ROW).all()


def test_the_pixels_alone_gate_what_is_broken_and_let_every_cluster_count(encoder, tiny_bundle):
    gated: dict[GuardKind, dict[str, int]] = {}
    for kind in KINDS:
        selection = pool.select([drive_with_faults()], encoder=encoder, budget=3, guard=kind, watch=Silent())
        told = pool.picks_json(selection, [], tiny_bundle, budget=3, seed=0)
        assert told["guard"] == kind
        gated[kind] = told["gated"]
    fleeting = gated["all"].pop("fleeting")
    assert fleeting > 0
    assert gated["pixels"] == gated["all"]
    pixels = Guard("pixels")
    pixels.before(film([street(0)])[0])
    assert pixels.counts(film([street(0)])[0], np.concatenate([ROW, OTHER])).tolist() == [True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_a_guard_that_is_shown_the_last_frames_again_judges_as_one_that_saw_all(encoder, kind):
    source = drive_with_faults()

    def verdicts(guard, after):
        told = []
        for frame in map(usable, source.frames(after=after)):
            try:
                guard.advance(frame)
                guard.before(frame)
                told.append(guard.counts(frame, clusters_of(frame, encoder).rows).tolist())
            except FrameGated as gate:
                told.append(gate.reason)
        return told

    whole = verdicts(Guard(kind), -1)
    assert {"frozen", "discoloured"} <= {reason for reason in whole if isinstance(reason, str)}
    assert ("fleeting" in whole) is (kind == "all")
    for cursor in (0, 8, 32, 35, 48):
        again = guard_after(source, cursor, kind, lambda frame: clusters_of(frame, encoder))
        assert verdicts(again, cursor) == whole[cursor + 1 :]


def test_a_guarded_run_counts_every_frame_once_and_goes_on_as_if_never_stopped(encoder, tmp_path):
    source = drive_with_faults()

    def run(path, **more):
        pipeline.run([source], encoder=encoder, spool_path=path, budget=5, guard="all", watch=Silent(), **more)

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


GUARDS: tuple[GuardKind | None, ...] = (None, *KINDS)


@pytest.mark.parametrize("guard", GUARDS)
def test_a_spool_is_not_gone_on_with_otherwise_guarded(encoder, tmp_path, guard):
    def run(guard):
        pipeline.run([], encoder=encoder, spool_path=tmp_path / "s", budget=5, guard=guard, watch=Silent())

    run(guard)
    for other in GUARDS:
        if other == guard:
            run(other)
        else:
            with pytest.raises(SpoolMismatch, match=f"now it is .*--guard{f' {other}' if other else ''}"):
                run(other)


def test_a_guarded_selection_picks_no_broken_frame_and_its_file_says_what_was_gated(encoder, tiny_bundle):
    source = drive_with_faults()
    selection = pool.select([source], encoder=encoder, budget=200, guard="all", watch=Silent())
    told = pool.picks_json(selection, [source], tiny_bundle, budget=200, seed=0)
    assert not set(range(8, 50, 9)) & {pick["frame_index"] for pick in told["picks"]}
    frames = told["frames"]
    assert frames["seen"] == 50 == len(told["picks"]) + frames["gated"]
    assert frames["gated"] == sum(told["gated"].values())
    assert told["guard"] == "all"


def test_raw_clusters_are_left_out_with_their_rows(encoder):
    selection = pool.select(
        [drive_with_faults()],
        encoder=encoder,
        budget=3,
        config=SelectionConfig(metric="euclidean"),
        guard="all",
        watch=Silent(),
    )
    assert all(len(frame.rows) == len(frame.clusters.rows) for frame in selection.frames)


def test_a_guard_needs_pictures_and_stored_features_have_none(encoder, tiny_bundle, tmp_path):
    with (
        Features(tmp_path / "f", tiny_bundle.manifest, writable=True) as features,
        pytest.raises(UsageError, match="--features"),
    ):
        pool.select(
            [open_source("drawn:1:5")], encoder=encoder, budget=2, guard="all", features=features, watch=Silent()
        )


# -- several cameras of one instant ------------------------------------------------------------------------------------

LEFT, RIGHT = "/left", "/right"
GROUP_S = 0.02
INSTANTS = 16
DARK = np.zeros((180, 320, 3), np.uint8)
GATED: dict[GuardKind, dict[str, int]] = {
    "pixels": {"dark": 5, "frozen": 2},
    # Of each camera the first frame, and the first behind a stretch in which two in a row were gated.
    "all": {"dark": 5, "frozen": 2, "fleeting": 4},
}


def picture_of(camera: str, instant: int) -> Image | None:
    """Left is dark for a while, right stands still for a while and misses an instant, and of one instant both are dark."""
    if (camera, instant) == (RIGHT, 3):
        return None
    if instant == 13 or (camera == LEFT and instant in (4, 5, 6)):
        return DARK
    if camera == RIGHT and 8 <= instant <= 12:
        return street(108)
    return street(instant + (100 if camera == RIGHT else 0))


@pytest.fixture(scope="module")
def two_cameras(tmp_path_factory) -> Path:
    messages = []
    for instant in range(INSTANTS):
        for camera in (LEFT, RIGHT):
            picture = picture_of(camera, instant)
            if picture is not None:
                file = io.BytesIO()
                Pictures.fromarray(picture).save(file, "PNG")
                time_ns = START_NS + instant * PERIOD_NS
                said = compressed(instant, topic=camera, stamp_ns=time_ns, data=file.getvalue(), format_="png")
                messages.append(said)
    return write_mcap(tmp_path_factory.mktemp("drive") / "drive.mcap", messages)


def run_grouped(drive: Path, encoder, spool: Path, kind: GuardKind, **more) -> None:
    source = open_source(str(drive), group_s=GROUP_S)
    pipeline.run(
        [source], encoder=encoder, spool_path=spool, budget=4, group_s=GROUP_S, guard=kind, watch=Silent(), **more
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_camera_of_a_unit_is_judged_as_if_it_were_alone(two_cameras, encoder, kind):
    guard = Guard(kind)
    grouped: dict[str, str] = {}
    for unit in units(open_source(str(two_cameras), group_s=GROUP_S).frames(), GROUP_S):
        judged = judge_unit(unit, encoder, guard)
        grouped.update({gated.id: gate.reason for gated, gate in judged.gated})
        assert len(judged.frames) + len(judged.gated) == len(unit.frames)
    alone: dict[str, str] = {}
    for camera in (LEFT, RIGHT):
        guard = Guard(kind)
        for unit in units(BagSource(two_cameras, [camera]).frames()):
            alone.update({gated.id: gate.reason for gated, gate in judge_unit(unit, encoder, guard).gated})
    assert grouped == alone
    assert Counter(alone.values()) == GATED[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_guarded_run_of_units_counts_every_frame_once_and_goes_on_as_if_never_stopped(
    two_cameras, encoder, tmp_path, monkeypatch, kind
):
    with dying_disk(monkeypatch) as disk:
        run_grouped(two_cameras, encoder, tmp_path / "whole", kind)
    whole = outcome(tmp_path / "whole")
    lines, (counts, lost), gated, _ = whole
    assert gated == GATED[kind]
    assert lost == {}
    assert counts["seen"] == 2 * INSTANTS - 1
    assert counts["gated"] + counts["not_new"] + counts["retained"] + counts["evicted"] == counts["seen"]
    assert counts["retained"] == len(lines)
    for n in (6, 14):
        with pytest.raises(Interrupted):
            run_grouped(two_cameras, encoder, tmp_path / str(n), kind, stop=StopAfter(n))
        run_grouped(two_cameras, encoder, tmp_path / str(n), kind)
        assert outcome(tmp_path / str(n)) == whole
    for at_operation in range(60, disk.count, 90):
        with dying_disk(monkeypatch, at_operation), pytest.raises(Died):
            run_grouped(two_cameras, encoder, tmp_path / f"died-{at_operation}", kind)
        run_grouped(two_cameras, encoder, tmp_path / f"died-{at_operation}", kind)
        assert outcome(tmp_path / f"died-{at_operation}") == whole


def test_a_camera_in_the_dark_is_one_event_while_the_other_is_judged(two_cameras, encoder, tmp_path):
    run_grouped(two_cameras, encoder, tmp_path / "s", "pixels")
    with open_view(tmp_path / "s") as view:
        told = [
            (event["id"].split("@")[0], event["reason"]) for event in view.events() if event["name"] == "frames_gated"
        ]
    left, right = f"{two_cameras.name}#{LEFT}", f"{two_cameras.name}#{RIGHT}"
    assert sorted(told) == [(left, "dark"), (left, "dark"), (right, "dark"), (right, "frozen")]


def test_a_guarded_pool_has_the_units_that_a_guarded_run_judges(two_cameras, encoder, tiny_bundle):
    source = open_source(str(two_cameras), group_s=GROUP_S)
    guard = Guard("all")
    judged = [judge_unit(unit, encoder, guard) for unit in units(source.frames(), GROUP_S)]
    selection = pool.select(
        [source], encoder=encoder, budget=2 * INSTANTS, group_s=GROUP_S, guard="all", watch=Silent()
    )
    assert [[selection.frames[i].id for i in unit] for unit in selection.units] == [
        [seen.frame.id for seen in unit.frames] for unit in judged if unit.frames
    ]
    told = pool.picks_json(selection, [source], tiny_bundle, budget=2 * INSTANTS, seed=0)
    assert told["frames"]["seen"] == 2 * INSTANTS - 1 == len(told["picks"]) + told["frames"]["gated"]
    assert told["gated"] == GATED["all"]
