"""A disk that may lose power: what of a recorded run could stand on it afterwards.

What POSIX promises, and no more: the bytes of a file are safe once that file was synced, a name is safe once its folder was.
What was not synced may be there, gone, or torn, each write and each name by itself. A rename is atomic.
"""

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

OPEN, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, MKDIR, RMDIR, MARK = range(1, 10)
CREATE, EMPTY = 0o100, 0o1000  # O_CREAT and O_TRUNC
HEADER = struct.Struct("<IIIIQQ")
SECTOR = 512

Fate = Literal["kill", "lost", "names", "lengths", "data", "torn"]
FATES: tuple[Fate, ...] = ("kill", "lost", "names", "lengths", "data", "torn")
"""What becomes of all that was not synced.

kill     all of it is there: the process died, the machine did not
lost     none of it
names    files have their names and none of their bytes
lengths  files have their names and lengths, and zeros for bytes
data     files have their bytes, but their names are the old ones
torn     each write and each name is there or not, by a draw; a write may be cut within a sector's reach
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One record of recorder.c. offset is the flags of an OPEN and the number of a MARK."""

    kind: int
    handle: int
    path: str
    target: str
    offset: int
    data: bytes


def read_log(path: Path, root: Path) -> list[Operation]:
    """The operations in order; paths are relative to `root`."""
    log, at, found = path.read_bytes(), 0, []

    def text(length: int) -> str:
        nonlocal at
        at += length
        return PurePosixPath(log[at - length : at].decode()).relative_to(root).as_posix() if length else ""

    while at < len(log):
        kind, handle, first, second, offset, length = HEADER.unpack_from(log, at)
        at += HEADER.size
        one, two = text(first), text(second)
        stored = length if kind == WRITE else 0
        found.append(
            Operation(kind=kind, handle=handle, path=one, target=two, offset=offset, data=log[at : at + stored])
        )
        at += stored
    return found


@dataclass(slots=True, eq=False)
class Inode:
    """A file's or folder's own: synced bytes, and what was asked for since, in order: (offset, bytes), or (length, None)."""

    folder: bool
    synced: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def bytes(self, fate: Fate, chance: random.Random) -> bytes:
        content = bytearray(self.synced)
        if fate == "lengths":
            whole = self.bytes("kill", chance)
            return bytes(content[: len(whole)].ljust(len(whole), b"\0"))
        if fate in ("lost", "names"):
            return bytes(content)
        for offset, data in self.pending:
            if fate == "torn":
                if chance.random() < 0.5:
                    continue
                if data and chance.random() < 0.5:
                    data = data[: chance.randrange(0, len(data) + SECTOR, SECTOR)]
            _apply(content, offset, data)
        return bytes(content)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
    content.extend(bytes(max(0, offset - len(content))))
    if data is not None:
        content[offset : offset + len(data)] = data


Names = dict[str, Inode]
Change = tuple[str, Inode | None, str | None]
"""A name, what it stands for from now on (None: nothing), and the name that goes with it (a rename)."""


@dataclass(slots=True)
class Disk:
    """The state after a number of operations. `names` is what the living see, `safe` what the disk promises."""

    names: Names = field(default_factory=lambda: {".": Inode(folder=True)})
    safe: Names = field(default_factory=dict)
    unsafe: list[Change] = field(default_factory=list)
    handles: dict[int, Inode] = field(default_factory=dict)
    marks: int = 0

    def __post_init__(self) -> None:
        self.safe = dict(self.names)

    def do(self, op: Operation) -> None:
        """One more operation."""
        if op.kind == OPEN:
            inode = self.names.get(op.path)
            if inode is None:
                if not op.offset & CREATE:
                    return  # below the root, but not of the drive: what stood there before
                inode = Inode(folder=False)
                self._change((op.path, inode, None))
            elif op.offset & EMPTY:
                inode.pending.append((0, None))
            self.handles[op.handle] = inode
        elif op.kind == WRITE:
            self.handles[op.handle].pending.append((op.offset, op.data))
        elif op.kind == TRUNCATE:
            self.handles[op.handle].pending.append((op.offset, None))
        elif op.kind == SYNC:
            self._sync(self.handles[op.handle])
        elif op.kind == RENAME:
            self._change((op.target, self.names[op.path], op.path))
        elif op.kind == MKDIR:
            self._change((op.path, Inode(folder=True), None))
        elif op.kind in (UNLINK, RMDIR):
            self._change((op.path, None, None))
        elif op.kind == MARK:
            self.marks = op.offset

    def _change(self, change: Change) -> None:
        _rename(self.names, change)
        self.unsafe.append(change)

    def _sync(self, inode: Inode) -> None:
        if not inode.folder:
            for offset, data in inode.pending:
                _apply(inode.synced, offset, data)
            inode.pending.clear()
            return
        here = next(name for name, found in self.names.items() if found is inode)
        left = []
        for change in self.unsafe:
            if _folder(change[0]) == here:
                _rename(self.safe, change)
            else:
                left.append(change)
        self.unsafe = left

    def after(self, fate: Fate, chance: random.Random) -> dict[str, bytes | None]:
        """path -> bytes, or None for a folder: what stands on the disk when the power is back."""
        names = dict(self.safe if fate in ("lost", "data", "torn") else self.names)
        if fate == "torn":
            for change in self.unsafe:
                if chance.random() < 0.5:
                    _rename(names, change)
        found: dict[str, bytes | None] = {}
        for name in sorted(names):
            if name == "." or (_folder(name) != "." and _folder(name) not in found):
                continue  # its folder's own name is gone, and so is all below it
            inode = names[name]
            found[name] = None if inode.folder else inode.bytes(fate, chance)
        return found


def _rename(names: Names, change: Change) -> None:
    name, inode, old = change
    if old is not None:
        names.pop(old, None)
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def lay_out(state: dict[str, bytes | None], folder: Path) -> None:
    """Put a state into an empty folder. SQLite's shared memory is left out: it is no part of what a disk holds."""
    for name, data in state.items():
        if data is None:
            (folder / name).mkdir(mode=0o700)
        elif not name.endswith("-shm"):
            (folder / name).write_bytes(data)


def states(
    operations: Sequence[Operation], *, seed: int, every: int = 1, torn: int = 1
) -> Iterator[tuple[int, Fate, int, dict[str, bytes | None]]]:
    """(operations done, fate, marks passed, state) for a cut of power before each `every`-th operation and at the end.

    A state that an earlier cut has given with as many marks is not given again.
    """
    disk, seen = Disk(), set()
    for n in range(len(operations) + 1):
        if n % every == 0 or n == len(operations):
            for fate in FATES:
                for draw in range(torn if fate == "torn" else 1):
                    state = disk.after(fate, random.Random(f"{seed} {n} {draw}"))
                    key = (disk.marks, hash(tuple(state.items())))
                    if key not in seen:
                        seen.add(key)
                        yield n, fate, disk.marks, state
        if n < len(operations):
            disk.do(operations[n])
