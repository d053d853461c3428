import csv
import io
import json
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from typing import Any

import pytest

from geal_edge.config import UploadConfig
from geal_edge.errors import UploadError
from geal_edge.runtime.farside.cache import open_cache
from geal_edge.runtime.farside.frames import frame_of
from geal_edge.runtime.farside.reading import is_far_side, read_fleet
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.outbox import release_recorded
from geal_edge.runtime.picturesize import size_of
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.state import State
from geal_edge.runtime.upload import service
from geal_edge.runtime.upload.store import Listed, open_store
from tests.farside import DavServer, fill_spool, serving
from tests.sending import send_all

EVERYWHERE = ("file", "cover_radius", "vehicle", "trip", "key", "metadata", "context", "tags")
"""Of a line of `list` what a spool and the far side say each in their own way."""


@pytest.fixture(scope="module")
def all_sent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sent")
    (folder / "far").mkdir()
    for name, count in (("car-1", 6), ("car-2", 1)):
        fill_spool(folder / name, count, size=50)
        config = UploadConfig(to=str(folder / "far"), prefix="eu", vehicle=name)
        service.upload(folder / name, config, once=True, watch=Silent())
    return folder


@pytest.fixture
def sent(all_sent, tmp_path):
    """(spool, folder that two vehicles sent to with the prefix `eu`): car-1 has six frames, car-2 one."""
    shutil.copytree(all_sent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "car-1", tmp_path / "far"


def listed(cli, *words):
    code, out, error = cli("list", *words, "--json")
    assert code == 0, error
    return [json.loads(line) for line in out.splitlines()]


def shared(lines):
    return [{name: value for name, value in line.items() if name not in EVERYWHERE} for line in lines]


def test_the_far_side_tells_what_each_vehicle_sent_and_who_is_silent(sent, cli):
    _, far = sent
    (far / "eu" / "somebody.txt").write_text("not ours")
    _, out, _ = cli("status", far, "--prefix", "eu", "--json")
    found = json.loads(out)["vehicles"]
    assert [(v["vehicle"], v["trips"]) for v in found] == [("car-1", {"memory": 6}), ("car-2", {"memory": 1})]
    files = list((far / "eu" / "car-1" / "memory").iterdir())
    assert found[0]["bytes"] == sum(path.stat().st_size for path in files)
    assert found[0]["heartbeat"]["frames"]["seen"] == 6
    assert found[0]["rounds"] == [{"round": 1, "frames": 6}]
    assert sum(day["frames"] for day in found[0]["days"]) == 6
    for beat in (far / "eu" / "car-2" / "status").iterdir():
        os.utime(beat, (10**9, 10**9))
    for number, strange in enumerate(
        (
            b"[" * 4000,
            b'{"radius": 1%s}' % (b"0" * 400),
            b'{"radius": 1e999}',
            b'{"upload": [1]}',
            b'{"upload": {"waiting": {}}}',
            b"x" * 9000,
            b"\xff",
            b'{"budget": [{}]}',
        )
    ):
        (far / "eu" / f"odd-{number}" / "status").mkdir(parents=True)
        (far / "eu" / f"odd-{number}" / "status" / "now.json").write_bytes(strange)
    code, out, error = cli("status", far, "--prefix", "eu")
    assert code == 0, error
    assert [line[:5] for line in out.splitlines() if line.endswith("SILENT")] == ["car-2"]
    assert "SILENT" not in cli("status", far, "--prefix", "eu", "--silent-days", 10**5)[1]


def test_list_says_of_a_frame_that_arrived_what_its_spool_said(sent, cli):
    spool, far = sent
    lines = listed(cli, far, "--prefix", "eu", "--vehicle", "car-1")
    assert shared(lines) == shared(listed(cli, spool))
    assert all((far / line["key"]).stat().st_size == line["bytes"] for line in lines)
    assert len(listed(cli, far, "--prefix", "eu")) == 7
    assert len(listed(cli, far / "eu")) == 7  # the prefix may as well be a part of the place
    code, out, _ = cli("list", far, "--prefix", "eu")
    assert (code, len(out.splitlines())) == (0, 8)
    assert listed(cli, far / "eu", "--between", "2001-01-01", "2001-01-02") == []
    assert listed(cli, far / "eu", "--tag", "rain") == []
    code, _, error = cli("list", far / "eu", "--vehicle", "car-9")
    assert (code, "There are: car-1, car-2" in error) == (2, True)


def test_a_spool_and_a_folder_that_was_uploaded_to_are_told_apart(sent, cli, tmp_path):
    spool, far = sent
    assert not is_far_side(str(spool))
    assert is_far_side(str(far / "eu"))
    assert is_far_side("s3://bucket")
    assert "Is --prefix that of the uploads?" in cli("status", "file://" + str(far))[2]
    assert cli("list", spool, "--vehicle", "car-1")[0] == 2
    assert cli("list", far / "eu", "--retained")[0] == 2
    assert cli("status", far / "eu", "--watch")[0] == 2
    (tmp_path / "empty").mkdir()
    assert cli("status", tmp_path / "empty")[0] == 13
    assert cli("status", far)[2].endswith("Say it: --prefix eu\n")


def test_the_second_look_reads_what_is_new_alone_and_nothing_of_what_has_gone(tmp_path):
    fill_spool(tmp_path / "s", 9)
    with DavServer() as server, serving(server) as port, open_cache(State(folder=tmp_path / "state"), "u") as cache:
        url = f"http://127.0.0.1:{port}/"
        send_all(tmp_path / "s", url)

        def look():
            server.gets.clear()
            (vehicle,) = read_fleet(open_store(url), url=url, prefix="fleet", cache=cache).vehicles
            return len(vehicle.frames), len(server.gets)

        assert look() == (9, 9)
        assert look() == (9, 0)
        gone = next(path for path in server.files if path.endswith(".json"))
        data = server.files.pop(gone)
        assert look() == (8, 0)
        server.files[gone] = data
        assert look() == (9, 1)
    assert oct((tmp_path / "state" / "farside").stat().st_mode & 0o777) == "0o700"


def test_a_damaged_cache_is_no_more_than_a_slow_start(sent, cli, state_folder):
    _, far = sent
    listed(cli, far / "eu")
    (file,) = (state_folder / "farside").iterdir()
    file.write_bytes(b"x" * 5000)
    assert len(listed(cli, far / "eu")) == 7


def test_a_cache_that_another_process_keeps_to_itself_is_no_more_than_a_slow_look(tmp_path, monkeypatch):
    monkeypatch.setattr("geal_edge.runtime.farside.cache.BUSY_S", 0.0)
    with open_cache(State(folder=tmp_path), "s3://bucket") as cache:
        cache.put([("key", "1", b"data")])
        (file,) = (tmp_path / "farside").glob("*.db")
        with closing(sqlite3.connect(file)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert cache.get("key", "1") is None
            cache.put([("key", "2", b"data")])
            cache.forget_all_but("", [])
        assert cache.get("key", "1") == b"data"


def test_a_server_that_does_not_list_is_said_and_so_is_a_place_that_is_not_there(tmp_path, cli):
    with DavServer() as server, serving(server) as port:
        server.lists = False
        code, _, error = cli("status", f"http://127.0.0.1:{port}/in")
        assert (code, "PROPFIND answered 501" in error) == (29, True)
    code, _, error = cli("status", tmp_path / "far", "--prefix", "eu")
    assert (code, "there is no such folder" in error) == (29, True)
    assert cli("status", "ftp://host/path")[0] == 2


def test_a_frame_without_a_sidecar_is_on_its_way(sent, cli):
    _, far = sent
    next((far / "eu" / "car-2" / "memory").glob("*.json")).unlink()
    _, out, _ = cli("status", far / "eu", "--json")
    (_, second) = json.loads(out)["vehicles"]
    assert (second["frames"], second["unnamed"]["objects"]) == (0, 1)
    assert "car-2: 1 objects" in cli("status", far / "eu")[1]


HOSTILE: dict[str, Any] = {
    "not JSON": b"{",
    "too deep": b"[" * 10**5,
    "of somebody else": b"{}",
    "too large": b"[" + b" " * (1 << 20) + b"]",
    "another schema": {"schema": "geal-edge/sidecar/9"},
    "a way out": {"key": "../../../etc/passwd"},
    "a frame of another trip": {"key": "eu/car-1/other/" + "0" * 64 + ".bin"},
    "no number": {"order": "1"},
    "a flag for a number": {"round": True},
    "a number beyond all": {"frame_index": 10**30},
    "NaN": {"distance": float("nan")},
    "a distance beyond floats": {"distance": 10**400},
    "a distance that no two rows have": {"radius": 1e308},
    "less than nothing": {"novelty": -1.0},
    "half a letter": {"id": "\ud800"},
    "no text": {"id": ["a"]},
    "a long text": {"id": "a" * 10**5},
    "a patch outside": {"witness": {"patches": [10**6], "grid": [2, 4]}},
    "a grid of three": {"witness": {"patches": [], "grid": [2, 4, 1]}},
    "tags of numbers": {"tags": [1]},
    "no digest": {"sha256": "../x"},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_sidecar_is_named_and_the_others_are_read(what, sent, cli):
    _, far = sent
    path = next((far / "eu" / "car-1" / "memory").glob("*.json"))
    wrong = HOSTILE[what]
    whole = json.loads(path.read_bytes())
    path.write_bytes(wrong if isinstance(wrong, bytes) else json.dumps({**whole, **wrong}).encode())
    code, out, error = cli("list", far / "eu")
    assert (code, len(out.splitlines())) == (0, 7), error
    assert f"{path.name}: passed over" in error.replace("\n", "")


def test_an_id_on_the_far_side_moves_no_cursor(sent, cli):
    _, far = sent
    path = next((far / "eu" / "car-2" / "memory").glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "id": "a\x1b[2Jb\nc"}))
    assert "a?[2Jb; c" in cli("list", far / "eu", "--vehicle", "car-2")[1]


def test_an_id_on_the_far_side_is_no_formula_for_a_spreadsheet(sent, cli):
    _, far = sent
    path = next((far / "eu" / "car-2" / "memory").glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "id": "=1+1\x1b"}))
    (row,) = csv.DictReader(io.StringIO(cli("list", far / "eu", "--vehicle", "car-2", "--csv")[1]))
    assert row["id"] == "'=1+1?"


def test_a_far_side_whose_clock_is_ahead_has_heard_of_nobody_in_the_future(sent, cli):
    _, far = sent
    now = datetime.now(timezone.utc).timestamp()
    for beat in (far / "eu" / "car-2" / "status").iterdir():
        os.utime(beat, (now + 600, now + 600))
    assert "-0.0" not in cli("status", far, "--prefix", "eu")[1]


def test_a_number_that_nobody_could_write_down_again_is_passed_over(sent, cli):
    _, far = sent
    path = next((far / "eu" / "car-2" / "memory").glob("*.json"))
    path.write_bytes(
        json.dumps({**json.loads(path.read_bytes()), "metadata": {"a": 7}}).replace(" 7}", " 1e999}").encode()
    )
    code, out, error = cli("list", far / "eu", "--json")
    assert (code, len(out.splitlines())) == (0, 6), error
    assert "passed over, Out of range" in error.replace("\n", " ")


@pytest.mark.parametrize("name", ["a\nb", "a\x01b", "a\udc80"])
def test_a_vehicle_whose_name_no_uploader_gives_is_not_ours(name, sent, cli):
    _, far = sent
    (far / "eu" / "car-2").rename(far / "eu" / name)
    code, out, error = cli("status", far / "eu", "--json")
    assert code == 0, error
    assert [vehicle["vehicle"] for vehicle in json.loads(out)["vehicles"]] == ["car-1"]


def test_an_older_sidecar_is_read_without_what_it_lacks():
    key = f"car-1/trip/{'0' * 64}"
    facts = {
        "schema": "geal-edge/sidecar/1", "key": f"{key}.jpg", "order": 3, "round": 1, "unit": "a", "id": "a",
        "sha256": "0" * 64, "source": "cam", "frame_index": 4, "witness": {"patches": [], "grid": [2, 4]},
        "producer": "p", "bundle": "b", "feature_space": "f", "preset": "geal",
    }  # fmt: skip
    came = datetime(2026, 5, 11, tzinfo=timezone.utc)
    sidecar = Listed(key=f"{key}.json", bytes=1, modified=came)
    frame = frame_of(
        sidecar, json.dumps(facts).encode(), {f"{key}.jpg": Listed(key=f"{key}.jpg", bytes=7, modified=came)}
    )
    assert (frame.bytes, frame.size, frame.tags, frame.distance, frame.metadata) == (7, None, (), None, {})
    assert frame.seen_ns == came.timestamp() * 1e9
    assert frame.untrained  # where it is not said, nobody may take it for trained


def test_requests_that_are_refused_are_said_as_such(sent):
    spool, _ = sent
    with DavServer() as server, serving(server) as port:
        store = open_store(f"http://127.0.0.1:{port}/")
        with pytest.raises(UploadError, match="no such bucket or folder"):
            store.get("nothing.json")
        server.files["/large.json"] = b"x" * 100
        with pytest.raises(UploadError, match="more than 50"):
            store.get("large.json", at_most=50)
    release_recorded(spool)
    with open_view(spool) as view:
        assert view.counts()[0]["sent"] == 6


def test_the_size_of_a_picture_is_read_from_its_header_as_people_see_it(tmp_path):
    from io import BytesIO

    from PIL import Image

    for orientation, expected in ((1, (30, 20)), (6, (20, 30))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = BytesIO()
        Image.new("RGB", (30, 20)).save(file, "JPEG", exif=exif)
        assert size_of(file.getvalue()) == expected
        for cut in range(150):
            assert size_of(file.getvalue()[:cut]) in (None, expected)
    file = BytesIO()
    Image.new("L", (30, 20)).save(file, "PNG")
    assert size_of(file.getvalue()) == (30, 20)
    assert size_of(b"BM") is None
