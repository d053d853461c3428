"""A vehicle gets a bundle of a new feature space in the middle of its life, and goes on working (DESIGN section 5).

Clusters of two spaces cannot be compared, but pictures can be looked at again: what is retained and what was released is
encoded anew from the frames on disk, a fresh ladder of the same round judges the retained units in their old order, and the
memory of the new space begins with what was released and not yet sent, whose pictures are here (that of the old one stays
where it is, and is found again when the old bundle comes back). Nothing here writes: the spool stores the outcome in one
transaction.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

import numpy as np

from geal_edge.errors import FrameError, SpoolDamaged
from geal_edge.runtime.clusters import KnowledgeClusters, Rows
from geal_edge.runtime.frame import Image
from geal_edge.runtime.ladder import Death, Decision, Ladder, RetainedUnit
from geal_edge.runtime.memory import Entry
from geal_edge.runtime.spooldb import FRAMES, NO_ROWS
from geal_edge.runtime.units import joined

Encode: TypeAlias = Callable[[Image], KnowledgeClusters]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedAnew:
    """A unit as the new bundle sees it: its frames' numbers in the database, their ids and digests, and their clusters."""

    unit: int
    round: int
    state: str
    frames: tuple[tuple[int, str, str], ...]
    clusters: tuple[KnowledgeClusters, ...]

    @property
    def rows(self) -> Rows:
        return np.concatenate([clusters.rows for clusters in self.clusters])

    def entries(self, origin: str) -> list[Entry]:
        """Its frames as they are remembered."""
        return [
            Entry(id=id_, kind="released", rows=clusters.rows, origin=origin, sha256=digest)
            for (_, id_, digest), clusters in zip(self.frames, self.clusters, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the fresh ladder of a round said of its retained units.

    decisions  unit -> decision, of those that stay retained
    levels     unit -> the levels that hold it in the end
    evicted    retained units that are not retained any more, or cannot be read
    """

    decisions: dict[int, Decision]
    levels: dict[int, tuple[int, ...]]
    evicted: tuple[int, ...]
    deaths: tuple[Death, ...]


def encoded_anew(db: sqlite3.Connection, spool: Path, encode: Encode) -> Iterator[EncodedAnew | int]:
    """All released and retained units, in the order of their release and then of their number; the number alone of a retained
    unit that cannot be read or judged any more. Raises SpoolDamaged for a released one: it is owed to the far side."""
    rows = db.execute(
        "SELECT unit, round, state, frame, id, sha256, file FROM units JOIN frames USING (unit) "
        "WHERE state IN ('released', 'retained') ORDER BY state != 'released', round, release_order, unit, frame"
    ).fetchall()
    for (unit, round_, state), of_unit in groupby(rows, key=itemgetter(0, 1, 2)):
        frames = list(of_unit)
        try:
            clusters = tuple(encode(_image(spool / FRAMES / file)) for *_, file in frames)
        except FrameError as error:
            if db.execute("SELECT state FROM units WHERE unit = ?", (unit,)).fetchone() == ("sent",):
                continue  # an uploader beside us was quicker
            if state == "released":
                raise SpoolDamaged(
                    f"{spool}: the released frame {frames[0][4]} cannot be encoded for the new bundle ({error}). Nothing was "
                    "changed: go on with the old bundle until it is sent, or restore its file."
                ) from error
            yield unit
        else:
            named = tuple((number, id_, digest) for _, _, _, number, id_, digest, _ in frames)
            yield EncodedAnew(unit=unit, round=round_, state=state, frames=named, clusters=clusters)


def judged_anew(
    units: Sequence[EncodedAnew],
    *,
    unreadable: Sequence[int],
    gone: Sequence[int],
    round_number: int,
    capacity: int,
    fill: int,
    base: Sequence[Rows],
) -> Judgement:
    """Let a fresh ladder of a round judge what is retained, over its new base and what the round has released.

    Of the units that it has released some are `gone`, sent or too old: they count, and cover nothing in the new space.
    """
    here = [unit for unit in units if unit.round == round_number]
    ladder = Ladder(
        capacity=capacity,
        fill=fill,
        base=base,
        released=[
            *(RetainedUnit(unit=unit, rows=NO_ROWS, levels=()) for unit in gone),
            *(RetainedUnit(unit=u.unit, rows=u.rows, levels=()) for u in here if u.state == "released"),
        ],
    )
    decisions: dict[int, Decision] = {}
    retained = [unit for unit in here if unit.state == "retained"]
    for unit in retained:
        ladder.number_next(unit.unit)
        decisions[unit.unit] = ladder.score(joined(list(unit.clusters)))
        ladder.learn(decisions[unit.unit])
    levels = {unit.unit: unit.levels for unit in ladder.snapshot()}
    return Judgement(
        decisions={unit: decisions[unit] for unit in levels},
        levels=levels,
        evicted=(*unreadable, *(unit.unit for unit in retained if unit.unit not in levels)),
        deaths=ladder.deaths,
    )


def _image(path: Path) -> Image:
    from geal_edge.runtime.sources.images import read_image

    return read_image(path).image
