import io
import json

import numpy as np
import pytest

from geal_edge.config import ClusterConfig, SelectionConfig
from geal_edge.errors import FeatureSpaceMismatch, Interrupted, UsageError
from geal_edge.models.bundle import feature_space
from geal_edge.runtime import pipeline, pool
from geal_edge.runtime.distance import chord, squared_distances
from geal_edge.runtime.features import Features
from geal_edge.runtime.frame import usable
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spoolview import open_view
from tests.fakes import StopAt

DRIVE = "drawn:1:16"


class Heard(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


def select(encoder, *specs, budget=4, known=(), watch=None, **more):
    sources = [open_source(spec) for spec in specs or (DRIVE,)]
    return pool.select(sources, encoder=encoder, budget=budget, known=known, watch=watch or Silent(), **more)


def write_picks(path, selection, encoder, *specs):
    sources = [open_source(spec) for spec in specs or (DRIVE,)]
    pool.write_picks(path, pool.picks_json(selection, sources, encoder.bundle, budget=4, seed=0))
    return path


@pytest.fixture
def images(tmp_path):
    """A folder of the first five frames of another drawn drive."""
    from PIL import Image

    folder = tmp_path / "labelled"
    folder.mkdir()
    for item in open_source("drawn:2:5").frames():
        Image.fromarray(usable(item).image).save(folder / f"{item.frame_index}.png")
    return folder


def test_going_on_from_a_picks_file_gives_the_picks_that_would_have_followed(encoder, tmp_path):
    whole = select(encoder, budget=8)
    picks = write_picks(tmp_path / "p.json", select(encoder, budget=3), encoder)
    rest = select(encoder, budget=5, known=[picks])
    assert rest.picks == whole.picks[3:]
    assert rest.picks[0].squared > 0
    told = pool.picks_json(rest, [], encoder.bundle, budget=5, seed=0)
    assert told["known"] == [{"path": str(picks), "kind": "picks", "frames": 3}]
    assert told["frames"] == {"seen": 16, "lost": 0, "gated": 0, "known": 3, "selected": 5}
    assert told["picks"][0]["distance"] == chord(rest.picks[0].squared)
    assert told["picks"][0]["witness"]["patches"]
    assert told["picks"][0]["clusters"]["distances"]


def test_a_picks_file_of_another_source_is_read_again_and_encoded(encoder, tmp_path):
    other = select(encoder, "drawn:2:6", budget=2)
    picks = write_picks(tmp_path / "p.json", other, encoder, "drawn:2:6")
    selection = select(encoder, known=[picks])
    known = np.concatenate([other.frames[pick.unit].clusters.rows for pick in other.picks])
    novelty = [squared_distances(frame.clusters.rows, known).min(1).max() for frame in selection.frames]
    assert (selection.picks[0].unit, selection.picks[0].squared) == (int(np.argmax(novelty)), max(novelty))


def test_a_pick_that_cannot_be_read_again_is_said_and_not_picked(encoder, tmp_path, images):
    picks = write_picks(tmp_path / "p.json", select(encoder, str(images), budget=2), encoder, str(images))
    for file in images.iterdir():
        file.unlink()
    watch = Heard()
    selection = select(encoder, known=[picks], watch=watch)
    assert len(selection.picks) == 4
    assert sum("known, but not counted" in warning for warning in watch.warnings) == 2
    first = select(encoder)
    assert selection.picks == first.picks  # nothing is covered, so the first is drawn


def test_a_spools_selected_frames_are_known(encoder, tmp_path):
    drive = [open_source(DRIVE)]
    pipeline.run(drive, encoder=encoder, spool_path=tmp_path / "s", budget=3, watch=Silent())
    with open_view(tmp_path / "s") as view:
        ids = {frame.id for frame in view.selected()}
    assert len(ids) == 3
    selection = select(encoder, budget=20, known=[tmp_path / "s"])
    assert {selection.frames[pick.unit].id for pick in selection.picks} == {f.id for f in selection.frames} - ids
    in_pool = [frame.clusters.rows for frame in selection.frames if frame.id in ids]
    assert np.array_equal(np.sort(selection.known.rows(), axis=0), np.sort(np.concatenate(in_pool), axis=0))


def test_a_spool_of_another_feature_space_is_refused_with_both_ids(encoder, tmp_path):
    pipeline.run([open_source(DRIVE)], encoder=encoder, spool_path=tmp_path / "s", budget=3, watch=Silent())
    recipe = ClusterConfig(clusters_per_frame=4)
    with pytest.raises(FeatureSpaceMismatch) as refused:
        select(encoder, known=[tmp_path / "s"], recipe=recipe)
    manifest = encoder.bundle.manifest
    assert manifest.feature_space in str(refused.value)
    assert feature_space(manifest, recipe) in str(refused.value)
    for config in (SelectionConfig(metric="euclidean"), SelectionConfig(strategy="coreset-cosine")):
        with pytest.raises(UsageError, match="a spool holds no"):
            select(encoder, known=[tmp_path / "s"], config=config)


@pytest.mark.parametrize(
    "config",
    [
        SelectionConfig(),
        SelectionConfig(reduction="mean"),
        SelectionConfig(sampling="probability"),
        SelectionConfig(metric="euclidean"),
        SelectionConfig(strategy="random"),
        SelectionConfig(strategy="uniform"),
        SelectionConfig(strategy="every-nth"),
        SelectionConfig(strategy="coreset-cosine"),
        SelectionConfig(strategy="coreset-euclidean"),
        SelectionConfig(strategy="facility-location"),
        SelectionConfig(strategy="density"),
    ],
)
def test_under_every_strategy_known_images_are_covered_and_never_picked(encoder, images, tmp_path, config):
    selection = select(encoder, DRIVE, str(images), budget=30, known=[images], config=config)
    assert {selection.frames[pick.unit].source for pick in selection.picks} == {"drawn-1"}
    assert len(selection.picks) == 16
    assert all(pick.squared > 0 for pick in selection.picks[:1])


def test_stored_features_are_known_and_grouped_by_the_selections_recipe(encoder, images, tmp_path):
    with Features(tmp_path / "f", encoder.bundle.manifest, writable=True) as features:
        select(encoder, str(images), features=features)
    for recipe in (None, ClusterConfig(clusters_per_frame=3)):
        stored = select(encoder, known=[tmp_path / "f"], recipe=recipe)
        assert stored.picks == select(encoder, known=[images], recipe=recipe).picks


def test_the_same_bytes_under_another_name_are_known(encoder, images, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    for file in images.iterdir():
        (again / f"copy_of_{file.name}").write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match="all 5 frames of the pool are known"):
        select(encoder, str(again), known=[images])


def test_a_frame_to_begin_with_must_be_in_the_pool_and_not_known(encoder, tmp_path):
    picks = write_picks(tmp_path / "p.json", select(encoder, budget=3), encoder)
    taken = json.loads(picks.read_text())["picks"][0]["id"]
    with pytest.raises(UsageError, match="known already"):
        select(encoder, known=[picks], first=taken)
    free = next(id_ for id_ in (f"drawn-1#{i}" for i in range(16)) if f'"{id_}"' not in picks.read_text())
    begun = select(encoder, known=[picks], first=free)
    assert begun.frames[begun.picks[0].unit].id == free
    assert begun.picks[0].squared > 0


def test_what_cannot_be_known_is_a_sentence(encoder, tmp_path):
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(UsageError, match="picks file"):
        select(encoder, known=[tmp_path / "p.json"])
    with pytest.raises(Interrupted):
        select(encoder, known=[write_picks(tmp_path / "q.json", select(encoder), encoder)], stop=StopAt(17))


def test_an_image_that_cannot_be_read_is_said(encoder, images):
    (images / "9.png").write_bytes(io.BytesIO(b"not an image").getvalue())
    watch = Heard()
    selection = select(encoder, known=[images], watch=watch)
    assert any("labelled/9.png" in warning for warning in watch.warnings)
    assert len(selection.known.frames) == 6
