"""The real command under load, killed with SIGKILL and started again; what it had promised must stand.

A sender of its own process paces frames into the command's socket, whoever listens and whoever does not, and ends a trip
now and then. What the spool had committed before a kill is its promise: it is read from outside while the command runs, and held
against what is found afterwards.
"""

import json
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from geal_edge.runtime.memoryfile import read_memory
from geal_edge.runtime.spoolview import SpoolView, open_view
from tests.writers import process

SENDER = """
import socket, sys, time
import numpy as np
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.live.sock import FILE, HEADER, MAGIC, TRIP_OVER
path, per_s, trip = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
chance = np.random.default_rng(0)
number = 0
while True:
    try:
        with socket.socket(socket.AF_UNIX) as sender:
            sender.connect(path)
            while True:
                number += 1  # also where nobody got the last one: no frame is sent under another's time
                blocks = chance.integers(0, 256, (6, 8, 3), np.uint8)  # something new each time, whatever is remembered
                data = encode(blocks.repeat(16, axis=0).repeat(16, axis=1), "jpg")
                head = HEADER.pack(MAGIC, FILE, number * 10**7, len(data), 0, 0, 0, 0, b"")
                sender.sendall(head + data)
                if number % trip == 0:
                    sender.sendall(HEADER.pack(MAGIC, TRIP_OVER, 0, 0, 0, 0, 0, 0, b""))
                time.sleep(1 / per_s)
    except OSError:
        time.sleep(0.01)  # killed, and not yet there again
"""
"""Sends to the socket argv[1], argv[2] frames a second, and ends a trip after each argv[3]; until it is killed."""

UPLOADER = """
import sys, time
from pathlib import Path
from geal_edge.errors import SpoolError
from geal_edge.runtime.outbox import Outbox, Receipt
while True:
    try:
        with Outbox(Path(sys.argv[1])) as outbox:
            while True:
                while (outgoing := outbox.next()) is not None:
                    for frame in outgoing.frames:
                        frame.file.read_bytes()
                    receipts = [Receipt(key=frame.sha256, verified="size") for frame in outgoing.frames]
                    outbox.acknowledge(outgoing, receipts)
                time.sleep(0.05)
    except SpoolError:
        time.sleep(0.05)  # not begun yet
"""
"""Acknowledges what the spool argv[1] releases, as it does; until it is killed."""

UPLOADERS = 4
"""Kills of the command for one of the uploader."""

PER_S, TRIP = 100.0, 20

Unit: TypeAlias = tuple[int, str, int | None, tuple[tuple[str, str], ...]]
"""round, state, place in its order, and (id, sha256) of its frames."""

LATER = {
    "retained": {"retained", "released", "sent", "evicted"},
    "released": {"released", "sent"},
    "sent": {"sent"},
    "evicted": {"evicted"},
}
"""What may become of a unit's state."""


@dataclass(slots=True)
class Account:
    """What was seen over all rounds of kills. lost and doubled must stay empty."""

    counts: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)


def promised(spool: Path) -> dict[int, Unit]:
    """unit -> what the database says of it now; nothing where it has said nothing yet."""
    if not (spool / "spool.db").exists():
        return {}
    with closing(sqlite3.connect(f"{(spool / 'spool.db').as_uri()}?mode=ro", uri=True, timeout=30.0)) as database:
        try:
            rows = database.execute(
                "SELECT unit, round, state, release_order, id, sha256 FROM units JOIN frames USING (unit) ORDER BY frame"
            ).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error) or "unable to open" in str(error):
                return {}
            raise
    found: dict[int, Unit] = {}
    for unit, round_, state, order, id_, digest in rows:
        frames = found[unit][3] if unit in found else ()
        found[unit] = (round_, state, order, (*frames, (id_, digest)))
    return found


def broken(before: dict[int, Unit], after: dict[int, Unit]) -> Iterator[str]:
    """What was promised and does not stand any more."""
    for unit, (round_, state, order, frames) in before.items():
        if unit not in after:
            yield f"unit {unit} ({state}, {frames}) is gone"
            continue
        now_round, now_state, now_order, now_frames = after[unit]
        if (now_round, now_frames) != (round_, frames) or now_state not in LATER[state]:
            yield f"unit {unit} was {before[unit]} and is {after[unit]}"
        elif state in ("released", "sent") and now_order != order:
            yield f"unit {unit} was released as number {order} of round {round_} and is number {now_order}"


def twice(after: dict[int, Unit]) -> Iterator[str]:
    """Frames with two rows, and places in an order that two units have, or none."""
    ids = Counter(id_ for *_, frames in after.values() for id_, _ in frames)
    yield from (f"{id_} is there {n} times" for id_, n in ids.items() if n > 1)
    orders: dict[int, list[int | None]] = {}
    for round_, state, order, _ in after.values():
        if state in ("released", "sent"):
            orders.setdefault(round_, []).append(order)
    for round_, places in orders.items():
        if sorted(places, key=lambda place: place or 0) != list(range(1, len(places) + 1)):
            yield f"round {round_} was released in the order {places}"


def remembered_wrongly(view: SpoolView) -> Iterator[str]:
    """The memory has what the rounds before the open one released, each frame once."""
    path = view.path / "memory" / view.meta["feature_space"]
    entries = [entry.id for entry in read_memory(path).entries] if path.exists() else []
    if len(set(entries)) < len(entries):
        yield "the memory has a frame twice"
    through = read_memory(path).through_round if path.exists() else 0
    final = [line for line in view.list_lines() if line["state"] in ("released", "sent")]
    released = [line["id"] for line in final if line["round"] <= through]
    if set(released) != set(entries):
        yield f"the memory has {len(entries)} frames, {len(released)} were released through round {through}"


def look(spool: Path, before: dict[int, Unit], account: Account) -> None:
    """Hold what stands against what was promised, and against itself."""
    if not before and not (spool / "spool.db").exists():
        return
    after = promised(spool)
    account.lost += broken(before, after)
    account.doubled += twice(after)
    if not after:
        return
    with open_view(spool) as view:
        problems = view.check()
        account.unsound += [problem.detail for problem in problems if not problem.harmless]
        account.unsound += remembered_wrongly(view)
        account.counts["seen"] = view.counts()[0]["seen"]
    account.counts.update(f"{problem.kind} found" for problem in problems)
    states = Counter(state for _, state, _, _ in after.values())
    for state in ("released", "sent", "evicted", "retained"):
        account.counts[state] = states[state]


def kill_rounds(spool: Path, bundle: Path, words: list[str], *, kills: int, seed: int) -> Account:
    """Start the command and kill it, so many times; then end it as a person would, and look once more."""
    chance, account = random.Random(seed), Account()
    socket = spool.with_name(f"{spool.name}.sock")
    command = ["run", f"unix:{socket}", "-b", bundle, "-s", spool, "--fps", "1000", "--threads", "1", "-q", *words]
    with process(SENDER, socket, PER_S, TRIP), Starter() as running:
        for killed in range(0, kills, UPLOADERS):
            with process(UPLOADER, spool) as uploading:
                for _ in range(killed, min(killed + UPLOADERS, kills)):
                    running.start(*command)
                    ledger = until_killed(running, spool, chance)
                    assert running.send(signal.SIGKILL) == -signal.SIGKILL, "it ended by itself"
                    account.counts["kills"] += 1
                    look(spool, ledger, account)
                assert uploading.poll() is None
            account.counts["kills of the uploader"] += 1
        running.start(*command)
        ledger = until_it_writes(running, spool, promised(spool))
        assert running.send(signal.SIGTERM) == 130
        look(spool, ledger, account)
    return account


class Starter:
    """A process that has the command loaded and starts it as often as it is told to, each time as a process of its own; one at a
    time. So a start costs what the command does, and not what Python takes to find it."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", STARTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._pid = 0
        self._status: int | None = None

    def __enter__(self) -> "Starter":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.communicate()

    def start(self, *words: object) -> None:
        """Start `geal-edge` with these words."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([str(word) for word in words]) + "\n")
        self._server.stdin.flush()
        self._pid, self._status = int(self._line()), None

    def send(self, number: int) -> int:
        """Send the running command a signal; its exit code, or less than 0 the signal that ended it."""
        os.kill(self._pid, number)
        if self._status is None:
            self._status = int(self._line())
        return self._status

    def ends(self, within_s: float) -> bool:
        """Whether the command ends within so many seconds."""
        assert self._server.stdout is not None
        if self._status is None and select.select([self._server.stdout], [], [], within_s)[0]:
            self._status = int(self._line())
        return self._status is not None

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()


STARTER = """
import json, os, sys
import PIL.Image
from geal_edge.cli import app
said = os.fdopen(os.dup(1), "w")
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, 1)
while line := sys.stdin.readline():
    child = os.fork()
    if not child:
        os.dup2(null, 0)
        sys.argv = ["geal-edge", *json.loads(line)]
        app.main()
    print(child, file=said, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=said, flush=True)
"""


def until_killed(running: Starter, spool: Path, chance: random.Random) -> dict[int, Unit]:
    """What was promised up to the moment at which it is to be killed: one in five dies in its first moments, which are its start
    or its recovery; the others a little after they began to write."""
    ledger = promised(spool)
    if chance.random() < 0.2:
        running.ends(chance.uniform(0.0, 0.4))
        return ledger
    ledger = until_it_writes(running, spool, ledger)
    until = time.monotonic() + chance.uniform(0.0, 0.6)
    while time.monotonic() < until and not running.ends(0.005):
        ledger = promised(spool)
    return ledger


def until_it_writes(running: Starter, spool: Path, before: dict[int, Unit]) -> dict[int, Unit]:
    """The first promise that differs; where nothing new is promised for a minute, the same."""
    now, until = before, time.monotonic() + 60.0
    while now == before and time.monotonic() < until and not running.ends(0.01):
        now = promised(spool)
    return now


VARIANTS = {
    "trips": ["--budget", "4/trip"],
    "paced": ["--budget", "1800/hour", "--budget", "3/trip"],
    "immediate": ["--budget", "7200/hour", "--release", "immediate"],
}
"""Rounds that end with a trip, which releases and evicts; releases spread over an hour; releases at once."""
