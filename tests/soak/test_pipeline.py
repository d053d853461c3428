"""100,000 frames of three cameras through the real pipeline, all kinds of things going wrong: memory, descriptors, counts.

`make soak`; `SOAK_FRAMES=20000 make soak` for a shorter one. Prints what it measured.

Frames are unreadable, cut off, dark, of another size, too many at once, with stamps that repeat and jump; cameras are lost and
opened again; the encoder is slow now and then; other processes read the spool, and one holds its database.
"""

import os
import time
from collections import Counter
from pathlib import Path
from statistics import median
from threading import Event, Semaphore, Thread

import numpy as np
import pytest

from geal_edge.errors import FrameError, Interrupted, SourceError
from geal_edge.export.exporter import ExportOptions, export_bundle
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import pipeline
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.budget import live_plan, parse_cap
from geal_edge.runtime.encoder import Encoded, Encoder
from geal_edge.runtime.frame import Image, usable
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.live import LiveSource
from geal_edge.runtime.live.camera import HEED_S, Intake, Picture, Shot
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.sources.drawn import DrawnDrive
from geal_edge.runtime.spooldb import DATABASE, connection
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.vehicletime import Moment
from tests.test_live import EVERY
from tests.tiny import tiny_weights

FRAMES = int(os.environ.get("SOAK_FRAMES", "100000"))
WARM_UP = 20_000
"""Frames until every buffer, cache and table has its size; two thirds of a shorter soak."""
EVERY_FRAMES = 100
CAMERAS = ("front", "left", "right")
PICTURES = [usable(frame).image[::6, ::6].copy() for frame in DrawnDrive(7, 200).frames()]
FILES = [encode(image, "jpg") for image in PICTURES]
DARK = np.zeros_like(PICTURES[0])


class SlowNowAndThen(Encoder):
    calls = 0

    def __call__(self, image: Image) -> Encoded:
        self.calls += 1
        if self.calls % 1000 == 0:
            Event().wait(0.1)
        return super().__call__(image)


class Faulty:
    """A camera that offers its next picture when one was judged (`room`), but for bursts; some of what it offers is broken."""

    def __init__(self, name: str, room: Semaphore) -> None:
        self.name = self.spec = name
        self.room = room
        self.taken = 0
        self.number = CAMERAS.index(name)

    def watch(self, intake: Intake, stopped: Event) -> None:
        intake.notice("camera_started")
        while not stopped.is_set():
            burst = 10 if self.number % 1009 == 0 else 1
            if burst == 1 and not self.room.acquire(timeout=HEED_S):
                continue
            taken = sum(self.offer(intake) for _ in range(burst))
            self.taken += taken
            for _ in range(taken if burst > 1 else 0):
                while not stopped.is_set() and not self.room.acquire(timeout=HEED_S):
                    pass
            if self.number % 1999 == 0:
                raise SourceError(f"{self.name}: unplugged")

    def offer(self, intake: Intake) -> bool:
        self.number += 1
        number, time_ns = self.number, self.number * 500_000_000
        if number % 777 == 0:
            time_ns -= 500_000_000  # again
        if number % 1777 == 0:
            time_ns += 10**12
        return intake.offer(Shot(capture_time_ns=time_ns, read=lambda: picture(number)))


def picture(number: int) -> Picture:
    if number % 89 == 0:
        raise FrameError("unreadable", "the camera gave no picture.")
    if number % 97 == 0:
        return FILES[number % len(FILES)][: 100 + number % 500]
    if number % 61 == 0:
        return DARK
    if number % 3 == 0:
        return FILES[number % len(FILES)]
    image = PICTURES[number * 7 % len(PICTURES)]
    return image[:, : 60 + 4 * (number // 3000 % 5)].copy()  # another format from time to time


class Driven(Silent):
    """Counts what was judged, lets a vehicle's time pass, measures this process, and has others at the spool."""

    def __init__(self, spool: Path, room: Semaphore, stop: Stop) -> None:
        self.spool, self.room, self.stop = spool, room, stop
        self.seen = 0
        self.resident_mb: list[float] = []
        self.descriptors: list[int] = []
        self.busy = Semaphore(0)

    def advance(self, **counts: int) -> None:
        self.room.release()
        self.seen += 1
        if self.seen % EVERY_FRAMES == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.resident_mb.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
            self.descriptors.append(len(os.listdir("/proc/self/fd")))
        if self.seen % 1500 == 0:
            self.busy.release()
        if self.seen == FRAMES:
            self.stop.ask()

    def now(self) -> Moment:
        return Moment(boot_id="one", powered_s=100.0 + 0.5 * self.seen, wall_ns=10**18, synchronised=True)

    def others(self) -> None:
        """In a thread: a reader, and one that holds the database."""
        while not self.stop.asked:
            if self.busy.acquire(timeout=HEED_S) and not self.stop.asked:
                with open_view(self.spool) as view:
                    view.status()
                with connection(self.spool / DATABASE) as db:
                    db.execute("BEGIN IMMEDIATE")
                    Event().wait(0.2)
                    db.execute("ROLLBACK")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    options = ExportOptions(width=64, height=48)
    return export_bundle(tiny_weights(), tmp_path_factory.mktemp("soak") / "bundle", options, watch=Silent())[0]


def test_every_frame_is_counted_once_and_nothing_grows(bundle, tmp_path, capsys):
    room, stop, spool = Semaphore(2 * len(CAMERAS)), Stop(), tmp_path / "s"
    cameras = [Faulty(name, room) for name in CAMERAS]
    driven = Driven(spool, room, stop)
    others = Thread(target=driven.others)
    others.start()
    plan = live_plan([parse_cap("20/hour"), parse_cap("1MB/hour")])
    began = time.monotonic()
    with SlowNowAndThen(bundle, OrtCpu(bundle.graph, threads=1)) as encoder, pytest.raises(Interrupted):
        pipeline.run(
            [LiveSource(cameras, rate_hz=EVERY)],
            encoder=encoder,
            spool_path=spool,
            budget=plan,
            guard="pixels",
            watch=driven,
            stop=stop,
            now=driven.now,
        )
    took_s = time.monotonic() - began
    others.join()
    with open_view(spool) as view:
        counts, lost = view.counts()
        events = Counter(event["name"] for event in view.events())
        assert view.check() == []
    samples = len(driven.resident_mb)
    warm, end = min(WARM_UP // EVERY_FRAMES, samples * 2 // 3), samples - samples // 20
    growth_mb = median(driven.resident_mb[end:]) - median(driven.resident_mb[warm : warm + samples // 20])
    descriptors = median(driven.descriptors[warm:end]), driven.descriptors[-1]
    with capsys.disabled():
        print(
            f"\n{counts['seen']} frames in {took_s:.0f} s: {counts}, lost {lost}; memory {growth_mb:+.2f} MB after warm-up "
            f"({median(driven.resident_mb[end:]):.0f} MB), descriptors {descriptors}; events {dict(events)}"
        )
    taken = sum(camera.taken for camera in cameras)
    assert counts["seen"] == taken >= FRAMES
    states = ("lost", "gated", "not_new", "retained", "released", "evicted")
    assert counts["seen"] == sum(counts[state] for state in states)
    assert {"unreadable", "queue_full"} <= set(lost)
    assert {"camera_lost", "format_changed", "time_jumped", "released"} <= set(events)
    assert counts["gated"] > 0
    assert growth_mb < 5.0
    assert descriptors[1] <= descriptors[0] + 2
