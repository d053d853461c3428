"""Stored features: what the model said of every frame, so that another selection costs no inference.

On disk (docs/formats.md, "Features"):

    FEATURES/
      features.json    schema, token space id and what it stands for, patches, dimensions: written once
      tokens.f16       (n, P, D) little-endian, patch tokens rounded to fp16
      attention.f32    (n, P)    CLS attention
      cls.f32          (n, D)    CLS embedding; absent where the bundle has none
      journal.jsonl    one JSON object a line: sources, frames, lost frames, finished sources; and after each block of them
                       a line {"block": ...} with how many frames it added and the CRC-32 of each part of it
      lock             held by the one writer while it lives

What counts: the blocks, from the first, whose lines are whole and whose arrays are long enough. Arrays are synced before the
journal's lines that speak of them, so a killed or unplugged writer leaves a tail that no block names: the next writer
overwrites it, a reader never sees it. A block's CRC is checked when its frames are first read. Nothing is held in memory but
the frames of one block and one short record per frame; the arrays are memory-mapped.

Tokens do not depend on the recipe (attention ratio, K, metric, ...), so the folder is tied to the *token space*: weights, tap,
input size, resize filter, mean and std. Clusters from stored tokens are those from frames, since the encoder rounds alike.
"""

import bisect
import json
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import geal_edge
from geal_edge.errors import FeatureSpaceMismatch, FrameError, SourceClash, SpoolDamaged, UsageError
from geal_edge.models.bundle import Bundle, Manifest, token_space
from geal_edge.models.jsontext import parse_json
from geal_edge.runtime import durable
from geal_edge.runtime.encoder import Encoded, Encoder
from geal_edge.runtime.frame import Frame, Image, LostFrame
from geal_edge.runtime.sources import Source

SCHEMA = "geal-edge/features/1"
HEAD = "features.json"
JOURNAL = "journal.jsonl"
LOCK = "lock"
BLOCK_BYTES = 8 << 20
"""What a block gathers before it is written: some fifty frames. A killed writer loses at most so much work."""


class Encodes(Protocol):
    """What turns frames into features: an `Encoder`, or one that starts late."""

    @property
    def bundle(self) -> Bundle: ...

    def __call__(self, image: Image) -> Encoded: ...


class LateEncoder:
    """An encoder that starts with its first frame: where all features are stored, no engine need start at all."""

    def __init__(self, encoder: Encoder) -> None:
        self.bundle = encoder.bundle
        self._encoder = encoder
        self._stack = ExitStack()
        self._started = False

    def __call__(self, image: Image) -> Encoded:
        if not self._started:
            self._stack.enter_context(self._encoder)
            self._started = True
        return self._encoder(image)

    def __enter__(self) -> "LateEncoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRecord:
    """What is remembered of a frame beside its features. digest: sha256 (hex) of the source's own bytes, where it has them."""

    id: str
    source: str
    frame_index: int
    capture_time_ns: int | None
    digest: str | None


def record_of(frame: Frame) -> FrameRecord:
    return FrameRecord(
        id=frame.id,
        source=frame.source,
        frame_index=frame.frame_index,
        capture_time_ns=frame.capture_time_ns,
        digest=None if frame.encoded is None else sha256(frame.encoded).hexdigest(),
    )


@dataclass(slots=True, kw_only=True)
class StoredSource:
    """A source as it stands in the folder.

    cursor    the last frame_index that is stored or lost; -1 for none
    finished  read to its end
    rows      the places of its frames in the arrays, ascending
    lost      (frame_index, id, reason) of its lost frames
    """

    name: str
    spec: str
    kind: str
    fps: float | None
    fingerprint: str
    cursor: int = -1
    finished: bool = False
    rows: list[int] = field(default_factory=list)
    lost: list[tuple[int, str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Block:
    """frames [first, end) of the arrays; crc by file name."""

    first: int
    end: int
    crc: dict[str, int]


class Features:
    """A folder of stored features; use it as a context manager. `writable` makes it where it is absent, and locks it.

    Raises FeatureSpaceMismatch where the folder is of another token space than the bundle, UsageError where it is no such
    folder, SpoolLocked where another process writes to it, SpoolDamaged where its description cannot be read.
    """

    def __init__(self, path: Path, manifest: Manifest, *, writable: bool) -> None:
        self.path = path
        self._manifest = manifest
        self._writable = writable
        self._stack = ExitStack()
        patches = manifest.grid[0] * manifest.grid[1]
        dim = int(manifest.model["embed_dim"])
        self._shapes: dict[str, tuple[int, ...]] = {"tokens.f16": (patches, dim), "attention.f32": (patches,)}
        if "cls_embedding" in manifest.outputs:
            self._shapes["cls.f32"] = (dim,)
        self.sources: dict[str, StoredSource] = {}
        self.records: list[FrameRecord] = []
        self._blocks: list[_Block] = []
        self._checked: set[int] = set()
        self._maps: dict[str, npt.NDArray[Any]] = {}
        self._journal_bytes = 0
        self._lines: list[dict[str, Any]] = []
        self._arrays: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in self._shapes}
        self._pending_bytes = 0

    # -- opening -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> "Features":
        if self._writable:
            self._require_ours_or_empty()
            durable.make_folder(self.path)
            self._stack.enter_context(durable.exclusive_lock(self.path / LOCK, f"{self.path}: the features folder"))
        try:
            if self._writable and not (self.path / HEAD).exists():
                durable.write_file(self.path / HEAD, json.dumps(self._head(), indent=1).encode() + b"\n")
            self._require_head()
            self._read_journal()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if self._writable:
                self.flush()
            self._maps.clear()

    @property
    def has_cls(self) -> bool:
        return "cls.f32" in self._shapes

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches of every frame."""
        return self._manifest.grid

    def _head(self) -> dict[str, Any]:
        m = self._manifest
        return {
            "schema": SCHEMA,
            "producer": f"geal-edge {geal_edge.__version__}",
            "token_space": token_space(m),
            "weights": m.weights["digest"],
            "untrained": m.untrained,
            "tap": m.tap,
            "input": {
                "width": m.width,
                "height": m.height,
                "resize": m.resize,
                "mean": list(m.mean),
                "std": list(m.std),
            },
            "grid": list(m.grid),
            "arrays": {name: list(shape) for name, shape in self._shapes.items()},
        }

    def _require_ours_or_empty(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: is a file. Stored features are a folder: choose another --features.")
        if self.path.is_dir() and not (self.path / HEAD).exists():
            strange = sorted(
                p.name for p in self.path.iterdir() if p.name not in (LOCK, HEAD + durable.TEMPORARY_SUFFIX)
            )
            if strange:
                raise UsageError(
                    f"{self.path}: holds no features (no {HEAD}) and is not empty (it has {strange[0]!r}). "
                    "Choose a new or an empty folder for --features."
                )

    def _require_head(self) -> None:
        found = read_head(self.path)
        expected = self._head()
        if found.get("token_space") != expected["token_space"]:
            size, own = found.get("input", {}), expected["input"]
            raise FeatureSpaceMismatch(
                f"{self.path}: these features are of token space {found.get('token_space')} "
                f"({size.get('width')}x{size.get('height')}, {size.get('resize')}), the bundle's is "
                f"{expected['token_space']} ({own['width']}x{own['height']}, {own['resize']}): other weights, tap, input "
                "size, filter, mean or std. Use the bundle that they were made with, or another --features."
            )
        if (
            found.get("arrays") != expected["arrays"]
        ):  # the same model, exported once with and once without the embedding
            missing = [name for name in expected["arrays"] if name not in found.get("arrays", {})]
            if missing == ["cls.f32"]:
                del self._shapes["cls.f32"], self._arrays["cls.f32"]
            else:
                raise UsageError(
                    f"{self.path}: these features have {sorted(found.get('arrays', {}))}, the bundle gives "
                    f"{sorted(expected['arrays'])}. Use a bundle with `cls_embedding`, or another --features."
                )

    def _read_journal(self) -> None:
        """Take over every whole block; what stands behind the last one was never finished."""
        try:
            data = (self.path / JOURNAL).read_bytes()
        except FileNotFoundError:
            return
        sizes = {n: f.stat().st_size if (f := self.path / n).exists() else 0 for n in self._shapes}
        lines: list[dict[str, Any]] = []
        begin = position = 0
        while (end := data.find(b"\n", position)) >= 0:
            try:
                line = parse_json(data[position : end + 1])
            except ValueError:
                return
            if "block" not in line:
                lines.append(line)
            else:
                count = len(self.records) + line["block"]["frames"]
                whole = all(count * self._frame_bytes(name) <= size for name, size in sizes.items())
                if not whole or zlib.crc32(data[begin:position]) != line["block"]["crc"]["journal"]:
                    return
                for each in lines:
                    self._learn(each)
                self._blocks.append(_Block(count - line["block"]["frames"], count, line["block"]["crc"]))
                lines, begin = [], end + 1
                self._journal_bytes = begin
            position = end + 1

    def _learn(self, line: dict[str, Any]) -> None:
        """One line of the journal, in memory."""
        if "source" in line:
            self.sources[line["source"]["name"]] = StoredSource(**line["source"])
        elif "frame" in line:
            record = FrameRecord(**line["frame"])
            self.sources[record.source].rows.append(len(self.records))
            self.sources[record.source].cursor = record.frame_index
            self.records.append(record)
        elif "lost" in line:
            lost = line["lost"]
            self.sources[lost["source"]].lost.append((lost["frame_index"], lost["id"], lost["reason"]))
            self.sources[lost["source"]].cursor = lost["frame_index"]
        elif "finished" in line:
            self.sources[line["finished"]].finished = True

    # -- writing -------------------------------------------------------------------------------------------------------

    def begin(self, source: Source) -> StoredSource:
        """The source as it is stored, or a new one. Raises SourceClash or UsageError where another one has its name."""
        fingerprint = source.fingerprint()
        stored = self.sources.get(source.name)
        if stored is None:
            known = {"name": source.name, "spec": source.spec, "kind": source.kind, "fps": source.fps}
            self._write({"source": {**known, "fingerprint": fingerprint}})
            return self.sources[source.name]
        if stored.fingerprint != fingerprint:
            raise SourceClash(
                f"{self.path}: holds features of another source named {source.name!r} ({stored.spec}), or it was changed "
                "since. Give it another --name, or use another --features."
            )
        if stored.fps != source.fps:
            was, now = ("no --fps" if fps is None else f"--fps {fps:g}" for fps in (stored.fps, source.fps))
            raise UsageError(
                f"{self.path}: the features of {source.name!r} were stored with {was}, now it is {now}. "
                "Use the same, or another --features."
            )
        return stored

    def append(self, record: FrameRecord, encoded: Encoded) -> None:
        """Store a frame's features; they are on disk with their block, at the latest when the folder is left."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "tokens.f16": encoded.patch_features,
            "attention.f32": encoded.cls_attention,
        }
        if self.has_cls and encoded.cls_embedding is not None:
            arrays["cls.f32"] = encoded.cls_embedding
        for name, array in arrays.items():
            self._arrays[name].append(array.astype(_dtype(name), copy=False))
            self._pending_bytes += array.nbytes
        self._write(
            {
                "frame": {
                    "id": record.id,
                    "source": record.source,
                    "frame_index": record.frame_index,
                    "capture_time_ns": record.capture_time_ns,
                    "digest": record.digest,
                }
            }
        )
        if self._pending_bytes >= BLOCK_BYTES:
            self.flush()

    def lose(self, item: Frame | LostFrame, error: FrameError) -> None:
        """Remember that a frame could not be encoded, so that nobody tries again."""
        lost = {"id": item.id, "source": item.source, "frame_index": item.frame_index, "reason": error.reason}
        self._write({"lost": lost})

    def finish(self, name: str) -> None:
        """The source was read to its end."""
        self._write({"finished": name})
        self.flush()

    def _write(self, line: dict[str, Any]) -> None:
        self._lines.append(line)
        self._learn(line)

    def flush(self) -> None:
        """Put the block in hand on disk: arrays first, then the lines that speak of them."""
        if not self._lines:
            return
        first, end = self._stored, len(self.records)
        crc = {}
        for name, arrays in self._arrays.items():
            data = b"".join(array.tobytes() for array in arrays)
            durable.write_tail(self.path / name, data, at=first * self._frame_bytes(name))
            crc[name] = zlib.crc32(data)
        text = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in self._lines)
        block = {"block": {"frames": end - first, "crc": {"journal": zlib.crc32(text), **crc}}}
        text += json.dumps(block).encode() + b"\n"
        durable.write_tail(self.path / JOURNAL, text, at=self._journal_bytes)
        self._journal_bytes += len(text)
        self._blocks.append(_Block(first, end, crc))
        self._lines = []
        self._arrays = {name: [] for name in self._shapes}
        self._pending_bytes = 0
        self._maps.clear()

    # -- reading -------------------------------------------------------------------------------------------------------

    def frames(self, source: str) -> Iterator[tuple[FrameRecord, Encoded]]:
        """The stored frames of a source in its own order; arrays are views of the files. Raises SpoolDamaged."""
        for row in list(self.sources[source].rows):
            if row >= self._stored:
                self.flush()
            self._check(row)
            embedding = self._map("cls.f32")[row] if self.has_cls else None
            yield (
                self.records[row],
                Encoded(
                    patch_features=self._map("tokens.f16")[row],
                    cls_attention=self._map("attention.f32")[row],
                    cls_embedding=embedding,
                ),
            )

    @property
    def _stored(self) -> int:
        return self._blocks[-1].end if self._blocks else 0

    def _check(self, row: int) -> None:
        """Compare the CRC of a frame's block, once."""
        number = bisect.bisect_right(self._blocks, row, key=lambda block: block.end)
        if number in self._checked:
            return
        block = self._blocks[number]
        for name in self._shapes:
            part = np.ascontiguousarray(self._map(name)[block.first : block.end])
            if zlib.crc32(part.data.cast("B")) != block.crc[name]:
                raise SpoolDamaged(
                    f"{self.path / name}: frames {block.first} to {block.end - 1} are not what was written there. "
                    f"{_anew(self.path)}"
                )
        self._checked.add(number)

    def _map(self, name: str) -> npt.NDArray[Any]:
        if name not in self._maps:
            shape = (self._stored, *self._shapes[name])
            self._maps[name] = np.memmap(self.path / name, _dtype(name), "r", shape=shape)
        return self._maps[name]

    def _frame_bytes(self, name: str) -> int:
        return int(np.prod(self._shapes[name])) * _dtype(name).itemsize


def read_head(path: Path) -> dict[str, Any]:
    """What features.json of a folder of stored features says, whatever bundle they are of.

    Raises UsageError where there is none or it is of another schema, SpoolDamaged where it is no JSON.
    """
    where = path / HEAD
    try:
        found = parse_json(where.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: no stored features here ({HEAD}: {error.strerror}).") from error
    except ValueError as error:
        raise SpoolDamaged(f"{where}: not JSON ({error}). {_anew(path)}") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise UsageError(f"{where}: its schema is {schema!r}, this version reads {SCHEMA!r}. {_anew(path)}")
    return dict(found)


def _anew(path: Path) -> str:
    return f"Remove {path} and store the features again, or use another --features."


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype("<f2" if name.endswith(".f16") else "<f4")
