"""A process beside a run: the uploader, where no supervisor starts one. It may hang or be killed; the run never waits for it.

    step, again and again: not there and due -> started; ended -> an event says how, and when it is started again

It is started again later and later, as a link is tried again; much later where a person must help first, and not at all where
another start would find the same. It dies with the run (cli/inside.py): it holds nothing that a kill could harm.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from geal_edge.errors import ConfigError, MissingDependency, PrivacyError, UploadError, UsageError
from geal_edge.runtime.observer import Notice
from geal_edge.runtime.upload.link import Backoff

HELP_S = 300.0
"""Until it is started again where a person must help, as with credentials that have expired: the next start reads them anew."""
HOPELESS = (UsageError.exit_code, MissingDependency.exit_code, ConfigError.exit_code, PrivacyError.exit_code)
WORKED_S = 60.0
"""What ran for so long has worked, whatever ended it."""
STOP_S = 10.0
"""It has so long to finish the object in hand, at the run's end."""
_OF_THE_RUN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is to run. environ: what it has beside this process's own environment."""

    words: Sequence[str]
    environ: Mapping[str, str]


class Companion:
    """At most one process of a program."""

    def __init__(self, rng: np.random.Generator, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._backoff = Backoff(rng)
        self._program: Program | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._since_s = 0.0
        self._not_before_s = float("-inf")
        self._told_s: float | None = None
        """When the process was told to end for another program."""

    @property
    def rests(self) -> bool:
        """Whether nothing runs, nor will by itself: another start would find the same, or nothing is to run."""
        return self._program is None and self._process is None

    def use(self, program: Program | None) -> None:
        """What is to run from now on; None: nothing. What runs now is told to end, and how it does is no news."""
        self._program, self._not_before_s = program, float("-inf")
        self._backoff.after_success()
        if self._process is not None:
            self._process.terminate()
            self._told_s = self._monotonic()

    def step(self) -> list[Notice]:
        """Start what is due, and see what has ended; waits for nothing."""
        if self._process is not None:
            code = self._process.poll()  # takes it from the kernel: no zombie stays
            if code is None:
                if self._told_s is not None and self._monotonic() - self._told_s >= STOP_S:
                    self._process.kill()
                return []
            told, self._told_s, self._process = self._told_s is not None, None, None
            return [] if told else [self._ended(code)]
        if self._program is None or self._monotonic() < self._not_before_s:
            return []
        environ = {name: value for name, value in os.environ.items() if name not in _OF_THE_RUN}
        try:
            self._process = subprocess.Popen(
                self._program.words, env={**environ, **self._program.environ}, stdin=subprocess.DEVNULL
            )
        except OSError as error:  # no memory, or too many tasks
            return [self._ended(None, error.strerror)]
        self._since_s = self._monotonic()
        return [Notice(name="uploader_started", detail={"pid": self._process.pid})]

    def stop(self) -> None:
        """End it: asked first, after a while killed."""
        self._program = None
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _ended(self, code: int | None, why: str | None = None) -> Notice:
        if self._monotonic() - self._since_s >= WORKED_S:
            self._backoff.after_success()
        retry_in_s: float | None = HELP_S if code == UploadError.exit_code else self._backoff.after_failure()
        if code in HOPELESS:
            self._program = retry_in_s = None
        self._not_before_s = self._monotonic() + (retry_in_s or 0.0)
        detail = {"code": code, "retry_in_s": None if retry_in_s is None else round(retry_in_s, 1)}
        return Notice(name="uploader_ended", detail=detail if why is None else {**detail, "detail": why})
