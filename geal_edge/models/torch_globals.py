"""The globals that a checkpoint's pickle may name, and the inert things that stand for what torch would build of them.

A global is looked up by its two names, never imported, and is one of three things:

    OrderedDict, _rebuild_tensor_v2, FloatStorage ...  -> dict, TensorRef, StorageType
    argparse.Namespace, a numpy scalar ...             -> Foreign: a full checkpoint holds them, no weight needs them
    anything else                                      -> UnsafeCheckpoint, by name
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

MAX_DIMENSIONS = 8
MAX_COUNT = 1 << 48  # of elements, in any direction: beyond every file, and far below what numpy's integers hold


class Foreign:
    """An object of a full checkpoint that no weight depends on: never built, its state thrown away."""


FOREIGN = Foreign()


@dataclass(frozen=True, slots=True)
class StorageType:
    """What `torch.FloatStorage` and its like stand for: the type of a storage's elements."""

    dtype: str
    itemsize: int


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A run of `numel` elements that lies elsewhere in the file under `key`."""

    type: StorageType
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A view into a storage, not yet checked against it; offset and strides are in elements, as torch counts."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Builder(Enum):
    """What a permitted global, when the pickle calls it, makes of its arguments."""

    MAPPING = "an empty dict, filled by later instructions"
    TENSOR = "a TensorRef"
    PARAMETER = "its first argument, the tensor"
    FOREIGN = "a placeholder, whatever the arguments"


_STORAGE_TYPES = {
    "FloatStorage": StorageType("float32", 4),
    "HalfStorage": StorageType("float16", 2),
    "BFloat16Storage": StorageType("bfloat16", 2),
    "DoubleStorage": StorageType("float64", 8),
    # Never weights, but a full checkpoint's counters; the legacy format must know their size to find what follows.
    "LongStorage": StorageType("int64", 8),
    "IntStorage": StorageType("int32", 4),
    "ShortStorage": StorageType("int16", 2),
    "CharStorage": StorageType("int8", 1),
    "ByteStorage": StorageType("uint8", 1),
    "BoolStorage": StorageType("bool", 1),
    "ComplexFloatStorage": StorageType("complex64", 8),
    "ComplexDoubleStorage": StorageType("complex128", 16),
}

GLOBALS: dict[tuple[str, str], Builder | StorageType] = {
    ("collections", "OrderedDict"): Builder.MAPPING,
    ("torch._utils", "_rebuild_tensor"): Builder.TENSOR,
    ("torch._utils", "_rebuild_tensor_v2"): Builder.TENSOR,
    ("torch._utils", "_rebuild_parameter"): Builder.PARAMETER,
    ("torch._utils", "_rebuild_parameter_with_state"): Builder.PARAMETER,
    **{("torch", name): kind for name, kind in _STORAGE_TYPES.items()},
    **{("torch.cuda", name): kind for name, kind in _STORAGE_TYPES.items()},
    # Types that have no storage class of their own: uint16, float8 and the like.
    ("torch.storage", "UntypedStorage"): StorageType("bytes", 1),
    ("torch._utils", "_rebuild_tensor_v3"): Builder.FOREIGN,
    # DINO's `args`, and what people keep in theirs.
    ("argparse", "Namespace"): Builder.FOREIGN,
    ("pathlib", "PosixPath"): Builder.FOREIGN,
    ("pathlib", "WindowsPath"): Builder.FOREIGN,
    # Numpy scalars: DINO's learning rate comes out of a numpy schedule. Protocol 2 writes their bytes by `encode`.
    **{
        (f"numpy.{core}.multiarray", name): Builder.FOREIGN
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    },
    ("numpy", "dtype"): Builder.FOREIGN,
    ("numpy", "ndarray"): Builder.FOREIGN,
    ("_codecs", "encode"): Builder.FOREIGN,
    # Plain containers and torch's plain values.
    ("collections", "defaultdict"): Builder.FOREIGN,
    **{(m, n): Builder.FOREIGN for m in ("builtins", "__builtin__") for n in ("dict", "list", "set", "int", "float")},
    **{("torch", name): Builder.FOREIGN for name in ("Size", "device")},
    **{("torch", name): Builder.FOREIGN for name in ("float16", "bfloat16", "float32", "float64", "int64", "bool")},
}


def tensor_ref(arguments: tuple[Any, ...]) -> TensorRef | Foreign:
    """What torch's rebuild functions would make a tensor of; ValueError where the arguments cannot be."""
    # storage, offset, size, stride, requires_grad, hooks, and in later torches metadata: a `neg` bit changes values
    if len(arguments) < 4:
        raise ValueError("a tensor with too few arguments")
    storage, offset, shape, strides = arguments[:4]
    if isinstance(storage, Foreign) or any(arguments[6:]):
        return FOREIGN
    if (
        not isinstance(storage, StorageRef)
        or not _is_count(offset)
        or not _are_counts(shape)
        or not _are_counts(strides)
    ):
        raise ValueError("a tensor whose storage, offset, shape or strides cannot be")
    if len(shape) != len(strides):
        raise ValueError("a tensor with more sides than strides, or fewer")
    return TensorRef(storage, offset, shape, strides)


def storage_ref(identity: object) -> StorageRef:
    """What a persistent id names: ("storage", type, key, device, numel), and in the legacy format a view, or None."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise ValueError("a persistent id that is not a storage's")
    kind, key, _, numel = identity[1:5]
    if not isinstance(kind, StorageType) or not isinstance(key, str) or not _is_count(numel):
        raise ValueError("a storage whose type, key or length cannot be")
    if identity[5:] not in ((), (None,)):
        raise ValueError("a view of a storage, as torch before 0.4 wrote them")
    return StorageRef(kind, key, numel)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_COUNT


def _are_counts(value: object) -> bool:
    return isinstance(value, tuple) and len(value) <= MAX_DIMENSIONS and all(_is_count(v) for v in value)
