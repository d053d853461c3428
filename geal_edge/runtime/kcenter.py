"""Pool selection: exact K-Center-Greedy over knowledge clusters (paper section 3.3, Eq. 4).

A unit (frame) is a set of rows. Each pick is the unit that owns the row farthest from all rows of the units picked before.
Ties: larger distance, then lower row, so the picks are a function of the fp16 rows and nothing else. They are found lazily
(farthest.py); `naive_k_center` compares every row with every pick, and is what the lazy form must agree with. Beside them
the paper's other reduction (Eq. 5) and FreeSel's draw. All of them can start from rows that are known already, and can
measure raw fp32 rows by Euclid; those picks may differ between machines where two distances agree in all but the last bits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from geal_edge.config import Metric
from geal_edge.errors import UsageError
from geal_edge.runtime.clusters import SAME_TOKEN, Rows
from geal_edge.runtime.distance import Float64, widen, widened_distances
from geal_edge.runtime.farthest import Bounds, Farthest
from geal_edge.runtime.threads import one_blas_thread

IntArray: TypeAlias = npt.NDArray[np.intp]
RawRows: TypeAlias = npt.NDArray[np.float32]
"""Centres as K-Means leaves them, fp32 (C, D) of any length: what the Euclidean metric measures."""

WIDE_BYTES = 512 << 20
"""Pools whose float64 copy fits are widened once; larger ones block by block at every pick."""
BLOCK_ROWS = 16384
BLOCK_CENTRES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One pick, in order.

    unit         index of the unit in the pool
    squared      exact squared chord from its witness to the nearest row picked before or known; 0.0 for the first, where
                 nothing is known. With the Euclidean metric the squared Euclidean distance of the raw rows
    witness      index of that row within the unit: its farthest, or the one that was drawn; None where there was nothing to
                 be far from, and for exact copies
    row_squared  the same distance for each of its rows: what of the unit was new, and what was not; empty for the first, and
                 where it was not asked for
    cover_squared  the largest such distance that is left in the pool after it: the cover radius of the picks so far
    """

    unit: int
    squared: float
    witness: int | None
    row_squared: tuple[float, ...] = ()
    cover_squared: float = 0.0


def offsets_of(units: Sequence[Rows | RawRows]) -> IntArray:
    """Row offsets (n + 1,) of units laid one after another."""
    return np.concatenate([[0], np.cumsum([len(rows) for rows in units], dtype=np.intp)]).astype(np.intp)


def k_center_greedy(
    rows: Rows | RawRows,
    offsets: IntArray,
    budget: int,
    *,
    first: int | None,
    pools: Sequence[Sequence[int]] | None = None,
    known: Rows | RawRows | None = None,
    metric: Metric = "cosine",
    row_distances: bool = True,
    on_pick: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Pick]:
    """Exact K-Center-Greedy; every prefix of the result is the selection of that size.

    rows     fp16 (R, D), canonical; unit u owns rows offsets[u]:offsets[u + 1], at least one. "euclidean": raw fp32. fp16
             rows may be a map of a file larger than RAM
    offsets  (n + 1,) ascending
    budget   picks wanted; a budget of n or more orders all n units
    first    the unit to begin with (the paper draws it: `draw_first`); None: the farthest from what is known
    pools    sets of unit indices, each used up before the next is touched; `first` is in the first. Default: one pool of all
    known    (M, D) rows that are covered before the first pick: initial centres, as of a labelled set
    row_distances  False leaves every `row_squared` empty, which takes about half the time for large budgets: a pick's other
             rows, which did not decide, need not be compared with all picks before it. "euclidean" always has them
    on_pick  called with the number of picks so far
    stop     asked before every pick: once it says so, the picks so far are the result

    Where only exact copies of picked rows are left, units come by lowest index at distance 0: nothing asserts on data.

    >>> x = np.array([[1, 0], [0, 1], [-1, 0], [0, 1]], np.float16)
    >>> [(p.unit, p.squared) for p in k_center_greedy(x, np.arange(5), 4, first=0)]
    [(0, 0.0), (2, 4.0), (1, 2.0), (3, 0.0)]
    >>> [(p.unit, p.squared) for p in k_center_greedy(x, np.arange(5), 2, first=None, known=x[:1])]
    [(2, 4.0), (1, 2.0)]
    """
    if metric == "euclidean":  # inexact, so nothing could prove that a lazy answer is the same
        return naive_k_center(
            rows, offsets, budget, first=first, pools=pools, known=known, metric=metric, on_pick=on_pick, stop=stop
        )
    canonical, covered = cast(Rows, rows), cast(Rows | None, known)
    pool = _greedy(canonical, offsets, budget, first, pools, covered, on_pick, stop)
    return pool.with_row_distances() if row_distances else pool.picks


def count_distances(rows: Rows, offsets: IntArray, budget: int, *, first: int | None) -> int:
    """How many distances `k_center_greedy` computes without `row_distances`, fp32 and float64 together; the naive form
    computes rows x rows of all picks.

    >>> count_distances(np.eye(4, dtype=np.float16), np.arange(5), 2, first=0) <= 16
    True
    """
    return _greedy(rows, offsets, budget, first, None, None, None, lambda: False).evaluations


def naive_k_center(
    rows: Rows | RawRows,
    offsets: IntArray,
    budget: int,
    *,
    first: int | None,
    pools: Sequence[Sequence[int]] | None = None,
    known: Rows | RawRows | None = None,
    metric: Metric = "cosine",
    on_pick: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Pick]:
    """`k_center_greedy` in its plain GEMM form, for both metrics: every row is compared with the rows of every pick.

    >>> x = np.array([[1, 0], [0, 1], [-1, 0], [0, 1]], np.float16)
    >>> naive_k_center(x, np.arange(5), 4, first=0) == k_center_greedy(x, np.arange(5), 4, first=0)
    True
    """
    pool = _Pool(rows, offsets, budget, known, metric)
    for units in pools if pools is not None else [range(pool.count)]:
        pool.open(units)
        while pool.goes_on(budget) and not stop():
            if not pool.picks and first is not None:
                pool.take(first)
            else:
                row = int(np.where(pool.open_rows, pool.nearest, -1.0).argmax())
                pool.take(int(pool.owner[row]))
            if on_pick is not None:
                on_pick(len(pool.picks))
    return pool.picks


def k_center_by_mean(
    rows: Rows | RawRows,
    offsets: IntArray,
    budget: int,
    *,
    first: int | None,
    units: Sequence[int] | None = None,
    known: Rows | RawRows | None = None,
    metric: Metric = "cosine",
    on_pick: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Pick]:
    """K-Center-Greedy by the mean instead of the largest distance of a unit's rows (paper appendix B, Eq. 5).

    Arguments as of `k_center_greedy`; `units` are those that may be picked. The mean is over 1-cos, or over Euclidean
    distances. A pick's witness is still its farthest row, so `squared` need not fall from pick to pick.

    >>> x = np.array([[1, 0], [-1, 0], [1, 0], [0, 1], [0, 1]], np.float16)  # means to unit 0: (4 + 0) / 2 and 2 / 1
    >>> [p.unit for p in k_center_by_mean(x, np.array([0, 1, 3, 4, 5]), 3, first=0)]
    [0, 1, 2]
    """
    pool = _Pool(rows, offsets, budget, known, metric)
    pool.open(range(pool.count) if units is None else units)
    sizes = np.diff(offsets)
    while pool.goes_on(budget) and not stop():
        if not pool.picks and first is not None:
            pool.take(first)
        else:
            distances = pool.nearest if metric == "cosine" else np.sqrt(pool.nearest)
            means = (
                np.bincount(pool.owner, weights=distances, minlength=pool.count) / sizes
            )  # adds in row order, always
            pool.take(int(np.where(pool.open_units, means, -1.0).argmax()))
        if on_pick is not None:
            on_pick(len(pool.picks))
    return pool.picks


def sample_by_distance(
    rows: Rows | RawRows,
    offsets: IntArray,
    budget: int,
    *,
    first: int | None,
    seed: int,
    units: Sequence[int] | None = None,
    known: Rows | RawRows | None = None,
    metric: Metric = "cosine",
    on_pick: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Pick]:
    """FreeSel's distance-based sampling: a row is drawn by its squared distance, and the unit that owns it is picked.

    Arguments as of `k_center_greedy`; `units` are those that may be picked. The distance to the nearest row picked or known
    is 1-cos, as in the authors' code, so the weight is chord^4 up to a factor and not the chord^2 of k-means++; or the
    Euclidean distance. Exact copies of picked rows have weight 0 and come last, by lowest index.

    >>> x = np.array([[1, 0], [0, 1], [-1, 0]], np.float16)  # weights 0, 4 and 16 once unit 0 is picked
    >>> drawn = [sample_by_distance(x, np.arange(4), 2, first=0, seed=seed)[1].unit for seed in range(1000)]
    >>> drawn.count(1), drawn.count(2)
    (193, 807)
    """
    rng = np.random.default_rng((seed, 1))  # another stream than that of `draw_first`
    pool = _Pool(rows, offsets, budget, known, metric)
    pool.open(range(pool.count) if units is None else units)
    while pool.goes_on(budget) and not stop():
        if not pool.picks and first is not None:
            pool.take(first)
        else:
            weights = np.where(pool.open_rows, pool.nearest if pool.measures else 0.0, 0.0)
            reached = np.cumsum(weights**2 if metric == "cosine" else weights)
            if reached[-1] > 0.0:
                # Rounding must not draw the end itself: behind it there is no row.
                drawn = min(float(rng.random()) * reached[-1], np.nextafter(reached[-1], 0.0))
                row = int(np.searchsorted(reached, drawn, side="right"))
                pool.take(int(pool.owner[row]), row)
            else:
                pool.take(int(pool.open_units.argmax()))
        if on_pick is not None:
            on_pick(len(pool.picks))
    return pool.picks


def trace(
    rows: Rows | RawRows,
    offsets: IntArray,
    order: Sequence[int],
    *,
    known: Rows | RawRows | None = None,
    metric: Metric = "cosine",
) -> list[Pick]:
    """An order that something else decided, as picks: how far each unit lay from those before it.

    >>> x = np.array([[1, 0], [0, 1], [-1, 0]], np.float16)
    >>> [(p.unit, p.squared) for p in trace(x, np.arange(4), [1, 2, 0])]
    [(1, 0.0), (2, 2.0), (0, 2.0)]
    """
    if metric == "euclidean":
        pool = _Pool(rows, offsets, 1, known, metric)
        for unit in order:
            pool.take(unit)
        return pool.picks
    with one_blas_thread():
        lazy = _LazyPool(cast(Rows, rows), offsets, len(order), cast(Rows | None, known))
        for unit in order:
            lazy.take(unit)
    return lazy.with_row_distances()


def draw_first(count: int, seed: int) -> int:
    """The seeded draw of a pool's first unit; the authors draw it unseeded."""
    return int(np.random.default_rng(seed).integers(count))


def _greedy(
    rows: Rows,
    offsets: IntArray,
    budget: int,
    first: int | None,
    pools: Sequence[Sequence[int]] | None,
    known: Rows | None,
    on_pick: Callable[[int], None] | None,
    stop: Callable[[], bool],
) -> "_LazyPool":
    _require_budget(budget)
    with one_blas_thread():  # the products are small, and there are many
        pool = _LazyPool(rows, offsets, budget, known)
        for units in pools if pools is not None else [range(len(offsets) - 1)]:
            pool.open(units)
            while pool.goes_on(budget) and not stop():
                pool.take(first if first is not None and not pool.picks else None)
                if on_pick is not None:
                    on_pick(len(pool.picks))
    return pool


def _require_budget(budget: int) -> None:
    if budget < 1:
        raise UsageError(f"budget = {budget}: must be at least 1")


class _LazyPool:
    """A pool of canonical rows while it is being picked from, with nothing computed before it decides.

    picks  so far, without `row_squared`
    """

    def __init__(self, rows: Rows, offsets: IntArray, budget: int, known: Rows | None) -> None:
        sizes = np.diff(offsets)
        capacity = int(np.sort(sizes)[::-1][:budget].sum()) + (0 if known is None else len(known))
        self.picks: list[Pick] = []
        self._limits: list[int] = []  # centres before each pick
        self._offsets = offsets
        self._owner = np.repeat(np.arange(len(sizes)), sizes)
        self._bounds = Bounds(rows, capacity)
        self._open_rows = np.zeros(len(rows), bool)
        self._other_rows = np.ones(len(rows), bool)  # neither open nor picked: the cover is over them too
        self._open = Farthest(self._bounds, self._open_rows)
        self._others = Farthest(self._bounds, self._other_rows)
        self._top: tuple[float, int] | None = None
        if known is not None and len(known):
            self._bounds.add(known)

    @property
    def evaluations(self) -> int:
        """Distances that the order has cost so far."""
        return self._bounds.evaluations

    def open(self, units: Sequence[int]) -> None:
        """These units, and no others, may be picked now."""
        unpicked = self._open_rows | self._other_rows
        chosen = np.zeros(len(self._offsets) - 1, bool)
        chosen[list(units)] = True
        self._open_rows = unpicked & chosen[self._owner]
        self._other_rows = unpicked & ~self._open_rows
        self._open = Farthest(self._bounds, self._open_rows)
        self._others = Farthest(self._bounds, self._other_rows)
        self._top = self._open.top()

    def goes_on(self, budget: int) -> bool:
        return len(self.picks) < budget and self._top is not None

    def take(self, unit: int | None = None) -> None:
        """Pick a unit, or the open one of the farthest row: the lowest one where nothing is known, so that all are as far."""
        if unit is None:
            assert self._top is not None  # noqa: S101  as `goes_on` has said
            squared, row = self._top
            unit = int(self._owner[row])
        else:
            own = self._own(unit)
            self._bounds.settle(own, self._bounds.padded(own), -1.0)
            row = int(own[self._bounds.bound[own].argmax()])
            squared = float(self._bounds.bound[row])
        own = self._own(unit)
        measured = self._bounds.count > 0
        self._limits.append(self._bounds.count)
        self._open_rows[own] = False
        self._other_rows[own] = False
        self._bounds.add_own(own)
        self._top = self._open.top()
        tops = [top[0] for top in (self._top, self._others.top()) if top is not None]
        self.picks.append(
            Pick(
                unit=unit,
                squared=squared if measured else 0.0,
                witness=row - int(own[0]) if measured and squared > 0.0 else None,
                cover_squared=max(tops, default=0.0),
            )
        )

    def with_row_distances(self) -> list[Pick]:
        """The picks, with the exact distance of every row of each."""
        begin = 1 if self._limits and not self._limits[0] else 0  # nothing was known to measure the first by
        owns = [self._own(pick.unit) for pick in self.picks[begin:]]
        if owns:
            limits = np.repeat(self._limits[begin:], [len(own) for own in owns])
            with one_blas_thread():
                self._bounds.settle_before(np.concatenate(owns), limits)
        return self.picks[:begin] + [
            replace(pick, row_squared=tuple(self._bounds.bound[own].tolist()))
            for pick, own in zip(self.picks[begin:], owns, strict=True)
        ]

    def _own(self, unit: int) -> IntArray:
        return np.arange(self._offsets[unit], self._offsets[unit + 1])


class _Pool:
    """A pool while it is being picked from, with every row's distance up to date after every pick.

    nearest     float64 (R,): every row's squared distance to the nearest row picked or known; falls with each pick
    owner       (R,): the unit of each row
    open_units, open_rows  what may still be picked
    measures    whether anything is picked or known, so that `nearest` is finite
    """

    def __init__(
        self, rows: Rows | RawRows, offsets: IntArray, budget: int, known: Rows | RawRows | None, metric: Metric
    ) -> None:
        _require_budget(budget)
        self.count = len(offsets) - 1
        self.picks: list[Pick] = []
        self.owner = np.repeat(np.arange(self.count), np.diff(offsets))
        self.open_units = np.zeros(self.count, bool)
        self.open_rows = self.open_units[self.owner]
        self.measures = False
        self._rows, self._offsets, self._metric = rows, offsets, metric
        self._wide = widen(rows) if rows.size * 8 <= WIDE_BYTES else None
        self.nearest: Float64 = np.full(len(rows), np.inf)
        if known is not None and len(known):
            self._add(known)

    def open(self, units: Sequence[int]) -> None:
        """These units, and no others, may be picked now."""
        self.open_units[:] = False
        self.open_units[list(units)] = True
        self.open_rows = self.open_units[self.owner]

    def goes_on(self, budget: int) -> bool:
        return len(self.picks) < budget and bool(self.open_units.any())

    def take(self, unit: int, row: int | None = None) -> None:
        """Pick a unit for `row`, or for its farthest one."""
        own = slice(int(self._offsets[unit]), int(self._offsets[unit + 1]))
        squared, witness, row_squared = 0.0, None, ()
        if self.measures:
            row_squared = tuple(self.nearest[own].tolist())
            farthest = int(self.nearest[own].argmax()) if row is None else row - own.start
            squared = row_squared[farthest]
            witness = farthest if squared > 0.0 else None
        self.open_units[unit] = False
        self.open_rows[own] = False
        self._add(self._rows[own])
        cover = float(self.nearest.max())
        self.picks.append(
            Pick(unit=unit, squared=squared, witness=witness, row_squared=row_squared, cover_squared=cover)
        )

    def _add(self, rows: Rows | RawRows) -> None:
        self.measures = True
        for start in range(0, len(rows), BLOCK_CENTRES):
            centres = widen(rows[start : start + BLOCK_CENTRES])
            for begin in range(0, len(self._rows), BLOCK_ROWS):
                block = slice(begin, begin + BLOCK_ROWS)
                part = (self._wide[0][block], self._wide[1][block]) if self._wide else widen(self._rows[block])
                closest = widened_distances(part, centres).min(axis=1)
                if self._metric == "euclidean":
                    closest[closest <= SAME_TOKEN * part[1]] = 0.0  # raw rows: a copy is rounding away from itself
                np.minimum(self.nearest[block], closest, out=self.nearest[block])
