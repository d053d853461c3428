"""The live status: what it shows, that it fits, and that it leaves everything as it was."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from contextlib import contextmanager

import pytest

from geal_edge.cli.watch import plain_lines, screen
from geal_edge.runtime.livestatus import Onlook
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.verdicts import MAX_VERDICTS
from tests.fakes import Clock, MemorySource, frame, judge, lost
from tests.streams import random_stream
from tests.test_spool import settings

PROGRAM = "from geal_edge.cli.start import main; main()"
OTHER_SCREEN, AS_IT_WAS = b"\x1b[?1049h", b"\x1b[?1049l"


def more_frames(path, count, *, seed=0, first=0, reason="too_slow"):
    """A run that sees so many frames, every seventh of which is lost."""
    with Spool(path, settings(budget=4)) as spool:
        spool.begin_source(MemorySource())
        ladder = spool.ladder()
        for place, clusters in enumerate(random_stream(seed, count), start=first):
            if place % 7 == 6:
                spool.pass_over(lost(frame(place), reason, "nobody looked"))
            else:
                judge(spool, ladder, frame(place), clusters)
        spool.event("camera_lost", camera="front", reason="unplugged", retry_in_s=4.0)
        spool.flush()


def pulse_of(frames):
    """What a run would say of itself."""
    return {
        "frames": frames,
        "budget": [{"unit": "frames", "period": "day", "limit": 4, "spent": 1, "refills_in_s": 60.0}],
        "pace": {"seen_per_s": 1.94, "judged_per_s": 1.5},
        "newest": {"id": "memory#3", "age_s": 0.4},
        "cameras": {"front": {"silent_s": 31.0, "lost": {"too_slow": 3}}, "left": {"silent_s": 0.1, "lost": {}}},
        "rate": {"asked_hz": 2.0, "in_force_hz": 1.0, "cause": "max_temperature_c"},
        "machine": {"cpu_percent": 85.0, "rss_bytes": 412_000_000, "temperature_c": 91.0},
        "engine": {"name": "ort-cpu", "first": "ort-cuda", "changes": 1},
        "age_s": 0.4,
    }


def shown(look, spool="spool", **size):
    lines = screen(spool, look, **{"width": 80, "height": 24, "wall_ns": 0, **size})
    return [line.plain for line in lines]


@pytest.fixture
def spool(tmp_path):
    path = tmp_path / "spool"
    more_frames(path, 40)
    return path


def test_it_shows_how_the_spool_stands_and_what_happened(spool):
    text = "\n".join(shown(Onlook(spool, pulse=lambda _: None).look()))
    assert "40 seen" in text
    assert "5 too_slow" in text
    assert "camera front is lost (unplugged); tried again in 4 s" in text
    assert "in force" in text
    assert "no run fills it now" in text or "a run seems to fill it" in text


def test_what_takes_more_than_a_line_goes_on_under_its_label(spool):
    look = Onlook(spool, pulse=lambda _: None).look()
    lines = shown(look, spool="spool\x1b[2J\nof nobody", width=50, height=40)
    at = next(place for place, line in enumerate(lines) if line.startswith("coverage  every"))
    assert lines[at + 1].startswith(" " * 10)
    assert lines[at + 1][10] != " "
    assert all(line.isprintable() for line in lines)


def test_what_the_run_says_itself_is_newer_than_what_is_stored(spool):
    told = {"seen": 90, "not_new": 60, "evicted": 5, "retained": 22, "lost": {"too_slow": 8}, "gated": {}}
    look = Onlook(spool, pulse=lambda _: pulse_of(told)).look()
    text = "\n".join(shown(look, height=30))
    assert "90 seen: 60 not new" in text
    assert "1.9 frames/s seen, 1.5 judged; newest judged 0.4 s ago" in text
    assert "1 Hz a camera of 2, held down by max_temperature_c" in text
    assert "ort-cpu in place of ort-cuda" in text
    assert "front: lost (unplugged), left: picture 0.1 s ago" in text
    assert "3 left, refills in" in text


def test_changes_are_told_over_a_minute(spool):
    clock = Clock()
    onlook = Onlook(spool, monotonic=clock, pulse=lambda _: None)
    assert not any(onlook.look().changed.values())
    more_frames(spool, 14, seed=1, first=40)
    clock.advance(30.0)
    look = onlook.look()
    assert (look.changed["seen"], look.changed["lost:too_slow"], look.over_s) == (14, 2, 30.0)
    assert "54 (+14) seen" in "\n".join(shown(look))
    for _ in range(5):
        clock.advance(30.0)
        look = onlook.look()
    assert not any(look.changed.values())
    assert look.over_s <= 90.0


def test_it_waits_for_a_spool_and_survives_that_it_goes_and_comes_again(tmp_path):
    path, clock = tmp_path / "spool", Clock()
    onlook = Onlook(path, monotonic=clock, pulse=lambda _: None)
    assert "no spool here" in " ".join("\n".join(shown(onlook.look())).split())
    more_frames(path, 10)
    assert (onlook.look().status or {})["frames"]["seen"] == 10
    path.rename(tmp_path / "away")
    clock.advance(60.0)
    assert onlook.look().status is None
    more_frames(path, 3)
    clock.advance(60.0)
    look = onlook.look()
    assert (look.status or {})["frames"]["seen"] == 3
    assert [event["event"] for event in look.events] == [1]


def test_reading_the_spool_takes_a_small_part_of_the_time(spool, monkeypatch):
    clock, reads = Clock(), []
    onlook = Onlook(spool, monotonic=clock, pulse=lambda _: None, wall_ns=lambda: 0)  # always changed

    def read():
        reads.append(clock.now)
        clock.advance(2.0)

    monkeypatch.setattr(onlook, "_read", read)
    for _ in range(50):
        onlook.look()
        clock.advance(1.0)
    assert 2.0 * len(reads) <= 0.15 * (clock.now - 1000.0)


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (40, 12), (20, 6), (9, 3), (1, 1)])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_fits_a_terminal_of_any_size_and_any_letters(spool, size, encoding):
    width, height = size
    with Spool(spool, settings(budget=4)) as writer:
        writer.event("camera_back", camera="vörne\x1b[2J\n")
    lines = shown(Onlook(spool, pulse=lambda _: None).look(), width=width, height=height, encoding=encoding)
    assert len(lines) <= height
    assert all(len(line) <= width and line.isprintable() for line in lines)
    "".join(lines).encode(encoding)


@contextmanager
def terminal(*words, **environ):
    """The command on a terminal of its own, 80 x 24; gives (process, its terminal)."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    env = {**os.environ, "TERM": "xterm-256color", **environ}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True, close_fds=True
    )
    try:
        yield process, ours, theirs
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def until(ours, wanted, seconds=60.0):
    """What the terminal was sent, up to `wanted` or until nothing comes any more."""
    text = b""
    while wanted not in text and select.select([ours], [], [], seconds)[0]:
        text += os.read(ours, 65536)
    assert wanted in text, text[-300:]
    return text


@pytest.mark.parametrize("end", ["q", "Ctrl-C", "SIGTERM"])
def test_it_ends_when_told_and_gives_the_terminal_back_as_it_was(spool, end):
    with terminal("status", spool, "--watch", NO_COLOR="1") as (process, ours, theirs):
        before = termios.tcgetattr(theirs)
        text = until(ours, b"q or Ctrl-C")
        assert OTHER_SCREEN in text
        assert re.search(rb"\x1b\[[0-9;]*3[0-7]m", text) is None  # as NO_COLOR asks
        if end == "q":
            os.write(ours, b"q")
        else:
            process.send_signal(signal.SIGINT if end == "Ctrl-C" else signal.SIGTERM)
        until(ours, AS_IT_WAS)
        assert process.wait(30) == 0
        assert termios.tcgetattr(theirs) == before


def test_without_a_terminal_it_says_a_plain_status_and_goes_on_until_told(spool):
    command = [sys.executable, "-c", PROGRAM, "status", spool, "--watch"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = ""
        while "40 seen" not in lines:
            lines += process.stdout.readline()
        assert "\x1b" not in lines
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_the_machine_form_is_the_status_with_what_the_run_says(spool):
    told = {"seen": 90, "not_new": 60, "evicted": 5, "retained": 22, "lost": {"too_slow": 8}, "gated": {}}
    look = Onlook(spool, pulse=lambda _: pulse_of(told)).look()
    (line,) = plain_lines(spool, look, as_json=True)
    assert json.loads(line)["frames"]["seen"] == 90
    assert json.loads(line)["pulse"]["rate"]["in_force_hz"] == 1.0
    (line,) = plain_lines(spool, Onlook(spool / "none").look(), as_json=True)
    assert "no spool here" in json.loads(line)["problem"]


def test_frames_that_were_not_taken_are_listed_the_newest_first(cli, spool):
    lines = [json.loads(line) for line in cli("list", spool, "--state", "lost", "--json")[1].splitlines()]
    assert [line["id"] for line in lines] == [f"memory#{n}" for n in (34, 27, 20, 13, 6)]
    assert {(line["reason"], line["detail"]) for line in lines} == {("too_slow", "nobody looked")}
    out = cli("list", spool, "--state", "lost", "--limit", 2)[1]
    assert "memory#34" in out
    assert "memory#20" not in out
    rows = cli("list", spool, "--state", "not_new", "--csv")[1].splitlines()
    assert rows[0] == "state,id,capture_time_ns,reason,detail,novelty,radius,nearest"
    assert all(row.startswith("not_new,memory#") for row in rows[1:])
    assert cli("list", spool, "--csv")[1].startswith("order,state,id,source")
    for words in (["--limit", 3], ["--state", "lost", "--retained"], ["--json", "--csv"]):
        assert cli("list", spool, *words)[0] == 2
    assert MAX_VERDICTS == 100_000  # as `list --help` and docs/formats.md say


def test_every_frame_that_was_not_new_is_counted_by_how_new_it_was(spool):
    look = Onlook(spool, pulse=lambda _: None).look()
    with open_view(spool) as view:
        refused = view.refusals()
        told = [
            (v.novelty, v.radius) for v in view.verdicts("not_new", at_most=100) if v.novelty is not None and v.radius
        ]
    assert sum(refused) == len(told) > 0
    assert look.status is not None
    assert sum(refused) <= look.status["frames"]["not_new"]
    for share, n in enumerate(refused):
        assert n == sum(min(19, int(20 * novelty / radius)) == share for novelty, radius in told)
