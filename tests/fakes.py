"""The other side of our borders, for tests: a source made of frames in memory, a clock that is told, a disk that dies."""

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from geal_edge.errors import FrameError
from geal_edge.runtime import pipeline
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.guard import Guard
from geal_edge.runtime.pipeline import encode_unit
from geal_edge.runtime.prepare import prepare
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.stopping import Stop, T
from geal_edge.runtime.units import JudgedFrame, JudgedUnit, Unit


@dataclass
class MemorySource:
    """A recorded source whose frames are given; passes the source contract."""

    items: list[Frame | LostFrame] = field(default_factory=list)
    name: str = "memory"
    spec: str = "memory"
    kind: str = "images"
    fps: float | None = None
    size: tuple[int, int] | None = None

    @property
    def frame_count(self) -> int | None:
        return len(self.items)

    def fingerprint(self) -> str:
        return f"memory:{len(self.items)}"

    def frames(self, after: int = -1) -> Iterator[Frame | LostFrame]:
        yield from (item for item in self.items if item.frame_index > after)


def frame(index: int, *, source: str = "memory", encoded: bytes | None = None) -> Frame:
    """A small frame of noise; `encoded` stands for the file bytes that a source may have."""
    image = np.random.default_rng(index).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Frame(
        id=f"{source}#{index}",
        source=source,
        frame_index=index,
        capture_time_ns=index * 40_000_000,
        image=image,
        encoded=encoded if encoded is not None else b"bytes of frame %d" % index,
        encoding="jpg",
    )


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Died(BaseException):
    """The process ended here; nothing of it may run on, not even `except Exception`."""


class DyingDisk:
    """Counts what reaches the disk (file calls of durable.py, statements of the database) and dies before number `at`."""

    FILE_CALLS = ("open", "write", "fsync", "replace", "unlink")

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.count = 0
        self.dead = False

    def step(self) -> None:
        if self.dead:
            raise Died
        if self.at is not None and self.count == self.at:
            self.dead = True
            raise Died
        self.count += 1


@contextmanager
def dying_disk(monkeypatch, at: int | None = None) -> Iterator[DyingDisk]:
    """Within: every operation of `durable` and of the spool's database counts, and number `at` kills."""
    import geal_edge.runtime.durable as durable
    import geal_edge.runtime.outbox as outbox
    import geal_edge.runtime.spool as spool
    import geal_edge.runtime.spooldb as spooldb

    disk = DyingDisk(at)

    def counted(call):
        def wrapper(*args, **kwargs):
            disk.step()
            return call(*args, **kwargs)

        return wrapper

    class CountedOs:
        """`os` as durable.py sees it."""

        def __getattr__(self, name):
            value = getattr(os, name)
            return counted(value) if name in DyingDisk.FILE_CALLS else value

    class CountedDatabase:
        """A connection that can die before any statement, and cannot tidy up once it has."""

        def __init__(self, database):
            self._database = database

        def execute(self, statement, *args):
            if not (disk.dead and statement == "ROLLBACK"):
                disk.step()
            return self._database.execute(statement, *args)

        def executemany(self, *args):
            disk.step()
            return self._database.executemany(*args)

        def __getattr__(self, name):
            return getattr(self._database, name)

    real = spooldb.connection

    @contextmanager
    def connection(path):
        with real(path) as database:
            yield CountedDatabase(database)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", CountedOs())
        patch.setattr(spool, "connection", connection)
        patch.setattr(outbox, "connection", connection)
        yield disk


def judged(item: Frame, clusters: KnowledgeClusters) -> JudgedUnit:
    """A unit of one frame."""
    return JudgedUnit(frames=(JudgedFrame(frame=item, clusters=clusters),))


def lost(item: Frame | LostFrame, reason: str, detail: str) -> JudgedUnit:
    """A unit of one frame, which is lost."""
    return JudgedUnit(frames=(), lost=((item, FrameError(reason, detail)),))


def judge_unit(unit: Unit, encoder, guard: Guard | None = None) -> JudgedUnit:
    """A unit through the pipeline up to its clusters, at once and in one thread."""
    manifest = encoder.bundle.manifest
    encoded = encode_unit(encoder, deque(), [prepare(item, manifest, guard) for item in unit.frames])
    return pipeline.judge(encoded, manifest.clusters, guard)


def judge(spool: Spool, ladder, item: Frame, clusters) -> None:
    """One frame through the last three lines of the pipeline."""
    decision = ladder.score(clusters)
    spool.append(judged(item, clusters), decision)
    ladder.learn(decision)


class StopAt(Stop):
    """Asked by the n-th time that it is looked at."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        self.asked = self.asked or self.left <= 0
        return self.asked


class StopAfter(Stop):
    """Asked while item number `n` is in hand, as a signal would."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def between(self, items: Iterable[T], *, at_once: bool = True) -> Generator[T, None, None]:
        for item in super().between(items, at_once=at_once):
            self.left -= 1
            if self.left == 0:
                self.ask()
            yield item
