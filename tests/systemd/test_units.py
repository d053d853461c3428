"""The units under a real systemd: this machine's own root, with all that is written laid over it, booted in a container.

`make test-systemd`, as root. Wants systemd-nspawn (Debian: systemd-container) and a kernel that has overlayfs; its network is its
own loopback. The service is installed as docs/service.md says it, from wheels that pip makes here.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest

from tests.test_service import HANGING, camera

ROOT = Path(__file__).parents[2]
PYTHON = Path("/usr/bin/python3")
"""One that other users may start, as docs/service.md wants it."""
CONFIG = """\
[vehicle]
id = "car-17"
[source]
uris = ["watch:/srv/camera"]
rate_hz = 50
[bundle]
path = "/opt/geal-edge/bundle"
allow_untrained = true
[budget]
frames_per_day = 50
release = "immediate"
[spool]
path = "/var/lib/geal-edge/spool"
flush_s = 1
[upload]
to = "/srv/far"
"""
PROBE = """
import ctypes, json, os, socket
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
def tried(what):
    try:
        what()
        return "done"
    except OSError as error:
        return error.strerror
def call(name, *words):
    if libc.syscall(*words) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def timex(modes):
    if libc.adjtimex(ctypes.byref((ctypes.c_uint * 128)(modes))) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def outside():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("203.0.113.9", 9))
def raw():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
print(json.dumps({
    "own folder": tried(lambda: Path("/var/lib/geal-edge/probe").write_text("x")),
    "/etc": tried(lambda: Path("/etc/probe").write_text("x")),
    "/opt": tried(lambda: Path("/opt/geal-edge/probe").write_text("x")),
    "/srv": tried(lambda: Path("/srv/far/probe").write_text("x")),
    "/root": tried(lambda: os.listdir("/root")),
    "kernel settings": tried(lambda: Path("/proc/sys/kernel/hostname").write_text("x")),
    "mount": tried(lambda: call("mount", 165, b"none", b"/tmp", b"tmpfs", 0, 0)),
    "namespace": tried(lambda: call("unshare", 272, 0x10000000)),
    "user": tried(lambda: os.setuid(0)),
    "clock": tried(lambda: call("settimeofday", 164, ctypes.byref((ctypes.c_long * 2)(1, 0)), 0)),
    "clock's pace": tried(lambda: timex(0x0002)),
    "synchronised": tried(lambda: timex(0)),
    "raw network": tried(raw),
    "processes of others": str(sum(
        each.name.isdecimal() and each.stat().st_uid != os.getuid() for each in Path("/proc").iterdir()
    )),
    "outside": tried(outside),
}))
"""
pause = Event()
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not PYTHON.exists() or None in (shutil.which("systemd-nspawn"), shutil.which("nsenter")),
    reason="needs root, /usr/bin/python3 with venv, and systemd-nspawn: apt install systemd-container python3-venv",
)


class Machine:
    """A booted system. `run` is a command in it, as root."""

    def __init__(self, root: Path, leader: int) -> None:
        self.root, self.leader = root, leader

    def run(self, *words: object, check: bool = True) -> str:
        inside = ["nsenter", "--target", str(self.leader), "--all", *map(str, words)]
        done = subprocess.run(inside, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0 or not check, f"{words}: {done.stdout}{done.stderr}{self.journal()}"
        return done.stdout.strip()

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "-n", "60", check=False)

    def shown(self, name: str, unit: str = "geal-edge") -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit)

    def wait(self, what: Callable[[], object]) -> None:
        for _ in range(600):
            if what():
                return
            pause.wait(0.2)
        raise AssertionError(self.journal())

    def say(self, unit: str, text: str) -> None:
        """As `systemctl edit` does."""
        place = self.root / f"etc/systemd/system/{unit}.service.d"
        place.mkdir(exist_ok=True)
        (place / "override.conf").write_text(text)
        self.run("systemctl", "daemon-reload")

    def frames(self) -> int:
        """As systemctl status tells."""
        said = self.shown("StatusText").split()
        return int(said[0]) if said else 0

    def events(self) -> list[str]:
        spool = "/var/lib/geal-edge/spool"
        told = self.run("/opt/geal-edge/current/bin/geal-edge", "status", spool, "--json")
        assert json.loads(told)["vehicle"] == "car-17"
        program = (
            "import sqlite3; "
            f"print(*[name for (name,) in sqlite3.connect('file:{spool}/spool.db?mode=ro', uri=True)"
            ".execute('SELECT name FROM events')])"
        )
        return self.run("/opt/geal-edge/current/bin/python", "-c", program).split()


def do(*words: object) -> None:
    subprocess.run([*map(str, words)], check=True)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("wheels")
    do(PYTHON, "-m", "venv", made / "tools")
    pip = [made / "tools/bin/pip", "wheel", "--quiet", "--disable-pip-version-check"]
    do(*pip, "--wheel-dir", made / "wheels", f"{ROOT}[cpu,upload]")
    return made / "wheels"


@pytest.fixture(scope="module")
def machine(wheels, tiny_bundle, tmp_path_factory) -> Iterator[Machine]:
    place: Path = tmp_path_factory.mktemp("machine")
    root = place / "root"
    for folder in ("root", "upper", "work"):
        (place / folder).mkdir()
    place.chmod(0o755)
    overlay = f"lowerdir=/,upperdir={place}/upper,workdir={place}/work"
    if subprocess.run(["mount", "-t", "overlay", "overlay", "-o", overlay, root], check=False).returncode:
        pytest.skip("this kernel does not lay one folder over another")
    with ExitStack() as stack:
        stack.callback(do, "umount", "--lazy", root)
        for wanted in (root / "etc/systemd/system").glob("*.wants/*"):  # of this machine's own services none
            wanted.unlink()
        install(root, wheels, tiny_bundle.path)
        words = ["--quiet", f"--directory={root}", "--private-network", "--register=no", "--keep-unit", "--boot"]
        # As on a vehicle: in a container nobody may ask of the clock, whatever a unit says.
        words.append("--system-call-filter=adjtimex clock_adjtime")
        log = stack.enter_context((place / "boot.log").open("wb"))
        nspawn = subprocess.Popen(["systemd-nspawn", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(nspawn.wait)
        stack.callback(nspawn.terminate)
        booted = Machine(root, leader_of(nspawn))
        if not booted.leader:
            pytest.skip(f"systemd does not boot here: {(place / 'boot.log').read_text()[-500:]}")
        booted.wait(lambda: booted.run("systemctl", "is-system-running", check=False) in ("running", "degraded"))
        booted.run("systemctl", "daemon-reload")
        booted.run("systemd-sysusers")
        yield booted


def leader_of(nspawn: "subprocess.Popen[bytes]") -> int:
    """The process that is number 1 in there; 0: it has ended."""
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    while nspawn.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
        pause.wait(0.1)
    return 0


def install(root: Path, wheels: Path, bundle: Path) -> None:
    """What docs/service.md says to do on the vehicle, but for what systemd does."""
    for folder in ("opt/geal-edge", "etc/geal-edge", "etc/sysusers.d", "srv/camera", "srv/far"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "srv/far").chmod(0o777)
    shutil.copytree(wheels, root / "srv/wheels")
    shutil.copytree(bundle, root / "opt/geal-edge/bundle")
    for version in ("0.1.0", "0.2.0"):
        place = f"/opt/geal-edge/{version}"
        do("chroot", root, PYTHON, "-m", "venv", place)
        pip = ["chroot", root, f"{place}/bin/pip", "install", "--quiet", "--disable-pip-version-check"]
        do(*pip, "--no-index", "--find-links", "/srv/wheels", "geal-edge[cpu,upload]")
    (root / "opt/geal-edge/current").symlink_to("0.1.0")
    do("chmod", "-R", "a+rX", root / "opt/geal-edge")
    (root / "etc/geal-edge/geal-edge.toml").write_text(CONFIG)
    shutil.copy(ROOT / "deploy/systemd/geal-edge.sysusers", root / "etc/sysusers.d/geal-edge.conf")
    for unit in (ROOT / "deploy/systemd").glob("*.service"):
        shutil.copy(unit, root / "etc/systemd/system")
    (root / "opt/hang.py").write_text(HANGING)
    (root / "opt/probe.py").write_text(PROBE)


def test_the_units_start_work_reload_are_watched_upgraded_and_stopped_and_may_do_nothing_else(machine, capsys):
    config = machine.root / "etc/geal-edge/geal-edge.toml"
    machine.say("geal-edge-upload", "[Service]\nReadWritePaths=/srv/far\n")
    with camera(machine.root / "srv/camera"):
        machine.run("systemctl", "enable", "--now", "geal-edge")  # returns when it has said READY
        machine.wait(machine.frames)
        machine.run("systemctl", "enable", "--now", "geal-edge-upload")
        machine.wait(lambda: list((machine.root / "srv/far/car-17").glob("live-*/*.json")))
        config.write_text(CONFIG.replace("rate_hz = 50", "rate_hz = 20"))
        machine.run("systemctl", "reload", "geal-edge")
        machine.wait(lambda: "config_reloaded" in machine.events())
        config.write_text(CONFIG.replace("rate_hz = 50", "rate_hz = 0"))
        machine.run("systemctl", "reload", "geal-edge")
        machine.wait(lambda: "config_refused" in machine.events())
        assert machine.shown("ActiveState") == "active"
        config.write_text(CONFIG)

        for version in ("0.2.0", "0.1.0"):  # an upgrade, and back
            machine.run("ln", "-sfn", version, "/opt/geal-edge/current")
            machine.run("systemctl", "restart", "geal-edge", "geal-edge-upload")
            running = Path("/proc", machine.shown("MainPID"), "cmdline")
            assert version in machine.run("readlink", "/opt/geal-edge/current")
            assert b"/opt/geal-edge/current/bin/" in machine.run("cat", running).encode()
            machine.wait(machine.frames)

        hang = "/opt/geal-edge/current/bin/python /opt/hang.py run --config /etc/geal-edge/geal-edge.toml /var/lib/geal-edge/hung"
        machine.say("geal-edge", f"[Service]\nWatchdogSec=5\nExecStart=\nExecStart={hang}\n")
        machine.run("systemctl", "restart", "geal-edge")
        machine.wait(lambda: machine.shown("NRestarts") != "0")
        assert "Watchdog timeout" in machine.journal()
        machine.say("geal-edge", "")
        machine.run("systemctl", "restart", "geal-edge")
        machine.wait(machine.frames)

        upload = "geal-edge-upload"
        machine.say(upload, "[Service]\nReadWritePaths=/srv/far\nWatchdogSec=5\nRestartSec=1\n")
        machine.run("systemctl", "restart", upload)
        machine.wait(lambda: "units sent" in machine.shown("StatusText", upload))
        machine.run("kill", "-STOP", machine.shown("MainPID", upload))
        machine.wait(lambda: machine.shown("NRestarts", upload) != "0")
        assert machine.shown("Result", "geal-edge") == "success"
        machine.say(upload, "[Service]\nReadWritePaths=/srv/far\n")
        machine.run("systemctl", "restart", upload)

        probe = "/opt/geal-edge/current/bin/python /opt/probe.py"
        machine.run("ip", "address", "add", "203.0.113.9/32", "dev", "lo")  # an address that is on no private network
        found = {}
        for unit in ("geal-edge", "geal-edge-upload"):
            text = (ROOT / f"deploy/systemd/{unit}.service").read_text()
            lines = [
                line
                for line in text.splitlines()
                if not line.startswith(("ExecStart=", "ExecReload=", "Type=", "Restart"))
            ]
            lines[lines.index("[Service]")] = f"[Service]\nType=oneshot\nExecStart={probe}"
            (machine.root / f"etc/systemd/system/{unit}-probe.service").write_text("\n".join(lines) + "\n")
            machine.run("systemctl", "daemon-reload")
            machine.run("systemctl", "start", f"{unit}-probe")
            machine.run("journalctl", "--sync")
            said = machine.run("journalctl", "--no-pager", "--output=cat", "-u", f"{unit}-probe")
            found[unit] = json.loads(next(line for line in said.splitlines() if line.startswith("{")))

        # systemd filters addresses in control groups of version 2 alone.
        filters = machine.run("stat", "--file-system", "--format", "%T", "/sys/fs/cgroup") == "cgroup2fs"
        with capsys.disabled():
            version = machine.run("systemctl", "--version").splitlines()[0]
            print(f"\n{version}, addresses filtered: {filters}\n{json.dumps(found, indent=1)}")
        machine.run("systemctl", "stop", "geal-edge", "geal-edge-upload")
    for unit in ("geal-edge", "geal-edge-upload"):
        assert (machine.shown("Result", unit), machine.shown("ExecMainStatus", unit)) == ("success", "130")
    machine.run("/opt/geal-edge/current/bin/geal-edge", "check", "/var/lib/geal-edge/spool")
    for unit, probed in found.items():
        assert probed.pop("own folder") == "done"
        assert probed.pop("synchronised") == "done"  # budgets over a power-off need to know
        assert probed.pop("processes of others") == "0"
        outside = probed.pop("outside")
        assert outside == ("done" if unit == "geal-edge-upload" or not filters else "Operation not permitted")
        assert "done" not in probed.values(), unit
