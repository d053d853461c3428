"""A run as a service: real processes, watched by a supervisor that is this one."""

import inspect
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from geal_edge.cli.run import run
from geal_edge.cli.service import KEY_OF, uploader_of
from geal_edge.errors import SpoolError
from geal_edge.runtime.companion import STOP_S, Companion, Program
from geal_edge.runtime.frame import usable
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.memoryfile import read_memory
from geal_edge.runtime.notify import Supervisor
from geal_edge.runtime.observer import Notice, Silent
from geal_edge.runtime.service import Service
from geal_edge.runtime.settings import Configuration, read_configuration
from geal_edge.runtime.settings.files import Said
from geal_edge.runtime.settings.sections import KEYS
from geal_edge.runtime.sources.drawn import DrawnDrive
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.stopping import Stop
from tests.fakes import Clock
from tests.farside import DavServer, fill_spool, serving
from tests.test_settings import RIGHT

SERVICE = "from geal_edge.cli.start import main; main()"
HANGING = """
import ctypes, sys
from pathlib import Path
from geal_edge.cli.start import main
from geal_edge.runtime.encoder import Encoder

encode, hung, images = Encoder.__call__, Path(sys.argv.pop()), []

def hang_at_the_fourth(self, image):
    images.append(image)
    if len(images) == 4:
        hung.touch()
        ctypes.CDLL(None).pause()  # as in a driver: in C, with Python's lock let go, so that other threads go on
    return encode(self, image)

Encoder.__call__ = hang_at_the_fourth
main()
"""
HUNG_UP = """
import os, signal
from geal_edge.cli.start import main
from geal_edge.runtime.watched import WatchedEncoder

enter = WatchedEncoder.__enter__

def hang_up_while_it_is_loaded(self):
    os.kill(os.getpid(), signal.SIGHUP)
    return enter(self)

WatchedEncoder.__enter__ = hang_up_while_it_is_loaded
main()
"""


class Ear:
    """The supervisor's side of NOTIFY_SOCKET."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("")  # the kernel finds a name
        self.socket.settimeout(60.0)
        self.name = "@" + self.socket.getsockname()[1:].decode()

    def hear(self, word: str) -> dict[str, str]:
        """The next message that says this."""
        while True:
            said = dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())
            if word in said:
                return said


@pytest.fixture
def ear() -> Iterator[Ear]:
    listening = Ear()
    yield listening
    listening.socket.close()


@pytest.fixture
def config(tmp_path, tiny_bundle) -> Path:
    (tmp_path / "in").mkdir()
    path: Path = tmp_path / "geal-edge.toml"
    path.write_text(
        f'[source]\nuris = ["watch:{tmp_path}/in"]\nrate_hz = 50\n[bundle]\npath = "{tiny_bundle.path}"\n'
        f'allow_untrained = true\n[budget]\nframes_per_day = 5\n[spool]\npath = "{tmp_path}/state/spool"\n'
    )
    return path


@contextmanager
def camera(folder: Path) -> Iterator[None]:
    """Somebody who puts a picture into a folder, again and again."""
    pictures = [encode(usable(frame).image, "jpg") for frame in DrawnDrive(1, 20).frames()]
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.wait(0.02):
            (folder / ".half").write_bytes(pictures[number % len(pictures)])
            (folder / ".half").replace(folder / f"{number:06d}.jpg")
            number += 1

    writing = threading.Thread(target=write)
    writing.start()
    try:
        yield
    finally:
        done.set()
        writing.join()


@contextmanager
def service(ear: Ear, config: Path, *more: object, program: str = SERVICE, watchdog_s: float = 1.0, before=()):
    environ = {**os.environ, "NOTIFY_SOCKET": ear.name, "WATCHDOG_USEC": str(round(watchdog_s * 1e6))}
    words = [*before, sys.executable, "-c", program, "run", "--config", config, *more]
    started = subprocess.Popen(list(map(str, words)), env=environ, stderr=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def seen(ear: Ear) -> int:
    """Frames, as the next message tells."""
    return int(ear.hear("WATCHDOG")["STATUS"].split()[0])


def events(config: Path) -> dict[str, dict[str, object]]:
    with open_view(config.parent / "state" / "spool") as view:
        assert view.check() == []
        return {event["name"]: event for event in view.events()}


def test_a_service_says_when_it_is_ready_that_it_works_and_that_it_stops_and_stops_within_the_frame_in_hand(
    ear, config
):
    with camera(config.parent / "in"), service(ear, config) as running:
        ear.hear("READY")
        while not seen(ear):
            pass
        running.send_signal(signal.SIGTERM)
        ear.hear("STOPPING")
        assert running.wait(60) == 130
    with open_view(config.parent / "state" / "spool") as view:
        assert view.check() == []
        assert view.counts()[0]["seen"] > 0
        first, *_, last = view.events()
    assert (first["name"], first["cameras"], first["shadow"]) == ("run_started", ["in"], False)
    assert (last["name"], last["by"]) == ("run_ended", "stop")


def test_an_encoder_that_hangs_is_ended_by_the_watchdog_and_the_next_start_goes_on(ear, config, tmp_path):
    hung = tmp_path / "hung"
    with camera(config.parent / "in"):
        with service(ear, config, hung, program=HANGING) as running:
            ear.hear("READY")
            ear.socket.settimeout(1.0)
            while True:
                try:
                    ear.hear("WATCHDOG")
                except TimeoutError:
                    if hung.exists():  # else the machine is busy, and a supervisor would have been given more time
                        break
            assert running.poll() is None  # it lives, and would hang for ever
            running.send_signal(signal.SIGABRT)  # what systemd does when WatchdogSec= is over
            assert running.wait(60) == -signal.SIGABRT
        ear.socket.settimeout(60.0)
        with service(ear, config) as running:
            ear.hear("READY")
            while not seen(ear):
                pass
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 130
    assert "config_refused" not in events(config)


def test_a_hang_up_takes_all_of_a_configuration_over_or_nothing_and_says_why(ear, config):
    right = config.read_text()
    with camera(config.parent / "in"), service(ear, config) as running:
        ear.hear("WATCHDOG")
        config.write_text(right.replace("rate_hz = 50", "rate_hz = 5\ngroup_s = 0.1") + "flush_s = 2\n")
        running.send_signal(signal.SIGHUP)
        assert running.stderr is not None
        while "the configuration was refused" not in running.stderr.readline():
            pass
        config.write_text(right.replace("rate_hz = 50", "rate_hz = 5") + "flush_s = 2\n[trip]\ngap_s = 60\n")
        running.send_signal(signal.SIGHUP)
        assert int(ear.hear("RELOADING")["MONOTONIC_USEC"]) > 0
        ear.hear("READY")
        before = seen(ear)
        while seen(ear) == before:  # the cameras are there again
            pass
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 130
    found = events(config)
    assert found["config_refused"]["reason"] == (
        "source.group_s (geal-edge.toml:4): cannot change while the service runs. "
        "What belongs to the spool (the budget, source.group_s, gates.guard) takes another spool.path and a restart."
    )
    assert found["config_reloaded"]["changed"] == {
        "source.rate_hz": {"was": "50.0", "now": "5.0"},
        "trip.gap_s": {"was": "600.0", "now": "60.0"},
        "spool.flush_s": {"was": "30.0", "now": "2.0"},
    }
    with open_view(config.parent / "state" / "spool") as view:
        assert [event["by"] for event in view.events() if event["name"] == "run_ended"] == ["reload", "stop"]
        assert view.status()["config"] == found["config_reloaded"]["config"] != found["config_refused"]["config"]


def test_a_hang_up_while_the_model_is_loaded_is_a_reload_as_well(ear, config):
    with service(ear, config, program=HUNG_UP) as running:
        ear.hear("RELOADING")
        ear.hear("READY")
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 130


@pytest.mark.parametrize(
    ("was", "now", "code", "sentence"),
    [
        (
            "allow_untrained = true",
            "",
            7,
            "its weights are untrained, and a service would spend its budget on what they choose",
        ),
        ("[bundle]", f'[bundle]\ndigest = "sha256:{"0" * 64}"', 7, "and [bundle] digest pins sha256:0000"),
        ("rate_hz = 50", "rate = 50", 27, "did you mean [source] rate_hz?"),
        ("/in", "/out", 9, "no such folder"),
    ],
)
def test_a_service_does_not_start_on_what_it_must_not_run(cli, config, was, now, code, sentence):
    config.write_text(config.read_text().replace(was, now, 1))
    found, _, error = cli("run", "--config", config)
    assert (found, sentence in error) == (code, True), error
    assert not (config.parent / "state").exists()


def test_a_bundle_that_is_pinned_and_one_that_is_allowed_by_a_flag_start(cli, config, tiny_bundle):
    config.write_text(config.read_text().replace("allow_untrained = true", f'digest = "{tiny_bundle.digest}"'))
    code, out, error = cli("run", "--config", config, "--allow-untrained", "--for", "1s")
    assert code == 0, error
    assert "budget 5" in out


def test_flags_come_before_the_configuration_and_a_budget_before_all_its_caps(cli, config, tmp_path):
    config.write_text(config.read_text().replace("frames_per_day = 5", "frames_per_day = 5\nbytes_per_hour = 1000000"))
    code, _, error = cli(
        *("run", "--config", config, "--for", "1s", "--spool", tmp_path / "other", "--budget", "7/day", "--name", "car")
    )
    assert code == 0, error
    with open_view(tmp_path / "other") as view:
        assert [cap["limit"] for cap in view.status()["budget"]] == [7]
        assert [source["name"] for source in view.status()["sources"]] == ["car"]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--config", "CONFIG", "--budget", "50"], 2, "--budget 50: a service has no end, so say how often, as 50/day"),
        (["--config", "CONFIG", "--again"], 2, "--again: is for recorded sources"),
        (
            ["--config", "CONFIG", "--fps", "-1"],
            27,
            "--fps: source.rate_hz = -1.0: must be a number of frames per second above 0",
        ),
        (["drawn:1"], 2, "--bundle, --spool, --budget: must be given, or --config FILE that says it"),
        ([], 2, "SOURCE, --bundle, --spool, --budget: must be given"),
    ],
)
def test_what_a_service_or_a_run_without_a_configuration_cannot_have_is_said(cli, config, words, code, sentence):
    found, _, error = cli("run", *(config if word == "CONFIG" else word for word in words))
    assert found == code
    assert sentence in error


READ_ONLY = """
mount --make-rprivate / && mount --bind "$1" "$1" || exit 77
for place in $(cut -d' ' -f5 /proc/self/mountinfo | sort -u); do
    case "$place" in "$1"|/proc|/proc/*|/sys|/sys/*|/dev|/dev/*) ;; *) mount -o remount,ro,bind "$place" || exit 77 ;; esac
done
if touch "$2/in/x" /tmp/x 2>/dev/null; then exit 77; fi
shift 2
exec "$@"
"""
"""All that is mounted becomes read-only for this process and its children, but for one folder."""


def test_on_a_read_only_root_a_service_writes_its_state_directory_and_nothing_else(ear, config, monkeypatch):
    unshare, state = shutil.which("unshare"), config.parent / "state"
    if os.geteuid() != 0 or unshare is None:
        pytest.skip("needs root and unshare(1) to make a root read-only for one process")
    state.mkdir()
    monkeypatch.setenv("GEAL_EDGE_STATE", str(state / "engines"))
    inside = [unshare, "--mount", "sh", "-c", READ_ONLY, "sh", state, config.parent]
    with camera(config.parent / "in"), service(ear, config, before=inside) as running:
        try:
            ear.hear("READY")
        except TimeoutError:
            assert running.poll() == 77, running.stderr and running.stderr.read()
            pytest.skip("this system does not let mounts be made read-only")
        while not seen(ear):
            pass
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 130
    assert "camera_started" in events(config)


def test_the_supervisor_is_told_twice_in_the_time_that_it_waits():
    clock, ear = Clock(), Ear()
    ear.socket.settimeout(0.0)
    supervisor = Supervisor({"NOTIFY_SOCKET": ear.name, "WATCHDOG_USEC": "4000000"}, monotonic=clock)
    for _ in range(9):  # 4.5 seconds, in halves
        supervisor.alive("fine")
        clock.advance(0.5)
    for _ in range(3):
        assert ear.hear("WATCHDOG") == {"STATUS": "fine", "WATCHDOG": "1"}
    with pytest.raises(BlockingIOError):
        ear.hear("WATCHDOG")
    ear.socket.close()


def test_the_supervisor_waits_once_for_what_says_beforehand_how_long_it_may_take():
    clock, ear = Clock(), Ear()
    ear.socket.settimeout(0.0)
    supervisor = Supervisor({"NOTIFY_SOCKET": ear.name, "WATCHDOG_USEC": "4000000"}, monotonic=clock)
    supervisor.busy(1.0)  # in time anyway
    supervisor.busy(180.0)
    assert ear.hear("WATCHDOG") == {"WATCHDOG": "1", "WATCHDOG_USEC": "180000000"}
    for _ in range(2):
        supervisor.alive("two\nlines")
        clock.advance(2.0)
    assert ear.hear("WATCHDOG") == {"STATUS": "two lines", "WATCHDOG": "1", "WATCHDOG_USEC": "4000000"}
    assert ear.hear("WATCHDOG") == {"STATUS": "two lines", "WATCHDOG": "1"}
    ear.socket.close()


def test_an_uploader_tells_its_supervisor_that_it_has_begun_goes_round_and_stops(ear, tmp_path):
    fill_spool(tmp_path / "s", 6, size=50)
    (tmp_path / "far").mkdir()
    environ = {**os.environ, "NOTIFY_SOCKET": ear.name, "WATCHDOG_USEC": "2000000"}
    words = [
        sys.executable,
        "-m",
        "geal_edge",
        "upload",
        tmp_path / "s",
        "--to",
        tmp_path / "far",
        "--vehicle",
        "car-1",
    ]
    with subprocess.Popen(list(map(str, words)), env=environ, stderr=subprocess.DEVNULL) as running:
        ear.hear("READY")
        assert int(ear.hear("WATCHDOG")["WATCHDOG_USEC"]) == 180_000_000  # before a request
        assert ear.hear("STATUS")["WATCHDOG_USEC"] == "2000000"  # and as before when it is over
        while not ear.hear("STATUS")["STATUS"].startswith("6 units sent"):
            pass
        ear.hear("WATCHDOG")  # it waits now, and says so again
        running.send_signal(signal.SIGTERM)
        ear.hear("STOPPING")
        assert running.wait(60) == 130


def test_a_supervisor_that_is_not_there_or_waits_for_another_process_changes_nothing(tmp_path):
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}, {"NOTIFY_SOCKET": "vsock:2:1"}):
        supervisor = Supervisor({**environ, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"})
        assert supervisor.watchdog_s is None
        supervisor.ready()
        supervisor.alive("fine")
        supervisor.stopping()


def test_a_run_loads_the_modules_of_no_other_command():
    program = "import sys; from geal_edge.cli.start import app_for; app_for(['run']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "geal_edge.cli.run" in loaded
    assert not {f"geal_edge.{name}" for name in ("cli.app", "cli.report", "runtime.report", "export")} & loaded


def test_an_upload_takes_its_spool_and_its_far_side_from_the_same_configuration(cli, config, tiny_bundle, tmp_path):
    spool, far = config.parent / "state" / "spool", tmp_path / "far"
    far.mkdir()
    assert cli("run", "drawn:1:20", "--bundle", tiny_bundle.path, "--spool", spool, "--budget", 2)[0] == 0
    code, _, error = cli("upload", "--config", config)
    assert code == 27
    assert 'must have `to` at least, as to = "s3://bucket/fleet"' in error
    config.write_text(config.read_text() + f'[upload]\nto = "{far}"\n[vehicle]\nid = "car-17"\n')
    code, out, error = cli("upload", "--config", config, "--once")
    assert (code, out) == (0, "2 units sent\n"), error
    assert (far / "car-17").is_dir()
    assert cli("upload", spool, "--config", config)[0] == 2
    assert cli("upload", spool)[0] == 2


@pytest.fixture
def far(config) -> Path:
    """A folder that the uploader inside the service sends to."""
    place: Path = config.parent / "far"
    place.mkdir()
    config.write_text(
        config.read_text().replace("frames_per_day = 5", 'frames_per_day = 5\nrelease = "immediate"')
        + f'flush_s = 1\n[vehicle]\nid = "car-17"\n[upload]\nto = "{place}"\ninside = true\n'
    )
    return place


def noticed(config: Path, name: str, count: int = 1) -> list[dict[str, object]]:
    """Events of a name, once there are so many."""
    pause = threading.Event()
    while True:
        with suppress(SpoolError), open_view(config.parent / "state" / "spool") as view:
            found = [event for event in view.events() if event["name"] == name]
            if len(found) >= count:
                return found
        pause.wait(0.1)


def is_alive(pid: int) -> bool:
    """Whether a process runs: not a zombie either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_uploader_inside_the_service_is_started_again_when_it_is_killed_and_ends_with_it(ear, config, far):
    pause = threading.Event()
    with camera(config.parent / "in"), service(ear, config) as running:
        (started,) = noticed(config, "uploader_started")
        os.kill(int(str(started["pid"])), signal.SIGKILL)
        (ended,) = noticed(config, "uploader_ended")
        assert ended["code"] == -signal.SIGKILL
        assert 1.0 <= float(str(ended["retry_in_s"])) <= 2.0
        again = int(str(noticed(config, "uploader_started", 2)[1]["pid"]))
        while not list(far.rglob("*.json")):
            pause.wait(0.1)
        assert not Path(f"/proc/{started['pid']}").exists()  # nor as a zombie
        running.send_signal(signal.SIGTERM)
        said = running.communicate(timeout=60)[1]
        assert running.returncode == 130
        assert said.count("Stopped.") == 1  # not once more by the uploader
        assert not is_alive(again)
    assert {path.relative_to(far).parts[0] for path in far.rglob("*.json")} == {"car-17"}


def test_an_uploader_inside_the_service_does_not_outlive_a_service_that_is_killed(ear, config, far):
    pause = threading.Event()
    with camera(config.parent / "in"), service(ear, config) as running:
        (started,) = noticed(config, "uploader_started")
        running.kill()
        running.wait()
        while is_alive(int(str(started["pid"]))):
            pause.wait(0.05)
    with camera(config.parent / "in"), service(ear, config) as running:
        noticed(config, "uploader_started", 2)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 130


def test_where_credentials_are_refused_the_uploader_rests_and_a_reload_starts_it_with_others(ear, config, far):
    dav = DavServer()
    dav.status = 401
    right = config.read_text()
    with serving(dav) as port, camera(config.parent / "in"):
        config.write_text(right.replace(f'to = "{far}"', f'to = "http://127.0.0.1:{port}/"'))
        with service(ear, config) as running:
            (ended,) = noticed(config, "uploader_ended")
            assert (ended["code"], ended["retry_in_s"]) == (29, 300.0)
            before = seen(ear)
            while seen(ear) == before:  # the run goes on
                pass
            config.write_text(right)
            running.send_signal(signal.SIGHUP)
            noticed(config, "uploader_started", 2)
            assert str(noticed(config, "config_reloaded")[0]["changed"]).startswith("{'upload.to': ")
            noticed(config, "sent")
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 130


def test_the_uploader_inside_a_service_reads_what_flags_said_as_well(config, tmp_path):
    config.write_text(f'[upload]\nto = "{tmp_path}"\ninside = true\n')
    flags = [
        Said(section="source", name="uris", value=["watch:/data/a b", "v4l2:0"], where="SOURCE"),
        Said(section="source", name="rate_hz", value=2.5, where="--fps"),
        Said(section="bundle", name="path", value="/opt/bundle", where="--bundle"),
        Said(section="bundle", name="allow_untrained", value=True, where="--allow-untrained"),
        Said(section="budget", name="frames_per_day", value=7, where="--budget"),
        Said(section="spool", name="path", value=str(tmp_path / "s"), where="--spool"),
    ]
    configuration = read_configuration(config, {}, flags)
    program = uploader_of(configuration)
    assert program is not None
    assert read_configuration(config, program.environ).settings == configuration.settings


def test_a_companion_that_cannot_be_started_is_tried_again_and_one_without_hope_is_not():
    clock = Clock()
    companion = Companion(np.random.default_rng(0), monotonic=clock)
    companion.use(Program(words=["/nowhere/geal-edge"], environ={}))
    (notice,) = companion.step()
    assert (notice.detail["code"], notice.detail["detail"]) == (None, "No such file or directory")
    assert companion.step() == []
    clock.advance(2.0)
    assert len(companion.step()) == 1
    companion.use(Program(words=[sys.executable, "-c", "import sys; sys.exit(27)"], environ={}))
    assert [notice.name for notice in companion.step()] == ["uploader_started"]
    while not (notices := companion.step()):
        pass
    assert notices == [Notice(name="uploader_ended", detail={"code": 27, "retry_in_s": None})]
    clock.advance(1e6)
    assert companion.step() == []
    companion.stop()


def test_a_reload_with_another_hook_starts_the_uploader_anew_and_any_reload_one_that_rests(tmp_path):
    def read(more: str = "") -> Configuration:
        (tmp_path / "geal-edge.toml").write_text(f"{RIGHT}\n{more}")
        return read_configuration(tmp_path / "geal-edge.toml", {})

    def next_notice() -> Notice:
        while not (notices := companion.step()):
            pass
        return notices[0]

    companion, ends, waits = (
        Companion(np.random.default_rng(0)),
        "import sys; sys.exit(25)",
        "import time; time.sleep(99)",
    )
    programs = [Program(words=[sys.executable, "-c", text], environ={}) for text in (ends, waits, waits)]
    running = Service(
        read(),
        watch=Silent(),
        read=read,
        supervisor=Supervisor({}),
        stop=Stop(),
        uploader=companion,
        uploads=lambda _: programs.pop(0),
    )
    assert next_notice().name == "uploader_started"
    assert next_notice().detail == {"code": 25, "retry_in_s": None}
    assert companion.rests
    running.take_over(read())  # as it was: what an uploader needs may be there by now
    first = next_notice()
    running.take_over(read("[limits]\ncpu_percent = 50\n"))
    assert companion.step() == []
    running.take_over(read('[privacy]\npython = "tests.hooks:black"\nwhen = "upload"\n'))
    second = next_notice()
    assert (first.name, second.name) == ("uploader_started", "uploader_started")
    assert first.detail != second.detail
    assert not is_alive(first.detail["pid"])
    companion.stop()


def test_a_companion_that_does_not_heed_is_killed_for_the_program_that_comes_after_it(tmp_path):
    clock = Clock()
    companion = Companion(np.random.default_rng(0), monotonic=clock)
    deaf = "import pathlib, signal, sys, time; signal.signal(15, 1); pathlib.Path(sys.argv[1]).touch(); time.sleep(99)"
    program = Program(words=[sys.executable, "-c", deaf, str(tmp_path / "deaf")], environ={})
    companion.use(program)
    (started,) = companion.step()
    while not (tmp_path / "deaf").exists():
        pass
    companion.use(program)
    assert companion.step() == []
    clock.advance(STOP_S)
    while not (notices := companion.step()):
        pass
    assert [notice.name for notice in notices] == ["uploader_started"]
    assert not is_alive(started.detail["pid"])
    companion.stop()


def test_a_companion_that_does_not_heed_is_killed_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("geal_edge.runtime.companion.STOP_S", 0.2)
    deaf = (
        "import pathlib, signal, sys, time; signal.signal(15, signal.SIG_IGN); pathlib.Path(sys.argv[1]).touch(); "
        "time.sleep(99)"
    )
    companion = Companion(np.random.default_rng(0))
    companion.use(Program(words=[sys.executable, "-c", deaf, str(tmp_path / "deaf")], environ={}))
    (started,) = companion.step()
    while not (tmp_path / "deaf").exists():
        pass
    companion.stop()
    assert not is_alive(started.detail["pid"])


def test_what_a_service_ignores_is_covered_and_never_forgotten(cli, config, tiny_bundle, tmp_path):
    spool, memory = config.parent / "state" / "spool", tmp_path / "rain.memory"
    assert cli("memory", "add", memory, "drawn:1:6", "--bundle", tiny_bundle.path)[0] == 0
    config.write_text(config.read_text() + f'[memory]\nmax_frames = 1\nknown = ["{memory}"]\nignore = ["{memory}"]\n')
    for _ in range(2):  # each is taken once
        code, _, error = cli("run", "--config", config, "--for", "1s")
        assert code == 0, error
    (held,) = (spool / "memory").iterdir()
    found = read_memory(held)
    assert [entry.kind for entry in found.entries] == ["known", *["ignore"] * 6]
    assert found.forgotten == 5
    config.write_text(config.read_text().replace(str(memory), str(tmp_path / "absent.memory")))
    assert cli("run", "--config", config, "--for", "1s", "--spool", tmp_path / "other")[0] != 0
    assert not (tmp_path / "other").exists()


def test_every_flag_of_run_is_a_key_of_the_configuration_or_of_one_run_alone():
    of_one_run = {"context", "config", "budget", "topic", "again", "for_", "shadow", "tag", "quiet"}
    assert set(inspect.signature(run).parameters) - of_one_run == set(KEY_OF)
    assert set(KEY_OF.values()) <= set(KEYS)


def test_a_service_shows_its_metrics_where_it_was_told_to_and_goes_on_where_it_cannot(ear, config, tmp_path):
    file = tmp_path / "geal-edge.prom"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config.write_text(
            f'{config.read_text()}flush_s = 1\n[metrics]\nlisten = {port}\ntextfile = "{file}"\nevery_s = 1\n'
        )
        with camera(config.parent / "in"), service(ear, config) as running:
            ear.hear("READY")
            while not (file.exists() and re.search(r'seconds_count\{stage="append"\} [1-9]', file.read_text())):
                pass
            page = file.read_text()
            assert re.search(r'camera_shots_total\{camera="in"\} [1-9]', page)
            assert "geal_edge_rate_asked_hertz 50.0\n" in page
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 130
    assert not file.exists()
    unavailable = events(config)["metrics_unavailable"]
    assert (unavailable["key"], unavailable["reason"]) == ("listen", "Address already in use")
