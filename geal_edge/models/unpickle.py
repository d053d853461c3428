"""Read a torch checkpoint's pickle without running any of it.

A pickle is a program for a small stack machine, and Python's own machine imports and calls whatever the program names.
Ours knows only the instructions that checkpoints are written with, and builds only plain values, references to tensors
and `Foreign` placeholders. A global's name is looked up as a pair of strings in torch_globals.py and is never imported:
nothing here calls, or sets an attribute of, anything that the file chose.
"""

import pickletools
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geal_edge.errors import UnsafeCheckpoint
from geal_edge.models.stored import damaged
from geal_edge.models.torch_globals import (
    FOREIGN,
    GLOBALS,
    Builder,
    Foreign,
    StorageRef,
    StorageType,
    TensorRef,
    storage_ref,
    tensor_ref,
)

MAX_PICKLE_BYTES = 16 << 20
"""Tensors lie outside the pickle: that of a full DINO checkpoint is under 1 MiB. The limit bounds time and memory."""

_NAMES = {ord(instruction.code): instruction.name for instruction in pickletools.opcodes}
# Instructions with an argument of fixed size, and its format.
_FIXED = {
    "PROTO": "<B",
    "FRAME": "<Q",
    "BININT": "<i",
    "BININT1": "<B",
    "BININT2": "<H",
    "BINFLOAT": ">d",
    "BINPUT": "<B",
    "LONG_BINPUT": "<I",
    "BINGET": "<B",
    "LONG_BINGET": "<I",
}
# Instructions that push what follows them, and the format of its length.
_TEXTS = {"SHORT_BINUNICODE": "<B", "BINUNICODE": "<I", "BINUNICODE8": "<Q"}
_STRINGS = {"SHORT_BINSTRING": "<B", "BINSTRING": "<I"}  # Python 2's
_BYTES = {"SHORT_BINBYTES": "<B", "BINBYTES": "<I", "BINBYTES8": "<Q", "BYTEARRAY8": "<Q"}
_LONGS = {"LONG1": "<B", "LONG4": "<I"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, slots=True)
class Unpickled:
    """What one pickle says.

    value     dict, list, tuple, str, bytes, int, float, bool and None, with TensorRef, StorageRef, Foreign and the
              markers of GLOBALS among them; dict entries whose key is not a plain value are left out
    end       the position behind the pickle
    storages  every storage that it points into, by key
    """

    value: object
    end: int
    storages: dict[str, StorageRef]


def unpickle(data: bytes, path: Path, start: int = 0) -> Unpickled:
    """Follow the pickle that begins at `data[start]`; `path` is for the messages.

    Raises UnsafeCheckpoint for a global or an instruction that could do more than rebuild tensors, WeightsError for a
    pickle that is cut off or makes no sense. Takes time and memory in proportion to `len(data)`, whatever it declares.

    >>> unpickle(b"\\x80\\x02K\\x07.", Path("seven.pth")).value
    7
    """
    machine = _Machine(data, start, path)
    try:
        return Unpickled(machine.run(), machine.position, machine.storages)
    except (ValueError, IndexError, struct.error) as fault:  # IndexError: an empty stack
        raise damaged(path, f"its pickle stops making sense at byte {machine.position}: {fault}") from fault


class _Machine:
    def __init__(self, data: bytes, start: int, path: Path) -> None:
        self.data = data
        self.position = start
        self.path = path
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the marks that are open
        self.storages: dict[str, StorageRef] = {}
        self.memo: dict[int, Any] = {}  # no list: growing one to a declared index lets the file choose an allocation

    def run(self) -> object:
        while True:
            (code,) = self.take(1)
            name = _NAMES.get(code) or hex(code)
            if name == "STOP":
                return self.stack.pop()
            self.step(name)

    def step(self, name: str) -> None:
        """Follow one instruction."""
        stack = self.stack
        if name in _FIXED:
            (argument,) = self.number(_FIXED[name])
            self.fixed(name, argument)
        elif name in _TEXTS:
            stack.append(self.counted(_TEXTS[name]).decode("utf-8", "surrogatepass"))
        elif name in _STRINGS:
            stack.append(self.counted(_STRINGS[name]).decode("latin-1"))
        elif name in _BYTES:
            stack.append(self.counted(_BYTES[name]))
        elif name in _LONGS:
            stack.append(int.from_bytes(self.counted(_LONGS[name]), "little", signed=True))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            stack.append(tuple(self.pop(_TUPLES[name])))
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name == "MARK":
            self.outer.append(stack)
            self.stack = []
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "TUPLE":
            items = self.marked()
            self.stack.append(tuple(items))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "APPEND":
            self.extend(self.pop(1))
        elif name == "APPENDS":
            self.extend(self.marked())
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "SETITEM":
            self.update(self.pop(2))
        elif name == "SETITEMS":
            self.update(self.marked())
        elif name == "EMPTY_SET":
            stack.append(FOREIGN)
        elif name == "ADDITEMS":
            self.extend(self.marked())
        elif name == "FROZENSET":
            self.marked()
            self.stack.append(FOREIGN)
        elif name == "GLOBAL":
            module, attribute = self.line(), self.line()
            stack.append(self.named(module, attribute))
        elif name == "STACK_GLOBAL":
            module, attribute = self.pop(2)
            stack.append(self.named(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            target, arguments = self.pop(2)
            stack.append(self.built(target, arguments))
        elif name == "NEWOBJ_EX":
            target, arguments, _ = self.pop(3)
            stack.append(self.built(target, arguments))
        elif name == "BUILD":
            self.state()
        elif name == "BINPERSID":
            storage = storage_ref(stack.pop())
            if self.storages.setdefault(storage.key, storage) != storage:
                raise ValueError("a storage of two types or lengths")
            stack.append(storage)
        else:
            raise UnsafeCheckpoint(
                f"{self.path}: its pickle has the instruction {name}, which no torch checkpoint needs: it is damaged, "
                "or made to do more than hold weights. Nothing of it was executed. Get it again, from where you trust."
            )

    def fixed(self, name: str, argument: Any) -> None:
        if name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise ValueError(f"nothing was remembered as {argument}")
            self.stack.append(self.memo[argument])
        elif name not in ("PROTO", "FRAME"):  # those two only announce
            self.stack.append(argument)

    # What follows an instruction.

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise ValueError("it goes on beyond the end")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def counted(self, form: str) -> bytes:
        return self.take(self.number(form)[0])

    def line(self) -> str:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise ValueError("a name goes on beyond the end")
        text = self.take(end + 1 - self.position)[:-1]
        return text.decode("utf-8")

    # The stack.

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("too few values")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def marked(self) -> list[Any]:
        """Everything above the last mark; the stack below it is in force again."""
        if not self.outer:
            raise ValueError("no mark is open")
        items, self.stack = self.stack, self.outer.pop()
        return items

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Foreign):
            raise ValueError("items for something that is not a list")

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise ValueError("a key without a value")
        if isinstance(target, dict):
            target.update(_plain_keys(zip(items[::2], items[1::2], strict=True)))
        elif not isinstance(target, Foreign):
            raise ValueError("entries for something that is not a dict")

    def state(self) -> None:
        """BUILD gives an object its attributes. None of ours has any: a dict's `_metadata` is not needed."""
        target, _ = self.pop(2)
        if not isinstance(target, dict | TensorRef | Foreign):
            raise ValueError("attributes for something that can have none")
        self.stack.append(target)

    # Globals.

    def named(self, module: object, name: object) -> Builder | StorageType:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global that is not named by two strings")
        found = GLOBALS.get((module, name))
        if found is None:
            full = ascii(f"{module}.{name}"[:100])
            raise UnsafeCheckpoint(
                f"{self.path}: its pickle names {full}, which is code and not a tensor. Nothing of it was executed. "
                "A whole model or a stranger's objects were saved: where you trust the file, load it with torch and "
                "save `model.state_dict()` alone."
            )
        return found

    def built(self, target: object, arguments: object) -> object:
        """What calling the global `target` comes to."""
        if not isinstance(arguments, tuple):
            raise ValueError("a call without a tuple of arguments")
        if target is Builder.FOREIGN:
            return FOREIGN
        if target is Builder.MAPPING and not arguments:
            return {}
        if target is Builder.TENSOR:
            return tensor_ref(arguments)
        if target is Builder.PARAMETER and arguments:
            return arguments[0]
        raise ValueError("a call of something that cannot be called")


def _plain_keys(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    # A tuple nested a million deep can be built, but hashing it overflows the C stack: only flat values become keys.
    return {key: value for key, value in pairs if key is None or isinstance(key, str | bytes | int | float)}
