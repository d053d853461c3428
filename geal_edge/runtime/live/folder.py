"""A folder that another process writes image files into: `watch:FOLDER`.

The kernel tells of files that are complete: closed after writing, or renamed into the folder. So a half-written file is never
read, however slow its writer is. What lay in the folder before is not looked at, nor are folders in it, nor names that begin
with a dot. A frame's capture time is the time at which its file was last written; its metadata is `NAME.json` beside
`NAME.jpg`, where that is there when the picture is complete.
"""

import ctypes
import errno
import os
import select
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from geal_edge.errors import SourceError, UsageError
from geal_edge.runtime.live.camera import HEED_S, Intake, Shot
from geal_edge.runtime.metadata import MAX_BYTES, Metadata, read_metadata
from geal_edge.runtime.sources.images import as_text, is_image_name, own_name, read_image_file, require_pillow

_CLOSE_WRITE, _MOVED_TO, _DELETE_SELF, _MOVE_SELF = 0x8, 0x80, 0x400, 0x800  # linux/inotify.h
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000
_HEADER = struct.Struct("iIII")  # watch, mask, cookie, bytes of the name that follows


class WatchedFolder:
    """Raises SourceError where there is no such folder, MissingDependency where Pillow is not installed."""

    def __init__(self, path: Path, *, name: str | None = None) -> None:
        require_pillow()
        if not path.is_dir():
            raise SourceError(f"watch:{path}: no such folder. Make it before its writer and `run` start.")
        self.name = name or own_name(path)
        self.spec = f"watch:{as_text(os.path.abspath(path))}"
        self._path = path

    def watch(self, intake: Intake, stopped: Event) -> None:
        handle = _watch(self._path)
        try:
            intake.notice("camera_started")
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            while not stopped.is_set():
                if not poll.poll(HEED_S * 1000):
                    continue
                for mask, name in _told(os.read(handle, 65536)):
                    if mask & (_DELETE_SELF | _MOVE_SELF | _UNMOUNT | _IGNORED):
                        raise SourceError(f"{self.spec}: the folder is gone")
                    if mask & _OVERFLOW:
                        intake.notice("folder_overflow", detail="files came faster than the kernel could tell of them")
                    elif is_image_name(name):
                        self._offer(intake, self._path / name)
        finally:
            os.close(handle)

    def _offer(self, intake: Intake, path: Path) -> None:
        try:
            written_ns = path.stat().st_mtime_ns
        except OSError:
            return  # its writer has taken it away again
        intake.offer(
            Shot(
                capture_time_ns=written_ns, read=lambda: read_image_file(path), metadata=lambda: _metadata_beside(path)
            )
        )


def _metadata_beside(path: Path) -> Metadata:
    """Raises UsageError where it is there and cannot be read."""
    beside = path.with_suffix(".json")
    try:
        with open(beside, "rb", opener=_without_waiting) as file:
            return read_metadata(file.read(MAX_BYTES + 1))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{as_text(beside.name)}: cannot be read ({error.strerror})") from error


def _without_waiting(path: str, flags: int) -> int:
    """As `os.open`; a pipe of that name would wait for its writer for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _watch(path: Path) -> int:
    """A descriptor that tells of the files in a folder. Raises SourceError."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    wanted = _CLOSE_WRITE | _MOVED_TO | _DELETE_SELF | _MOVE_SELF
    if handle < 0 or libc.inotify_add_watch(handle, os.fsencode(path), wanted) < 0:
        number = ctypes.get_errno()
        if handle >= 0:
            os.close(handle)
        advice = {
            errno.ENOENT: "Make it, or wait for it to be mounted.",
            errno.EACCES: "Give this user the right to read it.",
            errno.ENOSPC: "Raise fs.inotify.max_user_watches.",
            errno.EMFILE: "Raise fs.inotify.max_user_instances.",
        }.get(number, "It must be a folder of a local file system.")
        raise SourceError(f"watch:{path}: the folder cannot be watched ({os.strerror(number)}). {advice}")
    return handle


def _told(data: bytes) -> Iterator[tuple[int, str]]:
    """(mask, name) of each thing that the kernel tells.

    >>> list(_told(_HEADER.pack(1, _MOVED_TO, 0, 16) + b"a.jpg".ljust(16, b"\\0")))
    [(128, 'a.jpg')]
    """
    at = 0
    while at < len(data):
        _, mask, _, size = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        yield mask, os.fsdecode(data[at : at + size].rstrip(b"\0"))
        at += size
