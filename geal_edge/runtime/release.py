"""When selected units become final: the three release rules of a round (DESIGN section 5).

paced      while a round is open, at most floor(budget x elapsed / length) units are released: an always-on link must not spend
           the budget on the first seconds of a cold memory; a seventh of it waits for the round's end, and lowers the mean
round_end  all of them when the round ends
immediate  a unit is released, or not, at the moment at which it is seen, and never again

`immediate` has no threshold to set: its radius is a price. Each release raises it, and while nothing is released it falls, at
the pace at which the rest of the budget must be spent in the rest of the round. So it rises where much is new and falls where
little is, and the count meets the budget whatever the drive shows.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Literal, TypeAlias

from geal_edge.runtime.ladder import Certificate

ReleaseRule: TypeAlias = Literal["paced", "round_end", "immediate"]

RECENT_FRAMES = 1000
"""The spread of novelty is that of about so many frames."""
STEP = 2.0
"""A release raises the radius by so many spreads: enough that what looks alike is not released again at once."""
AHEAD = 0.1
"""Share of the budget that may be released ahead of an even pace: a burst of new things is worth it, a cold memory is not."""
PACED_FILL = 7
"""One unit of so many is the fill's under `paced`: more of them raise the radius of real drives, and with fewer the mean is no
better than that of uniform sampling where scenes are many and alike."""
ENDGAME = 0.02
"""In the last share of a round what is left of the radius falls to nothing, so that the budget is spent."""


def fill_of(rule: ReleaseRule, budget: int) -> int:
    """Units of a budget that are chosen for the mean and not for the radius (ladder.py), at least.

    `paced` sends what is farthest while the round is young, and much of that is the edge of a stream of which little was seen
    yet; with nothing left for the mean it ends worse than uniform sampling on streams of many like scenes. A round's end
    chooses all at once and needs no more than what its level leaves.

    >>> fill_of("paced", 50), fill_of("paced", 4), fill_of("round_end", 50)
    (7, 0, 0)
    """
    return budget // PACED_FILL if rule == "paced" else 0


def due(rule: ReleaseRule, *, budget: int, released: int, progress: float, evenly: bool = False) -> int:
    """Units to release now, of a round of which the share `progress` in [0, 1] is over; `immediate` never waits for this.

    The fill is chosen at the end, when the most is known; with `evenly` nothing waits for the end.

    >>> [due("paced", budget=10, released=2, progress=p) for p in (0.1, 0.4, 1.0)]
    [0, 1, 8]
    >>> due("paced", budget=10, released=2, progress=0.4, evenly=True)
    2
    >>> [due("round_end", budget=10, released=0, progress=p) for p in (0.99, 1.0)]
    [0, 10]
    """
    if progress >= 1.0:
        return budget - released
    paced = math.floor((budget - (0 if evenly else fill_of(rule, budget))) * progress)
    return max(0, paced - released) if rule == "paced" else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The state of `immediate`: stored with the round, so that a restart goes on where it was.

    radius    what a unit's novelty must exceed now (chord in [0, 2])
    mean, spread  of the novelty of recent frames (chord), spread as mean absolute deviation
    frames    judged so far
    progress  share of the round that was over at the last of them
    worst     largest novelty that was passed over: every seen cluster lies within it of what is released or known

    >>> price = Price()
    >>> price.admits(None, budget=5, released=0, progress=0.0)  # nothing to be far from
    True
    """

    radius: float = 0.0
    mean: float = 0.0
    spread: float = 0.0
    frames: int = 0
    progress: float = 0.0
    worst: float = 0.0

    def admits(self, novelty: float | None, *, budget: int, released: int, progress: float) -> bool:
        """Whether a unit of this novelty is released at once. None: the first that is seen, with nothing known."""
        if released >= min(budget, budget * progress + max(1.0, AHEAD * budget)):
            return False
        left = min(1.0, max(0.0, 1.0 - progress) / ENDGAME)
        return novelty is None or novelty > self.radius * left

    def learn(self, novelty: float | None, *, admitted: bool, budget: int, released: int, progress: float) -> "Price":
        """The price after a frame; `released` is the count before it."""
        over = max(0.0, progress - self.progress)
        expected = (budget - released) * over / max(1.0 - self.progress, over, 1e-12)
        priced = replace(self, frames=self.frames + 1, progress=max(self.progress, progress))
        if novelty is None:
            return priced
        rate = max(1.0 / (self.frames + 1), 1.0 / RECENT_FRAMES)
        mean = self.mean + rate * (novelty - self.mean)
        spread = self.spread + rate * (abs(novelty - mean) - self.spread)
        radius = self.radius + STEP * spread * (admitted - expected)
        return replace(
            priced,
            radius=min(2.0, max(0.0, radius)),
            mean=mean,
            spread=spread,
            worst=self.worst if admitted else max(self.worst, novelty),
        )

    def certificate(self) -> Certificate:
        """The radius is the largest novelty that was passed over; nothing is retained that could prove a lower bound."""
        return Certificate(radius=self.worst, lower_bound=0.0)

    def as_dict(self) -> dict[str, float]:
        return asdict(self)
