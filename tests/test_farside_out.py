import json
import shutil
import xml.etree.ElementTree as ET
from hashlib import sha256

import pytest

from geal_edge.config import UploadConfig
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.upload import service
from tests.farside import DavServer, fill_spool, serving
from tests.sending import send_all


@pytest.fixture(scope="module")
def all_sent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "far").mkdir()
    for name, count in (("car-1", 3), ("car-2", 1)):
        fill_spool(folder / name, count, pictures=True)
        service.upload(folder / name, UploadConfig(to=str(folder / "far"), vehicle=name), once=True, watch=Silent())
    return folder / "far"


@pytest.fixture
def far(all_sent, tmp_path):
    return shutil.copytree(all_sent, tmp_path / "far")


def extracted(cli, far, to, *words):
    code, _, error = cli("extract", far, "--to", to, *words)
    assert code == 0, error
    return [json.loads(line) for line in (to / "frames.jsonl").read_text().splitlines()]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_in_place_vehicles_come_in_turn_and_no_picture_is_read(far, tmp_path, cli):
    for picture in far.rglob("*.jpg"):
        picture.write_bytes(b"")  # what an import says of it stands in its sidecar
    lines = extracted(cli, far, tmp_path / "out")
    assert files(tmp_path / "out") == ["frames.jsonl"]
    assert [(line["vehicle"], line["order"]) for line in lines] == [
        ("car-1", 1),
        ("car-2", 1),
        ("car-1", 2),
        ("car-1", 3),
    ]
    for line in lines:
        assert (far / line["file"]).is_file()
        assert line["address"] == f"far/{line['key']}"
        assert (line["width"], line["height"]) == (64, 32)
        assert bool(line["regions"]) is bool(line["witness"]["patches"])
    assert extracted(cli, far, tmp_path / "one", "--vehicle", "car-2")[0]["vehicle"] == "car-2"


def test_label_studio_gets_the_address_of_each_object(far, tmp_path, cli):
    extracted(cli, far, tmp_path / "out", "-f", "label-studio")
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert all(task["data"]["image"].startswith("/data/local-files/?d=far/car-") for task in tasks)
    assert tasks[2]["predictions"][0]["result"][0]["original_width"] == 64


def test_cvat_gets_a_manifest_with_names_and_sizes_that_its_annotations_fit(far, tmp_path, cli):
    extracted(cli, far, tmp_path / "out", "-f", "cvat")
    version, kind, *images = [
        json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    ]
    assert (version, kind) == ({"version": "1.1"}, {"type": "images"})
    names = [image["name"] + image["extension"] for image in images]
    assert all((far / name).is_file() for name in names)
    assert {(image["width"], image["height"]) for image in images} == {(64, 32)}
    annotations = ET.fromstring((tmp_path / "out" / "annotations.xml").read_text())
    assert [image.get("name") for image in annotations.iter("image")] == names


def test_coco_gets_the_url_of_each_object(tmp_path, cli):
    fill_spool(tmp_path / "s", 3, pictures=True)
    with DavServer() as server, serving(server) as port:
        url = f"http://127.0.0.1:{port}/in"
        send_all(tmp_path / "s", url)
        server.gets.clear()
        extracted(cli, url, tmp_path / "out", "-f", "coco", "--prefix", "fleet")
        assert all(path.endswith(".json") for path in server.gets)
        images = json.loads((tmp_path / "out" / "annotations.json").read_text())["images"]
        assert all(image["coco_url"].removeprefix(f"http://127.0.0.1:{port}") in server.files for image in images)
        code, _, error = cli("extract", url, "--to", tmp_path / "cvat", "-f", "cvat", "--prefix", "fleet")
        assert (code, "--download" in error) == (2, True)
        lines = extracted(cli, url, tmp_path / "all", "-f", "yolo", "--prefix", "fleet", "--download")
        for line in lines:
            data = (tmp_path / "all" / line["file"]).read_bytes()
            assert sha256(data).hexdigest() == line["sha256"]
            assert server.files[f"/in/{line['key']}"] == data


def test_a_picture_that_is_not_what_its_sidecar_says_is_left_out(far, tmp_path, cli):
    altered = next((far / "car-1" / "memory").glob("*.jpg"))
    altered.write_bytes(altered.read_bytes() + b"x")
    code, _, error = cli("extract", far, "--to", tmp_path / "out", "--download")
    assert (code, "are not those that its sidecar tells of" in error) == (9, True)
    assert len(files(tmp_path / "out" / "images")) == 3
    assert not any("/" in name or name.startswith(".") for name in files(tmp_path / "out" / "images"))


def test_of_an_older_sidecar_the_size_is_not_known_which_is_said(far, tmp_path, cli):
    for path in far.rglob("*.json"):
        if "memory" in path.parts:
            facts = json.loads(path.read_bytes())
            path.write_text(json.dumps({name: facts[name] for name in facts if name not in ("width", "height")}))
    code, _, error = cli("extract", far, "--to", tmp_path / "out", "-f", "coco")
    assert (code, "Take it along with --download" in error) == (9, True)
    lines = extracted(cli, far, tmp_path / "plain")
    assert all("width" not in line and line["regions"] == [] for line in lines)
    assert extracted(cli, far, tmp_path / "down", "-f", "coco", "--download")[0]["width"] == 64


def test_the_report_shows_of_each_vehicle_and_day_the_first_frames_and_reads_their_pictures_once(tmp_path, cli):
    fill_spool(tmp_path / "s", 4, pictures=True)
    page = tmp_path / "page.html"
    with DavServer() as server, serving(server) as port:
        url = f"http://127.0.0.1:{port}/in"
        send_all(tmp_path / "s", url)

        def report(*words):
            server.gets.clear()
            code, out, error = cli("report", url, "--prefix", "fleet", "-o", page, *words)
            assert code == 0, error
            assert str(page) in out
            return [path for path in server.gets if path.endswith(".jpg")]

        assert len(report("--pictures", 3)) == 3
        first = page.read_text()
        assert first.count('<li class="frame"') == first.count("data:image/jpeg") == 3
        assert first.count('class="edge"') == 2  # the first of the order has no witness
        assert "Shown are 3 of 4 frames" in first
        assert "Made with untrained weights" in first
        assert "radius is promised" in first
        assert report("--pictures", 3) == []
        assert page.read_text() == first
        assert len(report()) == 1
        assert "Shown are" not in page.read_text()
        assert cli("report", url, "--prefix", "fleet", "-o", page, "--tag", "rain")[0] == 2


def test_what_anybody_wrote_into_a_sidecar_is_no_html(far, tmp_path, cli):
    for path in (far / "car-1" / "memory").glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "id": "<script>x</script>", "producer": "<b>"}))
    (far / "car-1").rename(far / "<i>car")
    assert cli("report", far, "-o", tmp_path / "page.html")[0] == 0
    text = (tmp_path / "page.html").read_text()
    assert text.count("<script>") == 1  # our own
    assert "<i>car" not in text
    assert "<b>," not in text


@pytest.mark.parametrize(
    "words", [("-f", "yolo"), ("-f", "mcap"), ("--vehicle", "car-9"), ("--config", "x.toml"), ("--tag", "rain")]
)
def test_what_cannot_be_meant_of_a_far_side_is_a_sentence(words, far, tmp_path, cli):
    code, _, error = cli("extract", far, "--to", tmp_path / "out", *words)
    assert code == 2, error
    assert not (tmp_path / "out").exists()
