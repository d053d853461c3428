"""Every kind of file of a spool, damaged in every way once or twice; `make chaos` does it some thousand times."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from geal_edge.errors import SpoolDamaged
from geal_edge.runtime.erasure import Rule, erase
from geal_edge.runtime.lostcommits import damaged_log
from geal_edge.runtime.outbox import Outbox
from geal_edge.runtime.pins import pin
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolview import open_view
from tests.damage import ROUND, STREAM, Finding, counted, damages, make
from tests.fakes import Clock, MemorySource, frame, judge
from tests.test_powerloss import memory_disk  # noqa: F401
from tests.test_spool import settings


def found(folder: Path, *, times: dict[str, int], seed: int) -> list[Finding]:
    """What became of the files of a closed spool and a killed one, each damaged in each way so often; `frame` is one frame's."""

    def per_way(name: str) -> int:
        return times["frame" if name == FRAME else Path(name).name if name.startswith("spool.db") else "other"]

    spools = make(folder)
    findings = [each for spool in spools.values() for each in damages(spool, folder, per_way=per_way, seed=seed)]
    print(f"\ndamaged files: {len(findings)}: {counted(findings)}")
    return findings


FRAME = "frames/00000003.jpg"


def test_a_damaged_file_is_named_or_makes_no_difference_and_takes_no_other_frame_with_it(memory_disk):  # noqa: F811
    times = {"frame": 1, "other": 0, "spool.db": 1, "spool.db-wal": 1, "spool.db-shm": 0}
    findings = found(memory_disk, times=times, seed=0)
    assert [finding for finding in findings if finding.fault] == []
    assert {"listed", "refused SpoolDamaged", "unaffected"} <= {finding.outcome for finding in findings}


@pytest.fixture
def log(tmp_path):
    """A database's log with three transactions, as a kill leaves it."""
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t (x)")
        for n in range(2):
            database.execute("INSERT INTO t VALUES (?)", (n,))
        copy = tmp_path / "copy-wal"
        copy.write_bytes((tmp_path / "a.db-wal").read_bytes())
    return copy


def test_a_log_that_is_whole_or_torn_at_its_end_is_sound_and_one_damaged_before_that_is_not(log):
    whole = log.read_bytes()
    frame = 24 + 4096
    assert len(whole) == 32 + 4 * frame  # the table is two pages, each row one
    assert damaged_log(log) is None
    for end in (0, 20, 32, 32 + frame, len(whole) - 1):
        log.write_bytes(whole[:end])
        assert damaged_log(log) is None
    newest = 32 + 3 * frame
    log.write_bytes(whole[:newest] + bytes(frame))
    assert damaged_log(log) is None
    for at in (32 + 100, 32 + 24 + 2000, 32 + 2 * frame + 5000 - frame):
        log.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert "transactions from there on are lost" in (damaged_log(log) or "")
    log.write_bytes(whole[:5] + b"\xff" + whole[6:])
    assert damaged_log(log) == "copy-wal: its head is damaged, and all transactions in it are lost"
    log.write_bytes(b"not a log" * 1000)
    assert "its head is damaged" in (damaged_log(log) or "")
    log.unlink()
    assert damaged_log(log) is None


def test_the_log_of_an_earlier_time_behind_that_of_now_is_no_damage(tmp_path):
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t (x)")
        for n in range(5):
            database.execute("INSERT INTO t VALUES (?)", (n,))
        database.execute("PRAGMA wal_checkpoint")
        database.execute("INSERT INTO t VALUES (9)")  # from the log's start again: what was there stays behind it
        assert damaged_log(tmp_path / "a.db-wal") is None


def test_what_a_damaged_log_cost_is_listed_and_noted_by_the_run_that_goes_on(tmp_path):
    spool = make(tmp_path)["killed"]
    log = spool / "spool.db-wal"
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    with open_view(spool) as view:
        problems = [problem.detail for problem in view.check()]
    [damage] = [detail for detail in problems if detail.startswith("spool.db-wal: is damaged at byte")]
    frames = sorted((spool / "frames").iterdir())
    with Spool(spool, settings(release="paced", **ROUND), monotonic=Clock()):
        pass
    with open_view(spool) as view:
        assert [event["detail"] for event in view.events() if event["name"] == "commits_lost"] == [damage]
    assert sorted((spool / "frames").iterdir()) == frames


@pytest.mark.parametrize("beside", ["upload", "pin", "erase"])
def test_nobody_writes_over_a_damaged_log_before_the_writer_has_seen_what_it_cost(tmp_path, beside):
    path, killed = tmp_path / "s", tmp_path / "killed"
    with Spool(path, settings(), monotonic=Clock()) as spool:
        ladder = spool.ladder()
        spool.begin_source(MemorySource())
        stored = (path / "spool.db-wal").stat().st_size
        judge(spool, ladder, frame(0), STREAM[0])
        spool.event("something")
        spool.flush()
        shutil.copytree(path, killed)
    log = killed / "spool.db-wal"
    data = bytearray(log.read_bytes())
    data[stored + 2000] ^= 1
    log.write_bytes(data)
    with pytest.raises(SpoolDamaged, match=r"2 transactions .* are lost"):
        if beside == "upload":
            with Outbox(killed):
                pass
        elif beside == "pin":
            pin(killed, "memory#0")
        else:
            erase(killed, Rule(id="memory#0"), sure=lambda _: True)
    with Spool(killed, settings(), monotonic=Clock()):
        pass
    assert [file.name for file in (killed / "frames").iterdir()] == ["00000001.jpg"]
