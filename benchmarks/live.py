"""A camera that is faster than the encoder: how old a frame is when its decision stands, what is lost, whether memory grows.

    python -m benchmarks.live --bundle BUNDLE [--camera-hz 30] [--seconds 60] [--rtsp] [--json]

The camera is a process of its own, which sends drawn frames (480 x 270) through a Unix socket at its own pace. Age is from the
moment at which it sends a frame to that at which the frame is judged and, where it is retained, on disk. `sender_wait_s` is how
long one frame held the camera up at most. Growth is that of the process's resident memory after the first quarter.

With `--rtsp` it is a network camera (320 x 240, H.264) of GStreamer's RTSP server, tests/rtspserver.py, whose pictures show when
they were made: their age has encoder, network and decoder in it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common import show, spread
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import pipeline
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.budget import live_plan, parse_cap
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.live import LiveSource
from geal_edge.runtime.live.device import rtsp_camera
from geal_edge.runtime.live.sock import SocketCamera
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.spoolview import open_view
from tests.rtspserver import age_s, free_port, rtsp_server, why_absent

CAMERA = """
import socket, sys, threading, time
from geal_edge.runtime.live.sock import HEADER, MAGIC, PIXELS
from geal_edge.runtime.sources.drawn import DrawnDrive
path, hz, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
images = [frame.image for frame in DrawnDrive(0, 60).frames()]
wait, longest = threading.Event(), 0.0
with socket.socket(socket.AF_UNIX) as sender:
    sender.connect(path)
    began = time.monotonic()
    for number in range(int(hz * seconds)):
        wait.wait(max(0.0, began + number / hz - time.monotonic()))
        image = images[number % 60]
        height, width = image.shape[:2]
        head = HEADER.pack(MAGIC, PIXELS, time.time_ns(), image.nbytes, width, height, 0, 0, b"rgb8")
        before = time.monotonic()
        sender.sendall(head + image.tobytes())
        longest = max(longest, time.monotonic() - before)
print(longest)
"""


class Timed(LiveSource):
    """`age_s` tells how old a frame is. Notes it of each when the pipeline came back for the next one, and the memory of the
    process then."""

    age_s: Callable[[Frame], float] = staticmethod(lambda frame: (time.time_ns() - (frame.capture_time_ns or 0)) / 1e9)
    ages_s: list[float]
    resident_bytes: list[int]

    def frames(self, after: int = -1) -> Iterator[Frame | LostFrame | None]:
        self.ages_s, self.resident_bytes = [], []
        for item in super().frames(after):
            yield item
            if isinstance(item, Frame):
                self.ages_s.append(self.age_s(item))
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                self.resident_bytes.append(pages * os.sysconf("SC_PAGE_SIZE"))


def watch_socket(
    folder: Path, encoder: Encoder, spool: Path, *, camera_hz: float, seconds: float
) -> tuple[Timed, dict[str, dict[str, float]]]:
    path = folder / "camera.sock"
    source = Timed([SocketCamera(path)], rate_hz=camera_hz, for_s=seconds + 2.0)
    words = [sys.executable, "-c", CAMERA, path, str(camera_hz), str(seconds)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as camera:
        judge(source, encoder, spool)
        return source, {"sender_wait_s": {"max": float(camera.communicate()[0])}}


def watch_rtsp(
    folder: Path, encoder: Encoder, spool: Path, *, camera_hz: float, seconds: float
) -> tuple[Timed, dict[str, dict[str, float]]]:
    if why_absent():
        raise SystemExit(why_absent())
    port = free_port()
    source = Timed([rtsp_camera(f"rtsp://127.0.0.1:{port}/cam", {})], rate_hz=camera_hz, for_s=seconds)
    source.age_s = lambda frame: age_s(frame.image, time.monotonic())
    with rtsp_server(folder, port, hz=camera_hz):
        judge(source, encoder, spool)
    return source, {}


def judge(source: LiveSource, encoder: Encoder, spool: Path) -> None:
    plan = live_plan([parse_cap("50/day")])
    pipeline.run([source], encoder=encoder, spool_path=spool, budget=plan, watch=Silent())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--camera-hz", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rtsp", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    with tempfile.TemporaryDirectory() as folder, Encoder(bundle, OrtCpu(bundle.graph)) as encoder:
        spool = Path(folder) / "spool"
        watch = watch_rtsp if options.rtsp else watch_socket
        source, waits = watch(Path(folder), encoder, spool, camera_hz=options.camera_hz, seconds=options.seconds)
        with open_view(spool) as view:
            frames, _ = view.counts()
    first = len(source.resident_bytes) // 4  # what comes before is warm-up
    growth_mb = (source.resident_bytes[-1] - source.resident_bytes[first]) / 1e6
    rows = {
        "age_s": {**spread(source.ages_s), "max": max(source.ages_s)},
        **waits,
        "growth_mb": {"all": growth_mb},
    }
    judged = frames["seen"] - frames["lost"]
    facts = {"camera_hz": options.camera_hz, "seen": frames["seen"], "judged": judged, "lost": frames["lost"]}
    show("a camera that is faster than the encoder", rows, facts, as_json=options.json)


if __name__ == "__main__":
    main()
