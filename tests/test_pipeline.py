from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from geal_edge.errors import FrameError, Interrupted, SourceClash, SpoolMismatch, UsageError
from geal_edge.runtime import pipeline
from geal_edge.runtime.clusters import knowledge_clusters
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.frame import LostFrame, usable
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pipeline import clusters_of
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spoolview import open_view
from tests.fakes import MemorySource, StopAfter, frame

DRIVE = "drawn:1:120"


def run(sources, encoder, path, budget=6, **more):
    return pipeline.run(sources, encoder=encoder, spool_path=path, budget=budget, watch=Silent(), **more)


def outcome(path):
    with open_view(path) as view:
        lines = list(view.list_lines())
        assert view.check() == []
        return [(line["id"], line["order"], line["distance"]) for line in lines], view.counts(), view.certificate()


def test_a_drawn_drive_ends_in_a_sound_spool_within_its_budget(encoder, tmp_path):
    result = run([open_source(DRIVE)], encoder, tmp_path / "s")
    listed, (counts, _), certificate = outcome(tmp_path / "s")
    assert result.finished == (open_source(DRIVE).name,)
    assert counts["seen"] == 120
    assert len(listed) == counts["selected"] == 6
    assert certificate.radius is not None


def test_the_certificate_and_the_radius_of_every_prefix_hold_for_everything_the_pipeline_saw(encoder, tmp_path):
    drive = open_source(DRIVE)
    run([drive], encoder, tmp_path / "s")
    with open_view(tmp_path / "s") as view:
        selected = {f.unit for f in view.selected()}
        rows = np.concatenate([u.rows for u in view.ladder().snapshot() if u.unit in selected])
        radius = view.certificate().radius
        prefixes = [(frame.unit, frame.cover_radius) for frame in view.selected()]
        by_unit = {u.unit: u.rows for u in view.ladder().snapshot()}
    seen = np.concatenate([clusters_of(usable(item), encoder).rows for item in drive.frames()])
    assert np.sqrt(squared_distances(seen, rows).min(1).max()) <= radius
    for n, (_, promised) in enumerate(prefixes, start=1):
        first_n = np.concatenate([by_unit[unit] for unit, _ in prefixes[:n]])
        assert np.sqrt(squared_distances(seen, first_n).min(1).max()) <= promised
    assert prefixes[-1][1] == radius


@pytest.mark.parametrize("stops", [[1], [7, 30, 2], [119]])
def test_stopped_and_started_again_it_selects_what_one_run_selects(encoder, tmp_path, stops):
    drive = open_source(DRIVE)
    run([drive], encoder, tmp_path / "whole")
    for n in stops:
        with pytest.raises(Interrupted, match="same command goes on"):
            run([drive], encoder, tmp_path / "parts", stop=StopAfter(n))
    run([drive], encoder, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_second_source_continues_the_round_as_if_both_had_been_given_at_once(encoder, tmp_path):
    one, two = open_source("drawn:1:50"), open_source("drawn:2:50")
    run([one, two], encoder, tmp_path / "both")
    run([one], encoder, tmp_path / "later")
    run([two], encoder, tmp_path / "later")
    assert outcome(tmp_path / "later") == outcome(tmp_path / "both")


def test_a_finished_source_is_not_run_twice_unless_asked(encoder, tmp_path):
    drive = open_source("drawn:1:20")
    run([drive], encoder, tmp_path / "s")
    before = outcome(tmp_path / "s")
    assert run([drive], encoder, tmp_path / "s").skipped == (drive.name,)
    assert outcome(tmp_path / "s") == before
    run([drive], encoder, tmp_path / "s", again=True)
    listed, (counts, _), _ = outcome(tmp_path / "s")
    assert listed == before[0]  # what was seen is covered; seeing it again brings nothing new
    assert counts["seen"] == 40


def test_a_second_reading_that_was_stopped_goes_on_and_counts_every_frame_once_more(encoder, tmp_path):
    drive = open_source("drawn:1:20")
    run([drive], encoder, tmp_path / "s")
    with pytest.raises(Interrupted):
        run([drive], encoder, tmp_path / "s", again=True, stop=StopAfter(7))
    run([drive], encoder, tmp_path / "s", again=True)
    assert outcome(tmp_path / "s")[1][0]["seen"] == 40


def test_two_sources_of_one_name_are_refused_before_anything_is_read(encoder, tmp_path):
    one, other = MemorySource([frame(0)]), MemorySource([frame(0), frame(1)])
    with pytest.raises(SourceClash, match="--name"):
        run([one, other], encoder, tmp_path / "s")
    assert outcome(tmp_path / "s")[1][0]["seen"] == 0
    assert run([one, one], encoder, tmp_path / "s").skipped == ("memory",)


def test_a_picture_too_long_for_jpeg_is_stored_as_png(encoder, tmp_path):
    long = replace(frame(0), image=np.zeros((1, 66_000, 3), np.uint8), encoded=None)
    run([MemorySource([long])], encoder, tmp_path / "s", budget=1)
    with open_view(tmp_path / "s") as view:
        assert view.selected()[0].file.suffix == ".png"


def test_lost_frames_are_counted_and_the_others_are_judged(encoder, tmp_path):
    bad = LostFrame(
        id="memory#1", source="memory", frame_index=1, capture_time_ns=None, reason="truncated", detail="cut off"
    )
    run([MemorySource([frame(0), bad, frame(2)])], encoder, tmp_path / "s")
    _, (counts, lost), _ = outcome(tmp_path / "s")
    assert counts["seen"] == 3
    assert lost == {"truncated": 1}


def test_a_frame_whose_tokens_mean_nothing_is_lost_and_nothing_stops(encoder, tmp_path, monkeypatch):
    calls = iter(range(9))

    def degenerate_once(distilled, recipe):
        if next(calls) == 1:
            raise FrameError("degenerate", "a token of length zero")
        return knowledge_clusters(distilled, recipe)

    monkeypatch.setattr(pipeline, "knowledge_clusters", degenerate_once)
    run([MemorySource([frame(i) for i in range(4)])], encoder, tmp_path / "s")
    _, (counts, lost), _ = outcome(tmp_path / "s")
    assert counts["seen"] == 4
    assert lost == {"degenerate": 1}


def test_a_frame_of_video_is_stored_in_the_chosen_encoding(encoder, tmp_path):
    import io

    from PIL import Image

    drive = open_source("drawn:1:3")
    run([drive], encoder, tmp_path / "s", budget=1, encoding="png")
    with open_view(tmp_path / "s") as view:
        stored = view.selected()[0]
        assert stored.file.suffix == ".png"
        original = usable(next(iter(islice(drive.frames(), stored.frame_index, None))))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored.file.read_bytes()))), original.image)


@pytest.mark.parametrize("budget", [1, 2])
def test_the_smallest_budgets_work(encoder, tmp_path, budget):
    run([open_source("drawn:1:60")], encoder, tmp_path / "s", budget=budget)
    listed, _, _ = outcome(tmp_path / "s")
    assert len(listed) == budget


def test_a_budget_below_one_and_another_budget_are_refused(encoder, tmp_path):
    with pytest.raises(UsageError, match="at least 1"):
        run([open_source("drawn:1:3")], encoder, tmp_path / "s", budget=0)
    run([open_source("drawn:1:3")], encoder, tmp_path / "s", budget=3)
    with pytest.raises(SpoolMismatch, match="--budget 3"):
        run([open_source("drawn:1:3")], encoder, tmp_path / "s", budget=4)


def test_a_source_of_another_aspect_is_named_with_the_size_to_use(encoder, tmp_path):
    said: list[str] = []

    class Notes(Silent):
        def warn(self, message):
            said.append(message)

    source = open_source("drawn:1:2")  # 16:9 into 1:1
    pipeline.run([source], encoder=encoder, spool_path=tmp_path / "s", budget=1, watch=Notes())
    assert len(said) == 1
    assert "--size" in said[0]
