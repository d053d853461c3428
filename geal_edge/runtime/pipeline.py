"""The way of the data on a vehicle, from a source to the spool. Read this file first.

    source -> Frame -> gates -> encoder -> (patch_features, cls_attention) -> distill -> knowledge clusters
           -> selector.score -> Decision -> spool.append -> selector.learn

A graph exported with `--output clusters` distills and groups by itself: frame in, clusters out. While one frame is judged, the
next is encoded and the one behind it read (prepare.py, overlap.py). What is judged as one is a unit (units.py): a frame, or all
cameras of one instant.

Scoring changes nothing, and nothing is learned before it is safe on disk. So the process may die at any line: the next one
finds the spool as it was after the last decision, and a recorded source goes on behind the last unit counted.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from geal_edge.config import ClusterConfig, ContextConfig, DiskConfig, GateConfig, GuardKind, LimitConfig, PrivacyConfig
from geal_edge.errors import EngineStopped, FrameError, FrameGated, Interrupted, LimitExceeded, UsageError
from geal_edge.models.bundle import Bundle, file_digest
from geal_edge.models.preprocess import aspect_warning
from geal_edge.runtime.budget import Allowance, BudgetPlan
from geal_edge.runtime.clocks import UNTIMED, Clocks, timed
from geal_edge.runtime.clusters import KnowledgeClusters, knowledge_clusters
from geal_edge.runtime.context import Context
from geal_edge.runtime.distill import distill
from geal_edge.runtime.encoder import Encoded, Encoder, EngineChange
from geal_edge.runtime.frame import Frame, Image, LostFrame
from geal_edge.runtime.gates import Gates, held_back
from geal_edge.runtime.guard import Guard, guard_after
from geal_edge.runtime.identity import Identity
from geal_edge.runtime.imagefile import Encoding
from geal_edge.runtime.live.governor import Governor, step_back
from geal_edge.runtime.live.source import LiveSource
from geal_edge.runtime.memory import MAX_FRAMES, ignored
from geal_edge.runtime.memoryfile import known_entries
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.overlap import AHEAD, overlapped
from geal_edge.runtime.persistence import only
from geal_edge.runtime.prepare import EncodedFrame, Prepared, encode, prepare
from geal_edge.runtime.privacy.filter import PrivacyFilter
from geal_edge.runtime.release import ReleaseRule
from geal_edge.runtime.rounds import Rounds
from geal_edge.runtime.sources import AnySource, Source
from geal_edge.runtime.spool import FLUSH_S, Spool
from geal_edge.runtime.spoolsettings import SpoolSettings
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.telemetry import Telemetry
from geal_edge.runtime.threads import one_blas_thread
from geal_edge.runtime.units import JudgedFrame, JudgedUnit, units
from geal_edge.runtime.vehicletime import Moment, moment
from geal_edge.runtime.watched import WatchedEncoder

DISK = DiskConfig()
PRIVACY = PrivacyConfig()
AnyEncoder: TypeAlias = Encoder | WatchedEncoder


def stream(
    source: Source | LiveSource,
    *,
    after: int,
    group_s: float | None,
    encoder: AnyEncoder,
    selector: Rounds,
    spool: Spool,
    watch: Observer,
    stop: Stop,
    guard: Guard | None = None,
    gates: Gates | None = None,
    context: Context | None = None,
    governor: Governor | None = None,
    telemetry: Telemetry | None = None,
    ahead: int = AHEAD,
) -> None:
    """Judge every unit of `source` behind `after`, the frame_index of the last frame counted.

    The next units are read and encoded meanwhile, at most `ahead` of each step (overlap.py); what is decided, and in which
    order, does not depend on it. One bad frame is counted and passed over, and so is one that gates or guard hold back; the other
    frames of its unit are judged all the same. A live source has nothing ahead, since its newest frame is asked for, and ends
    when it is told to. Raises Interrupted after the unit in hand once `stop` was asked, and EngineStopped before it where no
    engine is left.
    """
    manifest = encoder.bundle.manifest
    changes: deque[EngineChange] = deque()
    clocks = UNTIMED if telemetry is None else telemetry.stages
    ahead = 0 if isinstance(source, LiveSource) else ahead
    seen = decoded(source, after, clocks)
    # A live source's cameras end with the loop: left to Python's collector they would go on beside those of the next run.
    ended = closing(seen) if isinstance(seen, Generator) and not ahead else nullcontext()
    frames = ([prepare(item, manifest, guard, gates, clocks) for item in unit.frames] for unit in units(seen, group_s))
    encode_next = partial(encode_unit, encoder, changes, clocks=clocks)
    try:
        with ended, closing(overlapped(frames, encode_next, ahead=ahead, stop=stop)) as encoded:
            for unit in encoded:
                between_units(source, selector, spool, watch, idle=not unit.frames, context=context, governor=governor)
                if telemetry is not None:
                    telemetry.step(source, selector, spool, encoder=encoder, governor=governor)
                if not unit.frames:
                    spool.idle()
                    continue
                note_changes([changes.popleft() for _ in range(unit.changes)], spool, watch)
                note_looked_at(unit, spool)
                judged = judge(unit, manifest.clusters, guard, clocks)
                if judged.frames:
                    with clocks["score"]:
                        decision = selector.score(judged.clusters)  # asks, changes nothing
                    with clocks["append"]:
                        # Durable first; an empty decision writes nothing, and on a full disk another one may be taken.
                        decision = spool.append(judged, decision, selector.press)
                        if context is not None and decision.retain:
                            context.begin(decision.unit, judged)
                        selector.learn(decision)  # then in memory
                else:
                    spool.pass_over(judged)
                if telemetry is not None:
                    telemetry.count(judged)
                for _ in unit.frames:
                    watch.advance(retained=len(selector.retained), lost=spool.lost)
    except (Interrupted, EngineStopped, LimitExceeded) as cause:
        if isinstance(source, LiveSource):
            pass_over_leftover(source, spool)
            spool.event("run_ended", by=ended_by(cause, stop))
        raise
    finally:
        note_changes(changes, spool, watch)  # of a unit that is not judged any more: the engine failed all the same
    if isinstance(source, LiveSource):
        pass_over_leftover(source, spool)
        spool.event("run_ended", by="source")
        spool.flush()
    else:
        spool.finish_source(source.name)


def decoded(source: Source | LiveSource, after: int, clocks: Clocks) -> Iterable[Frame | LostFrame | None]:
    """The frames of a source. How long a live one decodes only it can tell: it waits for its cameras as well."""
    if isinstance(source, LiveSource):
        source.decoding = clocks["decode"]
        return source.frames(after=after)
    return timed(source.frames(after=after), clocks["decode"])


def between_units(
    source: Source | LiveSource,
    selector: Rounds,
    spool: Spool,
    watch: Observer,
    *,
    idle: bool,
    context: Context | None,
    governor: Governor | None,
) -> None:
    """What is due by now, and what happened meanwhile; asked before each unit, and (`idle`) when none comes for a while.

    Raises LimitExceeded.
    """
    for notice in watch.take_notices():
        spool.event(notice.name, **notice.detail)
    selector.tick(idle=idle)  # a round with a length: releases what is due, and ends it when its time is over
    if spool.sweep_when_due():
        selector.restore()
    if isinstance(source, LiveSource):
        note_cameras(source, selector, spool, watch)
        if governor is not None:
            heed_limits(governor, source, spool, watch)
    if context is not None:
        context.step()


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedUnit:
    """frames: of one unit, at least one, in its order; changes: how often the engine was replaced over them."""

    frames: tuple[EncodedFrame, ...]
    changes: int


def encode_unit(
    encoder: AnyEncoder, changes: deque[EngineChange], frames: Sequence[Prepared], *, clocks: Clocks = UNTIMED
) -> EncodedUnit:
    """What the model says of every frame of a unit. What happens to the engines over them goes into `changes`."""
    try:
        encoded = tuple(encode(frame, encoder, clocks) for frame in frames)
    finally:
        changed = encoder.take_changes()
        changes.extend(changed)
    return EncodedUnit(frames=encoded, changes=len(changed))


def judge(unit: EncodedUnit, recipe: ClusterConfig, guard: Guard | None = None, clocks: Clocks = UNTIMED) -> JudgedUnit:
    """The knowledge clusters of every frame of a unit; a frame that cannot be judged does not lose the others."""
    frames: list[JudgedFrame] = []
    gated: list[tuple[Frame | LostFrame, FrameGated]] = []
    lost: list[tuple[Frame | LostFrame, FrameError]] = []
    for seen in unit.frames:
        try:
            frames.append(judge_frame(seen, recipe, guard, clocks))
        except FrameGated as gate:
            gated.append((seen.item, gate))
        except FrameError as error:
            lost.append((seen.item, error))
    return JudgedUnit(frames=tuple(frames), lost=tuple(lost), gated=tuple(gated))


def judge_frame(
    seen: EncodedFrame, recipe: ClusterConfig, guard: Guard | None = None, clocks: Clocks = UNTIMED
) -> JudgedFrame:
    """Raises FrameError, or FrameGated, where no decision is to see the frame."""
    if guard is not None and not held_back(seen.encoded):
        guard.advance(seen.item)
    frame, encoded = seen.frame()
    clusters = clusters_in(encoded, recipe, clocks)
    if guard is not None:
        clusters = only(clusters, guard.counts(frame, clusters.rows))
    return JudgedFrame(frame=frame, clusters=clusters)


def note_looked_at(unit: EncodedUnit, spool: Spool) -> None:
    """What the gates remember of a unit's frames; stored with the decision on them."""
    for seen in unit.frames:
        if seen.looked_at is not None:
            spool.note_looked_at(seen.item.source, seen.item.topic, seen.looked_at)


def note_cameras(source: LiveSource, selector: Rounds, spool: Spool, watch: Observer) -> None:
    """Events for what happened to the cameras; a trip ends where their side says so."""
    for notice in source.take_notices():
        spool.event(notice.name, **notice.detail)
        if notice.name in SAID:
            watch.warn(f"{notice.detail['camera']}: {SAID[notice.name].format(**notice.detail)}")
    if source.take_end_of_trip():
        selector.end_trip()


def pass_over_leftover(source: LiveSource, spool: Spool) -> None:
    """Count what a live source took in and nobody will judge: it was lost, and the next start sees other frames."""
    for item in source.leftover(spool.cursor(source.name)):
        spool.pass_over(JudgedUnit(frames=(), lost=((item, FrameError(item.reason, item.detail)),)))


def ended_by(cause: Interrupted | EngineStopped | LimitExceeded, stop: Stop) -> str:
    """What ended the run of a live source, in a word for its event."""
    if isinstance(cause, Interrupted):
        return "stop" if stop.asked else "reload"
    return "engine" if isinstance(cause, EngineStopped) else "limit"


SAID = {
    "camera_lost": "is lost ({reason}); tried again in {retry_in_s:g} s",
    "camera_silent": "no picture for {silent_s:g} s",
    "camera_back": "is back",
    "camera_frozen": "shows the same picture over and over",
}
"""Events of cameras that are said on the terminal, and how."""


def heed_limits(governor: Governor, source: LiveSource, spool: Spool, watch: Observer) -> None:
    """Do and tell what the governor says. Raises LimitExceeded."""
    for change in governor.step(frames=spool.seen, late=spool.late):
        spool.event(change.name, **change.as_dict())
        if change.name == "context_given_up":
            source.forget_context()
            watch.warn("context is given up: the process has more memory than it may")
        else:
            source.set_rate(change.rate_hz)
            why = "there is room again" if change.cause is None else f"{change.cause} {change.seen[change.cause]:g}"
            watch.warn(f"rate {change.was_hz:.3g} -> {change.rate_hz:.3g} Hz ({why})")


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


def clusters_in(encoded: Encoded, recipe: ClusterConfig, clocks: Clocks = UNTIMED) -> KnowledgeClusters:
    """The knowledge clusters in what the model said of a frame. Raises FrameError where nothing in it could be judged."""
    if encoded.clusters is not None and encoded.recipe == recipe:  # the graph has gone this far already
        return encoded.clusters
    with clocks["distil"]:
        distilled = distill(
            encoded.patch_features,
            encoded.cls_attention,
            attention_ratio=recipe.attention_ratio,
            ratio_rule=recipe.ratio_rule,
        )
    with clocks["cluster"]:
        return knowledge_clusters(distilled, recipe)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run did: names of sources read to their end, and of those that had been before."""

    finished: tuple[str, ...]
    skipped: tuple[str, ...]


def run(
    sources: Sequence[Source | LiveSource],
    *,
    encoder: AnyEncoder,
    spool_path: Path,
    budget: int | BudgetPlan,
    release: ReleaseRule = "round_end",
    length_s: float | None = None,
    known: Sequence[Path] = (),
    ignore: Sequence[Path] = (),
    identity: Identity | None = None,
    group_s: float | None = None,
    encoding: Encoding = "jpg",
    again: bool = False,
    guard: GuardKind | None = None,
    gates: GateConfig | None = None,
    context: ContextConfig | None = None,
    limits: LimitConfig | None = None,
    ahead: int = AHEAD,
    shadow: bool = False,
    tags: Sequence[str] = (),
    flush_s: float = FLUSH_S,
    memory_frames: int = MAX_FRAMES,
    disk: DiskConfig = DISK,
    privacy: PrivacyConfig = PRIVACY,
    telemetry: Telemetry | None = None,
    watch: Observer,
    stop: Stop | None = None,
    now: Callable[[], Moment] = moment,
) -> RunResult:
    """Stream sources one after another into a spool; go on where an earlier run was stopped or killed.

    A spool of recorded sources has one round, which is open: further sources continue it, a finished one is read anew only
    with `again`. On a vehicle rounds last `length_s` powered seconds and release by a rule (release.py), and a bundle of
    another feature space takes the spool over (migration.py). What the memory files `known` hold counts as covered, and
    what `ignore` hold is never forgotten either. What is retained and what happens bears `identity` (identity.py). With
    `group_s` frames of several topics whose capture times lie within so many seconds are one unit (units.py). With `guard`
    broken frames are not judged, nor with `all` what was there for one frame alone (guard.py); `gates` hold back what the
    encoder is not to be asked about (gates.py), and may be others in every run. `context` is stored beside what is retained of a
    live source: what its cameras saw before and after (context.py). Within `limits` the rate of a live source goes down and up
    (live/governor.py); their `threads` are for whoever starts the engine. `ahead` frames of a recorded source are read and
    encoded beforehand. With `shadow` all is decided and counted, and no frame is written. `tags` are those of
    what is retained in this run. Counters are stored every `flush_s` seconds; the memory holds at most `memory_frames` frames.
    `disk` says how full the spool may be, and how old what is in it; `privacy` what pictures pass before they are stored, or
    leave. A live source goes with the BudgetPlan of its caps (budget.py), which says length and release rule, and with `now`.
    `telemetry` is told how the run stands (telemetry.py).
    Raises Interrupted, SourceClash before anything is read where two sources have one name, and whatever opening a spool
    or a source raises.
    """
    finished: list[str] = []
    skipped: list[str] = []
    gates = gates or GateConfig()
    limits = limits or LimitConfig()
    require_limits_can_hold(sources, limits)
    passes = PrivacyFilter(privacy)
    Gates(gates)  # a condition that is none is said before a spool is made
    plan = None
    if not isinstance(budget, int):
        plan, budget = budget, budget.units
        release, length_s = plan.release, plan.length_s
    context = context or ContextConfig()
    require_context_can_be(sources, release, context)
    settings = replace(
        spool_settings(encoder.bundle, budget, group_s, guard=guard),
        release=release,
        length_s=length_s,
        caps=() if plan is None else plan.caps,
        shadow=shadow,
    )
    anew = None if shadow or (plan is None and length_s is None) else lambda image: clusters_of_image(image, encoder)
    # Read before a spool is made: a wrong one leaves nothing behind.
    read = partial(known_entries, feature_space=settings.feature_space)
    memories = [(str(path), read(path), file_digest(path)) for path in known]
    memories += [(str(path), ignored(read(path)), f"ignore:{file_digest(path)}") for path in ignore]
    if limits.nice is not None:
        step_back(limits.nice)
    spool = Spool(
        spool_path,
        settings,
        encoding=encoding,
        encode=anew,
        flush_s=flush_s,
        memory_frames=memory_frames,
        disk=disk,
        privacy=passes,
        now=now,
    )
    with one_blas_thread(), nullcontext() if telemetry is None else closing(telemetry), spool:
        if identity is not None:
            spool.identify(identity)
        spool.tag(tags)
        spool.use_gates(gates)
        for name, entries, digest in memories:
            spool.know(name, digest, entries)
        for source in sources:
            spool.require_own_name(source, others=sources)
        allowance = None if plan is None else Allowance(plan, now, spool.budget)
        selector = Rounds(spool, lambda: now().powered_s, allowance)
        for source in sources:
            state = spool.begin_source(source, again=again and source.name not in finished)
            if state.finished:
                skipped.append(source.name)
                continue
            warn_of_aspect(source, encoder.bundle, watch)
            if gates.only_if and not isinstance(source, LiveSource):
                watch.warn(f"{source.name}: recorded sources have no metadata, so only_if holds back every frame of it")
            # How many are left of a source that was begun before depends on its rate; the count alone is true.
            watch.begin(source.name, source.frame_count if state.cursor < 0 else None)
            if isinstance(source, LiveSource):
                spool.event("run_started", cameras=[*source.cameras()], shadow=shadow)
            stream(
                source,
                after=state.cursor,
                group_s=group_s,
                encoder=encoder,
                selector=selector,
                spool=spool,
                watch=watch,
                stop=stop or Stop(),
                guard=guard and guard_of(source, state.cursor, guard, encoder, spool),
                context=context_of(source, context, spool),
                governor=governor_of(source, limits, watch),
                telemetry=telemetry,
                gates=None if gates == GateConfig() else Gates(gates, spool.looked_at(source.name)),
                ahead=ahead,
            )
            finished.append(source.name)
    return RunResult(finished=tuple(finished), skipped=tuple(skipped))


def wanted(context: ContextConfig) -> bool:
    return context.before_s > 0.0 or context.after_s > 0.0


def context_of(source: Source | LiveSource, config: ContextConfig, spool: Spool) -> Context | None:
    """None where none is asked for, or a shadow writes none: what the cameras held for a run before is given back then."""
    if not isinstance(source, LiveSource):
        return None
    if not wanted(config) or spool.settings.shadow:
        source.forget_context()
        return None
    return Context(config, source, spool)


def require_context_can_be(
    sources: Sequence[Source | LiveSource], release: ReleaseRule, context: ContextConfig
) -> None:
    """Raise UsageError where context is asked for that nobody can give."""
    recorded = [source.name for source in sources if not isinstance(source, LiveSource)]
    if recorded and wanted(context):
        raise UsageError(
            f"context: is for live sources; of a recorded one, as {recorded[0]}, the recording has what came before and after"
        )
    if release == "immediate" and context.after_s > 0.0:
        raise UsageError(
            "context.after_s: does not go with --release immediate, which makes a frame final when it is seen. Use paced or "
            "round_end, or context.before_s alone"
        )


def require_limits_can_hold(sources: Sequence[Source | LiveSource], limits: LimitConfig) -> None:
    """Raise UsageError for limits that are held by looking at fewer frames, where a source is looked at whole."""
    recorded = [source.name for source in sources if not isinstance(source, LiveSource)]
    for name in ("cpu_percent", "max_rss_bytes", "max_temperature_c"):
        if recorded and getattr(limits, name) is not None:
            raise UsageError(
                f"limits.{name}: lowers the rate of live sources; a recorded one, as {recorded[0]}, has none. Use limits.nice "
                "and limits.threads, or leave it out"
            )


def governor_of(source: Source | LiveSource, limits: LimitConfig, watch: Observer) -> Governor | None:
    if not isinstance(source, LiveSource):
        return None
    governor = Governor(limits, source.rate_hz, context=source.holds_context, monotonic=source.monotonic)
    if not governor.can_be_told:
        watch.warn("limits.max_temperature_c: this system tells no temperature, so the limit holds nothing")
    return governor


def guard_of(source: Source | LiveSource, cursor: int, kind: GuardKind, encoder: AnyEncoder, spool: Spool) -> Guard:
    """A live source shows no frame again, so what guarded it before is not known."""
    if isinstance(source, LiveSource):
        return Guard(kind)
    return guard_after(source, cursor, kind, lambda frame: clusters_of(frame, encoder), spool.held_back())


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


def warn_of_aspect(source: AnySource, bundle: Bundle, watch: Observer) -> None:
    """Say so where the resize would squeeze a source much; the resize never keeps the aspect (paper C.3, C.4)."""
    manifest = bundle.manifest
    if source.size is not None:
        message = aspect_warning(source.size, (manifest.width, manifest.height), int(manifest.model["patch_size"]))
        if message:
            watch.warn(f"{source.name}: {message}")
