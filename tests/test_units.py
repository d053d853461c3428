"""Several cameras of one instant as one unit (`--group`), from the cut to what people read of it."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from geal_edge.cli.app import app
from geal_edge.config import SelectionConfig
from geal_edge.errors import FrameError, Interrupted, SpoolMismatch, UsageError
from geal_edge.runtime import pipeline, pool
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.extract import FORMATS, extract
from geal_edge.runtime.features import Features
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pipeline import clusters_of
from geal_edge.runtime.report import write_report
from geal_edge.runtime.selection import read_selection
from geal_edge.runtime.sources import Source, open_source
from geal_edge.runtime.sources.bags import BagSource
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.units import JudgedFrame, JudgedUnit, recorded_at, tolerance_ns, units
from tests.fakes import Clock, Died, MemorySource, StopAfter, dying_disk, frame, judge_unit
from tests.recordings import PERIOD_NS, START_NS, Said, compressed, write_mcap
from tests.streams import adversarial_stream, random_stream
from tests.test_spool import settings

CAMERAS = ("/cam_front", "/cam_left", "/cam_right")
GROUP_S = 0.02
SKEW_NS = 5_000_000
"""Between two cameras of one instant."""


def instant(number: int, cameras=CAMERAS) -> list[Said]:
    """The cameras of one instant, one after the other; each sees something of its own."""
    messages = []
    for camera in cameras:
        skew_ns = CAMERAS.index(camera) * SKEW_NS
        said = compressed(3 * number + CAMERAS.index(camera), topic=camera, stamp_ns=at(number) + skew_ns)
        messages.append(Said(topic=camera, time_ns=at(number) + skew_ns, content=said.content, type=said.type))
    return messages


def at(number: int) -> int:
    return START_NS + number * PERIOD_NS


def bad(number: int, camera: str) -> Said:
    """A message whose picture was cut off."""
    skew_ns = CAMERAS.index(camera) * SKEW_NS
    said = compressed(number, topic=camera, stamp_ns=at(number) + skew_ns, data=b"\xff\xd8\xff\xe0 cut")
    return Said(topic=camera, time_ns=at(number) + skew_ns, content=said.content, type=said.type)


def three_cameras(path: Path, instants: int = 12) -> Path:
    """A drive on which a camera is missing now and then, a picture is broken, and all of one instant are."""
    messages: list[Said] = []
    for number in range(instants):
        if number == 2:
            messages += instant(number, CAMERAS[1:])
        elif number == 3:
            messages += [*instant(number, CAMERAS[:1]), bad(number, CAMERAS[1]), *instant(number, CAMERAS[2:])]
        elif number == 5:
            messages += [bad(number, camera) for camera in CAMERAS]
        else:
            messages += instant(number)
    return write_mcap(path, messages)


SEEN, LOST = 12 * 3 - 1, 4


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_cameras(tmp_path_factory.mktemp("drive") / "drive.mcap")


def grouped(path: Path, **more) -> Source:
    return open_source(str(path), group_s=GROUP_S, **more)


def run(source: Source, encoder, spool: Path, budget=3, group_s=GROUP_S, **more):
    return pipeline.run(
        [source], encoder=encoder, spool_path=spool, budget=budget, group_s=group_s, watch=Silent(), **more
    )


def outcome(spool: Path):
    """All that a spool says, apart from wall times."""
    with open_view(spool) as view:
        assert view.check() == []
        lines = list(view.list_lines(retained=True))
        return lines, view.counts(), view.units(), view.certificate(), view.timeline.buckets


def cut(*places: tuple[str | None, int | None], group_s=GROUP_S) -> list[str]:
    """The units of frames of these topics and milliseconds, in letters."""
    items = [
        LostFrame(
            id=f"d#{n}",
            source="d",
            frame_index=n,
            capture_time_ns=None if ms is None else ms * 1_000_000,
            reason="r",
            detail="d",
            topic=topic,
        )
        for n, (topic, ms) in enumerate(places)
    ]
    return ["".join(str(item.topic) for item in unit.frames) for unit in units(items, group_s)]


# -- the cut -----------------------------------------------------------------------------------------------------------


def test_frames_within_the_tolerance_of_the_first_are_one_unit():
    assert cut(("a", 0), ("b", 20), ("c", 21), ("a", 100)) == ["ab", "c", "a"]


def test_a_unit_has_at_most_one_frame_of_each_topic():
    assert cut(("a", 0), ("b", 1), ("a", 2), ("b", 3)) == ["ab", "ab"]


def test_the_clocks_of_cameras_may_run_before_that_of_the_first():
    assert cut(("a", 10), ("b", 0), ("c", 25), ("d", 40)) == ["abc", "d"]


def test_a_frame_that_was_logged_after_the_next_instant_had_begun_stands_alone():
    assert cut(("a", 0), ("a", 100), ("b", 0), ("b", 100)) == ["a", "a", "b", "b"]


def test_without_a_tolerance_every_frame_is_a_unit_and_none_waits_for_the_next():
    assert cut(("a", 0), ("b", 0), group_s=None) == ["a", "b"]
    endless = (
        LostFrame(id=f"d#{n}", source="d", frame_index=n, capture_time_ns=0, reason="r", detail="d") for n in count()
    )
    with closing(endless):
        next(units(endless))
        assert next(endless).frame_index == 1


def test_what_has_no_topic_or_no_time_is_a_unit_of_its_own():
    assert cut(("a", 0), (None, None), ("b", 0), ("c", None), ("d", 0)) == ["a", "None", "b", "c", "d"]


def test_behind_any_unit_the_rest_is_cut_as_if_nothing_had_been_before(drive):
    items = list(grouped(drive).frames())
    whole = list(units(items, GROUP_S))
    for n, unit in enumerate(whole, start=1):
        assert list(units(grouped(drive).frames(after=unit.frames[-1].frame_index), GROUP_S)).__repr__() == repr(
            whole[n:]
        )


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), float("inf")])
def test_a_tolerance_that_is_no_length_of_time_is_refused(drive, seconds):
    with pytest.raises(UsageError, match="--group"):
        open_source(str(drive), group_s=seconds)


def test_topic_and_time_stand_in_the_id_of_every_frame_of_a_recording(drive):
    for item in grouped(drive).frames():
        assert recorded_at(item.id, item.source) == (item.topic, item.capture_time_ns)


# -- the source --------------------------------------------------------------------------------------------------------


def test_with_a_group_no_topics_are_all_image_topics_and_the_spec_opens_them_again(drive):
    source = grouped(drive)
    assert isinstance(source, BagSource)
    assert source.topics == CAMERAS
    again = open_source(source.spec)
    assert [f.id for f in again.frames()] == [f.id for f in source.frames()]
    assert again.fingerprint() == source.fingerprint()


def test_a_group_is_for_recordings_with_topics():
    with pytest.raises(UsageError, match="recorded ROS data"):
        open_source("drawn:1:5", group_s=0.02)


def test_a_rate_takes_whole_instants(drive):
    source = grouped(drive, fps=5)
    taken = list(units(source.frames(), GROUP_S))
    every_second = list(units(grouped(drive).frames(), GROUP_S))[::2]
    assert repr(taken) == repr(every_second)
    assert source.frame_count == sum(len(unit.frames) for unit in taken)
    assert source.fingerprint() != grouped(drive).fingerprint()


# -- run ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(drive, tiny_bundle, tmp_path_factory):
    """A spool of three units; some were evicted on the way."""
    spool = tmp_path_factory.mktemp("filled") / "spool"
    with Encoder(tiny_bundle, OrtCpu(tiny_bundle.graph, threads=1)) as encoder:
        run(grouped(drive), encoder, spool)
    return spool


def test_every_frame_counts_once_and_the_budget_counts_units(filled):
    lines, (counts, lost), in_units, _, _ = outcome(filled)
    assert counts["seen"] == SEEN
    assert lost == {"truncated": LOST}
    assert LOST + counts["not_new"] + counts["retained"] + counts["evicted"] == SEEN
    assert counts["evicted"] > 0
    assert in_units["selected"] == 3
    assert counts["selected"] == sum(line["order"] is not None for line in lines) > 3
    assert counts["retained"] == len(lines) == len(list((filled / "frames").iterdir()))


def test_the_frames_of_a_unit_share_all_but_the_witness(filled):
    lines, *_ = outcome(filled)
    by_unit: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_unit.setdefault(line["unit"], []).append(line)
    for id_, frames in by_unit.items():
        assert frames[0]["id"] == id_
        for shared in ("order", "distance", "cover_radius", "novelty", "radius"):
            assert len({frame[shared] for frame in frames}) == 1
        times = [frame["capture_time_ns"] for frame in frames]
        assert max(times) - min(times) <= GROUP_S * 1e9
        with_witness = [frame for frame in frames if frame["witness"]["patches"]]
        assert len(with_witness) == (0 if frames[0]["novelty"] is None and frames[0]["order"] in (None, 1) else 1)
        stem = Path(frames[0]["file"]).stem
        assert [Path(f["file"]).stem for f in frames] == [stem] + [f"{stem}-{n}" for n in range(1, len(frames))]


def test_the_certificate_holds_for_every_frame_of_every_unit(filled, drive, encoder):
    with open_view(filled) as view:
        chosen = {frame.unit for frame in view.selected()}
        rows = np.concatenate([unit.rows for unit in view.ladder().snapshot() if unit.unit in chosen]).astype(float)
        radius = view.certificate().radius or 0.0
    seen = [clusters_of(f, encoder).rows for f in grouped(drive).frames() if isinstance(f, Frame)]
    nearest = np.sqrt(np.maximum(0, 2 - 2 * np.concatenate(seen).astype(float) @ rows.T)).min(axis=1)
    assert nearest.max() <= radius + 1e-3


def test_one_broken_camera_does_not_lose_the_others_of_its_instant(drive, encoder):
    judged = [judge_unit(unit, encoder) for unit in units(grouped(drive).frames(), GROUP_S)]
    sizes = [(len(unit.frames), len(unit.lost)) for unit in judged]
    assert sizes == [(3, 0), (3, 0), (2, 0), (2, 1), (3, 0), (0, 3), *[(3, 0)] * 6]


def test_stopped_after_any_unit_and_started_again_it_selects_what_one_run_selects(filled, drive, encoder, tmp_path):
    for n in (3, 5, 6):
        with pytest.raises(Interrupted):
            run(grouped(drive), encoder, tmp_path / str(n), stop=StopAfter(n))
        run(grouped(drive), encoder, tmp_path / str(n))
        assert outcome(tmp_path / str(n)) == outcome(filled)


def drawn_units(source: MemorySource, stream: list[KnowledgeClusters], after: int) -> Iterator[JudgedUnit]:
    """The units of a source behind `after`, each frame with the clusters of its index; every seventh frame is lost."""
    for unit in units(source.frames(after=after), GROUP_S):
        frames = [f for f in unit.frames if isinstance(f, Frame)]
        yield JudgedUnit(
            frames=tuple(JudgedFrame(frame=f, clusters=stream[f.frame_index]) for f in frames if f.frame_index % 7),
            lost=tuple((f, FrameError("empty", "zero bytes")) for f in frames if f.frame_index % 7 == 0),
        )


def fill(path: Path, stream: list[KnowledgeClusters]) -> None:
    """Two cameras, at times only one: what run does, without a model."""
    items: list[Frame | LostFrame] = [
        replace(frame(i), topic="/left" if i % 2 else "/right", capture_time_ns=(i + i // 5) // 2 * PERIOD_NS)
        for i in range(len(stream))
    ]
    source = MemorySource(items)
    with Spool(path, settings(budget=2, group_s=GROUP_S), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        for unit in drawn_units(source, stream, after=spool.begin_source(source).cursor):
            if unit.frames:
                decision = ladder.score(unit.clusters)
                spool.append(unit, decision)
                ladder.learn(decision)
            else:
                spool.pass_over(unit)


def test_dying_at_any_operation_and_going_on_gives_the_uninterrupted_result(tmp_path, monkeypatch):
    """Every operation behind the opening: several files a unit, evictions, deaths of levels."""
    stream = adversarial_stream(1, 10)
    fill(tmp_path / "whole", stream)
    expected = outcome(tmp_path / "whole")
    lines, (counts, _), in_units, _, _ = expected
    assert counts["evicted"] > 1
    assert len(lines) > in_units["retained"]
    with dying_disk(monkeypatch) as opening:
        fill(tmp_path / "empty", [])
    with dying_disk(monkeypatch) as disk:
        fill(tmp_path / "counted", stream)
    spool = tmp_path / "spool"
    for at_operation in range(opening.count, disk.count):
        with dying_disk(monkeypatch, at_operation), pytest.raises(Died):
            fill(spool, stream)
        fill(spool, stream)
        assert outcome(spool) == expected, f"died before operation {at_operation} of {disk.count}"
        shutil.rmtree(spool)


def test_a_run_that_died_here_and_there_selects_what_one_run_selects(filled, drive, encoder, tmp_path, monkeypatch):
    with dying_disk(monkeypatch) as disk:
        run(grouped(drive), encoder, tmp_path / "counted")
    for at_operation in range(60, disk.count, 45):
        with dying_disk(monkeypatch, at_operation), pytest.raises(Died):
            run(grouped(drive), encoder, tmp_path / str(at_operation))
        run(grouped(drive), encoder, tmp_path / str(at_operation))
        assert outcome(tmp_path / str(at_operation)) == outcome(filled)


def test_clusters_of_several_frames_are_told_apart_again_when_the_ladder_is_restored(tmp_path):
    fill(tmp_path / "s", random_stream(3, 30))
    with open_view(tmp_path / "s") as view:
        for unit in view.ladder().snapshot():
            frames = [frame for frame in view.retained() if frame.unit == unit.unit]
            assert [n for frame in frames for n in frame.clusters] == list(range(len(unit.rows)))
            assert all(max(frame.patch_cluster) < len(frame.clusters) for frame in frames)


def test_a_spool_refuses_another_group_than_it_was_filled_with(filled, drive, encoder, tmp_path):
    for other in (None, 0.05):
        with pytest.raises(SpoolMismatch, match=r"--group 0\.02"):
            run(grouped(drive), encoder, filled, group_s=other)
    run(open_source(str(drive), topics=["/cam_front"]), encoder, tmp_path / "s", group_s=None)
    with pytest.raises(SpoolMismatch, match="no --group"):
        run(grouped(drive), encoder, tmp_path / "s")


def test_status_says_units_and_frames(filled):
    told = json.loads(CliRunner().invoke(app, ["status", str(filled), "--json"]).stdout)
    assert told["budget"][0]["unit"] == "units"
    assert told["units"]["selected"] == 3
    assert told["group_s"] == GROUP_S
    for_people = CliRunner().invoke(app, ["status", str(filled)]).stdout
    assert "3 of 3 units selected" in for_people
    assert f"{told['frames']['selected']} frames in them" in for_people


# -- select ------------------------------------------------------------------------------------------------------------


def picked(sources, encoder, budget=3, group_s=GROUP_S, **more):
    """The picks file's form of a selection."""
    selection = pool.select(sources, encoder=encoder, budget=budget, group_s=group_s, watch=Silent(), **more)
    return pool.picks_json(selection, sources, encoder.bundle, budget=budget, seed=0)


def units_in(picks: dict[str, Any]) -> list[list[str]]:
    """Ids of the picked frames, unit by unit in their order."""
    return [[p["id"] for p in of] for _, of in groupby(picks["picks"], key=lambda p: (p["order"], p["unit"]))]


def test_a_pool_is_cut_into_the_units_that_a_run_judges(drive, encoder):
    judged = [judge_unit(unit, encoder) for unit in units(grouped(drive).frames(), GROUP_S)]
    of_run = [[f.frame.id for f in unit.frames] for unit in judged if unit.frames]
    assert sorted(units_in(picked([grouped(drive)], encoder, budget=99))) == sorted(of_run)


def test_the_frames_of_a_picked_unit_share_order_unit_and_distance_and_one_has_the_witness(drive, encoder):
    picks = picked([grouped(drive)], encoder)
    assert picks["group_s"] == GROUP_S
    assert picks["units"] == {"judged": 11, "selected": 3}
    assert picks["frames"]["selected"] == len(picks["picks"]) > 3
    for order in (1, 2, 3):
        frames = [p for p in picks["picks"] if p["order"] == order]
        assert {p["unit"] for p in frames} == {frames[0]["id"]}
        assert len({p["distance"] for p in frames}) == 1
        with_witness = [p for p in frames if p["witness"]["patches"]]
        assert len(with_witness) == (order > 1)
        for p in frames:
            distances, patches = p["clusters"]["distances"], p["clusters"]["patches"]
            assert len(distances) in (0, max(patches) + 1)
            assert not p["witness"]["patches"] or max(distances) == pytest.approx(p["distance"], abs=1e-4)


def test_without_a_group_a_selection_says_nothing_of_units(drive, encoder):
    source = open_source(str(drive), topics=["/cam_*"])
    picks = picked([source], encoder, group_s=None)
    assert "units" not in picks
    assert "group_s" not in picks
    assert [p["unit"] for p in picks["picks"]] == [p["id"] for p in picks["picks"]]


def test_stored_features_are_grouped_when_they_are_read(drive, encoder, tmp_path):
    wanted = picked([grouped(drive)], encoder)
    for sources in ([open_source(str(drive), topics=["/cam_*"])], [grouped(drive)], []):
        with Features(tmp_path / "f", encoder.bundle.manifest, writable=True) as features:
            assert picked(sources, encoder, features=features)["picks"] == wanted["picks"]


def test_stored_features_of_what_has_no_topics_form_no_units(encoder, tmp_path):
    with Features(tmp_path / "f", encoder.bundle.manifest, writable=True) as features:
        picked([open_source("drawn:1:3")], encoder, group_s=None, features=features)
        with pytest.raises(UsageError, match="recorded ROS data"):
            picked([], encoder, features=features)


def test_any_frame_of_a_unit_may_be_the_first(drive, encoder):
    unit = units_in(picked([grouped(drive)], encoder, budget=99))[4]
    for id_ in unit:
        assert units_in(picked([grouped(drive)], encoder, first=id_))[0] == unit


def test_known_frames_are_not_picked_again_while_the_rest_of_their_unit_may_be(drive, encoder, tmp_path):
    front = picked([open_source(str(drive), topics=["/cam_front"])], encoder, budget=99, group_s=None)
    pool.write_picks(tmp_path / "front.json", front)
    picks = picked([grouped(drive)], encoder, budget=99, known=[tmp_path / "front.json"])
    assert picks["frames"]["known"] == front["frames"]["selected"]
    assert {p["id"].split("#")[1].split("@")[0] for p in picks["picks"]} == set(CAMERAS[1:])
    assert all(p["unit"] in {q["id"] for q in picks["picks"]} for p in picks["picks"])


def test_a_spool_of_units_is_known_frame_by_frame(filled, drive, encoder):
    lines, *_ = outcome(filled)
    selected = {line["id"] for line in lines if line["order"] is not None}
    picks = picked([grouped(drive)], encoder, budget=99, known=[filled])
    assert picks["frames"]["known"] == len(selected)
    assert not selected & {p["id"] for p in picks["picks"]}


@pytest.mark.parametrize("strategy", ["random", "uniform", "every-nth", "coreset-cosine", "coreset-euclidean"])
def test_baselines_pick_whole_units(drive, encoder, strategy):
    whole = units_in(picked([grouped(drive)], encoder, budget=99))
    of_baseline = units_in(picked([grouped(drive)], encoder, config=SelectionConfig(strategy=strategy)))
    assert len(of_baseline) == 3
    assert all(unit in whole for unit in of_baseline)


# -- what is made of it ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picks_of_units(drive, tiny_bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("picks") / "picks.json"
    with Encoder(tiny_bundle, OrtCpu(tiny_bundle.graph, threads=1)) as encoder:
        pool.write_picks(path, picked([grouped(drive, fps=5)], encoder))
    return path


@pytest.mark.parametrize("format_name", [*FORMATS, "mcap"])
def test_every_frame_of_every_unit_is_extracted(filled, picks_of_units, tmp_path, format_name):
    for n, source in enumerate((filled, picks_of_units)):
        selection = read_selection(source)
        assert [f.number for f in selection.frames] == list(range(1, len(selection.frames) + 1))
        summary = extract(source, tmp_path / str(n), format_name=format_name)
        assert (summary.frames, summary.left_out) == (len(selection.frames), ())
        lines = [json.loads(line) for line in (tmp_path / str(n) / "frames.jsonl").read_text().splitlines()]
        assert [(line["order"], line["id"]) for line in lines] == [(f.order, f.id) for f in selection.frames]
        assert {line["order"] for line in lines} == {1, 2, 3}
        if format_name != "mcap":
            assert len({line["file"] for line in lines}) == len(lines)
        if format_name == "coco":
            images = json.loads((tmp_path / str(n) / "annotations.json").read_text())["images"]
            assert len({image["id"] for image in images}) == len(lines)


def test_the_report_shows_every_frame_at_a_place_of_its_own_and_marks_each_unit_once(filled, picks_of_units, tmp_path):
    for source in (filled, picks_of_units):
        frames = read_selection(source).frames
        write_report(source, tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text()
        anchors = re.findall(r'id="(frame-[\d-]+)"', page)
        assert len(set(anchors)) == len(anchors) == len(frames)
        links = re.findall(r'href="#(frame-[\d-]+)"', page)
        assert links
        assert set(links) <= {"frame-1", "frame-2", "frame-3"}
        assert "budget of 3 units" in page
        assert "No picture" not in page


def test_on_the_command_line_a_group_is_a_number_of_seconds(drive, tiny_bundle, tmp_path):
    words = [str(drive), "--group", "0.02", "-b", str(tiny_bundle.path)]
    done = CliRunner().invoke(app, ["run", *words, "-s", str(tmp_path / "spool"), "--budget", "2"])
    assert done.exit_code == 0, done.output
    assert "budget 2 units" in done.stdout
    done = CliRunner().invoke(app, ["select", *words, "-n", "2", "-o", str(tmp_path / "picks.json")])
    assert done.exit_code == 0, done.output
    assert "in 2 units" in done.stdout


@pytest.mark.parametrize("group_s", [-0.1, 1e300, float("nan"), float("inf")])
def test_a_senseless_tolerance_is_refused(group_s):
    with pytest.raises(UsageError, match="from 0 to 3600"):
        tolerance_ns(group_s)
