"""Pool selection: exact K-Center-Greedy over knowledge clusters (paper section 3.3, Eq. 4), in its plain GEMM form.

A unit (frame) is a set of rows. Each pick is the unit that owns the row farthest from all rows of the units picked before.
Ties: larger distance, then lower row, so the picks are a function of the fp16 rows and nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import UsageError
from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.distance import Float64, widen, widened_distances

IntArray: TypeAlias = npt.NDArray[np.intp]

WIDE_BYTES = 512 << 20
"""Pools whose float64 copy fits are widened once; larger ones block by block at every pick."""
BLOCK_ROWS = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One pick, in order.

    unit         index of the unit in the pool
    squared      exact squared chord from its witness to the nearest row picked before; 0.0 for the first
    witness      index of that row within the unit; None for the first (it had nothing to be far from) and for exact copies
    row_squared  the same distance for each of its rows: what of the unit was new, and what was not; empty for the first
    """

    unit: int
    squared: float
    witness: int | None
    row_squared: tuple[float, ...] = ()


def offsets_of(units: Sequence[Rows]) -> IntArray:
    """Row offsets (n + 1,) of units laid one after another."""
    return np.concatenate([[0], np.cumsum([len(rows) for rows in units], dtype=np.intp)]).astype(np.intp)


def k_center_greedy(
    rows: Rows,
    offsets: IntArray,
    budget: int,
    *,
    first: int,
    pools: Sequence[Sequence[int]] | None = None,
    on_pick: Callable[[int], None] | None = None,
) -> list[Pick]:
    """Exact K-Center-Greedy; every prefix of the result is the selection of that size.

    rows     fp16 (R, D), canonical; unit u owns rows offsets[u]:offsets[u + 1], at least one
    offsets  (n + 1,) ascending
    budget   picks wanted; a budget of n or more orders all n units
    first    the unit to begin with (the paper draws it: `draw_first`)
    pools    sets of unit indices, each used up before the next is touched; `first` is in the first. Default: one pool of all
    on_pick  called with the number of picks so far

    Where only exact copies of picked rows are left, units come by lowest index at distance 0: nothing asserts on data.

    >>> x = np.array([[1, 0], [0, 1], [-1, 0], [0, 1]], np.float16)
    >>> [(p.unit, p.squared) for p in k_center_greedy(x, np.arange(5), 4, first=0)]
    [(0, 0.0), (2, 4.0), (1, 2.0), (3, 0.0)]
    """
    count = len(offsets) - 1
    if budget < 1:
        raise UsageError(f"budget = {budget}: must be at least 1")
    if count == 0:
        return []
    distances = _Distances(rows)
    owner = np.repeat(np.arange(count), np.diff(offsets))
    picks: list[Pick] = []
    for pool in pools if pools is not None else [range(count)]:
        open_units = np.zeros(count, bool)
        open_units[list(pool)] = True
        open_rows = open_units[owner]
        while len(picks) < budget and open_units.any():
            if not picks:
                pick = Pick(unit=first, squared=0.0, witness=None)
            else:
                row = int(np.where(open_rows, distances.nearest, -1.0).argmax())
                unit = int(owner[row])
                squared = float(distances.nearest[row])
                pick = Pick(
                    unit=unit,
                    squared=squared,
                    witness=row - int(offsets[unit]) if squared > 0.0 else None,
                    row_squared=tuple(distances.nearest[offsets[unit] : offsets[unit + 1]].tolist()),
                )
            picks.append(pick)
            begin, end = int(offsets[pick.unit]), int(offsets[pick.unit + 1])
            open_units[pick.unit] = False
            open_rows[begin:end] = False
            distances.add(rows[begin:end])
            if on_pick is not None:
                on_pick(len(picks))
    return picks


def draw_first(count: int, seed: int) -> int:
    """The seeded draw of a pool's first unit; the authors draw it unseeded."""
    return int(np.random.default_rng(seed).integers(count))


class _Distances:
    """For every row the exact squared distance to the nearest picked row; falls with each `add`."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._wide = widen(rows) if rows.size * 8 <= WIDE_BYTES else None
        self.nearest: Float64 = np.full(len(rows), np.inf)

    def add(self, picked: Rows) -> None:
        centres = widen(picked)
        for begin in range(0, len(self._rows), BLOCK_ROWS):
            block = slice(begin, begin + BLOCK_ROWS)
            part = (self._wide[0][block], self._wide[1][block]) if self._wide else widen(self._rows[block])
            closest = widened_distances(part, centres).min(axis=1)
            np.minimum(self.nearest[block], closest, out=self.nearest[block])
