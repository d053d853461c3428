"""Pool selection over sources: the paper's way (`geal-edge select`), and the picks file that it writes."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import geal_edge
from geal_edge.errors import FrameError, Interrupted, SourceClash, SourceError, UsageError
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import durable
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.distance import chord
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.frame import Frame, usable
from geal_edge.runtime.kcenter import Pick, draw_first, k_center_greedy, offsets_of
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.pipeline import clusters_of, warn_of_aspect
from geal_edge.runtime.sources import Source
from geal_edge.runtime.threads import one_blas_thread

PICKS_SCHEMA = "geal-edge/picks/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFrame:
    """What selection remembers of a frame: never its image.

    digest  sha256 (hex) of the source's own file bytes; None where the source has no bytes per frame (video)
    """

    id: str
    source: str
    frame_index: int
    capture_time_ns: int | None
    digest: str | None
    clusters: KnowledgeClusters


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSelection:
    """frames: all that could be judged, in source order; picks: indices into them, in greedy order; lost: reason -> n."""

    frames: tuple[PoolFrame, ...]
    picks: tuple[Pick, ...]
    lost: dict[str, int]


def select(
    sources: Sequence[Source],
    *,
    encoder: Encoder,
    budget: int,
    seed: int = 0,
    watch: Observer,
    stop: Callable[[], bool] = lambda: False,
) -> PoolSelection:
    """Encode every frame of the sources, then pick `budget` of them by exact K-Center-Greedy.

    The first is drawn by `seed`. A budget of at least the pool orders all of it. Raises UsageError for a budget below 1,
    SourceClash for two sources of one name, SourceError where no frame could be judged, Interrupted once `stop()` says so.
    """
    if budget < 1:
        raise UsageError(f"-n {budget}: must be at least 1")
    for name, times in Counter(source.name for source in sources).items():
        if times > 1:
            raise SourceClash(
                f"{times} sources are named {name!r}, so their frames' ids would clash. Rename one of them."
            )
    with one_blas_thread():
        frames, lost = _encode_all(sources, encoder, watch, stop)
    if not frames:
        raise SourceError(f"none of the {lost.total()} frames could be used ({_reasons(lost)}).")
    units = [frame.clusters.rows for frame in frames]
    watch.begin("selecting", min(budget, len(units)))
    picks = k_center_greedy(
        np.concatenate(units),
        offsets_of(units),
        budget,
        first=draw_first(len(units), seed),
        on_pick=lambda _: watch.advance(),
    )
    return PoolSelection(frames=tuple(frames), picks=tuple(picks), lost=dict(lost))


def _encode_all(
    sources: Sequence[Source], encoder: Encoder, watch: Observer, stop: Callable[[], bool]
) -> tuple[list[PoolFrame], Counter[str]]:
    frames: list[PoolFrame] = []
    lost: Counter[str] = Counter()
    for source in sources:
        warn_of_aspect(source, encoder.bundle, watch)
        watch.begin(source.name, source.frame_count)
        for item in source.frames():
            try:
                frame = usable(item)
                clusters = clusters_of(frame, encoder)
            except FrameError as error:
                lost[error.reason] += 1
                watch.warn(f"{item.id}: lost, {error}")
            else:
                frames.append(_remember(frame, clusters))
            watch.advance(lost=lost.total())
            if stop():
                raise Interrupted("Stopped before the selection; nothing was written.")
    return frames, lost


def picks_json(
    selection: PoolSelection, sources: Sequence[Source], bundle: Bundle, *, budget: int, seed: int
) -> dict[str, Any]:
    """The machine form of a selection (docs/formats.md)."""
    manifest = bundle.manifest
    return {
        "schema": PICKS_SCHEMA,
        "producer": f"geal-edge {geal_edge.__version__}",
        "bundle": bundle.digest,
        "feature_space": manifest.feature_space,
        "preset": manifest.preset,
        "untrained": manifest.untrained,
        "seed": seed,
        "budget": budget,
        "frames": {
            "seen": len(selection.frames) + sum(selection.lost.values()),
            "lost": sum(selection.lost.values()),
            "selected": len(selection.picks),
        },
        "lost": selection.lost,
        "sources": [
            {"name": source.name, "spec": source.spec, "kind": source.kind, "fps": source.fps} for source in sources
        ],
        "picks": [
            _pick_json(order, selection.frames[pick.unit], pick, manifest.grid)
            for order, pick in enumerate(selection.picks, start=1)
        ],
    }


def write_picks(path: Path, picks: dict[str, Any]) -> None:
    """Write a picks file, complete or not at all. Raises StorageError."""
    durable.write_file(path, json.dumps(picks, indent=1, ensure_ascii=False).encode() + b"\n")


def read_picks(path: Path) -> dict[str, Any]:
    """Read a picks file. Raises UsageError where it is none, or one of another schema."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UsageError(f"{path}: is not a picks file (not JSON: {error}).") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != PICKS_SCHEMA:
        raise UsageError(f"{path}: its schema is {schema!r}, a picks file of this version has {PICKS_SCHEMA!r}.")
    return dict(data)


def _remember(frame: Frame, clusters: KnowledgeClusters) -> PoolFrame:
    return PoolFrame(
        id=frame.id,
        source=frame.source,
        frame_index=frame.frame_index,
        capture_time_ns=frame.capture_time_ns,
        digest=None if frame.encoded is None else sha256(frame.encoded).hexdigest(),
        clusters=clusters,
    )


def _pick_json(order: int, frame: PoolFrame, pick: Pick, grid: tuple[int, int]) -> dict[str, Any]:
    return {
        "order": order,
        "unit": frame.id,
        "id": frame.id,
        "sha256": frame.digest,
        "source": frame.source,
        "frame_index": frame.frame_index,
        "capture_time_ns": frame.capture_time_ns,
        "distance": chord(pick.squared),
        "witness": {
            "patches": [] if pick.witness is None else frame.clusters.patches_of(pick.witness),
            "grid": list(grid),
        },
        "clusters": {
            "distances": [round(chord(squared), 4) for squared in pick.row_squared],
            "patches": frame.clusters.patch_cluster.tolist(),
        },
    }


def _reasons(lost: Counter[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(lost.items()))
