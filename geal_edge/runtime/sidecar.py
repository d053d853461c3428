"""What goes beside a sent frame: one JSON object, schema geal-edge/sidecar/1 (docs/formats.md).

Made from the rows that were frozen at release, so that a second try makes the same bytes. It is sent last: who finds one has
all of the frame.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geal_edge.runtime.distance import chord
from geal_edge.runtime.identity import identity_of_unit
from geal_edge.runtime.metadata import metadata_of
from geal_edge.runtime.outgoing import ContextFile, Outgoing
from geal_edge.runtime.picturesize import size_of
from geal_edge.runtime.privacy.rules import NONE, Rules
from geal_edge.runtime.spooldb import tags_of

SCHEMA = "geal-edge/sidecar/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Where the files of a frame lie on the far side."""

    frame: str
    context: tuple[tuple[str, ContextFile], ...]
    sidecar: str


def keys_of(outgoing: Outgoing, *, prefix: str, vehicle: str, same_before: dict[int, int]) -> tuple[Keys, ...]:
    """One for each frame of a unit: `<prefix>/<vehicle>/<trip>/<sha256 of the bytes>.<ending>`; the sidecar has the frame's
    digest and `.json`. The second frame of the same bytes in a trip gets `-2` behind the digest, and so on."""
    folder = "/".join([*filter(None, (prefix, vehicle)), outgoing.trip])
    keys = []
    for place, frame in enumerate(outgoing.frames):
        earlier = same_before[frame.frame]
        name = f"{folder}/{frame.sha256}" + (f"-{earlier + 1}" if earlier else "")
        context = tuple(
            (f"{folder}/{item.sha256}{item.file.suffix}", item) for item in outgoing.context if item.place == place
        )
        keys.append(Keys(frame=f"{name}{frame.file.suffix}", context=context, sidecar=f"{name}.json"))
    return tuple(keys)


def sidecars(
    db: sqlite3.Connection,
    meta: dict[str, str],
    outgoing: Outgoing,
    *,
    vehicle: str,
    keys: Sequence[Keys],
    rules: Rules,
) -> list[bytes]:
    """The bytes of one for each frame of a unit, in its order. `meta` and `db` are those of the spool, `rules` what its positions
    are to pass."""
    rows = db.execute(
        "SELECT source, frame_index, capture_time_ns, stored_ns, squared_novelty, radius, released_squared, released_witness, "
        "cluster_count, patch_cluster FROM units JOIN frames USING (unit) WHERE unit = ? ORDER BY frame",
        (outgoing.unit,),
    ).fetchall()
    metadata = metadata_of(db, outgoing.unit, rules)
    chosen_by = identity_of_unit(db, outgoing.unit)
    passed = rules.asked(outgoing.unit)
    begin, made = 0, []
    for place, (frame, key, row) in enumerate(zip(outgoing.frames, keys, rows, strict=True)):
        source, index, time_ns, stored_ns, novelty, radius, squared, witness, count, patches = row
        own = witness is not None and begin <= witness < begin + count
        witness_patches = np.flatnonzero(np.frombuffer(patches, "<i2") == witness - begin) if own else ()
        facts = {
            "schema": SCHEMA,
            "vehicle": vehicle,
            "trip": outgoing.trip,
            "round": outgoing.round,
            "order": outgoing.place,
            "unit": outgoing.frames[0].id,
            "id": frame.id,
            "sha256": frame.sha256,
            "bytes": frame.bytes,
            **_size(frame.file),
            "key": key.frame,
            "context": [
                {"key": name, "capture_time_ns": item.capture_time_ns, "sha256": item.sha256, "bytes": item.bytes}
                for name, item in key.context
            ],
            "source": source,
            "frame_index": index,
            "capture_time_ns": time_ns,
            "stored_ns": stored_ns,
            "distance": None if squared is None else chord(squared),
            "novelty": None if novelty is None else chord(novelty),
            "radius": radius,
            "witness": {"patches": [int(p) for p in witness_patches], "grid": json.loads(meta["grid"])},
            "tags": tags_of(meta, outgoing.unit),
            "metadata": metadata.get(place, {}),
            **({} if passed == NONE else {"privacy": {"hook": passed.hook, "position": passed.position}}),
            "producer": meta["producer"],
            "boot_id": chosen_by["boot_id"],
            "config": chosen_by["config"],
            "bundle": meta["bundle"],
            "feature_space": meta["feature_space"],
            "preset": meta["preset"],
            "untrained": json.loads(meta["untrained"]),
        }
        made.append(json.dumps(facts, ensure_ascii=False, indent=1).encode() + b"\n")
        begin += count
    return made


def _size(file: Path) -> dict[str, int]:
    """Its width and height, so that a labelling tool can be told without a download; nothing where its header says none."""
    try:
        found = size_of(file.read_bytes())
    except OSError:
        found = None
    return {} if found is None else {"width": found[0], "height": found[1]}
