"""The disk of the spool, and the folders that geal-edge makes of its own."""

import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from geal_edge.errors import GealEdgeError, StorageError
from geal_edge.models.named import Shelves
from geal_edge.runtime import durable
from geal_edge.runtime.budget import megabytes
from geal_edge.runtime.doctor.finding import Finding, System, existing
from geal_edge.runtime.spooldb import DATABASE, require_no_frames
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.state import State
from geal_edge.runtime.vehicletime import age_s

LITTLE_SPACE = 1_000_000_000
TOO_LITTLE_SPACE = 100_000_000
"""Bytes: some hundred retained frames."""

ALMOST = 0.95
"""Of a quota: from here on it is as good as used up."""

SLOW_SYNC_MS = 100.0
"""Each retained frame waits for several syncs: beyond this a camera's frames are lost while the spool writes."""
SYNCED_FILES = 8
_FILE = bytes(65536)

_VOLATILE = ("tmpfs", "ramfs")
_LAYERED = ("overlay", "aufs")
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs")
_NO_JOURNAL = ("vfat", "exfat", "msdos")
_NO_BARRIER = ("nobarrier", "barrier=0")


class Mount(NamedTuple):
    """A file system: where it is mounted, its kind, and all its options."""

    place: str
    kind: str
    options: frozenset[str]


def disk(system: System) -> Iterator[Finding]:
    """Where the spool is or would be made: kind, free space, and how long a file takes to be safe."""
    if system.spool is None:
        yield Finding(name="disk", verdict="absent", seen="no spool named", advice="Name one: --spool PATH")
        return
    folder = existing(system.spool)
    mount = mount_of(folder, system.read("proc/self/mountinfo") or "")
    on = f"{mount.kind} at {mount.place}"
    advice = _of_the_kind(mount)
    yield Finding(
        name="file system",
        verdict="degraded" if advice else "good",
        seen=on,
        advice=advice,
        facts={"kind": mount.kind, "place": mount.place},
    )
    numbers = os.statvfs(folder)
    free, size = numbers.f_bavail * numbers.f_frsize, numbers.f_blocks * numbers.f_frsize
    full, little = free < TOO_LITTLE_SPACE, free < LITTLE_SPACE
    yield Finding(
        name="free space",
        verdict="broken" if full else "degraded" if little else "good",
        seen=f"{megabytes(free)} of {megabytes(size)} for {system.spool}",
        advice="Free some space, or choose another disk with --spool." if little else "",
        facts={"free_bytes": free, "size_bytes": size},
    )
    try:
        times_ms = synced_ms(folder)
    except (StorageError, OSError) as error:
        yield Finding(name="sync", verdict="broken", seen=f"nothing can be stored: {error}", advice=_writable(folder))
        return
    typical, worst = median(times_ms), max(times_ms)
    slow = typical > SLOW_SYNC_MS
    yield Finding(
        name="sync",
        verdict="degraded" if slow else "good",
        seen=f"{typical:.1f} ms for a file of 64 KiB to be safe (median of {len(times_ms)}, at most {worst:.1f})",
        advice="A slow disk, or one that other software keeps busy: put the spool on an SSD or eMMC of its own."
        if slow
        else "",
        facts={"median_ms": typical, "most_ms": worst},
    )


def spool_use(system: System) -> Iterator[Finding]:
    """How full the spool is of what its last run allowed it, and how long things wait in it."""
    if system.spool is None:
        return
    try:
        if not (system.spool / DATABASE).is_file():
            require_no_frames(system.spool)
            return
        with open_view(system.spool) as view:
            facts = view.disk()
    except GealEdgeError as error:
        yield Finding(name="spool", verdict="broken", seen=str(error))
        return
    except PermissionError as error:
        yield Finding(
            name="spool",
            verdict="degraded",
            seen=f"this user may not look into it: {error}",
            advice="Run doctor as the user whose spool it is, as in sudo -u geal-edge geal-edge doctor.",
        )
        return
    used, quota = facts["used_bytes"], facts["max_bytes"]
    oldest_s = age_s(facts["oldest_stored_ns"], system.wall_ns())
    days = None if oldest_s is None else oldest_s / 86400.0
    full = quota is not None and used > ALMOST * quota
    since = "" if days is None else f", the oldest stored {days:.1f} days ago"
    waits = f"; {facts['unsent_units']} units not sent{since}" if facts["unsent_units"] else ""
    yield Finding(
        name="spool",
        verdict="degraded" if full else "good",
        seen=f"{megabytes(used)}{'' if quota is None else f' of {megabytes(quota)}'} used{waits}",
        advice="Its quota is as good as used up: what is new raises the radius, or is lost. Send what is released, or raise "
        "--max-disk."
        if full
        else "",
        facts={**facts, "oldest_age_days": days},
    )


def _of_the_kind(mount: Mount) -> str:
    if mount.kind in _VOLATILE:
        return "It is in memory: a restart loses the spool. Choose a folder on a disk."
    if mount.kind in _LAYERED:
        return (
            "It is a layer of a container, or of a root that is not written to, and goes with it: mount a disk there."
        )
    if mount.kind in _NETWORK:
        return "Locks and syncs of a network file system are not to be relied on: choose a local disk."
    if mount.kind in _NO_JOURNAL:
        return "It has no journal, and a power cut can damage it as a whole: use ext4 or f2fs."
    if mount.options & set(_NO_BARRIER):
        return "Barriers are off, so what was synced may be lost with the power: mount it without nobarrier."
    return ""


def _writable(folder: Path) -> str:
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return "Mount it read-write (the kernel mounts a failing disk read-only: see dmesg), or choose another --spool."
    return "Choose a folder that this user may write."


def synced_ms(folder: Path) -> list[float]:
    """Milliseconds that each of SYNCED_FILES small files takes until a power cut cannot undo it. Leaves nothing behind."""
    times = []
    with tempfile.TemporaryDirectory(prefix=".geal-edge-", dir=folder) as place:
        for number in range(SYNCED_FILES):
            began = time.perf_counter()
            durable.write_file(Path(place, str(number)), _FILE)
            times.append(1e3 * (time.perf_counter() - began))
    return times


def mount_of(folder: Path, mountinfo: str) -> Mount:
    """The file system of a folder, out of /proc/self/mountinfo: of the mounts above it the deepest, and of those the last.

    >>> lines = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\\n30 22 0:9 / /data rw,noatime - nfs4 host:/data rw,soft"
    >>> mount_of(Path("/data/spool"), lines).kind, mount_of(Path("/database"), lines).kind
    ('nfs4', 'ext4')
    """
    real = os.path.realpath(folder)
    found = Mount("/", "unknown", frozenset())
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        place = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split()[4])
        kind, _, options = after.split(" ", 2)  # what was mounted may have no name, and options of 9p hold spaces
        above = place in ("/", real) or real.startswith(place + "/")
        if above and len(place) >= len(found.place):
            found = Mount(place, kind, frozenset([*before.split()[5].split(","), *options.split(",")]))
    return found


def folders(system: System) -> Iterator[Finding]:
    """What may be deleted at any time: state and the cache of weights."""
    for name, folder, variable in (
        ("state", State.of(system.environ).folder, "GEAL_EDGE_STATE"),
        ("cache", Shelves.of(system.environ).cache, "HF_HOME"),
    ):
        inside = folder.rglob("*") if os.path.isdir(folder) else ()
        files = [path.stat().st_size for path in inside if os.path.isfile(path)]
        writable = os.access(existing(folder), os.W_OK | os.X_OK)
        yield Finding(
            name=name,
            verdict="good" if writable else "degraded",
            seen=f"{folder}: {len(files)} files, {megabytes(sum(files))}" if files else f"{folder}: empty",
            advice="" if writable else f"It cannot be written: set {variable} to a folder that can.",
            facts={"folder": str(folder), "files": len(files), "bytes": sum(files)},
        )
