"""What a service tells its supervisor: sd_notify(3), in plain socket code. Without a supervisor nothing is told.

READY=1  WATCHDOG=1  WATCHDOG_USEC=time  RELOADING=1  STOPPING=1  STATUS=words
"""

import os
import socket
import time
from collections.abc import Callable, Mapping


class Supervisor:
    """The process that started this one and listens for it, as systemd does for a unit with `Type=notify`.

    watchdog_s  seconds within which it must hear from us, or it ends us; None: it does not wait for that
    """

    def __init__(self, environ: Mapping[str, str], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._monotonic = monotonic
        self._told_at: float | None = None
        own = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        interval_us = environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(interval_us) / 1e6 if own and interval_us.isdecimal() and int(interval_us) else None
        self._stretched = False

    @property
    def every_s(self) -> float:
        """How often `alive` has something to say."""
        return 10.0 if self.watchdog_s is None else self.watchdog_s / 2

    def ready(self) -> None:
        """The service has begun, or goes on with another configuration."""
        self.tell(READY="1")

    def reloading(self) -> None:
        """The service takes over another configuration; `ready` follows."""
        self.tell(RELOADING="1", MONOTONIC_USEC=str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))

    def stopping(self) -> None:
        self.tell(STOPPING="1")

    def alive(self, status: str) -> None:
        """Called whenever the work goes forward: says so twice in the time that the watchdog waits, else every ten seconds."""
        now = self._monotonic()
        if self._told_at is None or now - self._told_at >= self.every_s:
            self._told_at = now
            words = {} if self.watchdog_s is None else {"WATCHDOG": "1"}
            if self.watchdog_s is not None and self._stretched:
                words["WATCHDOG_USEC"] = f"{self.watchdog_s * 1e6:.0f}"
                self._stretched = False
            self.tell(STATUS=" ".join(status.split()), **words)

    def busy(self, at_most_s: float) -> None:
        """Something begins that may take so long without a word, as a request over a bad link: the watchdog waits for that once,
        and from the next `alive` on as before."""
        if self.watchdog_s is not None and at_most_s > self.watchdog_s / 2:
            self._told_at, self._stretched = None, True
            self.tell(WATCHDOG="1", WATCHDOG_USEC=f"{max(at_most_s, self.watchdog_s) * 1e6:.0f}")

    def tell(self, **words: str) -> None:
        """One message. A supervisor that cannot be reached is no reason to stop."""
        if not self._address.startswith(("/", "@")):
            return
        address = self._address if self._address[0] == "/" else "\0" + self._address[1:]
        message = "\n".join(f"{name}={value}" for name, value in words.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # it may be busy: frames do not wait for it
                sender.sendto(message.encode(), address)
        except OSError:
            return
