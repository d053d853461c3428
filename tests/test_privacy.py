"""What must not be seen: hooks, positions, and every way out of a spool."""

import json
import os
import shutil
import sqlite3
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geal_edge.config import PrivacyConfig, UploadConfig
from geal_edge.errors import ConfigError, FrameError, PrivacyError, UploadError, UsageError
from geal_edge.runtime import pipeline
from geal_edge.runtime.erasure import Rule, erase
from geal_edge.runtime.extract import extract
from geal_edge.runtime.frame import usable
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.live.ring import Glimpse
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.outbox import Outbox, Receipt, release_recorded
from geal_edge.runtime.privacy.filter import About, PrivacyFilter
from geal_edge.runtime.privacy.picture import cleaned
from geal_edge.runtime.repair import repair
from geal_edge.runtime.report import write_report
from geal_edge.runtime.service import changes, require_reloadable
from geal_edge.runtime.settings import read_configuration
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.sources.images import decode_image
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.upload import service
from geal_edge.runtime.upload.uploader import PRIVACY_AGAIN_S, Step
from geal_edge.runtime.why import sentence, why
from tests import hooks
from tests.fakes import Clock, Died, MemorySource, dying_disk, judge
from tests.farside import DavServer, serving
from tests.hooks import CALLS, LAT, LON, MARK, gps, noise, private_frame, seen, talkative
from tests.recordings import compressed, write_mcap
from tests.streams import random_stream
from tests.test_context import glimpses
from tests.test_outbox import settings
from tests.test_settings import RIGHT
from tests.test_upload import sender  # noqa: F401 - a fixture

ABOUT = About(id="memory#0", source="memory", capture_time_ns=7)
BLACK = PrivacyConfig(python="tests.hooks:black", when="upload")
BROKEN = PrivacyConfig(python="tests.hooks:fails", when="upload")
EXAMPLE = Path(__file__).parent.parent / "examples" / "privacy_blur.py"


def passes(**config) -> PrivacyFilter:
    return PrivacyFilter(PrivacyConfig(**config))


def fill(path, privacy: PrivacyConfig | None = None, *, count=3, context=False):
    """A spool of recorded frames, all of which are selected and released."""
    with Spool(
        path, settings(budget=count), monotonic=Clock(), privacy=PrivacyFilter(privacy or PrivacyConfig())
    ) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(random_stream(0, count, dim=64, most=1)):
            unit = ladder.next_unit
            judge(spool, ladder, private_frame(index), clusters)
            if context:
                near = [Glimpse(capture_time_ns=n, data=talkative(noise(50 + n)), ending="jpg") for n in (1, 2)]
                spool.add_context(unit, 0, near)
        spool.finish_source("memory")
    release_recorded(path)
    return path


def stored(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((path / "frames").iterdir())}


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def send(path, to, privacy: PrivacyConfig | None = None, **more) -> service.Uploaded:
    to.mkdir(exist_ok=True)
    config = UploadConfig(to=str(to), vehicle="car-1", metered="no")
    passed = None if privacy is None else PrivacyFilter(privacy)
    return service.upload(path, config, once=True, privacy=passed, watch=Silent(), **more)


def arrived(to: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in to.rglob("*.jpg")}


def sidecars(to: Path):
    found = [json.loads(file.read_bytes()) for file in (to / "car-1" / "memory").rglob("*.json")]
    return sorted(found, key=lambda each: each["order"])


def problems(path):
    with open_view(path) as view:
        return [problem for problem in view.check() if not problem.harmless]


def is_black(data: bytes) -> bool:
    return not seen(data).any()


# -- one picture -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "ending"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
@pytest.mark.parametrize("orientation", [1, 6])
def test_of_a_file_stay_pixels_turn_and_what_may_be_told_of_the_position(form, ending, orientation):
    data = talkative(noise(1), form, orientation=orientation)
    before = decode_image(data)
    for position in ("keep", "coarsen", "strip"):
        after = cleaned(data, position)
        assert MARK not in after
        assert b"2026:05:11" not in after or position == "keep"
        assert np.array_equal(decode_image(after).image, before.image)
        assert decode_image(after).encoding == ending
        assert cleaned(after, position) == after
        found = gps(after)
        if position == "keep":
            assert [float(part) for part in found[2]] == [float(part) for part in gps(data)[2]]
        elif position == "coarsen":
            assert (found[1], [float(part) for part in found[2]]) == ("N", [48.14, 0.0, 0.0])
            assert (found[3], [float(part) for part in found[4]]) == ("E", [11.58, 0.0, 0.0])
        else:
            assert found == {}


def test_a_file_that_is_built_otherwise_is_no_picture_that_may_leave():
    for data in (
        b"",
        b"bytes",
        b"\xff\xd8\xff\xe1\x00\x04ab and no marker",
        b"\x89PNG\r\n\x1a\n\0\0\0\0",
        b"RIFF\x04\0\0\0WEBP",
    ):
        with pytest.raises(FrameError) as refused:
            cleaned(data, "strip")
        assert refused.value.reason == "privacy"


def test_a_plain_picture_of_ours_stays_as_it_is_byte_for_byte():
    assert cleaned(encode(noise(1), "jpg"), "strip") == encode(noise(1), "jpg")
    assert cleaned(encode(noise(1), "png"), "strip") == encode(noise(1), "png")


def test_a_function_gets_upright_pixels_and_a_file_of_the_same_form_comes_out():
    CALLS.clear()
    for form, ending in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
        data = talkative(noise(1), form, orientation=6)
        out = passes(python="tests.hooks:black")(data, ending, ABOUT, position="coarsen")
        assert decode_image(out).encoding == ending
        assert not decode_image(out).image.any()
        assert MARK not in out
        assert float(gps(out)[2][0]) == 48.14
    assert CALLS == [(32, 24, 3)] * 3


def test_a_command_gets_the_file_and_little_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    script = tmp_path / "hook.py"
    script.write_text(
        "import json, os, sys\n"
        f"json.dump(dict(os.environ), open({str(tmp_path / 'env')!r}, 'w'))\n"
        "sys.stdout.buffer.write(sys.stdin.buffer.read())\n"
    )
    data = talkative(noise(1))
    about = About(id="a\0b\ud800#1", source="s", capture_time_ns=7)
    out = passes(command=(sys.executable, str(script)))(data, "jpg", about, position="strip")
    assert np.array_equal(seen(out), seen(data))
    assert MARK not in out  # the command gave it back, thumbnail and all
    environ = json.loads((tmp_path / "env").read_text())
    assert environ["GEAL_EDGE_FRAME_ID"] == "ab\\ud800#1"
    assert (environ["GEAL_EDGE_FRAME_SOURCE"], environ["GEAL_EDGE_CAPTURE_TIME_NS"]) == ("s", "7")
    assert "AWS_SECRET_ACCESS_KEY" not in environ


OTHER = "other.jpg"
WRONG_HOOKS: list[tuple[dict[str, Any], str]] = [
    ({"command": ("other.sh",)}, "other.sh cannot be started (Exec format error)."),
    ({"command": ("false",)}, "false ended with 1."),
    ({"command": ("ls", "/no/such/folder")}, "No such file or directory"),
    ({"command": ("true",)}, "what the hook wrote is no picture: the image has 0 bytes."),
    ({"command": ("echo", "garbage")}, "what the hook wrote is no picture"),
    ({"command": ("cat", OTHER)}, "the hook made uint8 9x9x3 of uint8 24x32x3"),
    ({"command": ("cat", "other.png")}, "the hook wrote png for jpg"),
    ({"command": ("sleep", "600"), "timeout_s": 0.2}, "sleep took longer than 0.2 s, and was ended."),
    ({"command": ("sh", "-c", "sleep 600 & echo x"), "timeout_s": 0.2}, "sh took longer than 0.2 s"),
    ({"command": ("cat", "/dev/zero")}, "it wrote more than 64000000 bytes."),
    ({"python": "tests.hooks:fails"}, "tests.hooks:fails raised RuntimeError('the detector has no weights')."),
    ({"python": "tests.hooks:leaves"}, "tests.hooks:leaves raised SystemExit(3)."),
    ({"python": "tests.hooks:smaller"}, "the hook made uint8 23x32x3 of uint8 24x32x3"),
    ({"python": "tests.hooks:floats"}, "the hook made float32 24x32x3 of uint8 24x32x3"),
    ({"python": "tests.hooks:nothing"}, "tests.hooks:nothing gave NoneType, and no array."),
]


@pytest.mark.parametrize(("config", "words"), WRONG_HOOKS, ids=[str(next(iter(c.values()))) for c, _ in WRONG_HOOKS])
def test_a_hook_that_does_not_do_its_work_gives_no_picture_and_a_sentence(config, words, tmp_path):
    (tmp_path / OTHER).write_bytes(talkative(noise(1, 9, 9)))
    (tmp_path / "other.sh").write_bytes(b"\0 no program")
    (tmp_path / "other.sh").chmod(0o700)
    (tmp_path / "other.png").write_bytes(talkative(noise(1), "PNG"))
    if "command" in config:
        config = {
            **config,
            "command": tuple(str(tmp_path / w) if w.startswith("other") else w for w in config["command"]),
        }
    with pytest.raises(FrameError) as refused:
        passes(**config)(talkative(noise(1)), "jpg", ABOUT, position="keep")
    assert refused.value.reason == "privacy"
    assert words in refused.value.detail


def test_a_function_that_hangs_is_left_behind_and_not_asked_again(monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(hooks, "hangs", lambda image: (go_on.wait(), image)[1], raising=False)
    hook = passes(python="tests.hooks:hangs", timeout_s=0.1)
    for words in ("took longer than 0.1 s", "is still busy with an earlier picture"):
        with pytest.raises(FrameError, match=words):
            hook(talkative(noise(1)), "jpg", ABOUT, position="keep")
    go_on.set()


@pytest.mark.parametrize(
    "name", ["no.such.module:blur", "tests.hooks:no_such_function", "tests.hooks:MARK", "leaving:blur"]
)
def test_a_function_that_is_none_is_said_before_anything_begins(name, tmp_path, monkeypatch):
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"privacy\.python = "):
        passes(python=name)
    with pytest.raises(UsageError, match="is no program that can be run here"):
        passes(command=("/no/such/hook",))


def test_the_example_blurs_the_lower_third_as_function_and_as_command(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    data = talkative(noise(3, 60, 80), "PNG")
    by_function = passes(python="privacy_blur:blur_lower_third")(data, "png", ABOUT, position="strip")
    by_command = passes(command=(sys.executable, str(EXAMPLE)), timeout_s=60.0)(data, "png", ABOUT, position="strip")
    assert np.array_equal(seen(by_function), seen(by_command))
    assert np.array_equal(seen(by_function)[:40], seen(data)[:40])
    assert len(np.unique(seen(by_function)[40:])) < len(np.unique(seen(data)[40:]))
    assert float(np.abs(np.diff(seen(by_function)[40:].astype(float), axis=1)).mean()) < 5.0


# -- when = "append" ---------------------------------------------------------------------------------------------------


def test_with_append_nothing_unblurred_is_ever_in_the_spool_context_included(tmp_path):
    config = PrivacyConfig(python="tests.hooks:black", position="coarsen")
    path = fill(tmp_path / "s", config, context=True)
    assert len(stored(path)) == 9
    assert all(is_black(data) for data in stored(path).values())
    assert MARK not in everything(path)
    with open_view(path) as view:
        assert [frame.metadata for frame in view.retained()] == [
            {"lat": 48.14, "gps": {"lon": 11.58}, "speed_kmh": 31.5}
        ] * 3
        assert [e["now"]["hook"] for e in view.events() if e["name"] == "privacy_changed"] == ["tests.hooks:black"]
    with closing(sqlite3.connect(path / "spool.db")) as db:
        assert str(LAT) not in str(db.execute("SELECT * FROM metadata").fetchall())
    assert problems(path) == []
    send(path, tmp_path / "far")  # nobody need say the hook: it did its work
    assert all(is_black(data) for data in arrived(tmp_path / "far").values())


def test_with_append_a_frame_on_which_the_hook_fails_is_lost_and_nothing_of_it_is_stored(tmp_path):
    path = fill(tmp_path / "s", PrivacyConfig(python="tests.hooks:fails"))
    assert stored(path) == {}
    with open_view(path) as view:
        frames, lost = view.counts()
        assert (frames["seen"], lost) == (3, {"privacy": 3})
        assert [event["reason"] for event in view.events() if event["name"] == "frame_lost"] == ["privacy"]
        assert "lost, privacy: tests.hooks:fails raised" in sentence(why(view, "memory#1"))
    assert problems(path) == []


def test_context_on_which_the_hook_fails_is_left_out_and_its_unit_stays(tmp_path):
    with Spool(tmp_path / "s", settings(), privacy=passes(python="tests.hooks:black")) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        judge(spool, ladder, private_frame(0), random_stream(0, 1)[0])
        good = Glimpse(capture_time_ns=1, data=talkative(noise(5)), ending="jpg")
        assert spool.add_context(1, 0, [*glimpses(1), good])  # the first is no picture
    assert sorted(stored(tmp_path / "s")) == ["00000001.c00.jpg", "00000001.jpg"]
    with open_view(tmp_path / "s") as view:
        [event] = [event for event in view.events() if event["name"] == "context_left_out"]
        assert (event["cause"], event["pictures"]) == ("privacy", 1)


def test_a_shadow_runs_no_hook(tmp_path):
    CALLS.clear()
    with Spool(tmp_path / "s", settings(shadow=True), privacy=passes(python="tests.hooks:black")) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        judge(spool, ladder, private_frame(0), random_stream(0, 1)[0])
    assert CALLS == []


@pytest.mark.parametrize(("hook", "lost"), [("black", 0), ("fails", 4)])
def test_a_run_stores_what_the_hook_gave_and_goes_on_where_it_fails(tmp_path, encoder, hook, lost):
    folder = tmp_path / "drive"
    folder.mkdir()
    for index in range(4):
        (folder / f"{index}.jpg").write_bytes(talkative(noise(index, 48, 64)))
    privacy = PrivacyConfig(python=f"tests.hooks:{hook}")
    sources = [open_source(str(folder))]
    pipeline.run(sources, encoder=encoder, spool_path=tmp_path / "s", budget=4, privacy=privacy, watch=Silent())
    with open_view(tmp_path / "s") as view:
        frames, reasons = view.counts()
        assert (frames["seen"], reasons.get("privacy", 0)) == (4, lost)
        assert len(view.retained()) == len(stored(tmp_path / "s")) == frames["retained"] > 0 or lost
    assert all(is_black(data) for data in stored(tmp_path / "s").values())


# -- when = "upload" ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [False, True])
def test_with_upload_only_what_the_hook_made_leaves_and_its_hash_is_the_key(tmp_path, context):
    path = fill(tmp_path / "s", BLACK, context=context)
    assert not any(is_black(data) for data in stored(path).values())
    assert send(path, tmp_path / "far", BLACK).sent == 3
    found = arrived(tmp_path / "far")
    assert all(is_black(data) for data in found.values())
    told = sidecars(tmp_path / "far")
    assert {each["id"] for each in told} == {"memory#0", "memory#1", "memory#2"}
    for each in told:
        assert each["key"].rpartition("/")[2].startswith(each["sha256"])
        assert len(found[each["key"].rpartition("/")[2]]) == each["bytes"]
        assert len(each["context"]) == 2 * context
        assert each["privacy"] == {"hook": "tests.hooks:black", "position": "keep"}
    assert len({each["key"] for each in told}) == 3  # all black alike, and none hides another
    assert (stored(path), problems(path)) == ({}, [])


def test_what_it_made_goes_to_a_server_byte_for_byte(tmp_path):
    path = fill(tmp_path / "s", BLACK)
    server = DavServer()
    with server, serving(server) as port:
        config = UploadConfig(to=f"http://127.0.0.1:{port}/dav", vehicle="car-1", metered="no")
        service.upload(path, config, once=True, privacy=PrivacyFilter(BLACK), watch=Silent())
    pictures = [data for key, data in server.files.items() if key.endswith(".jpg")]
    assert len(pictures) == 3
    assert all(map(is_black, pictures))


def test_a_spool_filled_without_a_hook_passes_one_that_the_uploader_is_given(tmp_path):
    path = fill(tmp_path / "s")
    send(path, tmp_path / "far", PrivacyConfig(python="tests.hooks:black", position="strip", when="append"))
    assert all(is_black(data) for data in arrived(tmp_path / "far").values())
    assert [each["metadata"] for each in sidecars(tmp_path / "far")] == [{"speed_kmh": 31.5}] * 3


@pytest.mark.parametrize("own", [None, PrivacyConfig()])
def test_who_does_not_say_the_hook_sends_nothing(tmp_path, own):
    path = fill(tmp_path / "s", BLACK)
    with pytest.raises(PrivacyError, match=r"must pass tests\.hooks:black before they leave") as refused:
        send(path, tmp_path / "far", own)
    assert refused.value.exit_code == 25
    assert arrived(tmp_path / "far") == {}
    assert len(stored(path)) == 3


def test_a_hook_that_was_taken_out_guards_what_was_stored_under_it(tmp_path):
    path = fill(tmp_path / "s", BLACK)
    with Spool(path, settings(budget=3), monotonic=Clock(), privacy=PrivacyFilter(PrivacyConfig())):
        pass
    with pytest.raises(PrivacyError):
        send(path, tmp_path / "far", PrivacyConfig())


def test_a_hook_of_a_later_run_guards_what_was_stored_before_whoever_sends_it(tmp_path):
    path = fill(tmp_path / "s")
    with Spool(path, settings(budget=3), monotonic=Clock(), privacy=PrivacyFilter(BLACK)):
        pass
    with pytest.raises(PrivacyError):
        send(path, tmp_path / "far", PrivacyConfig())
    send(path, tmp_path / "far", BLACK)
    assert all(is_black(data) for data in arrived(tmp_path / "far").values())


def test_a_unit_on_which_the_hook_fails_stays_and_is_tried_again_in_an_hour(tmp_path, sender, monkeypatch):  # noqa: F811
    path = fill(tmp_path / "s", BROKEN)
    with Outbox(path, privacy=PrivacyFilter(BROKEN)) as outbox:
        uploader = sender.uploader(outbox)
        assert [uploader.step() for _ in range(4)] == [Step.SET_ASIDE] * 3 + [Step.IDLE]
        with open_view(path) as view:
            words = sentence(why(view, "memory#1"))
            events = [event["name"] for event in view.events()]
        assert "set aside (privacy), since 00000002.jpg: tests.hooks:fails raised RuntimeError" in words
        assert "It is tried again every hour, and when the uploader starts" in words
        assert events.count("set_aside") == 3
        sender.clock.advance(PRIVACY_AGAIN_S)
        assert [uploader.step() for _ in range(4)] == [Step.SET_ASIDE] * 3 + [Step.IDLE]
        with open_view(path) as view:  # the same again is no news
            assert [event["name"] for event in view.events()] == events
    assert len(stored(path)) == 3
    assert send(path, tmp_path / "far", BLACK).sent == 3
    assert all(is_black(data) for data in arrived(tmp_path / "far").values())


def test_a_kill_between_storing_the_output_and_sending_sends_the_same_bytes(tmp_path):
    path = fill(tmp_path / "s", BLACK, count=1, context=True)
    with Outbox(path, privacy=PrivacyFilter(BLACK)) as outbox:
        outgoing = outbox.next()
        assert outgoing is not None
        made = outbox.guarded(outgoing)
    assert [frame.file.name for frame in made.frames] == ["00000001.p00.jpg"]
    assert [item.file.name for item in made.context] == ["00000001.p01.jpg", "00000001.p02.jpg"]
    assert problems(path) == []
    before = stored(path)
    CALLS.clear()
    send(path, tmp_path / "far", BLACK)
    assert CALLS == []  # not even asked again, though it may answer otherwise
    assert set(arrived(tmp_path / "far").values()) == {data for name, data in before.items() if ".p" in name[8:10]}
    assert stored(path) == {}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (PrivacyConfig(position="coarsen", when="upload"), BLACK),
        (PrivacyConfig(position="coarsen", when="upload"), PrivacyConfig(position="strip", when="upload")),
        (BLACK, replace(BLACK, position="strip")),
        (replace(BLACK, python="tests.hooks:half_black"), BLACK),
    ],
)
def test_an_output_of_a_rule_that_asked_for_less_is_made_anew_and_never_leaves(tmp_path, first, then):
    path = fill(tmp_path / "s", first, count=1, context=True)
    with Outbox(path, privacy=PrivacyFilter(first)) as outbox:
        outgoing = outbox.next()
        assert outgoing is not None
        outbox.guarded(outgoing)
    extract(path, tmp_path / "x", format_name="images", privacy=PrivacyFilter(then))
    send(path, tmp_path / "far", then)
    assert (stored(path), problems(path)) == ({}, [])
    out = [*arrived(tmp_path / "far").values(), *(file.read_bytes() for file in (tmp_path / "x").rglob("*.jpg"))]
    assert len(out) >= 2
    for data in out:
        assert is_black(data) or then.python is None
        assert gps(data) == {} or then.position == "keep"


def test_outputs_of_a_version_that_did_not_note_what_they_passed_are_made_anew(tmp_path):
    path = fill(tmp_path / "s", BLACK, count=1)
    with closing(sqlite3.connect(path / "spool.db", isolation_level=None)) as db:
        db.execute(
            "CREATE TABLE guarded (unit INTEGER NOT NULL, original TEXT NOT NULL, file TEXT NOT NULL, bytes INTEGER NOT NULL, "
            "sha256 TEXT NOT NULL, earlier INTEGER NOT NULL, PRIMARY KEY (unit, original)) WITHOUT ROWID"
        )
        db.execute("INSERT INTO guarded VALUES (1, '00000001.jpg', '00000001.p00.jpg', 3, 'x', 0)")
    (path / "frames" / "00000001.p00.jpg").write_bytes(b"old")
    extract(path, tmp_path / "x", format_name="images", privacy=PrivacyFilter(BLACK))
    send(path, tmp_path / "far", BLACK)
    assert (stored(path), problems(path)) == ({}, [])
    assert all(is_black(file.read_bytes()) for file in tmp_path.glob("[xf]*/**/*.jpg"))


def test_a_kill_at_any_operation_of_guarding_and_sending_loses_nothing_and_lets_nothing_out(tmp_path, monkeypatch):
    whole = fill(tmp_path / "whole", BLACK, count=1, context=True)

    def guard_and_send(path, to):
        with Outbox(path, privacy=PrivacyFilter(BLACK)) as outbox:
            while (outgoing := outbox.next()) is not None:
                made = outbox.guarded(outgoing)
                for frame in made.frames:
                    to.append((frame.id, frame.sha256, is_black(frame.file.read_bytes())))
                outbox.acknowledge(made, [Receipt(key=frame.sha256, verified="size") for frame in made.frames])

    shutil.copytree(whole, tmp_path / "counted")
    with dying_disk(monkeypatch) as disk:
        guard_and_send(tmp_path / "counted", [])
    assert disk.count > 20
    for at in range(0, disk.count, 3):  # tests/powerloss dies at every one
        path = tmp_path / f"s{at}"
        shutil.copytree(whole, path)
        got: list[tuple[str, str, bool]] = []
        with pytest.raises(Died), dying_disk(monkeypatch, at=at):
            guard_and_send(path, got)
        assert problems(path) == []
        guard_and_send(path, got)
        assert len({(id_, digest) for id_, digest, _ in got}) == 1  # the same bytes at every try
        assert all(black for _, _, black in got)
        assert stored(path) == {}
        shutil.rmtree(path)


def test_an_output_of_a_unit_that_was_too_old_meanwhile_is_removed_and_not_sent(tmp_path):
    path = fill(tmp_path / "s", BLACK, count=1)
    with Outbox(path, privacy=PrivacyFilter(BLACK)) as outbox:
        outgoing = outbox.next()
        assert outgoing is not None
        with closing(sqlite3.connect(path / "spool.db", isolation_level=None)) as db:
            db.execute("UPDATE units SET state = 'expired'")
        with pytest.raises(UploadError, match="too old"):
            outbox.guarded(outgoing)
    assert not [name for name in stored(path) if ".p0" in name]


# -- other ways out ----------------------------------------------------------------------------------------------------


def test_no_other_module_knows_where_pictures_lie_so_that_none_gives_them_away_past_the_hook():
    package = Path(hooks.__file__).parents[1] / "geal_edge"
    knows = {file.name for file in package.rglob("*.py") if "FRAMES /" in file.read_text()}
    writers = {"spool.py", "outbox.py", "erasure.py", "repair.py", "soundness.py"}
    assert knows - writers == {
        "leaving.py",  # the way out
        "outgoing.py",  # of the uploader, which asks Outbox.guarded first
        "spoolview.py",  # names them, for lists and for StoredFrame.leaving
        "migration.py",  # encodes them again
    }


def test_extract_and_report_give_what_the_hook_gives_or_refuse(tmp_path):
    path = fill(tmp_path / "s", BLACK, context=True)
    with pytest.raises(PrivacyError, match="--config FILE"):
        extract(path, tmp_path / "x", format_name="images")
    with pytest.raises(PrivacyError):
        write_report(path, tmp_path / "r.html")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "r.html").exists()
    extract(path, tmp_path / "x", format_name="images", privacy=PrivacyFilter(BLACK))
    pictures = list((tmp_path / "x").rglob("*.jpg"))
    assert len(pictures) == 9
    assert all(is_black(file.read_bytes()) for file in pictures)
    CALLS.clear()
    write_report(path, tmp_path / "r.html", privacy=PrivacyFilter(BLACK))
    assert len(CALLS) == 3
    with pytest.raises(PrivacyError, match="messages as they were recorded"):
        extract(path, tmp_path / "m", format_name="mcap", privacy=PrivacyFilter(BLACK))


def test_extract_uses_the_output_that_is_stored(tmp_path):
    path = fill(tmp_path / "s", BLACK, count=1)
    with Outbox(path, privacy=PrivacyFilter(BLACK)) as outbox:
        outgoing = outbox.next()
        assert outgoing is not None
        made = outbox.guarded(outgoing)
    extract(path, tmp_path / "x", format_name="images")  # nobody need say the hook
    [picture] = (tmp_path / "x").rglob("*.jpg")
    assert picture.read_bytes() == made.frames[0].file.read_bytes()


@pytest.mark.parametrize("when", ["append", "upload"])
def test_a_position_that_is_coarse_is_so_in_pictures_lists_and_sidecars(tmp_path, when):
    config = PrivacyConfig(position="coarsen", when=when)
    path = fill(tmp_path / "s", config)
    coarse = {"lat": 48.14, "gps": {"lon": 11.58}, "speed_kmh": 31.5}
    with open_view(path) as view:
        assert [line["metadata"] for line in view.list_lines()] == [coarse] * 3
    extract(path, tmp_path / "x", format_name="images")  # no hook is asked for, so nobody need say one
    send(path, tmp_path / "far")
    assert [each["metadata"] for each in sidecars(tmp_path / "far")] == [coarse] * 3
    for data in [*arrived(tmp_path / "far").values(), *(file.read_bytes() for file in (tmp_path / "x").rglob("*.jpg"))]:
        assert float(gps(data)[2][0]) == 48.14
        assert MARK not in data
    for text in (str(LAT), str(LON)):
        assert text.encode() not in everything(tmp_path / "far") + everything(tmp_path / "x")


def test_what_a_hook_made_too_large_for_a_metered_link_waits(tmp_path, sender, monkeypatch):  # noqa: F811
    monkeypatch.setattr(hooks, "same", lambda image: image, raising=False)
    monkeypatch.setattr("geal_edge.runtime.privacy.filter.encode", lambda image, _: encode(image, "jpg") + bytes(9000))
    monkeypatch.setattr("geal_edge.runtime.privacy.filter.cleaned", lambda data, *_, **__: data)
    config = PrivacyConfig(python="tests.hooks:same", when="upload")
    path = fill(tmp_path / "s", config, count=2)
    with Outbox(path, privacy=PrivacyFilter(config)) as outbox:
        outgoing = outbox.next()
        assert outgoing is not None
        monkeypatch.setattr("geal_edge.runtime.upload.uploader.SMALL_BYTES", outgoing.bytes + 8000)
        uploader = sender.uploader(outbox, metered="yes")
        assert [uploader.step() for _ in range(3)] == [Step.WAITING, Step.WAITING, Step.METERED]
        assert sender.store.objects == {}
        assert sender.uploader(outbox, metered="no").step() is Step.SENT


def test_a_position_is_told_by_whoever_lets_it_out_as_its_own_configuration_has_it(tmp_path):
    path, strip = fill(tmp_path / "s"), PrivacyFilter(PrivacyConfig(position="strip", when="upload"))
    extract(path, tmp_path / "x", format_name="images", privacy=strip)
    write_report(path, tmp_path / "x" / "r.html", privacy=strip)
    assert b"speed_kmh" in everything(tmp_path / "x")
    for text in (str(LAT), str(LON)):
        assert text.encode() not in everything(tmp_path / "x")


def test_check_knows_outputs_and_erase_repair_and_the_quota_count_them(tmp_path):
    path = fill(tmp_path / "s", BLACK, count=2)
    with Outbox(path, privacy=PrivacyFilter(BLACK)) as outbox:
        outgoing = outbox.next()
        assert outgoing is not None
        with open_view(path) as view:
            before = view.disk()["used_bytes"]
        made = outbox.guarded(outgoing)
        with open_view(path) as view:
            assert view.disk()["used_bytes"] >= before + made.frames[0].bytes
    output = made.frames[0].file
    output.write_bytes(b"altered")
    [problem] = problems(path)
    assert (problem.kind, output.name in problem.detail) == ("altered", True)
    assert [mended.kind for mended in repair(path)] == ["altered"]
    assert (problems(path), len(stored(path))) == ([], 2)
    with Outbox(path, privacy=PrivacyFilter(BLACK)) as outbox:
        again = outbox.guarded(outgoing)
        outbox.set_aside(again, reason="refused", detail=f"no room for {again.frames[0].sha256}.jpg")
    erase(path, Rule(id=made.frames[0].id), sure=lambda _: True)
    assert len(stored(path)) == 1
    assert again.frames[0].sha256.encode() not in everything(path)
    assert problems(path) == []


def test_a_bag_keeps_pictures_for_itself_that_say_where_they_were_taken(tmp_path):
    bag = tmp_path / "drive.mcap"
    write_mcap(bag, [compressed(0), compressed(1, data=talkative(noise(1)))])
    source = open_source(str(bag))
    with Spool(tmp_path / "s", settings(budget=2), monotonic=Clock(), privacy=passes(position="strip")) as spool:
        ladder = spool.ladder()
        spool.begin_source(source)
        for item, clusters in zip(source.frames(), random_stream(0, 2, dim=64, most=1), strict=True):
            judge(spool, ladder, usable(item), clusters)
        spool.finish_source(source.name)
    summary = extract(tmp_path / "s", tmp_path / "m", format_name="mcap")
    assert (summary.frames, len(summary.left_out)) == (1, 1)
    assert "says more than what is seen" in summary.left_out[0].why
    assert MARK not in everything(tmp_path / "m")


@pytest.mark.parametrize("when", ["append", "upload"])
def test_what_was_sent_and_is_read_again_from_its_source_passes_the_hook_too(tmp_path, when):
    config = replace(BLACK, when=when)
    folder = tmp_path / "drive"
    folder.mkdir()
    for index in range(2):
        (folder / f"{index}.jpg").write_bytes(talkative(noise(index)))
    source = open_source(str(folder))
    with Spool(tmp_path / "s", settings(budget=2), monotonic=Clock(), privacy=PrivacyFilter(config)) as spool:
        ladder = spool.ladder()
        spool.begin_source(source)
        for item, clusters in zip(source.frames(), random_stream(0, 2, dim=64, most=1), strict=True):
            judge(spool, ladder, usable(item), clusters)
        spool.finish_source(source.name)
    send(tmp_path / "s", tmp_path / "far", BLACK)
    with pytest.raises(PrivacyError):
        extract(tmp_path / "s", tmp_path / "x", format_name="images")
    assert extract(tmp_path / "s", tmp_path / "x", format_name="images", privacy=PrivacyFilter(BLACK)).frames == 2
    assert all(is_black(file.read_bytes()) for file in (tmp_path / "x").rglob("*.jpg"))


def test_a_reload_to_a_hook_that_cannot_be_had_is_refused_and_the_one_before_stays(tmp_path):
    def read(privacy):
        (tmp_path / "geal-edge.toml").write_text(f"{RIGHT}\n[privacy]\n{privacy}\n")
        return read_configuration(tmp_path / "geal-edge.toml", {})

    before = read('python = "tests.hooks:black"')
    told = changes(before, read('command = ["/bin/cat", "--token=abc"]'))
    assert "abc" not in str(told)
    assert "/bin/cat" in told["privacy.command"]["now"]
    require_reloadable(before, read('python = "tests.hooks:half_black"'))
    for wrong in ('python = "tests.hooks:gone"', 'command = ["/no/such/hook"]'):
        with pytest.raises(ConfigError, match=r"privacy\.(python|command) = "):
            require_reloadable(before, read(wrong))


# -- the command line --------------------------------------------------------------------------------------------------


def test_upload_extract_and_report_take_the_hook_from_a_configuration(tmp_path, cli):
    path = fill(tmp_path / "s", BLACK)
    (tmp_path / "far").mkdir()
    config = tmp_path / "geal-edge.toml"
    config.write_text(
        f'[source]\nuris = ["watch:{tmp_path}"]\n[bundle]\npath = "b"\n[budget]\nframes_per_day = 3\n'
        f'[spool]\npath = "{path}"\n[upload]\nto = "{tmp_path / "far"}"\nmetered = "no"\n[vehicle]\nid = "car-1"\n'
        '[privacy]\npython = "tests.hooks:black"\nwhen = "upload"\n'
    )

    code, _, said = cli("extract", path, "--to", tmp_path / "x")
    assert (code, "with --config FILE" in " ".join(said.split())) == (25, True)
    assert cli("extract", path, "--to", tmp_path / "x", "--config", config)[0] == 0
    assert cli("report", path, "-o", tmp_path / "r.html", "--config", config)[0] == 0
    assert cli("upload", path, "--to", tmp_path / "far", "--once")[0] == 25
    assert cli("upload", "--config", config, "--once")[0] == 0
    assert len(arrived(tmp_path / "far")) == 3
    assert os.listdir(path / "frames") == []
