"""The strategies that a comparison sets side by side, by name, and how each orders a pool."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from geal_edge.config import PRESETS, ClusterConfig, Downsampling, SelectionConfig
from geal_edge.errors import UsageError
from geal_edge.runtime.compare.simulate import released, round_seconds
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pool import Pool, choose
from geal_edge.runtime.release import ReleaseRule
from geal_edge.runtime.stopping import Stop

RECIPE: ClusterConfig = PRESETS["geal"]
"""What every strategy looks at and what all covers are measured in, whatever recipe a bundle has."""
GEAL = SelectionConfig()
FIRSTS = 3
"""Drawn first images of what begins with one."""
RANDOM_DRAWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How one strategy chooses.

    words         what it is, for people
    config        how `select` orders frames; of a stream nothing but its default
    release       the release rule of a vehicle's round; None: all frames are at hand at once
    downsampling  what stands for a frame (the paper's appendix B)
    draws         seeds 0, 1, ... that it is given; 1 where nothing is drawn
    prefixes      the selection of a smaller budget is the beginning of that of a larger one
    """

    words: str
    config: SelectionConfig = GEAL
    release: ReleaseRule | None = None
    downsampling: Downsampling = "clusters"
    draws: int = FIRSTS
    prefixes: bool = True

    @property
    def recipe(self) -> ClusterConfig:
        return replace(RECIPE, downsampling=self.downsampling)

    def as_dict(self) -> dict[str, Any]:
        """What decides its order, for digests."""
        return {**asdict(self.config), "release": self.release}


STRATEGIES: dict[str, Strategy] = {
    "geal": Strategy(words="GEAL over all frames at once: K-Center-Greedy over knowledge clusters"),
    "stream-paced": Strategy(
        words="the vehicle, releasing evenly over the day", release="paced", draws=1, prefixes=False
    ),
    "stream-round-end": Strategy(
        words="the vehicle, releasing at the day's end", release="round_end", draws=1, prefixes=False
    ),
    "stream-immediate": Strategy(
        words="the vehicle, releasing at first sight or never", release="immediate", draws=1, prefixes=False
    ),
    "uniform": Strategy(words="evenly in time", config=SelectionConfig(strategy="uniform"), draws=1, prefixes=False),
    "every-nth": Strategy(
        words="every n-th frame", config=SelectionConfig(strategy="every-nth"), draws=1, prefixes=False
    ),
    "random": Strategy(words="at random", config=SelectionConfig(strategy="random"), draws=RANDOM_DRAWS),
    "probability": Strategy(
        words="FreeSel's draw by distance, over GEAL's clusters", config=SelectionConfig(sampling="probability")
    ),
    "mean": Strategy(words="GEAL by the mean of a frame's clusters (Eq. 5)", config=SelectionConfig(reduction="mean")),
    "coreset-cosine": Strategy(
        words="Core-Set over one vector per frame, cosine", config=SelectionConfig(strategy="coreset-cosine")
    ),
    "coreset-euclidean": Strategy(
        words="Core-Set over one vector per frame, Euclidean", config=SelectionConfig(strategy="coreset-euclidean")
    ),
    "A1": Strategy(words="GEAL over the feature map resized", downsampling="A1"),
    "A2": Strategy(words="GEAL over random patches", downsampling="A2"),
    "A3": Strategy(words="GEAL over random distilled patches", downsampling="A3"),
    "A4": Strategy(words="GEAL over the most attended patches", downsampling="A4"),
    "facility-location": Strategy(
        words="the smallest mean distance, greedily", config=SelectionConfig(strategy="facility-location"), draws=1
    ),
    "density": Strategy(words="farthest first where frames are many", config=SelectionConfig(strategy="density")),
}
"""The first is the one that the sentences of a comparison speak of, where it is compared."""


def named(names: Sequence[str]) -> list[str]:
    """The strategies of these names, each once, in the order of `STRATEGIES`. Raises UsageError for one that is none.

    >>> named(["random", "geal"])
    ['geal', 'random']
    """
    for name in names:
        if name not in STRATEGIES:
            raise UsageError(f"--strategies {name}: is none. Choose of {', '.join(STRATEGIES)}.")
    return [name for name in STRATEGIES if name in names]


def order_of(strategy: Strategy, pool: Pool, budget: int, seed: int, stop: Stop) -> list[int]:
    """Indices of at most `budget` frames of the pool, in order of selection (of release, for a stream).

    Raises Interrupted for a stream once `stop` is asked; other orders end early.
    """
    if strategy.release is not None:
        seconds, length_s = round_seconds(pool.frames)
        clusters = [frame.clusters for frame in pool.frames]
        return released(clusters, budget, strategy.release, seconds=seconds, length_s=length_s, stop=stop)
    return [pick.unit for pick in choose(pool, strategy.config, budget, seed=seed, watch=Silent(), stop=stop)]
