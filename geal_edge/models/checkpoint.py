"""Which kind of file is this? Told by its first bytes, never by its name; then read by the one reader for that kind."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geal_edge.errors import MissingDependency, WeightsError
from geal_edge.models.stored import ACCEPTED, StoredTensor, as_float32, damaged
from geal_edge.models.torch_file import PICKLE_START, ZIP_START, open_torch_file

_SAFETENSORS_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def open_checkpoint(path: Path) -> AbstractContextManager[dict[str, StoredTensor]]:
    """The tensors of a checkpoint by their names in the file; while it is open, each can be read.

    Raises WeightsError (UnsafeCheckpoint, WeightsMismatch) for a file that cannot be read, MissingDependency where the
    file is a .safetensors and that package is not installed. Memory declared by a damaged file is never allocated.
    """
    head = _first_bytes(path)
    if head.startswith(ZIP_START):
        return open_torch_file(path)
    if head[8:9] == b"{":  # before the pickle: a header's length may begin with a pickle's first byte
        return _open_safetensors(path)
    if head.startswith(PICKLE_START):
        return open_torch_file(path)
    raise WeightsError(f"{path}: {_what_else(head)}. {ACCEPTED}")


def _first_bytes(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            inside = sorted(name for name in os.listdir(path) if name.endswith((".pth", ".pt", ".bin", ".safetensors")))
            hint = f"Name the file in it: {', '.join(inside[:5])}." if inside else ACCEPTED
            raise WeightsError(f"{path}: a folder, where a checkpoint file was expected. {hint}")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise WeightsError(f"{path}: not a regular file. {ACCEPTED}")
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError as fault:
        raise WeightsError(
            f"{path}: no such file. Give a checkpoint file, `dino_vits16` to have it fetched, or `untrained:SEED` for a trial."
        ) from fault
    except (OSError, ValueError) as fault:  # ValueError: a NUL in the name
        raise WeightsError(f"{str(path)!a}: cannot be opened ({fault}). Check the path and its permissions.") from fault
    if not head:
        raise WeightsError(f"{path}: an empty file. Download or copy it again.")
    return head


def _what_else(head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, saved where weights were expected; fetch the file itself, not the page about it"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file that it stands for with `git lfs pull`"
    return f"neither a torch checkpoint nor safetensors (it begins with {head[:16]!r})"


@contextmanager
def _open_safetensors(path: Path) -> Iterator[dict[str, StoredTensor]]:
    try:
        import safetensors
    except ImportError as absent:
        raise MissingDependency(
            f"{path}: reading .safetensors needs the package safetensors. Install it: pip install 'geal-edge[export]'"
        ) from absent
    # The raw bytes: safetensors' numpy side has no bfloat16. It checks that the header describes all bytes, each once.
    deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize
    try:
        found = deserialize(path.read_bytes())
    except (safetensors.SafetensorError, OSError, MemoryError) as fault:
        raise damaged(path, fault) from fault
    yield {
        name: StoredTensor(
            shape=tuple(entry["shape"]),
            dtype=_SAFETENSORS_TYPES.get(entry["dtype"], str(entry["dtype"])),
            read=partial(_read, entry),
        )
        for name, entry in found
    }


def _read(entry: dict[str, Any]) -> npt.NDArray[np.float32]:
    shape: tuple[int, ...] = tuple(entry["shape"])
    return as_float32(entry["data"], _SAFETENSORS_TYPES[entry["dtype"]]).reshape(shape)
