"""Novelty against radius over everything seen, in a bounded number of buckets: what the report draws, at any length of drive."""

from dataclasses import dataclass, replace

MAX_BUCKETS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A run of consecutive seen frames.

    frames       frames seen in it, judged or not
    retained     how many of them were retained when they were judged; of the frames of one unit only the first counts
    lost         how many could not be judged
    novelty      largest novelty judged in it (chord); None where nothing was judged against anything
    radius       radius in force after its last judged frame (chord); None while only the top level is alive
    """

    frames: int = 0
    retained: int = 0
    lost: int = 0
    novelty: float | None = None
    radius: float | None = None


class Timeline:
    """Buckets of equal width; when they are too many, neighbours merge and the width doubles.

    The same frames give the same buckets however often the process was restarted in between.

    >>> line = Timeline(max_buckets=2)
    >>> for novelty in (0.5, 0.9, 0.1):
    ...     line.add(novelty=novelty, radius=0.2, retained=True)
    >>> line.width, [(b.frames, b.novelty) for b in line.buckets]
    (2, [(2, 0.9), (1, 0.1)])
    """

    def __init__(self, buckets: list[Bucket] | None = None, *, width: int = 1, max_buckets: int = MAX_BUCKETS) -> None:
        self.buckets: list[Bucket] = list(buckets or [])
        self.width = width
        self._max_buckets = max_buckets
        self.changed_from = len(self.buckets)
        """Index of the first bucket that differs from what was last stored; the writer resets it."""

    def add(
        self, *, novelty: float | None = None, radius: float | None = None, retained: bool = False, lost: bool = False
    ) -> None:
        """Count one seen frame."""
        if not self.buckets or self.buckets[-1].frames >= self.width:
            if len(self.buckets) >= self._max_buckets:
                self._halve()
            if not self.buckets or self.buckets[-1].frames >= self.width:
                self.buckets.append(Bucket())
        one = Bucket(frames=1, retained=int(retained), lost=int(lost), novelty=novelty, radius=radius)
        self.buckets[-1] = _merge(self.buckets[-1], one)
        self.changed_from = min(self.changed_from, len(self.buckets) - 1)

    def copied(self) -> "Timeline":
        """The same, whatever is added to this one."""
        same = Timeline(self.buckets, width=self.width, max_buckets=self._max_buckets)
        same.changed_from = self.changed_from
        return same

    def _halve(self) -> None:
        pairs = [self.buckets[i : i + 2] for i in range(0, len(self.buckets), 2)]
        self.buckets = [_merge(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
        self.width *= 2
        self.changed_from = 0


def _merge(a: Bucket, b: Bucket) -> Bucket:
    novelties = [x for x in (a.novelty, b.novelty) if x is not None]
    return replace(
        a,
        frames=a.frames + b.frames,
        retained=a.retained + b.retained,
        lost=a.lost + b.lost,
        novelty=max(novelties) if novelties else None,
        radius=b.radius if b.lost < b.frames else a.radius,
    )
