"""What is judged, budgeted, selected and evicted as one: a frame by itself, or with `--group` all cameras of one instant.

Frames come in the order of their source, which for recorded ROS data is that of log time. A unit is a run of them: the next
frame begins a new one where its capture time lies further than the tolerance from that of the unit's first frame, in either
direction, or where its topic is in the unit already. So a unit never mixes two instants and never holds two frames of one
topic. A message that was logged after the next instant had begun stands alone and parts that instant in two: its frames are
judged all the same, in smaller units. What belongs to no topic or no time (a stretch that cannot be read) is a unit of its own.

Where a unit begins depends on nothing before it, so a source that goes on behind a whole unit is cut as if it had never been
interrupted. Lost and gated frames take part: what can be judged of an instant does not change which instant it is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from geal_edge.errors import FrameError, FrameGated, UsageError
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.frame import Frame, LostFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Frames of one source, in its order; at least one, but where a live source only says that time passes."""

    frames: tuple[Frame | LostFrame, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedFrame:
    """A frame and its knowledge clusters."""

    frame: Frame
    clusters: KnowledgeClusters


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedUnit:
    """A unit that was looked at: the frames that a decision can see, and those that are lost or gated, with the reason. Of
    the three together at least one; each in the source's order."""

    frames: tuple[JudgedFrame, ...]
    lost: tuple[tuple[Frame | LostFrame, FrameError], ...] = ()
    gated: tuple[tuple[Frame | LostFrame, FrameGated], ...] = ()

    @property
    def id(self) -> str:
        """That of its first frame that a decision can see."""
        return self.frames[0].frame.id

    @property
    def cursor(self) -> tuple[str, int]:
        """(source, frame_index) of its last frame, whatever became of it."""
        items = [judged.frame for judged in self.frames]
        passed_over = [item for item, _ in (*self.lost, *self.gated)]
        last = max([*items, *passed_over], key=lambda f: f.frame_index)
        return last.source, last.frame_index

    @property
    def clusters(self) -> KnowledgeClusters:
        """Those of all its frames as one, each frame's rows and patches behind those of the frame before it."""
        return joined([judged.clusters for judged in self.frames])


def joined(parts: list[KnowledgeClusters]) -> KnowledgeClusters:
    """Knowledge clusters of several frames as those of one unit; of one frame, its own.

    >>> one = KnowledgeClusters(rows=np.eye(2, dtype=np.float16), patch_cluster=np.array([0, -1, 1], np.int16))
    >>> joined([one, one]).patch_cluster.tolist()
    [0, -1, 1, 2, -1, 3]
    """
    if len(parts) == 1:
        return parts[0]
    begins = begins_of(len(part.rows) for part in parts)
    patches = [
        np.where(part.patch_cluster < 0, -1, part.patch_cluster.astype(np.int16) + begin)
        for part, begin in zip(parts, begins, strict=True)
    ]
    return KnowledgeClusters(
        rows=np.concatenate([part.rows for part in parts]), patch_cluster=np.concatenate(patches).astype(np.int16)
    )


def begins_of(counts: Iterable[int]) -> list[int]:
    """Where each frame's clusters begin among those of its unit.

    >>> begins_of([25, 3, 25])
    [0, 25, 28]
    """
    begins, total = [], 0
    for count in counts:
        begins.append(total)
        total += count
    return begins


class Instants:
    """Asked about each frame of a source in turn: does it begin a new unit?

    group_s  the largest difference of capture times within a unit, in seconds; None: every frame is a unit

    >>> instants = Instants(0.05)
    >>> [instants.begins(topic, ms * 1_000_000) for topic, ms in (("/left", 0), ("/right", 50), ("/left", 51), ("/right", 110))]
    [True, False, True, True]
    """

    def __init__(self, group_s: float | None) -> None:
        self._tolerance_ns = None if group_s is None else tolerance_ns(group_s)
        self._first_ns: int | None = None
        self._topics: set[str] = set()

    def begins(self, topic: str | None, time_ns: int | None) -> bool:
        if self._tolerance_ns is None or topic is None or time_ns is None:
            self._first_ns = None
            return True
        joins = (
            self._first_ns is not None
            and abs(time_ns - self._first_ns) <= self._tolerance_ns
            and topic not in self._topics
        )
        if not joins:
            self._first_ns = time_ns
            self._topics.clear()
        self._topics.add(topic)
        return not joins


MAX_GROUP_S = 3600.0
"""What lies an hour apart is no instant."""


def tolerance_ns(group_s: float) -> int:
    """Raises UsageError for what is no length of time."""
    if not 0.0 <= group_s <= MAX_GROUP_S:
        raise UsageError(
            f"--group {group_s:g}: must be a number of seconds from 0 to {MAX_GROUP_S:g}, as in --group 0.02"
        )
    return round(group_s * 1e9)


def units(items: Iterable[Frame | LostFrame | None], group_s: float | None = None) -> Iterator[Unit]:
    """Cut the frames of one source into units. Without `group_s` each is given away as soon as it is there; with it, once the
    first frame of the next one is. None, of a live source, ends the unit in hand, and comes out as a unit without frames: time
    for what is due between units, also where no frame comes."""
    instants = Instants(group_s)
    gathered: list[Frame | LostFrame] = []
    for item in items:
        if item is None:
            if gathered:
                yield Unit(frames=tuple(gathered))
            instants, gathered = Instants(group_s), []
            yield Unit(frames=())
            continue
        begins = instants.begins(item.topic, item.capture_time_ns)
        if group_s is None:
            yield Unit(frames=(item,))
            continue
        if begins and gathered:
            yield Unit(frames=tuple(gathered))
            gathered = []
        gathered.append(item)
    if gathered:
        yield Unit(frames=tuple(gathered))


def recorded_at(id_: str, source: str) -> tuple[str, int] | tuple[None, None]:
    """(topic, capture_time_ns) of a frame of recorded ROS data, from its id; (None, None) of any other.

    >>> recorded_at("drive#/cam@1700.2", "drive"), recorded_at("drive#gap-7", "drive")
    (('/cam', 1700), (None, None))
    """
    topic, at, label = id_.removeprefix(f"{source}#").rpartition("@")
    time_ns = label.partition(".")[0]
    if not at or not time_ns.lstrip("-").isdecimal():
        return None, None
    return topic, int(time_ns)
