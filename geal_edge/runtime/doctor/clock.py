"""The clocks that budgets and events depend on."""

import ctypes
import re
import time
from collections.abc import Iterator

from geal_edge.runtime.doctor.finding import Finding, System
from geal_edge.runtime.vehicletime import EARLIEST_NS, powered_seconds

_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex


class _Timex(ctypes.Structure):
    """The head of Linux's struct timex: all zero asks and changes nothing; the rest is room for what the kernel writes."""

    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_char * 512))


def clock(system: System) -> Iterator[Finding]:
    """Wall time is recorded, never trusted; what rounds run on is CLOCK_BOOTTIME with the boot id."""
    wall_ns = system.wall_ns()
    said = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(wall_ns // 10**9)) + " UTC"
    synchronised = _synchronised()
    facts = {"wall_ns": wall_ns, "synchronised": synchronised}
    if wall_ns < EARLIEST_NS:
        yield Finding(
            name="clock",
            verdict="broken",
            seen=f"the wall clock says {said}: it was never set; events would carry it, and no budget can count over a restart",
            advice="Set it (GNSS, NTP or PTP) before geal-edge starts, and fit a battery for the board's clock",
            facts=facts,
        )
    else:
        yield Finding(
            name="clock",
            verdict="good" if synchronised else "degraded",
            seen=f"{said}, {'synchronised' if synchronised else 'not synchronised, as far as the kernel knows'}",
            advice=""
            if synchronised
            else "A day counts as 24 powered hours until it is: start chrony or systemd-timesyncd. A clock that PTP sets "
            "(phc2sys) may be right all the same.",
            facts=facts,
        )
    boot_id = system.read("proc/sys/kernel/random/boot_id") or ""
    powered_s = powered_seconds()
    sound = re.fullmatch(r"[0-9a-f-]{36}", boot_id) is not None
    yield Finding(
        name="powered time",
        verdict="good" if sound else "broken",
        seen=f"on for {powered_s / 3600:.1f} h, boot {boot_id or 'without an id'}",
        advice=""
        if sound
        else "Rounds cannot tell a restart from a jump: make /proc/sys/kernel/random/boot_id readable.",
        facts={"powered_s": round(powered_s), "boot_id": boot_id},
    )


def _synchronised() -> bool:
    return int(ctypes.CDLL(None).adjtimex(ctypes.byref(_Timex()))) not in (-1, _UNSYNCHRONISED)
