"""A folder as the far side: a disk that is carried home, or a file server that is mounted here."""

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from geal_edge.errors import StorageError, UploadError
from geal_edge.runtime import durable
from geal_edge.runtime.upload.store import Listed, Verified


class FolderStore:
    """Files appear under their name complete, and synced, or not at all. The folder itself must be there: what a disk is mounted
    on must not be taken for the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, data: bytes, *, replace: bool = False) -> Verified:
        path = self._folder / key
        if not self._folder.is_dir():
            raise UploadError(
                "retry", "unreachable", f"{self._folder}: is not there. Mount the disk, or make the folder."
            )
        try:
            if not replace and path.exists():
                if path.read_bytes() != data:
                    raise UploadError("set_aside", "conflict", f"{path}: is there already, with other bytes.")
                return "checksum"
            durable.make_folder(path.parent)
            durable.write_file(path, data)
            if path.read_bytes() != data:
                raise UploadError("retry", "half_sent", f"{path}: does not hold what was written.")
        except (StorageError, OSError) as error:
            raise UploadError("retry", "storage", str(error)) from error
        return "checksum"

    def list(self, prefix: str) -> Iterator[Listed]:
        """Links are passed over: they may lead anywhere."""
        if not (self._folder / prefix).is_dir():
            raise UploadError("stop", "absent", f"{self._folder / prefix}: there is no such folder")
        try:
            yield from _listed(str(self._folder / prefix), f"{prefix}/" if prefix else "")
        except OSError as error:
            raise UploadError("stop", "unreadable", f"{error.filename}: cannot be read ({error.strerror})") from error

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        try:
            with (self._folder / key).open("rb") as file:
                data = file.read(-1 if at_most is None else at_most + 1)
        except OSError as error:
            raise UploadError("stop", "absent", f"{self._folder / key}: cannot be read ({error.strerror})") from error
        if at_most is not None and len(data) > at_most:
            raise UploadError("stop", "too_large", f"{self._folder / key}: has more than {at_most:,} bytes")
        return data


def _listed(folder: str, above: str) -> Iterator[Listed]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _listed(entry.path, f"{above}{entry.name}/")
        elif entry.is_file(follow_symlinks=False) and not entry.name.endswith(durable.TEMPORARY_SUFFIX):
            told = entry.stat()
            modified = datetime.fromtimestamp(told.st_mtime, timezone.utc)
            yield Listed(key=f"{above}{entry.name}", bytes=told.st_size, modified=modified)
