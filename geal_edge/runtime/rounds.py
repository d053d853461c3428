"""Rounds: what turns a stream without end into selections that are final (DESIGN section 5).

A round has a ladder of its own over a base: what the memory holds and what the round has released. Its clock is that of the
vehicle (powered seconds); the share of its length that is over decides what is due. At its end all that is selected is
released and remembered, the rest is evicted, and the next round begins with a fresh ladder. A round without a length, as of
recorded sources, goes on until it is ended.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.ladder import Certificate, Decision, Ladder, Release
from geal_edge.runtime.release import Price, ReleaseRule, due
from geal_edge.runtime.spool import RoundState


def powered_seconds() -> float:
    """CLOCK_BOOTTIME: it goes on while the vehicle sleeps, and no one can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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

    def release(self, release: Release) -> None: ...

    def end_round(self, release: Release, left: Sequence[int]) -> None: ...

    def note_round(self, *, elapsed_s: float, price: Price | None) -> None: ...


class Rounds:
    """The selector of a spool, in the round that is open.

    clock  powered seconds from anywhere; only its differences matter. A restart goes on where the last flush stood
    """

    def __init__(self, spool: RoundStore, clock: Callable[[], float]) -> None:
        self._spool = spool
        self._clock = clock
        self._settings = spool.settings
        self._begin()
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

    def tick(self) -> None:
        """Release what is due by now; end a round whose time is over. Asked between units, also when none comes."""
        progress = self.progress
        self._note(self._price)
        if progress >= 1.0:
            self.end()
            return
        count = due(
            self._settings.release, budget=self._settings.budget, released=len(self.released), progress=progress
        )
        state = (self._ladder.next_unit, len(self._ladder.deaths), count)
        if count and state != self._held_back:
            # What lies within the radius in force adds nothing to what is certified: it can wait for something better.
            self._release(count, beyond=self._ladder.radius or 0.0)
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

    def learn(self, decision: Decision) -> None:
        """Apply a decision that is safe on disk; under `immediate`, release what it retained."""
        self._ladder.learn(decision)
        if self._price is not None:
            self._price = self._next_price
            if decision.retain:
                self._release(1)

    def end(self) -> None:
        """End the round now: a trip is over, or its time is."""
        release = self._ladder.release(self._ladder.room)
        left = [unit for unit in self._ladder.retained if unit not in release.units]
        self._spool.end_round(release, left)
        self._begin()

    def _admits(self, price: Price, decision: Decision) -> bool:
        return decision.retain and price.admits(
            decision.novelty, budget=self._settings.budget, released=len(self.released), progress=self.progress
        )

    def _release(self, count: int, *, beyond: float = -1.0) -> None:
        release = self._ladder.release(count, beyond=beyond)
        if release.picks:
            self._spool.release(release)  # durable first
            self._ladder.learn_release(release)

    def _note(self, price: Price | None) -> None:
        elapsed_s = 0.0 if self._settings.length_s is None else self._clock() - self._began_s
        self._spool.note_round(elapsed_s=elapsed_s, price=price)
