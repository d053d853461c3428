"""What a vehicle would have released: streaming selection over recorded frames, with a link that is always on.

The rounds are the vehicle's own (rounds.py); only the spool is left out, and the clock is the frames' capture time. All sources
are one round, as if driven one after another on one day.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from geal_edge.errors import Interrupted
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.ladder import Ladder, Release
from geal_edge.runtime.poolframe import PoolFrame
from geal_edge.runtime.release import Price, ReleaseRule, fill_of
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.spool import RoundState
from geal_edge.runtime.stopping import Stop

STILL_S = 1.0
"""What a frame without a capture time counts for."""


def released(
    frames: Sequence[KnowledgeClusters],
    budget: int,
    rule: ReleaseRule,
    *,
    seconds: Sequence[float],
    length_s: float,
    stop: Stop | None = None,
) -> list[int]:
    """Indices of the frames that the rule has released by the end of the round, in the order of their release.

    seconds   when each frame is seen, ascending, since the round began
    length_s  when it ends

    Raises Interrupted once `stop` is asked: a part of a round says nothing of the whole.

    >>> x = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], np.float16)
    >>> frames = [KnowledgeClusters(rows=row[None], patch_cluster=np.zeros(1, np.int16)) for row in x]
    >>> released(frames, 2, "round_end", seconds=range(4), length_s=4.0)
    [0, 3]
    """
    stop = stop or Stop()
    now = [0.0]
    store = _OneRound(settings=_Settings(budget=budget, release=rule, length_s=length_s))
    rounds = Rounds(store, lambda: now[0])
    index_of: dict[int, int] = {}
    for index, clusters in enumerate(frames):
        if stop():
            raise Interrupted("Stopped while a drive was simulated.")
        now[0] = seconds[index]
        rounds.tick()
        decision = rounds.score(clusters)
        index_of[decision.unit] = index  # a frame that is not retained leaves its number to the next
        rounds.learn(decision)
    rounds.end()
    return [index_of[unit] for unit in store.released]


def round_seconds(frames: Sequence[PoolFrame]) -> tuple[list[float], float]:
    """When each frame was seen, and when the round ends, in seconds since the first frame.

    Within a source time is capture time (a stamp that goes back counts as the one before it); between two sources none passes
    beyond one usual step. A source in which a frame has no time counts `STILL_S` a frame.
    """
    seconds: list[float] = []
    begin = 0.0
    for _, group in groupby(frames, key=lambda frame: frame.source):
        stamps = [frame.capture_time_ns for frame in group]
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) == len(stamps) and len(known) > 1 and known[-1] > known[0]:
            since = np.maximum.accumulate((np.array(known) - known[0]) / 1e9)
        else:
            since = STILL_S * np.arange(len(stamps))
        seconds += (begin + since).tolist()
        begin = seconds[-1] + (float(np.median(np.diff(since))) if len(since) > 1 else STILL_S)
    return seconds, begin


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    budget: int
    release: ReleaseRule
    length_s: float | None


@dataclass(slots=True, kw_only=True)
class _OneRound:
    """In place of a spool: one round of a cold memory, which nothing outlives."""

    settings: _Settings
    round: RoundState = field(init=False)
    released: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        price = Price() if self.settings.release == "immediate" else None
        self.round = RoundState(number=1, elapsed_s=0.0, price=price, certified=True)

    def ladder(self) -> Ladder:
        return Ladder(capacity=self.settings.budget, fill=fill_of(self.settings.release, self.settings.budget))

    def release(self, release: Release) -> None:
        self.released += release.units

    def end_round(self, release: Release, left: Sequence[int]) -> None:
        self.released += release.units

    def note_round(self, *, elapsed_s: float, price: Price | None) -> None:
        self.round = replace(self.round, elapsed_s=elapsed_s, price=price)

    def sizes(self, units: Sequence[int]) -> list[int]:
        return [0 for _ in units]

    def note_budget(self, state: dict[str, Any]) -> None:
        """There are no caps but the budget."""

    def trip_ended(self, by: str) -> None:
        """A simulation is one trip."""
