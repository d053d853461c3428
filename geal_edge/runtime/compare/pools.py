"""The pools of a comparison on disk, so that no process hands frames to another and no frame is encoded or grouped twice.

    OUT/
      features/<bundle>/<source>/   stored features (features.py), one folder per source: drives are encoded side by side
      pools/<key>.npz               a pool: frames, clusters and embeddings of all sources under one recipe

A key is a digest of all that its file depends on, so a file that is there is right, and any of them may be deleted. A file
appears whole or not at all.
"""

import hashlib
import io
import json
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import geal_edge
from geal_edge.config import ClusterConfig
from geal_edge.errors import SpoolDamaged
from geal_edge.models.bundle import Bundle, canonical_json
from geal_edge.runtime import durable
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.features import Features, LateEncoder
from geal_edge.runtime.kcenter import offsets_of
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pool import Pool, read_pool
from geal_edge.runtime.poolframe import PoolFrame
from geal_edge.runtime.selection import SelectedSource
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.stopping import Stop

EPOCH_NS = 10**17
"""Capture times from here on (1973) count from 1970, and can be compared between sources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSource(SelectedSource):
    """A source of a comparison. fingerprint: tells its content; frames: how many of them, where only some are stored."""

    fingerprint: str
    frames: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesJob:
    """Encode one source into a folder of its own."""

    bundle: Path
    source: ComparedSource
    folder: Path
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolJob:
    """Group all sources by one recipe.

    folders    features of `sources`, one folder each; or one folder of all of them
    place      the file to write
    encoded_s  seconds that it took to encode them just now
    """

    bundle: Path
    sources: tuple[ComparedSource, ...]
    folders: tuple[Path, ...]
    recipe: ClusterConfig
    place: Path
    encoded_s: float


def digest_key(decides: Any) -> str:
    """A name for what depends on these values (JSON) and on this version.

    >>> len(digest_key({"budget": 3}))
    20
    """
    data = canonical_json({"producer": geal_edge.__version__, "decides": decides})
    return hashlib.sha256(data).hexdigest()[:20]


def pool_key(bundle: Bundle, sources: Sequence[ComparedSource], recipe: ClusterConfig, *, embedded: bool) -> str:
    """Precision is part of it, unlike of a feature space: here another graph is another answer.

    embedded  whether frames have CLS embeddings, which stored features may lack whatever the bundle gives
    """
    told = [[s.name, s.kind, s.fps, s.fingerprint, s.frames] for s in sources]
    return digest_key(
        {"pool": 2, "bundle": bundle.digest, "sources": told, "recipe": recipe.as_dict(), "embedded": embedded}
    )


def store_features(job: FeaturesJob, stop: Stop) -> float:
    """Encode what is not stored yet; returns the seconds it took. Raises as `read_pool`; Interrupted leaves what was encoded."""
    began = time.perf_counter()
    bundle = Bundle.open(job.bundle)
    source = open_source(job.source.spec, name=job.source.name, fps=job.source.fps)
    durable.make_folder(job.folder.parent)
    with (
        LateEncoder(Encoder(bundle, OrtCpu(bundle.graph, threads=job.threads))) as encoder,
        Features(job.folder, bundle.manifest, writable=True) as features,
    ):
        stored = features.sources.get(source.name)
        if stored is None or not stored.finished:
            read_pool([source], encoder=encoder, features=features, watch=Silent(), stop=stop)
    return time.perf_counter() - began


def store_pool(job: PoolJob, stop: Stop) -> None:
    """Group stored features and write the pool, in capture order. Raises as `read_pool`."""
    bundle = Bundle.open(job.bundle)
    encoder = LateEncoder(Encoder(bundle, OrtCpu(bundle.graph, threads=1)))  # never starts: all is stored
    drives: dict[str, list[PoolFrame]] = {source.name: [] for source in job.sources}
    lost = Counter[str]()
    began = time.perf_counter()
    for folder in job.folders:
        with Features(folder, bundle.manifest, writable=False) as features:
            for name in features.sources.keys() - drives.keys():  # a folder of the user's may hold more
                del features.sources[name]
            part = read_pool(
                [],
                encoder=encoder,
                recipe=job.recipe,
                features=features,
                embedding=features.has_cls,
                watch=Silent(),
                stop=stop,
            )
        lost.update(part.lost)
        for frame in part.frames:
            drives[frame.source].append(frame)
    seconds = job.encoded_s + time.perf_counter() - began
    write_pool(job.place, joined(in_capture_order(list(drives.values())), dict(lost), job.recipe), seconds=seconds)


def in_capture_order(drives: Sequence[list[PoolFrame]]) -> list[PoolFrame]:
    """All frames, drive after drive: by their first capture times where all of them are times of day, else as they stand."""
    begins = [drive[0].capture_time_ns or 0 for drive in drives if drive]
    held = [drive for drive in drives if drive]
    if all(begin >= EPOCH_NS for begin in begins):
        held.sort(key=lambda drive: drive[0].capture_time_ns or 0)
    return [frame for drive in held for frame in drive]


def joined(frames: Sequence[PoolFrame], lost: dict[str, int], recipe: ClusterConfig) -> Pool:
    """A pool in which every frame is a unit."""
    units = tuple(range(i, i + 1) for i in range(len(frames)))
    return Pool(frames=tuple(frames), units=units, lost=lost, gated={}, recipe=recipe)


def write_pool(path: Path, pool: Pool, *, seconds: float) -> None:
    """Write a pool, whole or not at all, and what it took to make. Raises StorageError."""
    frames = pool.frames
    facts = {
        "recipe": asdict(pool.recipe),
        "lost": pool.lost,
        "seconds": seconds,
        "frames": [[f.id, f.source, f.frame_index, f.capture_time_ns, f.digest] for f in frames],
    }
    arrays: dict[str, Any] = {
        "facts": np.frombuffer(json.dumps(facts, ensure_ascii=False).encode(), np.uint8),
        "rows": np.concatenate([frame.clusters.rows for frame in frames]),
        "offsets": offsets_of([frame.clusters.rows for frame in frames]),
        "patch_cluster": np.stack([frame.clusters.patch_cluster for frame in frames]),
    }
    if all(frame.embedding is not None for frame in frames):
        arrays["embedding"] = np.stack([frame.embedding for frame in frames if frame.embedding is not None])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    durable.make_folder(path.parent)
    durable.write_file(path, buffer.getvalue())


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPool:
    """A pool, and the seconds it took to encode and group it."""

    pool: Pool
    seconds: float


@lru_cache(maxsize=2)
def read_stored_pool(path: Path) -> StoredPool:
    """What `write_pool` wrote; the last two are remembered. Raises SpoolDamaged where it cannot be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(arrays["facts"].tobytes())
        offsets, embedding = arrays["offsets"].tolist(), arrays.get("embedding")
        frames = [
            PoolFrame(
                id=id_,
                source=source,
                frame_index=frame_index,
                capture_time_ns=capture_time_ns,
                digest=digest,
                clusters=KnowledgeClusters(
                    rows=arrays["rows"][offsets[i] : offsets[i + 1]], patch_cluster=arrays["patch_cluster"][i]
                ),
                embedding=None if embedding is None else embedding[i],
            )
            for i, (id_, source, frame_index, capture_time_ns, digest) in enumerate(facts["frames"])
        ]
        pool = joined(frames, facts["lost"], ClusterConfig(**facts["recipe"]))
        return StoredPool(pool=pool, seconds=facts["seconds"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise SpoolDamaged(
            f"{path}: is not the pool that was written there ({error}). Remove it; it is made again."
        ) from error
