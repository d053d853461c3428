"""Rounds: what turns a stream without end into selections that are final (DESIGN section 5).

A round has a ladder of its own over a base: what the memory holds and what the round has released. Its clock is that of the
vehicle (powered seconds); the share of its length that is over decides what is due. At its end all that is selected is
released and remembered, the rest is evicted, and the next round begins with a fresh ladder. A round without a length, as of
recorded sources, goes on until it is ended.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from geal_edge.runtime.budget import Allowance
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.ladder import Certificate, Decision, Ladder, Release
from geal_edge.runtime.release import Price, ReleaseRule, due
from geal_edge.runtime.spool import RoundState


class RoundSettings(Protocol):
    """What is settled before a round begins; see SpoolSettings."""

    @property
    def budget(self) -> int: ...

    @property
    def release(self) -> ReleaseRule: ...

    @property
    def length_s(self) -> float | None: ...


class RoundStore(Protocol):
    """Where rounds are safe: a `Spool`, or what stands for one where a drive is only simulated (compare/simulate.py)."""

    @property
    def settings(self) -> RoundSettings: ...

    @property
    def round(self) -> RoundState: ...

    def ladder(self) -> Ladder: ...

    def sizes(self, units: Sequence[int]) -> list[int]: ...

    def release(self, release: Release) -> None: ...

    def end_round(self, release: Release, left: Sequence[int]) -> None: ...

    def note_round(self, *, elapsed_s: float, price: Price | None) -> None: ...

    def note_budget(self, state: dict[str, Any]) -> None: ...

    def trip_ended(self, by: str) -> None: ...


class Rounds:
    """The selector of a spool, in the round that is open.

    clock      powered seconds from anywhere; only its differences matter. A restart goes on where the last flush stood
    allowance  of a live source: further caps on what is released, when a trip is over, and how long nobody ran, which counts
    """

    def __init__(self, spool: RoundStore, clock: Callable[[], float], allowance: Allowance | None = None) -> None:
        self._spool = spool
        self._clock = clock
        self._allowance = allowance
        self._settings = spool.settings
        if allowance is not None and self._settings.length_s is not None:
            elapsed_s = min(self._settings.length_s, spool.round.elapsed_s + allowance.away_s)
            spool.note_round(elapsed_s=elapsed_s, price=spool.round.price)
            spool.note_budget(
                allowance.as_dict()
            )  # the moment that goes with it: or whoever starts next adds it once more
        self._begin()
        if allowance is not None and allowance.trip_is_over:
            self.end_trip("power_off")
        if self._settings.release == "immediate" and self._ladder.retained:
            # One that was stored, and not yet released when the process ended.
            self._release(len(self._ladder.retained))

    def _begin(self) -> None:
        self._ladder: Ladder = self._spool.ladder()
        self._price = self._next_price = self._spool.round.price
        self._held_back: tuple[int, int, int] | None = None
        self._began_s = self._clock() - self._spool.round.elapsed_s

    @property
    def retained(self) -> tuple[int, ...]:
        return self._ladder.retained

    @property
    def released(self) -> tuple[int, ...]:
        """Units that the open round has released, in that order."""
        return self._ladder.released

    @property
    def progress(self) -> float:
        """The share of the round that is over, in [0, 1]; 0 for a round without a length."""
        length_s = self._settings.length_s
        return 0.0 if length_s is None else min(1.0, max(0.0, (self._clock() - self._began_s) / length_s))

    def certificate(self) -> Certificate:
        """Of all that this round has seen."""
        found = self._price.certificate() if self._price else self._ladder.certificate()
        return found if self._spool.round.certified else replace(found, radius=None)

    def tick(self, *, idle: bool = False) -> None:
        """Release what is due by now; end a round whose time is over. Asked before each unit, and (`idle`) when none comes."""
        if self._allowance is not None:
            self._allowance.tick()
            self._credit(self._allowance.time_off_s())
            if self._allowance.trip_ended(idle=idle):
                self.end_trip("gap")
        progress = self.progress
        self._note(self._price)
        if progress >= 1.0:
            self.end()
            return
        if self._allowance is not None and not self._allowance.may_allow(progress):
            return
        evenly = self._allowance is not None and self._allowance.evenly
        count = due(
            self._settings.release,
            budget=self._settings.budget,
            released=len(self.released),
            progress=progress,
            evenly=evenly,
        )
        state = (self._ladder.next_unit, len(self._ladder.deaths), count)
        # What lies within the radius in force adds nothing to what is certified: it can wait for something better, unless there
        # will be no room for it at the end.
        beyond = -1.0 if evenly else self._ladder.radius or 0.0
        if count and state != self._held_back and self._release(count, beyond=beyond):
            self._held_back = state  # the order takes a while to work out: asked again when something has changed

    def score(self, clusters: KnowledgeClusters) -> Decision:
        """Say everything that this unit changes, and change nothing.

        Under `immediate` the price that follows is laid out for the spool, so that it is stored with the decision and never
        behind the cursor: what it says was passed over must be in it.
        """
        decision = self._ladder.score(clusters)
        if self._price is None:
            return decision
        if not self._admits(self._price, decision):
            decision = replace(decision, levels=(), deaths=(), evicted=(), radius=self._price.radius)
        self._next_price = self._price.learn(
            decision.novelty,
            admitted=decision.retain,
            budget=self._settings.budget,
            released=len(self.released),
            progress=self.progress,
        )
        self._note(self._next_price)
        return decision

    def press(self, decision: Decision, *, needed: int, own: int, sizes: Mapping[int, int]) -> Decision | None:
        """The same decision where the disk has no room for it (`Ladder.press`). Under `immediate` a unit that is refused moves
        no price: it was not looked at."""
        pressed = self._ladder.press(decision, needed=needed, own=own, sizes=sizes)
        if pressed is None and self._price is not None:
            self._next_price = self._price
            self._note(self._price)
        return pressed

    def restore(self) -> None:
        """Read the ladder anew: the spool has changed what it holds."""
        self._begin()

    def learn(self, decision: Decision) -> None:
        """Apply a decision that is safe on disk; under `immediate`, release what it retained."""
        self._ladder.learn(decision)
        if self._price is not None:
            self._price = self._next_price
            if decision.retain:
                self._release(1)

    def end_trip(self, by: str = "call") -> None:
        """A trip is over: a round without a length ends with it, unless it is empty, and what is capped per trip starts anew.

        by  `call`, `gap` (too long without a frame) or `power_off`
        """
        self._spool.trip_ended(by)
        if self._settings.length_s is None and (self.retained or self.released):
            self.end()
        if self._allowance is not None:
            self._allowance.end_trip()
            self._spool.note_budget(self._allowance.as_dict())

    def end(self) -> None:
        """End the round now: a trip is over, or its time is."""
        release = self._within(self._ladder.release(self._ladder.room), progress=1.0)
        if self._allowance is not None:
            self._allowance.round_ended()
            self._spool.note_budget(self._allowance.as_dict())
        left = [unit for unit in self._ladder.retained if unit not in release.units]
        self._spool.end_round(release, left)
        self._begin()

    def _credit(self, off_s: float) -> None:
        """Time switched off that is known only now is over for the round as well; at most the rest of it."""
        length_s = self._settings.length_s
        if length_s is not None:
            self._began_s -= min(off_s, (1.0 - self.progress) * length_s)

    def _admits(self, price: Price, decision: Decision) -> bool:
        if not decision.retain or (self._allowance is not None and not self._allowance.may_allow(self.progress)):
            return False
        return price.admits(
            decision.novelty, budget=self._settings.budget, released=len(self.released), progress=self.progress
        )

    def _release(self, count: int, *, beyond: float = -1.0) -> bool:
        """Whether the caps let go all that there was; else it is due as soon as they have room (`may_allow`)."""
        found = self._ladder.release(count, beyond=beyond)
        release = self._within(found, progress=self.progress)
        if release.picks:
            self._spool.release(release)  # durable first
            self._ladder.learn_release(release)
        return len(release.picks) == len(found.picks)

    def _within(self, release: Release, *, progress: float) -> Release:
        """So much of a release as all caps allow, which counts as spent; the spool stores that with it."""
        if self._allowance is None:
            return release
        sizes = self._spool.sizes(release.units)
        sizes = sizes[: self._allowance.allows(sizes, progress)]
        self._allowance.spend(sizes)
        self._spool.note_budget(self._allowance.as_dict())
        return Release(picks=release.picks[: len(sizes)])

    def _note(self, price: Price | None) -> None:
        elapsed_s = 0.0 if self._settings.length_s is None else self._clock() - self._began_s
        self._spool.note_round(elapsed_s=elapsed_s, price=price)
        if self._allowance is not None:
            # The moment that goes with it: what passes from here on counts at the next start, and nothing twice.
            self._allowance.tick()
            self._spool.note_budget(self._allowance.as_dict())
