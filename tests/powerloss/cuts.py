"""Records a drive, cuts its power at every operation, and says what was lost."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.powerloss.disk import Operation, lay_out, read_log, states
from tests.powerloss.drives import DRIVES, OUTCOMES, held

RECORDER = Path(__file__).with_name("recorder.c")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A drive as the system saw it. promised[c] is what stood after c commits; sites are the syncs that it went through."""

    name: str
    operations: list[Operation]
    promised: list[Any]
    sites: list[str]
    begins: int


def build_recorder(folder: Path) -> Path | None:
    """The recorder as a library to preload; None where this machine has no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "recorder.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, RECORDER, "-ldl"], check=True)
    return library


def record(name: str, recorder: Path, folder: Path, *, without: str = "") -> Recording:
    """Drive once in a process of its own, below `folder`, which must be new."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    ledger, log = folder / "ledger", folder / "log"
    words = [sys.executable, "-m", "tests.powerloss.drives", name, disk, ledger, "--without", without]
    place = {"LD_PRELOAD": str(recorder), "POWERLOSS_ROOT": str(disk), "POWERLOSS_LOG": str(log)}
    subprocess.run([str(word) for word in words], env={**os.environ, **place}, check=True, capture_output=True)
    *promised, sites = [json.loads(line) for line in ledger.read_text().splitlines()]
    milestone = promised.index("from here") if "from here" in promised else None
    if milestone is not None:
        promised[milestone] = promised[milestone - 1]
    return Recording(
        name=name,
        operations=read_log(log, disk.resolve()),
        promised=[[], *promised],
        sites=sites,
        begins=0 if milestone is None else milestone + 1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What a cut did that it must not."""

    operation: int
    fate: str
    what: str


def faults(
    recording: Recording, folder: Path, expected: Any, counts: Counter[str], *, every: int, torn: int = 1, seed: int = 0
) -> Iterator[Fault]:
    """Cut the power of a recorded drive, look at what stands, and let it go on to its end. Counts the cuts by fate."""
    for number, fate, marks, state in states(recording.operations, seed=seed, every=every, torn=torn):
        if marks < recording.begins:
            continue
        counts[fate] += 1
        place = folder / "after"
        place.mkdir()
        try:
            lay_out(state, place)
            what = _fault(recording, place / "spool", marks, expected)
            if what:
                yield Fault(operation=number, fate=fate, what=what)
        finally:
            shutil.rmtree(place)


def _fault(recording: Recording, path: Path, marks: int, expected: Any) -> str | None:
    allowed = recording.promised[marks : marks + 2]
    try:
        stands = stored(path)
        if stands not in allowed:
            return f"after {marks} commits it holds {stands}, not one of {allowed}"
        DRIVES[recording.name](path)
        found = OUTCOMES[recording.name](path)
    except Exception as error:  # noqa: BLE001 - whatever a drive that goes on raises is the finding
        return f"cannot go on: {type(error).__name__}: {error}"
    return None if found == expected else f"goes on to another end: {found}"


def stored(path: Path) -> list[list[Any]]:
    """What a database holds that nobody has opened since the power was cut."""
    if not (path / "spool.db").exists():
        return []
    with closing(sqlite3.connect(path / "spool.db")) as database:
        try:
            return held(database)
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
