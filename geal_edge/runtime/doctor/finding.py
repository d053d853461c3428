"""What the doctor says of one thing, and what it looks at it with."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

Verdict: TypeAlias = Literal["good", "degraded", "broken", "absent"]
"""degraded: works, and less well than it could; broken: what needs it cannot work; absent: not there, and nothing is wrong with
that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report.

    name    what was looked at
    seen    what is there, in words
    advice  what to do; empty where there is nothing to do, or where `seen` is one of our errors, which says it
    facts   the numbers behind `seen`, in JSON's types
    """

    name: str
    verdict: Verdict
    seen: str
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The machine as the checks see it; everything that a test must be able to change.

    root     where /proc, /sys, /dev and /etc are
    environ  of the process
    wall_ns  the wall clock, which is what is examined and never trusted
    spool    folder whose disk is examined; None: none. It need not exist yet
    """

    environ: Mapping[str, str]
    wall_ns: Callable[[], int]
    spool: Path | None = None
    root: Path = Path("/")

    def read(self, path: str) -> str | None:
        """A file of the system as text; None where there is none or it may not be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip("\0\n ")
        except OSError:
            return None

    @property
    def is_jetson(self) -> bool:
        return (self.root / "etc/nv_tegra_release").exists()


Check: TypeAlias = Callable[[System], Iterator[Finding]]


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists: where it would be made.

    >>> existing(Path("/no such folder/at all")).as_posix()
    '/'
    """
    path = Path(os.path.abspath(path))
    # Not Path.exists, which raises where this user may not look, as into another's home.
    return path if os.path.exists(path) else existing(path.parent)
