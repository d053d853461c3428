"""A real RTSP server for tests: GStreamer's, from Debian's packages, in the system's own Python; H.264 over TCP.

`apt-get install gstreamer1.0-rtsp gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly python3-gi`
(x264enc; openh264enc of gstreamer1.0-plugins-bad serves as well).

Every picture shows in 16 bars at how many milliseconds of the machine's monotonic clock it was made, modulo 65,536, so that
whoever judges it can tell its true age, decoders and buffers included.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

SYSTEM_PYTHON = "/usr/bin/python3"
BARS = 16
SERVER = """
import sys, threading, time
import gi
for name in ("Gst", "GstRtsp", "GstRtspServer"):
    gi.require_version(name, "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

Gst.init(None)
coders = ("x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30", "openh264enc gop-size=30")
coder = next((coder for coder in coders if Gst.ElementFactory.find(coder.split()[0])), None)
if coder is None:
    sys.exit("no encoder of H.264")
if len(sys.argv) == 1:
    sys.exit(0)
port, method, user, password, ready, hz = sys.argv[1:]

factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( appsrc name=src is-live=true format=time do-timestamp=true max-bytes=2000000 leaky-type=downstream ! videoconvert ! "
    + coder + " ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)
factory.set_shared(True)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(port)
if method != "none":
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    if method == "basic":
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.BASIC)
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    else:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(user, password, token)
    server.set_auth(auth)
    role = Gst.Structure.new_empty("viewer")
    for may in ("media.factory.access", "media.factory.construct"):
        role.set_value(may, True)
    factory.add_role_from_structure(role)
server.get_mount_points().add_factory("/cam", factory)

state = {"src": None, "frozen": None, "size": (320, 240), "told": None}


def configured(factory, media):
    state["told"] = None
    state["src"] = media.get_element().get_by_name("src")


factory.connect("media-configure", configured)


def picture(width, height, stamp):
    bar = width // 16
    row = b"".join((b"\\xeb" if stamp >> bit & 1 else b"\\x10") * bar for bit in range(16))
    return row * height + b"\\x80" * (width * height // 2)


def push():
    began, number = time.monotonic(), 0
    pause = threading.Event()
    while True:
        number += 1
        pause.wait(max(0.0, began + number / float(hz) - time.monotonic()))
        src = state["src"]
        if src is None:
            continue
        width, height = state["size"]
        if state["told"] != (width, height):
            words = "video/x-raw,format=I420,width=%d,height=%d,framerate=%d/1" % (width, height, int(float(hz)))
            src.set_property("caps", Gst.Caps.from_string(words))
            state["told"] = width, height
        data = state["frozen"] or picture(width, height, int(time.monotonic() * 1000) & 0xFFFF)
        if state["frozen"] == b"":
            state["frozen"] = data
        src.emit("push-buffer", Gst.Buffer.new_wrapped(data))


def listen():
    for line in sys.stdin:
        words = line.split()
        if words[0] == "freeze":
            state["frozen"] = b""
        elif words[0] == "move":
            state["frozen"] = None
        else:
            state["size"] = int(words[1]), int(words[2])


for job in (push, listen):
    threading.Thread(target=job, daemon=True).start()
server.attach(None)
open(ready, "w").close()
GLib.MainLoop().run()
"""
"""Arguments: port, `none`, `basic` or `digest`, user, password, a file that it makes once it listens, pictures a second. Lines
that it reads: `freeze`, `move`, `size WIDTH HEIGHT`. Serves /cam; without arguments it only says whether it could."""

Server: TypeAlias = "subprocess.Popen[str]"


@cache
def why_absent() -> str:
    """Why there is no such server on this machine, in words; empty where there is."""
    if not Path(SYSTEM_PYTHON).exists():
        return f"needs {SYSTEM_PYTHON}"
    tried = subprocess.run([SYSTEM_PYTHON, "-c", SERVER], capture_output=True, text=True, timeout=120, check=False)
    last = (tried.stderr.strip().splitlines() or [""])[-1]
    return (
        "" if tried.returncode == 0 else f"needs GStreamer's RTSP server (python3-gi, gstreamer1.0-rtsp, ...): {last}"
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextmanager
def rtsp_server(
    folder: Path, port: int, *, method: str = "none", user: str = "", password: str = "", hz: float = 30.0
) -> Iterator[Server]:
    """A server at rtsp://127.0.0.1:PORT/cam that listens; killed at the end, as by a cut of its power."""
    ready = folder / f"ready-{port}-{time.monotonic_ns()}"
    words = [SYSTEM_PYTHON, "-c", SERVER, str(port), method, user, password, str(ready), str(hz)]
    server = subprocess.Popen(words, stdin=subprocess.PIPE, text=True)
    try:
        while not ready.exists():
            if server.poll() is not None:
                raise RuntimeError(f"the RTSP server ended with {server.returncode}")
        yield server
    finally:
        server.kill()
        server.communicate()


def tell(server: Server, line: str) -> None:
    assert server.stdin is not None
    server.stdin.write(line + "\n")
    server.stdin.flush()


def age_s(image: npt.NDArray[np.uint8], now_s: float) -> float:
    """How many seconds ago a picture of the server was made; below 65."""
    bars = image.reshape(image.shape[0], BARS, -1, 3).mean(axis=(0, 2, 3)) > 127
    made_ms = int((bars * 2 ** np.arange(BARS)).sum())
    return ((int(now_s * 1000) - made_ms) % 65536) / 1000
