"""`--fps`: which frames of a recorded source are looked at at all."""

from geal_edge.errors import UsageError

MAX_FPS = 1e9
"""One a nanosecond: times have no finer parts."""


class Rate:
    """Takes the first frame of every time slot of 1/fps seconds; the slots start with the source's first frame.

    A rate above the source's own takes everything. Frames come in their order and each is asked about once: the answer
    depends on what was taken before.

    fps  frames per second, or None: everything

    >>> rate = Rate(2)
    >>> [time_ms for time_ms in (0, 200, 400, 600, 800, 1000, 1900) if rate.takes(time_ms * 1_000_000)]
    [0, 600, 1000, 1900]
    """

    def __init__(self, fps: float | None) -> None:
        if fps is not None and not 0.0 < fps <= MAX_FPS:
            raise UsageError(f"fps = {fps:g}: must be a number of frames per second above 0, at most {MAX_FPS:g}")
        self.fps = fps
        self._last_slot = -1

    def takes(self, time_ns: int) -> bool:
        if self.fps is None:
            return True
        # The microsecond: a container rounds its stamps, and a frame meant for the start of a slot must not fall just
        # before it, where it would leave its slot to its neighbour.
        slot = int((time_ns + 1_000) * self.fps / 1e9)
        if slot <= self._last_slot:
            return False
        self._last_slot = slot
        return True

    def count(self, frames: int, native_fps: float) -> int:
        """About how many of `frames` evenly spaced frames are taken: for progress, not for promises."""
        if self.fps is None or frames < 1 or native_fps <= 0.0:
            return frames
        return min(frames, int((frames - 1) * self.fps / native_fps + 1e-6) + 1)
