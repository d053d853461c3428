import json
from dataclasses import replace

import numpy as np
import pytest

from geal_edge.config import SelectionConfig
from geal_edge.errors import FeatureSpaceMismatch, SourceError, SpoolDamaged, SpoolLocked, UsageError
from geal_edge.runtime import durable, pipeline, pool
from geal_edge.runtime.distance import chord, squared_distances
from geal_edge.runtime.extract import extract
from geal_edge.runtime.frame import usable
from geal_edge.runtime.labelled import label_export
from geal_edge.runtime.memory import Memory
from geal_edge.runtime.memoryfile import read_memory, write_memory
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pipeline import clusters_of
from geal_edge.runtime.remembering import add_ignored, add_known, merge_files
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spoolview import open_view

DRIVE = "drawn:1:16"
BONNET = (0.0, 0.7, 1.0, 0.3)


def picture(*things, noise=0):
    """A dull road, 160 x 160, with things drawn on it: (top, left, height, width, seed of their pattern)."""
    image = np.full((160, 160, 3), 120, np.uint8)
    image += np.random.default_rng(noise).integers(0, 6, image.shape, dtype=np.uint8)
    for top, left, height, width, seed in things:
        pattern = np.random.default_rng(seed).integers(0, 2, (height // 8, width // 8, 3), dtype=np.uint8) * 255
        image[top : top + height, left : left + width] = pattern.repeat(8, axis=0).repeat(8, axis=1)
    return image


@pytest.fixture
def spool(encoder, tmp_path):
    pipeline.run([open_source(DRIVE)], encoder=encoder, spool_path=tmp_path / "spool", budget=3, watch=Silent())
    return tmp_path / "spool"


@pytest.fixture
def picks(encoder, tmp_path):
    return write_picks(encoder, tmp_path / "picks.json", DRIVE, budget=3)


def write_picks(encoder, path, spec, **more):
    selection = pool.select([open_source(spec)], encoder=encoder, watch=Silent(), **more)
    pool.write_picks(path, pool.picks_json(selection, [open_source(spec)], encoder.bundle, budget=3, seed=0))
    return path


def folder_of(path, images):
    from PIL import Image

    path.mkdir()
    for name, image in images.items():
        Image.fromarray(image).save(path / f"{name}.png")
    return path


def add(encoder, memory, *paths):
    _, after = add_known(memory, paths, encoder=encoder, watch=Silent())
    return after


def ids(memory):
    return sorted(entry.id for entry in memory.frames)


# -- known frames ------------------------------------------------------------------------------------------------------


def test_a_spools_selected_frames_are_remembered_without_any_bundle(encoder, spool, tmp_path):
    memory = add(None, tmp_path / "m", spool)
    with open_view(spool) as view:
        assert ids(memory) == sorted(frame.id for frame in view.selected())
    assert memory.feature_space == encoder.bundle.manifest.feature_space
    assert read_memory(tmp_path / "m").entries[0].origin == str(spool)
    before, after = add_known(tmp_path / "m", [spool], encoder=None, watch=Silent())
    assert len(after.entries) == len(before.entries) == 3


def test_picks_and_images_are_encoded_and_need_a_bundle(encoder, picks, tmp_path):
    images = folder_of(tmp_path / "images", {"a": picture(), "b": picture((16, 16, 48, 48, 1))})
    memory = add(encoder, tmp_path / "m", picks, images)
    told = [pick["id"] for pick in json.loads(picks.read_text())["picks"]]
    assert ids(memory) == sorted([*told, "images/a.png", "images/b.png"])
    for path in (picks, images):
        with pytest.raises(UsageError, match="--bundle"):
            add(None, tmp_path / "m", path)


def test_a_selection_goes_on_from_a_memory_as_from_what_it_was_made_of(encoder, spool, picks, tmp_path):
    add(encoder, tmp_path / "m", spool, picks)
    source = [open_source("drawn:1:24")]
    by_memory = pool.select(source, encoder=encoder, budget=6, known=[tmp_path / "m"], watch=Silent())
    by_both = pool.select(source, encoder=encoder, budget=6, known=[spool, picks], watch=Silent())
    assert by_memory.picks == by_both.picks
    told = pool.picks_json(by_memory, source, encoder.bundle, budget=6, seed=0)
    assert told["known"][0]["kind"] == "memory"
    with pytest.raises(UsageError, match="a memory holds no"):
        pool.select(
            source,
            encoder=encoder,
            budget=1,
            known=[tmp_path / "m"],
            config=SelectionConfig(metric="euclidean"),
            watch=Silent(),
        )


def test_another_feature_space_is_refused_with_both_ids_and_changes_nothing(encoder, spool, tmp_path):
    own = encoder.bundle.manifest.feature_space
    write_memory(tmp_path / "m", Memory(feature_space="fs-other"))
    before = (tmp_path / "m").read_bytes()
    for with_bundle in (None, encoder):
        with pytest.raises(FeatureSpaceMismatch) as refused:
            add(with_bundle, tmp_path / "m", spool)
        assert own in str(refused.value)
        assert "fs-other" in str(refused.value)
    first = spool_frame(spool, order=2)
    with pytest.raises(FeatureSpaceMismatch):
        add_ignored(tmp_path / "m", spool, first.id, encoder=None)
    with pytest.raises(FeatureSpaceMismatch):
        pool.select([open_source(DRIVE)], encoder=encoder, budget=1, known=[tmp_path / "m"], watch=Silent())
    assert (tmp_path / "m").read_bytes() == before


def test_what_cannot_be_added_is_a_sentence_and_leaves_the_file(encoder, spool, tmp_path):
    add(None, tmp_path / "m", spool)
    with pytest.raises(UsageError, match="memory merge"):
        add(encoder, tmp_path / "m", tmp_path / "m")
    (tmp_path / "n").write_bytes((tmp_path / "m").read_bytes()[:-1])
    with pytest.raises(SpoolDamaged):
        add(None, tmp_path / "n", spool)
    with (
        durable.exclusive_lock(tmp_path / "m.lock", "a test"),
        pytest.raises(SpoolLocked),
    ):
        add(None, tmp_path / "m", spool)


def test_merging_files_overwrites_only_one_of_them(encoder, spool, picks, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    both = {*ids(add(None, a, spool)), *ids(add(encoder, b, picks))}
    assert set(ids(merge_files(tmp_path / "c", [a, b]))) == both
    assert set(ids(merge_files(a, [a, b]))) == both
    with pytest.raises(UsageError, match="Choose another name"):
        merge_files(b, [a])


# -- label exports -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format_name", "file"),
    [("coco", "annotations.json"), ("cvat", "annotations.xml"), ("label-studio", "tasks.json"), ("yolo", "")],
)
def test_the_images_that_a_label_export_names_are_known(encoder, spool, tmp_path, format_name, file):
    to = tmp_path / "export"
    extract(spool, to, format_name=format_name)
    found = label_export(to / file)
    assert found is not None
    assert found.absent == ()
    assert sorted(f.encoded for f in found.source.frames()) == sorted(  # type: ignore[union-attr,type-var]
        f.read_bytes() for f in (spool / "frames").iterdir() if f.name in names_selected(spool)
    )
    memory = add(encoder, tmp_path / "m", to / file)
    assert len(memory.frames) == 3
    assert {e.sha256 for e in memory.frames} == {frame.sha256 for frame in selected(spool)}


def selected(spool):
    with open_view(spool) as view:
        return view.selected()


def names_selected(spool):
    return {frame.file.name for frame in selected(spool)}


def spool_frame(spool, order):
    return selected(spool)[order - 1]


def test_an_image_that_is_named_but_not_there_is_said(encoder, tmp_path):
    folder_of(tmp_path / "images", {"a": picture(), "unlabelled": picture()})
    coco = tmp_path / "instances.json"
    absent = ("gone.png", "x" * 5000 + ".png", "a\0b.png")  # the last two no file can have
    coco.write_text(json.dumps({"images": [{"file_name": name} for name in ("set1/a.png", *absent)]}))
    found = label_export(coco)
    assert found is not None
    assert [frame.id for frame in found.source.frames()] == ["images/a.png"]
    assert found.absent == absent
    coco.write_text(json.dumps({"images": [{"file_name": "gone.png"}]}))
    with pytest.raises(UsageError, match="none of them is here, gone"):
        label_export(coco)


def test_a_yolo_folder_names_the_images_that_have_a_label_file(tmp_path):
    (tmp_path / "set" / "labels" / "train").mkdir(parents=True)
    (tmp_path / "set" / "images").mkdir()
    folder_of(tmp_path / "set" / "images" / "train", {"a": picture(), "b": picture()})
    (tmp_path / "set" / "labels" / "train" / "a.txt").write_text("")
    found = label_export(tmp_path / "set")
    assert found is not None
    assert [frame.id for frame in found.source.frames()] == ["train/a.png"]


def test_xml_that_is_cut_off_or_declares_entities_is_refused(tmp_path):
    file = tmp_path / "a.xml"
    for text in ("<annotations><image name='a.png'>", '<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>'):
        file.write_text(text)
        with pytest.raises(UsageError):
            label_export(file)


def test_a_picks_file_is_no_label_export(picks, tmp_path):
    assert label_export(picks) is None
    (tmp_path / "b.json").write_text("[")
    assert label_export(tmp_path / "b.json") is None


# -- what is to be ignored ---------------------------------------------------------------------------------------------


def test_an_ignored_bonnet_does_not_silence_what_stands_beside_it(encoder, tmp_path):
    bonnet, pedestrian = (112, 0, 48, 160, 7), (32, 96, 48, 24, 9)
    seen = folder_of(tmp_path / "seen", {"road": picture()})
    drive = folder_of(tmp_path / "drive", {"a": picture(), "b": picture(bonnet)})
    known = add(encoder, tmp_path / "m", seen)
    picks = write_picks(encoder, tmp_path / "picks.json", str(drive), budget=2)
    _, memory = add_ignored(tmp_path / "m", picks, "drive/b.png", region=BONNET, encoder=encoder)
    marked = memory.entries[-1]
    assert marked.kind == "ignore"
    assert marked.mark is not None
    assert all(patch >= 60 for patch in marked.mark.patches)  # of a grid of 10 x 10, only below the road's last rows
    assert len(memory.frames) == len(known.frames) == 1

    def judge(image, base):
        frame = replace(usable(next(iter(open_source("drawn:1:1").frames()))), image=image)
        clusters = clusters_of(frame, encoder)
        nearest = squared_distances(clusters.rows, base).min(axis=1)
        return chord(nearest.max()), clusters.patches_of(int(nearest.argmax()))

    def inside(witness, rows, columns):
        return sum(p // 10 in rows and p % 10 in columns for p in witness) > len(witness) / 2

    before, witness = judge(picture(bonnet, pedestrian, noise=1), known.rows())
    assert inside(witness, range(7, 10), range(10))  # the bonnet, as long as nobody said that it is to be ignored
    alone, _ = judge(picture(bonnet, noise=1), memory.rows())
    beside, witness = judge(picture(bonnet, pedestrian, noise=1), memory.rows())
    assert alone < 0.5 * before
    assert beside > 1.5 * alone
    assert inside(witness, range(2, 5), range(6, 8))  # the pedestrian


def test_by_default_the_witness_is_ignored_and_nothing_else_of_the_frame(encoder, spool, picks, tmp_path):
    frame = spool_frame(spool, order=2)
    _, by_spool = add_ignored(tmp_path / "m", spool, frame.id, encoder=None)
    [entry] = by_spool.entries
    assert entry.mark is not None
    assert list(entry.mark.patches) == frame.witness_patches
    assert len(entry.rows) == 1
    told = json.loads(picks.read_text())["picks"][1]
    _, by_picks = add_ignored(tmp_path / "n", picks, told["id"], encoder=encoder)
    assert by_picks.entries[0].mark is not None
    assert list(by_picks.entries[0].mark.patches) == told["witness"]["patches"]
    # It is no known frame: another part of it may still be picked.
    selection = pool.select([open_source(DRIVE)], encoder=encoder, budget=20, known=[tmp_path / "m"], watch=Silent())
    assert len(selection.picks) == 16


@pytest.mark.parametrize(
    ("id_", "region", "sentence"),
    [
        ("drawn-1#99", None, "no frame drawn-1#99"),
        (None, (0.5, 0.5, 0.6, 0.1), "inside the picture"),
        (None, (0.0, 0.0, float("nan"), 0.1), "inside the picture"),
        (None, (0.0, 0.0, 0.01, 0.01), "no knowledge cluster"),
    ],
)
def test_a_mark_that_cannot_be_meant_is_a_sentence_and_writes_nothing(spool, tmp_path, id_, region, sentence):
    with pytest.raises(UsageError, match=sentence):
        add_ignored(tmp_path / "m", spool, id_ or spool_frame(spool, 2).id, region=region, encoder=None)
    assert not (tmp_path / "m").exists()


def test_the_first_frame_has_no_witness_to_ignore_and_picks_must_be_encoded(spool, picks, tmp_path):
    with pytest.raises(UsageError, match="--region"):
        add_ignored(tmp_path / "m", spool, spool_frame(spool, 1).id, encoder=None)
    first = json.loads(picks.read_text())["picks"][0]["id"]
    with pytest.raises(UsageError, match="--bundle"):
        add_ignored(tmp_path / "m", picks, first, encoder=None)


def test_a_frame_of_a_picks_file_that_is_gone_cannot_be_marked(encoder, tmp_path):
    images = folder_of(tmp_path / "i", {"a": picture(), "b": picture((16, 16, 48, 48, 1))})
    picks = write_picks(encoder, tmp_path / "p.json", str(images), budget=2)
    (images / "b.png").unlink()
    with pytest.raises(SourceError, match="i/b"):
        add_ignored(tmp_path / "m", picks, "i/b.png", region=(0, 0, 1, 1), encoder=encoder)
