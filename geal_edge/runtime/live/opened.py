"""Which cameras a user means: `v4l2:/dev/video0`, `rtsp://...`, `watch:FOLDER` and their like."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from geal_edge.errors import UsageError
from geal_edge.runtime.live.camera import Camera
from geal_edge.runtime.live.device import gstreamer_camera, rtsp_camera, v4l2_camera
from geal_edge.runtime.live.folder import WatchedFolder
from geal_edge.runtime.live.ros2 import Ros2Camera
from geal_edge.runtime.live.sock import SocketCamera
from geal_edge.runtime.live.source import RATE_HZ, LiveSource
from geal_edge.runtime.sources import require_plain_name

_OPEN: dict[str, Callable[[str], Camera]] = {
    "watch:": lambda spec: WatchedFolder(Path(spec.removeprefix("watch:"))),
    "v4l2:": lambda spec: v4l2_camera(Path(spec.removeprefix("v4l2:"))),
    "/dev/video": lambda spec: v4l2_camera(Path(spec)),
    "gst:": lambda spec: gstreamer_camera(spec.removeprefix("gst:")),
    "rtsp://": lambda spec: rtsp_camera(spec, os.environ),
    "unix:": lambda spec: SocketCamera(Path(spec.removeprefix("unix:"))),
    "ros2:": lambda spec: Ros2Camera(spec.removeprefix("ros2:")),
}
FORMS = "watch:FOLDER, v4l2:/dev/video0, gst:PIPELINE, rtsp://HOST/PATH, unix:SOCKET and ros2:/TOPIC"


def is_live(spec: str) -> bool:
    """Whether a source argument names a camera that sees now.

    >>> is_live("watch:/data/incoming"), is_live("/dev/video0"), is_live("drive.mp4")
    (True, True, False)
    """
    return spec.startswith(tuple(_OPEN))


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
    for prefix, open_camera in _OPEN.items():
        if spec.startswith(prefix):
            return open_camera(spec)
    raise UsageError(f"{spec}: is no live source, and recorded ones do not go beside them. Live are {FORMS}")
