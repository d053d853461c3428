"""The only module that knows how bytes become safe on a disk that may lose power at any moment.

A file appears under its name complete or not at all: written under a temporary name, synced, renamed, and the folder synced,
because a rename is only as durable as the folder that holds it. Every refusal of the disk becomes a StorageError.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from geal_edge.errors import DiskFull, SpoolLocked, StorageError

TEMPORARY_SUFFIX = ".tmp"


def write_file(path: Path, data: bytes, *, sync_name: bool = True) -> None:
    """Put `data` under `path`; when this returns, a power cut cannot undo it. Raises StorageError; leaves no half file.

    sync_name  False: whoever asks syncs the folder when several files are in it (`write_files`)
    """
    with _refusals(path, "write"):
        _put(path, data, mode=0o600, sync=True)
        if sync_name:
            sync_folder(path.parent)


def write_passing(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put `data` under `path`, all of it or what was there before, and sync nothing: for what is worth nothing after a power cut,
    and is written so often that flash would wear. Raises StorageError; leaves no half file."""
    with _refusals(path, "write"):
        _put(path, data, mode=mode, sync=False)


def _put(path: Path, data: bytes, *, mode: int, sync: bool) -> None:
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            if mode != 0o600:
                os.fchmod(handle, mode)  # whatever the umask says
            if sync:
                os.fsync(handle)  # the name must not exist before its bytes do
        finally:
            os.close(handle)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_files(folder: Path, files: Sequence[tuple[str, bytes]]) -> None:
    """`write_file` of several names in one folder, with one sync of it: all are safe when this returns. Raises StorageError."""
    for name, data in files:
        write_file(folder / name, data, sync_name=False)
    with _refusals(folder, "write"):
        sync_folder(folder)


def write_tail(path: Path, data: bytes, *, at: int) -> None:
    """Make `data` all that stands in a file from byte `at` on; the file is created if absent. Raises StorageError.

    For files that only grow: what a killed writer left behind `at` is gone, what stands before it is not touched. A power
    cut meanwhile may leave any part of `data`, so the reader must know from elsewhere how much of the file counts.
    """
    with _refusals(path, "write"):
        is_new = not path.exists()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, at)
            os.lseek(handle, at, os.SEEK_SET)
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        if is_new:
            sync_folder(path.parent)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Create a folder (and its parents) and make its name durable; an existing one is left as it is."""
    with _refusals(path, "create the folder"):
        if path.is_dir():
            return
        if path.parent != path and not path.parent.is_dir():
            make_folder(path.parent)
        path.mkdir(mode=mode, exist_ok=True)
        sync_folder(path.parent)


def make_private(path: Path) -> None:
    """Let nobody but its owner into a folder that is there. One of another owner stays as it is."""
    with contextlib.suppress(OSError):
        path.chmod(0o700)


def replace_folder(new: Path, place: Path) -> None:
    """Put the folder `new` at `place`, on the same file system; a folder that stood there is removed.

    No one sees half of either; a power cut between the two renames leaves the old one beside its place, as `.<name>.old`.
    """
    with _refusals(place, "put the folder"):
        old = place.with_name(f".{place.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        new.rename(place)
        sync_folder(place.parent)
        shutil.rmtree(old, ignore_errors=True)


def remove_file(path: Path) -> None:
    """Remove a file; one that is gone already is fine. Not synced: whoever removes repeats it at the next start."""
    with _refusals(path, "remove"), contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def make_safe(folder: Path) -> None:
    """Make what was removed from a folder, or named in it, stay so. Raises StorageError."""
    with _refusals(folder, "sync"):
        sync_folder(folder)


def move_file(path: Path, target: Path) -> None:
    """Give a file another name, in another folder too, on the same file system; one that has that name is replaced.

    Raises StorageError.
    """
    with _refusals(target, "move a file here"):
        os.replace(path, target)
        sync_folder(target.parent)  # first the new name: between the two the file may have both, never none
        sync_folder(path.parent)


@contextlib.contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Hold an advisory lock on `path` (created if absent); the kernel drops it when the process dies, however it dies.

    Raises SpoolLocked at once where another process holds it; `what` names the thing for the message.
    """
    with _refusals(path, "open the lock"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageError(f"{path}: cannot lock ({error.strerror}). Use a local file system.") from error
            raise SpoolLocked(
                f"{what} is being written by another process (it holds {path.name}). Wait for it, or stop it first."
            ) from error
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock now; changes nothing."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError as the system gives it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _refusals(path: Path, action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "The disk is full: free some space, then start again; nothing that was stored is lost.",
            errno.EDQUOT: "The disk quota is used up: free some space, then start again.",
            errno.EROFS: "The file system is read-only: choose a folder that can be written.",
            errno.EACCES: "Permission is missing: choose a folder that you may write, or change its owner.",
            errno.EPERM: "Permission is missing: choose a folder that you may write, or change its owner.",
            errno.ENOTDIR: "A part of that path is a file: choose another folder.",
            errno.ENOENT: "Its folder does not exist: make it first, or choose another place.",
            errno.EISDIR: "A folder of that name is in the way: choose another name.",
            errno.EEXIST: "A file of that name is in the way: choose another folder.",
        }.get(error.errno or 0, "The disk refused it: check the device before starting again.")
        refused = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
        raise refused(f"{path}: cannot {action} ({error.strerror}). {advice}") from error
