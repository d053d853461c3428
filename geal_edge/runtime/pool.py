"""Pool selection over sources: the paper's way (`geal-edge select`), and the picks file that it writes."""

import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import geal_edge
from geal_edge.config import PRESETS, SELECTIONS, ClusterConfig, GuardKind, SelectionConfig
from geal_edge.errors import FrameError, FrameGated, Interrupted, SourceClash, SourceError, UsageError
from geal_edge.models.bundle import Bundle, feature_space
from geal_edge.models.jsontext import parse_json
from geal_edge.runtime import baselines, durable, kcenter
from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.distance import chord
from geal_edge.runtime.encoder import Encoded
from geal_edge.runtime.features import Encodes, Features, FrameRecord, StoredSource, record_of
from geal_edge.runtime.guard import Guard
from geal_edge.runtime.kcenter import Pick, draw_first, offsets_of
from geal_edge.runtime.known import Known, read_known
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.overlap import AHEAD, overlapped
from geal_edge.runtime.persistence import BoolArray
from geal_edge.runtime.pipeline import warn_of_aspect
from geal_edge.runtime.poolframe import PoolFrame, only_clusters, pool_frame
from geal_edge.runtime.prepare import EncodedFrame, encode, prepare
from geal_edge.runtime.sources import Source
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.threads import one_blas_thread
from geal_edge.runtime.units import Instants, begins_of, recorded_at

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
    """frames: all that could be judged, in source order; units: runs of indices into them, one for each frame unless they are
    grouped; lost, gated: reason -> n; recipe: what made their clusters."""

    frames: tuple[PoolFrame, ...]
    units: tuple[range, ...]
    lost: dict[str, int]
    gated: dict[str, int]
    recipe: ClusterConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSelection:
    """What was picked, out of what, and how.

    frames  all that could be judged, in source order
    units   runs of indices into them
    picks   indices of units, in the order of the strategy; under the method, the greedy order
    lost    reason -> n
    gated   reason -> n
    group_s  the tolerance that formed units of several frames; None: every frame is a unit
    first   the id that the user began with, None where it was drawn or followed from `known`
    cut     stopped before `budget` was reached: the picks are the selection of their number
    """

    frames: tuple[PoolFrame, ...]
    units: tuple[range, ...]
    picks: tuple[Pick, ...]
    lost: dict[str, int]
    gated: dict[str, int]
    guard: GuardKind | None
    group_s: float | None
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
    group_s: float | None = None,
    seed: int = 0,
    first: str | None = None,
    recipe: ClusterConfig | None = None,
    config: SelectionConfig | None = None,
    features: Features | None = None,
    known: Sequence[Path] = (),
    guard: GuardKind | None = None,
    watch: Observer,
    stop: Stop | None = None,
) -> PoolSelection:
    """Encode every frame of the sources, then pick `budget` of them; by default by exact K-Center-Greedy.

    group_s   frames of several topics whose capture times lie within so many seconds are one unit (units.py), which is what
              the budget counts; default: every frame is one
    seed      draws the first frame, and whatever else the strategy draws
    first     id of the frame to begin with instead, or of any in the unit to begin with
    recipe    of the clusters; default: the bundle's own
    config    how frames are ordered; default: as the bundle's preset does
    features  read from there what is stored, and store what is not; with no sources: all that is stored
    known     picks files, spools, features folders or folders of images that count as covered (runtime/known.py)
    guard     leave out broken frames, and with `all` what was there for one frame alone (runtime/guard.py)

    A budget of at least the pool orders all of it. Raises UsageError for a call that cannot be meant, SourceClash for two
    sources of one name, SourceError where no frame could be judged, Interrupted where `stop` was asked before the first pick;
    once it is asked later, what was picked so far is the result.
    """
    stop = stop or Stop()
    if budget < 1:
        raise UsageError(f"-n {budget}: must be at least 1")
    manifest = encoder.bundle.manifest
    config = config or SELECTIONS.get(manifest.preset, SelectionConfig())
    pool = read_pool(
        sources,
        encoder=encoder,
        group_s=group_s,
        recipe=recipe,
        config=config,
        features=features,
        guard=guard,
        watch=watch,
        stop=stop,
    )
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
        units=pool.units,
        picks=tuple(picks),
        lost=pool.lost,
        group_s=group_s,
        gated=pool.gated,
        guard=guard,
        recipe=pool.recipe,
        config=config,
        first=first,
        known=covered,
        cut=len(picks) < min(budget, len(_open_units(pool, covered))),
    )


def read_pool(
    sources: Sequence[Source],
    *,
    encoder: Encodes,
    group_s: float | None = None,
    recipe: ClusterConfig | None = None,
    config: SelectionConfig | None = None,
    features: Features | None = None,
    embedding: bool = False,
    guard: GuardKind | None = None,
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
    if guard is not None and features is not None:
        raise UsageError(
            f"--guard {guard}: looks at the frames themselves, and --features holds none of them. Leave one of the two out."
        )
    require_names_apart(sources)
    reader = _PoolReader(
        encoder=encoder,
        recipe=recipe or encoder.bundle.manifest.clusters,
        raw=config.metric == "euclidean",
        embedding=embedding or _asks_embedding(config),
        features=features,
        guard=guard,
        watch=watch,
        stop=stop or Stop(),
        frames=[],
        lost=Counter(),
        passed_over=[],
        gated=Counter(),
    )
    with one_blas_thread():
        for source in sources:
            reader.read(source)
        if not sources and features is not None:
            for stored in list(features.sources.values()):
                if group_s is not None and stored.kind != "bag":
                    raise UsageError(
                        f"--group {group_s:g}: groups the topics of recorded ROS data; {stored.name} is none"
                    )
                reader.read_stored(stored)
    if not reader.frames:
        left_out = reader.lost + reader.gated
        raise SourceError(f"none of the {left_out.total()} frames could be used ({_reasons(left_out)}).")
    if _asks_embedding(config) and any(frame.embedding is None for frame in reader.frames):
        raise UsageError(
            f"--strategy {config.strategy}: needs CLS embeddings, and the stored features have none. "
            "Use another --features."
        )
    return Pool(
        frames=tuple(reader.frames),
        units=tuple(units_of(reader.frames, reader.passed_over, group_s)),
        lost=dict(reader.lost),
        gated=dict(reader.gated),
        recipe=reader.recipe,
    )


def require_names_apart(sources: Sequence[NamedSource]) -> None:
    """Raise SourceClash where two sources have one name."""
    for name, times in Counter(source.name for source in sources).items():
        if times > 1:
            raise SourceClash(
                f"{times} sources are named {name!r}, so their frames' ids would clash. Rename one of them."
            )


def units_of(
    frames: Sequence[PoolFrame], passed_over: Sequence[tuple[str, int, str]], group_s: float | None
) -> Iterator[range]:
    """The units of a pool as runs of its frames, cut as `units` cuts the sources' frames, lost and gated ones among them.

    passed_over  (source, frame_index, id) of the latter
    """
    if group_s is None:
        yield from (range(i, i + 1) for i in range(len(frames)))
        return
    seen = [(frame.source, frame.frame_index, frame.id, True) for frame in frames]
    seen += [(*place, False) for place in passed_over]
    rank = {source: n for n, source in enumerate(dict.fromkeys(source for source, *_ in seen))}
    seen.sort(key=lambda item: (rank[item[0]], item[1]))
    begin = end = 0
    for source, items in groupby(seen, key=itemgetter(0)):
        instants = Instants(group_s)
        for _, _, id_, judged in items:
            if instants.begins(*recorded_at(id_, source)) and end > begin:
                yield range(begin, end)
                begin = end
            end += judged
    if end > begin:
        yield range(begin, end)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PoolReader:
    """Gathers `frames`, `lost` and `gated`, source by source; `passed_over`: (source, frame_index, id) of the latter two."""

    encoder: Encodes
    recipe: ClusterConfig
    raw: bool
    embedding: bool
    features: Features | None
    guard: GuardKind | None
    watch: Observer
    stop: Stop
    frames: list[PoolFrame]
    lost: Counter[str]
    gated: Counter[str]
    passed_over: list[tuple[str, int, str]]

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
        guard = None if self.guard is None else Guard(self.guard)
        manifest = self.encoder.bundle.manifest
        items = source.frames(after=-1 if stored is None else stored.cursor)
        prepared = (prepare(item, manifest, guard) for item in items)
        ahead = overlapped(prepared, partial(encode, encoder=self.encoder), ahead=AHEAD, stop=self.stop)
        try:
            with closing(ahead) as encoded:
                for frame in encoded:
                    self._read(frame, guard)
        except Interrupted as error:  # while the source looked for its next frame
            raise self._interrupted() from error
        if self.features is not None:
            self.features.finish(source.name)

    def _read(self, seen: EncodedFrame, guard: Guard | None) -> None:
        item = seen.item
        if guard is not None:
            guard.advance(item)
        try:
            frame, encoded = seen.frame()
        except FrameGated as gate:
            self._gate(item.source, item.frame_index, item.id, gate)
        except FrameError as error:
            if self.features is not None:
                self.features.lose(item, error)
            self._lose(item.source, item.frame_index, item.id, error.reason, str(error))
        else:
            record = record_of(frame)
            if self.features is not None:
                self.features.append(record, encoded)
                # Stored features have no clusters of the graph's: the host makes them now as it will next time.
                encoded = replace(encoded, clusters=None)
            self._judge(record, encoded, None if guard is None else partial(guard.counts, frame))
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
        for index, id_, reason in list(stored.lost):
            self._lose(stored.name, index, id_, reason, f"{reason} (when its features were stored)")
            self._step()
        for record, encoded in self.features.frames(stored.name):
            self._judge(record, encoded)
            self._step()

    def _judge(self, record: FrameRecord, encoded: Encoded, counts: Callable[[Rows], BoolArray] | None = None) -> None:
        try:
            frame = pool_frame(
                record,
                encoded,
                self.recipe,
                grid=self.encoder.bundle.manifest.grid,
                raw=self.raw,
                embedding=self.embedding,
            )
            if counts is not None:
                frame = only_clusters(frame, counts(frame.clusters.rows))
        except FrameGated as gate:
            self._gate(record.source, record.frame_index, record.id, gate)
        except FrameError as error:
            self._lose(record.source, record.frame_index, record.id, error.reason, str(error))
        else:
            self.frames.append(frame)

    def _gate(self, source: str, frame_index: int, id_: str, gate: FrameGated) -> None:
        self.gated[gate.reason] += 1
        self.passed_over.append((source, frame_index, id_))

    def _lose(self, source: str, frame_index: int, id_: str, reason: str, detail: str) -> None:
        self.lost[reason] += 1
        self.passed_over.append((source, frame_index, id_))
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
    """Order at most `budget` units of a pool by a strategy, the method's or a baseline's.

    The picks of a baseline tell the distances of its order in the method's own terms: cluster to nearest cluster before.
    Once `stop` is asked, the picks so far are the result. Raises UsageError where `first` cannot be begun with, or nothing is
    left to pick.
    """
    stop = stop or Stop()
    known = known or Known()
    units = _open_units(pool, known)
    if not units:
        raise UsageError(f"all {len(pool.frames)} frames of the pool are known already: nothing is left to pick.")
    rows = np.concatenate([frame.rows for frame in pool.frames])
    first_frames = np.array([unit.start for unit in pool.units] + [len(pool.frames)])
    offsets = offsets_of([frame.rows for frame in pool.frames])[first_frames]
    covered = known.rows()
    begin: int | None = None
    if first is not None:
        begin = _unit_of(first, pool, set(known.open_frames(pool.frames)), config)
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
            offsets=first_frames,
            first=begin,
            units=units,
            known=known.embeddings(),
            metric="cosine" if config.strategy == "coreset-cosine" else "euclidean",
            on_pick=on_pick,
            stop=stop,
        )
    elif config.strategy == "facility-location":
        order = baselines.facility_location(
            rows, offsets, budget, units=units, known=covered, seed=seed, on_pick=on_pick, stop=stop
        )
    elif config.strategy == "density":
        order = baselines.density_aware(
            rows, offsets, budget, first=begin, units=units, known=covered, seed=seed, on_pick=on_pick, stop=stop
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


def _open_units(pool: Pool, known: Known) -> list[int]:
    """Units with a frame that is not known: what may be picked."""
    open_frames = set(known.open_frames(pool.frames))
    return [number for number, unit in enumerate(pool.units) if open_frames.intersection(unit)]


def _unit_of(id_: str, pool: Pool, open_frames: set[int], config: SelectionConfig) -> int:
    """The unit of the frame that the user wants to begin with."""
    if config.strategy in ("random", "uniform", "every-nth", "facility-location"):
        raise UsageError(f"--first {id_}: --strategy {config.strategy} does not begin with a frame of one's choice.")
    by_id = {pool.frames[i].id: number for number, unit in enumerate(pool.units) for i in unit if i in open_frames}
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
    open_frames = set(selection.known.open_frames(selection.frames))
    picks = [
        line
        for order, pick in enumerate(selection.picks, start=1)
        for line in _pick_json(order, selection, pick, manifest.grid, open_frames)
    ]
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
        **(
            {}
            if selection.group_s is None
            else {
                "group_s": selection.group_s,
                "units": {"judged": len(selection.units), "selected": len(selection.picks)},
            }
        ),
        "frames": {
            "seen": len(selection.frames) + sum(selection.lost.values()) + sum(selection.gated.values()),
            "lost": sum(selection.lost.values()),
            "gated": sum(selection.gated.values()),
            "known": len(selection.frames) - len(open_frames),
            "selected": len(picks),
        },
        "cut": selection.cut,
        "lost": selection.lost,
        "guard": selection.guard,
        "gated": selection.gated,
        "known": [
            {"path": known.path, "kind": known.kind, "frames": len(known.frames)} for known in selection.known.paths
        ],
        "sources": [
            {"name": source.name, "spec": source.spec, "kind": source.kind, "fps": source.fps} for source in sources
        ],
        "picks": picks,
    }


def write_picks(path: Path, picks: dict[str, Any]) -> None:
    """Write a picks file, complete or not at all. Raises StorageError."""
    durable.write_file(path, json.dumps(picks, indent=1, ensure_ascii=False).encode() + b"\n")


def read_picks(path: Path) -> dict[str, Any]:
    """Read a picks file. Raises UsageError where it is none, or one of another schema."""
    try:
        data = parse_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UsageError(f"{path}: is not a picks file (not JSON: {error}).") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != PICKS_SCHEMA:
        raise UsageError(f"{path}: its schema is {schema!r}, a picks file of this version has {PICKS_SCHEMA!r}.")
    return dict(data)


def _pick_json(
    order: int, selection: PoolSelection, pick: Pick, grid: tuple[int, int], open_frames: set[int]
) -> Iterator[dict[str, Any]]:
    """A line for each frame of the picked unit that is not known; what is known has no part in what was new either."""
    unit = selection.units[pick.unit]
    counts = [len(selection.frames[i].rows) for i in unit]
    picked = [(i, begin) for i, begin in zip(unit, begins_of(counts), strict=True) if i in open_frames]
    for i, begin in picked:
        frame = selection.frames[i]
        own = range(begin, begin + len(frame.rows))
        yield {
            "order": order,
            "unit": selection.frames[picked[0][0]].id,
            "id": frame.id,
            "sha256": frame.digest,
            "source": frame.source,
            "frame_index": frame.frame_index,
            "capture_time_ns": frame.capture_time_ns,
            "distance": chord(pick.squared),
            "witness": {
                "patches": frame.clusters.patches_of(pick.witness - begin)
                if pick.witness is not None and pick.witness in own
                else [],
                "grid": list(grid),
            },
            "clusters": {
                "distances": [round(chord(squared), 4) for squared in pick.row_squared[own.start : own.stop]],
                "patches": frame.clusters.patch_cluster.tolist(),
            },
        }


def _reasons(lost: Counter[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(lost.items()))
