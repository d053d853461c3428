"""Streaming selection: one round's ladder of radii, its decisions, its selected order and its certificate.

A ladder runs one guess of the cover radius per level, r_0 < r_1 < ... in steps of 1 %. Each level keeps a list of at most
`capacity` units: a unit that has a cluster farther than r_l from everything in the list joins it; the unit that would be one
too many kills the level, which proves that the guess was too small. Then:

- every seen cluster is within r_l of the list of every alive level l, so the smallest alive radius is a certified cover radius;
- a level that died of `capacity + 1` clusters pairwise more than r_l apart proves that no `capacity` single patches cover the
  round better than r_l / 2: the lower bound. (Never a claim against the best `capacity` frames: no factor exists there.)

The top level has no radius and never dies: it takes whatever any other level takes while it has room, outside the
certificate, so that small budgets are spent. A unit is retained while some alive level holds it. The cap on retained units
is kept by the one pressure rule: drop the smallest alive level until it fits; such a death proves nothing, so the radius
rises and the lower bound stays.

`score` is pure. `learn` applies a decision in memory, after the spool has it on disk. A ladder is restored from what the
spool stored, bit for bit, and never learns anything twice.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import UsageError
from geal_edge.runtime.clusters import KnowledgeClusters, Rows
from geal_edge.runtime.distance import Float64, chord, widen, widened_distances
from geal_edge.runtime.kcenter import Pick, k_center_greedy, offsets_of

SMALLEST_RADIUS = 0.2
LARGEST_RADIUS = 1.5
STEP = 1.01
RETAINED_PER_BUDGET = 4
"""Retained units at most, per unit of budget; above it the pressure rule acts."""

BoolArray: TypeAlias = npt.NDArray[np.bool_]


def _radii() -> tuple[float, ...]:
    """0.2, 0.202, ... up to 1.5 in chord; by repeated products, which are the same doubles on every machine."""
    radii = [SMALLEST_RADIUS]
    while radii[-1] * STEP <= LARGEST_RADIUS:
        radii.append(radii[-1] * STEP)
    return tuple(radii)


RADII = _radii()
TOP = len(RADII)
"""The level without a radius; levels 0..TOP-1 have RADII[level]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A level that ends. Only a natural death (one unit too many) proves a lower bound; one by pressure does not."""

    level: int
    natural: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """All that one unit changes, asked before it is learned. An empty one writes nothing.

    unit            the number the unit gets if it is retained
    clusters        the unit's clusters
    levels          alive levels that take it and survive, ascending; empty = not retained
    deaths          levels that die of it
    evicted         retained units that no level holds afterwards, ascending
    squared_novelty exact squared chord from the witness to its nearest retained cluster, in the smallest alive level; None
                    while that level is empty
    witness         cluster that decided the novelty; None while the level is empty
    nearest         unit that owns the cluster nearest to the witness; None while the level is empty
    radius          the smallest alive radius when it was asked (chord); None once only the top level is alive
    """

    unit: int
    clusters: KnowledgeClusters
    levels: tuple[int, ...]
    deaths: tuple[Death, ...]
    evicted: tuple[int, ...]
    squared_novelty: float | None
    witness: int | None
    nearest: int | None
    radius: float | None

    @property
    def retain(self) -> bool:
        return bool(self.levels)

    @property
    def empty(self) -> bool:
        return not (self.levels or self.deaths)

    @property
    def novelty(self) -> float | None:
        """Chord in [0, 2]; None for the first unit: there was nothing to be far from."""
        return None if self.squared_novelty is None else chord(self.squared_novelty)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """radius: every seen cluster is within it of the selected units (chord; None = only the top level is alive).
    lower_bound: no `budget` single patches have a smaller cover radius."""

    radius: float | None
    lower_bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainedUnit:
    """What restores one unit: its number, its rows, and the levels that hold it (dead ones may be named)."""

    unit: int
    rows: Rows
    levels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedUnit:
    """A unit of the selected order.

    squared_distance  exact squared chord from its witness to the units before it; 0.0 for the first
    witness           cluster within the unit, None for the first
    cluster_squared   the same distance for each of its clusters; empty for the first, and
                      where it was not asked for
    cover_squared     what the order up to this unit leaves uncovered of the retained units: exact squared chord
    """

    unit: int
    squared_distance: float
    witness: int | None
    cluster_squared: tuple[float, ...]
    cover_squared: float


class Ladder:
    """One round of streaming selection over `capacity` units.

    >>> unit = lambda *row: KnowledgeClusters(rows=np.array([row], np.float16), patch_cluster=np.zeros(1, np.int16))
    >>> ladder = Ladder(capacity=2)
    >>> for row in [(1, 0), (1, 0), (0, 1), (-1, 0)]:
    ...     decision = ladder.score(unit(*row))
    ...     ladder.learn(decision)
    ...     print(decision.retain, decision.novelty)
    True None
    False 0.0
    True 1.4142135623730951
    True 1.4142135623730951
    >>> [s.unit for s in ladder.selected()], round(ladder.certificate().radius, 2)
    ([1, 3], 1.42)
    """

    def __init__(
        self,
        *,
        capacity: int,
        next_unit: int = 1,
        retained: Sequence[RetainedUnit] = (),
        deaths: Iterable[Death] = (),
        max_retained: int | None = None,
    ) -> None:
        """`retained` (ascending units), `deaths` and `next_unit` restore what an earlier ladder had learned."""
        if capacity < 1:
            raise UsageError(f"budget = {capacity}: must be at least 1")
        self.capacity = capacity
        self.max_retained = max_retained if max_retained is not None else RETAINED_PER_BUDGET * capacity
        if self.max_retained < capacity:
            raise UsageError(f"max_retained = {self.max_retained}: must be at least the budget, {capacity}")
        self._next_unit = next_unit
        self._deaths = tuple(deaths)
        self._alive: BoolArray = np.ones(TOP + 1, bool)
        self._alive[[death.level for death in self._deaths]] = False
        self._units: list[int] = [r.unit for r in retained]
        self._rows: list[Rows] = [r.rows for r in retained]
        self._member: BoolArray = np.zeros((len(retained), TOP + 1), bool)
        for i, r in enumerate(retained):
            self._member[i, list(r.levels)] = True
        self._member[:, ~self._alive] = False
        self._refresh()

    # -- what it knows -------------------------------------------------------------------------------------------------

    @property
    def retained(self) -> tuple[int, ...]:
        """Numbers of the retained units, ascending."""
        return tuple(self._units)

    @property
    def deaths(self) -> tuple[Death, ...]:
        return self._deaths

    @property
    def next_unit(self) -> int:
        return self._next_unit

    @property
    def smallest_alive(self) -> int:
        """The smallest alive level; TOP where all with a radius have died."""
        return int(np.argmax(self._alive))

    @property
    def radius(self) -> float | None:
        """The radius in force: that of the smallest alive level, in chord."""
        level = self.smallest_alive
        return None if level == TOP else RADII[level]

    def certificate(self) -> Certificate:
        """Levels die out of order, so the bound is the largest natural death, not the neighbour of the alive level."""
        bound = max((RADII[death.level] / 2.0 for death in self._deaths if death.natural), default=0.0)
        return Certificate(radius=self.radius, lower_bound=bound)

    def members(self, level: int) -> tuple[int, ...]:
        """Units that a level holds, in the order in which it took them."""
        return tuple(unit for unit, held in zip(self._units, self._member[:, level], strict=True) if held)

    def snapshot(self) -> tuple[RetainedUnit, ...]:
        """What `Ladder(retained=..., deaths=..., next_unit=...)` needs to go on as if nothing had happened."""
        return tuple(
            RetainedUnit(unit=unit, rows=rows, levels=tuple(int(x) for x in np.flatnonzero(held)))
            for unit, rows, held in zip(self._units, self._rows, self._member, strict=True)
        )

    # -- one unit ------------------------------------------------------------------------------------------------------

    def score(self, clusters: KnowledgeClusters) -> Decision:
        """Say everything that this unit changes, and change nothing."""
        to_unit = self._nearest_per_unit(clusters.rows)  # (C, U) exact squared chord to each retained unit
        alive = np.flatnonzero(self._alive)
        finite = alive[alive < TOP]
        squared = _novelties(to_unit, self._member[:, finite])
        takers = finite[squared > _SQUARED_RADII[finite]]
        held = self._member.sum(axis=0)

        deaths = [Death(level=int(level), natural=True) for level in takers if held[level] == self.capacity]
        levels = [int(level) for level in takers if held[level] < self.capacity]
        if len(takers) and held[TOP] < self.capacity:
            levels.append(TOP)
        levels, pressed = self._relieve(levels, deaths)
        gone = np.zeros(TOP + 1, bool)
        gone[[death.level for death in deaths + pressed]] = True
        evicted = [u for u, held_by in zip(self._units, self._member, strict=True) if not (held_by & ~gone).any()]

        witness = nearest = squared_novelty = None
        inside = np.flatnonzero(self._member[:, self.smallest_alive])
        if len(inside):
            to_level = to_unit[:, inside]
            witness = int(to_level.min(axis=1).argmax())
            owner = int(to_level[witness].argmin())
            nearest, squared_novelty = self._units[inside[owner]], float(to_level[witness, owner])
        return Decision(
            unit=self._next_unit,
            clusters=clusters,
            levels=tuple(levels),
            deaths=tuple(deaths + pressed),
            evicted=tuple(evicted),
            squared_novelty=squared_novelty,
            witness=witness,
            nearest=nearest,
            radius=self.radius,
        )

    def learn(self, decision: Decision) -> None:
        """Apply a decision that this ladder made in its present state, once it is safe on disk."""
        if decision.empty:
            return
        if decision.unit != self._next_unit:
            raise ValueError(f"decision for unit {decision.unit} applied out of turn: unit {self._next_unit} is next")
        for death in decision.deaths:
            self._alive[death.level] = False
        self._deaths += decision.deaths
        self._member[:, ~self._alive] = False
        if decision.evicted:
            stay = [i for i, unit in enumerate(self._units) if unit not in set(decision.evicted)]
            self._units = [self._units[i] for i in stay]
            self._rows = [self._rows[i] for i in stay]
            self._member = self._member[stay]
        if decision.retain:
            self._units.append(decision.unit)
            self._rows.append(decision.clusters.rows)
            row = np.zeros((1, TOP + 1), bool)
            row[0, list(decision.levels)] = True
            self._member = np.concatenate([self._member, row])
            self._next_unit += 1
        self._refresh()

    # -- the answer ----------------------------------------------------------------------------------------------------

    def selected(
        self, *, row_distances: bool = True, on_pick: Callable[[int], None] | None = None
    ) -> list[SelectedUnit]:
        """The selected order: exact greedy inside the smallest alive level's set, then greedy fill from the rest.

        At most `capacity` units. The order starts with the oldest unit of the level. Greedy over all retained units at
        once would look better and break the certificate; this order never does. `on_pick` is told how many are picked.
        Without `row_distances` every `cluster_squared` is empty, and it is several times faster.
        """
        if not self._units:
            return []
        in_level = self._member[:, self.smallest_alive]
        inside, rest = np.flatnonzero(in_level), np.flatnonzero(~in_level)
        picks = k_center_greedy(
            np.concatenate(self._rows),
            offsets_of(self._rows),
            self.capacity,
            first=int(inside[0]),
            pools=[inside.tolist(), rest.tolist()],
            row_distances=row_distances,
            on_pick=on_pick,
        )
        return [self._as_selected(pick) for pick in picks]

    def _as_selected(self, pick: Pick) -> SelectedUnit:
        return SelectedUnit(
            unit=self._units[pick.unit],
            squared_distance=pick.squared,
            witness=pick.witness,
            cluster_squared=pick.row_squared,
            cover_squared=pick.cover_squared,
        )

    # -- inside --------------------------------------------------------------------------------------------------------

    def _relieve(self, levels: list[int], deaths: list[Death]) -> tuple[list[int], list[Death]]:
        """The pressure rule, asked ahead: which levels must be dropped so that at most `max_retained` units remain."""
        pressed: list[Death] = []
        alive = self._alive.copy()
        alive[[death.level for death in deaths]] = False
        while True:
            held = int((self._member & alive).any(axis=1).sum()) + bool(levels)
            smallest = int(np.argmax(alive))
            if held <= self.max_retained or smallest == TOP:
                return levels, pressed
            alive[smallest] = False
            pressed.append(Death(level=smallest, natural=False))
            levels = [level for level in levels if level != smallest]

    def _nearest_per_unit(self, rows: Rows) -> Float64:
        """Exact squared chord (C, U) from each row to the nearest row of each retained unit."""
        if not self._units:
            return np.empty((len(rows), 0))
        distances = widened_distances(widen(rows), self._wide)
        per_unit: Float64 = np.minimum.reduceat(distances, self._starts, axis=1)
        return per_unit

    def _refresh(self) -> None:
        self._starts = offsets_of(self._rows)[:-1]
        if self._rows:
            self._wide = widen(np.concatenate(self._rows))


_SQUARED_RADII = np.array([r * r for r in RADII] + [math.inf])


def _novelties(to_unit: Float64, member: BoolArray) -> Float64:
    """Squared novelty per level: the largest over clusters of the smallest over the level's units; inf where it is empty.

    to_unit (C, U), member (U, L) -> (L,)
    """
    squared = np.full(member.shape[1], np.inf)
    for level, held in enumerate(member.T):
        if held.any():
            squared[level] = to_unit[:, held].min(axis=1).max()
    return squared
