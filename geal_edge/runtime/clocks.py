"""How long the stages of a frame take: a clock for each, which the thread that does the work holds (telemetry.py reads them)."""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

STAGES = ("decode", "resize", "encode", "distil", "cluster", "score", "append")
"""Of a frame, in their order; `append` is learning too. A graph that groups by itself has no `distil` and no `cluster`."""
BOUNDS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the buckets, each its own; above them there is one more."""

Clocks: TypeAlias = Mapping[str, AbstractContextManager[object]]
"""Stage -> what times it. Each is used by one thread at a time."""
UNTIMED: Clocks = dict.fromkeys(STAGES, nullcontext())


class Histogram:
    """How long something took, by buckets: as a context manager it times what is done within; what fails has no time.

    counts  of each bucket of BOUNDS_S, and of what took longer; one thread adds, any may copy

    >>> histogram = Histogram()
    >>> for seconds in (0.0005, 0.001, 0.0011, 9.0):
    ...     histogram.add(seconds)
    >>> histogram.counts[1:4], histogram.counts[-1], histogram.quantile_s(0.5)
    ([1, 1, 1], 1, 0.001)
    """

    __slots__ = ("_began", "counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0
        self._began = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.add(time.perf_counter() - self._began)

    def quantile_s(self, q: float) -> float | None:
        """The upper bound of the bucket that a share `q` in (0, 1] does not exceed; the last bound where it took longer; None
        while there is none."""
        left = q * sum(self.counts)
        if not left:
            return None
        for bound, count in zip(BOUNDS_S, self.counts, strict=False):
            left -= count
            if left <= 0:
                return bound
        return BOUNDS_S[-1]

    def as_dict(self) -> dict[str, Any]:
        counts = self.counts.copy()
        return {
            "count": sum(counts),
            "sum_s": round(self.sum_s, 6),
            "buckets": counts,
            "p50_s": self.quantile_s(0.5),
            "p95_s": self.quantile_s(0.95),
        }


def timed(items: Iterable[T], clock: AbstractContextManager[object]) -> Iterator[T]:
    """The items, and how long each took to come."""
    each = iter(items)
    while True:
        try:
            with clock:
                item = next(each)
        except StopIteration:
            return
        yield item
