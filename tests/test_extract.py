"""Extraction: the selected frames in their order, their bytes untouched, as each labelling tool reads them.

COCO is read back by pycocotools. The importers of datumaro (CVAT, COCO, YOLO), Label Studio and FiftyOne read the files where
those packages are installed; they are heavy and want other versions of ours, so elsewhere the documented layout is checked.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image as Pillow
from scipy import ndimage
from typer.testing import CliRunner

from geal_edge.cli.app import app
from geal_edge.errors import Interrupted, MissingDependency, SourceError, SpoolDamaged, StorageError, UsageError
from geal_edge.runtime import extract as extract_module
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.extract import FORMATS, FormatName, extract, file_stem
from geal_edge.runtime.extract.regions import regions_of
from geal_edge.runtime.frame import usable
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.pool import PICKS_SCHEMA, write_picks
from geal_edge.runtime.selection import SelectedFrame, read_selection
from geal_edge.runtime.sources import Source, open_source
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolsettings import SpoolSettings
from geal_edge.runtime.spoolview import StoredFrame, open_view
from tests.fakes import judge
from tests.films import SIZE, number_of, write_video

GRID = (4, 6)
SQUARE = [7, 8, 13, 14]  # of the 4 x 6 patches: two by two, one from the edge
BUNDLE = "sha256:" + "ab" * 32


# -- what is extracted -------------------------------------------------------------------------------------------------


def write_images(folder: Path, count: int, size: tuple[int, int] = (96, 64)) -> Path:
    """JPEG, PNG and WebP in turns, each of its own colour; names with spaces and colons."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    for i in range(count):
        picture = Pillow.new("RGB", size, tuple(int(value) for value in rng.integers(0, 256, 3)))
        picture.save(folder / f"front: {i:03d}.{('jpg', 'png', 'webp')[i % 3]}")
    return folder


def clusters(rng: np.random.Generator, count: int = 3) -> KnowledgeClusters:
    """Random unit rows in few dimensions, so that near and far ones occur; every cluster owns a patch."""
    rows = rng.standard_normal((count, 4))
    patches = rng.integers(-1, count, GRID[0] * GRID[1]).astype(np.int16)
    patches[rng.permutation(len(patches))[:count]] = np.arange(count)
    return KnowledgeClusters(
        rows=(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16), patch_cluster=patches
    )


def fill(path: Path, source: Source, *, budget: int = 5, untrained: bool = False) -> Path:
    rng = np.random.default_rng(0)
    settings = SpoolSettings(
        bundle=BUNDLE, feature_space="fs-1", preset="geal", grid=GRID, untrained=untrained, budget=budget
    )
    with Spool(path, settings) as spool:
        selector = spool.ladder()
        spool.begin_source(source)
        for item in source.frames():
            judge(spool, selector, usable(item), clusters(rng))
        spool.finish_source(source.name)
    return path


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drive")
    return fill(folder / "spool", open_source(str(write_images(folder / "morning drive", 30))))


def selected(spool: Path) -> list[StoredFrame]:
    with open_view(spool) as view:
        return view.selected()


def pick(order: int, source: Source, index: int, *, patches: Sequence[int] = (), digest: str | None = None) -> Any:
    item = next(item for item in source.frames() if item.frame_index == index)
    return {
        "order": order,
        "unit": item.id,
        "id": item.id,
        "sha256": digest,
        "source": source.name,
        "frame_index": index,
        "capture_time_ns": item.capture_time_ns,
        "distance": 0.0 if order == 1 else 1.5 - order / 100,
        "witness": {"patches": list(patches), "grid": list(GRID)},
    }


def picks_file(path: Path, sources: Sequence[Source], picks: Sequence[Any], *, untrained: bool = True) -> Path:
    write_picks(
        path,
        {
            "schema": PICKS_SCHEMA,
            "producer": "geal-edge 1",
            "bundle": BUNDLE,
            "feature_space": "fs-1",
            "preset": "geal",
            "untrained": untrained,
            "seed": 0,
            "budget": len(picks),
            "frames": {"seen": 40, "lost": 0, "selected": len(picks)},
            "lost": {},
            "sources": [{"name": s.name, "spec": s.spec, "kind": s.kind, "fps": s.fps} for s in sources],
            "picks": list(picks),
        },
    )
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("film") / "drive.mp4", 40)


@pytest.fixture(scope="module")
def picks(film: Path) -> Path:
    """Three frames of a video, picked against their order in time, the second and third with a witness."""
    video = open_source(str(film))
    chosen = [pick(1, video, 30), pick(2, video, 4, patches=SQUARE), pick(3, video, 17, patches=[0, 23])]
    return picks_file(film.with_name("picks.json"), [video], chosen)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text(encoding="utf-8").splitlines()]


# -- pictures and frames.jsonl -----------------------------------------------------------------------------------------


def test_a_spools_frames_come_out_in_their_order_with_their_bytes_untouched(spool: Path, tmp_path: Path) -> None:
    summary = extract(spool, tmp_path / "out", format_name="images")

    frames, lines = selected(spool), lines_of(tmp_path / "out")
    assert summary.frames == len(frames) == 5
    assert summary.left_out == ()
    for frame, line in zip(frames, lines, strict=True):
        written = (tmp_path / "out" / line["file"]).read_bytes()
        assert written == frame.file.read_bytes()
        assert sha256(written).hexdigest() == line["sha256"] == frame.sha256
        assert (line["order"], line["id"], line["novelty"]) == (frame.order, frame.id, frame.novelty)
        assert (line["source"], line["frame_index"]) == (frame.source, frame.frame_index)
        assert line["distance"] == frame.distance
        assert line["witness"] == {"patches": frame.witness_patches, "grid": list(GRID)}
        assert (line["width"], line["height"]) == (96, 64)
    names = [line["file"] for line in lines]
    assert names == sorted(names)
    assert {path.name for path in (tmp_path / "out" / "images").iterdir()} == {Path(name).name for name in names}
    assert lines[0]["regions"] == []
    assert all(line["regions"] for line in lines[1:])


def test_a_picks_files_frames_are_read_again_from_the_video(picks: Path, tmp_path: Path) -> None:
    summary = extract(picks, tmp_path / "out", format_name="images")

    lines = lines_of(tmp_path / "out")
    assert summary.frames == 3
    assert [line["frame_index"] for line in lines] == [30, 4, 17]
    assert [Path(line["file"]).name[:5] for line in lines] == ["0001_", "0002_", "0003_"]
    for line in lines:
        with Pillow.open(tmp_path / "out" / line["file"]) as picture:
            assert picture.format == "JPEG"
            assert (picture.size, number_of(np.asarray(picture))) == (SIZE, line["frame_index"])
    assert lines[1]["capture_time_ns"] == 160_000_000


def test_png_keeps_every_pixel_of_a_videos_frame(picks: Path, film: Path, tmp_path: Path) -> None:
    extract(picks, tmp_path / "out", format_name="images", encoding="png")

    images = {item.frame_index: usable(item).image for item in open_source(str(film)).frames()}
    for line in lines_of(tmp_path / "out"):
        with Pillow.open(tmp_path / "out" / line["file"]) as picture:
            assert picture.format == "PNG"
            assert np.array_equal(np.asarray(picture), images[line["frame_index"]])


def test_images_of_a_picks_file_keep_their_own_bytes_and_endings(tmp_path: Path) -> None:
    folder = open_source(str(write_images(tmp_path / "drive", 6)))
    originals = {item.frame_index: usable(item).encoded or b"" for item in folder.frames()}
    digests = {index: sha256(data).hexdigest() for index, data in originals.items()}
    chosen = [pick(order, folder, index, digest=digests[index]) for order, index in enumerate((4, 2, 3), start=1)]

    extract(picks_file(tmp_path / "picks.json", [folder], chosen), tmp_path / "out", format_name="images")

    lines = lines_of(tmp_path / "out")
    assert [Path(line["file"]).suffix for line in lines] == [".png", ".webp", ".jpg"]
    assert [(tmp_path / "out" / line["file"]).read_bytes() for line in lines] == [originals[i] for i in (4, 2, 3)]


def test_a_picture_that_lies_on_its_side_is_measured_as_people_see_it(tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    exif = Pillow.Exif()
    exif[0x0112] = 6
    for i in range(3):
        Pillow.new("RGB", (90, 60), (40 * i, 90, 9)).save(tmp_path / "drive" / f"{i}.jpg", exif=exif)
    fill(tmp_path / "spool", open_source(str(tmp_path / "drive")))

    extract(tmp_path / "spool", tmp_path / "out", format_name="images")

    assert {(line["width"], line["height"]) for line in lines_of(tmp_path / "out")} == {(60, 90)}


@pytest.mark.parametrize("format_name", FORMATS)
def test_untrained_is_said_in_every_format(picks: Path, tmp_path: Path, format_name: FormatName) -> None:
    trained = json.loads(picks.read_text()) | {"untrained": False}
    (tmp_path / "trained.json").write_text(json.dumps(trained))

    untrained = extract(picks, tmp_path / "a", format_name=format_name)
    extract(tmp_path / "trained.json", tmp_path / "b", format_name=format_name)

    assert untrained.untrained
    assert all(line["untrained"] is True for line in lines_of(tmp_path / "a"))
    assert all(line["untrained"] is False for line in lines_of(tmp_path / "b"))
    own = {
        "images": "frames.jsonl",
        "coco": "annotations.json",
        "cvat": "annotations.xml",
        "label-studio": "tasks.json",
        "yolo": "data.yaml",
        "fiftyone": "labels.json",
    }[format_name]
    said = ('"untrained": true', "untrained: true", '<attribute name="untrained">true</attribute>')
    assert any(words in (tmp_path / "a" / own).read_text() for words in said)
    assert not any(words in (tmp_path / "b" / own).read_text() for words in said)


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_same_selection_gives_the_same_bytes(picks: Path, tmp_path: Path, format_name: FormatName) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        extract(picks, tmp_path / place / "out", format_name=format_name)

    a, b = tmp_path / "a", tmp_path / "b"
    files = sorted(path.relative_to(a) for path in a.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(b) for path in b.rglob("*") if path.is_file())
    assert all((a / file).read_bytes() == (b / file).read_bytes() for file in files)
    assert len(list((a / "out" / FORMATS[format_name].IMAGES).iterdir())) == 3


# -- names -------------------------------------------------------------------------------------------------------------


def named(id_: str, order: int = 7) -> SelectedFrame:
    return SelectedFrame(
        number=order,
        order=order,
        place=0,
        id=id_,
        source="s",
        frame_index=0,
        capture_time_ns=None,
        distance=1.0,
        novelty=None,
        patches=(),
        grid=GRID,
        file=None,
        sha256=None,
    )


@pytest.mark.parametrize(
    ("id_", "stem"),
    [
        ("drive.mp4#120", "0007_drive_mp4_120"),
        ("cam/left/000 1.png", "0007_cam_left_000_1"),
        ("../../etc/passwd", "0007_etc_passwd"),
        ("bag#/cam: front@17", "0007_bag_cam_front_17"),
        ("..", "0007_frame"),
        ("", "0007_frame"),
        ("\x00\n\u202e/\ud800", "0007_frame"),
        ("машина/5.jpg", "0007_5"),
        ("x" * 500 + "#12", "0007_" + "x" * 97 + "_12"),
    ],
)
def test_a_files_name_is_safe_whatever_stands_in_the_id(id_: str, stem: str) -> None:
    assert file_stem(named(id_)) == stem


def test_more_than_9999_frames_still_sort_in_their_order() -> None:
    names = [file_stem(named("a#1", order), digits=5) for order in (2, 10, 9_999, 10_000)]

    assert names == sorted(names)


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_hostile_id_leaves_nothing_outside_and_every_file_readable(tmp_path: Path, format_name: FormatName) -> None:
    hostile = '../../<a href="x">&amp;]]>\x07\n\ud800: drive'
    folder = open_source(str(write_images(tmp_path / "drive", 2)), name="drive")
    picks = picks_file(tmp_path / "picks.json", [folder], [pick(1, folder, 0), pick(2, folder, 1, patches=SQUARE)])
    # As someone may have written it: JSON's own escapes hold what UTF-8 cannot.
    content = json.loads(picks.read_text())
    (tmp_path / "in").mkdir()
    for entry in (content["sources"][0], *content["picks"]):
        entry["name" if "spec" in entry else "source"] = hostile
    for entry in content["picks"]:
        entry["id"] = entry["id"].replace("drive/", f"{hostile}/")
    picks.write_text(json.dumps(content))
    monkey = open_source

    def opened(spec: str, *, name: str, fps: float | None) -> Source:
        found = monkey(spec, fps=fps)
        found.name = name  # type: ignore[misc]  # `--name` refuses such a name; a folder's own name on disk may be so
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geal_edge.runtime.selection.open_source", opened)
        extract(picks, tmp_path / "in" / "out", format_name=format_name)

    assert [path.name for path in (tmp_path / "in").iterdir()] == ["out"]
    assert [line["id"].startswith(hostile) for line in lines_of(tmp_path / "in" / "out")] == [True, True]
    for file in (tmp_path / "in" / "out").rglob("*"):
        assert all(c.isascii() and (c.isalnum() or c in "._-") for c in file.name)
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        if file.suffix == ".xml":
            ET.parse(file)


# -- regions -----------------------------------------------------------------------------------------------------------


def mask_of(patches: Sequence[int], grid: tuple[int, int]) -> np.ndarray:
    flat = np.zeros(grid[0] * grid[1], bool)
    flat[list(patches)] = True
    return flat.reshape(grid)


def inside(outline: Sequence[tuple[float, float]], x: float, y: float) -> bool:
    """Even-odd rule."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(outline, (*outline[1:], outline[0]), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            crossings += 1
    return crossings % 2 == 1


@pytest.mark.parametrize("seed", range(30))
def test_outlines_hold_the_witness_and_nothing_else_but_its_holes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = (int(rng.integers(1, 8)), int(rng.integers(1, 9)))
    mask = rng.random(grid) < rng.choice([0.2, 0.5, 0.8, 1.0])
    patches = [int(p) for p in np.flatnonzero(mask)]

    regions = regions_of(patches, grid, (10 * grid[1], 10 * grid[0]))

    # the reference: groups by sides, holes as scipy fills them
    labelled, count = ndimage.label(mask)
    assert len(regions) == count
    for number, region in enumerate(regions, start=1):
        filled = ndimage.binary_fill_holes(labelled == number, structure=np.ones((3, 3), bool))
        drawn = [[inside(region.outline, 10 * x + 5, 10 * y + 5) for x in range(grid[1])] for y in range(grid[0])]
        assert np.array_equal(np.array(drawn), filled)
        assert region.area == 100 * filled.sum()
        rows, columns = np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0))
        assert region.box == (
            10 * columns[0],
            10 * rows[0],
            10 * (columns[-1] - columns[0] + 1),
            10 * (rows[-1] - rows[0] + 1),
        )


def test_the_grid_stretches_over_the_whole_picture() -> None:
    [region] = regions_of(range(24), GRID, (1919, 1081))

    assert region.box == (0.0, 0.0, 1919.0, 1081.0)
    assert region.outline == ((0.0, 0.0), (1919.0, 0.0), (1919.0, 1081.0), (0.0, 1081.0))


# -- as the tools read it ----------------------------------------------------------------------------------------------


def tool(name: str) -> Any:
    """Another tool's package, whatever it warns of while it is imported; where it is absent, the test is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            return pytest.skip(f"{name} is not installed")


SQUARE_PIXELS = (16.0, 16.0, 32.0, 32.0)  # (left, top, width, height) of SQUARE in a picture of 96 x 64


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in its decode, under numpy 2
def test_pycocotools_reads_coco_with_order_boxes_and_masks(picks: Path, tmp_path: Path) -> None:
    coco_module = tool("pycocotools.coco")
    extract(picks, tmp_path / "out", format_name="coco")

    coco = coco_module.COCO(str(tmp_path / "out" / "annotations.json"))

    images = coco.loadImgs(sorted(coco.getImgIds()))
    assert [image["order"] for image in images] == [1, 2, 3]
    assert [image["frame_index"] for image in images] == [30, 4, 17]
    assert all((tmp_path / "out" / "images" / image["file_name"]).is_file() for image in images)
    assert coco.loadCats(coco.getCatIds())[0]["name"] == "novel region"
    assert coco.getAnnIds(imgIds=[1]) == []
    [square] = coco.loadAnns(coco.getAnnIds(imgIds=[2], iscrowd=False))
    assert tuple(square["bbox"]) == SQUARE_PIXELS
    assert square["area"] == 32 * 32 == coco.annToMask(square).sum()
    assert coco.annToMask(square)[16:48, 16:48].all()
    corners = coco.loadAnns(coco.getAnnIds(imgIds=[3]))
    assert [annotation["bbox"][:2] for annotation in corners] == [[0, 0], [80, 48]]
    assert coco.loadRes(coco.dataset["annotations"]).getAnnIds(imgIds=[2])  # also as results, which need a score


def test_cvat_xml_has_what_cvats_loader_asks_for(picks: Path, tmp_path: Path) -> None:
    """As CVAT's documentation of the format has it; labels and attributes must be those of the task (labels.json)."""
    extract(picks, tmp_path / "out", format_name="cvat")

    root = ET.parse(tmp_path / "out" / "annotations.xml").getroot()
    assert (root.tag, root.findtext("version"), root.findtext("meta/task/mode")) == ("annotations", "1.1", "annotation")
    assert root.findtext("meta/task/size") == "3"
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    allowed = {label["name"]: {attribute["name"] for attribute in label["attributes"]} for label in labels}
    assert {label.findtext("name") for label in root.iterfind("meta/task/labels/label")} == set(allowed)
    images = root.findall("image")
    assert [image.get("id") for image in images] == ["0", "1", "2"]
    for image in images:
        assert (tmp_path / "out" / "images" / (image.get("name") or "")).is_file()
        assert (image.get("width"), image.get("height")) == ("96", "64")
        for shape in image:
            assert {attribute.get("name") for attribute in shape} == allowed[shape.get("label") or ""]
    assert [image.findtext("tag/attribute[@name='order']") for image in images] == ["1", "2", "3"]
    assert [len(image.findall("polygon")) for image in images] == [0, 1, 2]
    square = images[1].find("polygon")
    assert square is not None
    assert square.get("points") == "16.00,16.00;48.00,16.00;48.00,48.00;16.00,48.00"
    assert (square.get("occluded"), square.get("z_order"), square.get("source")) == ("0", "0", "auto")


def test_label_studio_tasks_fit_their_labelling_interface(picks: Path, tmp_path: Path) -> None:
    """As Label Studio's documentation of pre-annotations has it."""
    extract(picks, tmp_path / "for: labels", format_name="label-studio")

    tasks = json.loads((tmp_path / "for: labels" / "tasks.json").read_text(encoding="utf-8"))
    config = ET.parse(tmp_path / "for: labels" / "label_config.xml").getroot()
    image, control = config.find("Image"), config.find("PolygonLabels")
    assert image is not None
    assert control is not None
    assert control.get("toName") == image.get("name")
    for order, task in enumerate(tasks, start=1):
        assert task["data"]["order"] == order
        address = task["data"][(image.get("value") or "").removeprefix("$")]
        assert address.startswith("/data/local-files/?d=")
        assert (tmp_path / unquote(address.partition("=")[2])).is_file()
        for prediction in task["predictions"]:
            assert 0.0 <= prediction["score"] <= 1.0
            assert "untrained" in prediction["model_version"]
            for region in prediction["result"]:
                assert (region["from_name"], region["to_name"]) == (control.get("name"), image.get("name"))
                assert region["type"] == "polygonlabels"
                assert region["value"]["polygonlabels"] == [label.get("value") for label in control]
                assert all(0.0 <= value <= 100.0 for point in region["value"]["points"] for value in point)
    assert [len(task["predictions"]) for task in tasks] == [0, 1, 1]
    [square] = tasks[1]["predictions"][0]["result"]
    assert square["value"]["points"] == [[16.6667, 25.0], [50.0, 25.0], [50.0, 75.0], [16.6667, 75.0]]


def test_yolo_has_a_label_file_for_every_picture(picks: Path, tmp_path: Path) -> None:
    """As Ultralytics' documentation of detection data sets has it."""
    extract(picks, tmp_path / "out", format_name="yolo")

    data = (tmp_path / "out" / "data.yaml").read_text()
    assert "train: images\nval: images\nnames:\n  0: novel region\n" in data
    pictures = sorted((tmp_path / "out" / "images").iterdir())
    rows = [(tmp_path / "out" / "labels" / f"{picture.stem}.txt").read_text().splitlines() for picture in pictures]
    assert [len(row) for row in rows] == [0, 1, 2]
    assert rows[1] == ["0 0.333333 0.500000 0.333333 0.500000"]
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 3


def test_fiftyone_labels_name_every_picture(picks: Path, tmp_path: Path) -> None:
    """As FiftyOne's documentation of FiftyOneImageDetectionDataset has it."""
    extract(picks, tmp_path / "out", format_name="fiftyone")

    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert labels["classes"] == ["novel region"]
    assert sorted(labels["labels"]) == sorted(path.stem for path in (tmp_path / "out" / "data").iterdir())
    assert [len(detections) for detections in labels["labels"].values()] == [0, 1, 2]
    [square] = list(labels["labels"].values())[1]
    assert square["label"] == 0
    assert square["bounding_box"] == [0.166667, 0.25, 0.333333, 0.5]
    assert square["attributes"]["order"] == 2


@pytest.mark.parametrize(
    ("format_name", "theirs", "shape"),
    [("cvat", "cvat", "polygon"), ("coco", "coco_instances", "polygon"), ("yolo", "yolo", "bbox")],
)
def test_datumaro_imports_it(picks: Path, tmp_path: Path, format_name: FormatName, theirs: str, shape: str) -> None:
    datumaro = tool("datumaro")
    extract(picks, tmp_path / "out", format_name=format_name)
    path = tmp_path / "out"
    if format_name == "coco":  # it finds COCO's files by COCO's own names
        (path / "annotations").mkdir()
        path = (path / "annotations.json").rename(path / "annotations" / "instances_default.json")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        items = sorted(datumaro.Dataset.import_from(str(path), theirs), key=lambda item: item.id)

    assert [Path(item.id).name[:5] for item in items] == ["0001_", "0002_", "0003_"]
    shapes = [[a for a in item.annotations if a.type.name == shape] for item in items]
    assert [len(found) for found in shapes] == [0, 1, 2]
    assert shapes[1][0].get_bbox() == pytest.approx(SQUARE_PIXELS, abs=1e-3)


def test_label_studios_own_validator_accepts_tasks_and_interface(picks: Path, tmp_path: Path) -> None:
    interface_module = tool("label_studio_sdk.label_interface")
    extract(picks, tmp_path / "out", format_name="label-studio")

    interface = interface_module.LabelInterface((tmp_path / "out" / "label_config.xml").read_text())
    interface.validate()
    for task in json.loads((tmp_path / "out" / "tasks.json").read_text()):
        for prediction in task["predictions"]:
            assert interface.validate_prediction(prediction, return_errors=True) == []


def test_fiftyones_own_importer_reads_it_in_order(picks: Path, tmp_path: Path) -> None:
    tool("fiftyone")
    importers = tool("fiftyone.utils.data.importers")
    extract(picks, tmp_path / "out", format_name="fiftyone")

    importer = importers.FiftyOneImageDetectionDatasetImporter(dataset_dir=str(tmp_path / "out"))
    with importer:
        samples = list(importer)

    assert [Path(path).name[:5] for path, _, _ in samples] == ["0001_", "0002_", "0003_"]
    assert [len(label.detections) for _, _, label in samples] == [0, 1, 2]
    [square] = samples[1][2].detections
    assert (square.label, square.order, square.untrained) == ("novel region", 2, True)
    assert square.bounding_box == pytest.approx([1 / 6, 1 / 4, 1 / 3, 1 / 2], abs=1e-6)


# -- what is missing, what is in the way -------------------------------------------------------------------------------


def test_missing_and_altered_frames_are_left_out_and_named_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    spool = fill(tmp_path / "spool", open_source(str(write_images(tmp_path / "drive", 20))))
    frames = selected(spool)
    frames[1].file.unlink()
    frames[3].file.write_bytes(frames[0].file.read_bytes())

    summary = extract(spool, tmp_path / "out", format_name="coco")

    assert [left.id for left in summary.left_out] == [frames[1].id, frames[3].id]
    assert "not those that were stored" in summary.left_out[1].why
    assert [line["order"] for line in lines_of(tmp_path / "out")] == [1, 3, 5]
    coco = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [image["id"] for image in coco["images"]] == [1, 3, 5]
    assert {annotation["image_id"] for annotation in coco["annotations"]} == {3, 5}


def test_a_file_that_changed_since_it_was_picked_is_left_out(tmp_path: Path) -> None:
    folder = open_source(str(write_images(tmp_path / "drive", 3)))
    chosen = [pick(1, folder, 0), pick(2, folder, 1, digest="0" * 64), {**pick(3, folder, 2), "id": "drive/other.jpg"}]

    summary = extract(picks_file(tmp_path / "p.json", [folder], chosen), tmp_path / "out", format_name="images")

    assert [left.why for left in summary.left_out] == [
        "The file has changed since it was picked.",
        "drive/front: 002.webp stands in its place now.",
    ]


def test_where_no_picture_can_be_had_nothing_is_written(picks: Path, tmp_path: Path) -> None:
    content = json.loads(picks.read_text())
    content["sources"][0]["spec"] = str(tmp_path / "gone.mp4")
    (tmp_path / "picks.json").write_text(json.dumps(content))
    with pytest.raises(SourceError, match=r"none of its 3 frames could be had.*gone\.mp4"):
        extract(tmp_path / "picks.json", tmp_path / "out", format_name="images")

    spool = fill(tmp_path / "spool", open_source(str(write_images(tmp_path / "drive", 5))))
    for frame in selected(spool):
        frame.file.unlink()
    with pytest.raises(SpoolDamaged, match="none of its 5 frames"):
        extract(spool, tmp_path / "out", format_name="images")

    assert not any("out" in path.name for path in tmp_path.iterdir())


def test_a_pick_of_a_source_that_is_not_named_is_left_out(picks: Path, tmp_path: Path) -> None:
    content = json.loads(picks.read_text())
    content["picks"][1]["source"] = "elsewhere"
    (tmp_path / "picks.json").write_text(json.dumps(content))

    summary = extract(tmp_path / "picks.json", tmp_path / "out", format_name="images")

    assert [left.why for left in summary.left_out] == ["The picks file names no source elsewhere."]


def test_nothing_is_overwritten_and_an_empty_folder_is_no_obstacle(picks: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")

    for name in ("taken", "file", "link"):
        with pytest.raises(UsageError, match="nothing is overwritten"):
            extract(picks, tmp_path / name, format_name="images")
    with pytest.raises(UsageError, match="Create it first"):
        extract(picks, tmp_path / "no" / "such", format_name="images")
    extract(picks, tmp_path / "empty", format_name="images")

    assert (tmp_path / "taken" / "mine.txt").read_text() == "mine"
    assert len(lines_of(tmp_path / "empty")) == 3


def test_nothing_is_written_into_the_spool(spool: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lies in the spool"):
        extract(spool, spool / "frames" / "out", format_name="images")


def test_what_is_neither_a_spool_nor_picks_is_refused_with_a_sentence(picks: Path, tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text(
        json.dumps({k: v for k, v in json.loads(picks.read_text()).items() if k != "picks"})
    )
    twice = json.loads(picks.read_text())
    twice["picks"][2] = twice["picks"][1] | {"order": 3}
    (tmp_path / "twice.json").write_text(json.dumps(twice))
    (tmp_path / "none.json").write_text(json.dumps(twice | {"picks": []}))

    for source, words in (
        (tmp_path / "nowhere", "no such file or folder"),
        (tmp_path / "half.json", "not a whole picks file.*'picks'"),
        (tmp_path / "twice.json", "picked twice"),
        (tmp_path / "none.json", "no frame is selected"),
    ):
        with pytest.raises(UsageError, match=words):
            extract(source, tmp_path / "out", format_name="images")
    with pytest.raises(UsageError, match="--format zip: must be one of images, coco"):
        extract(picks, tmp_path / "out", format_name="zip")  # type: ignore[arg-type]


def test_a_disk_that_refuses_is_a_sentence_and_leaves_nothing(
    picks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(extract_module.images, "write_frames", refuse)
    with pytest.raises(StorageError, match="No space left on device"):
        extract(picks, tmp_path / "out", format_name="images")

    assert list(tmp_path.iterdir()) == []


def test_without_pillow_the_error_says_what_to_install(
    picks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingDependency, match=r"pip install 'geal-edge\[cpu\]'"):
        extract(picks, tmp_path / "out", format_name="images")


@pytest.mark.parametrize("after", range(4))
def test_a_stop_leaves_nothing_behind(picks: Path, spool: Path, tmp_path: Path, after: int) -> None:
    for source in (picks, spool):
        asked = iter([False] * after)
        with pytest.raises(Interrupted, match="nothing was written"):
            extract(source, tmp_path / "out", format_name="images", stop=partial(next, asked, True))

        assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_to_do_next_and_that_the_weights_were_untrained(picks: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["extract", str(picks), "--to", str(tmp_path / "out"), "--format", "cvat"])

    assert done.exit_code == 0
    assert f"{tmp_path / 'out'}: 3 frames" in done.stdout
    assert "annotations.xml" in done.stdout
    assert "UNTRAINED" in done.stderr


def test_the_exit_code_tells_that_frames_were_left_out(picks: Path, tmp_path: Path) -> None:
    spool = fill(tmp_path / "spool", open_source(str(write_images(tmp_path / "drive", 20))))
    gone = selected(spool)[2]
    gone.file.unlink()
    content = json.loads(picks.read_text())
    content["picks"][1]["source"] = "elsewhere"
    (tmp_path / "picks.json").write_text(json.dumps(content))

    for source, code, name in ((spool, 16, gone.id), (tmp_path / "picks.json", 9, "drive.mp4#4")):
        done = CliRunner().invoke(app, ["extract", str(source), "--to", str(tmp_path / f"out{code}")])
        assert done.exit_code == code
        assert f"{name}: left out" in done.stderr
        assert "selected frames were left out" in done.stderr
        assert lines_of(tmp_path / f"out{code}")


def test_ctrl_c_ends_the_command_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    picture = encode(np.zeros((720, 1280, 3), np.uint8), "jpg")
    for i in range(300):
        (folder / f"{i:04d}.jpg").write_bytes(picture)
    source = open_source(str(folder))
    first = pick(1, source, 0)
    chosen = [first | {"order": i + 1, "id": f"drive/{i:04d}.jpg", "frame_index": i} for i in range(300)]
    picks_file(tmp_path / "picks.json", [source], chosen)

    process = subprocess.Popen(
        [sys.executable, "-m", "geal_edge", "extract", tmp_path / "picks.json", "--to", tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob(".out.*/images/0003_*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)

    assert (process.returncode, out) == (130, "")
    assert "nothing was written" in error
    assert sorted(os.listdir(tmp_path)) == ["drive", "picks.json"]


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """60 pictures of a megabyte: what is held at the peak is a few of them."""
    folder = tmp_path / "drive"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        data = encode(np.full((16, 16, 3), i, np.uint8), "jpg")
        (folder / f"{i:04d}.jpg").write_bytes(data + rng.bytes(1_000_000))  # JPEG readers stop at its end
    spool = fill(tmp_path / "spool", open_source(str(folder)), budget=60)

    tracemalloc.start()
    try:
        summary = extract(spool, tmp_path / "out", format_name="coco")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert summary.bytes > 60_000_000
    assert peak < 30_000_000


def test_reading_a_selection_opens_no_source(picks: Path) -> None:
    selection = read_selection(picks)

    assert [frame.order for frame in selection.frames] == [1, 2, 3]
    assert selection.untrained
    assert selection.frames[1].patches == tuple(SQUARE)
