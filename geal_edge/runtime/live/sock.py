"""Frames from another process over a Unix socket: `unix:PATH`. We listen; one sender at a time is one camera.

A message is a header of 56 bytes, little-endian, `size` bytes behind it, and behind them `metadata_size` bytes:

    offset  0  char[4]   "GEF1"
            4  uint32    kind: 0 an image file (JPEG, PNG, ...), 1 pixels, 2 the trip is over (no bytes follow)
            8  int64     capture_time_ns, of the sender's clock; 0: when it arrives here
           16  uint64    size
           24  uint32    width, height, step (bytes a row; 0: no padding); for pixels alone
           36  uint32    metadata_size: 0, or that of a JSON object, at most 64 KiB
           40  char[16]  encoding of pixels, as in ROS: rgb8, bgr8, rgba8, mono8, nv12, uyvy, yuyv, ...; padded with zeros

Nothing is answered. What is sent is always taken, so a sender waits for a copy of its bytes and never for the encoder. A message
that is none ends the connection with an event, and the next sender may connect. examples/push_frames.cpp sends from C++.
"""

import os
import socket
import struct
import time
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

from geal_edge.errors import SourceError, UsageError
from geal_edge.runtime.live.camera import HEED_S, Intake, Picture, Shot
from geal_edge.runtime.metadata import MAX_BYTES as MAX_METADATA_BYTES
from geal_edge.runtime.metadata import read_metadata
from geal_edge.runtime.sources import pixels
from geal_edge.runtime.sources.images import as_text, require_pillow
from geal_edge.runtime.sources.rosmessages import RawPicture

HEADER = struct.Struct("<4sIqQIIII16s")
MAGIC = b"GEF1"
FILE, PIXELS, TRIP_OVER = range(3)
MAX_BYTES = 256 * 1024 * 1024


class SocketCamera:
    """Raises SourceError where another process listens there, or the folder is absent; UsageError for a path that is too long."""

    def __init__(self, path: Path, *, name: str | None = None) -> None:
        require_pillow()
        if len(os.fsencode(path)) > 100:
            raise UsageError(f"unix:{path}: the system allows 100 bytes for the path of a socket")
        self.name = name or as_text(path.stem)
        self.spec = f"unix:{as_text(os.path.abspath(path))}"
        self._path = path
        self._server: socket.socket | None = self._listen()  # so that a sender may connect as soon as `run` has begun

    def watch(self, intake: Intake, stopped: Event) -> None:
        server = self._server or self._listen()
        self._server = None
        try:
            while not stopped.is_set():
                try:
                    sender, _ = server.accept()
                except TimeoutError:
                    continue
                with sender:
                    sender.settimeout(HEED_S)
                    intake.notice("camera_started")
                    reason = _receive(sender, intake, stopped)
                if not stopped.is_set():
                    intake.notice("camera_lost", reason=reason, retry_in_s=0.0)
        finally:
            server.close()
            self._path.unlink(missing_ok=True)

    def _listen(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.settimeout(HEED_S)
        try:
            if self._path.is_socket():
                try:
                    server.connect(str(self._path))
                except ConnectionRefusedError:
                    self._path.unlink()  # left by a process that was killed
                except (BlockingIOError, TimeoutError):
                    raise self._taken() from None  # so many wait for that process that no more may
                else:
                    raise self._taken()
            server.bind(str(self._path))
            os.chmod(self._path, 0o600)  # before anybody can connect
            server.listen(1)
        except OSError as error:
            server.close()
            raise SourceError(
                f"{self.spec}: the socket cannot be made ({error.strerror}). Its folder must exist and be writable, and no "
                "other file may have its name"
            ) from error
        except SourceError:
            server.close()
            raise
        return server

    def _taken(self) -> SourceError:
        return SourceError(f"{self.spec}: another process listens there. Stop it, or choose another path")


def _receive(sender: socket.socket, intake: Intake, stopped: Event) -> str:
    """Take a sender's messages until it is over; says why."""
    while True:
        head = _exactly(sender, HEADER.size, stopped)
        if head is None:
            return "its sender closed the connection"
        header = Header(*HEADER.unpack(head))
        if not header.plausible:
            return f"its sender sent no frame ({header.words})"
        data = _exactly(sender, header.size, stopped)
        said = None if data is None else _exactly(sender, header.metadata_size, stopped)
        if data is None or said is None:
            return "its sender closed the connection in the middle of a frame"
        if header.kind == TRIP_OVER:
            intake.end_trip()
        else:
            intake.offer(
                Shot(
                    capture_time_ns=header.capture_time_ns or time.time_ns(),
                    read=partial(picture, header, data),
                    metadata=partial(read_metadata, bytes(said)),
                )
            )


class Header(NamedTuple):
    """The fields of `HEADER`, in their order."""

    magic: bytes
    kind: int
    capture_time_ns: int
    size: int
    width: int
    height: int
    step: int
    metadata_size: int
    encoding: bytes

    @property
    def plausible(self) -> bool:
        """Whether it is of a message that may be read."""
        known = self.magic == MAGIC and self.kind <= TRIP_OVER
        return known and self.size <= MAX_BYTES and self.metadata_size <= MAX_METADATA_BYTES

    @property
    def words(self) -> str:
        sizes = f"{self.size} bytes and {self.metadata_size} of metadata"
        return f"begins {self.magic!r}, kind {self.kind}, {sizes}"


def picture(header: Header, data: bytearray) -> Picture:
    """What a message with this header holds. Raises FrameError."""
    if header.kind == FILE:
        return bytes(data)
    raw = RawPicture(
        stamp_ns=header.capture_time_ns,
        height=header.height,
        width=header.width,
        encoding=header.encoding.rstrip(b"\0").decode("ascii", "replace"),
        is_bigendian=False,
        step=header.step,
        data=memoryview(data),
    )
    return pixels.rgb(raw)


def _exactly(sender: socket.socket, size: int, stopped: Event) -> bytearray | None:
    """So many bytes; None where the sender closes before, or we are stopped."""
    data = bytearray(size)
    got = 0
    while got < size:
        if stopped.is_set():
            return None
        try:
            count = sender.recv_into(memoryview(data)[got:])
        except TimeoutError:
            continue
        except OSError:
            return None
        if count == 0:
            return None
        got += count
    return data
