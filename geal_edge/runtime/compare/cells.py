"""A cell: one draw of one strategy, what it selects and what that covers. The piece in which a comparison is worked out and
resumed.

    OUT/cells/<key>.json   {"order": [...], "covers": [[radius, mean, p95], ...], "seconds": ...}

The key is a digest of all that decides the answer; the file appears whole or not at all, and may be deleted at any time.
"""

import json
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from geal_edge.errors import Interrupted
from geal_edge.models.jsontext import parse_json
from geal_edge.runtime import durable
from geal_edge.runtime.compare.cover import Cover, covers
from geal_edge.runtime.compare.pools import joined, read_stored_pool
from geal_edge.runtime.compare.strategies import Strategy, order_of
from geal_edge.runtime.kcenter import offsets_of
from geal_edge.runtime.pool import Pool
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.threads import one_blas_thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What to work out.

    name      of the strategy in the comparison, with what is swept
    budgets   ascending; one alone, unless the first frames of the largest one's selection are that of each
    pool      the file of the pool to choose from
    measured  the file of the pool whose clusters are to be covered
    place     where the answer is stored
    """

    name: str
    strategy: Strategy
    seed: int
    budgets: tuple[int, ...]
    pool: Path
    measured: Path
    place: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """order: frames of the measured pool, in order of selection; covers: one for each budget of the cell; seconds it took."""

    order: tuple[int, ...]
    covers: tuple[Cover, ...]
    seconds: float


def work_out(cell: Cell, stop: Stop) -> Answer:
    """Choose, measure, store. Raises Interrupted, with nothing stored, where `stop` was asked meanwhile."""
    began = time.perf_counter()
    measured = read_stored_pool(cell.measured).pool
    with one_blas_thread():
        pool, places = aligned(read_stored_pool(cell.pool).pool, measured)
        order = [places[i] for i in order_of(cell.strategy, pool, cell.budgets[-1], cell.seed, stop)]
        if stop():
            raise Interrupted("Stopped. What was worked out is safe; the same command goes on from here.")
        rows = [frame.clusters.rows for frame in measured.frames]
        covered = covers(np.concatenate(rows), offsets_of(rows), order, cell.budgets)
    answer = Answer(order=tuple(order), covers=tuple(covered), seconds=time.perf_counter() - began)
    data = {"order": answer.order, "covers": [astuple(cover) for cover in covered], "seconds": answer.seconds}
    durable.write_file(cell.place, json.dumps(data).encode() + b"\n")
    return answer


def read_answer(cell: Cell) -> Answer | None:
    """What is stored; None where nothing whole is, so that it is worked out again."""
    try:
        data = parse_json(cell.place.read_bytes())
        return Answer(
            order=tuple(data["order"]),
            covers=tuple(Cover(radius=radius, mean=mean, p95=p95) for radius, mean, p95 in data["covers"]),
            seconds=data["seconds"],
        )
    except (OSError, ValueError, OverflowError, KeyError, TypeError):
        return None


def aligned(pool: Pool, measured: Pool) -> tuple[Pool, list[int]]:
    """The pool's frames that are measured too, and the place of each among the measured ones.

    Another recipe or bundle may find frames degenerate that this one can judge, and the other way round.
    """
    if pool is measured:
        return pool, list(range(len(pool.frames)))
    place = {frame.id: i for i, frame in enumerate(measured.frames)}
    frames = [frame for frame in pool.frames if frame.id in place]
    return joined(frames, pool.lost, pool.recipe), [place[frame.id] for frame in frames]
