"""Streaming selection for the mean instead of the radius: facility location over knowledge clusters, by swaps.

Facility location wants the units that bring the mean chord from a cluster to the nearest one selected down the most. The whole
stream cannot be asked, so a sample of it is: `SAMPLE` clusters, each one seen as likely as another to be in it (a reservoir,
Vitter 1985, algorithm R). With W the sample and every cluster a diameter, 2, away from nothing,

    f(S) = sum over w in W of 2 - min(2, chord from w to the nearest cluster of a unit in S)

is monotone and submodular. The first `capacity` units that lower the mean are retained; after them a unit joins where the set is
better with it and without the one that is missed least. What is proved, and for what:

- the first j of the selected order are within 1 - 1/e of the best j of the *retained*, on the sample as it is (Nemhauser, Wolsey
  and Fisher, "An analysis of approximations for maximizing submodular set functions", 1978: greedy);
- on a sample that does not change, f never falls, and a set that no unit of the stream can join any more is within 1/2 of the
  best `capacity` units of the stream (there: interchange; each outsider gains at most the smallest loss, which is at most
  f / capacity);
- for one pass no factor is claimed. Buchbinder, Feldman and Schwartz ("Online Submodular Maximization with Preemption", SODA
  2015) prove 1/4 for swaps that gain f / capacity, with f fixed; here one unit alone has most of f, and such swaps all but end
  after the first frames. So does a sieve (Badanidiyuru et al., "Streaming Submodular Maximization", KDD 2014): what one frame
  covers is beyond half of the best, after which its thresholds take the next frames as they come.

Chords are exact squared distances, their roots rounded to 2^-20: sums of them are exact in any order, so what is retained depends
on the stream and the seed, not on the machine. There is no radius and no certificate.

A spool cannot hold this selector yet: it stores levels and deaths, and neither the sample nor how much was seen, which every
frame changes; nor has this one a base or a release. Nothing uses it but `python -m benchmarks.coverage`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import UsageError
from geal_edge.runtime.baselines import cover_greedily
from geal_edge.runtime.clusters import IntArray, KnowledgeClusters, Rows
from geal_edge.runtime.distance import Float64, grid_chords, squared_distances, widen, widened_distances
from geal_edge.runtime.kcenter import offsets_of, trace
from geal_edge.runtime.ladder import SelectedUnit

SAMPLE = 2048
"""Clusters of the stream that the mean is taken over, at most."""
FAR = 2.0
"""The chord to nothing: a diameter."""

Float32: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageDecision:
    """All that one unit changes, asked before it is learned.

    unit      the number the unit gets if it is retained
    clusters  the unit's clusters
    retain    it joins the retained
    evicted   the retained unit that goes for it, if any
    gain      by how much the mean chord from the sample to the retained falls with it, before anything is evicted; in [0, 2]
    sampled   (place in the sample, cluster of the unit) that comes to stand there, ascending places
    """

    unit: int
    clusters: KnowledgeClusters
    retain: bool
    evicted: tuple[int, ...]
    gain: float
    sampled: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageSnapshot:
    """What `StreamingCoverage(snapshot=...)` needs to go on as if nothing had happened.

    retained   (unit, rows) by ascending unit
    sample     fp16 (W, D), W <= SAMPLE
    seen       clusters seen, those of units that were not retained included
    """

    retained: tuple[tuple[int, Rows], ...]
    sample: Rows
    seen: int
    next_unit: int


class StreamingCoverage:
    """Streaming facility location: of all units seen, `capacity` that cover a sample of what was seen.

    >>> unit = lambda *row: KnowledgeClusters(rows=np.array([row], np.float16), patch_cluster=np.zeros(1, np.int16))
    >>> coverage = StreamingCoverage(capacity=2)
    >>> for row in [(1, 0), (1, 0), (-1, 0), (0, 1), (0, 1), (0, 1)]:
    ...     decision = coverage.score(unit(*row))
    ...     coverage.learn(decision)
    ...     print(decision.retain, round(decision.gain, 3), decision.evicted)
    True 2.0 ()
    False 0.0 ()
    True 0.667 ()
    False 0.354 ()
    True 0.566 (2,)
    False 0.0 ()
    >>> [s.unit for s in coverage.selected()]
    [3, 1]
    """

    def __init__(self, *, capacity: int, seed: int = 0, snapshot: CoverageSnapshot | None = None) -> None:
        """`snapshot` restores what an earlier one of the same capacity and seed had learned. Raises UsageError for a capacity
        below 1."""
        if capacity < 1:
            raise UsageError(f"budget = {capacity}: must be at least 1")
        self.capacity = capacity
        self.seed = seed
        self._next_unit = 1
        self._seen = 0
        self._sample: Rows = np.zeros((0, 0), np.float16)
        self._rows: dict[int, Rows] = {}  # unit -> rows, ascending units
        self._slots: dict[int, int] = {}  # unit -> its row of _chords
        self._chords: Float32 = np.zeros((0, 0), np.float32)  # (retained, W)
        if snapshot is not None:
            self._next_unit, self._seen = snapshot.next_unit, snapshot.seen
            self._sample = snapshot.sample.copy()
            self._rows = dict(snapshot.retained)
            self._slots = {unit: slot for slot, unit in enumerate(self._rows)}
            self._chords = self._to_retained(self._sample)
        self._wide = widen(self._sample)
        self._nearest, self._owner, self._second = _two_nearest(self._chords)

    @property
    def retained(self) -> tuple[int, ...]:
        """Numbers of the retained units, ascending."""
        return tuple(self._rows)

    @property
    def mean_cover(self) -> float:
        """Mean chord from the sample to the nearest retained cluster; 2.0 while nothing is retained."""
        return float(self._nearest.mean()) if len(self._nearest) else FAR

    @property
    def resident_bytes(self) -> int:
        """Bytes of RAM, bounded by the settings: at 384 numbers a row 7.9 MB for the sample, and per unit of capacity 8 kB for
        its chords and 19 kB for 25 clusters; 19 MB at a capacity of 400."""
        rows = sum(rows.nbytes for rows in [*self._rows.values(), self._sample])
        chords = self._chords.nbytes + self._owner.nbytes
        return rows + chords + sum(wide.nbytes for wide in (*self._wide, self._nearest, self._second))

    def snapshot(self) -> CoverageSnapshot:
        return CoverageSnapshot(
            retained=tuple(self._rows.items()), sample=self._sample.copy(), seen=self._seen, next_unit=self._next_unit
        )

    # -- one unit ------------------------------------------------------------------------------------------------------

    def score(self, clusters: KnowledgeClusters) -> CoverageDecision:
        """Say everything that this unit changes, and change nothing. Its own clusters may come into the sample first."""
        sampled = self._draw(len(clusters.rows))
        places = np.array([place for place, _ in sampled], np.intp)
        size = max(len(self._sample), int(places.max(initial=-1)) + 1)
        own, nearest, second = np.zeros(size), np.zeros(size), np.zeros(size)
        owner: IntArray = np.zeros(size, np.intp)
        if len(self._sample):
            own[: len(self._sample)] = grid_chords(widened_distances(widen(clusters.rows), self._wide).min(axis=0))
            for ours, theirs in ((nearest, self._nearest), (owner, self._owner), (second, self._second)):
                ours[: len(theirs)] = theirs
        if len(places):
            own[places] = 0.0
            among = self._to_retained(clusters.rows[[cluster for _, cluster in sampled]])
            nearest[places], owner[places], second[places] = _two_nearest(among)
        gain = np.maximum(nearest - own, 0.0).sum()
        retain, evicted = bool(gain > 0.0), []
        if retain and len(self._rows) == self.capacity:
            # Without a unit, what it is nearest to falls to the second nearest, or to the new one.
            losses = np.bincount(owner, np.maximum(np.minimum(second, own) - nearest, 0.0), minlength=self.capacity)
            loss, missed_least = min((losses[slot], unit) for unit, slot in self._slots.items())
            retain = bool(gain > loss)
            evicted = [missed_least] if retain else []
        return CoverageDecision(
            unit=self._next_unit,
            clusters=clusters,
            retain=retain,
            evicted=tuple(evicted),
            gain=float(gain) / size,
            sampled=sampled,
        )

    def learn(self, decision: CoverageDecision) -> None:
        """Apply a decision that was made in the present state, once it is safe on disk. Every decision counts as seen."""
        if decision.unit != self._next_unit:
            raise ValueError(f"decision for unit {decision.unit} applied out of turn: unit {self._next_unit} is next")
        self._seen += len(decision.clusters.rows)
        if decision.sampled:
            self._resample(decision.clusters.rows, decision.sampled)
        if decision.retain:
            self._replace(decision.evicted, decision.unit, decision.clusters.rows)
            self._next_unit += 1

    def selected(self, *, on_pick: Callable[[int], None] | None = None) -> list[SelectedUnit]:
        """The selected order: at most `capacity` of the retained, each lowering the sample's mean chord the most after those
        before it. `on_pick` is told how many are picked."""
        if not self._rows:
            return []
        slots = list(self._slots.values())
        order = cover_greedily(
            lambda index: self._chords[slots[index]].astype(np.float64),
            np.full(len(self._sample), FAR),
            self.capacity,
            units=range(len(slots)),
            on_pick=on_pick,
        )
        rows, numbers = list(self._rows.values()), self.retained
        return [
            SelectedUnit(
                unit=numbers[pick.unit],
                squared_distance=pick.squared,
                witness=pick.witness,
                cluster_squared=pick.row_squared,
                cover_squared=pick.cover_squared,
            )
            for pick in trace(np.concatenate(rows), offsets_of(rows), order)
        ]

    # -- inside --------------------------------------------------------------------------------------------------------

    def _draw(self, count: int) -> tuple[tuple[int, int], ...]:
        """Where in the sample the next `count` clusters come to stand. What was seen is all the state that the draw has."""
        rng = np.random.default_rng((self.seed, self._seen))
        seen = self._seen + np.arange(count)
        places = np.where(seen < SAMPLE, seen, rng.integers(seen + 1))
        taken = {int(place): cluster for cluster, place in enumerate(places) if place < SAMPLE}  # the last of two stays
        return tuple(sorted(taken.items()))

    def _to_retained(self, rows: Rows) -> Float32:
        """(retained, n): chord from each row to the nearest cluster of each retained unit."""
        if not self._rows:
            return np.zeros((0, len(rows)), np.float32)
        held = [self._rows[unit] for unit in sorted(self._slots, key=self._slots.__getitem__)]
        squared = squared_distances(np.concatenate(held), rows)
        return grid_chords(np.minimum.reduceat(squared, offsets_of(held)[:-1], axis=0)).astype(np.float32)

    def _resample(self, rows: Rows, sampled: tuple[tuple[int, int], ...]) -> None:
        places = np.array([place for place, _ in sampled], np.intp)
        rows = rows[[cluster for _, cluster in sampled]]
        more = int(places[-1]) + 1 - len(self._sample)
        if more > 0:
            self._sample = np.concatenate(
                [self._sample.reshape(-1, rows.shape[1]), np.zeros((more, rows.shape[1]), np.float16)]
            )
            self._chords = np.pad(self._chords, ((0, 0), (0, more)))
            self._nearest, self._second = np.pad(self._nearest, (0, more)), np.pad(self._second, (0, more))
            self._owner = np.pad(self._owner, (0, more))
            self._wide = widen(self._sample)
        self._sample[places] = rows
        self._wide[0][places], self._wide[1][places] = widen(rows)
        self._chords[:, places] = self._to_retained(rows)
        self._look_again(places)

    def _replace(self, evicted: tuple[int, ...], unit: int, rows: Rows) -> None:
        """Put a unit where another one stood, or behind all."""
        chords = grid_chords(widened_distances(widen(rows), self._wide).min(axis=0)).astype(np.float32)
        near = chords < self._second
        if evicted:
            slot = self._slots.pop(evicted[0])
            del self._rows[evicted[0]]
            near |= self._chords[slot] <= self._second  # it was the nearest or the second
            self._chords[slot] = chords
        else:
            slot = len(self._chords)
            self._chords = np.concatenate([self._chords, chords[None]])
        self._slots[unit], self._rows[unit] = slot, rows
        self._look_again(np.flatnonzero(near))

    def _look_again(self, places: IntArray) -> None:
        self._nearest[places], self._owner[places], self._second[places] = _two_nearest(self._chords[:, places])


def _two_nearest(chords: Float32) -> tuple[Float64, IntArray, Float64]:
    """Per column of (n, W): the smallest, its row (0 where there is none), the second smallest; FAR where there is none."""
    count, width = chords.shape
    if not count:
        return np.full(width, FAR), np.zeros(width, np.intp), np.full(width, FAR)
    owner: IntArray = chords.argmin(axis=0)
    nearest = chords[owner, np.arange(width)].astype(np.float64)
    if count == 1:
        return nearest, owner, np.full(width, FAR)
    second: Float64 = np.partition(chords, 1, axis=0)[1].astype(np.float64)
    return nearest, owner, second
