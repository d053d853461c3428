"""What is held and not covered yet: the rows that lie farthest from a base that grows, remembered from question to question.

A row's distance to the base only falls, so what it was some units of the base ago is a bound. A row meets what has joined the
base since only while its bound is among the largest, so a question costs what has changed and not the whole base. The answers
are exact, and those of comparing everything with everything.
"""

import numpy as np

from geal_edge.runtime.distance import Float64, squared_distances
from geal_edge.runtime.resident import BoolArray, IntArray, ResidentUnits

BATCH = 256
"""Rows that are compared with the base together."""
FIRST_UNITS = 64
"""They meet so many units of the base at first, then twice as many: few need the rest."""


class Uncovered:
    """The rows of `held` by their distance to the nearest row of `base`, to which units may be added and none removed.

    >>> held, base = ResidentUnits(), ResidentUnits()
    >>> for row in [(1, 0), (0, 1), (-1, 0)]:
    ...     _ = held.add(np.array([row], np.float16))
    >>> _ = base.add(np.array([[1, 0]], np.float16))
    >>> order = Uncovered(held, base).begin(np.arange(3), np.array([7, 8, 9]))
    >>> order.farthest(np.ones(3, bool))  # squared distance, slot, row of its unit
    (4.0, 2, 0)
    >>> order.cover(2)
    >>> order.farthest(np.ones(3, bool))
    (2.0, 1, 0)
    """

    def __init__(self, held: ResidentUnits, base: ResidentUnits) -> None:
        self._held, self._base = held, base
        self._bound: Float64 = np.empty((0, 0))  # (rows of a unit, slots): exact to the first `seen` units of the base
        self._seen: IntArray = np.empty((0, 0), np.intp)

    def renew(self, slot: int) -> None:
        """The slot holds another unit now."""
        self._reserve()
        self._bound[:, slot] = np.inf
        self._seen[:, slot] = 0

    def begin(self, slots: IntArray, units: IntArray) -> "Order":
        """An order over these slots of `held`, whose numbers are `units`, that leaves the base as it is."""
        self._reserve()
        return Order(self, slots, units)

    def meet(self, rows: IntArray, slots: IntArray, floor: float) -> None:
        """Compare rows (n,) of units in `slots` (n,) that have seen as much as each other with the rest of the base, as long as
        their bounds are not below `floor`."""
        wide = self._held.wide(rows, slots)
        begin, count = int(self._seen[rows[0], slots[0]]), FIRST_UNITS
        while begin < self._base.count and len(rows):
            end = min(begin + count, self._base.count)
            nearest = self._base.exact_nearest(wide, begin, end)
            self._bound[rows, slots] = np.minimum(self._bound[rows, slots], nearest)
            self._seen[rows, slots] = end
            stay = self._bound[rows, slots] >= floor
            rows, slots, wide = rows[stay], slots[stay], wide[stay]
            begin, count = end, 2 * count

    def _reserve(self) -> None:
        old, shape = self._bound.shape, self._held.shape
        if old != shape:
            bound, seen = np.full(shape, np.inf), np.zeros(shape, np.intp)
            bound[: old[0], : old[1]], seen[: old[0], : old[1]] = self._bound, self._seen
            self._bound, self._seen = bound, seen


class Order:
    """Units of `Uncovered` as they are picked one by one: what was picked covers too."""

    def __init__(self, uncovered: Uncovered, slots: IntArray, units: IntArray) -> None:
        self._of = uncovered
        self._slots, self._units = slots, units
        self._picked: Float64 = np.full(uncovered._bound.shape, np.inf)  # to what was picked, where that is nearer
        self._own = np.arange(len(self._picked))[:, None] < uncovered._held.sizes[slots]  # (rows of a unit, n)

    def farthest(self, among: BoolArray) -> tuple[float, int, int]:
        """(squared distance, index into `slots`, row of its unit) of the row farthest from the base and what was picked, of the
        units `among` (n,); of equals the lowest unit's first. inf where nothing covers."""
        of, base = self._of, self._of._base.count
        rows, which = np.nonzero(self._own & among)
        slots = self._slots[which]
        while True:
            values = np.minimum(of._bound[rows, slots], self._picked[rows, slots])
            seen = of._seen[rows, slots]
            fresh = seen == base
            floor = float(values[fresh].max(initial=-1.0))
            stale = np.flatnonzero(~fresh & (values >= floor))
            if not len(stale):
                break
            alike = stale[seen[stale] == seen[stale[values[stale].argmax()]]]
            if len(alike) > BATCH:
                alike = alike[np.argpartition(-values[alike], BATCH)[:BATCH]]
            of.meet(rows[alike], slots[alike], floor)
        equals = np.flatnonzero(values == values.max())
        first = equals[np.lexsort((rows[equals], self._units[which[equals]]))[0]]
        return float(values[first]), int(which[first]), int(rows[first])

    def cover(self, index: int) -> None:
        """The unit at this index of `slots` is picked."""
        of, slot = self._of, int(self._slots[index])
        centres = of._held.rows(slot)
        near = of._held.to_each(centres.astype(np.float32))  # (rows of a unit, slots)
        value = np.minimum(of._bound, self._picked)
        close = near[:, self._slots] - of._held.error < value[:, self._slots]
        rows, which = np.nonzero(close & self._own)
        slots = self._slots[which]
        for begin in range(0, len(rows), 16 * BATCH):
            part = slice(begin, begin + 16 * BATCH)
            wide = of._held.wide(rows[part], slots[part]).astype(np.float16)
            exact = squared_distances(wide, centres).min(axis=1)
            self._picked[rows[part], slots[part]] = np.minimum(self._picked[rows[part], slots[part]], exact)
