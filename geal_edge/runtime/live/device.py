"""Cameras that OpenCV opens: `v4l2:/dev/video0` (USB), `gst:PIPELINE` (CSI and all else that GStreamer has), `rtsp://HOST/PATH`.

OpenCV from a package index has V4L2 and FFmpeg (for RTSP) but no GStreamer; the system's on a Jetson has it.

A user and password for RTSP never stand on the command line, where every process reads them. They come from
GEAL_EDGE_RTSP_USER and GEAL_EDGE_RTSP_PASSWORD, or, where cameras differ, from the file that GEAL_EDGE_RTSP_CREDENTIALS names:
lines of HOST USER PASSWORD, which only its owner may read. Where a camera wants them within its address, `{user}` and
`{password}` stand there for them. They appear in no event and no message.
"""

import os
import re
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any
from urllib.parse import quote, urlsplit

from geal_edge.errors import FrameError, SourceError, UsageError
from geal_edge.runtime.frame import Image
from geal_edge.runtime.live.camera import Intake, Shot
from geal_edge.runtime.secrets import masked
from geal_edge.runtime.sources.video import import_cv2

TIMEOUT_MS = 5000
"""How long a network camera may take to answer, and then for each picture."""
USER, PASSWORD = "{user}", "{password}"
"""What stands for them in an address."""
_STALE_S = 10.0
"""A driver's stamp that is older than this is of another clock."""


class OpenCvCamera:
    """`address` and `backend` (`CAP_V4L2`, ...) are what OpenCV opens; both stay inside, since the address may hold a password.

    device  the device file, whose other users are named where it cannot be opened
    """

    def __init__(self, name: str, spec: str, address: str, backend: str, *, device: Path | None = None) -> None:
        self.name = name
        self.spec = spec
        self._address = address
        self._backend = backend
        self._device = device
        self._cv2: ModuleType = import_cv2()
        # A camera that is here is opened before anything runs, so that whoever started it is told; one in the network may come.
        self._opened: Any = None if backend == "CAP_FFMPEG" else self._open()

    def watch(self, intake: Intake, stopped: Event) -> None:
        capture, self._opened = self._opened or self._open(), None
        try:
            intake.notice("camera_started")
            while not stopped.is_set():
                if not capture.grab():
                    raise SourceError(f"{self.spec}: gives no more pictures")
                stamp_ms = capture.get(self._cv2.CAP_PROP_POS_MSEC) if self._device is not None else 0.0
                intake.offer(Shot(capture_time_ns=_capture_time_ns(stamp_ms), read=lambda: self._picture(capture)))
        finally:
            capture.release()

    def _open(self) -> Any:
        backend = getattr(self._cv2, self._backend)
        if self._backend == "CAP_FFMPEG":
            # Otherwise some of OpenCV's builds ask for UDP, which not every camera gives and networks lose.
            os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
            properties = (self._cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, self._cv2.CAP_PROP_READ_TIMEOUT_MSEC)
            timeouts = [number for name in properties for number in (name, TIMEOUT_MS)]
            capture = self._cv2.VideoCapture(self._address, backend, timeouts)
        else:
            capture = self._cv2.VideoCapture(self._address, backend)
        if capture.isOpened():
            return capture
        capture.release()
        users = [] if self._device is None else users_of(self._device)
        if users:
            raise SourceError(
                f"{self.spec}: in use by PID {', '.join(map(str, users))}; subscribe to its topic, RTSP or a GStreamer tee "
                "instead"
            )
        if self._device is not None and self._device.exists():
            raise SourceError(
                f"{self.spec}: cannot be opened. Another process may have it that this user cannot see (`sudo fuser -v "
                f"{self._device}` tells): subscribe to its topic, RTSP or a GStreamer tee instead. Else check that it is a camera"
            )
        asked = ", and that path, user and password are right" if self._backend == "CAP_FFMPEG" else ""
        raise SourceError(
            f"{self.spec}: cannot be opened. Check that it is there, switched on, and reachable from here{asked}"
        )

    def _picture(self, capture: Any) -> Image:
        try:
            done, picture = capture.retrieve()
            if done and picture is not None and picture.ndim == 3:
                image: Image = self._cv2.cvtColor(picture, self._cv2.COLOR_BGR2RGB)
                return image
        except self._cv2.error as error:
            raise FrameError("undecodable", "OpenCV cannot convert what the camera gave.") from error
        raise FrameError("unreadable", "the camera gave no picture.")


def v4l2_camera(path: Path, *, name: str | None = None) -> OpenCvCamera:
    """Raises SourceError where there is no such device or it cannot be opened, MissingDependency without OpenCV."""
    try:
        if not stat.S_ISCHR(path.stat().st_mode):
            raise SourceError(f"v4l2:{path}: is no device. Cameras are /dev/video0 and the like")
    except OSError as error:
        raise SourceError(f"v4l2:{path}: no such camera ({error.strerror}). Is it plugged in?") from error
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(f"v4l2:{path}: this user may not open it. Add the user to the group `video`")
    return OpenCvCamera(name or path.name, f"v4l2:{path}", str(path), "CAP_V4L2", device=path)


def gstreamer_camera(pipeline: str, *, name: str | None = None) -> OpenCvCamera:
    """A pipeline in the words of gst-launch; it must end in `appsink drop=true max-buffers=1` (added where it does not).
    Its passwords are left out of what anybody sees.

    Raises SourceError where this OpenCV has no GStreamer, or the pipeline does not start.
    """
    cv2 = import_cv2()
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise SourceError(
            f"gst:{masked(pipeline)}: this OpenCV ({cv2.__version__}) was built without GStreamer. Use the system's (on a Jetson "
            "the one of JetPack, on Debian `apt install python3-opencv`), in an environment made with --system-site-packages"
        )
    sink = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1"
    whole = pipeline if "appsink" in pipeline else f"{pipeline} ! {sink}"
    device = re.search(r"(?:sensor-id|device)=(\S+)", pipeline)
    own = "gst" if device is None else f"gst-{device[1].strip('/').replace('/', '-')}"
    return OpenCvCamera(name or own, f"gst:{masked(pipeline)}", whole, "CAP_GSTREAMER")


def require_no_password(url: str) -> None:
    """Raise UsageError where an address holds a password itself, and not a place for one."""
    literal = url.replace(USER, "&").replace(PASSWORD, "&")
    if masked(literal) != literal:
        raise UsageError(
            f"{masked(url)}: a password in an address is seen by every process, and by whoever reads a configuration. Leave it "
            "out, and set GEAL_EDGE_RTSP_USER and GEAL_EDGE_RTSP_PASSWORD, or GEAL_EDGE_RTSP_CREDENTIALS=FILE with lines of "
            f"HOST USER PASSWORD. Where the camera wants them within its address, write {USER} and {PASSWORD} there"
        )


def rtsp_camera(url: str, environ: Mapping[str, str], *, name: str | None = None) -> OpenCvCamera:
    """Named after host and path, unless `name` says otherwise. It need not answer yet: a network may come up after us.

    Raises UsageError for a password in the address, or credentials that cannot be read.
    """
    require_no_password(url)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # as of a bracket that is not closed, or a password with a slash; its words may hold either
        raise UsageError(
            "rtsp: the address cannot be read. It must be rtsp://HOST/PATH or rtsp://HOST:PORT/PATH"
        ) from None
    if not parts.hostname:
        raise UsageError(f"{url}: must be rtsp://HOST/PATH or rtsp://HOST:PORT/PATH")
    user, password = (quote(word, safe="") for word in rtsp_credentials(parts.hostname, environ))
    if USER in url or PASSWORD in url:
        address = url.replace(USER, user).replace(PASSWORD, password)
    else:
        address = url.replace("://", f"://{user}:{password}@", 1) if user else url
    own = f"{parts.hostname}{parts.path.rstrip('/')}".replace("/", "-")
    return OpenCvCamera(name or own, url, address, "CAP_FFMPEG")


def rtsp_credentials(host: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """(user, password) for a host, both empty where there are none. Raises UsageError.

    >>> rtsp_credentials("10.0.0.7", {"GEAL_EDGE_RTSP_USER": "edge", "GEAL_EDGE_RTSP_PASSWORD": "p w"})
    ('edge', 'p w')
    """
    file = environ.get("GEAL_EDGE_RTSP_CREDENTIALS")
    if file is None:
        return environ.get("GEAL_EDGE_RTSP_USER", ""), environ.get("GEAL_EDGE_RTSP_PASSWORD", "")
    try:
        if Path(file).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(f"{file}: others may read these credentials. Run: chmod 600 {file}")
        lines = [line.split(None, 2) for line in Path(file).read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: the RTSP credentials cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if len(line) != 3 and not line[0].startswith("#"):
            raise UsageError(f"{file}: entry {number} of the RTSP credentials must be HOST USER PASSWORD")
    for line in lines:
        if line[0].lower() == host.lower():  # names of hosts are the same in any case
            return line[1], line[2]
    return "", ""


def users_of(path: Path) -> list[int]:
    """Other processes that have this file open, as far as this user may see them; none of a device that was unplugged."""
    try:
        wanted = path.stat()
    except OSError:
        return []
    found = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        try:
            handles = list((process / "fd").iterdir())
        except OSError:  # not ours to see, or gone
            continue
        for handle in handles:
            try:
                opened = handle.stat()
            except OSError:
                continue
            if (opened.st_dev, opened.st_ino) == (wanted.st_dev, wanted.st_ino):
                found.add(int(process.name))
    return sorted(found)


def _capture_time_ns(stamp_ms: float) -> int:
    """The wall clock's time of a V4L2 driver's stamp, which is of CLOCK_MONOTONIC; now, where it is not."""
    now_ns, age_s = time.time_ns(), time.monotonic() - stamp_ms / 1e3
    return now_ns - round(age_s * 1e9) if 0.0 <= age_s < _STALE_S else now_ns
