"""What a report says, as plain values: read from a spool or from a picks file, with its sentences in the page's words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geal_edge.runtime.metadata import Metadata
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.pool import read_picks
from geal_edge.runtime.pressure import PRESSURES
from geal_edge.runtime.privacy.filter import PrivacyFilter
from geal_edge.runtime.privacy.leaving import Door, Leaving
from geal_edge.runtime.report.promise import Promise, frames_of, picks_promise, spool_promise
from geal_edge.runtime.selection import SelectedFrame, not_whole, picked_frames, picked_source
from geal_edge.runtime.spoolview import EvictedFrame, StoredFrame, open_view
from geal_edge.runtime.timeline import Timeline

RARE_STATES = ("gated", "released", "sent", "pinned", "expired", "erased")
"""Said only where there are any."""
EXAMPLES = 8
"""Lost frames named per reason: the counts are whole in any case."""
OTHERS = 400
"""Pictures of frames retained but not selected; the page says how many it leaves out."""
EVICTED = 400
"""Evicted frames told one by one; the page says how many it leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFrame:
    """One frame of the page.

    order     place of its unit in the selected order from 1; None = retained, not selected for now
    place     in its unit, from 0
    distance  chord to the frames before it in that order, 0.0 for the first; None if not selected
    novelty   chord to what was retained when it was seen; None for the first frame seen, and in picks files
    radius    radius in force then; None where there was none
    patches   row-major indices of the witness on the grid; empty for the first, and where another frame of the unit has it
    heat      chord of each patch's cluster to the frames before it in that order, 0.0 for patches that were distilled
              away; empty for the first, and where that is not known
    clusters  knowledge cluster of each patch, -1 = distilled away; empty where that is not known
    grid      (rows, columns)
    seen_at   frames seen before it, for the time line; None where it has no place there
    file      its bytes in the spool; None in picks files
    metadata  what the vehicle said of it; empty where it said nothing
    state     as of a StoredFrame; "" in picks files
    context   pictures before and after it
    """

    order: int | None
    place: int
    id: str
    source: str
    frame_index: int
    capture_time_ns: int | None
    distance: float | None
    novelty: float | None
    radius: float | None
    patches: tuple[int, ...]
    heat: tuple[float, ...]
    clusters: tuple[int, ...]
    grid: tuple[int, int]
    seen_at: float | None
    file: Leaving | None
    sha256: str | None
    metadata: Metadata = field(default_factory=dict)
    state: str = ""
    pinned: bool = False
    context: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSource:
    """One source. spec and fps are what opens it again; first_seen = frames seen before it, None in picks files."""

    name: str
    spec: str
    kind: str
    fps: float | None
    first_seen: int | None
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LostExample:
    id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All of a page but its pictures.

    round        the latest, from 1; the budget is of each
    grouped      whether units hold several frames: the budget counts units, all else frames
    counts       frames by state, in the order to show them
    selected     in their order
    others       retained, not selected: the newest things first, at most OTHERS of `counts["retained"]`
    timeline     None in picks files
    evicted      the newest first, at most EVICTED of `counts["evicted"]`
    refused      frames that were not new, by how new they were (refusals.py); empty in picks files
    notes        what else the spool noted and a person should know, as sentences
    """

    name: str
    producer: str
    bundle: str
    feature_space: str
    preset: str
    untrained: bool
    budget: int
    round: int
    grouped: bool
    counts: dict[str, int]
    lost: dict[str, int]
    gated: dict[str, int]
    examples: tuple[LostExample, ...]
    sources: tuple[ShownSource, ...]
    promise: Promise
    selected: tuple[ShownFrame, ...]
    others: tuple[ShownFrame, ...]
    timeline: Timeline | None
    evicted: tuple[EvictedFrame, ...]
    refused: tuple[int, ...]
    notes: tuple[str, ...]


# -- from a spool ------------------------------------------------------------------------------------------------------


def read_spool_report(path: Path, *, privacy: PrivacyFilter | None = None, watch: Observer | None = None) -> Report:
    """Read a spool, also beside a running writer. privacy: what its pictures pass where it asks for it.

    Raises SpoolError where there is none.
    """
    with open_view(path) as view:
        door = view.door(privacy)
        counts, lost = view.counts()
        timeline = view.timeline
        frames = view.retained(cluster_distances=True, rules=door.rules, watch=watch)
        places = _seen_at(timeline, [frame.unit for frame in frames])
        others = sorted((f for f in frames if f.order is None), key=lambda f: -(f.novelty or 0.0))
        events = view.events()
        sources = tuple(
            ShownSource(
                name=source["name"],
                spec=source["spec"],
                kind=source["kind"],
                fps=source["fps"],
                first_seen=source["first_seen"],
                finished=source["finished"],
            )
            for source in view.sources()
        )

        def shown(some: Iterable[StoredFrame]) -> tuple[ShownFrame, ...]:
            return tuple(_shown(frame, view.grid, places.get(frame.unit), door) for frame in some)

        return Report(
            name=path.resolve().name,
            producer=view.meta["producer"],
            bundle=view.meta["bundle"],
            feature_space=view.meta["feature_space"],
            preset=view.meta["preset"],
            untrained=view.untrained,
            budget=view.budget,
            round=view.round,
            grouped=view.group_s is not None,
            counts={state: n for state, n in counts.items() if n or state not in RARE_STATES},
            lost=lost,
            gated=view.gated(),
            examples=_examples(events),
            sources=sources,
            promise=spool_promise(
                view.certificate(),
                budget=view.budget,
                selected=counts["selected"] + counts["released"] + counts["sent"],
                round_number=view.round,
            ),
            selected=shown(frame for frame in frames if frame.order is not None),
            others=shown(others[:OTHERS]),
            timeline=timeline,
            evicted=tuple(view.evicted(at_most=EVICTED)),
            refused=view.refusals(),
            notes=tuple(
                _notes(
                    events,
                    view.units()["selected"],
                    view.budget,
                    sources,
                    grouped=view.group_s is not None,
                    shadow=view.shadow,
                )
            ),
        )


def _shown(frame: StoredFrame, grid: tuple[int, int], seen_at: float | None, door: Door) -> ShownFrame:
    return ShownFrame(
        order=frame.order,
        place=frame.place,
        id=frame.id,
        source=frame.source,
        frame_index=frame.frame_index,
        capture_time_ns=frame.capture_time_ns,
        distance=frame.distance,
        novelty=frame.novelty,
        radius=frame.radius,
        patches=tuple(frame.witness_patches),
        heat=heat_of(frame.cluster_distances, frame.patch_cluster.tolist()),
        clusters=tuple(frame.patch_cluster.tolist()),
        grid=grid,
        seen_at=seen_at,
        file=frame.leaving(door),
        sha256=frame.sha256,
        metadata=frame.metadata,
        state=frame.state,
        pinned=frame.pinned,
        context=len(frame.context),
    )


def heat_of(distances: Sequence[float], patch_cluster: Sequence[int]) -> tuple[float, ...]:
    """A chord per cluster becomes a chord per patch. Raises ValueError where a patch names a cluster that is not there."""
    if distances and max(patch_cluster, default=-1) >= len(distances):
        raise ValueError(f"a patch of cluster {max(patch_cluster)}, but there are {len(distances)} clusters")
    return tuple(float(distances[cluster]) if cluster >= 0 else 0.0 for cluster in patch_cluster) if distances else ()


def _on_grid(patch_cluster: Iterable[int], grid: tuple[int, int]) -> tuple[int, ...]:
    """A cluster for every patch. Raises ValueError where there are more or fewer than the grid has."""
    clusters = tuple(int(cluster) for cluster in patch_cluster)
    if len(clusters) != grid[0] * grid[1]:
        raise ValueError(f"clusters of {len(clusters)} patches on a grid of {grid[0]} x {grid[1]}")
    return clusters


def _seen_at(timeline: Timeline, units: Iterable[int]) -> dict[int, float]:
    """Where on the time line each unit was retained, as a number of frames seen.

    Units are numbered as they are retained, so unit u stands in the bucket in which the running count of retained frames
    reaches u. That holds for sources read in turns, again, or at another rate, where a frame's index says nothing.
    """
    places: dict[int, float] = {}
    wanted = set(units)
    unit, start = 0, 0
    for bucket in timeline.buckets:
        for rank in range(bucket.retained):
            unit += 1
            if unit in wanted:
                places[unit] = start + bucket.frames * (rank + 0.5) / bucket.retained
        start += bucket.frames
    return places


def _examples(events: Iterable[Mapping[str, Any]]) -> tuple[LostExample, ...]:
    """The first EXAMPLES lost frames of each reason."""
    taken: dict[str, list[LostExample]] = {}
    for event in events:
        if event["name"] == "frame_lost":
            of_reason = taken.setdefault(event["reason"], [])
            if len(of_reason) < EXAMPLES:
                file, _, rest = event["detail"].partition(
                    ": "
                )  # an image's detail begins with its file, as its id ends
                detail = rest if rest and event["id"].endswith(f"/{file}") else event["detail"]
                of_reason.append(LostExample(id=event["id"], reason=event["reason"], detail=detail))
    return tuple(example for of_reason in taken.values() for example in of_reason)


def _notes(
    events: list[dict[str, Any]],
    selected: int,
    budget: int,
    sources: Iterable[ShownSource],
    *,
    grouped: bool,
    shadow: bool,
) -> Iterable[str]:
    if shadow:
        yield "This was a shadow: it decided and counted, and wrote no frames, so there are no pictures."
    for source in sources:
        if source.kind == "live":  # it has no end to be read to
            yield f"{source.name} is live: what is not released yet may still change."
        elif not source.finished:
            yield f"{source.name} is not read to its end yet: the selection may still change."
    if 0 < selected < budget:
        what = f"{selected:,} unit{'s' * (selected != 1)}" if grouped else frames_of(selected)
        yield f"Only {what} could be selected of a budget of {budget:,}: no more are retained."
    by_name: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_name.setdefault(event["name"], []).append(event)
    if raised := by_name.get("radius_raised"):
        levels = sum(len(event["levels"]) for event in raised)
        limits = " or ".join(PRESSURES[cause] for cause in dict.fromkeys(event["cause"] for event in raised))
        yield (
            f"{limits[0].upper()}{limits[1:]} was reached {_times(len(raised))}: {levels:,} of the smallest radii were given "
            "up for it, so the radius in force rose. The lower bound is not touched by that."
        )
    for name, sentence in (
        ("frame_file_missing", "Retained, but the file was gone from the spool when it was opened"),
        (
            "orphan_removed",
            "Removed when the spool was opened, because the power or the process went before its row was written",
        ),
        ("foreign_file", "In the spool's folder, but not ours; never touched"),
    ):
        files = list(dict.fromkeys(str(event["file"]) for event in by_name.get(name, ())))
        if files:
            yield f"{sentence}: {_listed(files)}."


# -- from a picks file -------------------------------------------------------------------------------------------------


def read_picks_report(path: Path) -> Report:
    """Read a picks file. Raises UsageError where it is none, or not a whole one."""
    picks = read_picks(path)
    try:
        return _from_picks(path.name, picks)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise not_whole(path, error) from error


def _from_picks(name: str, picks: dict[str, Any]) -> Report:
    selected = tuple(_picked(frame, pick) for frame, pick in zip(picked_frames(picks), picks["picks"], strict=True))
    counts = {state: int(picks["frames"][state]) for state in ("seen", "lost")}
    return Report(
        name=name,
        producer=str(picks["producer"]),
        bundle=str(picks["bundle"]),
        feature_space=str(picks["feature_space"]),
        preset=str(picks["preset"]),
        untrained=bool(picks["untrained"]),
        budget=int(picks["budget"]),
        round=1,
        grouped=picks.get("group_s") is not None,
        counts={**counts, "selected": len(selected)},
        lost={str(reason): int(n) for reason, n in picks["lost"].items()},
        gated={},
        examples=(),
        sources=tuple(
            ShownSource(
                name=source.name, spec=source.spec, kind=source.kind, fps=source.fps, first_seen=None, finished=True
            )
            for source in map(picked_source, picks["sources"])
        ),
        promise=picks_promise(
            [frame.distance or 0.0 for frame in selected if frame.place == 0],
            judged=int(picks["units"]["judged"]) if "units" in picks else counts["seen"] - counts["lost"],
            preset=str(picks["preset"]),
            known=bool(picks.get("known")),
        ),
        selected=selected,
        others=(),
        timeline=None,
        evicted=(),
        refused=(),
        notes=(),
    )


def _picked(frame: SelectedFrame, pick: dict[str, Any]) -> ShownFrame:
    return ShownFrame(
        order=frame.order,
        place=frame.place,
        id=frame.id,
        source=frame.source,
        frame_index=frame.frame_index,
        capture_time_ns=frame.capture_time_ns,
        distance=frame.distance,
        novelty=None,
        radius=None,
        patches=frame.patches,
        heat=heat_of(pick["clusters"]["distances"], pick["clusters"]["patches"]),
        clusters=_on_grid(pick["clusters"]["patches"], frame.grid),
        grid=frame.grid,
        seen_at=None,
        file=None,
        sha256=frame.sha256,
    )


# -- words -------------------------------------------------------------------------------------------------------------


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n:,} times"


def _listed(words: list[str], at_most: int = EXAMPLES) -> str:
    """
    >>> _listed(["a", "b", "c"], at_most=2)
    'a, b and 1 more'
    """
    shown, left = words[:at_most], len(words) - at_most
    return ", ".join(shown) + (f" and {left:,} more" if left > 0 else "")
