"""Recorded streams of frames, one file per kind of capture."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from geal_edge.errors import SourceError, UsageError
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.sources import bagfolder, bags, drawn, images, video

_DRAWN = re.compile(r"drawn:(\d+)(?::(\d+))?")


class AnySource(Protocol):
    """What recorded and live sources have in common: all that a spool must know of one."""

    @property
    def name(self) -> str:
        """The folder's name, the file's name with its ending, or what the user chose; unique in a spool."""

    @property
    def spec(self) -> str:
        """What opens it again with `open_source`: an absolute path or pattern, `PATH#TOPIC`, or `drawn:SEED:FRAMES`."""

    @property
    def kind(self) -> str:
        """`images`, `video`, `bag`, `drawn` or `live`."""

    @property
    def fps(self) -> float | None:
        """The rate asked for; None: every frame."""

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) in pixels of the first usable frame, None where that is not cheap to know."""

    @property
    def frame_count(self) -> int | None:
        """How many frames it says it will yield, lost ones included: for progress. None where it does not say."""

    def fingerprint(self) -> str:
        """Tells two sources of one name apart; the same for the same files. `fps` is not part of it."""


class Source(AnySource, Protocol):
    """A recorded stream of frames. Nothing is read before it is asked for, and no more than one frame is held. A live one is
    a LiveSource (runtime/live/).

    `tests/contracts.py` says in checks what every source keeps.
    """

    def frames(self, after: int = -1) -> Iterator[Frame | LostFrame]:
        """Every frame with a `frame_index` above `after`, in order; the same each time it is called.

        A frame that cannot be read comes as a LostFrame in its place. Closing the iterator, or dropping it, closes its files.
        """


def open_source(
    spec: str,
    *,
    name: str | None = None,
    fps: float | None = None,
    topics: Sequence[str] = (),
    group_s: float | None = None,
) -> Source:
    """Open what a user names: a folder of images, a glob pattern, an image, a video file, `drawn:SEED[:FRAMES]`, or
    recorded ROS data (a rosbag2 folder, .mcap, .db3, .bag; `PATH#TOPIC#TOPIC` chooses topics, as `topics` does).

    name    instead of the source's own
    fps     look at so many frames per second of source time; not for images, which have no times
    topics  names or globs of image topics, for recorded ROS data alone
    group_s  the frames of several topics form units of so many seconds (units.py), for recorded ROS data alone: no topics
             are all image topics, and `fps` takes whole units

    Raises UsageError for a call that cannot be meant, SourceError where nothing usable is there, MissingDependency.
    """
    require_plain_name(name)
    path, named_topics = _split_topics(spec)
    if os.path.lexists(path) and bagfolder.is_bag(path):
        return bags.BagSource(path, [*named_topics, *topics], name=name, fps=fps, group_s=group_s)
    if topics:
        raise UsageError(f"--topic {topics[0]}: is for recorded ROS data; {spec} is none")
    if group_s is not None:
        raise UsageError(f"--group {group_s:g}: groups the topics of recorded ROS data; {spec} is none")
    if spec.startswith("drawn:"):
        return _open_drawn(spec, name, fps)
    path, absolute = Path(spec), os.path.abspath(spec)
    is_pattern = not os.path.lexists(path) and glob.has_magic(spec)
    ending = path.suffix.lower()
    if not os.path.lexists(path) and not is_pattern:
        raise SourceError(f"{spec}: no such file or folder")
    if not is_pattern and not path.is_dir() and ending in video.ENDINGS:
        return video.VideoSource(path, name=name, fps=fps)
    if fps is not None:
        raise UsageError(
            f"--fps {fps:g}: is for videos, bags and drawn drives; {spec} is not one, and images have no times"
        )
    if is_pattern:
        return images.image_glob(spec, name=name)
    if path.is_dir():
        return images.image_folder(path, name=name)
    if ending in images.ENDINGS:
        return images.ImageSource(path.parent, [path.name], name=name or images.own_name(path), spec=absolute)
    known = " ".join(sorted(images.ENDINGS | video.ENDINGS))
    raise SourceError(
        f"{spec}: neither an image nor a video by its ending (known: {known}), nor a bag ({' '.join(bagfolder.ENDINGS)})"
    )


def require_plain_name(name: str | None) -> None:
    """Raise UsageError for what cannot name a source."""
    if name is not None and (not name.strip() or "/" in name or not name.isprintable()):
        raise UsageError(f"--name {name!r}: must be a plain word or phrase without slashes")


def _split_topics(spec: str) -> tuple[Path, list[str]]:
    """`PATH#TOPIC#TOPIC` taken apart, where that is not itself the name of something."""
    parts = spec.split("#")
    for end in range(len(parts), 0, -1):
        path = "#".join(parts[:end])
        if os.path.lexists(path):
            return Path(path), parts[end:]
    return Path(spec), []


def _open_drawn(spec: str, name: str | None, fps: float | None) -> Source:
    parts = _DRAWN.fullmatch(spec)
    if parts is None:
        raise UsageError(f"{spec}: a drawn drive is drawn:SEED or drawn:SEED:FRAMES, both whole numbers, as in drawn:7")
    frames = drawn.FRAMES if parts[2] is None else int(parts[2])
    return drawn.DrawnDrive(int(parts[1]), frames, name=name, fps=fps)
