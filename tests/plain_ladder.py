"""The ladder in its plainest form: every level asks every unit, in float64. What the real one must answer, bit for bit."""

from dataclasses import dataclass, field

import numpy as np

from geal_edge.runtime.clusters import KnowledgeClusters, Rows
from geal_edge.runtime.distance import grid_chords, squared_distances
from geal_edge.runtime.ladder import RADII, TOP, fill_step


@dataclass
class PlainLadder:
    budget: int
    base: list[Rows] = field(default_factory=list)
    max_retained: int = 10**9
    fill: int = 0
    rows: dict[int, Rows] = field(default_factory=dict)
    levels: dict[int, list[int]] = field(default_factory=lambda: {level: [] for level in range(TOP + 1)})
    released: list[tuple[int, list[int]]] = field(default_factory=list)
    natural: list[int] = field(default_factory=list)
    next_unit: int = 1

    @property
    def room(self) -> int:
        return self.budget - len(self.released)

    @property
    def retained(self) -> list[int]:
        return sorted({unit for members in self.levels.values() for unit in members})

    @property
    def answering(self) -> int:
        places = max(0, self.room - self.fill)
        return min(x for x, members in self.levels.items() if x == TOP or len(members) <= places)

    def selected(self) -> list[int]:
        """Farthest first inside the answering level, then what lowers the mean most: no early stop, nothing held."""
        retained = self.retained
        covered: list[Rows] = list(self.base)
        order: list[int] = []

        def farthest(unit: int) -> float:
            return float(
                np.min([squared_distances(self.rows[unit], rows).min(axis=1) for rows in covered], axis=0).max()
            )

        def mean(unit: int) -> float:
            near = [squared_distances(points, rows).min(axis=1) for rows in [*covered, self.rows[unit]]]
            return float(grid_chords(np.min(near, axis=0)).sum())

        points = np.concatenate([self.rows[unit] for unit in retained]) if retained else np.empty((0, 1), np.float16)
        points = points[:: fill_step(len(points), len(retained))]
        left = [unit for unit in self.levels[self.answering] if unit in retained]
        rest = [unit for unit in retained if unit not in left]
        for pool, best in ((sorted(left), farthest), (rest, lambda unit: -mean(unit))):
            while pool and len(order) < self.room:
                unit = max(pool, key=best) if covered or best is not farthest else pool[0]
                pool.remove(unit)
                order.append(unit)
                covered.append(self.rows[unit])
        return order

    def novelties(self, rows: Rows) -> dict[int, float]:
        """level -> squared novelty; a unit is asked once for all the levels that hold it."""
        to_unit = {unit: squared_distances(rows, self.rows[unit]).min(axis=1) for unit in self.retained}
        to_base = [squared_distances(rows, frame).min(axis=1) for frame in self.base]
        found = {}
        for level, members in self.levels.items():
            near = [*to_base, *(to_unit[unit] for unit in members)]
            found[level] = float(np.min(near, axis=0).max()) if near else np.inf
        return found

    def see(self, clusters: KnowledgeClusters) -> tuple[int | None, float, list[int]]:
        """(number under which it is retained, squared novelty, units evicted)"""
        before, novelties = self.retained, self.novelties(clusters.rows)
        novelty = novelties[self.answering]
        takers = [x for x in self.levels if x < TOP and novelties[x] > RADII[x] ** 2]
        taken = False
        for level in takers:
            if len(self.levels[level]) + sum(level in levels for _, levels in self.released) >= self.budget:
                self.natural.append(level)
                del self.levels[level]
            elif self.room:
                self.levels[level].append(self.next_unit)
                taken = True
            else:
                del self.levels[level]
        if takers and len(self.levels[TOP]) < self.room:
            self.levels[TOP].append(self.next_unit)
            taken = True
        while len(self.retained) > self.max_retained and min(self.levels) < TOP:
            del self.levels[min(self.levels)]
        number = None
        if taken:
            self.rows[self.next_unit] = clusters.rows
            number = self.next_unit if self.next_unit in self.retained else None
            self.next_unit += 1
        return number, novelty, [unit for unit in before if unit not in self.retained]

    def press(self, needed: int, own: int, sizes: dict[int, int], clusters: KnowledgeClusters) -> bool:
        """The pressure rule after `see`, asked anew for every level. Whether it fits in the end; else all is as it was."""
        levels = {level: list(members) for level, members in self.levels.items()}
        before, number, natural = self.retained, self.next_unit, list(self.natural)
        self.see(clusters)
        while True:
            retained = self.retained
            freed = sum(sizes[unit] for unit in before if unit not in retained)
            if freed + (0 if number in retained else own) >= needed:
                if number not in retained:
                    self.next_unit = number  # not retained after all: the number is the next one's
                return True
            if len([level for level in self.levels if level < TOP]) <= 1:
                self.levels, self.next_unit, self.natural = levels, number, natural
                return False
            del self.levels[min(self.levels)]

    def release(self, units: list[int]) -> None:
        for unit in units:
            self.released.append((unit, [level for level, members in self.levels.items() if unit in members]))
            self.base.append(self.rows[unit])
            for members in self.levels.values():
                if unit in members:
                    members.remove(unit)
