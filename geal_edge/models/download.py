"""One file over HTTP into a folder: with progress, continued after a cut, and under its own name complete or not at all.

    <folder>/lock               held by the one process that writes here; others wait for it
    <folder>/<name>.part        what has arrived
    <folder>/<name>.part.json   how far that can be believed: its address, the server's mark for that version, bytes, sha256
    <folder>/<sha256>.<suffix>  a whole file, named by what is in it: a reader that finds another sha256 does not use it

A part is continued only as far as its record proves it (a kill or a power cut may leave more, or other, bytes), and only
if the server says that it still has the same version (If-Range). Everything else begins anew.

Time limits are for silence, not for the whole: a slow line may take an hour, but no answer within `answer_s`, or `timeout_s`
without a byte after it, is an error.
"""

import errno
import fcntl
import hashlib
import http.client
import json
import math
import os
import queue
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from geal_edge import __version__
from geal_edge.errors import DownloadError, StorageError, WeightsError
from geal_edge.models.jsontext import parse_json

TIMEOUT_S = 10.0
"""How long nothing may come: no answer from any address at first, no byte later."""

CONTINUATIONS = 100
"""Cuts that one call mends, each of which must have brought the file further than ever before."""

CHUNK = 1 << 16
RECORD_EVERY = 8 << 20
MEGABYTE = 1_000_000

_WEB_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml|head|body)", re.IGNORECASE)
Checked = TypeVar("Checked")


class Watcher(Protocol):
    """Is told of a download; one step is one megabyte. Calls come from the calling thread."""

    def begin(self, what: str, total: int | None) -> None: ...
    def advance(self) -> None: ...
    def warn(self, message: str) -> None: ...


def download(
    url: str,
    folder: Path,
    *,
    check: Callable[[Path, str], Checked],
    sha256: str | None = None,
    timeout_s: float = TIMEOUT_S,
    answer_s: float | None = None,
    watch: Watcher,
) -> Checked:
    """Fetch `url` into `folder` as `<sha256>.<suffix>`; returns what `check` said of the file.

    sha256  lower-case hex that the file must have; also believed is the one that a hub states on its way (X-Linked-Etag)
    check   (path, sha256) of the complete file before it gets its name: a WeightsError refuses it, and it is deleted
    answer_s  how long the first answer may take; default: `timeout_s`

    Redirects are followed, but never from https to http. Proxies are those of the environment (HTTPS_PROXY, NO_PROXY).
    The caller holds `only_one_writes(folder)`. Raises DownloadError, StorageError, and whatever `check` does.
    """
    name = Path(urlsplit(url).path).name
    part = _Part(folder / f"{name}.part", url)
    try:
        _fetch(part, name, timeout_s, timeout_s if answer_s is None else answer_s, watch)
        found = part.sha.hexdigest()
        for said, wanted in (("was asked for", sha256), ("the server announced", part.announced)):
            if wanted is not None and found != wanted:
                part.discard()
                raise DownloadError(f"the file's sha256 is {found}, and {wanted} {said}; it was deleted")
        try:
            checked = check(part.path, found)
        except WeightsError:
            part.discard()
            raise
        part.publish(folder / f"{found}{Path(name).suffix}")
        return checked
    finally:
        part.close()
        if part.size == 0:
            part.discard()


@contextmanager
def only_one_writes(folder: Path, watch: Watcher) -> Iterator[bool]:
    """Make `folder` and hold its lock, which the kernel drops with the process; True: another process had it before."""
    with _refused(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    waited = False
    try:
        with _refused(folder / "lock"):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                watch.warn(f"another process is downloading into {folder}: waiting for it.")
                fcntl.flock(handle, fcntl.LOCK_EX)
                waited = True
        yield waited
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """Lower-case hex. Raises OSError."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


class _Cut(Exception):
    """The body ended, or stopped coming, before it was whole."""


class _Silent(Exception):
    """Nothing answered in time."""


@dataclass
class _Part:
    """The file that is arriving, and its record."""

    path: Path
    url: str
    file: IO[bytes] = field(init=False)
    sha: Any = field(init=False)
    size: int = 0
    total: int | None = None
    mark: str | None = None
    """A strong ETag, or else Last-Modified: what If-Range may name. None: such a file cannot be continued."""
    announced: str | None = None
    """The sha256 of the whole, where the server told it."""
    recorded: int = 0

    def __post_init__(self) -> None:
        with _refused(self.path):
            self.file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", buffering=0)
        self._believe()

    @property
    def _record(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def _believe(self) -> None:
        """Take up what an earlier process left, if its record proves it; else begin with nothing."""
        self.restart()
        try:
            record = parse_json(self._record.read_bytes())
            size, mark, total, announced = (record[key] for key in ("bytes", "mark", "total", "announced"))
            if record["url"] != self.url or not isinstance(size, int) or not isinstance(mark, str):
                return
            sha, left = hashlib.sha256(), size
            while left > 0 and (chunk := self.file.read(min(left, 1 << 20))):
                sha.update(chunk)
                left -= len(chunk)
        except (OSError, ValueError, KeyError, TypeError):
            return
        if left == 0 and sha.hexdigest() == record["sha256"]:
            self.sha, self.size, self.mark, self.announced, self.recorded = sha, size, mark, announced, size
            self.total = total if isinstance(total, int) else None

    def restart(self, *, mark: str | None = None, total: int | None = None, announced: str | None = None) -> None:
        self.sha, self.size, self.recorded = hashlib.sha256(), 0, 0
        self.mark, self.total, self.announced = mark, total, announced

    @property
    def whole(self) -> bool:
        return self.total is not None and self.size == self.total

    def write(self, chunk: bytes) -> None:
        with _refused(self.path):
            view = memoryview(chunk)
            self.file.seek(self.size)
            while view:
                view = view[self.file.write(view) :]
        self.sha.update(chunk)
        self.size += len(chunk)
        if self.size - self.recorded >= RECORD_EVERY:
            self.remember()

    def remember(self) -> None:
        """Record how far the part is good. Without a mark it could never be continued, so there is nothing to record."""
        if self.mark is None:
            return
        record = {
            "url": self.url,
            "mark": self.mark,
            "total": self.total,
            "announced": self.announced,
            "bytes": self.size,
            "sha256": self.sha.hexdigest(),
        }
        scratch = self._record.with_name(f"{self._record.name}.new")
        with _refused(self._record):
            scratch.write_text(json.dumps(record))
            scratch.replace(self._record)
        self.recorded = self.size

    def trim(self) -> None:
        """Take away what an earlier attempt left behind the end."""
        with _refused(self.path):
            self.file.truncate(self.size)

    def publish(self, final: Path) -> None:
        with _refused(final):
            self.path.replace(final)  # not synced: whoever reads a cached file compares its sha256 with its name
            self._record.unlink(missing_ok=True)

    def discard(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            self._record.unlink(missing_ok=True)

    def close(self) -> None:
        self.file.close()


def _fetch(part: _Part, name: str, timeout_s: float, answer_s: float, watch: Watcher) -> None:
    """Make the part whole: ask, and ask for the rest after each cut that left it longer than ever before."""
    progress = _Progress(name, watch)
    furthest = part.size
    for _ in range(CONTINUATIONS):
        if part.whole:
            break
        try:
            _attempt(part, timeout_s, answer_s, progress)
            break
        except _Cut as cut:
            if part.size <= furthest:
                raise DownloadError(f"{cut}{_so_far(part)}") from cut
            furthest = part.size
        except DownloadError as error:
            raise DownloadError(f"{error}{_so_far(part)}") from error
        finally:
            with suppress(StorageError):  # where the disk is full, the record may find no place either
                part.remember()
    else:
        raise DownloadError(f"the connection broke {CONTINUATIONS} times{_so_far(part)}")
    if part.size == 0:
        raise DownloadError("the server sent an empty file")
    part.trim()


def _attempt(part: _Part, timeout_s: float, answer_s: float, progress: "_Progress") -> None:
    """One request, and its body into the part. Raises _Cut, DownloadError, StorageError."""
    with _answer(part, timeout_s, answer_s) as response:
        progress.at(part)
        while True:
            try:
                chunk = response.read1(CHUNK)
            except TimeoutError as error:
                raise _Cut(f"the server stopped sending for {timeout_s:g} seconds") from error
            except (OSError, http.client.HTTPException) as error:
                raise _Cut(f"the connection broke: {_why(error)}") from error
            if not chunk:
                break
            if part.size == 0 and _WEB_PAGE.match(chunk):
                raise DownloadError(_PAGE)
            part.write(chunk)
            progress.at(part)
        if part.total is not None and part.size != part.total:
            if part.size > part.total:
                part.restart()
            raise _Cut("the connection ended early")


def _answer(part: _Part, timeout_s: float, answer_s: float) -> http.client.HTTPResponse:
    """A response whose body goes on exactly where the part ends. Raises _Cut (reset while asking), DownloadError."""
    response, hops = _open(part, timeout_s, answer_s)
    headers = response.headers
    mark = _mark(headers)
    try:
        if "html" in headers.get_content_type():
            raise DownloadError(_PAGE)
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise DownloadError(f"the server packed the file ({headers['Content-Encoding']}), which nobody asked for")
        if response.status == 200:
            length = headers.get("Content-Length", "")
            part.restart(mark=mark, total=int(length) if length.isdecimal() else None, announced=hops.announced)
            part.trim()
            return response
        if response.status != 206 or part.size == 0:
            raise DownloadError(f"the server answered HTTP {response.status} instead of the file")
        if _continues(part, headers.get("Content-Range", ""), mark):
            return response
    except BaseException:
        response.close()
        raise
    response.close()  # a part of something else: have the whole
    part.restart()
    return _answer(part, timeout_s, answer_s)


def _continues(part: _Part, content_range: str, mark: str | None) -> bool:
    place = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", content_range.strip())
    if place is None or int(place[1]) != part.size or (mark is not None and mark != part.mark):
        return False
    if place[3] != "*":
        if part.total is not None and int(place[3]) != part.total:
            return False
        part.total = int(place[3])
    return True


def _mark(headers: http.client.HTTPMessage) -> str | None:
    etag = headers.get("ETag", "").strip()
    if len(etag) > 1 and etag.startswith('"') and etag.endswith('"'):  # a weak one (W/) promises no equal bytes
        return str(etag)
    modified = headers.get("Last-Modified", "").strip()
    return str(modified) or None


class _Hops(urllib.request.HTTPRedirectHandler):
    """Follows redirects; notes the sha256 that a hub states while it sends us on to where its large files lie."""

    announced: str | None = None

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        here, there = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if there not in ("https", here):
            fp.close()
            raise DownloadError(f"the server sends us on from {here} to {there} ({newurl[:200]}), which is not safe")
        linked = headers.get("X-Linked-Etag", "").strip('" ').lower()
        if re.fullmatch(r"[0-9a-f]{64}", linked):
            self.announced = linked
        return super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # Python 3.10 does not know it yet


def _open(part: _Part, timeout_s: float, answer_s: float) -> tuple[http.client.HTTPResponse, _Hops]:
    """The response (200 to 299) to a request for what is missing. Raises _Cut, DownloadError."""
    headers = {"User-Agent": f"geal-edge/{__version__}", "Accept-Encoding": "identity"}
    if part.size and part.mark:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.mark}
    hops = _Hops()
    opener = urllib.request.build_opener(hops)  # with the proxies that the environment names now
    try:
        request = urllib.request.Request(part.url, headers=headers)  # noqa: S310 - https, or what the user named
        return _in_time(lambda: opener.open(request, timeout=timeout_s), answer_s), hops
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and part.size:  # the file is shorter now
                part.restart()
                return _open(part, timeout_s, answer_s)
            raise DownloadError(_refusal(error)) from error
    except (_Silent, TimeoutError) as error:
        raise DownloadError(f"nothing answered within {answer_s:g} seconds") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise DownloadError(f"nothing answered within {answer_s:g} seconds") from error
        raise DownloadError(f"cannot be reached: {_why(error.reason)}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no URL, or no proxy's
        raise DownloadError(f"cannot be reached: {_why(error)}") from error


def _in_time(ask: Callable[[], Any], timeout_s: float) -> Any:
    """`ask()`, or _Silent after `timeout_s` in all.

    In a thread: a socket's own time limit holds for each address of a name, for each redirect and for each line of the
    headers by itself, and for looking the name up not at all.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    too_late = threading.Event()

    def close_what_came() -> None:
        with suppress(queue.Empty):
            while True:
                answer = answers.get_nowait()
                if hasattr(answer, "close"):
                    answer.close()

    def work() -> None:
        try:
            answer = ask()
        except Exception as error:  # noqa: BLE001 - raised again, where somebody waits for it
            answer = error
        answers.put(answer)
        if too_late.is_set():
            close_what_came()

    threading.Thread(target=work, name="geal-edge download", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        too_late.set()
        close_what_came()
        raise _Silent from None
    if isinstance(answer, Exception):
        raise answer
    return answer


@dataclass
class _Progress:
    """Turns bytes into steps of a megabyte."""

    name: str
    watch: Watcher
    shown: int = 0
    begun: bool = False

    def at(self, part: _Part) -> None:
        if not self.begun or part.size < self.shown * MEGABYTE:
            total = None if part.total is None else math.ceil(part.total / MEGABYTE)
            self.watch.begin(f"downloading {self.name} (MB)", total)
            self.begun, self.shown = True, 0
        steps = math.ceil(part.size / MEGABYTE) if part.whole else part.size // MEGABYTE
        while self.shown < steps:
            self.watch.advance()
            self.shown += 1


_PAGE = (
    "a web page came instead of the file: this network asks for a login first, or a proxy refuses. "
    "Log in with a browser, or set HTTPS_PROXY"
)


def _refusal(error: urllib.error.HTTPError) -> str:
    said = f"HTTP {error.code} {_why(error.reason)}".rstrip()
    if error.code in (401, 403):
        return f"the server refuses it ({said}): this network or account may not have it"
    if error.code in (404, 410):
        return f"no such file there ({said})"
    if error.code == 407:
        return f"the proxy wants a name and a password ({said}): set HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT"
    if error.code == 429:
        return f"too many requests from here ({said}): try again later"
    if error.code >= 500:
        return f"the server, or a proxy before it, has a fault ({said}): try again later"
    return f"the server answered {said}"


def _why(error: object) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); SSL_CERT_FILE may name your network's own"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def _so_far(part: _Part) -> str:
    if part.size == 0:
        return ""
    of_all = "" if part.total is None else f" of {part.total / MEGABYTE:.1f}"
    goes_on = "; the same command goes on from there" if part.mark else ""
    return f" ({part.size / MEGABYTE:.1f}{of_all} MB had come{goes_on})"


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What the disk refuses becomes a StorageError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = (
            "Free some space, or set HF_HOME to a folder that has it" if full else "Set HF_HOME to a folder of yours"
        )
        raise StorageError(f"{path}: cannot be written ({error.strerror}). {advice}.") from error
