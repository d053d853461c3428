"""The time that a vehicle's budget runs on, over power-offs, sleep, and clocks that are wrong.

Within one boot it is CLOCK_BOOTTIME: it goes on while the vehicle sleeps, and no one can set it. Between two boots only the wall
clock could tell how long the vehicle was off, and it is believed only where it was synchronised before and after, and moved
forward. Otherwise the time off does not count: a day is then 24 powered hours.
"""

import ctypes
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NOT_SYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
EARLIEST_NS = 1_577_836_800 * 10**9
"""2020-01-01: before geal-edge existed. A board without a battery for its clock wakes up in 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Now, as the vehicle knows it.

    boot_id       of the running system; another one after each power-on
    powered_s     CLOCK_BOOTTIME: seconds since it was switched on, sleep included
    wall_ns       what the wall clock says
    synchronised  whether a time server or GNSS has disciplined that clock
    """

    boot_id: str
    powered_s: float
    wall_ns: int
    synchronised: bool

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def doubt(self) -> dict[str, float]:
        """What an event bears where the wall clock was not set when it happened: when that was, after the vehicle was switched
        on. Nothing where the clock can be believed."""
        return {} if self.synchronised else {"powered_s": round(self.powered_s, 3)}


def powered_seconds() -> float:
    """CLOCK_BOOTTIME: it goes on while the vehicle sleeps, and no one can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def moment() -> Moment:
    """Now, of this machine."""
    return Moment(
        boot_id=boot_id(),
        powered_s=powered_seconds(),
        wall_ns=time.time_ns(),
        synchronised=_synchronised(),
    )


def passed_s(before: Moment, now: Moment) -> float:
    """Seconds that count between two moments, at least 0; of time off the caller credits at most one window.

    >>> off = Moment(boot_id="a", powered_s=3600.0, wall_ns=10**18, synchronised=True)
    >>> on = Moment(boot_id="b", powered_s=40.0, wall_ns=10**18 + 82_800 * 10**9, synchronised=True)
    >>> passed_s(off, on)  # 23 hours in the garage
    82800.0
    >>> from dataclasses import replace
    >>> passed_s(replace(off, synchronised=False), on)  # only what it was powered since
    40.0
    """
    if before.boot_id == now.boot_id:
        return max(0.0, now.powered_s - before.powered_s)
    wall_s = (now.wall_ns - before.wall_ns) / 1e9
    if before.synchronised and now.synchronised and wall_s > 0.0:
        return wall_s
    return max(0.0, now.powered_s)


def age_s(then_ns: int | None, now_ns: int) -> float | None:
    """Seconds since something was stored, by the wall clock of then and of now; None where either was not set,
    or nothing was stored.

    >>> age_s(EARLIEST_NS, EARLIEST_NS + 5 * 10**9), age_s(60 * 10**9, EARLIEST_NS), age_s(None, EARLIEST_NS)
    (5.0, None, None)
    """
    if then_ns is None or min(then_ns, now_ns) < EARLIEST_NS:
        return None
    return max(0.0, (now_ns - then_ns) / 1e9)


@cache
def boot_id() -> str:
    """Of the running system; another one after each power-on."""
    return _BOOT_ID.read_text().strip()


class _Timex(ctypes.Structure):
    """The beginning of the kernel's struct timex; room for the rest."""

    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_long * 64))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _synchronised() -> bool:
    """Whether the kernel's clock is disciplined; asks, and sets nothing."""
    state: int = _libc().adjtimex(ctypes.byref(_Timex()))
    return state not in (-1, _NOT_SYNCHRONISED)
