"""The ladder in its plainest form: every level asks every row, in float64. What the real one must answer, bit for bit."""

from dataclasses import dataclass, field

import numpy as np

from geal_edge.runtime.clusters import KnowledgeClusters, Rows
from geal_edge.runtime.distance import squared_distances
from geal_edge.runtime.ladder import RADII, TOP


@dataclass
class PlainLadder:
    budget: int
    base: list[Rows] = field(default_factory=list)
    max_retained: int = 10**9
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
    def smallest(self) -> int:
        return min(self.levels)

    def novelty(self, rows: Rows, level: int) -> float:
        known = [*self.base, *(self.rows[unit] for unit in self.levels[level])]
        return float(squared_distances(rows, np.concatenate(known)).min(axis=1).max()) if known else np.inf

    def see(self, clusters: KnowledgeClusters) -> tuple[int | None, float, list[int]]:
        """(number under which it is retained, squared novelty, units evicted)"""
        before, novelty = self.retained, self.novelty(clusters.rows, self.smallest)
        takers = [x for x in self.levels if x < TOP and self.novelty(clusters.rows, x) > RADII[x] ** 2]
        taken = False
        for level in takers:
            if len(self.levels[level]) < self.room:
                self.levels[level].append(self.next_unit)
                taken = True
            else:
                of_level = len(self.levels[level]) + sum(level in levels for _, levels in self.released)
                if of_level >= self.budget:
                    self.natural.append(level)
                del self.levels[level]
        if takers and len(self.levels[TOP]) < self.room:
            self.levels[TOP].append(self.next_unit)
            taken = True
        while len(self.retained) > self.max_retained and self.smallest < TOP:
            del self.levels[self.smallest]
        number = None
        if taken:
            self.rows[self.next_unit] = clusters.rows
            number = self.next_unit if self.next_unit in self.retained else None
            self.next_unit += 1
        return number, novelty, [unit for unit in before if unit not in self.retained]

    def release(self, units: list[int]) -> None:
        for unit in units:
            self.released.append((unit, [level for level, members in self.levels.items() if unit in members]))
            self.base.append(self.rows[unit])
            for members in self.levels.values():
                if unit in members:
                    members.remove(unit)
        for level in [x for x, members in self.levels.items() if x < TOP and len(members) > self.room]:
            del self.levels[level]
