"""What a person who helps needs to see, in one file: `geal-edge doctor --archive`.

    README.txt     what it holds
    doctor.json    the report
    versions.json  packages of geal-edge, the kernel, the distribution of Linux
    config.json    environment variables that geal-edge reads, and what the spool is filled with
    status.json    as `geal-edge status --json`       (with a spool)
    events.jsonl   the spool's events, oldest first   (with a spool)

No frames, no clusters, nothing of the pictures. What may be a secret is taken out of all of them. Names, order, times and
owners inside are always the same, so that two archives differ only in what was found.
"""

import gzip
import io
import json
import platform
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geal_edge.errors import GealEdgeError
from geal_edge.runtime import durable
from geal_edge.runtime.doctor.examination import Report
from geal_edge.runtime.doctor.finding import System
from geal_edge.runtime.doctor.software import versions
from geal_edge.runtime.spoolview import open_view

VARIABLES = (
    *(
        "GEAL_EDGE_STATE",
        "XDG_STATE_HOME",
        "XDG_CACHE_HOME",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE",
    ),
    *("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "ORT_DISABLE_TELEMETRY"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_LOG_LEVEL"),
)
"""No other variable is looked at: a process may have been given any secret by its environment."""

REMOVED = "(removed)"
_USER_IN_URL = re.compile(r"(?<=://)[^/\s]*@|[^/\s:@]+:[^/\s@]+@")  # proxies may be named without a scheme
_SECRET_IN_URL = re.compile(  # cameras want `?user=admin&pwd=...`, or have it in the path: `/user=admin_password=..._channel=1`
    r"(?i)([?&;/_](?:[\w-]*(?:token|secret|pass|pas|password|passwd|pwd|psw|auth|credential|signature|key|sig))=)[^&;\s\"']+"
)
_SECRET_NAME = re.compile(r"(?i)token|secret|password|passwd|credential|api_?key")

_README = """\
A support archive of geal-edge, made by `geal-edge doctor --archive`. It holds:

{content}
It holds no frames, no clusters and nothing else of the pictures. Passwords and tokens in addresses were replaced by {removed};
names of sources and paths of folders are there as they are. Read it before you send it.
"""
_WORDS = {
    "doctor.json": "the report",
    "versions.json": "versions of packages, the kernel and the Linux distribution",
    "config.json": "the environment variables that geal-edge reads, and what the spool is filled with",
    "status.json": "how the spool stands",
    "events.jsonl": "the spool's events",
}


def write_archive(path: Path, report: Report, system: System) -> list[str]:
    """Put the archive at `path`, complete or not at all; returns the names in it. Raises StorageError."""
    members = dict(_members(report, system))
    content = "".join(f"  {name:<14} {_WORDS[name]}\n" for name in members)
    members = {"README.txt": _README.format(content=content, removed=REMOVED), **members}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in members.items():
            data = text.encode()
            member = tarfile.TarInfo(f"geal-edge-doctor/{name}")
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    durable.write_file(path, gzip.compress(packed.getvalue(), mtime=0))
    return list(members)


def _members(report: Report, system: System) -> Iterator[tuple[str, str]]:
    yield "doctor.json", _text(report.as_json())
    release = re.search(r'^PRETTY_NAME="?([^"\n]*)', system.read("etc/os-release") or "", re.MULTILINE)
    yield (
        "versions.json",
        _text({"packages": versions(), "kernel": platform.release(), "linux": release[1] if release else None}),
    )
    environment = {name: system.environ[name] for name in VARIABLES if name in system.environ}
    if system.spool is None:
        yield "config.json", _text({"environment": environment})
        return
    try:
        with open_view(system.spool) as view:
            settings, status, events = view.meta, view.status(), view.events()
    except (GealEdgeError, OSError) as error:
        yield "config.json", _text({"environment": environment})
        yield "status.json", _text({"error": str(error)})
        return
    yield "config.json", _text({"environment": environment, "spool": settings})
    yield "status.json", _text(status)
    yield "events.jsonl", "".join(_line(event) for event in events)


def _text(value: Any) -> str:
    return json.dumps(without_secrets(value), indent=1, ensure_ascii=False) + "\n"


def _line(value: Any) -> str:
    return json.dumps(without_secrets(value), ensure_ascii=False) + "\n"


def without_secrets(value: Any) -> Any:
    """The same value of JSON's types with what may be a secret replaced: user names and passwords in addresses, what is called
    a token there, and fields that are named like secrets.

    >>> without_secrets({"spec": "rtsp://cam:pw@10.0.0.7/1?token=abc&fps=2", "api_key": "x", "frames": [1, "a@b"]})
    {'spec': 'rtsp://(removed)@10.0.0.7/1?token=(removed)&fps=2', 'api_key': '(removed)', 'frames': [1, 'a@b']}
    """
    if isinstance(value, dict):
        return {key: REMOVED if _SECRET_NAME.search(key) else without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    if isinstance(value, str):
        return _SECRET_IN_URL.sub(rf"\1{REMOVED}", _USER_IN_URL.sub(f"{REMOVED}@", value))
    return value
