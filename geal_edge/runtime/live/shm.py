"""Frames from another process through shared memory: `shm:/NAME`, a POSIX object that the sender makes and we only read.

A ring of slots, each written in turn; all numbers little-endian, each at a multiple of its size:

    offset  0  char[4]   "GESM"
            4  uint32    1, the version of this layout
            8  uint32    slots, 2 to 1024
           12  uint32    slot_bytes, the room in a slot for a message; at least 56
           16  uint64    newest: the number of the newest whole message, counted from 1; 0: none yet
           24  uint64    0
           64  slot 0, then slot 1, ..., each of 64 + slot_bytes bytes, rounded up to a multiple of 64

    slot    0  uint64    sequence: 2 n when message n is whole, 2 n - 1 while it is written
           64  the message: header, picture and metadata as in the socket (sock.py), one behind the other

Message n is in slot (n - 1) modulo slots. The sender sets the sequence odd, writes, sets it even, then `newest`, each step
visible before the next (release order in C++). It never waits: a reader that is too slow finds the sequence changed, and throws
away what it has read. Such a frame is torn, and is counted as lost. examples/push_shm.cpp sends.

We look `LOOKS_PER_S` times a second. The object is read as a file, not mapped: a sender that makes it smaller would end a process
that maps it with SIGBUS, and the bytes are copied either way.
"""

import os
import struct
import time
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

from geal_edge.errors import FrameError, SourceError, UsageError
from geal_edge.runtime.live.camera import HEED_S, Intake, Picture, Shot
from geal_edge.runtime.live.sock import HEADER, TRIP_OVER, Header, picture
from geal_edge.runtime.metadata import Metadata, read_metadata
from geal_edge.runtime.sources.images import require_pillow

FOLDER = Path("/dev/shm")  # noqa: S108  nothing is made there, only read
"""Where Linux shows POSIX shared memory."""
RING = struct.Struct("<4sIIIQ")
SEQUENCE = struct.Struct("<Q")
MAGIC, VERSION = b"GESM", 1
HEAD = 64
"""Bytes before the first slot, and before the message in a slot."""
MAX_SLOTS = 1024
LOOKS_PER_S = 200
"""5 ms at most between a message and its reading; a look is one system call."""


class _Ring(NamedTuple):
    magic: bytes
    version: int
    slots: int
    slot_bytes: int
    newest: int

    @property
    def stride(self) -> int:
        return -(-(HEAD + self.slot_bytes) // 64) * 64

    def slot_of(self, message: int) -> int:
        """Where the slot of a message begins."""
        return HEAD + (message - 1) % self.slots * self.stride


class SharedMemoryCamera:
    """Named after the object, which need not be there yet. Raises UsageError for a name that POSIX does not know."""

    def __init__(self, address: str, *, name: str | None = None) -> None:
        require_pillow()
        if not address.startswith("/") or "/" in address[1:] or address in ("/", "/.", "/..") or "\0" in address:
            raise UsageError(f"shm:{address}: must be a slash and a name without one, as shm:/front")
        self.name = name or address[1:]
        self.spec = f"shm:{address}"
        self._path = FOLDER / address[1:]

    def watch(self, intake: Intake, stopped: Event) -> None:
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise SourceError(
                f"{self.spec}: there is no such shared memory that this user may read ({error.strerror}). Its sender makes it"
            ) from error
        try:
            ring = self._ring(handle)
            intake.notice("camera_started")
            last = ring.newest  # what lay there before is not looked at
            looks = 0
            while not stopped.wait(1.0 / LOOKS_PER_S):
                ring = self._ring(handle)
                for message in _new(ring, last):
                    _offer(handle, ring, message, intake)
                last = ring.newest
                looks += 1
                if looks % int(HEED_S * LOOKS_PER_S) == 0:
                    self._require_same(handle)
        finally:
            os.close(handle)

    def _ring(self, handle: int) -> _Ring:
        data = os.pread(handle, RING.size, 0)
        if len(data) == RING.size:
            ring = _Ring(*RING.unpack(data))
            sound = ring.magic == MAGIC and ring.version == VERSION and 2 <= ring.slots <= MAX_SLOTS
            if sound and ring.slot_bytes >= HEADER.size:
                return ring
        raise SourceError(f"{self.spec}: holds no ring of frames (begins {data[:8]!r}). Its layout is in docs/live.md")

    def _require_same(self, handle: int) -> None:
        """Raise SourceError where the name stands for another object by now, or for none: its sender was started anew."""
        try:
            now = self._path.stat()
        except OSError as error:
            raise SourceError(f"{self.spec}: its sender has taken it away") from error
        mine = os.fstat(handle)
        if (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino):
            raise SourceError(f"{self.spec}: its sender has made a new one")


def _new(ring: _Ring, last: int) -> range:
    """The messages behind `last` that may still be in the ring; what is older was passed over.

    >>> [list(_new(_Ring(MAGIC, 1, 4, 56, newest), 7)) for newest in (7, 9, 20, 2)]
    [[], [8, 9], [17, 18, 19, 20], [2]]
    """
    if ring.newest < last:
        return range(max(1, ring.newest), ring.newest + 1)  # its sender began anew in the same memory
    return range(max(last, ring.newest - ring.slots) + 1, ring.newest + 1)


def _offer(handle: int, ring: _Ring, number: int, intake: Intake) -> None:
    """Offer a message; one that cannot be read is offered too, so that it is counted."""
    at = ring.slot_of(number)
    try:
        header = Header(*HEADER.unpack(_whole(handle, at, number, 0, HEADER.size)))
        wrong = None if header.plausible else f"its slot holds no frame ({header.words})"
        if HEADER.size + header.size + header.metadata_size > ring.slot_bytes:
            wrong = f"its message is larger than a slot ({header.words})"
    except FrameError as error:
        intake.offer(Shot(capture_time_ns=time.time_ns(), read=partial(_lost, error)))
        return
    if wrong is not None:
        intake.offer(Shot(capture_time_ns=time.time_ns(), read=partial(_lost, FrameError("undecodable", wrong))))
    elif header.kind == TRIP_OVER:
        intake.end_trip()
    else:
        message = _Message(handle, at, number, header)
        time_ns = header.capture_time_ns or time.time_ns()
        intake.offer(Shot(capture_time_ns=time_ns, read=message.picture, metadata=message.metadata))


class _Message:
    """A message whose picture and metadata are copied together, and only if somebody takes it."""

    def __init__(self, handle: int, at: int, number: int, header: Header) -> None:
        self._handle, self._at, self._number, self._header = handle, at, number, header
        self._said = b""

    def picture(self) -> Picture:
        header = self._header
        size = header.size + header.metadata_size
        data = bytearray(_whole(self._handle, self._at, self._number, HEADER.size, size))
        self._said = bytes(data[header.size :])
        del data[header.size :]
        return picture(header, data)

    def metadata(self) -> Metadata:
        return read_metadata(self._said)


def _lost(error: FrameError) -> Picture:
    raise error


def _whole(handle: int, at: int, number: int, offset: int, size: int) -> bytes:
    """Bytes of a message, whose slot begins at `at`. Raises FrameError where the slot was written anew before all were read.

    A system call lies between each two reads, and none of them is answered out of order.
    """
    whole = SEQUENCE.pack(2 * number % 2**64)
    before = os.pread(handle, SEQUENCE.size, at)
    data = os.pread(handle, size, at + HEAD + offset)
    after = os.pread(handle, SEQUENCE.size, at)
    if before != whole or after != whole:
        raise FrameError("torn", "its sender wrote the next frame into its place before it was read.")
    if len(data) < size:
        raise FrameError("truncated", "its shared memory ends before it does.")
    return data
