"""A real HTTP server on loopback that serves files with ranges and ETags, and misbehaves as it is told to."""

import hashlib
import http.server
import json
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Reply: TypeAlias = Callable[["Handler"], None]


def safetensors_bytes(tensors: dict[str, npt.NDArray[Any]]) -> bytes:
    """A .safetensors file, from its specification: length of the header, JSON header, bytes; uint16 stands for BF16."""
    types = {"float32": "F32", "float16": "F16", "float64": "F64", "uint16": "BF16", "int64": "I64"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": types[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


class Site(http.server.ThreadingHTTPServer):
    """`files[path]` is what it serves; each of `replies` is used once, in order, instead of the true answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.replies: list[Reply] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.asked]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        (self.server.replies.pop(0) if self.server.replies else serve)(self)

    do_CONNECT = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    @property
    def body(self) -> bytes | None:
        return self.server.files.get(self.path)


def serve(handler: Handler) -> None:
    """As a good server does: ranges, and If-Range honoured."""
    _serve(handler)


def _serve(handler: Handler, *, until: int | None = None, then: Callable[[], object] = lambda: None) -> None:
    body = handler.body
    if body is None:
        return handler.send_error(404)
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    start = 0
    if (wanted := handler.headers.get("Range")) and handler.headers.get("If-Range", etag) == etag:
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(body):
            return handler.head(416, Content_Range=f"bytes */{len(body)}")
        place = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.head(206, ETag=etag, Content_Length=len(body) - start, Content_Range=place)
    else:
        handler.head(200, ETag=etag, Content_Length=len(body), Content_Type="application/octet-stream")
    handler.wfile.write(body[start:until])
    then()
    return None


def cut_at(position: int) -> Reply:
    """The connection ends when the file has been sent as far as `position`."""
    return lambda handler: _serve(handler, until=position)


def stall_at(position: int) -> Reply:
    """Nothing more comes from `position` on, and the connection stays open."""
    return lambda handler: _serve(handler, until=position, then=handler.server.closing.wait)


def silence(handler: Handler) -> None:
    handler.server.closing.wait()


def hang_up(handler: Handler) -> None:
    handler.close_connection = True


def answer(status: int, body: bytes = b"", **headers: object) -> Reply:
    def reply(handler: Handler) -> None:
        handler.head(status, **{"Content_Length": len(body), **headers})
        handler.wfile.write(body)

    return reply


def without_ranges(position: int | None = None, **headers: object) -> Reply:
    """Everything from the start, whatever was asked for; cut at `position`."""

    def reply(handler: Handler) -> None:
        body = handler.body or b""
        handler.head(200, Content_Length=len(body), **headers)
        handler.wfile.write(body[:position])

    return reply


@contextmanager
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
