"""A file system that is really full, small and in memory; `make chaos` fills it at every page and every file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.full_disk import namespace


def filled(place: Path, bundle: Path, every: int) -> dict[str, Any]:
    """What tests.full_disk found; skipped where no file system may be mounted."""
    words = namespace()
    if words is None:
        pytest.skip(
            "needs the right to mount a file system in a namespace of its own (unshare --map-root-user --mount)"
        )
    program = [*words, sys.executable, "-m", "tests.full_disk", str(place), str(bundle), str(every)]
    ended = subprocess.run(program, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_whatever_a_full_disk_refuses_nothing_promised_is_lost_and_with_room_again_it_goes_on(tiny_bundle, tmp_path):
    found = filled(tmp_path / "mount", tiny_bundle.path, every=40)
    assert found["faults"] == []
    assert {"frame", "database", "command"} <= set(found["refused"])
