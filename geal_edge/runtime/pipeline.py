"""The way of the data on a vehicle, from a source to the spool. Read this file first.

    source -> Frame -> encoder -> (patch_features, cls_attention) -> distill -> knowledge clusters
           -> selector.score -> Decision -> spool.append -> selector.learn

A graph exported with `--output clusters` distills and groups by itself: frame in, clusters out.

While one is judged, the next is encoded and the one behind it read (prepare.py, overlap.py). What is judged as one is a unit
(units.py): a frame by itself, or all cameras of one instant.

Scoring changes nothing, and nothing is learned before it is safe on disk. So the process may die at any line: the next one
finds the spool as it was after the last decision, and a recorded source goes on behind the last unit counted.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from geal_edge.config import ClusterConfig, GuardKind
from geal_edge.errors import FrameError, FrameGated
from geal_edge.models.bundle import Bundle, file_digest
from geal_edge.models.preprocess import aspect_warning
from geal_edge.runtime.clusters import KnowledgeClusters, knowledge_clusters
from geal_edge.runtime.distill import distill
from geal_edge.runtime.encoder import Encoded, Encoder, EngineChange
from geal_edge.runtime.frame import Frame, Image, LostFrame
from geal_edge.runtime.guard import Guard, guard_after
from geal_edge.runtime.imagefile import Encoding
from geal_edge.runtime.memoryfile import known_entries
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.overlap import AHEAD, overlapped
from geal_edge.runtime.persistence import only
from geal_edge.runtime.prepare import EncodedFrame, Prepared, encode, prepare
from geal_edge.runtime.release import ReleaseRule
from geal_edge.runtime.rounds import Rounds, powered_seconds
from geal_edge.runtime.sources import Source
from geal_edge.runtime.spool import Spool, SpoolSettings
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.threads import one_blas_thread
from geal_edge.runtime.units import JudgedFrame, JudgedUnit, units
from geal_edge.runtime.watched import WatchedEncoder

AnyEncoder: TypeAlias = Encoder | WatchedEncoder


def stream(
    source: Source,
    *,
    after: int,
    group_s: float | None,
    encoder: AnyEncoder,
    selector: Rounds,
    spool: Spool,
    watch: Observer,
    stop: Stop,
    guard: Guard | None = None,
    ahead: int = AHEAD,
) -> None:
    """Judge every unit of `source` behind `after`, the frame_index of the last frame counted.

    The next units are read and encoded meanwhile, at most `ahead` of each step (overlap.py); what is decided, and in which
    order, does not depend on it. One bad frame is counted and passed over, and so is one that the guard holds back; the other
    frames of its unit are judged all the same. Raises Interrupted after the unit in hand once `stop` was asked, and
    EngineStopped before it where no engine is left.
    """
    manifest = encoder.bundle.manifest
    changes: deque[EngineChange] = deque()
    frames = (
        [prepare(item, manifest, guard) for item in unit.frames] for unit in units(source.frames(after=after), group_s)
    )
    try:
        with closing(overlapped(frames, partial(encode_unit, encoder, changes), ahead=ahead, stop=stop)) as encoded:
            for unit in encoded:
                selector.tick()  # a round with a length: releases what is due, and ends it when its time is over
                note_changes([changes.popleft() for _ in range(unit.changes)], spool, watch)
                judged = judge(unit, manifest.clusters, guard)
                if judged.frames:
                    decision = selector.score(judged.clusters)  # asks, changes nothing
                    spool.append(judged, decision)  # durable first; an empty decision writes nothing
                    selector.learn(decision)  # then in memory
                else:
                    spool.pass_over(judged)
                for _ in unit.frames:
                    watch.advance(retained=len(selector.retained), lost=spool.lost)
    finally:
        note_changes(changes, spool, watch)  # of a unit that is not judged any more: the engine failed all the same
    spool.finish_source(source.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedUnit:
    """frames: of one unit, at least one, in its order; changes: how often the engine was replaced over them."""

    frames: tuple[EncodedFrame, ...]
    changes: int


def encode_unit(encoder: AnyEncoder, changes: deque[EngineChange], frames: Sequence[Prepared]) -> EncodedUnit:
    """What the model says of every frame of a unit. What happens to the engines over them goes into `changes`."""
    try:
        encoded = tuple(encode(frame, encoder) for frame in frames)
    finally:
        changed = encoder.take_changes()
        changes.extend(changed)
    return EncodedUnit(frames=encoded, changes=len(changed))


def judge(unit: EncodedUnit, recipe: ClusterConfig, guard: Guard | None = None) -> JudgedUnit:
    """The knowledge clusters of every frame of a unit; a frame that cannot be judged does not lose the others."""
    frames: list[JudgedFrame] = []
    gated: list[tuple[Frame | LostFrame, FrameGated]] = []
    lost: list[tuple[Frame | LostFrame, FrameError]] = []
    for seen in unit.frames:
        try:
            frames.append(judge_frame(seen, recipe, guard))
        except FrameGated as gate:
            gated.append((seen.item, gate))
        except FrameError as error:
            lost.append((seen.item, error))
    return JudgedUnit(frames=tuple(frames), lost=tuple(lost), gated=tuple(gated))


def judge_frame(seen: EncodedFrame, recipe: ClusterConfig, guard: Guard | None = None) -> JudgedFrame:
    """Raises FrameError, or FrameGated, where no decision is to see the frame."""
    if guard is not None:
        guard.advance(seen.item)
    frame, encoded = seen.frame()
    clusters = clusters_in(encoded, recipe)
    if guard is not None:
        clusters = only(clusters, guard.counts(frame, clusters.rows))
    return JudgedFrame(frame=frame, clusters=clusters)


def note_changes(changes: Iterable[EngineChange], spool: Spool, watch: Observer) -> None:
    """Events for what happened to the engines; stored with the decision on the frame that they failed on."""
    for change in changes:
        if change.now is not None:  # where none follows, the error itself says so
            watch.warn(f"engine {change.was} failed, {change.now} goes on with the frame in hand ({change.reason})")
        spool.event("engine_stopped" if change.now is None else "engine_changed", **change.as_dict())


def clusters_of(frame: Frame, encoder: AnyEncoder) -> KnowledgeClusters:
    """A frame's knowledge clusters. Raises FrameError where nothing in it could be judged."""
    return clusters_of_image(frame.image, encoder)


def clusters_of_image(image: Image, encoder: AnyEncoder) -> KnowledgeClusters:
    """The same of a picture that has lost its frame."""
    return clusters_in(encoder(image), encoder.bundle.manifest.clusters)


def clusters_in(encoded: Encoded, recipe: ClusterConfig) -> KnowledgeClusters:
    """The knowledge clusters in what the model said of a frame. Raises FrameError where nothing in it could be judged."""
    if encoded.clusters is not None and encoded.recipe == recipe:  # the graph has gone this far already
        return encoded.clusters
    distilled = distill(
        encoded.patch_features,
        encoded.cls_attention,
        attention_ratio=recipe.attention_ratio,
        ratio_rule=recipe.ratio_rule,
    )
    return knowledge_clusters(distilled, recipe)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run did: names of sources read to their end, and of those that had been before."""

    finished: tuple[str, ...]
    skipped: tuple[str, ...]


def run(
    sources: Sequence[Source],
    *,
    encoder: AnyEncoder,
    spool_path: Path,
    budget: int,
    release: ReleaseRule = "round_end",
    length_s: float | None = None,
    known: Sequence[Path] = (),
    group_s: float | None = None,
    encoding: Encoding = "jpg",
    again: bool = False,
    guard: GuardKind | None = None,
    ahead: int = AHEAD,
    watch: Observer,
    stop: Stop | None = None,
) -> RunResult:
    """Stream sources one after another into a spool; go on where an earlier run was stopped or killed.

    A spool of recorded sources has one round, which is open: further sources continue it, a finished one is read anew only
    with `again`. On a vehicle rounds last `length_s` powered seconds and release by a rule (release.py), and a bundle of
    another feature space takes the spool over (migration.py). What the memory files `known` hold counts as covered. With
    `group_s` frames of several topics whose capture times lie within so many seconds are one unit (units.py). With `guard`
    broken frames are not judged, nor with `all` what was there for one frame alone (guard.py). `ahead` frames are read and
    encoded beforehand; 0 where the newest frame is asked for, as of a camera.
    Raises Interrupted, SourceClash before anything is read where two sources have one name, and whatever opening a spool
    or a source raises.
    """
    finished: list[str] = []
    skipped: list[str] = []
    settings = replace(spool_settings(encoder.bundle, budget, group_s, guard=guard), release=release, length_s=length_s)
    anew = None if length_s is None else lambda image: clusters_of_image(image, encoder)
    # Read before a spool is made: a wrong one leaves nothing behind.
    memories = [(str(path), known_entries(path, settings.feature_space), file_digest(path)) for path in known]
    with one_blas_thread(), Spool(spool_path, settings, encoding=encoding, encode=anew) as spool:
        for name, entries, digest in memories:
            spool.know(name, digest, entries)
        for source in sources:
            spool.require_own_name(source, others=sources)
        selector = Rounds(spool, powered_seconds)
        for source in sources:
            state = spool.begin_source(source, again=again and source.name not in finished)
            if state.finished:
                skipped.append(source.name)
                continue
            warn_of_aspect(source, encoder.bundle, watch)
            # How many are left of a source that was begun before depends on its rate; the count alone is true.
            watch.begin(source.name, source.frame_count if state.cursor < 0 else None)
            stream(
                source,
                after=state.cursor,
                group_s=group_s,
                encoder=encoder,
                selector=selector,
                spool=spool,
                watch=watch,
                stop=stop or Stop(),
                guard=guard and guard_after(source, state.cursor, guard, lambda frame: clusters_of(frame, encoder)),
                ahead=ahead,
            )
            finished.append(source.name)
    return RunResult(finished=tuple(finished), skipped=tuple(skipped))


def spool_settings(
    bundle: Bundle, budget: int, group_s: float | None = None, *, guard: GuardKind | None = None
) -> SpoolSettings:
    """What a spool filled from this bundle must agree with for ever."""
    manifest = bundle.manifest
    return SpoolSettings(
        bundle=bundle.digest,
        feature_space=manifest.feature_space,
        preset=manifest.preset,
        grid=manifest.grid,
        untrained=manifest.untrained,
        budget=budget,
        group_s=group_s,
        guard=guard,
    )


def warn_of_aspect(source: Source, bundle: Bundle, watch: Observer) -> None:
    """Say so where the resize would squeeze a source much; the resize never keeps the aspect (paper C.3, C.4)."""
    manifest = bundle.manifest
    if source.size is not None:
        message = aspect_warning(source.size, (manifest.width, manifest.height), int(manifest.model["patch_size"]))
        if message:
            watch.warn(f"{source.name}: {message}")
