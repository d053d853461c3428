"""What a person who helps needs to see, in one file: `geal-edge doctor --archive`.

    README.txt     what it holds
    doctor.json    the report
    versions.json  packages of geal-edge, the kernel, the distribution of Linux
    config.json    environment variables that geal-edge reads, and what the spool is filled with
    status.json    as `geal-edge status --json`       (with a spool)
    events.jsonl   the spool's events, oldest first   (with a spool)
    service.toml   the values of a service's configuration that are in force, or its faults   (with a configuration)

No frames, no clusters, nothing of the pictures. What may be a secret is taken out of all of them. Names, order, times and
owners inside are always the same, so that two archives differ only in what was found.
"""

import gzip
import io
import json
import platform
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from geal_edge.errors import GealEdgeError
from geal_edge.runtime import durable
from geal_edge.runtime.doctor.examination import Report
from geal_edge.runtime.doctor.finding import System
from geal_edge.runtime.doctor.software import versions
from geal_edge.runtime.secrets import REMOVED, masked
from geal_edge.runtime.settings import read_configuration, reference
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
    "service.toml": "the service's configuration: the values in force, or its faults",
}


def write_archive(path: Path, report: Report, system: System, configuration: Path | None = None) -> list[str]:
    """Put the archive at `path`, complete or not at all; returns the names in it. Raises StorageError."""
    members = dict(_members(report, system))
    if configuration is not None:
        members["service.toml"] = _in_force(configuration, system.environ)
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
    del status["disk"]["free_bytes"]  # of the machine: doctor.json has it, and it is another one at every look
    yield "config.json", _text({"environment": environment, "spool": settings})
    yield "status.json", _text(status)
    yield "events.jsonl", "".join(_line(event) for event in events)


def _in_force(configuration: Path, environ: Mapping[str, str]) -> str:
    """As `geal-edge config show --origin`; of one that cannot be read its faults, for which help may be wanted."""
    try:
        found = read_configuration(configuration, environ)
        lines = [f"# {reference.digest(found)}", *reference.effective(found, origin=True)]
    except GealEdgeError as error:
        lines = [f"# {line}" for line in str(error).splitlines()]
    return "".join(f"{masked(line)}\n" for line in lines)


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
        return masked(value)
    return value
