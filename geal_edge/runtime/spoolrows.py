"""Rows of a spool's units and frames as they are written; each within a transaction of who writes them."""

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.ladder import Death, Decision, SelectedUnit
from geal_edge.runtime.memory import Entry
from geal_edge.runtime.metadata import store_metadata
from geal_edge.runtime.migration import EncodedAnew, Judgement
from geal_edge.runtime.spooldb import next_unit
from geal_edge.runtime.units import JudgedFrame


@dataclass(frozen=True, slots=True)
class FrameToStore:
    """A frame of a retained unit as it goes to disk; without a file in a shadow."""

    judged: JudgedFrame
    file: str | None
    data: bytes

    @property
    def row_bytes(self) -> int:
        """Of its clusters and patch map in the database."""
        return 2 * (self.judged.clusters.rows.size + self.judged.clusters.patch_cluster.size)


def insert_unit(
    db: sqlite3.Connection, round_number: int, decision: Decision, stored: Sequence[FrameToStore], *, wall_ns: int
) -> None:
    """A retained unit with its frames."""
    db.execute(
        "INSERT INTO units VALUES (?, ?, 'retained', ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL)",
        (decision.unit, round_number, np.array(decision.levels, "<u2").tobytes(), *_reasons(decision)),
    )
    db.executemany(
        "INSERT INTO frames VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                decision.unit,
                frame.id,
                frame.source,
                frame.frame_index,
                frame.capture_time_ns,
                wall_ns,
                file,
                len(data),
                sha256(data).hexdigest(),
                *_cluster_columns(clusters),
            )
            for frame, clusters, file, data in ((s.judged.frame, s.judged.clusters, s.file, s.data) for s in stored)
        ],
    )
    store_metadata(db, decision.unit, (s.judged.frame.metadata for s in stored))


def insert_deaths(db: sqlite3.Connection, round_number: int, deaths: Sequence[Death], *, before: int) -> None:
    """Levels that ended before the unit of that number."""
    db.executemany(
        "INSERT INTO deaths VALUES (NULL, ?, ?, ?, ?)",
        [(round_number, death.level, death.natural, before) for death in deaths],
    )


def mark_released(db: sqlite3.Connection, round_number: int, picks: Sequence[SelectedUnit]) -> None:
    """Units as final, behind those that the round has released before, in this order."""
    (before,) = db.execute(
        # Not their number: one that was erased leaves its place empty.
        "SELECT coalesce(max(release_order), 0) FROM units WHERE state != 'evicted' AND round = ?",
        (round_number,),
    ).fetchone()
    for place, pick in enumerate(picks, start=before + 1):
        db.execute(
            "UPDATE units SET state = 'released', release_order = ?, released_squared = ?, released_witness = ? "
            "WHERE unit = ?",
            (place, pick.squared_distance, pick.witness, pick.unit),
        )


def released_entries(db: sqlite3.Connection, round_number: int, *, origin: str) -> list[Entry]:
    """What a round has released, as it is remembered."""
    rows = db.execute(
        "SELECT id, sha256, clusters, cluster_count FROM units JOIN frames USING (unit) "
        "WHERE state IN ('released', 'sent', 'expired') AND clusters IS NOT NULL AND round = ? "
        "ORDER BY release_order IS NULL, release_order, unit, frame",
        (round_number,),
    )
    return [
        Entry(
            id=id_,
            kind="released",
            rows=np.frombuffer(clusters, "<f2").reshape(count, -1).astype(np.float16),
            origin=origin,
            sha256=digest,
        )
        for id_, digest, clusters, count in rows
    ]


def sent_and_expired(db: sqlite3.Connection, round_number: int) -> list[int]:
    """Units that a round has released and whose pictures are gone."""
    return [
        unit
        for (unit,) in db.execute(
            "SELECT unit FROM units WHERE state IN ('sent', 'expired') AND release_order > 0 AND round = ?",
            (round_number,),
        )
    ]


def store_anew(db: sqlite3.Connection, units: Sequence[EncodedAnew], *, grid: tuple[int, int]) -> None:
    """The clusters of another feature space; `grid` (rows, columns) of its patches."""
    db.executemany(
        "UPDATE frames SET clusters = ?, cluster_count = ?, patch_cluster = ? WHERE frame = ?",
        [
            (*_cluster_columns(clusters), number)
            for unit in units
            for (number, _, _), clusters in zip(unit.frames, unit.clusters, strict=True)
        ],
    )
    # What is not looked at again has no clusters in this space.
    db.execute(
        "UPDATE frames SET clusters = NULL, patch_cluster = NULL "
        "WHERE unit IN (SELECT unit FROM units WHERE state IN ('pinned', 'expired'))"
    )
    # The distances and witnesses by which units were released belong to the old space; so does all of what was sent.
    db.execute("UPDATE units SET released_squared = NULL, released_witness = NULL WHERE state IN ('released', 'sent')")
    nowhere = np.full(math.prod(grid), -1, "<i2").tobytes()
    db.execute(
        "UPDATE frames SET clusters = NULL, patch_cluster = ? WHERE unit IN (SELECT unit FROM units WHERE state = 'sent')",
        (nowhere,),
    )


def store_judgement(db: sqlite3.Connection, round_number: int, judgement: Judgement) -> None:
    """What a fresh ladder said of the retained units of a round."""
    db.execute("DELETE FROM deaths WHERE round = ?", (round_number,))
    insert_deaths(db, round_number, judgement.deaths, before=next_unit(db))
    db.execute(
        "UPDATE units SET levels = x'' WHERE state IN ('released', 'sent', 'expired') AND round = ?", (round_number,)
    )
    db.executemany(
        "UPDATE units SET levels = ?, squared_novelty = ?, radius = ?, witness = ?, nearest = ? WHERE unit = ?",
        [
            (np.array(judgement.levels[unit], "<u2").tobytes(), *_reasons(decision), unit)
            for unit, decision in judgement.decisions.items()
        ],
    )


def _cluster_columns(clusters: KnowledgeClusters) -> tuple[bytes, int, bytes]:
    """clusters, cluster_count and patch_cluster of a row of `frames`."""
    return clusters.rows.astype("<f2").tobytes(), len(clusters.rows), clusters.patch_cluster.astype("<i2").tobytes()


def _reasons(decision: Decision) -> tuple[float | None, float | None, int | None, int | None]:
    """squared_novelty, radius, witness and nearest of a row of `units`."""
    return decision.squared_novelty, decision.radius, decision.witness, decision.nearest
