"""Which cameras a user means: `v4l2:/dev/video0`, `rtsp://...`, `watch:FOLDER` and their like, or `NAME=` before one."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from geal_edge.errors import UsageError
from geal_edge.runtime.live.camera import Camera
from geal_edge.runtime.live.device import gstreamer_camera, require_no_password, rtsp_camera, v4l2_camera
from geal_edge.runtime.live.folder import WatchedFolder
from geal_edge.runtime.live.ros2 import Ros2Camera
from geal_edge.runtime.live.shm import SharedMemoryCamera
from geal_edge.runtime.live.sock import SocketCamera
from geal_edge.runtime.live.source import RATE_HZ, LiveSource
from geal_edge.runtime.secrets import masked
from geal_edge.runtime.sources import require_plain_name

_OPEN: dict[str, Callable[[str, str | None], Camera]] = {
    "watch:": lambda spec, name: WatchedFolder(Path(spec.removeprefix("watch:")), name=name),
    "v4l2:": lambda spec, name: v4l2_camera(Path(spec.removeprefix("v4l2:")), name=name),
    "/dev/video": lambda spec, name: v4l2_camera(Path(spec), name=name),
    "gst:": lambda spec, name: gstreamer_camera(spec.removeprefix("gst:"), name=name),
    "rtsp://": lambda spec, name: rtsp_camera(spec, os.environ, name=name),
    "unix:": lambda spec, name: SocketCamera(Path(spec.removeprefix("unix:")), name=name),
    "shm:": lambda spec, name: SharedMemoryCamera(spec.removeprefix("shm:"), name=name),
    "ros2:": lambda spec, name: Ros2Camera(spec.removeprefix("ros2:"), name=name),
}
FORMS = "watch:FOLDER, v4l2:/dev/video0, gst:PIPELINE, rtsp://HOST/PATH, unix:SOCKET, shm:/NAME and ros2:/TOPIC"

_NAMED = re.compile(rf"([A-Za-z0-9][A-Za-z0-9._-]*)=((?:{'|'.join(map(re.escape, _OPEN))}).*)", re.DOTALL)


def named(spec: str) -> tuple[str | None, str]:
    """(name, address) of a source argument: `front=rtsp://...` names its camera. Only before an address of a live source is
    `=` the end of a name, so that no file is taken for one.

    >>> named("front=rtsp://10.0.0.7:8554/1"), named("unix:/run/a=b.sock"), named("a=b.mp4")
    (('front', 'rtsp://10.0.0.7:8554/1'), (None, 'unix:/run/a=b.sock'), (None, 'a=b.mp4'))
    """
    found = _NAMED.fullmatch(spec)
    return (found[1], found[2]) if found else (None, spec)


def is_live(spec: str) -> bool:
    """Whether a source argument names a camera that sees now.

    >>> is_live("watch:/data/incoming"), is_live("front=/dev/video0"), is_live("drive.mp4")
    (True, True, False)
    """
    return named(spec)[1].startswith(tuple(_OPEN))


def require_meant(specs: Sequence[str]) -> None:
    """Raise UsageError for what can be known of live sources without opening them: other forms, passwords, one camera twice."""
    if wrong := [masked(spec) for spec in specs if not is_live(spec)]:
        raise UsageError(f"{', '.join(wrong)}: must each be a live source, {FORMS}")
    for _, address in map(named, specs):
        if address.startswith("rtsp://"):
            require_no_password(address)
    names = [name or address for name, address in map(named, specs)]
    if twice := sorted({masked(name) for name in names if names.count(name) > 1}):
        raise UsageError(
            f"{', '.join(twice)}: is there twice. Give each camera once, under a name of its own, as left=ADDRESS"
        )


def open_live(
    specs: Sequence[str],
    *,
    name: str | None = None,
    rate_hz: float | None = None,
    group_s: float | None = None,
    for_s: float | None = None,
) -> LiveSource:
    """All cameras of a run as one source, named `live` unless `name` says otherwise.

    Raises UsageError for a call that cannot be meant, SourceError where a camera is not there, MissingDependency.
    """
    require_plain_name(name)
    return LiveSource(
        [_open(spec) for spec in specs],
        name=name or "live",
        rate_hz=RATE_HZ if rate_hz is None else rate_hz,
        group_s=group_s,
        for_s=for_s,
    )


def _open(spec: str) -> Camera:
    name, address = named(spec)
    for prefix, open_camera in _OPEN.items():
        if address.startswith(prefix):
            return open_camera(address, name)
    raise UsageError(f"{masked(spec)}: is no live source, and recorded ones do not go beside them. Live are {FORMS}")
