"""Checkpoint files as torch.save writes them, put together byte by byte, as torch is not installed where the tests run.

`zip_file` and `legacy_file` give bytes; tests/oracle compares them with what torch itself writes and reads.
"""

import io
import struct
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

STORAGE = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "int64": "LongStorage"}
MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Global:
    """A name that the reader is asked to import."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """A call that the reader is asked to make; `new` as cls.__new__, then `items` by SETITEMS and `state` by BUILD."""

    function: Any
    arguments: Any
    new: bool = False
    items: Any = None
    state: Any = None


@dataclass(frozen=True)
class Tensor:
    """A tensor with everything that a file can say of it; what is left out is true to `data`."""

    data: npt.NDArray[Any]  # the whole storage, flat or not
    shape: Any = None
    strides: Any = None
    offset: Any = 0
    storage: Any = None  # the name of its storage type
    numel: Any = None
    view: Any = None  # the legacy format's sixth part
    metadata: Any = None


class Pickle:
    """Writes protocol 2 opcodes, without a memo; collects the storages that the tensors point into."""

    def __init__(self, legacy: bool = False) -> None:
        self.legacy = legacy
        self.storages: dict[str, npt.NDArray[Any]] = {}
        self.keys: dict[int, str] = {}

    def dump(self, value: Any) -> bytes:
        return b"\x80\x02" + self.of(value) + b"."

    def of(self, value: Any) -> bytes:
        match value:
            case None:
                return b"N"
            case bool():
                return b"\x88" if value else b"\x89"
            case int() if 0 <= value < 256:
                return b"K" + bytes([value])
            case int():
                raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
                return b"\x8a" + bytes([len(raw)]) + raw
            case float():
                return b"G" + struct.pack(">d", value)
            case str():
                raw = value.encode("utf-8", "surrogatepass")
                return b"X" + struct.pack("<I", len(raw)) + raw
            case tuple():
                return b"(" + b"".join(map(self.of, value)) + b"t"
            case list():
                return b"](" + b"".join(map(self.of, value)) + b"e"
            case dict():
                return b"}(" + b"".join(self.of(key) + self.of(item) for key, item in value.items()) + b"u"
            case Global():
                return f"c{value.module}\n{value.name}\n".encode()
            case Call():
                made = self.of(value.function) + self.of(value.arguments) + (b"\x81" if value.new else b"R")
                if value.items is not None:
                    made += b"(" + b"".join(self.of(key) + self.of(item) for key, item in value.items.items()) + b"u"
                return made + (self.of(value.state) + b"b" if value.state is not None else b"")
            case Tensor():
                return self.tensor(value)
            case np.ndarray():
                return self.tensor(Tensor(value))
        raise TypeError(type(value))

    def tensor(self, tensor: Tensor) -> bytes:
        data = tensor.data
        key = self.keys.setdefault(id(data), str(len(self.keys) + (93000000000000 if self.legacy else 0)))
        self.storages[key] = data
        kind = Global("torch", tensor.storage or STORAGE[data.dtype.newbyteorder("=").name])
        identity: tuple[Any, ...] = ("storage", kind, key, "cpu", data.size if tensor.numel is None else tensor.numel)
        if self.legacy:
            identity += (tensor.view,)
        shape = data.shape if tensor.shape is None else tensor.shape
        strides = tuple(s // data.itemsize for s in data.strides) if tensor.strides is None else tensor.strides
        hooks = Call(Global("collections", "OrderedDict"), ())
        rest = (tensor.offset, shape, strides, False, hooks) + ((tensor.metadata,) if tensor.metadata else ())
        arguments = b"(" + self.of(identity) + b"Q" + b"".join(map(self.of, rest)) + b"t"
        return self.of(Global("torch._utils", "_rebuild_tensor_v2")) + arguments + b"R"


def zip_file(root: Any, *, byteorder: bytes | None = b"little", name: str = "archive", **entries: bytes) -> bytes:
    """torch >= 1.6. `root` is the object, or the finished bytes of its pickle; `entries` replace or add parts."""
    pickle = Pickle()
    parts = {"data.pkl": root if isinstance(root, bytes) else pickle.dump(root)}
    if byteorder is not None:
        parts["byteorder"] = byteorder
    parts |= {f"data/{key}": data.tobytes() for key, data in pickle.storages.items()}
    parts["version"] = b"3\n"
    parts |= {key.replace("__", "."): value for key, value in entries.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for part, content in parts.items():
            archive.writestr(zipfile.ZipInfo(f"{name}/{part}"), content)
    return buffer.getvalue()


def legacy_file(root: Any, *, protocol: int = 1001, keys: Any = None, cut: int = 0) -> bytes:
    """torch < 1.6, or _use_new_zipfile_serialization=False."""
    pickle = Pickle(legacy=True)
    head = pickle.dump(MAGIC) + pickle.dump(protocol)
    head += pickle.dump(
        {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    )
    head += pickle.dump(root)
    order = sorted(pickle.storages)
    head += pickle.dump(order if keys is None else keys)
    for key in order:
        head += struct.pack("<q", pickle.storages[key].size) + pickle.storages[key].tobytes()
    return head[: len(head) - cut]
