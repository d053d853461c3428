"""`geal-edge doctor`: on this machine, under faults that are made, and on machines that are drawn as folders."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import geal_edge
from geal_edge.errors import BackendError, MachineNotReady, MissingDependency, StorageError, UsageError
from geal_edge.runtime import pipeline
from geal_edge.runtime.doctor import clock, hardware, software, storage
from geal_edge.runtime.doctor.archive import without_secrets, write_archive
from geal_edge.runtime.doctor.examination import CHECKS, SCHEMA, Report, examine
from geal_edge.runtime.doctor.finding import Finding, System
from geal_edge.runtime.doctor.trial import GRAPH, OPENCV, trial
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.secrets import REMOVED
from geal_edge.runtime.sources import open_source
from tests.test_gpu_backends import has_gpu
from tests.test_spool import changed

ROOT = Path(__file__).parent.parent
NOW_NS = 1_790_000_000 * 10**9


@pytest.fixture
def system(tmp_path):
    """A machine whose /proc, /sys, /dev and /etc are folders of the test, empty at first."""
    return System(environ={}, wall_ns=lambda: NOW_NS, root=tmp_path)


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def only(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    return finding


def doctor(*words, before=(), places=(), **environ) -> "tuple[int, dict[str, Any], str]":
    """(exit code, report, stderr) of the command in a process of its own, with `places` first on its path."""
    path = os.pathsep.join(map(str, [*places, ROOT, *filter(None, sys.path)]))
    command = [*before, sys.executable, "-m", "geal_edge", "doctor", "--json", *map(str, words)]
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path, **environ}, capture_output=True, text=True, check=False
    )
    return ended.returncode, json.loads(ended.stdout or "{}"), ended.stderr


def test_this_machine_can_run_the_project_and_nothing_is_left_behind(tmp_path):
    spool, archive = tmp_path / "disk" / "spool", tmp_path / "doctor.tar.gz"
    spool.parent.mkdir()
    code, report, error = doctor("--spool", spool, "--archive", archive)
    findings = {finding["name"]: finding for finding in report["findings"]}
    broken = [finding for finding in findings.values() if finding["verdict"] == "broken"]
    # The memory and the disk of whoever runs the tests may be short; that must then be said.
    assert {finding["name"] for finding in broken} <= {"memory", "free space"}, error
    assert code == (MachineNotReady.exit_code if broken else 0)
    assert report["schema"] == SCHEMA
    assert findings["ort-cpu"]["verdict"] == "good"
    assert "answered right" in findings["ort-cpu"]["seen"]
    assert findings["opencv"]["facts"]["version"]
    assert findings["packages"]["facts"]["versions"]["geal-edge"] == geal_edge.__version__
    assert findings["sync"]["facts"]["median_ms"] > 0
    assert list(spool.parent.iterdir()) == []
    assert "doctor.json, versions.json" in error
    assert json.loads(members_of(archive)["doctor.json"]) == report


def test_faults_of_a_machine_are_named_one_by_one_and_end_the_command_with_a_code_of_its_own(tmp_path):
    """Both ONNX Runtimes, libraries that do not load, a disk that is mounted read-only: at once, and none hides another."""
    faults, disk = tmp_path / "faults", tmp_path / "disk"
    for package in ("onnxruntime", "onnxruntime_gpu"):
        named = f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.31.0\n"
        write(faults, f"{package}-1.31.0.dist-info/METADATA", named)
    write(faults, "cv2/__init__.py", "raise ImportError('libGL.so.1: cannot open shared object file')\n")
    for package in ("openvino", "tensorrt_rtx"):
        write(faults, f"{package}/__init__.py", "raise ImportError('a symbol is missing')\n")
    disk.mkdir()
    read_only = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mounted = f"mount -t tmpfs none '{disk}' && mount -o remount,ro '{disk}' && exec \"$@\""
    if shutil.which("unshare") is None or subprocess.run([*read_only, mounted, "sh", "true"], check=False).returncode:
        pytest.skip("needs the right to mount a file system in a namespace of its own")
    code, report, _ = doctor(
        "--spool",
        disk / "spool",
        before=[*read_only, mounted, "sh"],
        places=[faults],
        GEAL_EDGE_STATE=str(disk / "state"),
    )
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert code == MachineNotReady.exit_code == 23
    assert report["verdict"] == "broken"
    assert findings["onnxruntime"]["verdict"] == "broken"
    assert "both onnxruntime 1.31.0 and onnxruntime-gpu 1.31.0" in findings["onnxruntime"]["seen"]
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in findings["onnxruntime"]["seen"]
    assert findings["opencv"]["verdict"] == "degraded"
    assert "libGL.so.1" in findings["opencv"]["seen"]
    assert "pip install 'geal-edge[cpu]'" in findings["opencv"]["advice"]
    assert findings["tensorrt_rtx"]["verdict"] == "degraded"
    assert "installed, and cannot run: a symbol is missing" in findings["tensorrt_rtx"]["seen"]
    assert findings["sync"]["verdict"] == "broken"
    assert "Read-only file system" in findings["sync"]["seen"]
    assert "Mount it read-write" in findings["sync"]["advice"]
    assert findings["file system"]["seen"] == f"tmpfs at {disk}"
    assert findings["state"]["verdict"] == "degraded"
    assert "GEAL_EDGE_STATE" in findings["state"]["advice"]
    assert findings["ort-cpu"]["verdict"] == "good"


def test_a_check_that_fails_is_a_line_and_the_others_are_made(system):
    def faulty(system):
        yield Finding(name="first", verdict="good", seen="was seen")
        raise OSError(5, "Input/output error")

    report = examine(system, {"faulty": faulty, "clock": clock.clock})
    assert [finding.name for finding in report.findings] == ["first", "faulty", "clock", "powered time"]
    assert report.findings[1].verdict == "broken"
    assert "Input/output error" in report.findings[1].seen


def test_a_machine_of_which_nothing_can_be_read_still_gets_a_report(system):
    quick = {name: check for name, check in CHECKS.items() if name not in ("opencv", "engines", "tensorrt")}
    report = examine(system, quick)
    assert {finding.name for finding in report.findings if finding.verdict == "broken"} == {"memory", "powered time"}


@pytest.mark.parametrize("how", ["os.abort()", "sys.stdout.write('x' * 100000); sys.exit(7)"])
def test_a_library_that_ends_the_process_is_a_finding(tmp_path, monkeypatch, system, how):
    write(tmp_path, "cv2/__init__.py", f"import os, sys\nsys.stderr.write('of its own\\n')\n{how}\n")
    monkeypatch.syspath_prepend(tmp_path)
    finding = list(software.opencv(system))[-1]
    assert finding.verdict == "degraded"
    ended = "signal 6" if "abort" in how else "code 7"
    assert f"ended its process with {ended}: of its own" in finding.seen


def test_a_library_that_hangs_is_given_up(tmp_path, monkeypatch):
    write(tmp_path, "cv2/__init__.py", "while True: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert trial(OPENCV, timeout_s=0.01).error == "it did not answer within 0 s."


def test_the_graph_of_the_trial_is_the_product_that_it_says():
    model = onnx.load_model_from_string(GRAPH)
    onnx.checker.check_model(model, full_check=True)
    (node,) = model.graph.node
    assert (node.op_type, *node.input, *node.output) == ("MatMul", "x", "x", "y")
    assert [opset.version for opset in model.opset_import] == [17]


def test_no_engine_at_all_is_broken(system, monkeypatch):
    monkeypatch.setattr(
        software, "_engine", lambda name, others, on_jetson: Finding(name=name, verdict="absent", seen="not installed")
    )
    *_, last = software.engines(system)
    assert (last.name, last.verdict) == ("engines", "broken")
    assert "pip install" in last.advice


def test_tensorrt_alone_is_an_engine_where_there_is_a_gpu(system, monkeypatch):
    """As on a Jetson for which there is no ONNX Runtime: its plans need none."""
    monkeypatch.setattr(
        software, "_engine", lambda name, others, on_jetson: Finding(name=name, verdict="absent", seen="not installed")
    )
    answers = Finding(name="tensorrt", verdict="good", seen="10.3.0: a builder was made")
    monkeypatch.setattr(software, "tensorrt", lambda system: iter([answers]))

    def no_gpu():
        raise BackendError("there is no NVIDIA driver on this machine")

    monkeypatch.setattr(software, "probe", no_gpu)
    assert [finding.name for finding in software.engines(system)][-1] == "engines"
    monkeypatch.setattr(software, "probe", lambda: None)
    assert {finding.verdict for finding in software.engines(system)} == {"absent"}


def test_a_jetson_is_not_sent_for_packages_that_hide_its_own(system, monkeypatch):
    write(system.root, "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic")

    def missing(name):
        raise MissingDependency(f"{name}: is not installed. Install it with: pip install 'geal-edge[cpu]'")

    def two():
        raise BackendError("both are installed. Leave one: pip install 'geal-edge[gpu]'")

    monkeypatch.setattr(software, "identity", missing)
    monkeypatch.setattr(software, "require_one_wheel", two)
    found = [*software.wheels(system), *software.engines(system)]
    assert {finding.verdict for finding in found} == {"absent", "broken"}
    assert all("NVIDIA's own index" in finding.advice for finding in found)
    assert not any("pip install" in finding.advice for finding in found)


def test_every_package_that_an_extra_for_users_brings_is_looked_for():
    text = (ROOT / "pyproject.toml").read_text()
    users = text[text.index("dependencies = [") : text.index("# For work on geal-edge itself.")]
    named = {name.lower() for name in re.findall(r'"([A-Za-z][\w-]*)(?:\[[\w,]*\])?[<>=]', users)}
    assert named >= {"numpy", "onnxruntime-gpu", "numba"}
    assert named <= set(software.PACKAGES)


def test_two_opencvs_are_named_with_the_way_out(tmp_path, monkeypatch, system):
    for package in ("opencv_python", "opencv_python_headless"):
        named = f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 4.14.0\n"
        write(tmp_path, f"{package}-4.14.0.dist-info/METADATA", named)
    monkeypatch.syspath_prepend(tmp_path)
    first = next(software.opencv(system))
    assert first.verdict == "broken"
    assert "opencv-python 4.14.0 and opencv-python-headless" in first.seen
    assert "pip uninstall -y opencv-python" in first.advice


def test_a_clock_that_was_never_set_is_broken(system):
    found = next(clock.clock(replace(system, wall_ns=lambda: 86_400 * 10**9)))
    assert found.verdict == "broken"
    assert "1970-01-02 00:00:00 UTC" in found.seen
    assert next(clock.clock(system)).verdict in ("good", "degraded")
    assert "2026-09-21" in next(clock.clock(system)).seen


def test_rounds_need_the_id_of_the_boot(system):
    assert list(clock.clock(system))[1].verdict == "broken"
    write(system.root, "proc/sys/kernel/random/boot_id", "167c5d3e-7768-43ab-8d23-065ddbb328d4\n")
    assert list(clock.clock(system))[1].verdict == "good"


@pytest.mark.parametrize(
    ("release", "verdict", "words"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "good", "JetPack 6, Jetson Linux 36.4.3"),
        ("# R38 (release), REVISION: 4.0, GCID: 1, BOARD: generic", "good", "JetPack 7, Jetson Linux 38.4.0"),
        ("# R35 (release), REVISION: 4.1, GCID: 1, BOARD: t186ref", "degraded", "unknown JetPack, Jetson Linux 35.4.1"),
    ],
)
def test_a_jetson_tells_its_jetpack(system, release, verdict, words):
    write(system.root, "etc/nv_tegra_release", release)
    write(
        system.root,
        "var/lib/dpkg/status",
        "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2+b77\n\n"
        "Package: libnvinfer10\nStatus: deinstall ok config-files\nVersion: 10.3.0\n",
    )
    finding = only(hardware.jetpack(system))
    assert finding.verdict == verdict
    assert words in finding.seen
    assert finding.facts["packages"] == {"nvidia-jetpack": "6.2+b77"}


@pytest.mark.parametrize(("mode", "verdict"), [("MAXN", "good"), ("15W", "degraded")])
def test_a_jetson_tells_its_power_mode(system, monkeypatch, mode, verdict):
    write(system.root, "etc/nv_tegra_release", "")
    write(system.root, "bin/nvpmodel", f"#!/bin/sh\necho 'NV Power Mode: {mode}'\necho 0\n")
    (system.root / "bin/nvpmodel").chmod(0o755)
    monkeypatch.setenv("PATH", str(system.root / "bin"), prepend=os.pathsep)
    finding = only(hardware.power(system))
    assert (finding.verdict, finding.seen) == (verdict, f"nvpmodel {mode}")


def test_a_processor_that_stays_slow_is_degraded(system):
    assert only(hardware.power(system)).verdict == "absent"
    write(system.root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
    write(system.root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver", "cppc_cpufreq\n")
    assert only(hardware.power(system)).verdict == "degraded"
    write(system.root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver", "intel_pstate\n")
    assert only(hardware.power(system)).verdict == "good"


@pytest.mark.skipif(has_gpu(), reason="says what is said without a driver")
def test_a_gpu_without_its_driver_is_not_the_same_as_none(system):
    assert only(hardware.driver(system)).verdict == "absent"
    write(system.root, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    write(system.root, "sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")
    finding = only(hardware.driver(system))
    assert finding.verdict == "degraded"
    assert "there is an NVIDIA GPU, but" in finding.seen


def test_memory_is_what_the_container_may_use(system):
    write(system.root, "proc/meminfo", "MemTotal: 16000000 kB\nMemFree: 9 kB\nMemAvailable: 12000000 kB\n")
    assert only(hardware.memory(system)).verdict == "good"
    for limit, verdict in (("max", "good"), ("800000000", "degraded"), ("200000000", "broken")):
        write(system.root, "sys/fs/cgroup/memory.max", limit)
        assert only(hardware.memory(system)).verdict == verdict


def test_a_camera_names_who_holds_it(system):
    assert only(hardware.cameras(system)).verdict == "absent"
    (system.root / "proc").symlink_to("/proc")  # the real processes, of which this one holds the device
    write(system.root, "dev/video0", "")
    write(system.root, "sys/class/video4linux/video0/name", "vi-output, imx477 9-001a\n")
    with (system.root / "dev/video0").open():
        held = only(hardware.cameras(system))
    assert held.verdict == "degraded"
    assert "imx477" in held.seen
    assert f"({os.getpid()})" in held.seen
    free = only(hardware.cameras(system))
    assert free.verdict == "good"
    assert "held by nobody" in free.seen


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("ext4", "rw", ""),
        ("ext4", "rw,nobarrier", "Barriers are off"),
        ("tmpfs", "rw", "in memory"),
        ("overlay", "rw", "container"),
        ("nfs4", "rw", "network"),
        ("vfat", "rw", "no journal"),
    ],
)
def test_a_file_system_that_a_spool_should_not_be_on_is_named(system, tmp_path, kind, options, words):
    place = os.path.realpath(tmp_path).replace(" ", r"\040")
    write(
        tmp_path, "proc/self/mountinfo", f"1 1 8:1 / / rw - xfs /dev/a rw\n2 1 8:2 / {place} rw - {kind} b {options}\n"
    )
    finding = next(storage.disk(replace(system, spool=tmp_path / "spool")))
    assert finding.seen == f"{kind} at {os.path.realpath(tmp_path)}"
    assert finding.verdict == ("degraded" if words else "good")
    assert words in finding.advice


@pytest.mark.parametrize("other", ["tmpfs  rw", r"9p drvfs rw,path=C:\Program Files\Docker;symlinkroot=/mnt/"])
def test_mounts_without_a_name_or_with_spaces_in_their_options_hide_no_other(system, tmp_path, other):
    """The one as `mount -t tmpfs "" PLACE` makes it, the other as Windows puts it into its Linux."""
    write(tmp_path, "proc/self/mountinfo", f"1 1 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /other rw - {other}\n")
    assert next(storage.disk(replace(system, spool=tmp_path / "spool"))).facts["kind"] == "ext4"


def test_a_disk_with_too_little_room_is_broken(system, tmp_path, monkeypatch):
    for limit, verdict in (("LITTLE_SPACE", "degraded"), ("TOO_LITTLE_SPACE", "broken")):
        monkeypatch.setattr(storage, limit, 1 << 80)
        assert list(storage.disk(replace(system, spool=tmp_path)))[1].verdict == verdict


def test_caches_and_state_are_counted(system, tmp_path):
    write(tmp_path, "state/bundles/ab/verify-openvino.json", "{}")
    write(tmp_path, "hf/geal-edge/dino_vits16/x.safetensors", "weights")
    environ = {"GEAL_EDGE_STATE": str(tmp_path / "state"), "HF_HOME": str(tmp_path / "hf")}
    state, cache = storage.folders(replace(system, environ=environ))
    assert (state.facts["files"], state.facts["bytes"]) == (1, 2)
    assert (cache.facts["files"], cache.facts["bytes"]) == (1, 7)


def test_folders_that_this_user_may_not_look_into_are_told_as_that(system, tmp_path):
    """As where the user of a container does not own its home."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    environ = {"GEAL_EDGE_STATE": str(locked / "deep" / "state")}
    asked = {"disk": storage.disk, "spool": storage.spool_use, "folders": storage.folders}
    user = os.getuid()
    if user == 0:  # who may look into everything
        os.setresuid(65534, 65534, 0)
    try:
        report = examine(replace(system, spool=locked / "deep" / "spool", environ=environ), asked)
    finally:
        os.setresuid(user, user, user)
        locked.chmod(0o700)
    findings = {finding.name: finding for finding in report.findings}
    assert findings["sync"].verdict == "broken"
    assert findings["sync"].advice == "Choose a folder that this user may write."
    assert findings["spool"].verdict == "degraded"
    assert "Run doctor as the user whose spool it is" in findings["spool"].advice
    assert findings["state"].verdict == "degraded"
    assert "GEAL_EDGE_STATE" in findings["state"].advice


# -- the archive -------------------------------------------------------------------------------------------------------

REPORT = Report(findings=(Finding(name="clock", verdict="good", seen="as it should be"),))


def members_of(path):
    with tarfile.open(path) as archive:
        return {
            member.name.removeprefix("geal-edge-doctor/"): read.read()
            for member in archive
            if (read := archive.extractfile(member)) is not None
        }


@pytest.fixture
def spool(encoder, tmp_path):
    path = tmp_path / "spool"
    pipeline.run([open_source("drawn:1:12")], encoder=encoder, spool_path=path, budget=3, watch=Silent())
    return path


def test_frames_whose_database_is_lost_are_broken_and_a_spool_to_come_is_nothing_to_tell(system, spool, tmp_path):
    assert list(storage.spool_use(replace(system, spool=tmp_path / "to-come"))) == []
    assert only(storage.spool_use(replace(system, spool=spool))).verdict == "good"
    for name in ("spool.db", "spool.db-wal", "spool.db-shm"):
        (spool / name).unlink(missing_ok=True)
    found = only(storage.spool_use(replace(system, spool=spool)))
    assert found.verdict == "broken"
    assert "its spool.db is lost" in found.seen
    assert "geal-edge repair" in found.seen


def test_the_archive_holds_how_the_spool_stands_and_nothing_of_its_pictures(system, spool, tmp_path):
    path = tmp_path / "doctor.tar.gz"
    names = write_archive(path, REPORT, replace(system, spool=spool))
    members = members_of(path)
    assert names == list(members)
    assert names == ["README.txt", "doctor.json", "versions.json", "config.json", "status.json", "events.jsonl"]
    assert json.loads(members["doctor.json"]) == REPORT.as_json()
    assert json.loads(members["status.json"])["frames"]["selected"] == 3
    assert json.loads(members["config.json"])["spool"]["preset"] == "geal"
    assert all(json.loads(line)["name"] for line in members["events.jsonl"].splitlines())
    for name in names[1:]:
        assert name in members["README.txt"].decode()
    held = gzip.decompress(path.read_bytes())
    frames = list((spool / "frames").iterdir())
    assert frames
    assert not any(frame.read_bytes()[:64] in held for frame in frames)


def test_the_archive_holds_the_configuration_of_the_service_without_secrets(system, tmp_path):
    whole, wrong = tmp_path / "service.toml", tmp_path / "wrong.toml"
    whole.write_text(
        '[source]\nuris = ["front=rtsp://127.0.0.1/1"]\n[bundle]\npath = "/b"\n[budget]\nframes_per_day = 7\n'
        '[spool]\npath = "/s"\n[privacy]\ncommand = ["/bin/blur", "https://x/?token=hunter2"]\n'
    )
    wrong.write_text('[source]\nuris = ["front=rtsp://cam:hunter2@127.0.0.1/1"]\nrate_herz = 2\n')
    told = {}
    for configuration in (whole, wrong):
        names = write_archive(tmp_path / "a.tar.gz", REPORT, system, configuration)
        members = members_of(tmp_path / "a.tar.gz")
        assert names[-1] == "service.toml"
        assert "service.toml" in members["README.txt"].decode()
        told[configuration] = members["service.toml"].decode()
    assert "frames_per_day = 7" in told[whole]
    assert "rate_herz" in told[wrong]
    assert "hunter2" not in "".join(told.values())


def test_two_archives_of_the_same_are_the_same_bytes(system, spool, tmp_path):
    for name in ("a.tar.gz", "b.tar.gz"):
        write_archive(tmp_path / name, REPORT, replace(system, spool=spool))
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in archive} == {(0, 0, 0, "", 0o644)}


def test_no_secret_of_the_environment_is_in_the_archive(system, tmp_path):
    environ = {
        "HTTPS_PROXY": "http://fleet:hunter2@proxy:3128",
        "HTTP_PROXY": "fleet:hunter2@proxy:3128",
        "HF_ENDPOINT": "https://hub/?token=hunter2",
        "HF_TOKEN": "hunter2",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "HF_HOME": "/data/weights",
    }
    path = tmp_path / "doctor.tar.gz"
    write_archive(path, REPORT, replace(system, environ=environ))
    assert b"hunter2" not in gzip.decompress(path.read_bytes())
    assert json.loads(members_of(path)["config.json"])["environment"] == {
        "HTTPS_PROXY": f"http://{REMOVED}@proxy:3128",
        "HTTP_PROXY": f"{REMOVED}@proxy:3128",
        "HF_ENDPOINT": f"https://hub/?token={REMOVED}",
        "HF_HOME": "/data/weights",
    }


@pytest.mark.parametrize(
    "address",
    [
        "http://10.0.0.7/videostream.cgi?user=admin&pwd=hunter2",
        "http://10.0.0.7/live.cgi?loginuse=admin&loginpas=hunter2&fps=5",
        "rtsp://10.0.0.7/h264?auth=hunter2",
        "rtsp://10.0.0.7:554/user=admin_password=hunter2_channel=1_stream=0.sdp",
    ],
)
def test_no_password_that_a_camera_has_in_its_address_is_in_the_archive(address):
    told = without_secrets({"spec": address})["spec"]
    assert "hunter2" not in told
    assert told.startswith(address.partition("hunter2")[0] + REMOVED)


def test_a_spool_that_cannot_be_read_is_told_in_the_archive(system, tmp_path):
    write_archive(tmp_path / "doctor.tar.gz", REPORT, replace(system, spool=tmp_path / "none"))
    members = members_of(tmp_path / "doctor.tar.gz")
    assert "no spool here" in json.loads(members["status.json"])["error"]
    assert "events.jsonl" not in members


def test_an_archive_that_cannot_be_written_leaves_the_old_one(system, tmp_path):
    (tmp_path / "doctor.tar.gz").mkdir()
    with pytest.raises(StorageError):
        write_archive(tmp_path / "doctor.tar.gz", REPORT, system)
    assert [entry.name for entry in tmp_path.iterdir()] == ["doctor.tar.gz"]


def test_how_full_a_spool_is_of_its_quota_and_how_long_things_wait_is_said(system, spool, tmp_path):
    assert list(storage.spool_use(replace(system, spool=tmp_path / "none yet"))) == []
    (finding,) = storage.spool_use(replace(system, spool=spool))
    assert (finding.verdict, "units not sent" in finding.seen) == ("good", True)
    with changed(spool) as database:
        database.execute("UPDATE meta SET value = ? WHERE key = 'disk'", (json.dumps({"max_bytes": 1_000}),))
    (finding,) = storage.spool_use(replace(system, spool=spool))
    assert (finding.verdict, "--max-disk" in finding.advice) == ("degraded", True)
    (spool / "spool.db").write_bytes(b"nonsense" * 1000)
    (finding,) = storage.spool_use(replace(system, spool=spool))
    assert (finding.verdict, "geal-edge repair" in finding.seen) == ("broken", True)


@pytest.mark.parametrize(("place", "words"), [("", "is a folder"), ("none/a.tar.gz", "its folder does not exist")])
def test_an_archive_that_could_not_be_written_is_refused_before_anything_is_examined(tmp_path, place, words):
    """By words that fit the option: what is written is the `-o` of other commands alone."""
    code, report, error = doctor("--archive", tmp_path / place)
    assert (code, report) == (UsageError.exit_code, {})
    assert words in error
    assert " -o" not in error
