"""Pool selection over sources: the paper's way (`geal-edge select`), and the picks file that it writes."""

import difflib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import geal_edge
from geal_edge.config import PRESETS, SELECTIONS, ClusterConfig, SelectionConfig
from geal_edge.errors import FrameError, Interrupted, SourceClash, SourceError, UsageError
from geal_edge.models.bundle import Bundle, feature_space
from geal_edge.runtime import baselines, durable, kcenter
from geal_edge.runtime.distance import chord
from geal_edge.runtime.encoder import Encoded
from geal_edge.runtime.features import Encodes, Features, FrameRecord, StoredSource, record_of
from geal_edge.runtime.frame import Frame, LostFrame, usable
from geal_edge.runtime.kcenter import Pick, draw_first, offsets_of
from geal_edge.runtime.known import Known, read_known
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.pipeline import warn_of_aspect
from geal_edge.runtime.poolframe import PoolFrame, pool_frame
from geal_edge.runtime.sources import Source
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.threads import one_blas_thread

PICKS_SCHEMA = "geal-edge/picks/1"


class NamedSource(Protocol):
    """What a picks file says of a source: a `Source`, or one that is stored."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def fps(self) -> float | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """frames: all that could be judged, in source order; lost: reason -> n; recipe: what made their clusters."""

    frames: tuple[PoolFrame, ...]
    lost: dict[str, int]
    recipe: ClusterConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSelection:
    """What was picked, out of what, and how.

    frames  all that could be judged, in source order
    picks   indices into them, in the order of the strategy; under the method, the greedy order
    lost    reason -> n
    first   the id that the user began with, None where it was drawn or followed from `known`
    cut     stopped before `budget` was reached: the picks are the selection of their number
    """

    frames: tuple[PoolFrame, ...]
    picks: tuple[Pick, ...]
    lost: dict[str, int]
    recipe: ClusterConfig
    config: SelectionConfig
    first: str | None
    known: Known
    cut: bool = False


def select(
    sources: Sequence[Source],
    *,
    encoder: Encodes,
    budget: int,
    seed: int = 0,
    first: str | None = None,
    recipe: ClusterConfig | None = None,
    config: SelectionConfig | None = None,
    features: Features | None = None,
    known: Sequence[Path] = (),
    watch: Observer,
    stop: Stop | None = None,
) -> PoolSelection:
    """Encode every frame of the sources, then pick `budget` of them; by default by exact K-Center-Greedy.

    seed      draws the first frame, and whatever else the strategy draws
    first     id of the frame to begin with instead
    recipe    of the clusters; default: the bundle's own
    config    how frames are ordered; default: as the bundle's preset does
    features  read from there what is stored, and store what is not; with no sources: all that is stored
    known     picks files, spools, features folders or folders of images that count as covered (runtime/known.py)

    A budget of at least the pool orders all of it. Raises UsageError for a call that cannot be meant, SourceClash for two
    sources of one name, SourceError where no frame could be judged, Interrupted where `stop` was asked before the first pick;
    once it is asked later, what was picked so far is the result.
    """
    stop = stop or Stop()
    if budget < 1:
        raise UsageError(f"-n {budget}: must be at least 1")
    manifest = encoder.bundle.manifest
    config = config or SELECTIONS.get(manifest.preset, SelectionConfig())
    pool = read_pool(sources, encoder=encoder, recipe=recipe, config=config, features=features, watch=watch, stop=stop)
    covered = read_known(
        known,
        pool=pool.frames,
        encoder=encoder,
        recipe=pool.recipe,
        raw=config.metric == "euclidean",
        embedding=_asks_embedding(config),
        watch=watch,
        stop=stop,
    )
    picks = choose(pool, config, budget, seed=seed, first=first, known=covered, watch=watch, stop=stop)
    if not picks:
        raise Interrupted("Stopped before anything was selected; nothing was written.")
    return PoolSelection(
        frames=pool.frames,
        picks=tuple(picks),
        lost=pool.lost,
        recipe=pool.recipe,
        config=config,
        first=first,
        known=covered,
        cut=len(picks) < min(budget, len(covered.open_units(pool.frames))),
    )


def read_pool(
    sources: Sequence[Source],
    *,
    encoder: Encodes,
    recipe: ClusterConfig | None = None,
    config: SelectionConfig | None = None,
    features: Features | None = None,
    embedding: bool = False,
    watch: Observer,
    stop: Stop | None = None,
) -> Pool:
    """Encode all frames of the sources, or take their stored features, and group them by the recipe.

    config     decides what else is remembered of a frame: raw centres for Euclid, embeddings for Core-Set
    embedding  remember embeddings in any case, where the bundle gives them

    Raises as `select` does.
    """
    config = config or SelectionConfig()
    if _asks_embedding(config) and "cls_embedding" not in encoder.bundle.manifest.outputs:
        raise UsageError(
            f"--strategy {config.strategy}: needs CLS embeddings, and {encoder.bundle.path} was exported with --no-cls. "
            "Export it without."
        )
    for name, times in Counter(source.name for source in sources).items():
        if times > 1:
            raise SourceClash(
                f"{times} sources are named {name!r}, so their frames' ids would clash. Rename one of them."
            )
    reader = _PoolReader(
        encoder=encoder,
        recipe=recipe or encoder.bundle.manifest.clusters,
        raw=config.metric == "euclidean",
        embedding=embedding or _asks_embedding(config),
        features=features,
        watch=watch,
        stop=stop or Stop(),
        frames=[],
        lost=Counter(),
    )
    with one_blas_thread():
        for source in sources:
            reader.read(source)
        if not sources and features is not None:
            for stored in list(features.sources.values()):
                reader.read_stored(stored)
    if not reader.frames:
        raise SourceError(f"none of the {reader.lost.total()} frames could be used ({_reasons(reader.lost)}).")
    if _asks_embedding(config) and any(frame.embedding is None for frame in reader.frames):
        raise UsageError(
            f"--strategy {config.strategy}: needs CLS embeddings, and the stored features have none. "
            "Use another --features."
        )
    return Pool(frames=tuple(reader.frames), lost=dict(reader.lost), recipe=reader.recipe)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PoolReader:
    """Gathers `frames` and `lost`, source by source."""

    encoder: Encodes
    recipe: ClusterConfig
    raw: bool
    embedding: bool
    features: Features | None
    watch: Observer
    stop: Stop
    frames: list[PoolFrame]
    lost: Counter[str]

    def read(self, source: Source) -> None:
        """All frames of a source: those that are stored first, which are its first, and then the rest of it."""
        stored = None if self.features is None else self.features.begin(source)
        if stored is None or not stored.finished:
            warn_of_aspect(source, self.encoder.bundle, self.watch)
        self.watch.begin(source.name, source.frame_count)
        if stored is not None:
            self._take_stored(stored)
            if stored.finished:
                return
        try:
            for item in self.stop.between(source.frames(after=-1 if stored is None else stored.cursor)):
                self._read(item)
        except Interrupted as error:  # while the source looked for its next frame
            raise self._interrupted() from error
        if self.features is not None:
            self.features.finish(source.name)

    def _read(self, item: Frame | LostFrame) -> None:
        try:
            frame = usable(item)
            encoded = self.encoder(frame.image)
        except FrameError as error:
            if self.features is not None:
                self.features.lose(item, error)
            self._lose(item.id, error.reason, str(error))
        else:
            record = record_of(frame)
            if self.features is not None:
                self.features.append(record, encoded)
            self._judge(record, encoded)
        self._step()

    def read_stored(self, stored: StoredSource) -> None:
        """A source of which only the stored features are at hand."""
        if not stored.finished:
            self.watch.warn(
                f"{stored.name}: its features are not complete. Name it as a SOURCE to go on with it: {stored.spec}"
            )
        self.watch.begin(stored.name, len(stored.rows) + len(stored.lost))
        self._take_stored(stored)

    def _take_stored(self, stored: StoredSource) -> None:
        assert self.features is not None  # noqa: S101  only the two methods above call this
        for id_, reason in list(stored.lost):
            self._lose(id_, reason, f"{reason} (when its features were stored)")
            self._step()
        for record, encoded in self.features.frames(stored.name):
            self._judge(record, encoded)
            self._step()

    def _judge(self, record: FrameRecord, encoded: Encoded) -> None:
        try:
            frame = pool_frame(
                record,
                encoded,
                self.recipe,
                grid=self.encoder.bundle.manifest.grid,
                raw=self.raw,
                embedding=self.embedding,
            )
        except FrameError as error:
            self._lose(record.id, error.reason, str(error))
        else:
            self.frames.append(frame)

    def _lose(self, id_: str, reason: str, detail: str) -> None:
        self.lost[reason] += 1
        self.watch.warn(f"{id_}: lost, {detail}")

    def _step(self) -> None:
        self.watch.advance(lost=self.lost.total())
        if self.stop():
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        if self.features is None:
            return Interrupted("Stopped before the selection; nothing was written.")
        return Interrupted(
            f"Stopped before the selection; the features so far are in {self.features.path}. "
            "The same command goes on from there."
        )


def choose(
    pool: Pool,
    config: SelectionConfig,
    budget: int,
    *,
    seed: int = 0,
    first: str | None = None,
    known: Known | None = None,
    watch: Observer,
    stop: Stop | None = None,
) -> list[Pick]:
    """Order at most `budget` frames of a pool by a strategy, the method's or a baseline's.

    The picks of a baseline tell the distances of its order in the method's own terms: cluster to nearest cluster before.
    Once `stop` is asked, the picks so far are the result. Raises UsageError where `first` cannot be begun with, or nothing is
    left to pick.
    """
    stop = stop or Stop()
    known = known or Known()
    units = known.open_units(pool.frames)
    if not units:
        raise UsageError(f"all {len(pool.frames)} frames of the pool are known already: nothing is left to pick.")
    rows = np.concatenate([frame.rows for frame in pool.frames])
    offsets = offsets_of([frame.rows for frame in pool.frames])
    covered = known.rows()
    begin: int | None = None
    if first is not None:
        begin = _unit_of(first, pool, units, config)
    elif covered is None:
        begin = units[draw_first(len(units), seed)]
    watch.begin("selecting", min(budget, len(units)))

    def on_pick(_: int) -> None:
        watch.advance()

    if config.strategy == "random":
        order = [units[i] for i in baselines.random_order(len(units), budget, seed)]
    elif config.strategy == "uniform":
        order = [units[i] for i in baselines.uniform_in_time(len(units), budget)]
    elif config.strategy == "every-nth":
        order = [units[i] for i in baselines.every_nth(len(units), budget)]
    elif config.strategy in ("coreset-cosine", "coreset-euclidean"):
        order = baselines.core_set(
            np.stack([frame.embedding for frame in pool.frames if frame.embedding is not None]),
            budget,
            first=begin,
            units=units,
            known=known.embeddings(),
            metric="cosine" if config.strategy == "coreset-cosine" else "euclidean",
            on_pick=on_pick,
            stop=stop,
        )
    elif config.sampling == "probability":
        return kcenter.sample_by_distance(
            rows,
            offsets,
            budget,
            first=begin,
            seed=seed,
            units=units,
            known=covered,
            metric=config.metric,
            on_pick=on_pick,
            stop=stop,
        )
    elif config.reduction == "mean":
        return kcenter.k_center_by_mean(
            rows,
            offsets,
            budget,
            first=begin,
            units=units,
            known=covered,
            metric=config.metric,
            on_pick=on_pick,
            stop=stop,
        )
    else:
        return kcenter.k_center_greedy(
            rows,
            offsets,
            budget,
            first=begin,
            pools=[units],
            known=covered,
            metric=config.metric,
            on_pick=on_pick,
            stop=stop,
        )
    return kcenter.trace(rows, offsets, order, known=covered)


def _asks_embedding(config: SelectionConfig) -> bool:
    return config.strategy in ("coreset-cosine", "coreset-euclidean")


def _unit_of(id_: str, pool: Pool, units: list[int], config: SelectionConfig) -> int:
    """The unit of the frame that the user wants to begin with."""
    if config.strategy in ("random", "uniform", "every-nth"):
        raise UsageError(f"--first {id_}: --strategy {config.strategy} does not begin with a frame of one's choice.")
    by_id = {pool.frames[unit].id: unit for unit in units}
    if id_ in by_id:
        return by_id[id_]
    if any(frame.id == id_ for frame in pool.frames):
        raise UsageError(f"--first {id_}: this frame is known already, so it cannot be picked.")
    close = difflib.get_close_matches(id_, by_id, 1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UsageError(f"--first {id_}: no frame of that id could be judged.{hint}")


def preset_name(recipe: ClusterConfig, config: SelectionConfig) -> str:
    """The preset whose settings these are, all of them; else `custom`.

    >>> preset_name(ClusterConfig(), SelectionConfig()), preset_name(ClusterConfig(attention_ratio=0.4), SelectionConfig())
    ('geal', 'custom')
    """
    same = (name for name, preset in PRESETS.items() if preset == recipe and SELECTIONS[name] == config)
    return next(same, "custom")


def picks_json(
    selection: PoolSelection, sources: Sequence[NamedSource], bundle: Bundle, *, budget: int, seed: int
) -> dict[str, Any]:
    """The machine form of a selection (docs/formats.md)."""
    manifest, config = bundle.manifest, selection.config
    return {
        "schema": PICKS_SCHEMA,
        "producer": f"geal-edge {geal_edge.__version__}",
        "bundle": bundle.digest,
        "feature_space": feature_space(manifest, selection.recipe),
        "preset": preset_name(selection.recipe, config),
        "untrained": manifest.untrained,
        "strategy": config.strategy,
        "clusters": selection.recipe.as_dict(),
        "selection": {"metric": config.metric, "sampling": config.sampling, "reduction": config.reduction},
        "seed": seed,
        "first": selection.first,
        "budget": budget,
        "frames": {
            "seen": len(selection.frames) + sum(selection.lost.values()),
            "lost": sum(selection.lost.values()),
            "known": len(selection.frames) - len(selection.known.open_units(selection.frames)),
            "selected": len(selection.picks),
        },
        "cut": selection.cut,
        "lost": selection.lost,
        "known": [
            {"path": known.path, "kind": known.kind, "frames": len(known.frames)} for known in selection.known.paths
        ],
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
