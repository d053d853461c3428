import os
import subprocess
import sys
from pathlib import Path

import pytest

from geal_edge.errors import SpoolLocked, StorageError
from geal_edge.runtime import durable


def test_a_file_appears_complete_and_its_folder_is_synced(tmp_path, monkeypatch):
    calls = []

    class Spy:
        def __getattr__(self, name):
            real = getattr(os, name)
            if name not in ("write", "fsync", "replace"):
                return real

            def spy(*args):
                calls.append((name, os.path.isdir(f"/proc/self/fd/{args[0]}") if name == "fsync" else None))
                return real(*args)

            return spy

    monkeypatch.setattr(durable, "os", Spy())
    durable.write_file(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"
    assert calls == [("write", None), ("fsync", False), ("replace", None), ("fsync", True)]


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    target = tmp_path / "a"
    durable.write_file(target, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match=r"cannot write.*disk is full"):
        durable.write_file(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_write_in_pieces_is_finished(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data[:3])))
    durable.write_file(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_folder_where_a_file_is_says_so(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="in the way"):
        durable.make_folder(tmp_path / "file" / "below")
    with pytest.raises(StorageError, match="in the way"):
        durable.make_folder(tmp_path / "file")


def test_every_folder_on_the_way_is_synced(tmp_path, monkeypatch):
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_folder", synced.append)
    durable.make_folder(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_a_folder_is_replaced_whole(tmp_path):
    for name in ("old", "new"):
        durable.make_folder(tmp_path / name)
        (tmp_path / name / name).touch()
    durable.replace_folder(tmp_path / "new", tmp_path / "old")
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["old", "old/new"]


def test_removing_what_is_gone_is_fine(tmp_path):
    durable.remove_file(tmp_path / "gone")


def test_a_second_process_cannot_take_the_lock_and_a_dead_one_does_not_hold_it(tmp_path):
    lock = tmp_path / "lock"
    script = f"""
from pathlib import Path
from geal_edge.runtime import durable
with durable.exclusive_lock(Path({str(lock)!r}), "it"):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SpoolLocked, match="another process"), durable.exclusive_lock(lock, "it"):
            pass
        holder.kill()
    with durable.exclusive_lock(lock, "it"):
        pass
