"""Rows that every frame is compared with, resident in RAM: filtered in fp32 by one GEMM, settled in float64 where it decides.

fp16 rows are exact in fp32, so one fp32 copy is all that is held: 4 bytes a number, 38 kB for a unit of 25 x 384. A distance
from the fp32 product is within `error` of the exact one, whatever the order of summation; callers decide by it only what lies
farther apart, and ask `exact` for the rest. The answers are those of `distance.squared_distances`, bit for bit.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.distance import Float64, affinity_error
from geal_edge.runtime.product import product

Float32: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.intp]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

SQUARE = 1.002
"""Canonical rows are at most so long, squared: unit rows, rounded to fp16."""
BLOCK = 128
"""Slots that `exact_nearest` looks at together: products for 1,000 rows and units of 25 are 13 MB."""
COLUMNS = 8
"""Products are made for a multiple of so many rows at once: BLAS kernels for the odd remainder are several times slower."""


def squares(rows: Float32) -> Float32:
    """Squared lengths (C,) of rows (C, D), summed in float64."""
    lengths: Float32 = np.einsum("ij,ij->i", rows, rows, dtype=np.float64).astype(np.float32)
    return lengths


class ResidentUnits:
    """Units of rows in numbered slots. A slot is given back by `remove` and used again.

    Units that have fewer rows than the largest repeat their first row: that changes no nearest distance.

    error  how far a filtered squared distance may lie from the exact one

    >>> units = ResidentUnits()
    >>> a, b = units.add(np.array([[1, 0], [0, 1]], np.float16)), units.add(np.array([[-1, 0]], np.float16))
    >>> units.nearest(np.array([[0, 1]], np.float32)).tolist()  # per slot, per row asked
    [[0.0], [2.0]]
    >>> units.exact(np.array([0, 1], np.float16), np.array([a, b])).tolist()
    [0.0, 2.0]
    """

    def __init__(self) -> None:
        self.count = 0
        """Slots in use, and free ones below the highest that was ever used."""
        self.error = 0.0
        # A unit's rows lie one slot's width apart: the nearest of a unit is then the maximum of whole planes.
        self._rows: Float32 = np.empty((0, 0, 0), np.float32)  # (rows of a unit, slots, D)
        self._half_squares: Float32 = np.empty((0, 0), np.float32)
        self._sizes: IntArray = np.empty(0, np.intp)
        self._free: list[int] = []

    @property
    def resident_bytes(self) -> int:
        return self._rows.nbytes + self._half_squares.nbytes

    @property
    def shape(self) -> tuple[int, int]:
        """(rows of a unit, slots) that there is room for."""
        return self._rows.shape[0], self._rows.shape[1]

    @property
    def sizes(self) -> IntArray:
        """Rows of the unit in each slot that there is room for."""
        return self._sizes

    def add(self, rows: Rows) -> int:
        """Hold a unit's rows (C, D); returns its slot."""
        if self._free:
            slot = self._free.pop()
        else:
            slot, self.count = self.count, self.count + 1
        self._reserve(*rows.shape)
        unit = self._rows[:, slot]
        unit[: len(rows)] = rows
        unit[len(rows) :] = unit[0]
        self._half_squares[:, slot] = squares(unit) / 2.0
        self._sizes[slot] = len(rows)
        return slot

    def remove(self, slot: int) -> None:
        self._sizes[slot] = 0
        self._free.append(slot)

    def rows(self, slot: int) -> Rows:
        """The unit's rows as they were added."""
        return self._rows[: self._sizes[slot], slot].astype(np.float16)

    def nearest(self, rows: Float32) -> Float32:
        """Squared distances (slots, C) from each of `rows` (C, D) to the nearest row of each slot, within `error`.

        Slots that are free answer with what they held last.
        """
        return self.nearest_with_rows(rows)[0]

    def nearest_with_rows(self, rows: Float32) -> tuple[Float32, Float32]:
        """`nearest`, and what tells which row it was: (rows of a unit, slots, C), the largest is the nearest."""
        if not self.count:
            return np.empty((0, len(rows)), np.float32), np.empty((0, 0, len(rows)), np.float32)
        asked = np.zeros((-(-len(rows) // COLUMNS) * COLUMNS, rows.shape[1]), np.float32)
        asked[: len(rows)] = rows
        per_row: Float32 = product(self._rows[:, : self.count], asked.T)
        per_row -= self._half_squares[:, : self.count, None]
        per_row = per_row[..., : len(rows)]
        best: Float32 = per_row.max(axis=0)
        best *= -2.0
        best += squares(rows)
        return best, per_row

    def to_rows(self, rows: Float32, slots: IntArray, within: IntArray) -> Float32:
        """Squared distances (C, H), within `error`, from `rows` (C, D) to single rows: `within` of `slots`, both (C, H)."""
        products = np.einsum("ij,ihj->ih", rows, self._rows[within, slots])
        distances: Float32 = squares(rows)[:, None] - 2.0 * (products - self._half_squares[within, slots])
        return distances

    def wide(self, rows: IntArray, slots: IntArray) -> Float32:
        """Single rows (n, D): `rows` of the units in `slots`, both (n,)."""
        picked: Float32 = self._rows[rows, slots]
        return picked

    def to_each(self, centres: Float32) -> Float32:
        """Squared distances (rows of a unit, slots), within `error`, from every row that is held to the nearest of `centres`."""
        nearest = np.full(self.shape, -np.inf, np.float32)
        asked = np.concatenate([centres, np.broadcast_to(centres[0], (-len(centres) % COLUMNS, centres.shape[1]))])
        for part in asked.reshape(-1, COLUMNS, centres.shape[1]):
            np.maximum(nearest, (product(self._rows, part.T) - squares(part) / 2.0).max(axis=2), out=nearest)
        nearest -= self._half_squares
        nearest *= -2.0
        return nearest

    def exact_nearest(self, rows: Float32, begin: int, end: int) -> Float64:
        """The exact squared distance (n,) from each of `rows` (n, D), canonical ones, to the nearest row of slots begin..end."""
        nearest: Float64 = np.full(len(rows), np.inf)
        for start in range(begin, end, BLOCK):
            np.minimum(nearest, self._exact_nearest(rows, start, min(start + BLOCK, end)), out=nearest)
        return nearest

    def _exact_nearest(self, rows: Float32, begin: int, end: int) -> Float64:
        per_row = product(self._rows[:, begin:end], rows.T)
        per_row -= self._half_squares[:, begin:end, None]
        best = per_row.max(axis=(0, 1))  # the largest is the nearest
        within, slots, which = np.nonzero(per_row >= best - self.error)
        there = self._rows[within, slots + begin].astype(np.float64)
        here = rows[which].astype(np.float64)
        distances = np.einsum("ij,ij->i", here, here) + np.einsum("ij,ij->i", there, there)
        distances -= 2.0 * np.einsum("ij,ij->i", here, there)
        nearest: Float64 = np.full(len(rows), np.inf)
        np.minimum.at(nearest, which, distances)
        return nearest

    def exact(self, row: "npt.NDArray[np.float16 | np.float32]", slots: IntArray) -> Float64:
        """The exact squared distance from one canonical row (D,) to the nearest row of each slot."""
        if not len(slots):
            return np.empty(0)
        wide = row.astype(np.float64)
        held = self._rows[:, slots].astype(np.float64)
        distances: Float64 = product(wide, wide) + np.einsum("ijk,ijk->ij", held, held) - 2.0 * product(held, wide)
        nearest: Float64 = distances.min(axis=0)
        return nearest

    def _reserve(self, size: int, dim: int) -> None:
        held, slots, _ = self._rows.shape
        wanted = max(size, held)
        if self.count <= slots and wanted == held:
            return
        room = slots if self.count <= slots else max(16, self.count + self.count // 2)
        grown, halves = np.zeros((wanted, room, dim), np.float32), np.zeros((wanted, room), np.float32)
        if slots:
            grown[:held, :slots], halves[:held, :slots] = self._rows, self._half_squares
            grown[held:, :slots], halves[held:, :slots] = self._rows[:1], self._half_squares[:1]
        self._rows, self._half_squares = grown, halves
        self._sizes = np.concatenate([self._sizes, np.zeros(room - slots, np.intp)])
        self.error = 2.0 * affinity_error(dim + 4, SQUARE)  # |x|^2 and the last sum round too: as four terms more
