"""The whole service as a vehicle has it, for a long time: the real `run --config` and the real `upload --config`, three cameras
that are processes, a far side over a bad link; reloads, wrong configurations, a kill -9 of both in between. Memory, descriptors,
counts.

`make soak`; a quarter of SOAK_FRAMES. Prints what it measured.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from statistics import median
from threading import Event

from geal_edge.export.exporter import ExportOptions, export_bundle
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.spooldb import UPLOAD_LOCK
from geal_edge.runtime.spoolview import open_view
from tests.farside import BadLink, DavServer, serving
from tests.tiny import tiny_weights

FRAMES = int(os.environ.get("SOAK_FRAMES", "100000")) // 4
PER_S = 25.0
"""Frames of each camera, if the machine lets it."""
KILL_AT, WARM_AT = 0.2, 0.55
"""Shares of the frames after which both are killed, and after which nothing may grow any more."""
RELOADS = 12
MAIN = "from geal_edge.cli.start import main; main()"
CONFIG = """\
[vehicle]
id = "car-17"
[source]
uris = ["watch:{folder}/in", "unix:{folder}/cam.sock", "shm:/{memory}"]
rate_hz = {rate_hz}
[bundle]
path = "{bundle}"
allow_untrained = true
[budget]
frames_per_trip = 8
bytes_per_hour = 1_000_000_000
[spool]
path = "{folder}/spool"
flush_s = 1
max_bytes = 1_500_000
min_free_bytes = 0
[memory]
max_frames = 100
[gates]
guard = "pixels"
standing_still = {standing_still}
inhibit = ["speed_kmh == 0"]
[context]
before_s = 0.2
after_s = 0.2
rate_hz = 10
[limits]
threads = 1
[upload]
to = "http://127.0.0.1:{port}/"
prefix = "fleet"
metered = "no"
"""


class Process:
    """A command of geal-edge that is measured while it lives; what it says goes into a file."""

    def __init__(self, log: Path, *words: object) -> None:
        self.log, self.words = log, [sys.executable, "-c", MAIN, *map(str, words)]
        self.resident_mb: list[float] = []
        self.descriptors: list[int] = []
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "process"):
            self.process.kill()
            self.process.wait()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(self.words, stdout=file, stderr=file)

    def measure(self) -> None:
        about = Path(f"/proc/{self.process.pid}")
        pages = int((about / "statm").read_text().split()[1])
        self.resident_mb.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        self.descriptors.append(len(os.listdir(about / "fd")))

    def has_open(self, path: Path) -> bool:
        found = False
        with suppress(OSError):  # it closes others meanwhile
            found = str(path) in [os.readlink(fd) for fd in Path(f"/proc/{self.process.pid}/fd").iterdir()]
        return found

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait()

    def grown(self) -> tuple[float, float, int]:
        """MB at the end, by how much that is more than at the beginning of what was measured, and the same of descriptors."""
        share = max(1, len(self.resident_mb) // 8)
        begin, end = median(self.resident_mb[:share]), median(self.resident_mb[-share:])
        descriptors = median(self.descriptors[-share:]) - median(self.descriptors[:share])
        return end, end - begin, round(descriptors)


@contextmanager
def cameras(folder: Path, memory: str) -> Iterator[list["subprocess.Popen[str]"]]:
    (folder / "in").mkdir()
    places = {"folder": folder / "in", "socket": folder / "cam.sock", "shm": f"/{memory}"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.vehicle", kind, str(place), str(PER_S)], stdout=subprocess.PIPE, text=True
        )
        for kind, place in places.items()
    ]
    try:
        yield running
    finally:
        for each in running:
            each.kill()
            each.wait()


def begin(run: Process, upload: Process, spool: Path) -> None:
    """Start both, one after the other; the configuration is read by then."""
    before, pause = seen(spool), Event()
    run.start()
    while seen(spool) == before:
        assert run.alive, run.log.read_text()
        pause.wait(0.2)
    upload.start()
    while not upload.has_open(spool / UPLOAD_LOCK):
        assert upload.alive, upload.log.read_text()
        pause.wait(0.2)


def seen(spool: Path) -> int:
    """Frames counted so far."""
    if not (spool / "spool.db").exists():
        return 0
    with closing(sqlite3.connect(f"{(spool / 'spool.db').as_uri()}?mode=ro", uri=True, timeout=30.0)) as database:
        try:
            row = database.execute("SELECT n FROM counters WHERE name = 'seen'").fetchone()
        except sqlite3.OperationalError:  # it is just being made
            return 0
    return 0 if row is None else int(row[0])


def arrived(files: dict[str, bytes]) -> list[str]:
    """Ids of the frames that are complete on the far side, by their place; each, and what lies beside it, is what its sidecar
    says."""
    sidecars = [json.loads(data) for key, data in files.items() if key.endswith(".json") and "/status/" not in key]
    for sidecar in sidecars:
        for part in (sidecar, *sidecar["context"]):
            assert sha256(files[f"/{part['key']}"]).hexdigest() == part["sha256"]
        assert (sidecar["vehicle"], sidecar["config"][:7]) == ("car-17", "sha256:")
    return [sidecar["id"] for sidecar in sorted(sidecars, key=lambda sidecar: sidecar["order"])]


def waiting(spool: Path) -> int:
    """Units that are released and not sent."""
    with open_view(spool) as view:
        found: int = view.status()["upload"]["waiting"]
    return found


def configured(path: Path, **values: object) -> Callable[[int], None]:
    """Writes the configuration; every third one has a fault, and the others are each a little different."""

    def write(number: int) -> None:
        rate_hz = "0" if number % 3 == 2 else f"{1000 + number}"
        standing = "true" if number % 2 else "false"
        path.write_text(CONFIG.format(rate_hz=rate_hz, standing_still=standing, **values))

    return write


def test_a_service_loses_nothing_and_grows_in_nothing_whatever_happens_to_it(tmp_path, capsys):
    options = ExportOptions(width=64, height=48)
    bundle = export_bundle(tiny_weights(), tmp_path / "bundle", options, watch=Silent())[0]
    memory, spool, file = f"geal-edge-soak-{os.getpid()}", tmp_path / "spool", tmp_path / "geal-edge.toml"
    dav, began, pause = DavServer(), time.monotonic(), Event()
    run = Process(tmp_path / "run.log", "run", "--config", file)
    upload = Process(tmp_path / "upload.log", "upload", "--config", file)
    with ExitStack() as stack:
        link = BadLink(stack.enter_context(serving(dav)), rate=0.01, seed=5)
        port = stack.enter_context(serving(link))
        write = configured(file, folder=tmp_path, memory=memory, bundle=bundle.path, port=port)
        write(0)
        writers = stack.enter_context(cameras(tmp_path, memory))
        stack.enter_context(run)
        stack.enter_context(upload)
        begin(run, upload, spool)
        killed, reloads, count = False, 0, 0
        while count < FRAMES:
            pause.wait(0.25)
            count = seen(spool)
            for process in (run, upload):
                assert process.alive, process.log.read_text()
            if not killed and count >= KILL_AT * FRAMES:
                killed = True
                assert run.end(signal.SIGKILL) == upload.end(signal.SIGKILL) == -signal.SIGKILL
                write(0)
                begin(run, upload, spool)
            elif count >= (reloads + 1) * FRAMES / (RELOADS + 1):
                reloads += 1
                write(reloads)
                run.process.send_signal(signal.SIGHUP)
            elif count >= WARM_AT * FRAMES:
                run.measure()
                upload.measure()
            with open_view(spool) as view:
                view.status()
        assert run.end(signal.SIGTERM) == 130, run.log.read_text()
        for writer in writers:
            writer.terminate()
        offered = sum(int(writer.communicate()[0]) for writer in writers)
        link.rate = 0.0
        while waiting(spool):
            assert upload.alive, upload.log.read_text()
            pause.wait(0.25)
        assert upload.end(signal.SIGTERM) == 130, upload.log.read_text()
        requests, faults = link.requests, sum(link.faults.values())
    with open_view(spool) as view:
        counts, lost = view.counts()
        assert [problem for problem in view.check() if not problem.harmless] == []
        sent = [line["id"] for line in view.list_lines() if line["state"] == "sent"]
        events = Counter(event["name"] for event in view.events())
        aside, gated = view.status()["upload"]["set_aside"], view.gated()
    sizes = {process.log.stem: process.grown() for process in (run, upload)}
    with capsys.disabled():
        grown = ", ".join(f"{name} {mb:.0f} MB {more:+.2f} MB {fds:+d} fds" for name, (mb, more, fds) in sizes.items())
        print(
            f"\n{counts['seen']} of {offered} offered frames in {time.monotonic() - began:.0f} s: {counts}, lost {lost}; "
            f"{len(sent)} sent by {requests} requests with {faults} faults; {reloads} reloads; {grown}; events {dict(events)}"
        )
    assert offered >= counts["seen"] >= FRAMES
    states = ("lost", "gated", "not_new", "retained", "released", "sent", "evicted", "pinned", "expired", "erased")
    assert counts["seen"] == sum(counts[state] for state in states)
    assert (counts["released"], aside) == (0, 0)
    assert arrived(dav.files) == sent
    assert len(sent) == counts["sent"] > 0
    assert {"config_reloaded", "config_refused", "trip_ended", "camera_lost", "sent", "link_lost"} <= set(events)
    assert {"inhibited", "dark"} <= set(gated)
    for _, more, descriptors in sizes.values():
        assert more < 5.0
        assert descriptors <= 2
    for process in (run, upload):
        assert "Traceback" not in process.log.read_text()
