"""What a far side is for the uploader, and how it is opened."""

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

from geal_edge.errors import UsageError

SCHEMES = ("s3", "gs", "az", "http", "https")
Verified: TypeAlias = Literal["checksum", "size"]
"""By what it was checked that the far side has the bytes: its own checksum of them where it tells one, else their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Something that the far side has. modified: when it came, by the far side's clock; etag: what changes with its bytes, where
    the far side tells one."""

    key: str
    bytes: int
    modified: datetime
    etag: str | None = None


TIMEOUT_S = 60
"""Of a request with at most 1 MB; of a larger one as much more: a link of 17 kB/s is slow, and no failure."""


def timeout_s(size: int) -> int:
    """Of a request with so many bytes.

    >>> timeout_s(300_000), timeout_s(5_000_000)
    (60, 480)
    """
    return TIMEOUT_S << math.ceil(math.log2(max(1.0, size / 1e6)))


class Store(Protocol):
    def put(self, key: str, data: bytes, *, replace: bool = False) -> Verified:
        """Return once the far side has `data` under `key`, for good; else raise UploadError.

        What is there already is not sent again where it is the same, and is never replaced by something else unless `replace`.
        """


class Contents(Protocol):
    """What can be read of it."""

    def list(self, prefix: str) -> Iterator[Listed]:
        """All that is under a prefix, a whole number of names; "" for everything. Raises UploadError."""

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        """Raises UploadError; also for what has more than `at_most` bytes, of which nothing is read."""


class FarSide(Store, Contents, Protocol):
    """Both; the uploader only puts."""


def require_far_side(to: str) -> None:
    """Raise UsageError for a URL that cannot be meant or has a password in it; nothing is opened."""
    scheme, colon, _ = to.partition("://")
    if not colon:
        return
    try:
        parts = urlsplit(to)
    except ValueError as error:
        raise UsageError(f"{without_secrets(to)}: is no URL ({error})") from error
    if scheme not in ("file", *SCHEMES):
        raise UsageError(f"{without_secrets(to)}: must be a folder, or a URL of {', '.join(SCHEMES)}")
    if scheme != "file" and (parts.username is not None or parts.password is not None or parts.query):
        raise UsageError(
            f"{without_secrets(to)}: has a user, a password or a signature in it, which others on this machine could read. "
            "Take it out, and put credentials into the environment or a file of your own (docs/upload.md)."
        )


def open_store(to: str, *, retries: int = 0) -> FarSide:
    """The far side at a URL (s3, gs, az, http, https), or a folder. Nothing is sent yet.

    retries  of a request that failed; the uploader, which has the whole queue in mind, tries again by itself

    Raises UsageError for a URL that cannot be meant or has a password in it, MissingDependency without the extra `upload`.
    """
    from geal_edge.runtime.upload.folder import FolderStore
    from geal_edge.runtime.upload.objects import ObjectStore, credentials

    require_far_side(to)
    scheme, colon, _ = to.partition("://")
    if not colon:
        return FolderStore(Path(to))
    if scheme == "file":
        return FolderStore(Path(urlsplit(to).path))
    return ObjectStore(to, credentials(os.environ), retries=retries)


def without_secrets(text: str) -> str:
    r"""A text whose URLs have lost what may be secret: users, passwords and queries. The text may be a far side's, so the time is
    proportional to its length: without the `\b` a word of a megabyte takes hours.

    >>> without_secrets("PUT https://me:word@far.example/a?sig=x9 failed")
    'PUT https://(removed)@far.example/a?(removed) failed'
    >>> without_secrets("through http://me:w@rd@proxy.example:3128")
    'through http://(removed)@proxy.example:3128'
    """
    remove: Callable[[re.Match[str]], str] = lambda found: f"{found[1]}(removed)@"  # noqa: E731
    return re.sub(r"(?<=[\w/])\?[^\s,)\"']+", "?(removed)", re.sub(r"\b(\w+://)[^\s/]+@", remove, text))
