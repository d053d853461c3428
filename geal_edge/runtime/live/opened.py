"""Which cameras a user means: `watch:FOLDER` and its like."""

from collections.abc import Sequence
from pathlib import Path

from geal_edge.errors import UsageError
from geal_edge.runtime.live.camera import Camera
from geal_edge.runtime.live.folder import WatchedFolder
from geal_edge.runtime.live.source import RATE_HZ, LiveSource

FORMS = "watch:FOLDER"


def is_live(spec: str) -> bool:
    """Whether a source argument names a camera that sees now.

    >>> is_live("watch:/data/incoming"), is_live("drive.mp4")
    (True, False)
    """
    return spec.startswith("watch:")


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
    return LiveSource(
        [_open(spec) for spec in specs],
        name=name or "live",
        rate_hz=RATE_HZ if rate_hz is None else rate_hz,
        group_s=group_s,
        for_s=for_s,
    )


def _open(spec: str) -> Camera:
    if spec.startswith("watch:"):
        return WatchedFolder(Path(spec.removeprefix("watch:")))
    raise UsageError(f"{spec}: is no live source; those are {FORMS}")
