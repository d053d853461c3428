"""Far sides on loopback for an uploader, and a link to them that fails in every way that links do."""

import base64
import hmac
import http.server
import os
import random
import shutil
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolsettings import SpoolSettings
from tests.fakes import Clock, MemorySource, frame, judge
from tests.streams import random_stream

FAULTS = ("delay", "reset", "truncate", "5xx", "slow", "no_answer")
"""What a link does to a request: holds it back; ends it before the server sees it; lets half of its body through; answers in the
server's place; lets it through in small pieces; lets it through, and then loses the answer."""


def fill_spool(path: Path, count: int, *, size: int = 2000, pictures: bool = False) -> list[str]:
    """A spool of recorded frames that are all selected, read to its end; the ids in no particular order. Frames are bytes, or
    `pictures` of 64 x 32 pixels, as JPEG."""
    settings = SpoolSettings(
        bundle="sha256:" + "0" * 64,
        feature_space="fs-0000000000000000",
        preset="geal",
        grid=(2, 4),
        untrained=True,
        budget=count,
    )
    rng = np.random.default_rng(0)
    ids = []
    with Spool(path, settings, monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        for index, clusters in enumerate(random_stream(0, count, dim=64, most=1)):
            data = encode(rng.integers(0, 256, (32, 64, 3), "u1"), "jpg") if pictures else rng.bytes(size + index)
            judge(spool, ladder, frame(index, encoded=data), clusters)
            ids.append(f"memory#{index}")
        spool.finish_source("memory")
    return ids


class DavServer(http.server.ThreadingHTTPServer):
    """What WebDAV has of GET, HEAD, PUT, MKCOL and PROPFIND, into `files`; of a PUT that ends too soon it has what came, as some
    servers do."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Dav)
        self.files: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.gets: list[str] = []
        self.lists = True
        """Whether it answers PROPFIND."""
        self.status: int | None = None
        """Answers every request with it."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about."""


class _Dav(http.server.BaseHTTPRequestHandler):
    server: DavServer

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.status is None:
            self.server.files[self.path] = body
            self.server.puts.append(self.path)
        self._answer(self.server.status or 201)

    def do_MKCOL(self) -> None:
        self._answer(self.server.status or 201)

    def do_PROPFIND(self) -> None:
        if not self.server.lists:
            self.send_error(501)
            return
        found = "".join(
            f"<D:response><D:href>{quote(path)}</D:href><D:propstat><D:status>HTTP/1.1 200 OK</D:status><D:prop>"
            f"<D:getlastmodified>Wed, 21 Oct 2015 07:28:00 GMT</D:getlastmodified><D:getcontentlength>{len(body)}"
            "</D:getcontentlength><D:resourcetype/></D:prop></D:propstat></D:response>"
            for path, body in self.server.files.items()
            if path.startswith(self.path)
        )
        body = f'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">{found}</D:multistatus>'.encode()
        self._answer(207, len(body))
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.gets.append(self.path)
        body = self.server.files.get(self.path, b"")
        self._answer(200 if self.path in self.server.files else 404, len(body))
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        body = self.server.files.get(self.path)
        self._answer(self.server.status or (404 if body is None else 200), len(body or b""))

    def _answer(self, status: int, length: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class BadLink(socketserver.ThreadingTCPServer):
    """A proxy on loopback to a server there: one request a connection, and of `rate` of them a fault of FAULTS.

    on_request  called before each, with their count so far; `cut`: nothing passes any more
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, *, rate: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _BadRequest)
        self.port = port
        self.rate = rate
        self.rng = random.Random(seed)
        self.cut = False
        self.requests = 0
        self.faults: dict[str, int] = {}
        self.on_request: Callable[[int], object] = lambda _: None
        self.closing = threading.Event()

    def fault(self) -> str | None:
        if self.cut:
            return "reset"
        if self.rng.random() >= self.rate:
            return None
        kind = self.rng.choice(FAULTS)
        self.faults[kind] = self.faults.get(kind, 0) + 1
        return kind

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Both sides go away in these tests."""


class _BadRequest(socketserver.BaseRequestHandler):
    server: BadLink
    request: socket.socket

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (piece := self.request.recv(65536)):
                return None
            head += piece
        self.server.requests += 1
        self.server.on_request(self.server.requests)
        kind = self.server.fault()
        if kind == "reset":
            return self._reset()
        head, _, body = head.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        length = sum(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:"))
        while len(body) < length:
            if not (piece := self.request.recv(65536)):
                return None
            body += piece
        if kind == "5xx":
            self.request.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return None
        if kind == "delay":
            self.server.closing.wait(0.05)
        whole = b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body
        with closing(socket.create_connection(("127.0.0.1", self.server.port))) as far:
            if kind == "truncate":
                far.sendall(whole[: len(whole) - length // 2 - 1])
                return self._reset()
            pieces = [whole] if kind != "slow" else [whole[at : at + 512] for at in range(0, len(whole), 512)]
            for piece in pieces:
                far.sendall(piece)
                if kind == "slow":
                    self.server.closing.wait(0.0005)
            answer = b""
            while piece := far.recv(65536):
                answer += piece
            if kind == "no_answer":
                return self._reset()
            self.request.sendall(answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        return None

    def _reset(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    """Its port, while it serves."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        if isinstance(server, BadLink):
            server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def nginx(folder: Path) -> Iterator[tuple[int, Path]]:
    """A real nginx that takes PUT: its port, and the folder that it puts into."""
    port, root = free_port(), folder / "root"
    for made in (root, folder / "body"):
        made.mkdir(parents=True)
    folder.chmod(0o755)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;\n"
        + (f"user {os.environ.get('USER', 'root')};\n" if os.getuid() == 0 else "")
        + f"events {{}}\nhttp {{ access_log off; client_body_temp_path {folder}/body; client_max_body_size 100m;\n"
        f"server {{ listen 127.0.0.1:{port}; root {root};\n"
        "location / { dav_methods PUT DELETE MKCOL; create_full_put_path on; } } }\n"
    )
    with running([str(shutil.which("nginx")), "-c", str(config), "-e", f"{folder}/error.log"], port):
        yield port, root


@contextmanager
def moto(python: str = sys.executable) -> Iterator[int]:
    """A real server that speaks S3: its port. `python` is one that has `moto[server]`."""
    port = free_port()
    with running([python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        yield port


AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that every Azurite has, and its key: both are public."""
AZURITE = {"AZURE_STORAGE_ACCOUNT_NAME": AZURITE_ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": AZURITE_KEY}


@contextmanager
def azurite() -> Iterator[int]:
    """Azure's own emulator of its blob storage, with the container `cars`: its port."""
    port = free_port()
    quiet = ["--silent", "--disableTelemetry", "--inMemoryPersistence", "--skipApiVersionCheck"]
    with running(["azurite-blob", "--blobPort", str(port), *quiet], port):
        date = formatdate(usegmt=True)
        signed = (
            f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:2021-08-06\n"
            f"/{AZURITE_ACCOUNT}/{AZURITE_ACCOUNT}/cars\nrestype:container"
        )
        digest = hmac.digest(base64.b64decode(AZURITE_KEY), signed.encode(), "sha256")
        headers = {
            "x-ms-date": date,
            "x-ms-version": "2021-08-06",
            "Authorization": f"SharedKey {AZURITE_ACCOUNT}:{base64.b64encode(digest).decode()}",
            "Content-Length": "0",
        }
        made = urllib.request.Request(
            f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}/cars?restype=container", method="PUT", headers=headers
        )
        urllib.request.urlopen(made).close()
        yield port


@contextmanager
def running(words: list[str], port: int) -> Iterator[None]:
    """A server's process, from the moment at which it answers."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pause = threading.Event()
    try:
        for _ in range(600):
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=1.0)):
                break
            if process.poll() is not None:
                raise RuntimeError(f"{words[0]} ended with {process.returncode}")
            pause.wait(0.1)
        yield
    finally:
        process.terminate()
        process.wait()
