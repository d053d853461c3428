"""What selections are worth where labels exist: readers of every format, counts, probes, the table."""

import json

import numpy as np
import pytest
from PIL import Image

from geal_edge.config import ClusterConfig
from geal_edge.errors import UsageError
from geal_edge.runtime import pool
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.compare.choice import Choice
from geal_edge.runtime.compare.labels import evaluate
from geal_edge.runtime.compare.labels.found import found_at, rarest
from geal_edge.runtime.compare.labels.masks import labels_of
from geal_edge.runtime.compare.labels.probes import hold_out
from geal_edge.runtime.compare.labels.reading import read_labels
from geal_edge.runtime.compare.labels.table import LabelResult, text_of
from geal_edge.runtime.features import Features
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.poolframe import PoolFrame
from geal_edge.runtime.sources import open_source

ROAD, CAR, DOG = 0, 1, 2
NAMES = "road\ncar\ndog\n"
COLOURS = np.array([[128, 64, 128], [64, 0, 128], [64, 64, 0]], np.uint8)


class Listener(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


def frames(*names, source="drive"):
    clusters = KnowledgeClusters(rows=np.ones((1, 2), np.float16), patch_cluster=np.zeros(4, np.int16))
    return tuple(
        PoolFrame(
            id=f"{source}/{name}", source=source, frame_index=i, capture_time_ns=None, digest=None, clusters=clusters
        )
        for i, name in enumerate(names)
    )


def pool_of(*names):
    found = frames(*names)
    units = tuple(range(i, i + 1) for i in range(len(found)))
    return pool.Pool(frames=found, units=units, lost={}, gated={}, recipe=ClusterConfig())


def scene(*boxes, size=(40, 60)):
    """A mask (H, W) of road with boxes (class, top, left, bottom, right) on it."""
    mask = np.full(size, ROAD, np.uint8)
    for kind, top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = kind
    return mask


TWO_CARS = scene((CAR, 0, 0, 10, 10), (CAR, 20, 20, 30, 40))
A_DOG = scene((DOG, 0, 0, 15, 15))
EMPTY = scene()


def write_masks(folder, masks, *, coloured=False, palette=False):
    folder.mkdir()
    for name, mask in masks.items():
        picture = Image.fromarray(COLOURS[np.minimum(mask, 2)] if coloured else mask)
        if palette:
            picture.putpalette(np.concatenate([COLOURS.ravel(), np.zeros(768 - 9, np.uint8)]).tobytes())
            assert picture.mode == "P"
        picture.save(folder / f"{name}.png")
    return folder


def patches_of(labels, index):
    patches = labels.frames[index].patches
    assert patches is not None
    return patches.tolist()


@pytest.mark.parametrize("form", [{"coloured": True}, {"palette": True}, {}])
def test_masks_in_colours_palettes_and_numbers_say_the_same(form, tmp_path):
    folder = write_masks(tmp_path / "masks", {"a": TWO_CARS, "b": A_DOG}, **form)
    lines = [f"{r} {g} {b}\t{name}" for (r, g, b), name in zip(COLOURS.tolist(), NAMES.split(), strict=True)]
    (folder / "label_colors.txt").write_text("\n".join(lines))
    labels = read_labels(folder, frames("a.jpg", "b.jpg", "c.jpg"), grid=(2, 3))
    assert labels.classes == ("road", "car", "dog")
    assert sorted(labels.frames) == [0, 1]
    assert labels.frames[0].instances.tolist() == [1, 2, 0]
    assert labels.frames[0].area.tolist() == [2100 / 2400, 300 / 2400, 0]
    assert labels.frames[1].instances.tolist() == [1, 0, 1]
    assert patches_of(labels, 0) == [0, 0, 0, 0, 0, 0]
    assert patches_of(labels, 1) == [2, 0, 0, 0, 0, 0]


def test_classes_of_masks_without_a_list_are_called_by_their_numbers_and_255_is_none(tmp_path):
    void = A_DOG.copy()
    void[30:] = 255
    folder = write_masks(tmp_path / "masks", {"a": void})
    labels = read_labels(folder, frames("a.png"), grid=(4, 3))
    assert labels.classes == ("0", "1", "2")
    assert labels.frames[0].area.sum() == 0.75
    assert patches_of(labels, 0)[-3:] == [-1, -1, -1]


def test_what_a_class_list_calls_void_is_no_class(tmp_path):
    folder = write_masks(tmp_path / "masks", {"a": A_DOG})
    (tmp_path / "classes.txt").write_text("void\ncar\ndog\n")
    labels = read_labels(folder, frames("a.png"))
    assert labels.frames[0].instances.tolist() == [0, 0, 1]


def test_a_frame_beside_its_mask_is_not_taken_for_the_mask(tmp_path):
    folder = write_masks(tmp_path / "both", {"a_L": A_DOG, "a": np.zeros_like(A_DOG)})
    labels = read_labels(folder, frames("a.png"))
    assert (
        labels.frames[0].instances.tolist()
        == read_labels(write_masks(tmp_path / "alone", {"a": A_DOG}), frames("a.png")).frames[0].instances.tolist()
    )


def test_a_class_list_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    folder = write_masks(tmp_path / "masks", {"a": A_DOG})
    (tmp_path / "classes.txt").write_text("void\ncar\ndog\n", encoding="utf-8-sig")
    assert read_labels(folder, frames("a.png")).classes == ("", "car", "dog")


def test_masks_in_colours_without_a_list_say_what_is_missing(tmp_path):
    folder = write_masks(tmp_path / "masks", {"a": A_DOG}, coloured=True)
    with pytest.raises(UsageError, match=r"label_colors\.txt"):
        read_labels(folder, frames("a.png"))


def test_masks_in_other_colours_than_the_list_has_are_refused(tmp_path):
    folder = write_masks(tmp_path / "masks", {"a": A_DOG}, coloured=True)
    (folder / "label_colors.txt").write_text("1 2 3 cat\n")
    with pytest.raises(UsageError, match="class list"):
        read_labels(folder, frames("a.png"))


def test_ragged_edges_are_no_instances():
    mask = np.full((200, 200), -1, np.int16)
    mask[::20, ::20] = CAR  # a hundred single pixels, each less than one in 10,000
    mask[1:4, 1:4] = CAR
    assert labels_of(mask, 2, None).instances.tolist() == [0, 1]


VOC = """<annotation><filename>a.jpg</filename><size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>car</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>10</xmax><ymax>10</ymax></bndbox>
<part><name>wheel</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>
<object><name>car</name><bndbox><xmin>20</xmin><ymin>20</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object></annotation>"""

COCO = {
    "images": [{"id": i, "file_name": f"drive/{name}.jpg", "width": 60, "height": 40} for i, name in enumerate("ab")],
    "categories": [{"id": 7, "name": "car"}],
    "annotations": [
        {"image_id": 0, "category_id": 7, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0},
        {"image_id": 0, "category_id": 7, "bbox": [20, 20, 20, 10]},
        {"image_id": 1, "category_id": 7, "bbox": [0, 0, 60, 40], "iscrowd": 1},
    ],
}


def voc(folder):
    folder.mkdir()
    (folder / "a.xml").write_text(VOC)
    (folder / "b.xml").write_text(VOC[: VOC.index("<object>")] + "</annotation>")
    return folder


def coco(folder):
    folder.mkdir()
    (folder / "instances.json").write_text(json.dumps(COCO))
    return folder / "instances.json"


def yolo(folder):
    (folder / "labels").mkdir(parents=True)
    (folder / "images").mkdir()
    (folder / "data.yaml").write_text("names:\n  0: car\n")
    corners = [(20, 20), (40, 20), (40, 30), (20, 30)]
    polygon = " ".join(f"{x / 60} {y / 40}" for x, y in corners)
    (folder / "labels" / "a.txt").write_text(f"0 {5 / 60} {5 / 40} {10 / 60} {10 / 40}\n0 {polygon}\n")
    (folder / "labels" / "b.txt").write_text("")
    return folder


@pytest.mark.parametrize("write", [voc, coco, yolo])
def test_boxes_of_every_format_say_the_same(write, tmp_path):
    labels = read_labels(write(tmp_path / "labels"), frames("a.jpg", "b.jpg", "c.jpg"))
    assert labels.classes == ("car",)
    assert sorted(labels.frames) == [0, 1]
    assert labels.frames[0].instances.tolist() == [2]
    assert labels.frames[0].area.tolist() == pytest.approx([300 / 2400])
    assert labels.frames[1].instances.tolist() == [0]


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("a.xml", VOC[:80], "VOC annotation"),
        ("a.xml", VOC.replace("<width>60</width>", ""), "size/width"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "entity"),
        ("a.txt", "0 0.5 0.5\n\ncar 0.5 0.5 1 1", "a.txt:1"),
        ("a.json", '{"images": []}', "categories"),
    ],
)
def test_a_damaged_label_file_is_named_with_what_was_expected(name, content, says, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=says):
        read_labels(tmp_path / name if name.endswith(".json") else tmp_path, frames("a.jpg"))


def test_labels_are_matched_by_their_path_before_their_name(tmp_path):
    (tmp_path / "front").mkdir()
    (tmp_path / "rear").mkdir()
    (tmp_path / "front" / "1.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "rear" / "1.txt").write_text("1 0.5 0.5 1 1")
    both = frames("front/1.jpg", "rear/1.jpg")
    labels = read_labels(tmp_path, both)
    assert [labels.frames[i].instances.tolist() for i in (0, 1)] == [[1, 0], [0, 1]]
    with pytest.raises(UsageError, match="may be the labels of"):
        read_labels(tmp_path, frames("1.jpg"))
    with pytest.raises(UsageError, match=r"has the name of a frame, such as drive/2\.jpg"):
        read_labels(tmp_path, frames("2.jpg"))


def test_one_label_is_not_given_to_two_frames(tmp_path):
    (tmp_path / "1.txt").write_text("0 0.5 0.5 1 1")
    with pytest.raises(UsageError, match=r"and of drive/rear/1\.jpg"):
        read_labels(tmp_path, frames("front/1.jpg", "rear/1.jpg"))


def test_the_names_that_camvid_and_cityscapes_give_to_masks_are_understood(tmp_path):
    folder = write_masks(tmp_path / "masks", {"a_L": A_DOG, "b_gtFine_labelTrainIds": EMPTY, "b_gtFine_color": EMPTY})
    assert sorted(read_labels(folder, frames("a.png", "b_leftImg8bit.png")).frames) == [0, 1]


def test_a_folder_of_two_kinds_of_labels_is_not_guessed_at(tmp_path):
    voc(tmp_path / "Annotations")
    write_masks(tmp_path / "SegmentationClass", {"a": A_DOG})
    with pytest.raises(UsageError, match="VOC boxes and masks"):
        read_labels(tmp_path, frames("a.jpg"))


# -- what was found ----------------------------------------------------------------------------------------------------


@pytest.fixture
def masks(tmp_path):
    """Four labelled frames: two with cars, one with a dog, an empty road."""
    folder = write_masks(tmp_path / "masks", {"a": TWO_CARS, "b": TWO_CARS, "c": A_DOG, "d": EMPTY})
    (folder / "classes.txt").write_text(NAMES)
    return folder


def test_the_rarest_classes_are_those_in_fewest_frames_and_never_those_in_all(masks):
    labels = read_labels(masks, frames("a.png", "b.png", "c.png", "d.png"))
    assert [labels.classes[number] for number in rarest(labels)] == ["dog", "car"]


def test_recall_counts_what_the_selected_frames_hold_of_the_rarest_classes(masks):
    labels = read_labels(masks, frames("a.png", "b.png", "c.png", "d.png"))
    found = found_at(labels, [0, 3], rarest(labels))
    assert found == {"labelled": 2, "classes": 2, "instances": 4, "rare_area": 0.25, "rare_instances": 0.25}
    everything = found_at(labels, [0, 1, 2, 3], rarest(labels))
    assert everything["rare_area"] == everything["rare_instances"] == 1


def test_unlabelled_frames_are_counted_and_said(masks):
    watch = Listener()
    choice = Choice(strategy="geal", seed=0, order=(4, 0, 1, 2, 3))
    table = evaluate(pool_of("a.png", "b.png", "c.png", "d.png", "e.png"), [choice], [1, 2], masks, watch=watch)
    assert (table.frames, table.labelled, table.held_out) == (5, 4, 0)
    assert watch.warnings == [f"1 of 5 frames have no labels in {masks}: they count as nothing found."]
    assert [result.values["labelled"] for result in table.results] == [0, 1]
    assert "labelled" in table.text()


def test_a_table_says_the_same_to_machines_and_to_people(masks):
    drawn = [Choice(strategy="random", seed=seed, order=order) for seed, order in enumerate([(0, 1), (2, 3), (3, 1)])]
    even = [Choice(strategy="uniform", seed=None, order=order) for order in [(2,), (0, 2)]]
    found = pool_of("a.png", "b.png", "c.png", "d.png")
    table = evaluate(found, drawn + even, [1, 2], masks, watch=Silent())
    read = json.loads(json.dumps(table.as_dict()))
    assert read["rare"] == ["dog", "car"]
    assert read["results"]["uniform"]["1"]["rare_instances"]["median"] == 0.5
    assert read["results"]["random"]["1"]["instances"] == {"median": 2, "p10": 1.2, "p90": 2.8}
    assert "2 (1.2 to 2.8)" in table.text()
    assert "labelled  " not in table.text()


def test_the_columns_of_a_table_stay_apart_whatever_is_counted():
    drawn = [
        LabelResult(
            strategy="random", seed=s, budget=5, values={"labelled": 5, "instances": 9000.5 + 100 * s, "knn": s / 9}
        )
        for s in range(3)
    ]
    head, line = text_of(drawn).splitlines()[1:]

    assert line.split() == ["random", "9100.5", "(9020.5", "to", "9180.5)", "0.111", "(0.022", "to", "0.200)"]
    assert head.index("k-NN") == line.index("0.111")


def test_choices_that_fit_no_budget_are_refused(masks):
    even = [Choice(strategy="uniform", seed=None, order=(0,))] * 2
    with pytest.raises(UsageError, match="2 choices of uniform"):
        evaluate(pool_of("a.png"), even, [1, 2, 3], masks, watch=Silent())


# -- probes ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """48 frames: grass left and sky right, and in every second one the other way round; masks and boxes beside them."""
    root = tmp_path_factory.mktemp("drive")
    for folder in ("frames", "masks", "boxes"):
        (root / folder).mkdir()
    rng = np.random.default_rng(0)
    for i in range(48):
        mask = np.zeros((80, 80), np.uint8)
        mask[:, 40:] = 1
        mask = mask if i % 2 else mask[:, ::-1]
        colour = np.array([[20, 140, 30], [120, 170, 250]])[mask]
        Image.fromarray((colour + rng.integers(-20, 20, (80, 80, 3))).clip(0, 255).astype(np.uint8)).save(
            root / "frames" / f"{i:03d}.png"
        )
        Image.fromarray(mask).save(root / "masks" / f"{i:03d}.png")
        (root / "boxes" / f"{i:03d}.txt").write_text("0 0.5 0.5 0.5 0.5\n" if i % 2 else "")
    return root


@pytest.fixture
def stored(drive, encoder, tmp_path):
    """(the pool, its features)"""
    with Features(tmp_path / "features", encoder.bundle.manifest, writable=True) as features:
        yield (
            pool.read_pool([open_source(str(drive / "frames"))], encoder=encoder, features=features, watch=Silent()),
            features,
        )


def test_what_is_held_out_are_whole_stretches_that_nothing_can_be_selected_from(stored):
    whole, _ = stored
    left, tested = hold_out(whole, seed=1)
    assert {frame.id for frame in left.frames} | {frame.id for frame in tested} == {frame.id for frame in whole.frames}
    assert len(left.frames) + len(tested) == 48
    assert [unit.start for unit in left.units] == list(range(len(left.frames)))
    indices = np.array([frame.frame_index for frame in tested])
    assert np.count_nonzero(np.diff(indices) > 1) < 5 <= len(indices) // 2
    assert hold_out(whole, seed=1)[1] == tested
    with pytest.raises(UsageError, match="at least 40"):
        hold_out(left)


def test_probes_on_patches_learn_the_classes_that_were_selected(drive, stored):
    table = probed(drive / "masks", stored, Choice(strategy="geal", seed=0, order=(0, 1, 2, 3)), [1, 4])
    assert all(result.values["knn"] > 0.8 and result.values["logistic"] > 0.8 for result in table.results[1:])
    assert table.held_out == 12
    assert "k-NN" in table.text()


def test_probes_say_the_same_every_time(drive, stored):
    choice = Choice(strategy="geal", seed=0, order=(5, 9))
    assert probed(drive / "masks", stored, choice, [2]) == probed(drive / "masks", stored, choice, [2])


def test_probes_on_boxes_learn_which_frames_hold_a_class(drive, stored):
    (both,) = probed(drive / "boxes", stored, Choice(strategy="geal", seed=0, order=tuple(range(8))), [8]).results
    (one,) = probed(drive / "boxes", stored, Choice(strategy="one kind", seed=0, order=(1,)), [8]).results
    assert both.values["logistic"] > 0.9 > one.values["logistic"]


def probed(labels, stored, choice, budgets):
    whole, features = stored
    left, tested = hold_out(whole)
    return evaluate(left, [choice], budgets, labels, features=features, held_out=tested, watch=Silent())
