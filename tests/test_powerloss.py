"""Power cuts at system calls: SQLite's own files included. `make chaos` cuts at every one of them, and removes every sync."""

import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tests.powerloss.cuts import build_recorder, faults, record
from tests.powerloss.disk import CREATE, OPEN, RENAME, SYNC, WRITE, Disk, Operation, read_log
from tests.powerloss.drives import DRIVES, OUTCOMES

EVERY = {"recorded": 67, "beside": 83, "paced": 71, "migrated": 79, "sent": 31, "guarded": 29, "erased": 41}
"""Every so many operations the power is cut: primes, so that no rhythm of the code is always met at one place."""


@pytest.fixture(scope="session")
def recorder(tmp_path_factory):
    library = build_recorder(tmp_path_factory.mktemp("recorder")) if sys.platform == "linux" else None
    if library is None:
        pytest.skip("needs Linux and a C compiler (cc or gcc)")
    return library


@pytest.fixture
def memory_disk():
    """A folder in memory where there is one: these tests lay out thousands of spools that need not be safe."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def outcome(name: str, folder: Path):
    DRIVES[name](folder / "whole")
    return OUTCOMES[name](folder / "whole")


@pytest.mark.parametrize("name", DRIVES)
def test_whatever_was_not_synced_when_the_power_went_nothing_promised_is_lost(name, recorder, memory_disk):
    expected = outcome(name, memory_disk)
    recording = record(name, recorder, memory_disk / "run")
    assert recording.promised[-1] != []
    counts: Counter[str] = Counter()
    assert list(faults(recording, memory_disk, expected, counts, every=EVERY[name])) == []
    assert counts["kill"] > 0 < counts["lost"]


def test_without_the_sync_of_a_frames_bytes_the_same_cuts_find_the_loss(recorder, memory_disk):
    expected = outcome("paced", memory_disk)
    recording = record("paced", recorder, memory_disk / "run", without="_put")
    assert next(faults(recording, memory_disk, expected, Counter(), every=37), None) is not None


def op(kind, *, handle=0, path="", target="", offset=0, data=b""):
    return Operation(kind=kind, handle=handle, path=path, target=target, offset=offset, data=data)


def after(*operations, fate="lost", draw=0):
    disk = Disk()
    for each in operations:
        disk.do(each)
    return disk.after(fate, random.Random(draw))


FOLDER = op(OPEN, handle=9, path=".")
NEW = op(OPEN, handle=1, path="a", offset=CREATE)
BYTES = op(WRITE, handle=1, data=b"bytes")
"""A file of five bytes, and the folder that it is in."""


def test_a_file_is_safe_once_it_and_its_folder_were_synced_and_not_before():
    written = (FOLDER, NEW, BYTES)
    assert after(*written) == {}
    assert after(*written, op(SYNC, handle=1)) == {}
    assert after(*written, op(SYNC, handle=9)) == {"a": b""}
    assert after(*written, op(SYNC, handle=1), op(SYNC, handle=9)) == {"a": b"bytes"}


def test_a_rename_is_undone_until_its_folder_is_synced_and_is_never_half_done():
    safe = (FOLDER, NEW, BYTES, op(SYNC, handle=1), op(SYNC, handle=9))
    renamed = (*safe, op(RENAME, path="a", target="b"))
    assert after(*renamed) == {"a": b"bytes"}
    assert after(*renamed, fate="kill") == {"b": b"bytes"}
    assert after(*renamed, op(SYNC, handle=9)) == {"b": b"bytes"}
    found = {tuple(after(*renamed, fate="torn", draw=draw)) for draw in range(20)}
    assert found == {("a",), ("b",)}


def test_what_was_not_synced_may_be_there_in_name_in_length_or_in_part():
    data = bytes(range(256)) * 8
    written = (FOLDER, NEW, op(WRITE, handle=1, data=data))
    assert after(*written, fate="kill") == {"a": data}
    assert after(*written, fate="names") == {"a": b""}
    assert after(*written, fate="lengths") == {"a": bytes(len(data))}
    named = (*written, op(SYNC, handle=9))
    assert after(*named, fate="data") == {"a": data}
    lengths = {len(after(*named, fate="torn", draw=draw)["a"]) for draw in range(200)}
    assert {0, 512, 1024, 1536, 2048} <= lengths


def test_the_recorder_sees_what_a_process_asks_of_its_files_and_of_no_others(recorder, tmp_path):
    (tmp_path / "disk").mkdir()
    program = """
import ctypes, os, sys
folder = sys.argv[1]
open(folder + "/../elsewhere", "w").write("not ours")
handle = os.open(folder + "/a", os.O_WRONLY | os.O_CREAT)
os.write(handle, b"one")
os.pwrite(handle, b"two", 7)
os.fsync(handle)
os.rename(folder + "/a", folder + "/b")
ctypes.CDLL(None).powerloss_mark(ctypes.c_uint64(5))
os.mkdir(folder + "/c")
os.unlink(folder + "/b")
"""
    log = tmp_path / "log"
    place = {"LD_PRELOAD": str(recorder), "POWERLOSS_ROOT": str(tmp_path / "disk"), "POWERLOSS_LOG": str(log)}
    subprocess.run([sys.executable, "-c", program, tmp_path / "disk"], env={**os.environ, **place}, check=True)
    disk, seen = Disk(), []
    for each in read_log(log, (tmp_path / "disk").resolve()):
        disk.do(each)
        seen.append(disk.after("kill", random.Random(0)))
    assert disk.marks == 5
    assert {"b": b"one\0\0\0\0two"} in seen
    assert seen[-1] == {"c": None}
