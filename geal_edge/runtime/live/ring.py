"""The last seconds of a camera as picture files, for the context of what will be selected (context.py).

Written by the camera's thread, read by the pipeline. Bounded in time and in bytes: the oldest pictures go first.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from geal_edge.runtime.imagefile import encode, fits_jpeg
from geal_edge.runtime.live.camera import Picture

RING_BYTES = 64_000_000
"""Of one camera: 10 s of full HD at 6 pictures a second."""
_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Glimpse:
    """A picture that nobody judged: its file's bytes and their ending, `jpg` or `png`."""

    capture_time_ns: int
    data: bytes
    ending: str


class Ring:
    """hold_s  seconds, of the clock here, after which a picture is forgotten

    >>> ring = Ring(hold_s=10.0, most_bytes=1000)
    >>> [ring.add(at * 10**9, b"\\xff\\xd8\\xff" + bytes(297), arrived_s=float(at)) for at in range(5)]
    [True, True, True, False, False]
    >>> [glimpse.capture_time_ns // 10**9 for glimpse in ring.between(0, 3 * 10**9)]
    [2, 3]
    """

    def __init__(self, *, hold_s: float, most_bytes: int = RING_BYTES) -> None:
        self._hold_s = hold_s
        self._most_bytes = most_bytes
        self._lock = Lock()
        self._held: deque[tuple[float, Glimpse]] = deque()
        self._bytes = 0

    def add(self, capture_time_ns: int, picture: Picture, *, arrived_s: float) -> bool:
        """False where younger pictures than wanted had to be forgotten for it: they are too many bytes."""
        data = picture if isinstance(picture, bytes) else encode(picture, "jpg" if fits_jpeg(picture) else "png")
        ending = next((ending for magic, ending in _MAGIC.items() if data.startswith(magic)), None)
        if ending is None:
            return True  # a form that is read and not stored as it is, or no picture at all
        glimpse = Glimpse(capture_time_ns=capture_time_ns, data=data, ending=ending)
        with self._lock:
            self._held.append((arrived_s, glimpse))
            self._bytes += len(data)
            self._forget(lambda arrived: arrived < arrived_s - self._hold_s)
            too_many = self._bytes > self._most_bytes
            self._forget(lambda arrived: self._bytes > self._most_bytes)
        return not too_many

    def between(self, first_ns: int, last_ns: int) -> list[Glimpse]:
        """Those of these capture times, both included, as they came."""
        with self._lock:
            return [glimpse for _, glimpse in self._held if first_ns <= glimpse.capture_time_ns <= last_ns]

    def _forget(self, is_over: Callable[[float], bool]) -> None:
        while self._held and is_over(self._held[0][0]):
            self._bytes -= len(self._held.popleft()[1].data)
