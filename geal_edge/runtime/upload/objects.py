"""Object stores and HTTP servers as the far side, through `obstore` (the extra `upload`).

S3, Google Cloud Storage and Azure take a conditional put: what is there already is refused by them, and then looked at. A plain
HTTP server does not: it is asked first, and then gets a PUT; folders that WebDAV wants are made.
"""

import re
import stat
from collections.abc import Callable, Iterator, Mapping
from hashlib import md5, sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from geal_edge.errors import MissingDependency, UploadError, UsageError
from geal_edge.runtime.upload.store import Listed, Verified, timeout_s, without_secrets

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Opened

CREDENTIALS = "GEAL_EDGE_UPLOAD_CREDENTIALS"
AUTHORIZATION = "GEAL_EDGE_UPLOAD_AUTHORIZATION"
METADATA_HOST = "169.254.169.254"
"""Where a cloud's own machines find credentials: asked by the library where there are no others."""
MAX_ANSWER_CHARACTERS, MAX_SAID_CHARACTERS = 20_000, 1_000
"""What is looked at of a library's error, and told of it: the body of the answer is in it, which may be a captive portal's page
of megabytes. What is told is written to the spool with every try."""

SHORTEST_SECRET = 7
"""A shorter word, as `Bearer`, may be of any sentence."""

_SECRET_NAME = re.compile(r"key|secret|token|sas|password|authorization", re.IGNORECASE)
_STATUS = re.compile(r"status code: (\d{3})")
_CLOCK = re.compile(r"RequestTimeTooSkewed|RequestExpired|InvalidCertificate\(\s*(Expired|NotValidYet)")
_EXPIRED = re.compile(
    r"ExpiredToken|TokenRefreshRequired|InvalidAccessKeyId|SignatureDoesNotMatch|AuthenticationFailed"
)
_NO_PROPFIND = (400, 403, 405, 501)
"""How servers answer that cannot or may not list, each in its own way; who may not even read gets 401."""
_TLS = re.compile(r"certificate|UnknownIssuer", re.IGNORECASE)
_DNS = re.compile(r"dns error|failed to lookup|Name or service|resolve", re.IGNORECASE)


def credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """name -> value of what signs requests, out of the file that the environment names; where it names none, the environment
    itself. Raises UsageError where the file cannot be read, or others may read it.

    The names are those of the stores (AWS_ACCESS_KEY_ID, GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_SAS_KEY, ...), and
    GEAL_EDGE_UPLOAD_AUTHORIZATION: the value of the header `Authorization` for an HTTP server.

    >>> credentials({"GEAL_EDGE_UPLOAD_AUTHORIZATION": "Bearer x"})
    {'GEAL_EDGE_UPLOAD_AUTHORIZATION': 'Bearer x'}
    """
    file = environ.get(CREDENTIALS)
    if file is None:
        return {AUTHORIZATION: environ[AUTHORIZATION]} if AUTHORIZATION in environ else {}
    try:
        if Path(file).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(f"{file}: others may read these credentials. Run: chmod 600 {file}")
        lines = [line.strip() for line in Path(file).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: the credentials for uploads cannot be read ({error})") from error
    found = [line.partition("=") for line in lines if line and not line.startswith("#")]
    if not all(equals for _, equals, _ in found):
        raise UsageError(f"{file}: every line must be NAME=VALUE, as in AWS_ACCESS_KEY_ID=...")
    return {name.strip(): value.strip() for name, _, value in found}


class ObjectStore:
    """A store behind a URL. `found` is what `credentials` gave. Raises UsageError where the URL cannot be meant."""

    def __init__(self, url: str, found: Mapping[str, str], *, retries: int = 0) -> None:
        self._url = url
        self._retries = retries
        self._found = found
        self._is_http = url.startswith(("http://", "https://"))
        self._by_timeout: dict[int, Opened] = {}
        self._opened(0)  # a URL that cannot be meant is better said now

    def put(self, key: str, data: bytes, *, replace: bool = False) -> Verified:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        store = self._opened(len(data))
        try:
            if not replace and self._is_http and (there := self._there(store, key, data)) is not None:
                return there
            result = obstore.put(
                store, key, data, mode="overwrite" if replace or self._is_http else "create", use_multipart=False
            )
        except AlreadyExistsError as error:
            if self._is_http:
                raise classified(error, key, self._found) from error
            there = self._there(store, key, data)
            if there is None:  # a conditional put of somebody else is on its way
                raise UploadError("retry", "conflict", f"{key}: the far side is busy with it.") from error
            return there
        except _failures() as error:
            raise classified(error, key, self._found) from error
        if _is_checksum(result["e_tag"], data):
            return "checksum"
        there = self._there(store, key, data, is_mine=True)
        if there is None:
            raise UploadError("retry", "half_sent", f"{key}: the far side took it, and has not got it.")
        return there

    def list(self, prefix: str) -> Iterator[Listed]:
        """An HTTP server must know PROPFIND."""
        import obstore

        # Of a web server the library tells the whole path, of all others what is behind that of the URL.
        above = f"{unquote(urlsplit(self._url).path).strip('/')}/".lstrip("/") if self._is_http else ""
        try:
            for page in obstore.list(self._opened(0), prefix or None):
                for item in page:
                    yield Listed(
                        key=item["path"].removeprefix(above),
                        bytes=item["size"],
                        modified=item["last_modified"],
                        etag=item["e_tag"],
                    )
        except _failures() as error:
            where = f"{self._url.rstrip('/')}/{prefix}"
            if self._is_http and (status := _status_of(str(error))) in _NO_PROPFIND:
                raise UploadError(
                    "stop",
                    "unlistable",
                    f"{where}: the server does not say what it has (PROPFIND answered {status}). Let it answer PROPFIND, as "
                    "WebDAV does, also with `Depth: infinity`; or read the folder that it serves.",
                ) from error
            raise classified(error, where, self._found) from error

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        import obstore

        try:
            found = obstore.get(self._opened(at_most or 0), key)
            if at_most is not None and found.meta["size"] > at_most:
                raise UploadError(
                    "stop", "too_large", f"{key}: has {found.meta['size']:,} bytes, more than {at_most:,}"
                )
            return bytes(found.bytes())
        except _failures() as error:
            raise classified(error, key, self._found) from error

    def _there(self, store: "Opened", key: str, data: bytes, *, is_mine: bool = False) -> Verified | None:
        """How it was checked that the far side has these bytes; None where it has nothing of this name, or a part."""
        import obstore

        try:
            found = obstore.head(store, key)
        except FileNotFoundError:
            return None
        except _failures() as error:
            raise classified(error, key, self._found) from error
        if _is_checksum(found["e_tag"], data):
            return "checksum"
        if found["size"] == len(data):
            return "size"
        if self._is_http and not is_mine:
            return None  # a part that an earlier try left: the name is the digest of the whole, so it is replaced
        if is_mine:
            raise UploadError(
                "retry", "half_sent", f"{key}: {len(data)} bytes were sent, and the far side has {found['size']}."
            )
        raise UploadError(
            "set_aside",
            "conflict",
            f"{key}: the far side has {found['size']} other bytes under this name, not these {len(data)}.",
        )

    def _opened(self, size: int) -> "Opened":
        """The store with a patience that fits so many bytes."""
        patience_s = timeout_s(size)
        if patience_s not in self._by_timeout:
            self._by_timeout[patience_s] = self._open(patience_s)
        return self._by_timeout[patience_s]

    def _open(self, patience_s: int) -> "Opened":
        try:
            import obstore.exceptions
            import obstore.store
        except ImportError as error:
            raise MissingDependency(
                f"Sending to {self._url} needs obstore. Run: pip install 'geal-edge[upload]'"
            ) from error
        options: Any = {"timeout": f"{patience_s}s", "connect_timeout": "20s", "allow_http": True}
        if self._is_http and AUTHORIZATION in self._found:
            options["default_headers"] = {"authorization": self._found[AUTHORIZATION]}
        keys: Any = {name.lower(): value for name, value in self._found.items() if not _is_ours(name)}
        retry: Any = {"max_retries": self._retries}
        try:
            if self._is_http:
                return obstore.store.HTTPStore(self._url, client_options=options, retry_config=retry)
            # Which keys there are depends on the store behind the URL.
            opened: Opened = obstore.store.from_url(self._url, client_options=options, retry_config=retry, **keys)
            return opened
        except BaseException as error:
            known = isinstance(error, (obstore.exceptions.BaseError, ValueError, TypeError, KeyError))
            if (
                not known and type(error).__name__ != "PanicException"
            ):  # what the library says of keys that it cannot hold
                raise
            detail = without_secrets(str(error).splitlines()[0])
            raise UsageError(f"{self._url}: cannot be a far side ({detail}). See docs/upload.md.") from error


def _is_ours(name: str) -> bool:
    """Whether it is no key of a store: our own, or what is allowed in any case."""
    return name == AUTHORIZATION or name.upper().endswith("ALLOW_HTTP")


def _failures() -> tuple[type[Exception], ...]:
    """What the library raises: errors of its own, and Python's, for what is not there, cannot be meant, or is nothing that such a
    store can do, as a conditional put to a web server."""
    from obstore.exceptions import BaseError

    return BaseError, OSError, ValueError, NotImplementedError


def _is_checksum(etag: str | None, data: bytes) -> bool:
    """Whether an entity tag is a digest of these bytes, as S3's and many servers' is."""
    plain = (etag or "").removeprefix("W/").strip('"').lower()
    return plain in (md5(data, usedforsecurity=False).hexdigest(), sha256(data).hexdigest())


def classified(error: Exception, key: str, found: Mapping[str, str] = MappingProxyType({})) -> UploadError:
    """What to do about a library's error, and what to say of it, with nothing secret in it. found: the credentials in use, which
    a server may say back (some show a refused request as they got it)."""
    text = str(error)
    for name, value in found.items():
        if _SECRET_NAME.search(name):
            for part in sorted({value, *value.split()}, key=len, reverse=True):
                text = text.replace(part, "(removed)") if len(part) >= SHORTEST_SECRET else text
    text = without_secrets(text[:MAX_ANSWER_CHARACTERS])
    said = text.splitlines()[0][:MAX_SAID_CHARACTERS] if text else type(error).__name__
    status = _status_of(text)
    for outcome, reason, words, fits in _RULES:
        if fits(status, text):
            return UploadError(outcome, reason, f"{key}: {words} ({said})")
    return UploadError("retry", "unreachable", f"{key}: the far side cannot be reached ({said})")


def _status_of(text: str) -> int:
    """The HTTP status that a library's error tells of; 0: none."""
    found = _STATUS.search(text)
    return int(found[1]) if found else 0


_RULES: tuple[tuple[str, str, str, Callable[[int, str], object]], ...] = (
    ("retry", "clock", "the far side and this machine disagree on the time", lambda _, text: _CLOCK.search(text)),
    (
        "stop",
        "credentials",
        "the credentials are absent, wrong or expired",
        lambda status, text: status == 401 or _EXPIRED.search(text) or METADATA_HOST in text,
    ),
    ("stop", "forbidden", "the credentials do not allow it", lambda status, _: status == 403),
    ("stop", "absent", "there is no such bucket or folder", lambda status, _: status == 404),
    ("retry", "conflict", "the far side says that something is in the way", lambda status, _: status in (409, 412)),
    ("retry", "busy", "the far side is busy or broken", lambda status, _: status in (408, 425, 429) or status >= 500),
    ("set_aside", "refused", "the far side does not take this object", lambda status, _: 400 <= status < 500),
    (
        "stop",
        "redirected",
        "the far side has moved: the region or the URL is wrong",
        lambda status, text: status >= 300 or "Received redirect" in text,
    ),
    ("stop", "certificate", "the far side's certificate is not trusted", lambda _, text: _TLS.search(text)),
    ("retry", "dns", "its name cannot be looked up", lambda _, text: _DNS.search(text)),
    ("retry", "timeout", "it took too long", lambda _, text: "kind: Timeout" in text),
)
"""The first that fits: what becomes of it, the reason's stable name, the words for it, and whether it fits (status, text)."""
