"""One tensor of a checkpoint before it is read: names and shapes are judged first, bytes are read where needed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import WeightsError

ACCEPTED = (
    "Give a DINO ViT with DINO's, timm's or Hugging Face's tensor names: dino_deitsmall16_pretrain.pth, DINO's full "
    "checkpoint, model.safetensors of timm/vit_small_patch16_224.dino, or pytorch_model.bin of facebook/dino-vits16."
)
"""What to do, for the messages of every reader."""

ByteOrder: TypeAlias = Literal["<", ">"]

FLOAT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
"""The types that weights may have, and the bytes of one number; all become float32."""


def damaged(path: Path, why: object) -> WeightsError:
    """The error for a file that breaks off or contradicts itself; `why` may quote the file, or a library that does."""
    said = "".join(c if c.isprintable() else "?" for c in str(why)[:200]).rstrip(".")
    return WeightsError(f"{path}: damaged or cut off ({said}). Download or copy it again.")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor that lies in a file.

    dtype  one of FLOAT_BYTES, or the name of what it is instead (`int64`, or `not a tensor`): such a one is never read
    read   () -> C-contiguous float32 array of `shape`, its own memory; only while the file is open; raises WeightsError
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], npt.NDArray[np.float32]]


def as_float32(raw: bytes | bytearray | memoryview, dtype: str, order: ByteOrder = "<") -> npt.NDArray[np.float32]:
    """The numbers in `raw`, as a new flat float32 array in this machine's byte order; `dtype` is one of FLOAT_BYTES.

    bfloat16 is the upper half of a float32, so no package is needed for it. A float64 beyond float32's range becomes
    infinite, which the loader refuses by name.

    >>> as_float32(bytes([0xC0, 0x3F]), "bfloat16")
    array([1.5], dtype=float32)
    """
    if dtype == "bfloat16":
        upper = np.frombuffer(raw, f"{order}u2").astype(np.uint32)
        numbers: npt.NDArray[np.float32] = (upper << np.uint32(16)).view(np.float32)
        return numbers
    stored = np.frombuffer(raw, f"{order}f{FLOAT_BYTES[dtype]}")
    with np.errstate(over="ignore", invalid="ignore"):
        return stored.astype(np.float32)
