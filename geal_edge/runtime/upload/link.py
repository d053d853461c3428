"""When something may be sent: times of the day, links that cost by the byte, how fast, and how soon again after a failure."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import time
from typing import TypeAlias

import numpy as np

SMALL_BYTES = 300_000
"""On a metered link units of at most so many bytes go, context included: a JPEG of a full-HD camera."""
FIRST_RETRY_S, LAST_RETRY_S = 2.0, 600.0
COMMAND_TIMEOUT_S = 10.0

Ask: TypeAlias = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a program: its exit code and what it printed; (-1, "") where it cannot be run or does not end in time."""


def is_open(windows: Sequence[str], now: time) -> bool:
    """Whether a time of the day is in one of these windows; a window may go over midnight. None at all: always.

    >>> is_open(["22:00-06:00"], time(23, 30)), is_open(["22:00-06:00"], time(6, 0)), is_open([], time(12))
    (True, False, True)
    """
    for window in windows:
        begin, end = (time.fromisoformat(part) for part in window.split("-"))
        if begin <= now < end or (begin >= end and (now >= begin or now < end)):
            return True
    return not windows


def run_program(words: Sequence[str]) -> tuple[int, str]:
    """As `Ask` says; without a shell."""
    if shutil.which(words[0]) is None:
        return -1, ""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return -1, ""
    return done.returncode, done.stdout


def is_metered(rule: str | Sequence[str], ask: Ask = run_program) -> bool:
    """Whether the link costs by the byte, by the rule of UploadConfig. What cannot be asked counts as metered where a command
    was given, and as not metered where it was NetworkManager, which may not be there.

    >>> is_metered("auto", lambda _: (0, "GENERAL.METERED:yes (guessed)")), is_metered(["my-rule"], lambda _: (1, ""))
    (True, False)
    """
    if rule in ("yes", "no"):
        return rule == "yes"
    if rule == "auto":
        _, said = ask(("nmcli", "--terse", "--fields", "GENERAL.STATE,GENERAL.METERED", "device", "show"))
        connected = False
        for line in said.splitlines():
            name, _, value = line.partition(":")
            if name == "GENERAL.STATE":
                connected = value.startswith("100")
            elif name == "GENERAL.METERED" and value.startswith("yes") and (connected or "GENERAL.STATE" not in said):
                return True
        return False
    code, _ = ask(list(rule))
    return code in (0, -1)


class Backoff:
    """How long to wait after one more failure: twice as long each time up to ten minutes, and never at the same moment as the
    rest of the fleet.

    >>> backoff = Backoff(np.random.default_rng(0))
    >>> waits = [backoff.after_failure() for _ in range(12)]
    >>> 1.0 <= waits[0] <= 2.0, 300.0 <= waits[-1] <= 600.0
    (True, True)
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.failures = 0

    def after_failure(self) -> float:
        """Seconds."""
        longest = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return float(longest * self._rng.uniform(0.5, 1.0))

    def after_success(self) -> None:
        self.failures = 0


class Pace:
    """At most so many bytes a second on average; asked between two objects, which are never cut.

    >>> pace = Pace(1000)
    >>> pace.sent(5000, now_s=10.0); pace.wait_s(12.0)
    3.0
    """

    def __init__(self, max_bytes_per_s: int | None) -> None:
        self._rate = max_bytes_per_s
        self._free_at = float("-inf")

    def sent(self, count: int, *, now_s: float) -> None:
        if self._rate is not None:
            self._free_at = max(self._free_at, now_s) + count / self._rate

    def wait_s(self, now_s: float) -> float:
        return max(0.0, self._free_at - now_s)
