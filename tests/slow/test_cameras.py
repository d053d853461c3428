"""Network cameras through a real RTSP server (rtspserver.py): too fast, frozen, unplugged, of another format, with passwords.

`make test-cameras`; skips where GStreamer's RTSP server is absent. Prints what it measured.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from geal_edge.errors import Interrupted
from geal_edge.runtime import pipeline
from geal_edge.runtime.encoder import Encoded, Encoder
from geal_edge.runtime.frame import Frame, Image, LostFrame
from geal_edge.runtime.live import LiveSource, open_live
from geal_edge.runtime.observer import Notice, Silent
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.stopping import Stop
from tests.rtspserver import age_s, free_port, rtsp_server, tell, why_absent
from tests.test_live import DAY, EVERY
from tests.test_live_cameras import next_frame, patient, running

pytest.importorskip("cv2")
pytestmark = pytest.mark.skipif(bool(why_absent()), reason=why_absent() or "there")

CAMERA_HZ, ENCODER_HZ = 30.0, 5.0


class FiveASecond(Encoder):
    """The same answers, as late as a slow machine gives them."""

    def __call__(self, image: Image) -> Encoded:
        began = time.monotonic()
        answer = super().__call__(image)
        Event().wait(max(0.0, 1.0 / ENCODER_HZ - (time.monotonic() - began)))
        return answer


class Script(LiveSource):
    """Does one thing after another to a camera, each when what the one before should cause has happened; notes the age of every
    frame that was judged, and this process's memory and descriptors."""

    def play(self, steps: Iterator[str], stop: Stop) -> None:
        self.happened: list[str] = []
        self.ages_s: list[float] = []
        self.resident: list[int] = []
        self.descriptors: list[int] = []
        self.steps, self.waits_for, self.stop = steps, next(steps), stop

    def frames(self, after: int = -1) -> Iterator[Frame | LostFrame | None]:
        for item in super().frames(after):
            yield item
            if isinstance(item, Frame):  # whoever asked for the next one has judged this one
                self.ages_s.append(age_s(item.image, time.monotonic()))
                self.resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
                self.descriptors.append(len(os.listdir("/proc/self/fd")))
                self._go_on("frame")

    def take_notices(self) -> list[Notice]:
        notices = super().take_notices()
        for notice in notices:
            self._go_on(notice.name)
        return notices

    def _go_on(self, happened: str) -> None:
        self.happened.append(happened)
        if happened == self.waits_for and (following := next(self.steps, None)) is not None:
            self.waits_for = following
        elif happened == self.waits_for:
            self.stop.ask()


def test_a_camera_of_30_frames_a_second_and_an_encoder_of_5_through_freeze_unplug_and_another_format(
    tiny_bundle, tmp_path, monkeypatch, capsys
):
    from geal_edge.runtime.backends.ort import OrtCpu

    monkeypatch.setenv("GEAL_EDGE_RTSP_USER", "edge")
    monkeypatch.setenv("GEAL_EDGE_RTSP_PASSWORD", "s3/cr:et")
    serve = partial(rtsp_server, tmp_path, method="digest", user="edge", password="s3/cr:et", hz=CAMERA_HZ)
    port, stop = free_port(), Stop()
    spec = f"front=rtsp://127.0.0.1:{port}/cam"

    def steps() -> Iterator[str]:
        with serve(port) as server:
            yield from ["frame"] * 100
            tell(server, "freeze")
            yield "camera_frozen"
            tell(server, "move")
            yield from ["frame"] * 50
        yield "camera_lost"
        with serve(port) as server:
            tell(server, "size 640 480")
            yield "format_changed"
            yield from ["frame"] * 100

    source = Script(open_live([spec])._cameras, rate_hz=EVERY)
    source.play(steps(), stop)
    with FiveASecond(tiny_bundle, OrtCpu(tiny_bundle.graph, threads=1)) as encoder, pytest.raises(Interrupted):
        pipeline.run([source], encoder=encoder, spool_path=tmp_path / "s", budget=DAY, watch=Silent(), stop=stop)
    with open_view(tmp_path / "s") as view:
        counts, lost = view.counts()
        events = {event["name"] for event in view.events()}
        assert view.check() == []
    offered = source._intakes["front"].offered
    ages = sorted(source.ages_s)
    spans = (
        (25, 100),
        (-75, -1),
    )  # before anything happens, and after all of it: pictures are four times as large by then
    growth_mb = [(source.resident[end] - source.resident[begin]) / 1e6 for begin, end in spans]
    descriptors = source.descriptors[25], source.descriptors[-1]
    with capsys.disabled():
        print(
            f"\n{offered} pictures offered, {counts['seen']} seen, {len(ages)} judged, lost {lost}; true age when judged: median "
            f"{ages[len(ages) // 2]:.2f} s, 95 % {ages[int(len(ages) * 0.95)]:.2f} s, at most {ages[-1]:.2f} s; memory "
            f"{growth_mb[0]:+.1f} MB before and {growth_mb[1]:+.1f} MB after it all, descriptors {descriptors}"
        )
    assert {"camera_frozen", "camera_lost", "format_changed", "camera_started"} <= events
    assert counts["seen"] == offered  # each exactly once, those of a reconnecting camera included
    assert counts["lost"] == sum(lost.values()) > counts["seen"] // 2
    assert set(lost) <= {"queue_full", "too_slow", "stopped"}
    frozen_s = 2.0  # a frozen picture is as old as it is
    assert ages[int(len(ages) * 0.95)] < 2.0 + frozen_s
    assert max(growth_mb) < 5.0
    assert descriptors[1] <= descriptors[0] + 2
    for file in (tmp_path / "s").rglob("*"):
        assert not file.is_file() or b"cr:et" not in file.read_bytes()


def test_two_cameras_that_differ_in_their_port_have_credentials_of_a_file_and_names_of_their_own(tmp_path, monkeypatch):
    file = tmp_path / "credentials"
    file.write_text("127.0.0.1 edge two words\n")
    file.chmod(0o600)
    monkeypatch.setenv("GEAL_EDGE_RTSP_CREDENTIALS", str(file))
    ports = [free_port(), free_port()]
    with ExitStack() as servers:
        for port in ports:
            servers.enter_context(rtsp_server(tmp_path, port, method="basic", user="edge", password="two words"))
        specs = [f"{name}=rtsp://127.0.0.1:{port}/cam" for name, port in zip(("front", "rear"), ports, strict=True)]
        topics: set[str | None] = set()
        with running(open_live(specs, rate_hz=5.0)) as stream:
            while len(topics) < 2:
                topics.add(next_frame(patient(stream)).topic)
    assert topics == {"front", "rear"}


@pytest.mark.parametrize("place", ["host", "query"])
def test_a_wrong_password_is_an_event_of_the_command_and_appears_nowhere(tiny_bundle, tmp_path, place):
    port = free_port()
    environ = {**os.environ, "GEAL_EDGE_RTSP_USER": "edge", "GEAL_EDGE_RTSP_PASSWORD": "wr0ngpass"}
    address = f"rtsp://127.0.0.1:{port}/cam" + ("" if place == "host" else "?user={user}&password={password}")
    with rtsp_server(tmp_path, port, method="basic", user="edge", password="right"):
        words = [
            "run",
            address,
            "--bundle",
            tiny_bundle.path,
            "--spool",
            tmp_path / "s",
            "--budget",
            "5/day",
            "--for",
            "8s",
        ]
        command = [sys.executable, "-m", "geal_edge", *map(str, words)]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with open_view(tmp_path / "s") as view:
        (lost, *_) = [event for event in view.events() if event["name"] == "camera_lost"]
    assert "cannot be opened" in lost["reason"]
    assert "wr0ngpass" not in done.stdout + done.stderr
    for path in (tmp_path / "s").rglob("*"):
        assert not path.is_file() or b"wr0ngpass" not in path.read_bytes()
    assert re.search("lost", done.stderr)
