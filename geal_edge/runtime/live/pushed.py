"""Frames that a Python program has already and hands over: a camera with `offer(frame)`."""

import time
from collections.abc import Callable
from threading import Event
from typing import Any

import numpy as np

from geal_edge.errors import UsageError
from geal_edge.runtime.frame import Image
from geal_edge.runtime.live.camera import HEED_S, Intake, Picture, Shot
from geal_edge.runtime.metadata import Metadata, checked


class PushedCamera:
    """A camera whose pictures come from this process. `offer` may be called from any thread, never blocks, and copies only
    what is taken.

    wall_ns  gives the capture time of pictures that come without one; it is recorded and never trusted

    >>> camera = PushedCamera("front")
    >>> camera.offer(np.zeros((90, 160, 3), np.uint8))  # nobody runs it yet
    False
    """

    def __init__(self, name: str, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self.name = name
        self.spec = f"pushed:{name}"
        self._wall_ns = wall_ns
        self._intake: Intake | None = None

    def offer(
        self, frame: Image | bytes, *, capture_time_ns: int | None = None, metadata: Metadata | None = None
    ) -> bool:
        """Hand in a picture: uint8 (H, W, 3) RGB, or the bytes of an image file; with `metadata` what the vehicle says of it.
        False where the rate passes it over, and while nobody runs this camera. Raises UsageError for anything else, for a time
        that is no whole number of 64 bits, and for metadata that JSON cannot hold or that is above 64 KiB."""
        if not isinstance(frame, bytes) and not _is_image(frame):
            raise UsageError(
                f"{self.name}: a frame is a uint8 array (height, width, 3) in RGB, or the bytes of an image file; "
                f"this one is {_words(frame)}"
            )
        if capture_time_ns is not None and not _is_time(capture_time_ns):
            raise UsageError(
                f"{self.name}: capture_time_ns = {capture_time_ns!r}: must be a whole number of nanoseconds, within 64 bits"
            )
        said = {} if metadata is None else checked(metadata)
        intake = self._intake
        if intake is None:
            return False
        time_ns = (
            self._wall_ns() if capture_time_ns is None else int(capture_time_ns)
        )  # numpy's own would be stored as bytes
        return intake.offer(Shot(capture_time_ns=time_ns, read=lambda: _own(frame), metadata=lambda: said))

    def end_trip(self) -> None:
        """The trip is over: what its budget selects is released now."""
        if self._intake is not None:
            self._intake.end_trip()

    def watch(self, intake: Intake, stopped: Event) -> None:
        intake.notice("camera_started")
        self._intake = intake
        while not stopped.wait(HEED_S):
            pass
        self._intake = None


def _is_image(frame: Any) -> bool:
    return (
        isinstance(frame, np.ndarray)
        and frame.dtype == np.uint8
        and frame.ndim == 3
        and frame.shape[2] == 3
        and frame.size > 0
    )


def _is_time(time_ns: Any) -> bool:
    return isinstance(time_ns, int | np.integer) and -(2**63) <= int(time_ns) < 2**63


def _words(frame: Any) -> str:
    return f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__


def _own(frame: Image | bytes) -> Picture:
    """A copy where the caller may write into the array again."""
    return frame if isinstance(frame, bytes) else np.array(frame, order="C")
