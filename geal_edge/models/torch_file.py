"""A torch checkpoint's two containers, read without torch: the zip archive (torch >= 1.6), the legacy stream before it.

    zip     <name>/data.pkl, <name>/data/<key> one entry per storage, <name>/byteorder (absent in older files: little)
    legacy  pickles one after the other: magic number, protocol version, system, the object, the list of storage keys;
            then for each key int64 numel and the raw elements. Little-endian on every machine, whatever "system" says

Both hold one pickled object whose tensors point into storages. The pickle is read by unpickle.py; no code of it runs.
"""

import math
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from geal_edge.errors import WeightsError, WeightsMismatch
from geal_edge.models.stored import ACCEPTED, FLOAT_BYTES, ByteOrder, StoredTensor, as_float32, damaged
from geal_edge.models.torch_globals import StorageRef, TensorRef
from geal_edge.models.unpickle import MAX_PICKLE_BYTES, Unpickled, unpickle

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

# What the zip module raises over a damaged archive: flipped bytes bring out each of them.
_ZIP_FAULTS = (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, OSError, struct.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    root: object
    read: Callable[[StorageRef, int, int], bytes | memoryview]  # (storage, first byte, bytes) -> those bytes
    order: ByteOrder


@contextmanager
def open_torch_file(path: Path) -> Iterator[dict[str, StoredTensor]]:
    """The tensors of a checkpoint by their names in the file: those of `teacher` in a full DINO checkpoint.

    Entries that are no tensors are there under their names, with a dtype that says so.

    Raises UnsafeCheckpoint, WeightsMismatch where the file holds no state dict, else WeightsError; so does reading.
    """
    with ExitStack() as open_files:
        try:
            file = open_files.enter_context(path.open("rb"))
            zipped = file.read(4) == ZIP_START
            content = (_zip if zipped else _legacy)(file, path, open_files)
        except _ZIP_FAULTS as fault:
            raise damaged(path, fault) from fault
        yield _stored(_state_dict(content.root, path), content, path)


def _zip(file: IO[bytes], path: Path, open_files: ExitStack) -> _Content:
    archive = open_files.enter_context(zipfile.ZipFile(file))
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError(
            f"{path}: a zip archive that torch.save did not write: it has {len(pickles)} data.pkl, not one."
        )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in entries:
        raise WeightsError(
            f"{path}: a TorchScript program (torch.jit.save), not a checkpoint. "
            "Load it where torch is installed and save its `state_dict()` with torch.save."
        )
    size = path.stat().st_size

    def entry(name: str, limit: int) -> bytes:
        info = entries.get(folder + name)
        if info is None:
            raise damaged(path, f"its part {name!a} is missing")
        if info.compress_type != zipfile.ZIP_STORED:
            raise WeightsError(
                f"{path}: its part {name!a} is compressed, which torch.save never does. Save it again with torch.save."
            )
        if not info.compress_size == info.file_size <= limit:  # before anything of that size is allocated
            raise damaged(path, f"its part {name!a} is said to have {info.file_size} bytes")
        return archive.read(info)  # and checks its CRC

    order: ByteOrder = "<"
    if f"{folder}byteorder" in entries:
        mark = entry("byteorder", 16)
        if mark not in (b"little", b"big"):
            raise damaged(path, f"its byte order is {mark!r}")
        order = "<" if mark == b"little" else ">"
    root = unpickle(entry("data.pkl", min(size, MAX_PICKLE_BYTES)), path).value

    last: dict[str, bytes] = {}  # tensors that share one large storage come one after the other: read it once

    def read(storage: StorageRef, first: int, count: int) -> memoryview:
        if storage.key not in last:
            last.clear()
            last[storage.key] = entry(f"data/{storage.key}", size)
        return memoryview(last[storage.key])[first : first + count]

    return _Content(root=root, read=read, order=order)


def _legacy(file: IO[bytes], path: Path, _: ExitStack) -> _Content:
    file.seek(0)
    head = file.read(MAX_PICKLE_BYTES)
    magic = unpickle(head, path)
    if magic.value != LEGACY_MAGIC:
        raise WeightsError(
            f"{path}: a pickle that torch.save did not write. Save the model's `state_dict()` with torch.save."
        )
    version = unpickle(head, path, magic.end)
    if version.value != LEGACY_PROTOCOL:
        raise WeightsError(f"{path}: torch's legacy format in an unknown version; {LEGACY_PROTOCOL} was expected.")
    system = unpickle(head, path, version.end)
    content = unpickle(head, path, system.end)
    keys = unpickle(head, path, content.end)
    starts = _legacy_storages(file, path, keys, content.storages)

    def read(storage: StorageRef, first: int, count: int) -> bytes:
        if storage.key not in starts:
            raise damaged(path, f"its storage {storage.key!a} is missing")
        file.seek(starts[storage.key] + first)
        return file.read(count)

    return _Content(root=content.value, read=read, order="<")


def _legacy_storages(file: IO[bytes], path: Path, keys: Unpickled, storages: dict[str, StorageRef]) -> dict[str, int]:
    """Where each storage's elements begin: they follow the pickled list of keys, each behind its own length."""
    if not isinstance(keys.value, list):
        raise damaged(path, "its list of storages is not a list")
    size = path.stat().st_size
    starts: dict[str, int] = {}
    position = keys.end
    for key in keys.value:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or storage.key in starts:
            raise damaged(path, "its list of storages is not that of its tensors")
        file.seek(position)
        length = file.read(8)
        if len(length) < 8 or int.from_bytes(length, "little") != storage.numel:
            raise damaged(path, f"the length of storage {key!a} is not the one that its tensors need")
        starts[storage.key] = position + 8
        position += 8 + storage.numel * storage.type.itemsize
    if position > size:
        raise damaged(path, f"{size} bytes where its storages need {position}")
    return starts


def _state_dict(root: object, path: Path) -> dict[Any, Any]:
    """The dict of the backbone's tensors: the teacher's, whose features DINO means; a backbone-only file is that."""
    if not isinstance(root, dict):
        kind = "tensor" if isinstance(root, TensorRef) else type(root).__name__
        raise WeightsMismatch(f"{path}: holds a {kind} where a state dict was expected. {ACCEPTED}")
    if "student" in root and "teacher" not in root:
        raise WeightsMismatch(f"{path}: holds a student but no teacher, whose features DINO means. {ACCEPTED}")
    state = root.get("teacher", root)
    if not isinstance(state, dict) or not any(isinstance(value, TensorRef) for value in state.values()):
        raise WeightsMismatch(f"{path}: no tensors where they were expected, but {_some(root)}. {ACCEPTED}")
    return state


def _some(keys: Iterable[object]) -> str:
    named = [ascii(key)[:80] for key in keys]
    return ", ".join(named[:10]) + (f" and {len(named) - 10} more" if len(named) > 10 else "") if named else "nothing"


def _stored(state: dict[Any, Any], content: _Content, path: Path) -> dict[str, StoredTensor]:
    size = path.stat().st_size
    stored: dict[str, StoredTensor] = {}
    needed = 0
    for key, value in state.items():
        name = key if isinstance(key, str) else ascii(key)
        if isinstance(value, TensorRef):
            needed += _check_view(value, name, path)
            read = partial(_read_view, value, name, content, path)
            stored[name] = StoredTensor(shape=value.shape, dtype=value.storage.type.dtype, read=read)
        else:
            stored[name] = StoredTensor(shape=(), dtype="not a tensor", read=partial(_read_nothing, name, path))
    if needed > size:  # views of one storage under many names: a small file that would fill the memory
        raise WeightsError(f"{path}: its tensors need {needed} bytes and the file has {size}: they overlap. {ACCEPTED}")
    return stored


def _check_view(ref: TensorRef, name: str, path: Path) -> int:
    """The bytes that the tensor needs; WeightsError where it reaches outside its storage, or repeats parts of it."""
    elements = math.prod(ref.shape)
    if elements > ref.storage.numel or (elements and _last(ref) >= ref.storage.numel):
        raise WeightsError(
            f"{path}: tensor {ascii(name)[:80]} of shape {ref.shape} and strides {ref.strides} does not fit its "
            f"storage of {ref.storage.numel} elements. The file is damaged or made up; download or copy it again."
        )
    return elements * ref.storage.type.itemsize


def _last(ref: TensorRef) -> int:
    """The highest element that the view touches; strides are never negative."""
    return ref.offset + sum((side - 1) * stride for side, stride in zip(ref.shape, ref.strides, strict=True))


def _read_view(ref: TensorRef, name: str, content: _Content, path: Path) -> npt.NDArray[np.float32]:
    if 0 in ref.shape:
        return np.zeros(ref.shape, np.float32)
    itemsize = FLOAT_BYTES[ref.storage.type.dtype]
    count = (_last(ref) + 1 - ref.offset) * itemsize
    try:
        raw = content.read(ref.storage, ref.offset * itemsize, count)
    except _ZIP_FAULTS as fault:
        raise damaged(path, f"tensor {name!a}: {fault}") from fault
    if len(raw) != count:
        raise damaged(path, f"the storage of tensor {name!a} is too short")
    flat = as_float32(raw, ref.storage.type.dtype, content.order)
    view = np.lib.stride_tricks.as_strided(flat, ref.shape, [stride * flat.itemsize for stride in ref.strides])
    return np.array(view, order="C")


def _read_nothing(name: str, path: Path) -> npt.NDArray[np.float32]:
    raise WeightsError(f"{path}: {name!a} is not a tensor.")
