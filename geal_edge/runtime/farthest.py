"""The farthest row of a pool from a growing set of centres, found lazily and exactly (fp16 rows, DESIGN section 5).

A row's distance to the nearest centre only falls, so what it was some centres ago is an upper bound. The row with the largest
bound is compared with the centres that it has not seen; once its bound is below the largest distance that is known to be
true, it cannot be the farthest, and the comparison stops. Most rows are settled by a hint: the centres that lately took
rows from the cell (the nearest centre so far) to which it belongs, or those to which the rows beside it in the pool belong,
since frames that follow each other show the same things. Hints only tighten bounds; they never decide.

Everything is done many rows at a time. fp32 products sort out what cannot matter, with the error bound of `affinity_error`; every
distance that is remembered is computed in float64, where it is exact, so the answer is that of the naive form to the last bit.
Threads share the rows out in parts whose sizes do not depend on how many threads there are: nor does anything that is found.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.runtime.clusters import IntArray, Rows
from geal_edge.runtime.compiled import loops
from geal_edge.runtime.distance import Float64, affinity_error
from geal_edge.runtime.product import product

Float32: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

BLOCK_ROWS = 8192
BLOCK_CENTRES = 128
FIRST_CENTRES = 64
"""Every row is compared with the first so many."""
WORKING_SET = 8192
"""Rows of the largest bounds that are looked at together."""
FRESH_ROWS = 256
"""Rows whose distance is up to date, at most: with every pick they are compared with its centres."""
SETTLED_ROWS = 1024
LARGE_BLOCK = 2048
HINTED_ROWS = 512
SCANNED_ROWS = 32
"""Rows at a time that are compared with all they have not seen: one of a cell, since the others may follow from a hint."""
SCANNED_MOST = 128
CENTRES_PER_SCANNED = 512
"""More rows at a time where centres are many: a few more distances, of which two threads compute twice as many a second."""
PART_ROWS = 32
HINTED_PART = 128
"""Rows that one thread looks at."""
NEIGHBOURS = 50
"""Rows before and behind one in the pool that it asks for their centres: two frames of 25."""
HINTS = 32
COMPILE_FROM = 10**9
"""Distances of the full form from which compiling loops (some seconds) pays."""
HINT_ROUNDS = 4
HINT_STEPS = ((1, 3), (3, 9), (9, HINTS + 1))
"""So many back: the newest hints are asked first, and mostly settle it."""


class Bounds:
    """Every row's exact squared distance to the nearest of some centres: an upper bound of that to the nearest of all.

    bound   float64 (R,): to the nearest of the first seen[r] centres, and perhaps of further ones
    seen    (R,): so many centres, in the order in which they were added, are in the bound
    cell    (R,): the centre that gave the bound
    evaluations  distances computed so far, fp32 and float64 together
    """

    def __init__(self, rows: Rows, capacity: int) -> None:
        """`capacity` is the number of centres that will be added at most; rows are read in parts, so they may be mapped."""
        count, dim = rows.shape
        self.rows = rows
        self.squares = np.empty(count)
        for begin in range(0, count, BLOCK_ROWS):
            part = rows[begin : begin + BLOCK_ROWS].astype(np.float32)
            self.squares[begin : begin + BLOCK_ROWS] = np.einsum("ij,ij->i", part, part, dtype=np.float64)
        self.bound: Float64 = np.full(count, np.inf)
        self.seen = np.zeros(count, np.int32)
        self.cell = np.full(count, -1, np.int32)
        self.count = 0
        self.evaluations = 0
        self._counting = Lock()
        # Blocks of rows share nothing, and products and compiled loops let go of the lock. Threads of BLAS itself would wait
        # for each other, and do badly beside other software.
        self._workers = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        # A centre with half its squared length behind it, and a row with -1: one product gives x.y - |y|^2 / 2.
        self._centres: Float32 = np.empty((capacity, dim + 1), np.float32)
        self._centre_squares = np.empty(capacity)
        self._hints = np.full((capacity, HINTS), -1, np.int32)
        self._hinted = np.zeros(capacity, np.int32)
        self._slack = affinity_error(dim, float(self.squares.max(initial=0.0)))
        self._loops = loops() if count * capacity >= COMPILE_FROM else None

    def add(self, rows: Rows) -> None:
        """More centres. Bounds stay what they were: true, and older."""
        wide = rows.astype(np.float32)
        squares = np.einsum("ij,ij->i", wide, wide, dtype=np.float64)
        self._slack = max(self._slack, affinity_error(rows.shape[1], float(squares.max(initial=0.0))))
        before, new = self.count, slice(self.count, self.count + len(rows))
        self._centres[new, :-1] = wide
        self._centres[new, -1] = squares / 2
        self._centre_squares[new] = squares
        self.count = new.stop
        if not before:
            self._begin(min(self.count, FIRST_CENTRES))

    def _begin(self, end: int) -> None:
        """Every row sees the first centres: bounds and cells to begin with."""
        for begin in range(0, len(self.rows), BLOCK_ROWS):
            rows = np.arange(begin, min(begin + BLOCK_ROWS, len(self.rows)))
            self.compare(rows, self.padded(rows), 0, end)
        self.seen[:] = end

    def add_own(self, own: IntArray) -> None:
        """These rows of the pool become centres. Rows of the cells from which they come will ask them first."""
        begin = self.count
        old = self.cell[own]
        if begin:
            self.hint(own, self.padded(own), 0.0)
        self.add(self.rows[own])
        if begin:
            new = np.arange(begin, self.count, dtype=np.int32)
            self._remember(old, new)
            self._remember(self.cell[own], new)
            self._remember(self.cell[own], np.arange(begin, self.count, dtype=np.int32))

    def padded(self, rows: IntArray) -> Float32:
        """Rows in fp32 with a -1 behind them, as `compare` wants them."""
        x = np.empty((len(rows), self.rows.shape[1] + 1), np.float32)
        x[:, :-1] = self.rows[rows]
        x[:, -1] = -1.0
        return x

    def compare(self, rows: IntArray, x: Float32, begin: int, end: int, limits: IntArray | None = None) -> None:
        """Tighten the bounds of `rows` by the centres begin..end, each by those before its limit alone where limits are
        given. `x` is `padded(rows)`."""
        affinity = product(x, self._centres[begin:end].T)  # (n, m)
        self._count(affinity.size)
        if limits is not None and limits.min() < end:
            affinity[np.arange(begin, end) >= limits[:, None]] = -np.inf
        self._tighten_by(rows, x, np.arange(len(rows)), affinity, np.arange(begin, end)[None])

    def hint(self, rows: IntArray, x: Float32, floor: float) -> None:
        """Tighten the bounds of `rows` by the hints of their cells, newest first, as far as they are not below `floor`."""
        self._in_parts(HINTED_PART, len(rows), lambda part: self._hint_part(rows[part], x[part], floor))

    def _hint_part(self, rows: IntArray, x: Float32, floor: float) -> None:
        if self._loops is not None:
            self._count(
                self._loops.hint(
                    rows, x, floor, HINT_ROUNDS, self._centres, self._centre_squares, 2.0 * self._slack,
                    self.squares, self.bound, self.seen, self.cell, self._hints, self._hinted,
                )
            )  # fmt: skip
            return
        left = np.arange(len(rows))
        for _ in range(HINT_ROUNDS):
            cells = self.cell[rows[left]]
            for newest, oldest in HINT_STEPS:
                back = np.arange(newest, oldest)
                hints = self._hints[cells[:, None], (self._hinted[cells][:, None] - back) % HINTS]
                if not self._ask(rows, x, left, hints, hints >= self.seen[rows[left]][:, None]):
                    break  # the others are older still
                stay = self.bound[rows[left]] >= floor
                left, cells = left[stay], cells[stay]
                if not len(left):
                    return
            left = left[self.cell[rows[left]] != cells]  # a nearer cell has other hints
            if not len(left):
                return

    def hint_by_neighbours(self, rows: IntArray, x: Float32) -> None:
        """Tighten the bounds of `rows` by the centres, new to them, to which the rows beside them in the pool belong."""
        before = self.cell[rows]
        beside = np.clip(rows[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS + 1), 0, len(self.rows) - 1)
        centres = np.sort(self.cell[beside], axis=1)
        new = centres >= self.seen[rows][:, None]
        new[:, 1:] &= centres[:, 1:] != centres[:, :-1]
        self._ask(rows, x, np.arange(len(rows)), centres, new)
        self._remember_moves(rows, before)

    def _ask(
        self, rows: IntArray, x: Float32, asked: IntArray, centres: npt.NDArray[np.int32], which: BoolArray
    ) -> bool:
        """Tighten the bounds of rows[asked] by those of `centres` (n, m) that `which` (n, m) says; whether there were any."""
        row, column = np.nonzero(which)
        affinity = np.full(which.shape, -np.inf, np.float32)
        for begin in range(0, len(row), BLOCK_ROWS):
            part = slice(begin, begin + BLOCK_ROWS)
            pairs = row[part], column[part]
            affinity[pairs] = np.einsum("ij,ij->i", x[asked[row[part]]], self._centres[centres[pairs]])
        self._count(len(row))
        if len(row):
            self._tighten_by(rows, x, asked, affinity, centres)
        return len(row) > 0

    def settle(self, rows: IntArray, x: Float32, floor: float) -> npt.NDArray[np.bool_]:
        """Compare `rows` with all that they have not seen, and stop where a bound falls below `floor`.

        Returns which of them are up to date.
        """
        before = self.cell[rows]
        self._in_parts(PART_ROWS, len(rows), lambda part: self._settle_part(rows[part], x[part], floor))
        self._remember_moves(rows, before)
        return self.is_fresh(rows)

    def _settle_part(self, rows: IntArray, x: Float32, floor: float) -> None:
        if self._loops is not None:
            self._count(
                self._loops.settle(
                    rows, x, floor, BLOCK_CENTRES, self.count, self._centres, self._centre_squares, 2.0 * self._slack,
                    self.squares, self.bound, self.seen, self.cell,
                )
            )  # fmt: skip
        else:
            self._settle_in_blocks(rows, x, floor)

    def _settle_in_blocks(self, rows: IntArray, x: Float32, floor: float) -> None:
        left = np.flatnonzero(self.bound[rows] > 0.0)
        begin = int(self.seen[rows[left]].min(initial=self.count))
        while begin < self.count and len(left):
            end = min(begin + max(BLOCK_CENTRES, begin // 16), self.count)  # long scans in fewer steps
            now = left[self.seen[rows[left]] < end]
            self.compare(rows[now], x[now], begin, end)
            self.seen[rows[now]] = end
            bound = self.bound[rows[left]]
            left = left[(bound >= floor) & (bound > 0.0)]
            begin = max(end, int(self.seen[rows[left]].min(initial=self.count)))

    def is_fresh(self, rows: IntArray) -> BoolArray:
        """Which bounds are the distances to the nearest of all centres. None is nearer than an exact copy."""
        fresh: BoolArray = (self.seen[rows] == self.count) | (self.bound[rows] == 0.0)
        return fresh

    def settle_before(self, rows: IntArray, limits: IntArray) -> None:
        """Compare each of `rows` with all centres before its limit: rows that became centres, with those before them.

        Rows and limits ascend together, and no row has met a centre behind its limit.
        """

        def settle(part: slice) -> None:
            own, limit = rows[part], limits[part]
            x = self.padded(own)
            for begin in range(int(self.seen[own].min()), int(limit.max()), LARGE_BLOCK):
                self.compare(own, x, begin, min(begin + LARGE_BLOCK, int(limit.max())), limit)
            self.seen[own] = limit

        self._in_parts(SETTLED_ROWS, len(rows), settle)

    def _in_parts(self, size: int, count: int, work: Callable[[slice], None]) -> None:
        parts = [slice(begin, begin + size) for begin in range(0, count, size)]
        if len(parts) == 1:  # no thread to wait for
            work(parts[0])
        else:
            list(self._workers.map(work, parts))

    def _tighten_by(
        self, rows: IntArray, x: Float32, asked: IntArray, affinity: Float32, centres: npt.NDArray[np.integer]
    ) -> None:
        """Tighten the bounds of rows[asked] by fp32 affinities (n, m) to `centres`, (n, m) or (1, m)."""
        best = affinity.max(axis=1)
        own = rows[asked]
        closer = np.flatnonzero(self.squares[own] - 2.0 * best - 2.0 * self._slack < self.bound[own])
        if not len(closer):
            return
        # The nearest centre by fp32, and those that fp32 cannot tell from it.
        which, column = np.nonzero(affinity[closer] >= (best[closer] - 2.0 * self._slack)[:, None])
        which = closer[which]
        centre = centres[which if len(centres) > 1 else 0, column]
        self._tighten(rows, x, asked[which], centre)

    def _tighten(self, rows: IntArray, x: Float32, which: IntArray, centre: IntArray) -> None:
        """Exact distances of pairs (rows[which], centre); `which` ascends. The nearest counts, by lower centre in a tie."""
        if not len(which):
            return
        exact = self._exact(rows, x, which, centre)
        if len(which) > 1 and (which[1:] == which[:-1]).any():
            order = np.lexsort((centre, exact, which))
            which, centre, exact = which[order], centre[order], exact[order]
            first = np.concatenate([[True], which[1:] != which[:-1]])
            which, centre, exact = which[first], centre[first], exact[first]
        nearer = exact < self.bound[rows[which]]
        self.bound[rows[which[nearer]]] = exact[nearer]
        self.cell[rows[which[nearer]]] = centre[nearer]

    def _exact(self, rows: IntArray, x: Float32, which: IntArray, centre: IntArray) -> Float64:
        """float64 (n,), in parts: where much is tied, the pairs are many."""
        exact = self.squares[rows[which]] + self._centre_squares[centre]
        for begin in range(0, len(which), BLOCK_ROWS):
            part = slice(begin, begin + BLOCK_ROWS)
            a = x[which[part], :-1].astype(np.float64)
            b = self._centres[centre[part], :-1].astype(np.float64)
            exact[part] -= 2.0 * np.einsum("ij,ij->i", a, b)
        self._count(len(which))
        return exact

    def _count(self, distances: int) -> None:
        with self._counting:
            self.evaluations += distances

    def _remember_moves(self, rows: IntArray, before: npt.NDArray[np.int32]) -> None:
        """Rows that were in the cells `before` and have left them tell those cells where they went."""
        moved = self.cell[rows] != before
        self._remember(before[moved], self.cell[rows[moved]])

    def _remember(self, cells: npt.NDArray[np.int32], centres: npt.NDArray[np.integer]) -> None:
        """Each centre took a row from a cell: the newest hint there. One hint per cell and call is enough."""
        cells, first = np.unique(cells, return_index=True)
        centres = centres[first]
        new = (cells >= 0) & (cells != centres) & ~(self._hints[cells] == centres[:, None]).any(axis=1)
        cells, centres = cells[new], centres[new]
        self._hints[cells, self._hinted[cells] % HINTS] = centres
        self._hinted[cells] += 1


class Farthest:
    """The farthest of some rows of `Bounds`: those that `open_rows`, a bool (R,), says; it may lose rows, never gain any.

    The working set holds the open rows of the largest bounds, and `_outside` is the largest bound of the others. Those of the
    working set that are fresh have seen all centres: the farthest of them is the answer once no bound of another is larger.
    """

    def __init__(self, bounds: Bounds, open_rows: BoolArray) -> None:
        self._bounds = bounds
        self._open = open_rows
        self._work: IntArray = np.empty(0, np.intp)  # rows, ascending, so that the first of equals is the lowest
        self._x = bounds.padded(self._work)
        self._fresh: IntArray = np.empty(0, np.intp)  # positions in the working set, ascending
        self._fresh_x = self._x
        self._outside = (np.inf, -1)

    def top(self) -> tuple[float, int] | None:
        """(exact squared distance, row) of the farthest open row; ties: the lower row. None where no row is open."""
        self._refresh()
        while True:
            best = self._best()
            stale = self._stale_before(best)
            if len(stale):
                self._settle(stale, best[0])
            elif best == NOTHING and self._outside == NOTHING:
                return None
            elif _before(best, self._outside):
                return best
            else:
                self._refill()

    def _best(self) -> tuple[float, int]:
        rows = self._work[self._fresh]
        bound = np.where(self._open[rows], self._bounds.bound[rows], -1.0)
        if not len(rows) or bound.max() < 0.0:
            return NOTHING
        first = int(bound.argmax())
        return float(bound[first]), int(rows[first])

    def _stale_before(self, best: tuple[float, int]) -> IntArray:
        """Positions of stale rows that may be farther than `best`, the farthest bound first."""
        bound = np.where(self._open[self._work], self._bounds.bound[self._work], -1.0)
        bound[self._fresh] = -1.0
        may = np.flatnonzero((bound > best[0]) | ((bound == best[0]) & (self._work < best[1])))
        may = may[bound[may] >= 0.0]
        if len(may) > HINTED_ROWS:
            # Exactly as many of the largest, the lowest rows of equals among them.
            least = np.partition(bound[may], -HINTED_ROWS)[-HINTED_ROWS]
            above = may[bound[may] > least]
            may = np.concatenate([above, may[bound[may] == least][: HINTED_ROWS - len(above)]])
        return may[np.lexsort((may, -bound[may]))]

    def _settle(self, stale: IntArray, floor: float) -> None:
        """Hints for all of these; for the farthest of each cell that they leave, those of its neighbours, then a full look."""
        bounds, rows = self._bounds, self._work[stale]
        bounds.hint(rows, self._x[stale], floor)
        left = np.flatnonzero(bounds.bound[rows] >= floor)
        _, leaders = np.unique(bounds.cell[rows[left]], return_index=True)
        leaders = left[np.sort(leaders)]
        bounds.hint_by_neighbours(rows[leaders], self._x[stale[leaders]])
        leaders = leaders[bounds.bound[rows[leaders]] >= floor]
        leaders = leaders[: min(max(SCANNED_ROWS, bounds.count // CENTRES_PER_SCANNED), SCANNED_MOST)]
        fresh = bounds.settle(rows[leaders], self._x[stale[leaders]], floor)
        self._freshen(np.concatenate([self._fresh, stale[leaders[fresh]]]))

    def _freshen(self, fresh: IntArray) -> None:
        """These positions, of which the farthest stay where they are too many, are compared with every new centre."""
        if len(fresh) > FRESH_ROWS:
            fresh = fresh[np.argsort(-self._bounds.bound[self._work[fresh]], kind="stable")[: FRESH_ROWS // 2]]
        self._fresh = np.sort(fresh)
        self._fresh_x = self._x[self._fresh]

    def _refresh(self) -> None:
        """Compare what was fresh with the centres that came since."""
        stay = self._open[self._work[self._fresh]]
        if not stay.all():
            self._freshen(self._fresh[stay])
        rows = self._work[self._fresh]
        if len(rows):
            self._bounds.settle(rows, self._fresh_x, -1.0)

    def _refill(self) -> None:
        """The open rows of the largest bounds become the working set."""
        bounds = self._bounds
        rows = np.flatnonzero(self._open)
        bound = bounds.bound[rows]
        self._outside = NOTHING
        if len(rows) > WORKING_SET:
            least = np.partition(bound, -WORKING_SET)[-WORKING_SET]
            chosen = bound > least
            chosen[np.flatnonzero(bound == least)[: WORKING_SET - np.count_nonzero(chosen)]] = True
            others = np.where(chosen, -1.0, bound)
            first = int(others.argmax())
            self._outside = float(others[first]), int(rows[first])
            rows = rows[chosen]
        self._work = rows
        self._x = bounds.padded(rows)
        self._freshen(np.flatnonzero(bounds.is_fresh(rows)))


NOTHING = (-1.0, -1)


def _before(a: tuple[float, int], b: tuple[float, int]) -> bool:
    """Whether `a` is farther, or as far and of a lower row."""
    return a[0] > b[0] or (a[0] == b[0] and a[1] < b[1])
