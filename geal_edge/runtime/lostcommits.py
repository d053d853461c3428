"""What a damaged disk leaves when it takes commits away that SQLite had made safe: evidence beside the database.

SQLite reads its log (`spool.db-wal`) up to the first frame whose checksum is wrong, and takes that for the end: this is right
after a power cut, which can only tear the newest transaction. Where a disk has damaged the middle of the log, whole transactions
stand behind the damage, and SQLite overwrites them. The files of the frames that they stored are there all the same.
"""

import sqlite3
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geal_edge.errors import SpoolDamaged
from geal_edge.runtime import durable
from geal_edge.runtime.durable import TEMPORARY_SUFFIX
from geal_edge.runtime.spooldb import BESIDE_FILE, DATABASE, LOCK, next_unit

LOG_HEADER = struct.Struct(
    ">IIIIIIII"
)  # magic, version, page size, checkpoint, salts, checksum; sqlite.org/fileformat2.html
FRAME_HEADER = struct.Struct(">IIIIII")  # page, pages after a commit (0: none ends here), salts, checksum
MAGIC = 0x377F0682  # the lowest bit says that words are summed big-endian

GAVE_WAY = "SELECT 1 FROM frames WHERE unit = ? AND file IS NULL"
BESIDE = "SELECT 1 FROM frames WHERE unit = ?"
"""Context (00000007.c01.jpg) and outputs of a hook (00000007.p00.jpg) may be in flight too, beside a unit that is there."""

U32 = npt.NDArray[np.uint32]


def damaged_log(path: Path) -> str | None:
    """Where a log is damaged and what that costs, as a sentence; None for a sound one, and for one that a power cut has torn."""
    try:
        data = _read(path)
    except OSError:
        return None  # none, or one that SQLite itself cannot read and says so
    if len(data) <= LOG_HEADER.size:
        return None
    magic, _, page_bytes, _, *salts, first, second = LOG_HEADER.unpack_from(data)
    frame_bytes = FRAME_HEADER.size + page_bytes
    words = ">u4" if magic & 1 else "<u4"
    sums = np.array([0, 0], np.uint32)
    if magic & ~1 != MAGIC or (sums := _summed(sums, data[:24], words)).tolist() != [first, second]:
        return f"{path.name}: its head is damaged, and all transactions in it are lost"
    broken: int | None = None
    commits = 0
    for at in range(LOG_HEADER.size, len(data) - frame_bytes + 1, frame_bytes):
        _, pages, *of_frame, first, second = FRAME_HEADER.unpack_from(data, at)
        if broken is None:
            body = data[at + FRAME_HEADER.size : at + frame_bytes]
            sums = _summed(_summed(sums, data[at : at + 8], words), body, words)
            if of_frame != salts or sums.tolist() != [first, second]:
                broken = at
        if broken is not None and of_frame == salts and pages:
            commits += 1
    if broken is None or commits < 2:  # the newest transaction may be torn: it was never promised
        return None
    return f"{path.name}: is damaged at byte {broken}, and {commits} transactions from there on are lost"


def require_whole_log(spool: Path) -> None:
    """Raise SpoolDamaged where commits are lost, for who writes beside the writer: SQLite would write over the evidence, and
    the writer take the files of the lost rows for what a kill left. A writer that is at work has looked already."""
    if durable.is_locked(spool / LOCK):
        return
    damage = damaged_log(spool / f"{DATABASE}-wal")
    if damage is not None:
        raise SpoolDamaged(
            f"{spool}: {damage}. Nothing was changed; `geal-edge repair {spool}` mends what can be mended."
        )


def _read(path: Path) -> bytes:
    """A log's bytes, none of them of another log: a writer that is at work may begin it anew, head first."""
    while True:
        data = path.read_bytes()
        with path.open("rb") as file:
            if file.read(LOG_HEADER.size) == data[: LOG_HEADER.size]:
                return data


def _summed(sums: U32, data: bytes, words: str) -> U32:
    """SQLite's checksum, carried on over more bytes: of each two words x and y, a += x + b, then b += y + a, modulo 2^32."""
    values = np.frombuffer(data, words).astype(np.uint32).reshape(-1, 2)
    weights, carried = _weights(len(values))
    before: U32 = (carried * sums).sum(axis=1, dtype=np.uint32)
    behind: U32 = np.einsum("pij,pj->i", weights, values, dtype=np.uint32)
    return before + behind


@lru_cache(maxsize=4)
def _weights(pairs: int) -> tuple[U32, U32]:
    """((pairs, 2, 2), (2, 2)): how each pair of words counts in the end, and how the sums before them do."""
    step, taken = np.array([[1, 1], [1, 2]], np.uint32), np.array([[1, 0], [1, 1]], np.uint32)
    weights = np.empty((pairs, 2, 2), np.uint32)
    power = np.eye(2, dtype=np.uint32)
    for pair in reversed(range(pairs)):
        weights[pair] = power @ taken
        power = power @ step
    return weights, power


def leftovers(db: sqlite3.Connection, names: Sequence[str], *, damaged: bool) -> set[str]:
    """Which files of ours that no row names are what a kill leaves: of the unit in flight, whose transaction never came, or of
    units that gave way, whose removal a power cut undid. Any other was stored with a row, which the database has lost; where
    one was, or anything else is `damaged`, the file that seems to be in flight may be another."""
    coming = next_unit(db)
    halves = {name for name in names if name.endswith(TEMPORARY_SUFFIX)}  # no row ever names one
    in_flight = not damaged and all(unit_of(name) <= coming for name in {*names} - halves)
    return halves | {
        name
        for name in names
        if (in_flight and unit_of(name) == coming)
        or db.execute(BESIDE if BESIDE_FILE.fullmatch(name) else GAVE_WAY, (unit_of(name),)).fetchone()
    }


def unit_of(name: str) -> int:
    """The number of the unit in the name of a frame's file.

    >>> unit_of("00000007-1.jpg"), unit_of("00000008.jpg.tmp")
    (7, 8)
    """
    return int(name.split(".", maxsplit=1)[0].split("-", maxsplit=1)[0])


def number_after(db: sqlite3.Connection, unit: int) -> None:
    """Within a transaction: give no number up to this one to a unit that comes."""
    if unit >= next_unit(db):
        db.execute("DELETE FROM sqlite_sequence WHERE name = 'units'")
        db.execute("INSERT INTO sqlite_sequence VALUES ('units', ?)", (unit,))
