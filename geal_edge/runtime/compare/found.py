"""What one selection found and another missed: the frames of the one that lie farthest from all of the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geal_edge.runtime.kcenter import Pick, k_center_greedy, offsets_of
from geal_edge.runtime.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """frame: its index in the pool; pick: how far its clusters lie from the other selection, and from those found before it."""

    frame: int
    pick: Pick


def found(pool: Pool, by: Sequence[int], missed_by: Sequence[int], *, at_most: int) -> list[Found]:
    """Frames of `by`, the farthest from `missed_by` first, each also far from those before it: K-Center-Greedy, where the
    other selection is known. Frames of both selections are left out, and so is whatever the other one has an exact copy of."""
    rows = [pool.frames[i].clusters.rows for i in by]
    known = np.concatenate([pool.frames[i].clusters.rows for i in missed_by])
    picks = k_center_greedy(np.concatenate(rows), offsets_of(rows), at_most, first=None, known=known)
    return [Found(frame=by[pick.unit], pick=pick) for pick in picks if pick.squared > 0.0]
