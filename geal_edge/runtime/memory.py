"""The memory: clusters of released and known frames, which count as covered, and of regions that are to be ignored.

It is bounded. The forgetting rule: while there are more than `max_frames` frames, the most redundant one goes, that is the
one whose novelty against all that stays is smallest; of several such the oldest. Forgetting it leaves every cluster of it
covered within that novelty, and no other frame could go for less (benchmarks/memory.py has what it costs, beside
forgetting the oldest). What is to be ignored does not count and is never forgotten.

To know which one, each row's nearest row of another entry is carried along, and stored: it follows from the rows, but of
2000 frames of 25 clusters it takes minutes on a vehicle to find anew, and less than a second to keep. Distances are float32
here: which frame goes may differ between machines, never between two runs of one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import FeatureSpaceMismatch, UsageError
from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.product import product

Kind: TypeAlias = Literal["released", "known", "ignore"]
Region: TypeAlias = tuple[float, float, float, float]
"""(x, y, width, height) as shares of the picture, from its upper left corner."""

KINDS: tuple[Kind, ...] = ("released", "known", "ignore")
MAX_FRAMES = 2000

Float32: TypeAlias = npt.NDArray[np.float32]
Int32: TypeAlias = npt.NDArray[np.int32]

_QUERY_ROWS, _BLOCK_ROWS = 512, 8192
"""Rows that are compared at once: 16 MiB of distances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What was marked of a frame to be ignored.

    patches  row-major indices of the patches of the ignored clusters, ascending; none: all clusters of the frame
    grid     (rows, columns)
    region   what the user drew; None where it was the witness
    """

    patches: tuple[int, ...]
    grid: tuple[int, int]
    region: Region | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A frame, or a part of one, that is remembered.

    rows    (C, D), C >= 1; of an `ignore` entry only the marked clusters
    origin  where it came from: a path, or the spool that released it
    sha256  of the frame's bytes, where it has any
    mark    of an `ignore` entry, and of no other
    """

    id: str
    kind: Kind
    rows: Rows
    origin: str
    sha256: str | None = None
    mark: Mark | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """For each row of a memory its nearest row of another entry.

    squared  float32 (M,), squared chord; inf where there is no other entry
    entry    int32 (M,), that entry's place; -1 where there is none
    """

    squared: Float32 = field(default_factory=lambda: np.empty(0, np.float32))
    entry: Int32 = field(default_factory=lambda: np.empty(0, np.int32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is remembered. Change it with `remember` and `merge`, which give a new one.

    feature_space  of all rows
    max_frames     frames (`released` and `known`) at most
    entries        oldest first
    forgotten      frames forgotten so far, at least: memories that were merged may have forgotten the same ones
    through_round  of a spool's own memory, the last round whose released frames it took; else 0
    nearest        carried along for the forgetting rule
    """

    feature_space: str
    max_frames: int = MAX_FRAMES
    entries: tuple[Entry, ...] = ()
    forgotten: int = 0
    through_round: int = 0
    nearest: Nearest = field(default_factory=Nearest)

    @property
    def frames(self) -> list[Entry]:
        """Released and known frames, oldest first."""
        return [entry for entry in self.entries if entry.kind != "ignore"]

    def rows(self) -> Rows:
        """(M, D) all that counts as covered, in the order of the entries; (0, 0) where there is nothing."""
        empty: Rows = np.empty((0, 0), np.float16)
        return np.concatenate([entry.rows for entry in self.entries]) if self.entries else empty


def remember(memory: Memory, entries: Iterable[Entry]) -> Memory:
    """The memory with these entries behind its own, each frame once (see `once`), and what is too much forgotten.

    Raises UsageError where `max_frames` is below 1.

    >>> entry = lambda id, *row: Entry(id=id, kind="known", rows=np.array([row], np.float16), origin="doctest")
    >>> memory = remember(Memory(feature_space="fs", max_frames=2), [entry("a", 1, 0), entry("b", 0, 1)])
    >>> memory = remember(memory, [entry("c", 0.6, 0.8)])  # nearer to b than a is to anything
    >>> [entry.id for entry in memory.entries], memory.forgotten
    (['a', 'c'], 1)
    """
    if memory.max_frames < 1:
        raise UsageError(f"memory.max_frames = {memory.max_frames}: must be at least 1")
    wanted = once([*memory.entries, *entries])
    table = _Table(memory, wanted)
    too_many = max(0, sum(entry.kind != "ignore" for entry in wanted) - memory.max_frames)
    for _ in range(too_many):
        table.forget(table.most_redundant())
    remembered, nearest = table.packed()
    return replace(memory, entries=remembered, forgotten=memory.forgotten + too_many, nearest=nearest)


def ignored(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The same as what is to be ignored: never forgotten, and no frame of it is known. What is marked already stays as it is.

    >>> entry = Entry(id="a", kind="known", rows=np.array([[1, 0]], np.float16), origin="doctest")
    >>> [(entry.kind, entry.mark.patches) for entry in ignored([entry])]
    [('ignore', ())]
    """
    whole = Mark(patches=(), grid=(0, 0))
    return tuple(entry if entry.mark else replace(entry, kind="ignore", mark=whole) for entry in entries)


def forget(memory: Memory, which: Callable[[Entry], bool]) -> Memory:
    """The memory without the entries of which `which` is true: they were erased, and do not count as forgotten.

    >>> entry = lambda id, *row: Entry(id=id, kind="known", rows=np.array([row], np.float16), origin="doctest")
    >>> memory = remember(Memory(feature_space="fs"), [entry("a", 1, 0), entry("b", 0, 1)])
    >>> [entry.id for entry in forget(memory, lambda entry: entry.id == "a").entries]
    ['b']
    """
    remembered, nearest = _Table(memory, [entry for entry in memory.entries if not which(entry)]).packed()
    return replace(memory, entries=remembered, nearest=nearest)


def merge(memories: Sequence[Memory]) -> Memory:
    """One memory of several, at least one: what stands in more than one of them, by id or by content, stands in it once.

    Its bound is the largest of theirs. Where nothing is forgotten, their order does not decide which ids it holds.

    Raises FeatureSpaceMismatch where they are not all of one space.
    """
    first, *rest = memories
    for other in rest:
        require_space("a memory to be merged", other.feature_space, first.feature_space)
    widest = replace(
        first,
        max_frames=max(memory.max_frames for memory in memories),
        forgotten=max(memory.forgotten for memory in memories),
    )
    return remember(widest, [entry for memory in rest for entry in memory.entries])


def require_space(where: object, found: str, wanted: str) -> None:
    """Raise FeatureSpaceMismatch, naming both ids, where what stands at `where` is not of the feature space `wanted`."""
    if found != wanted:
        raise FeatureSpaceMismatch(
            f"{where}: is of feature space {found}, what it would be compared with is of {wanted}. "
            "Use the bundle and the knobs that it was made with, or leave it out."
        )


def once(entries: Sequence[Entry]) -> list[Entry]:
    """Each frame once: those of one id or one content (sha256) are one, which stands where the first of them stood.

    Which id stands for all does not depend on their order: that of a released one before that of a known one, then the
    smaller. Of several with that id the first does.
    Marked parts of frames are the same only where their patches are the same too.
    """
    leader = list(range(len(entries)))

    def find(i: int) -> int:
        while leader[i] != i:
            leader[i] = i = leader[leader[i]]
        return i

    seen: dict[tuple[object, ...], int] = {}
    for i, entry in enumerate(entries):
        part = None if entry.mark is None else (entry.mark.patches, entry.mark.grid)
        keys: list[tuple[object, ...]] = [("id", entry.id, part)]
        if entry.sha256 is not None:
            keys.append(("sha256", entry.sha256, part))
        for key in keys:
            a, b = sorted((find(seen.setdefault(key, i)), find(i)))
            leader[b] = a  # the first of a group leads it
    groups: dict[int, list[Entry]] = {}
    for i, entry in enumerate(entries):
        groups.setdefault(find(i), []).append(entry)
    return [min(group, key=lambda entry: (KINDS.index(entry.kind), entry.id)) for _, group in sorted(groups.items())]


class _Table:
    """A memory while it changes: its rows in float32, and the nearest row of another entry for each.

    An entry's place is called its slot. Forgotten entries stay as holes until `packed`: moving all rows for each would cost
    more than comparing with a few dead ones.
    """

    def __init__(self, memory: Memory, wanted: list[Entry]) -> None:
        """Of the entries wanted, those of the memory stand first, in its order; the others behind them in theirs."""
        is_wanted, is_old = {id(entry) for entry in wanted}, {id(entry) for entry in memory.entries}
        stays = np.array([id(entry) in is_wanted for entry in memory.entries], bool)
        self._entries = [entry for entry in memory.entries if id(entry) in is_wanted]
        self._entries += [entry for entry in wanted if id(entry) not in is_old]
        self._alive = np.ones(len(self._entries), bool)
        self._slots = _slots_of(self._entries)
        self._squared = np.full(len(self._slots), np.inf, np.float32)
        self._owner = np.full(len(self._slots), -1, np.int32)
        if not self._entries:
            return
        self._wide: Float32 = np.concatenate([entry.rows for entry in self._entries], dtype=np.float32)
        self._lengths: Float32 = np.einsum("ij,ij->i", self._wide, self._wide)
        carried = stays[_slots_of(memory.entries)]
        old_rows = int(carried.sum())
        self._squared[:old_rows] = memory.nearest.squared[carried]
        self._owner[:old_rows] = _moved(memory.nearest.entry[carried], stays)
        self._search(np.arange(old_rows, len(self._slots)), old_rows=old_rows)
        self._search_again(np.flatnonzero(self._owner == -1))  # those whose nearest went

    def forget(self, slot: int) -> None:
        self._alive[slot] = False
        self._search_again(np.flatnonzero(self._alive[self._slots] & (self._owner == slot)))

    def most_redundant(self) -> int:
        """The frame whose novelty against all others is smallest; ties: the oldest."""
        starts = np.flatnonzero(np.diff(self._slots, prepend=-1))
        novelty = np.maximum.reduceat(self._squared, starts)
        fixed = np.array([entry.kind == "ignore" for entry in self._entries])
        candidates = np.flatnonzero(self._alive & ~fixed)
        return int(candidates[novelty[candidates].argmin()])

    def packed(self) -> tuple[tuple[Entry, ...], Nearest]:
        alive = self._alive[self._slots]
        entries = tuple(entry for entry, here in zip(self._entries, self._alive, strict=True) if here)
        return entries, Nearest(squared=self._squared[alive], entry=_moved(self._owner[alive], self._alive))

    def _search_again(self, queries: npt.NDArray[np.intp]) -> None:
        self._squared[queries] = np.inf
        self._owner[queries] = -1
        self._search(queries, old_rows=0)

    def _search(self, queries: npt.NDArray[np.intp], *, old_rows: int) -> None:
        """Find the nearest rows of these rows, and let rows before `old_rows` know where one of these is nearer."""
        alive = self._alive[self._slots]
        for begin in range(0, len(queries), _QUERY_ROWS):
            chunk = queries[begin : begin + _QUERY_ROWS]
            wide, lengths, slots = self._wide[chunk], self._lengths[chunk], self._slots[chunk]
            for low in range(0, len(self._slots), _BLOCK_ROWS):
                block = slice(low, low + _BLOCK_ROWS)
                squared = product(self._wide[block], wide.T)
                squared *= -2.0
                squared += self._lengths[block, None]
                squared += lengths
                np.maximum(squared, 0.0, out=squared)
                squared[self._slots[block, None] == slots] = np.inf
                squared[~alive[block]] = np.inf
                self._improve(chunk, squared.min(axis=0), self._slots[block][squared.argmin(axis=0)])
                if low < old_rows:
                    old = np.arange(low, min(low + _BLOCK_ROWS, old_rows))
                    squared = squared[: len(old)]
                    self._improve(old, squared.min(axis=1), slots[squared.argmin(axis=1)])

    def _improve(self, rows: npt.NDArray[np.intp], squared: Float32, slots: Int32) -> None:
        nearer = squared < self._squared[rows]  # strictly: of equals the first found stays
        self._squared[rows[nearer]] = squared[nearer]
        self._owner[rows[nearer]] = slots[nearer]


def _slots_of(entries: Sequence[Entry]) -> Int32:
    """The place of the entry that each row belongs to."""
    return np.repeat(np.arange(len(entries), dtype=np.int32), [len(entry.rows) for entry in entries])


def _moved(places: Int32, stays: npt.NDArray[np.bool_]) -> Int32:
    """Places of entries once those that do not stay are gone; -1 for theirs, and for none."""
    after = np.append(np.where(stays, np.cumsum(stays) - 1, -1), -1)  # place -1, for none, is the last
    moved: Int32 = after[places].astype(np.int32)
    return moved
