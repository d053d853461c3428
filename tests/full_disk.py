"""A real file system that is full: `python -m tests.full_disk MOUNT_POINT BUNDLE EVERY`, in a mount namespace of its own.

A file system of 2 MB in memory is mounted, and ballast leaves room for a number of pages, or of files, that is one more each
time: so every write of a drive is refused once, whichever it is. Then the ballast is taken away and the drive goes on. What was
committed before must stand meanwhile, and its end must be that of a drive that never met a full disk. EVERY says at
which rooms: 1 at all. The command itself is run at a few. Prints a JSON object.
"""

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import geal_edge.runtime.erasure as erasure_module
import geal_edge.runtime.outbox as outbox_module
import geal_edge.runtime.spool as spool_module
from geal_edge.cli import app
from geal_edge.config import DiskConfig
from geal_edge.errors import DiskFull, SpoolError, StorageError
from geal_edge.runtime import spooldb
from geal_edge.runtime.spoolview import open_view
from tests.powerloss.cuts import stored
from tests.powerloss.drives import DRIVES, OUTCOMES, Watched, unguarded
from tests.test_migration import FRAMES, OLD, drive
from tests.test_spool import summary

PAGE = 4096
PAGES, FILES = 512, 64


class Promises:
    """What the newest commit of a drive held."""

    def __init__(self) -> None:
        self.newest: Any = []

    def add(self, what: Any) -> None:
        self.newest = what


def namespace() -> list[str] | None:
    """Words before a command that let it mount file systems that nobody else sees; None where this is not allowed."""
    words = ["unshare", "--map-root-user", "--mount"]
    try:
        subprocess.run([*words, "mount", "-t", "tmpfs", "none", "/mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return words


def mount(place: Path) -> None:
    place.mkdir(exist_ok=True)
    options = f"size={PAGES * PAGE},nr_inodes={FILES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True)


@contextmanager
def ballast(place: Path, *, pages: int | None = None, files: int | None = None) -> Iterator[None]:
    """Leave room for so many pages, or so many files."""
    folder = place / "ballast"
    folder.mkdir()
    if pages is not None:
        with (folder / "0").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, PAGE)
            left = os.statvfs(place).f_bavail
            if left > pages:
                os.posix_fallocate(file.fileno(), 0, PAGE * (1 + left - pages))
    number = 0
    while files is not None and os.statvfs(place).f_favail > files:
        number += 1
        (folder / f"{number}").touch()
    try:
        yield
    finally:
        shutil.rmtree(folder)


def kind(error: StorageError) -> str:
    """What was refused, from its sentence."""
    text = str(error)
    for words, name in {
        r"spool\.db: ": "database",
        r"/frames/[^ ]+: cannot write": "frame",
        r"/memory/[^ ]+: cannot write": "memory",
        "create the folder": "folder",
        "open the lock": "lock",
    }.items():
        if re.search(words, text):
            return name
    return text


@contextmanager
def heeded(promises: Promises, *, checkpoint: bool) -> Iterator[None]:
    """Write down what every commit held; with `checkpoint` the log is put into the database at each, which may be refused too."""

    @contextmanager
    def connection(path: Path) -> Iterator[Any]:
        with spooldb.connection(path) as database:
            if checkpoint:
                database.execute("PRAGMA wal_autocheckpoint = 1")
            yield Watched(database, promises.add)

    with pytest.MonkeyPatch.context() as patch:
        for module in (spool_module, outbox_module, erasure_module):
            patch.setattr(module, "connection", connection)
        yield


def begin(name: str, spool: Path) -> None:
    """What must stand before a drive begins."""
    if name == "migrated":
        drive(spool, OLD, range(FRAMES))
    elif name == "guarded":
        unguarded(spool)
    elif name in ("sent", "erased"):
        DRIVES["paced"](spool)


def sound(spool: Path) -> list[str]:
    """What `check` finds, where there is anything to check."""
    try:
        with open_view(spool) as view:
            return [problem.detail for problem in view.check() if not problem.harmless]
    except (SpoolError, StorageError) as error:
        if any(words in str(error) for words in ("never filled", "no spool here")):
            return []
        return [str(error)]


def committed(spool: Path) -> Any:
    """What the database holds, read elsewhere: SQLite itself cannot read a log where it has no room for a file beside it."""
    with tempfile.TemporaryDirectory() as elsewhere:
        for file in spool.glob("spool.db*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, elsewhere)
        return stored(Path(elsewhere))


def fill_and_go_on(name: str, place: Path, expected: Any, room: dict[str, int], *, checkpoint: bool) -> tuple[str, str]:
    """(what was refused, what went wrong) of one drive."""
    spool, promises, refused = place / "spool", Promises(), "nothing"
    begin(name, spool)
    before = stored(spool)
    with ballast(place, **room), heeded(promises, checkpoint=checkpoint):
        promises.add(before)
        try:
            DRIVES[name](spool)
            if (spool / "spool.db-wal").exists():
                refused = "checkpoint"
        except StorageError as error:
            refused = kind(error)
        faults = [f"while full: {what}" for what in sound(spool)]
        stands = committed(spool)
    if stands != promises.newest:
        faults.append(f"{promises.newest} was promised, {stands} stands")
    try:
        DRIVES[name](spool)
    except Exception as error:  # noqa: BLE001 - whatever a drive that goes on raises is the finding
        faults.append(f"cannot go on: {error!r}")
    else:
        found = OUTCOMES[name](spool)
        faults += [f"goes on to another end: {found}"] if found != expected else []
    shutil.rmtree(spool)
    return refused, "; ".join(faults)


def command(*words: object) -> tuple[Any, str]:
    """`geal-edge` in this process: its exit code, and what it says on stderr."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()), redirect_stderr(said):
        patch.setattr(sys, "argv", ["geal-edge", *map(str, words)])
        patch.setattr("geal_edge.cli.run.DiskConfig", partial(DiskConfig, min_free_bytes=0))  # the disk is smaller
        try:
            app.main()
        except SystemExit as ended:
            return ended.code or 0, said.getvalue()
    raise AssertionError("a command ends with an exit code")


def command_on(place: Path, bundle: Path, pages: int, expected: Any) -> str:
    """What went wrong where the command met a full disk, and went on. Where it had to do without, the end is another one."""
    spool = place / "spool"
    words = ("run", "drawn:1:25", "-b", bundle, "-s", spool, "--budget", "4", "-q")
    with ballast(place, pages=pages):
        code, said = command(*words)
        refused = code in (StorageError.exit_code, DiskFull.exit_code) and re.search(SENTENCE, said)
        if not refused and (code != 0 or not gave_way(spool)):
            return f"exit code {code}: {said}"
        faults = [f"while full: {what}" for what in sound(spool)]
    code, said = command(*words)
    if code != 0:
        faults.append(f"goes on with exit code {code}: {said}")
    elif not gave_way(spool) and summary(spool) != expected:
        faults.append("goes on to another end")
    shutil.rmtree(spool)
    return "; ".join(faults)


def gave_way(spool: Path) -> bool:
    """Whether levels were given up for want of room, or units refused, as events say."""
    with open_view(spool) as view:
        told = {event["name"]: event.get("cause") for event in view.events()}
    return "disk_full" in told or told.get("radius_raised") in ("disk_full", "free_space")


SENTENCE = r"\Ageal-edge: [^\n]+(The disk is full: free some space|Check free space)[^\n]+\n\Z"


def main() -> None:
    place, bundle, every = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    counts: Counter[str] = Counter()
    faults: list[str] = []
    mount(place)
    for name in DRIVES:
        begin(name, place / "spool")
        DRIVES[name](place / "spool")
        expected = OUTCOMES[name](place / "spool")
        shutil.rmtree(place / "spool")
        for checkpoint in (False, True) if every == 1 else (True,):
            for what, step in (("pages", every), ("files", math.ceil(every / 4))):
                for n in range(0, PAGES, step):
                    refused, fault = fill_and_go_on(name, place, expected, {what: n}, checkpoint=checkpoint)
                    faults += [f"{name}, room for {n} {what}, refused {refused}: {fault}"] if fault else []
                    if refused == "nothing":
                        break
                    counts[refused] += 1
    assert command("run", "drawn:1:25", "-b", bundle, "-s", place / "spool", "--budget", "4", "-q")[0] == 0
    expected = summary(place / "spool")
    shutil.rmtree(place / "spool")
    for pages in range(0, 60, 3 * every):
        fault = command_on(place, bundle, pages, expected)
        faults += [f"the command, room for {pages} pages: {fault}"] if fault else []
        counts["command"] += 1
    print(json.dumps({"refused": counts, "faults": faults}))


if __name__ == "__main__":
    main()
