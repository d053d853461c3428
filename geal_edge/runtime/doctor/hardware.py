"""Processor, memory, GPU and its driver, Jetson, power, cameras."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from geal_edge.errors import BackendError
from geal_edge.runtime.backends.driver import probe
from geal_edge.runtime.backends.identity import processor
from geal_edge.runtime.budget import megabytes
from geal_edge.runtime.doctor.finding import Finding, System, Verdict

LITTLE_MEMORY = 1 << 30
"""Bytes: a run with ViT-S/16 at 224x224 takes a quarter of it; the rest is for larger inputs and the vehicle's own software."""
TOO_LITTLE_MEMORY = 1 << 28

_FEATURES = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16"),
)
"""What engines compute in, as the kernel names it: x86, then ARM."""

_NVIDIA, _DISPLAY = "0x10de", "0x03"
"""Vendor, and class of display controllers, on the PCI bus."""

_JETPACKS = {36: 6, 38: 7, 39: 7}
"""Release of Jetson Linux -> JetPack."""
_JETPACK_PACKAGES = ("nvidia-jetpack", "nvidia-l4t-core", "libnvinfer10", "python3-libnvinfer")


def cpu(system: System) -> Iterator[Finding]:
    words = set((system.read("proc/cpuinfo") or "").split())
    features = [feature for feature in _FEATURES if feature in words]
    usable = len(os.sched_getaffinity(0))
    model = processor(system.root / "proc/cpuinfo", system.root / "proc/device-tree/model")
    slow = bool(words) and not {"avx2", "asimd"} & words
    yield Finding(
        name="cpu",
        verdict="degraded" if slow else "good",
        seen=f"{model}, {usable} CPUs for this process, {' '.join(features) or 'nothing known of what it computes in'}",
        advice="Without AVX2 (ARM: ASIMD) a frame takes several times as long: use a GPU or another machine."
        if slow
        else "",
        facts={"cpus": usable, "features": features},
    )


def memory(system: System) -> Iterator[Finding]:
    """What is available, within the limit of this container where there is one."""
    lines = dict(line.split(":", 1) for line in (system.read("proc/meminfo") or "").splitlines())
    total, available = (1024 * int(lines[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
    limit = system.read("sys/fs/cgroup/memory.max") or ""
    if limit.isdecimal():
        total, available = min(total, int(limit)), min(available, int(limit))
    verdict: Verdict = (
        "broken" if available < TOO_LITTLE_MEMORY else "degraded" if available < LITTLE_MEMORY else "good"
    )
    yield Finding(
        name="memory",
        verdict=verdict,
        seen=f"{megabytes(available)} of {megabytes(total)} available",
        advice="" if verdict == "good" else "End what is not needed, or choose a smaller model or input size.",
        facts={"total_bytes": total, "available_bytes": available},
    )


def driver(system: System) -> Iterator[Finding]:
    kernel = re.search(r"\d{3}\.\d+(\.\d+)?", system.read("proc/driver/nvidia/version") or "")
    try:
        found = probe()
    except BackendError as error:
        if system.is_jetson or kernel or _nvidia_on_the_bus(system):
            yield Finding(name="nvidia driver", verdict="degraded", seen=f"there is an NVIDIA GPU, but {error}")
        else:
            yield Finding(name="nvidia driver", verdict="absent", seen="no NVIDIA GPU on this machine")
        return
    yield Finding(
        name="nvidia driver",
        verdict="good",
        seen=f"{found}" + (f", kernel module {kernel[0]}" if kernel else ""),
        facts={"gpu": found.gpu, "compute_capability": list(found.compute_capability), "cuda": list(found.cuda)},
    )


def _nvidia_on_the_bus(system: System) -> bool:
    devices = (system.root / "sys/bus/pci/devices").glob("*")
    return any(
        system.read(f"{device}/vendor") == _NVIDIA and (system.read(f"{device}/class") or "").startswith(_DISPLAY)
        for device in devices
    )


def jetpack(system: System) -> Iterator[Finding]:
    release = re.match(r"# R(\d+) .*?REVISION: ([\d.]+)", system.read("etc/nv_tegra_release") or "")
    if release is None:
        yield Finding(name="jetpack", verdict="absent", seen="not a Jetson (no /etc/nv_tegra_release)")
        return
    major = int(release[1])
    packages = _dpkg(system)
    known = major in _JETPACKS
    yield Finding(
        name="jetpack",
        verdict="good" if known else "degraded",
        seen=", ".join(
            [
                f"JetPack {_JETPACKS[major]}" if known else "an unknown JetPack",
                f"Jetson Linux {major}.{release[2]}",
                *(f"{name} {version}" for name, version in packages.items()),
            ]
        ),
        advice="" if known else "geal-edge is meant for JetPack 6 and 7 (docs/targets/): flash one of them.",
        facts={"l4t": f"{major}.{release[2]}", "packages": packages},
    )


def _dpkg(system: System) -> Mapping[str, str]:
    """package -> version of what JetPack brings, read where dpkg stores it."""
    found = {}
    for paragraph in (system.read("var/lib/dpkg/status") or "").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
        if fields.get("Package") in _JETPACK_PACKAGES and fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields["Version"]
    return found


def power(system: System) -> Iterator[Finding]:
    if system.is_jetson and shutil.which("nvpmodel"):
        asked = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=10, check=False)
        mode = re.search(r"NV Power Mode: *(\S+)", asked.stdout)
        most = mode is not None and mode[1].startswith("MAXN")
        yield Finding(
            name="power mode",
            verdict="good" if most else "degraded",
            seen=f"nvpmodel {mode[1]}" if mode else f"nvpmodel does not say ({asked.stderr.strip()[:200]})",
            advice=""
            if most
            else "For full speed, where cooling and supply allow it: sudo nvpmodel -m 0; sudo jetson_clocks",
        )
        return
    governor = system.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor is None:
        yield Finding(name="power mode", verdict="absent", seen="the system has none that it shows")
        return
    scaling = system.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_driver") or ""
    # The pstate drivers call their adaptive mode powersave.
    slow = governor == "powersave" and "pstate" not in scaling
    yield Finding(
        name="power mode",
        verdict="degraded" if slow else "good",
        seen=f"governor {governor} ({scaling})",
        advice="The processor stays at its lowest clock: cpupower frequency-set -g schedutil" if slow else "",
    )


def cameras(system: System) -> Iterator[Finding]:
    """Video devices, and the processes that hold them: two cannot stream from one camera."""
    devices = sorted((system.root / "dev").glob("video*"))
    if not devices:
        yield Finding(name="cameras", verdict="absent", seen="no /dev/video*", advice="In a container: pass them in.")
        return
    holders, hidden = _holders(system.root / "proc", devices)
    for device in devices:
        model = system.read(f"sys/class/video4linux/{device.name}/name") or "unnamed"
        held = holders[device]
        advice = ""
        if not os.access(device, os.R_OK | os.W_OK):
            advice = "This user may not open it: sudo usermod -aG video USER, then log in again."
        elif held:
            advice = "Two processes cannot stream from one camera: stop them, or take frames from where they publish."
        yield Finding(
            name=f"/dev/{device.name}",
            verdict="degraded" if advice else "good",
            seen=f"{model}, held by " + (", ".join(held) or "nobody" + (" that this user can see" if hidden else "")),
            advice=advice,
            facts={"holders": held},
        )


def _holders(proc: Path, devices: list[Path]) -> tuple[dict[Path, list[str]], bool]:
    """(device -> processes with it open, by name and number; whether some processes may not be looked into)."""
    holders: dict[Path, list[str]] = {device: [] for device in devices}
    hidden = False
    for process in sorted(proc.glob("[0-9]*"), key=lambda folder: int(folder.name)):
        try:
            links = list((process / "fd").iterdir())
            name = (process / "comm").read_text(errors="replace").strip()
        except PermissionError:
            hidden = True
            continue
        except OSError:  # it has ended meanwhile
            continue
        targets = set()
        for link in links:
            with contextlib.suppress(OSError):  # closed meanwhile
                targets.add(os.readlink(link))
        for device in devices:
            if str(device) in targets:
                holders[device].append(f"{name} ({process.name})")
    return holders, hidden
