"""What may be released: hard caps per hour, day and trip, of units or of bytes, together.

One cap is that of the round (rounds.py): it is what the selector chooses for. The others only hold releases back. Each has a
window of its own, in the time of vehicletime.py: a window of an hour or a day that is over starts anew; time off counts for at
most one window, so that nothing is saved up over a week in the garage. A trip ends after `gap_s` without a frame, when the
vehicle was switched off, or when it is told to.

Under `paced` a cap on bytes is spent evenly, like one on units: by bytes x elapsed / length.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from geal_edge.errors import UsageError
from geal_edge.runtime.release import ReleaseRule
from geal_edge.runtime.vehicletime import Moment, passed_s

Period: TypeAlias = Literal["hour", "day", "trip"]

LENGTH_S: dict[Period, float] = {"hour": 3600.0, "day": 86400.0}
"""A trip is as long as it is."""
TRIP_GAP_S = 600.0
MAX_UNITS = 1_000_000
BYTES_PER_UNIT = 100_000
"""Where only bytes are capped: units are chosen as if each took so little, and the bytes end it."""
MAX_UNITS_OF_BYTES = 2_000
"""But never for more than this many, which would cost the selector more than the encoder."""
FORMS = "50/day, 50/trip, 20/hour, 200MB/day; --budget may be given again: all caps hold together"

_CAP = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?B)?(?:/(hour|day|trip))?")
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """At most `limit` units or bytes in a period; None: in all."""

    limit: int
    counts: Literal["units", "bytes"]
    period: Period | None

    @property
    def length_s(self) -> float | None:
        return None if self.period is None else LENGTH_S.get(self.period)

    def __str__(self) -> str:
        return f"{self.limit}{'B' if self.counts == 'bytes' else ''}" + (f"/{self.period}" if self.period else "")


def parse_cap(text: str) -> Cap:
    """Raises UsageError with the forms.

    >>> parse_cap("200MB/day")
    Cap(limit=200000000, counts='bytes', period='day')
    >>> str(parse_cap("50/trip"))
    '50/trip'
    """
    found = _CAP.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--budget {text}: is no budget. A number of frames, as 50, or for live sources: {FORMS}.")
    number, unit, _ = found.groups()
    period: Period | None = next((known for known in ("hour", "day", "trip") if known == found[3]), None)
    limit = float(number) * _BYTES[unit or "B"]
    if not math.isfinite(limit) or limit != int(limit) or limit < 1 or (unit is None and limit > MAX_UNITS):
        raise UsageError(
            f"--budget {text}: must be a whole number of frames from 1 to {MAX_UNITS}, or of bytes from 1."
        )
    return Cap(limit=int(limit), counts="units" if unit is None else "bytes", period=period)


def parse_bytes(text: str, option: str) -> int:
    """Bytes as they are written for `option`. Raises UsageError.

    >>> parse_bytes("2GB", "--max-disk"), parse_bytes("1.5MB", "--max-disk")
    (2000000000, 1500000)
    """
    found = _CAP.fullmatch(text.strip())
    if found is None or found[2] is None or found[3] is not None:
        raise UsageError(f"{option} {text}: must be a number of bytes with its unit ({', '.join(_BYTES)}), as 2GB")
    return int(float(found[1]) * _BYTES[found[2]])


def megabytes(size: float) -> str:
    """
    >>> megabytes(2_600_000), megabytes(40_000), megabytes(61_000_000_000)
    ('2.6 MB', '0.0 MB', '61.0 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPlan:
    """How caps become rounds.

    units     what the selector of a round chooses
    period    of a round
    release   when what is selected becomes final
    others    caps that hold releases back beside it
    caps      all that were given, as text: what a spool is filled with for ever
    gap_s     seconds without a frame that end a trip
    """

    units: int
    period: Period
    release: ReleaseRule
    others: tuple[Cap, ...]
    caps: tuple[str, ...]
    gap_s: float = TRIP_GAP_S

    @property
    def length_s(self) -> float | None:
        return LENGTH_S.get(self.period)

    @property
    def shorter(self) -> tuple[Cap, ...]:
        """Caps of a shorter time than the round's, which would refuse the most of what its end releases at once."""
        own_s = math.inf if self.length_s is None else self.length_s
        return tuple(cap for cap in self.others if (cap.length_s or math.inf) < own_s)


def live_plan(caps: Sequence[Cap], release: ReleaseRule | None = None, *, gap_s: float = TRIP_GAP_S) -> BudgetPlan:
    """The round is that of the longest timed cap on units; else of the trip; else of a cap on bytes.

    Raises UsageError for caps that do not say how often, and release rules that cannot go with them.

    >>> plan = live_plan([parse_cap("50/day"), parse_cap("20/hour")])
    >>> plan.units, plan.period, plan.release, [str(cap) for cap in plan.others]
    (50, 'day', 'paced', ['20/hour'])
    """
    endless = [cap for cap in caps if cap.period is None]
    if endless:
        raise UsageError(f"--budget {endless[0]}: a live source has no end, so say how often: {FORMS}.")
    own = max(caps, key=lambda cap: (cap.counts == "units", cap.length_s or 0.0))
    period = own.period or "trip"
    others = tuple(cap for cap in caps if cap is not own)
    units = own.limit
    if own.counts == "bytes":
        units, others = max(1, min(own.limit // BYTES_PER_UNIT, MAX_UNITS_OF_BYTES)), tuple(caps)
    if release is None:
        release = "round_end" if period == "trip" else "paced"
    if release != "round_end" and period == "trip":
        raise UsageError(
            f"--release {release}: needs to know how long a round lasts, and a trip does not say. "
            "Use --release round_end, or a budget per day or hour."
        )
    if release == "immediate" and any(cap.counts == "bytes" for cap in caps):
        raise UsageError(
            "--release immediate: decides before a frame's bytes are known. Use --release paced, or cap frames alone."
        )
    plan = BudgetPlan(
        units=units, period=period, release=release, others=others, caps=tuple(str(cap) for cap in caps), gap_s=gap_s
    )
    if release == "round_end" and plan.shorter and period != "trip":
        raise UsageError(
            f"--release round_end: releases all of a {period} at once, of which --budget {plan.shorter[0]} would refuse the "
            "most. Use --release paced."
        )
    return plan


def budget_lines(
    state: dict[str, Any] | None,
    *,
    counted: str,
    limit: int,
    spent: int,
    length_s: float | None,
    elapsed_s: float,
) -> list[dict[str, Any]]:
    """The round's budget, and of a live source the caps beside it: limit, spent, seconds until it starts anew.

    state    of `Allowance.as_dict`; None of recorded sources
    counted  what a budget counts, "frames" or "units"; of the round, `limit` of them, `spent` of which are released, and how
             long it lasts and has lasted

    >>> budget_lines(None, counted="frames", limit=50, spent=20, length_s=None, elapsed_s=0.0)
    [{'unit': 'frames', 'period': None, 'limit': 50, 'spent': 20, 'refills_in_s': None}]
    """
    refills_in_s = None if length_s is None else max(0.0, length_s - elapsed_s)
    period = state and state["period"]
    lines = [{"unit": counted, "period": period, "limit": limit, "spent": spent, "refills_in_s": refills_in_s}]
    for window in state["windows"] if state else ():
        cap = parse_cap(window["cap"])
        left_s = None if cap.length_s is None else max(0.0, cap.length_s - window["elapsed_s"])
        lines.append(
            {
                "unit": "bytes" if cap.counts == "bytes" else counted,
                "period": cap.period,
                "limit": cap.limit,
                "spent": window["spent"],
                "refills_in_s": refills_in_s if state and cap.period == state["period"] else left_s,
            }
        )
    return lines


class Allowance:
    """What the caps beside the round still allow, and the time that passed while nobody ran.

    now    the vehicle's time
    state  of an earlier `as_dict`; None at the first start
    """

    def __init__(self, plan: BudgetPlan, now: Callable[[], Moment], state: dict[str, Any] | None = None) -> None:
        self._plan = plan
        self._now = now
        self._moment = now()
        self._windows = [_Window(cap) for cap in plan.others]
        self._last_frame_s: float | None = None
        self.away_s = 0.0
        """Seconds that count since the last note of an earlier run; of a round at most its length."""
        self.trip_is_over = False
        """The vehicle was switched off since then."""
        self._off: Moment | None = None
        """When it was switched off, while that may still count: its clock was synchronised then, and is not yet again."""
        if state is not None:
            before = Moment(**state["moment"])
            self.away_s = passed_s(before, self._moment)
            for window, stored in zip(self._windows, state["windows"], strict=True):
                window.elapsed_s, window.spent = stored["elapsed_s"], stored["spent"]
            if before.boot_id == self._moment.boot_id:
                self._last_frame_s = state["last_frame_s"]
                self._advance(self.away_s, credited=False)
                self._off = Moment(**state["off"]) if "off" in state else None
            else:
                self.trip_is_over = True
                self._off = before if before.synchronised and not self._moment.synchronised else None
                self._advance(self.away_s, credited=True)

    @property
    def evenly(self) -> bool:
        """Nothing may wait for the round's end: a shorter cap would refuse it there."""
        return bool(self._plan.shorter)

    def tick(self) -> None:
        """Let time pass."""
        before, self._moment = self._moment, self._now()
        self._advance(passed_s(before, self._moment), credited=False)

    def time_off_s(self) -> float:
        """Seconds switched off that count from now on, once: 0, but where a clock was synchronised only after the start, as one
        that is set over a network is. Of a round at most its length; the other caps have heeded them."""
        if self._off is None or not self._moment.synchronised:
            return 0.0
        off, self._off = self._off, None
        # What was powered since counts already.
        seconds = max(0.0, (self._moment.wall_ns - off.wall_ns) / 1e9 - self._moment.powered_s)
        self._advance(seconds, credited=True)
        return seconds

    def trip_ended(self, *, idle: bool) -> bool:
        """Whether too long passed without a frame; asked with each unit, and (`idle`) when none came for a while."""
        now_s, last_s = self._moment.powered_s, self._last_frame_s
        ended = last_s is not None and now_s - last_s >= self._plan.gap_s
        if not idle:
            self._last_frame_s = now_s
        elif ended:
            self._last_frame_s = None
        return ended

    def allows(self, sizes: Sequence[int], progress: float) -> int:
        """How many of these units (their bytes, in the order of release) may be released now, with so much of the round over."""
        return min(
            (window.allows(sizes, self._share(window, progress)) for window in self._windows), default=len(sizes)
        )

    def may_allow(self, progress: float) -> bool:
        """Whether it is worth working out an order: False while a cap has no room for what it refused last."""
        return all(window.left(self._share(window, progress)) >= window.wanted for window in self._windows)

    def spend(self, sizes: Sequence[int]) -> None:
        for window in self._windows:
            window.spent += len(sizes) if window.cap.counts == "units" else sum(sizes)

    def round_ended(self) -> None:
        """Windows that are those of the round start anew with it."""
        self._renew(self._plan.period)

    def end_trip(self) -> None:
        self._renew("trip")

    def as_dict(self) -> dict[str, Any]:
        return {
            "period": self._plan.period,
            "windows": [{"cap": str(w.cap), "elapsed_s": w.elapsed_s, "spent": w.spent} for w in self._windows],
            "moment": self._moment.as_dict(),
            "last_frame_s": self._last_frame_s,
            **({} if self._off is None else {"off": self._off.as_dict()}),
        }

    def _renew(self, period: Period) -> None:
        for window in self._windows:
            if window.cap.period == period:
                window.renew()

    def _share(self, window: "_Window", progress: float) -> float:
        """The share of a cap on bytes that may be spent by now."""
        if self._plan.release != "paced" or window.cap.counts == "units":
            return 1.0
        if window.cap.period == self._plan.period:
            return progress
        return 1.0 if window.cap.length_s is None else min(1.0, window.elapsed_s / window.cap.length_s)

    def _advance(self, seconds: float, *, credited: bool) -> None:
        for window in self._windows:
            length_s = window.cap.length_s
            if length_s is None or window.cap.period == self._plan.period:
                continue
            window.elapsed_s += seconds
            if window.elapsed_s >= length_s:
                over_s = window.elapsed_s % length_s
                window.renew()
                # After time off, of which at most one window counts, it starts when the vehicle is back.
                window.elapsed_s = 0.0 if credited else over_s


@dataclass(slots=True)
class _Window:
    """A cap, how long it runs, and what was spent of it."""

    cap: Cap
    elapsed_s: float = 0.0
    spent: int = 0
    wanted: int = 1
    """What it must have left before anything is asked of it again."""

    def left(self, share: float) -> int:
        return math.floor(self.cap.limit * share) - self.spent

    def allows(self, sizes: Sequence[int], share: float) -> int:
        left, self.wanted = self.left(share), 1
        for count, size in enumerate(sizes):
            cost = 1 if self.cap.counts == "units" else size
            if cost > left:
                self.wanted = cost
                return count
            left -= cost
        return len(sizes)

    def renew(self) -> None:
        self.elapsed_s, self.spent, self.wanted = 0.0, 0, 1
