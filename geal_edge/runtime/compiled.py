"""Compiled forms of the two inner loops of the lazy search (farthest.py), by Numba where the extra `fast` is installed.

Row by row instead of block by block: nothing is copied together for a product, and a row stops at the very centre that
settles it. fp32 sums come in another order than BLAS gives them, which the error bound allows; what is remembered is float64
and exact, so the picks are the same.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple


class Loops(NamedTuple):
    """hint, settle: as the methods of `Bounds`, on its arrays; each returns how many distances it has computed."""

    hint: Callable[..., int]
    settle: Callable[..., int]


@cache
def loops() -> Loops | None:
    """The loops, compiled at their first call (seconds); None without Numba."""
    try:
        from numba import njit
    except ImportError:
        return None
    compiled: Any = njit(nogil=True, fastmath={"reassoc", "contract"})

    @compiled
    def tighten(row: Any, centre: Any, length: float, slack: float, square: float, bound: float) -> float:
        """The exact squared distance where it is below `bound`, else `bound`."""
        dim = row.shape[0] - 1
        product = row[0] * centre[0]
        for k in range(1, dim + 1):
            product += row[k] * centre[k]
        if square - 2.0 * product - slack >= bound:
            return bound
        exact = 0.0
        for k in range(dim):
            exact += float(row[k]) * float(centre[k])
        return min(bound, square + length - 2.0 * exact)

    @compiled
    def hint(
        rows: Any, x: Any, floor: float, rounds: int, centres: Any, lengths: Any, slack: float,
        squares: Any, bound: Any, seen: Any, cell: Any, hints: Any, hinted: Any,
    ) -> int:  # fmt: skip
        evaluations, size = 0, hints.shape[1]
        for i in range(rows.shape[0]):
            r = rows[i]
            for _ in range(rounds):
                home = cell[r]
                for back in range(1, size + 1):
                    if bound[r] < floor and back in (3, 9):  # a few more make the bound last longer
                        break
                    c = hints[home, (hinted[home] - back) % size]
                    if c < seen[r]:  # the others are older still
                        break
                    evaluations += 1
                    nearer = tighten(x[i], centres[c], lengths[c], slack, squares[r], bound[r])
                    if nearer < bound[r]:
                        bound[r] = nearer
                        cell[r] = c
                if cell[r] == home or bound[r] < floor:
                    break
        return evaluations

    @compiled
    def settle(
        rows: Any, x: Any, floor: float, block: int, count: int, centres: Any, lengths: Any, slack: float,
        squares: Any, bound: Any, seen: Any, cell: Any,
    ) -> int:  # fmt: skip
        evaluations, begin = 0, count
        for i in range(rows.shape[0]):
            begin = min(begin, seen[rows[i]])
        for first in range(begin, count, block):  # centres that stay in the cache while all rows meet them
            last = min(first + block, count)
            for i in range(rows.shape[0]):
                r = rows[i]
                if seen[r] < first:  # it has stopped
                    continue
                for c in range(seen[r], last):
                    if c % 32 == 0 and (bound[r] < floor or bound[r] == 0.0):
                        break
                    evaluations += 1
                    nearer = tighten(x[i], centres[c], lengths[c], slack, squares[r], bound[r])
                    seen[r] = c + 1
                    if nearer < bound[r]:
                        bound[r] = nearer
                        cell[r] = c
        return evaluations

    return Loops(hint, settle)
