"""Metrics on their way out: an endpoint for Prometheus, and a file for node_exporter's textfile collector (docs/metrics.md).

One thread of its own does both. It reads what the deciding thread left in memory, and the spool through a connection of its own
that only reads, at most every `SPOOL_S`: whoever asks never makes a frame wait. One request is answered at a time, within
`ANSWER_S`; a few more may wait; the rest are refused by the kernel. A port that is taken, or a folder that is not there, is an
event, and it is tried again: metrics are no reason for a vehicle to select nothing.
"""

import ipaddress
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from geal_edge.config import MetricsConfig
from geal_edge.errors import GealEdgeError, StorageError
from geal_edge.runtime import durable
from geal_edge.runtime.clocks import BOUNDS_S
from geal_edge.runtime.metrics import CONTENT_TYPE, text, told
from geal_edge.runtime.observer import Notice
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.telemetry import Telemetry
from geal_edge.runtime.vehicletime import powered_seconds

ANSWER_S = 2.0
"""For a request, however slowly it is sent, and once more for its answer."""
MAX_REQUEST_BYTES = 8192
WAITING = 4
"""Connections that may wait."""
SPOOL_S = 5.0
PAGE_S = 1.0
"""A page is made so often at most, however often it is asked for,"""
GAP_S = 0.02
"""and so long nobody is heard after an answer: whoever asks without end must not take the frames' processor."""
RETRY_S = 30.0


class Exporter:
    """Use it as a context manager: what it shows ends with it, the file too.

    note  told once when something cannot be shown, and when it can again: the events `metrics_unavailable` and `metrics_back`
    """

    def __init__(
        self, config: MetricsConfig, telemetry: Telemetry, spool: Path, note: Callable[[Notice], None]
    ) -> None:
        self._config = config
        self._telemetry = telemetry
        self._spool = spool
        self._note = note
        self._failing: set[str] = set()
        self._server: socket.socket | None = None
        self._tally: tuple[float, dict[str, Any] | None] = (-float("inf"), None)
        self._page: tuple[float, str] = (-float("inf"), "")
        self._thread: threading.Thread | None = None
        self._stopped, self._stop = socket.socketpair()

    def __enter__(self) -> "Exporter":
        if self._config.listen is not None or self._config.textfile is not None:
            self._bind()
            self._thread = threading.Thread(target=self._work, name="geal-edge metrics", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.close()  # whoever waits on its other end wakes up
        if self._thread is not None:
            self._thread.join(timeout=2.0 * ANSWER_S)
        self._stopped.close()
        if self._server is not None:
            self._server.close()
        if self._config.textfile is not None:
            with suppress(StorageError):  # else the collector would go on telling of it
                durable.remove_file(self._config.textfile)

    @property
    def address(self) -> tuple[str, int] | None:
        """Where it listens; None where it does not, or cannot yet."""
        return None if self._server is None else self._server.getsockname()[:2]

    def page(self) -> str:
        """All metrics, as of now or `PAGE_S` ago."""
        made_s, page = self._page
        now = time.monotonic()
        if now - made_s >= PAGE_S:
            snapshot, stages = self._telemetry.snapshot, self._telemetry.stages
            samples = told(snapshot, self._read_spool(), powered_s=powered_seconds(), wall_ns=time.time_ns())
            page = text(samples, {name: each.as_dict() for name, each in stages.items()}, BOUNDS_S)
            self._page = now, page
        return page

    # -- inside --------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        write_s = bind_s = time.monotonic()
        while True:
            now = time.monotonic()
            if self._config.textfile is not None and now >= write_s:
                self._write(self._config.textfile)
                write_s = now + self._config.every_s
            if self._server is None and now >= bind_s:
                self._bind()
                bind_s = now + RETRY_S
            due = [write_s] * (self._config.textfile is not None) + [bind_s] * (self._server is None)
            wait_s = max(0.0, min(due) - time.monotonic()) if due else None
            ready, _, _ = select.select([self._stopped, *([self._server] if self._server else [])], [], [], wait_s)
            if self._stopped in ready:
                return
            if self._server is not None and self._server in ready:
                self._answer_next(self._server)
                if select.select([self._stopped], [], [], GAP_S)[0]:
                    return

    def _bind(self) -> None:
        if self._config.listen is None:
            return
        host, port = self._config.address()
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        server = socket.socket(family, socket.SOCK_STREAM)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((host, port))
            server.listen(WAITING)
            server.setblocking(False)
        except OSError as error:
            server.close()
            self._tell("listen", f"{host}:{port}", str(error.strerror))
            return
        self._server = server
        self._tell("listen", f"{host}:{port}", None)

    def _write(self, file: Path) -> None:
        try:
            durable.write_passing(file, self.page().encode(), mode=0o644)
        except Exception as error:  # noqa: BLE001  whatever is wrong here, the endpoint goes on, and so does the next file
            self._tell("textfile", str(file), str(error))
        else:
            self._tell("textfile", str(file), None)

    def _tell(self, key: str, value: str, reason: str | None) -> None:
        """Once for each turn for the worse or the better."""
        if (reason is not None) == (key in self._failing):
            return
        if reason is None:
            self._failing.remove(key)
            self._note(Notice(name="metrics_back", detail={"key": key, "value": value}))
        else:
            self._failing.add(key)
            self._note(Notice(name="metrics_unavailable", detail={"key": key, "value": value, "reason": reason}))

    def _answer_next(self, server: socket.socket) -> None:
        try:
            connection, _ = server.accept()
        except OSError:  # it is gone already, or there are no descriptors left
            return
        with connection, suppress(OSError):
            until = time.monotonic() + ANSWER_S
            request = _request(connection, until)
            if request is not None:
                said = answer(request, self.page)
                connection.settimeout(ANSWER_S)
                connection.sendall(said)

    def _read_spool(self) -> dict[str, Any] | None:
        """What is committed there; None where it cannot be read, which must not end what can be told all the same."""
        read_s, tally = self._tally
        now = time.monotonic()
        if now - read_s >= SPOOL_S:
            try:
                with open_view(self._spool) as view:
                    tally = view.tally()
            except GealEdgeError:
                tally = None
            self._tally = now, tally
        return tally


def _request(connection: socket.socket, until: float) -> bytes | None:
    """The first line of a request, once its head is whole; None where it does not come."""
    head = b""
    while b"\r\n\r\n" not in head:
        connection.settimeout(max(0.001, until - time.monotonic()))
        part = connection.recv(4096)
        if not part or len(head) + len(part) > MAX_REQUEST_BYTES or time.monotonic() >= until:
            return None
        head += part
    return head.partition(b"\r\n")[0]


def answer(request: bytes, page: Callable[[], str]) -> bytes:
    """What a request gets: the page where it is GET /metrics, which alone is there.

    >>> answer(b"GET /metrics HTTP/1.1", lambda: "up 1").splitlines()[0]
    b'HTTP/1.1 200 OK'
    >>> answer(b"DELETE /metrics HTTP/1.1", lambda: "up 1").splitlines()[0]
    b'HTTP/1.1 405 Method Not Allowed'
    """
    method, target, version, *rest = [*request.split(b" "), b"", b""][: max(3, request.count(b" ") + 1)]
    status, body = "200 OK", b""
    if rest or not version.startswith(b"HTTP/1."):
        status = "400 Bad Request"
    elif target.partition(b"?")[0] != b"/metrics":
        status = "404 Not Found"
    elif method != b"GET":
        status = "405 Method Not Allowed"
    else:
        try:
            body = page().encode()
        except Exception as error:  # noqa: BLE001  who asks is told; the thread that answers goes on
            status = f"500 {type(error).__name__}"
    data = body or f"{status}. There is GET /metrics, and nothing else.\n".encode()
    kind = CONTENT_TYPE if body else "text/plain; charset=utf-8"
    allow = "Allow: GET\r\n" if status.startswith("405") else ""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n{allow}Connection: close\r\n\r\n"
    )
    return head.encode() + data
