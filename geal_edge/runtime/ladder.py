"""Streaming selection: one round's ladder of radii, its decisions, its selected order and its certificate.

A ladder runs one guess of the cover radius per level, r_0 < r_1 < ... in steps of 1 %. Each level keeps a list of at most
`capacity` units: a unit that has a cluster farther than r_l from everything in the list joins it; the unit that would be one
too many kills the level, which proves that the guess was too small. Then:

- every seen cluster is within r_l of the list of every alive level l, so the smallest alive radius is a certified cover radius
  (after releases: that of the smallest level whose list still fits into the budget beside them, the answering level);
- a level that died of `capacity + 1` clusters pairwise more than r_l apart proves that no `capacity` single patches cover the
  round better than r_l / 2: the lower bound. (Never a claim against the best `capacity` frames: no factor exists there.)

The top level has no radius and never dies: it takes whatever any other level takes while it has room, outside the
certificate, so that small budgets are spent. A unit is retained while some alive level holds it. The cap on retained units
is kept by the one pressure rule: drop the smallest alive level until it fits; such a death proves nothing, so the radius
rises and the lower bound stays. A disk that has no room for a unit presses by the same rule (`press`).

What the answering level leaves of the budget, and `fill` units of it at least, is the fill's: retained units that bring the
mean chord down the most, outside the certificate too. Farthest first alone spends all on the edge of what was seen, and a
scene within the radius is then never covered closely. The fill is chosen among what the levels retain whenever it is asked
for: nothing is stored for it, nothing is written for it, and no level dies or lives of it.

`score` is pure. `learn` applies a decision in memory, after the spool has it on disk. A ladder is restored from what the
spool stored, bit for bit, and never learns anything twice.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from geal_edge.errors import UsageError
from geal_edge.runtime.baselines import cover_greedily
from geal_edge.runtime.clusters import KnowledgeClusters, Rows
from geal_edge.runtime.distance import Float64, chord, grid_chords, widen, widened_distances
from geal_edge.runtime.kcenter import Pick, k_center_greedy, offsets_of
from geal_edge.runtime.product import product
from geal_edge.runtime.resident import BoolArray, Float32, IntArray, ResidentUnits, squares
from geal_edge.runtime.uncovered import Uncovered

SMALLEST_RADIUS = 0.2
LARGEST_RADIUS = 1.5
STEP = 1.01
RETAINED_PER_BUDGET = 4
"""Retained units at most, per unit of budget; above it the pressure rule acts."""
FEW = 16
"""A release of so many at most is worked out from what the last one knew; of more, the whole order costs less."""
FILL_POINTS = range(128, 1025)
FILL_PAIRS = 2**18
"""Clusters over which the fill reckons: as many as make so many pairs with the retained units, within that range."""


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
    squared_novelty exact squared chord from the witness to its nearest retained cluster, in the answering level; None
                    while that level is empty
    witness         cluster that decided the novelty; None while the level is empty
    nearest         unit that owns the cluster nearest to the witness; None while the level is empty, or a base frame is nearer
    nearest_base    index of the base frame that owns it, where one is as near; else None
    radius          that of the answering level when it was asked (chord); None once only the top level answers
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
    nearest_base: int | None = None

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
class Release:
    """Units that become final, asked before it is learned: the first of the selected order, in that order."""

    picks: "tuple[SelectedUnit, ...]"

    @property
    def units(self) -> tuple[int, ...]:
        return tuple(pick.unit for pick in self.picks)


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
        base: Sequence[Rows] = (),
        released: Sequence[RetainedUnit] = (),
        fill: int = 0,
    ) -> None:
        """`retained` (ascending units), `deaths`, `next_unit` and `released` restore what an earlier ladder had learned.

        capacity  the round's budget
        fill      so many units of it, fewer than all, are not the answering level's
        base      what is covered before the round begins: the rows of each frame of the memory
        released  units that this round has released, in that order, with the levels that held them then; one without rows
                  counts, and covers nothing
        """
        if capacity < 1:
            raise UsageError(f"budget = {capacity}: must be at least 1")
        self.capacity = capacity
        self.max_retained = max_retained if max_retained is not None else RETAINED_PER_BUDGET * capacity
        if self.max_retained < capacity:
            raise UsageError(f"max_retained = {self.max_retained}: must be at least the budget, {capacity}")
        if not 0 <= fill < capacity:
            raise UsageError(f"fill = {fill}: must be from 0 to {capacity - 1}, one less than the budget")
        self.fill = fill
        self._next_unit = next_unit
        self._deaths = tuple(deaths)
        self._alive: BoolArray = np.ones(TOP + 1, bool)
        self._alive[[death.level for death in self._deaths]] = False
        self._base = ResidentUnits()
        for rows in base:
            self._base.add(rows)
        self._released: list[int] = []
        self._released_counts = np.zeros(TOP + 1, np.intp)
        self._held = ResidentUnits()
        self._slots: dict[int, int] = {}  # unit -> slot, ascending units
        self._units: IntArray = np.zeros(0, np.intp)  # slot -> unit
        self._member: BoolArray = np.zeros((0, TOP + 1), bool)  # slot -> the levels that hold its unit
        self._recent: _Recent | None = None
        self._uncovered = Uncovered(self._held, self._base)
        for r in retained:
            self._add(r.unit, r.rows, r.levels)
        for r in released:
            self._finalize(r.unit, r.rows, r.levels)
        self._member[:, ~self._alive] = False
        self._refresh()

    # -- what it knows -------------------------------------------------------------------------------------------------

    @property
    def retained(self) -> tuple[int, ...]:
        """Numbers of the retained units, ascending."""
        return self._retained

    @property
    def deaths(self) -> tuple[Death, ...]:
        return self._deaths

    @property
    def next_unit(self) -> int:
        return self._next_unit

    @property
    def answering(self) -> int:
        """The smallest alive level whose retained units fit into what is left of the budget beside the fill; TOP where none with
        a radius does.

        Without releases and fill that is the smallest alive level.
        """
        return int(self._levels[self._answer])

    @property
    def radius(self) -> float | None:
        """The radius in force: that of the answering level, in chord."""
        level = self.answering
        return None if level == TOP else RADII[level]

    @property
    def released(self) -> tuple[int, ...]:
        """Units that this round has released, in that order."""
        return tuple(self._released)

    @property
    def room(self) -> int:
        """What is left of the budget."""
        return self.capacity - len(self._released)

    @property
    def resident_bytes(self) -> int:
        """Bytes of RAM that the retained units and the base take."""
        return self._held.resident_bytes + self._base.resident_bytes + self._member.nbytes

    def certificate(self) -> Certificate:
        """Levels die out of order, so the bound is the largest natural death, not the neighbour of the alive level."""
        bound = max((RADII[death.level] / 2.0 for death in self._deaths if death.natural), default=0.0)
        return Certificate(radius=self.radius, lower_bound=bound)

    def number_next(self, unit: int) -> None:
        """Give the next retained unit this number, which must be above all others; numbers may be left out."""
        if unit < self._next_unit:
            raise ValueError(f"unit {unit} cannot come next: {self._next_unit} is the smallest free number")
        self._next_unit = unit

    def members(self, level: int) -> tuple[int, ...]:
        """Units that a level holds, in the order in which it took them."""
        return tuple(unit for unit, slot in self._slots.items() if self._member[slot, level])

    def snapshot(self) -> tuple[RetainedUnit, ...]:
        """What `Ladder(retained=..., deaths=..., next_unit=...)` needs to go on as if nothing had happened."""
        return tuple(
            RetainedUnit(
                unit=unit,
                rows=self._held.rows(slot),
                levels=tuple(int(level) for level in np.flatnonzero(self._member[slot])),
            )
            for unit, slot in self._slots.items()
        )

    # -- one unit ------------------------------------------------------------------------------------------------------

    def score(self, clusters: KnowledgeClusters) -> Decision:
        """Say everything that this unit changes, and change nothing.

        What was measured on the way is remembered as bounds for the next frame: they save work and change no answer.
        """
        measured = self._measure(clusters.rows)
        takers = self._takers(measured)
        deaths: list[Death] = []
        pressed: list[Death] = []
        levels: list[int] = []
        evicted: list[int] = []
        if takers:
            full = [level for level in takers if self._held_in_all[level] >= self.capacity or not self.room]
            deaths = [Death(level=level, natural=self._held_in_all[level] >= self.capacity) for level in full]
            levels = [level for level in takers if level not in full]
            if self._counts[TOP] < self.room:
                levels.append(TOP)
            levels, pressed = self._relieve(levels, deaths)
            evicted = self._evicted_by(deaths + pressed)
        witness, nearest, nearest_base, squared_novelty = self._novelty(measured)
        return Decision(
            unit=self._next_unit,
            clusters=clusters,
            levels=tuple(levels),
            deaths=tuple(deaths + pressed),
            evicted=tuple(evicted),
            squared_novelty=squared_novelty,
            witness=witness,
            nearest=nearest,
            nearest_base=nearest_base,
            radius=self.radius,
        )

    def press(self, decision: Decision, *, needed: int, own: int, sizes: Mapping[int, int]) -> Decision | None:
        """The same decision where the disk has no room for it: the smallest alive levels are given up until what no level
        holds any more frees enough. None where even that is not enough: then nothing may be given up for it.

        needed  bytes that must come free, `own` of the unit in hand among them
        sizes   bytes that each retained unit would free; one that is not named frees nothing

        The last level with a radius is never given up: without it the round would retain nothing more.
        """
        pressed = list(decision.deaths)
        alive = self._alive.copy()
        alive[[death.level for death in pressed]] = False
        while True:
            levels = tuple(level for level in decision.levels if alive[level])
            evicted = self._evicted_by(pressed)
            if sum(sizes.get(unit, 0) for unit in evicted) + (0 if levels else own) >= needed:
                return replace(decision, levels=levels, deaths=tuple(pressed), evicted=tuple(evicted))
            smallest, *others = np.flatnonzero(alive[:TOP]).tolist() or [TOP]
            if not others:
                return None
            alive[smallest] = False
            pressed.append(Death(level=smallest, natural=False))

    def learn(self, decision: Decision) -> None:
        """Apply a decision that this ladder made in its present state, once it is safe on disk."""
        if decision.empty:
            return
        if decision.unit != self._next_unit:
            raise ValueError(f"decision for unit {decision.unit} applied out of turn: unit {self._next_unit} is next")
        self._bury(decision.deaths, decision.evicted)
        if decision.retain:
            self._add(decision.unit, decision.clusters.rows, decision.levels)
            self._next_unit += 1
            if self._recent is not None and np.array_equal(self._recent.rows, decision.clusters.rows):
                self._recent.chords[:, list(decision.levels)] = 0.0  # its own rows are in these levels now
        self._refresh()

    def release(self, count: int, *, beyond: float = -1.0) -> Release:
        """The first `count` units of the selected order, which may become final; this changes nothing.

        They will be part of the base and spend the budget. Levels that hold more than what is left of it do not answer any
        more, but they live on: what they hold may still be selected, and what they take is how the rest of the round is known.
        Fewer than `count` where the order comes to units that lie within the chord `beyond` of those before them.
        """
        count, inside = min(count, self.room), int(self._counts[self.answering])
        if self.radius is not None and beyond >= self.radius:
            count = min(count, inside)  # all else that is retained lies within the radius of these
        few = count <= min(inside, FEW)
        first = self._first(count, beyond) if few else self.selected(row_distances=False)[:count]
        picks = takewhile(lambda pick: pick.witness is None or chord(pick.squared_distance) > beyond, first)
        return Release(picks=tuple(picks))

    def _first(self, count: int, beyond: float) -> Iterator["SelectedUnit"]:
        """The first of the selected order, out of the answering level: the same units as `selected` gives, for the price of
        what has changed since it was asked last."""
        slots = np.fromiter(self._slots.values(), np.intp, len(self._slots))
        order = self._uncovered.begin(slots, self._units[slots])
        left = np.ones(len(slots), bool)
        inside = self._member[slots, self.answering]
        for _ in range(count):
            squared, index, row = order.farthest(left & inside)
            left[index] = False
            known = math.isfinite(squared)
            if known and squared > 0.0 and chord(squared) <= beyond:
                return  # it would be left out: what it covers need not be worked out
            order.cover(index)
            yield SelectedUnit(
                unit=self._retained[index],
                squared_distance=squared if known else 0.0,
                witness=row if known and squared > 0.0 else None,
                cluster_squared=(),
                cover_squared=order.farthest(left)[0] if left.any() else 0.0,
            )

    def learn_release(self, release: Release) -> None:
        """Apply a release that this ladder worked out in its present state, once it is safe on disk."""
        for unit in release.units:
            slot = self._slots[unit]
            self._finalize(unit, self._held.rows(slot), np.flatnonzero(self._member[slot]).tolist())
            self._remove(unit)
        self._refresh()

    # -- the answer ----------------------------------------------------------------------------------------------------

    def selected(
        self, *, row_distances: bool = True, on_pick: Callable[[int], None] | None = None
    ) -> list[SelectedUnit]:
        """The selected order: exact greedy inside the answering level's set, then the fill from the rest: each unit brings the
        mean chord from the retained clusters to the base and the order so far down the most (`fill_step` says which of them).

        At most `room` units. The order starts with the oldest unit of the level, or with the farthest from the base where
        there is one. Greedy over all retained units at once would look better and break the certificate; this order never
        does. `on_pick` is told how many are picked. Without `row_distances`, which cost more than the order itself, every
        `cluster_squared` is empty.
        """
        if not self._slots or not self.room:
            return []
        slots = list(self._slots.values())
        rows = [self._held.rows(slot) for slot in slots]
        in_level = self._member[slots, self.answering]
        inside, rest = np.flatnonzero(in_level), np.flatnonzero(~in_level)
        base = [self._base.rows(slot) for slot in range(self._base.count)]
        fill = _fill_order(rows, inside, rest, self._base, self.room - len(inside))
        picks = k_center_greedy(
            np.concatenate(rows),
            offsets_of(rows),
            self.room,
            first=None if base or not len(inside) else int(inside[0]),
            pools=[pool for pool in (inside.tolist(), *([unit] for unit in fill)) if pool],
            known=np.concatenate(base) if base else None,
            row_distances=row_distances,
            on_pick=on_pick,
        )
        return [self._as_selected(pick) for pick in picks]

    def _as_selected(self, pick: Pick) -> SelectedUnit:
        return SelectedUnit(
            unit=self._retained[pick.unit],
            squared_distance=pick.squared,
            witness=pick.witness,
            cluster_squared=pick.row_squared,
            cover_squared=pick.cover_squared,
        )

    # -- what a unit would change --------------------------------------------------------------------------------------

    def _takers(self, measured: "_Measured") -> list[int]:
        """The finite alive levels that have a cluster of the unit outside their radius, ascending."""
        farthest = measured.near[measured.done].max(axis=0)  # per alive level
        takers = []
        for column, level in enumerate(self._levels[:-1]):
            squared_radius = _SQUARED_RADII[level]
            if farthest[column] - self._error > squared_radius:
                takers.append(int(level))
            elif farthest[column] + self._error > squared_radius:
                close = measured.done & (measured.near[:, column] + self._error > squared_radius)
                if any(self._settle(measured, int(c), column)[0] > squared_radius for c in np.flatnonzero(close)):
                    takers.append(int(level))
        return takers

    def _novelty(self, measured: "_Measured") -> tuple[int | None, int | None, int | None, float | None]:
        """(witness, nearest unit, nearest base frame, exact squared novelty) in the answering level; Nones while there is
        nothing to be far from."""
        if not (self._counts[self.answering] or self._base.count):
            return None, None, None, None
        near = measured.near[:, self._answer]
        candidates = np.flatnonzero(measured.done & (near >= near[measured.done].max() - 2.0 * self._error))
        settled = [(int(c), *self._settle(measured, int(c), self._answer)) for c in candidates]
        witness, squared, nearest, nearest_base = max(settled, key=lambda each: each[1])  # the first of equals
        return witness, nearest, nearest_base, squared

    def _settle(self, measured: "_Measured", cluster: int, column: int) -> tuple[float, int | None, int | None]:
        """(exact squared distance, its unit or None, its base frame or None) from a cluster to the nearest row of an alive level.

        A base frame is named where it is as near as the level's nearest unit: it is the older one.
        """
        inside = self._member[: self._held.count, self._levels[column]]
        limit = measured.near[cluster, column] + 2.0 * self._error
        row = measured.rows[cluster]
        units = np.flatnonzero(inside & (measured.to_slot[:, cluster] <= limit))
        frames = np.flatnonzero(measured.to_base[:, cluster] <= limit)
        to_units, to_frames = self._held.exact(row, units), self._base.exact(row, frames)
        squared = min(to_units.min(initial=np.inf), to_frames.min(initial=np.inf))
        if (to_frames == squared).any():
            return float(squared), None, int(frames[to_frames.argmin()])
        return float(squared), int(self._units[units][to_units == squared].min()), None

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

    def _evicted_by(self, deaths: list[Death]) -> list[int]:
        """Retained units that no level holds once these have died, ascending."""
        if not deaths:
            return []
        alive = self._alive.copy()
        alive[[death.level for death in deaths]] = False
        held: BoolArray = np.any(self._member & alive, axis=1)
        return [unit for unit, slot in self._slots.items() if not held[slot]]

    # -- distances -----------------------------------------------------------------------------------------------------

    def _measure(self, rows: Rows) -> "_Measured":
        """Distances of the clusters that can matter: those that some alive level might take, and the farthest of the smallest.

        The bounds of the last frame prove that the others lie within every alive radius and below the novelty.
        """
        wide = rows.astype(np.float32)
        bounds, hints = self._bounds(wide)
        near = np.full(bounds.shape, np.inf, np.float32)
        to_slot = np.empty((self._held.count, len(rows)), np.float32)
        to_base = np.full((self._base.count, len(rows)), np.inf, np.float32)
        done = np.zeros(len(rows), bool)
        todo: BoolArray = np.any(bounds[:, :-1] > self._radii, axis=1)
        if not todo.any():
            todo[bounds[:, self._answer].argmax()] = True
        while todo.any():
            per_slot, per_row = self._held.nearest_with_rows(wide[todo])
            to_slot[:, todo] = per_slot
            if len(self._occupied):
                per_level = np.minimum.reduceat(per_slot[self._gather], self._starts, axis=0)
                near[np.ix_(todo, self._occupied)] = per_level.T
                hints[todo] = _nearest_rows(per_slot, per_row)
            if self._base.count:
                to_base[:, todo] = self._base.nearest(wide[todo])
                near[todo] = np.minimum(near[todo], to_base[:, todo].min(axis=0)[:, None])
            done |= todo
            lowest = math.sqrt(max(0.0, float(near[done, self._answer].max()) - self._error))
            todo = ~done & (bounds[:, self._answer] >= lowest)
        bounds[done] = np.sqrt(np.maximum(near[done], 0.0) + self._error) + ROUNDING
        chords = np.full((len(rows), TOP + 1), np.inf)
        chords[:, self._levels] = bounds
        self._recent = _Recent(rows=wide, chords=chords, hints=hints)
        return _Measured(rows=wide, near=near, to_slot=to_slot, to_base=to_base, done=done)

    def _bounds(self, rows: Float32) -> "tuple[Float64, IntArray]":
        """Upper bounds (C, alive levels) of the chord from each cluster to each level, and rows (C, HINTS, 2) that may be near.

        By way of the last frame's nearest cluster (the triangle inequality), and of the rows that were nearest to that one.
        """
        bounds = np.full((len(rows), len(self._levels)), np.inf)
        hints = np.zeros((len(rows), HINTS, 2), np.intp)
        recent = self._recent
        if recent is None:
            return bounds, hints
        error = self._error
        apart = squares(rows)[:, None] + squares(recent.rows) - 2.0 * product(rows, recent.rows.T)
        match = apart.argmin(axis=1)
        step = np.sqrt(np.maximum(apart[np.arange(len(rows)), match], 0.0).astype(np.float64) + error)
        bounds = recent.chords[np.ix_(match, self._levels)] + (step + ROUNDING)[:, None]
        if not self._held.count:
            return bounds, hints
        hints = recent.hints[match]
        slots, within = hints[..., 0], hints[..., 1]
        to_hint = self._held.to_rows(rows, slots, within).astype(np.float64)
        chords = np.sqrt(np.maximum(to_hint, 0.0) + error) + ROUNDING
        member = self._member[slots][..., self._levels]  # (C, HINTS, alive levels)
        by_hint = np.where(member, chords[..., None], np.inf).min(axis=1)
        return np.minimum(bounds, by_hint), hints

    # -- inside --------------------------------------------------------------------------------------------------------

    def _add(self, unit: int, rows: Rows, levels: Sequence[int]) -> None:
        slot = self._held.add(rows)
        self._uncovered.renew(slot)
        if slot >= len(self._units):
            grown = max(16, 2 * slot)
            self._units = np.concatenate([self._units, np.zeros(grown - len(self._units), np.intp)])
            self._member = np.concatenate([self._member, np.zeros((grown - len(self._member), TOP + 1), bool)])
        self._slots[unit] = slot
        self._units[slot] = unit
        self._member[slot] = False
        self._member[slot, list(levels)] = True

    def _finalize(self, unit: int, rows: Rows, levels: Sequence[int]) -> None:
        if len(rows):
            self._base.add(rows)
        self._released.append(unit)
        self._released_counts[list(levels)] += 1

    def _bury(self, deaths: Iterable[Death], evicted: Iterable[int]) -> None:
        for death in deaths:
            self._alive[death.level] = False
            self._deaths += (death,)
        self._member[:, ~self._alive] = False
        for unit in evicted:
            self._remove(unit)

    def _remove(self, unit: int) -> None:
        slot = self._slots.pop(unit)
        self._member[slot] = False
        self._held.remove(slot)

    def _refresh(self) -> None:
        """What every frame asks of the state, worked out when it changes."""
        self._retained = tuple(self._slots)
        self._error = max(self._held.error, self._base.error)
        self._counts = self._member.sum(axis=0)
        self._held_in_all = self._counts + self._released_counts
        self._levels = np.flatnonzero(self._alive)
        places = max(0, self.room - self.fill)
        self._answer = int(np.argmax((self._counts[self._levels] <= places) | (self._levels == TOP)))
        self._radii = np.array([RADII[level] for level in self._levels[:-1]])
        # Members of each alive level that has some, one level after another: one gather and one reduction serve all levels.
        columns, self._gather = np.nonzero(self._member[:, self._levels].T)
        self._occupied, self._starts = np.unique(columns, return_index=True)


HINTS = 8
"""Rows remembered per cluster as likely to be near the same thing in the next frame; any row gives a valid bound."""
ROUNDING = 1e-9
"""Far above what roots and sums of chords round by in float64, far below what separates radii."""
_SQUARED_RADII = np.array([r * r for r in RADII] + [math.inf])


@dataclass(slots=True, kw_only=True)
class _Recent:
    """The last frame, as bounds for the next: its rows fp32 (C, D), upper bounds of their chords (C, TOP + 1) to every level, and
    rows near them, (C, HINTS, 2) as slot and row within it. Alive levels never lose a unit, so the bounds stay true."""

    rows: Float32
    chords: Float64
    hints: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """A unit's distances, filtered in fp32: rows (C, D); squared near (C, alive levels), to_slot and to_base (slots, C), for the
    clusters that are `done`; the others lie within every alive radius and nearer than the novelty."""

    rows: Float32
    near: Float32
    to_slot: Float32
    to_base: Float32
    done: BoolArray


def fill_step(clusters: int, units: int) -> int:
    """The fill reckons over every so-manieth of the clusters of so many retained units.

    >>> fill_step(600, 40), fill_step(5000, 200), fill_step(40_000, 1600), fill_step(200_000, 8000)
    (1, 5, 246, 1563)
    """
    points = min(max(FILL_PAIRS // max(1, units), FILL_POINTS[0]), FILL_POINTS[-1])
    return max(1, -(-clusters // points))


def _fill_order(rows: Sequence[Rows], inside: IntArray, rest: IntArray, base: ResidentUnits, count: int) -> list[int]:
    """At most `count` indices of `rest`, each bringing the mean chord the most down after those before it: over every cluster of
    `rows` (one item a unit), or every n-th, to what is covered. `base` and the units `inside` are covered before."""
    if count <= 0 or not len(rest):
        return []
    every = np.concatenate(rows)
    points = every[:: fill_step(len(every), len(rows))]
    wide = widen(points)

    def chords_to(unit: int) -> Float32:
        return grid_chords(widened_distances(wide, widen(rows[unit])).min(axis=1)).astype(np.float32)

    nearest = grid_chords(base.exact_nearest(points.astype(np.float32), 0, base.count))  # 2 where there is no base
    for unit in inside:
        nearest = np.minimum(nearest, chords_to(unit))
    chords = {unit: chords_to(unit) for unit in rest.tolist()}
    return cover_greedily(lambda unit: chords[unit].astype(np.float64), nearest, count, units=rest.tolist())


def _nearest_rows(per_slot: Float32, per_row: Float32) -> IntArray:
    """The nearest row of each of the HINTS nearest slots: (C, HINTS, 2) as slot and row within it."""
    count = min(HINTS, len(per_slot))
    slots = np.argpartition(per_slot, count - 1, axis=0)[:count].T  # (C, count)
    within = per_row[:, slots, np.arange(per_slot.shape[1])[:, None]].argmax(axis=0)
    return np.stack([slots, within], axis=2)[:, np.arange(HINTS) % count]
