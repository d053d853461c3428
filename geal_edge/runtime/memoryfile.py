r"""A memory as one file (docs/formats.md, "Memory"), restored bit for bit and read without executing anything.

    geal-edge/memory/1\n    schema, as text
    {...}\n                 head: one JSON object with the feature space, bounds, and the entries but for their rows
    rows                    float16 (M, D), little-endian, entry after entry
    nearest squared         float32 (M,)
    nearest entry           int32 (M,)
    sha256                  32 bytes, of everything before

A file stands there whole or not at all. The checksum is looked at before anything is believed.
"""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import geal_edge
from geal_edge.errors import SpoolDamaged, SpoolError, UsageError
from geal_edge.models.jsontext import parse_json
from geal_edge.runtime import durable
from geal_edge.runtime.memory import KINDS, Entry, Mark, Memory, Nearest, require_space

SCHEMA = "geal-edge/memory/1"
_FAMILY = b"geal-edge/memory/"
_CHECKSUM_BYTES = 32


def is_memory(path: Path) -> bool:
    """Whether a file says in its first bytes that it is a memory, of whatever version."""
    try:
        with path.open("rb") as file:
            return file.read(len(_FAMILY)) == _FAMILY
    except OSError:
        return False


def write_memory(path: Path, memory: Memory) -> None:
    """Put the memory under `path`, durably and whole. Raises StorageError."""
    durable.write_file(path, memory_bytes(memory))


def memory_bytes(memory: Memory) -> bytes:
    """The file. The same memory gives the same bytes."""
    head = {
        "producer": f"geal-edge {geal_edge.__version__}",
        "feature_space": memory.feature_space,
        "dimensions": memory.entries[0].rows.shape[1] if memory.entries else 0,
        "max_frames": memory.max_frames,
        "forgotten": memory.forgotten,
        "through_round": memory.through_round,
        "entries": [_entry_json(entry) for entry in memory.entries],
    }
    parts = [SCHEMA.encode() + b"\n", json.dumps(head, ensure_ascii=False).encode() + b"\n"]
    parts += [entry.rows.astype("<f2").tobytes() for entry in memory.entries]
    parts += [memory.nearest.squared.astype("<f4").tobytes(), memory.nearest.entry.astype("<i4").tobytes()]
    body = b"".join(parts)
    return body + sha256(body).digest()


def read_memory(path: Path) -> Memory:
    """Raises UsageError where `path` is no memory, SpoolError where another version wrote it, SpoolDamaged where its bytes are
    not those that were written."""
    try:
        data = path.read_bytes()
    except OSError as error:
        what = "is a folder, no memory file" if path.is_dir() else f"cannot be read ({error.strerror})"
        raise UsageError(
            f"{path}: {what}. `geal-edge memory add NEW.memory PATH...` makes one of spools, picks, features, images or labels."
        ) from error
    if not data.startswith(_FAMILY):
        if _FAMILY.startswith(data):  # nothing at all, or the beginning of one
            raise _damaged(path, "it breaks off")
        raise UsageError(f"{path}: is no memory. `geal-edge memory add` makes one, under a name that is free.")
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    whole = sha256(body).digest() == checksum
    schema = data[: data.find(b"\n")].decode("utf-8", "replace")
    if schema != SCHEMA and (whole or schema.removeprefix(_FAMILY.decode()).isdigit()):
        raise SpoolError(
            f"{path}: its schema is {schema!r}, this version ({geal_edge.__version__}) reads {SCHEMA!r}. "
            "Use the version that wrote it; nothing was changed."
        )
    if not whole:
        raise _damaged(path, "its checksum is not that of its bytes")
    try:
        return _parsed(body)
    except (ValueError, OverflowError, KeyError, TypeError, IndexError) as error:  # what no version of ours has written
        raise _damaged(path, f"what stands in it cannot be meant: {error!r}") from error


def known_entries(path: Path, feature_space: str) -> tuple[Entry, ...]:
    """What a memory file holds. Raises FeatureSpaceMismatch where it is of another space, and as `read_memory` does."""
    memory = read_memory(path)
    require_space(path, memory.feature_space, feature_space)
    return memory.entries


def _parsed(body: bytes) -> Memory:
    begin = body.index(b"\n") + 1
    end = body.index(b"\n", begin)
    head = parse_json(body[begin:end])
    counts = [int(entry["clusters"]) for entry in head["entries"]]
    total, dim = sum(counts), int(head["dimensions"])
    if min(counts, default=1) < 1 or int(head["max_frames"]) < 1 or len(body) - end - 1 != total * (2 * dim + 8):
        raise ValueError("the arrays are not as long as the head says")
    rows = np.frombuffer(body, "<f2", total * dim, end + 1).reshape(total, dim)
    squared = np.frombuffer(body, "<f4", total, end + 1 + 2 * dim * total)
    nearest = np.frombuffer(body, "<i4", total, end + 1 + (2 * dim + 4) * total)
    if not np.isfinite(rows).all() or np.isnan(squared).any() or not ((nearest >= -1) & (nearest < len(counts))).all():
        raise ValueError("the arrays hold numbers that no memory has")
    ends = np.cumsum(counts, dtype=np.int64)
    return Memory(
        feature_space=str(head["feature_space"]),
        max_frames=int(head["max_frames"]),
        forgotten=int(head["forgotten"]),
        through_round=int(head["through_round"]),
        entries=tuple(
            _entry(entry, rows[stop - count : stop].astype(np.float16))
            for entry, count, stop in zip(head["entries"], counts, ends, strict=True)
        ),
        nearest=Nearest(squared=squared.astype(np.float32), entry=nearest.astype(np.int32)),
    )


def _entry_json(entry: Entry) -> dict[str, Any]:
    told = {"id": entry.id, "kind": entry.kind, "origin": entry.origin, "sha256": entry.sha256}
    return {**told, "clusters": len(entry.rows), "mark": None if entry.mark is None else mark_json(entry.mark)}


def mark_json(mark: Mark) -> dict[str, Any]:
    region = None if mark.region is None else list(mark.region)
    return {"patches": list(mark.patches), "grid": list(mark.grid), "region": region}


def _entry(data: Mapping[str, Any], rows: Any) -> Entry:
    if data["kind"] not in KINDS or (data["kind"] == "ignore") != (data["mark"] is not None):
        raise ValueError(f"an entry of kind {data['kind']!r}")
    digest = data["sha256"]
    return Entry(
        id=str(data["id"]),
        kind=data["kind"],
        rows=rows,
        origin=str(data["origin"]),
        sha256=None if digest is None else str(digest),
        mark=None if data["mark"] is None else _mark(data["mark"]),
    )


def _mark(data: Mapping[str, Any]) -> Mark:
    rows, columns = (int(n) for n in data["grid"])
    region = None
    if data["region"] is not None:
        x, y, width, height = (float(n) for n in data["region"])
        region = (x, y, width, height)
    return Mark(patches=tuple(int(p) for p in data["patches"]), grid=(rows, columns), region=region)


def _damaged(path: Path, why: str) -> SpoolDamaged:
    return SpoolDamaged(
        f"{path}: this memory is damaged ({why}). Nothing was changed; put a copy of it back, or move it away and begin another."
    )


# -- what `memory show` prints -----------------------------------------------------------------------------------------


def memory_json(path: Path, memory: Memory) -> dict[str, Any]:
    """The machine form of `memory show --json` (docs/formats.md)."""
    rows = memory.rows()
    return {
        "schema": SCHEMA,
        "feature_space": memory.feature_space,
        "frames": {kind: sum(entry.kind == kind for entry in memory.entries) for kind in KINDS},
        "clusters": len(rows),
        "max_frames": memory.max_frames,
        "forgotten": memory.forgotten,
        "file_bytes": path.stat().st_size,
        "rows_bytes": rows.nbytes,
        "origins": list(_origins(memory)),
        "ignore": [
            {"id": entry.id, "origin": entry.origin, "clusters": len(entry.rows), **mark_json(entry.mark)}
            for entry in memory.entries
            if entry.mark is not None
        ],
    }


def _origins(memory: Memory) -> Iterator[dict[str, Any]]:
    """How many frames of each kind came from where, in the order in which they came."""
    counts: dict[tuple[str, str], int] = {}
    for entry in memory.frames:
        counts[entry.kind, entry.origin] = counts.get((entry.kind, entry.origin), 0) + 1
    for (kind, origin), frames in counts.items():
        yield {"kind": kind, "origin": origin, "frames": frames}
