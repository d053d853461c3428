"""Events as they are told: each once, in words and in a machine form that is written down."""

import ast
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from geal_edge.errors import SpoolDamaged, SpoolError
from geal_edge.runtime.eventlog import SENTENCES, EventReader, is_since, machine_line, when, words
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.vehicletime import Moment
from tests.test_spool import settings

ROOT = Path(__file__).parents[1]
TELLERS = {"event", "_event", "notice", "Notice", "_note", "note_link", "_change", "Change"}
"""Functions and values that are given an event's name."""
SYNCHRONISED = Moment(boot_id="b", powered_s=100.0, wall_ns=1_700_000_000 * 10**9, synchronised=True)


def happen(path, *names, now=lambda: SYNCHRONISED):
    """A run that opens the spool, has these events and ends."""
    with Spool(path, settings(), now=now, wall_ns=lambda: now().wall_ns) as spool:
        for name in names:
            spool.event(name, camera="front")


def numbers(events):
    return [event["event"] for event in events]


def names_told_by_the_code():
    """Every text that stands where an event's name stands, in a call of one of TELLERS; also of an `x if y else z`."""
    for file in (ROOT / "geal_edge").rglob("*.py"):
        tree = ast.parse(file.read_text())
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = getattr(call.func, "attr", getattr(call.func, "id", None))
            if name in TELLERS:
                given = [*call.args[:1], *(word.value for word in call.keywords if word.arg in ("name", "event"))]
                if name == "_event" and len(call.args) > 2:
                    given = [call.args[2]]  # repair's own, which is given the database first
                for value in given:
                    found = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
                    yield from (each.value for each in found if isinstance(each, ast.Constant) and each.value)


def test_every_event_of_the_code_has_a_sentence_and_every_sentence_an_event():
    told = {name for name in names_told_by_the_code() if name not in ("idle", "sending", "failing", "closed")}
    told |= {"erased"}  # stored by a statement of its own, which forgets what it is about
    assert told == set(SENTENCES)


def test_every_event_is_written_down():
    page = (ROOT / "docs" / "formats.md").read_text()
    written = page[page.index("Events of frames:") : page.index("## Exit codes")]
    assert [name for name in SENTENCES if f"`{name}`" not in written] == []


def test_every_sentence_can_be_said_of_its_event_and_of_one_that_lacks_everything():
    for name in SENTENCES:
        assert words({"name": name, "odd": 1}).isprintable()
    assert words({"name": "camera_lost", "camera": "a\x1b[2J", "reason": "gone", "retry_in_s": 2.0}).startswith(
        "camera a?[2J is lost (gone)"
    )
    assert words({"name": "of_tomorrow", "depth": 3, "version": "9"}) == "of_tomorrow depth=3"
    assert words({"name": "units_evicted", "units": ["a"], "by": "round_end"}) == "1 unit evicted, for round_end"


def test_each_event_comes_once_over_restarts_of_the_run_and_of_the_reader(tmp_path):
    path = tmp_path / "spool"
    happen(path, "camera_started", "camera_lost")
    reader = EventReader(path)
    first = reader.take()
    assert [event["name"] for event in first] == ["camera_started", "camera_lost"]
    assert reader.take() == []
    happen(path, "camera_back")
    assert [event["name"] for event in reader.take()] == ["camera_back"]
    happen(path, "camera_silent")
    again = EventReader(path, after=reader.after).take()
    assert [event["name"] for event in again] == ["camera_silent"]
    assert numbers(first + again) == [1, 2, 4]


def test_a_commit_in_the_same_instant_as_a_look_is_not_missed(tmp_path):
    path = tmp_path / "spool"
    happen(path, "camera_started")
    database = path / "spool.db"
    stat = database.stat()
    reader = EventReader(path, wall_ns=lambda: stat.st_mtime_ns)
    assert len(reader.take()) == 1
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("INSERT INTO events VALUES (NULL, 'camera_back', 1, '0', '{}')")
    for file in (database, path / "spool.db-wal"):
        if file.exists():
            subprocess.run(["touch", "-d", f"@{stat.st_mtime_ns / 1e9:.9f}", file], check=True)
    assert [event["name"] for event in reader.take()] == ["camera_back"]


def test_a_reader_is_told_when_events_are_gone_and_when_the_spool_is_another(tmp_path):
    path = tmp_path / "spool"
    happen(path, "camera_started", "camera_lost", "camera_back")
    with closing(sqlite3.connect(path / "spool.db")) as db, db:
        db.execute("DELETE FROM events WHERE event <= 2")
    reader = EventReader(path, after=1)
    assert numbers(reader.take()) == [3]
    assert "1 events behind number 1 are no longer there" in reader.notes.pop()
    shutil.rmtree(path)
    happen(path, "camera_started")
    assert numbers(reader.take()) == [1]
    assert "another spool" in reader.notes.pop()


def test_a_spool_that_is_not_there_is_waited_for_and_a_damaged_one_is_not(tmp_path):
    path = tmp_path / "spool"
    with pytest.raises(SpoolError):
        EventReader(path).take()
    reader, turns = EventReader(path), []

    def wait():
        turns.append(len(reader.notes))
        if len(turns) == 2:
            happen(path, "camera_started")
        return len(turns) < 3

    assert [len(found) for found in reader.follow(wait)] == [0, 0, 1]
    assert turns == [1, 1, 1]  # said once
    (path / "spool.db").write_bytes(b"no database" * 1000)
    for log in path.glob("spool.db-*"):
        log.unlink()
    with pytest.raises(SpoolDamaged):
        list(EventReader(path).follow(lambda: False))


def test_where_the_clock_was_not_set_an_event_tells_how_long_the_vehicle_was_on(tmp_path):
    path = tmp_path / "spool"
    unset = Moment(boot_id="b", powered_s=3725.5, wall_ns=7 * 10**9, synchronised=False)
    happen(path, "camera_started", now=lambda: unset)
    happen(path, "camera_back")
    with open_view(path) as view:
        early, late = view.events()
    assert machine_line(early)["time"] is None
    assert early["powered_s"] == 3725.5
    assert when(early) == "switched on +1:02:05"
    assert machine_line(late)["time"] == "2023-11-14T22:13:20.000Z"
    assert "powered_s" not in late


def test_what_happened_since_is_known_by_a_clock_that_was_set_or_within_this_boot():
    event = {"wall_ns": SYNCHRONISED.wall_ns - 50 * 10**9}
    assert is_since(event, 60.0, SYNCHRONISED)
    assert not is_since(event, 40.0, SYNCHRONISED)
    of_boot = {"wall_ns": 5, "powered_s": 50.0, "boot_id": "b"}
    assert is_since(of_boot, 60.0, SYNCHRONISED)
    assert not is_since({**of_boot, "boot_id": "before"}, 60.0, SYNCHRONISED)


def test_events_are_told_to_people_and_to_machines(cli, tmp_path):
    path = tmp_path / "spool"
    happen(path, "camera_started", "camera_back")
    assert cli("events", path)[1].splitlines()[1] == "2023-11-14 22:13:20Z  camera front is back"
    line = json.loads(cli("events", path, "--json", "--after", 1)[1])
    assert (line["schema"], line["event"], line["name"]) == ("geal-edge/event/1", 2, "camera_back")
    assert {"time", "wall_ns", "version", "bundle", "camera"} <= set(line)
    assert "front is back" in cli("events", path, "--name", "*_back")[1]
    assert cli("events", path, "--since", "1h")[1] == ""
    code, _, error = cli("events", path, "--name", "camera_bakc")
    assert code == 2
    assert "camera_back" in error
    assert cli("events", tmp_path / "none")[0] == 13


def test_following_goes_on_over_a_restart_of_the_run_and_ends_well(tmp_path):
    path = tmp_path / "spool"
    happen(path, "camera_started")
    program = "from geal_edge.cli.start import main; main()"
    following = subprocess.Popen(
        [sys.executable, "-c", program, "events", path, "--follow", "--json"], stdout=subprocess.PIPE, text=True
    )
    assert following.stdout is not None
    try:
        assert json.loads(following.stdout.readline())["event"] == 1
        happen(path, "camera_lost")
        happen(path, "camera_back")
        assert [json.loads(following.stdout.readline())["event"] for _ in range(2)] == [2, 3]
        following.send_signal(signal.SIGINT)
        assert following.wait(30) == 0
    finally:
        following.kill()
        following.stdout.close()
        following.wait()
