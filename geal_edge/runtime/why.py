"""Why a frame was selected, or not: all that a spool knows of one frame, as `geal-edge why` says it."""

from typing import Any

from geal_edge.errors import UsageError
from geal_edge.runtime.spoolview import EvictedFrame, SpoolView, StoredFrame
from geal_edge.runtime.verdicts import MAX_VERDICTS, Verdict

WHY_SCHEMA = "geal-edge/why/1"


def why(view: SpoolView, id_: str) -> dict[str, Any]:
    """The machine form of `why --json` (docs/formats.md). Raises UsageError for a frame that the spool does not know."""
    stored = [frame for frame in view.retained() if frame.id == id_]
    evicted = [] if stored else [frame for frame in view.evicted() if frame.id == id_]
    verdict = None if stored or evicted else view.verdict(id_)
    if stored:
        facts = _of_stored(stored[-1])
    elif evicted:
        facts = _of_evicted(evicted[0])
    elif verdict is not None:
        facts = _of_verdict(verdict)
    else:
        raise UsageError(
            f"{id_}: this spool does not know the frame. It was never looked at (--fps passes frames over), or is not among the "
            f"newest {MAX_VERDICTS:,} that were not retained. `geal-edge list {view.path} --retained` shows ids."
        )
    nearest = view.nearest(id_, facts.pop("nearest_unit", None))
    return {"schema": WHY_SCHEMA, "untrained": view.untrained, "id": id_, **facts, "nearest": nearest}


def sentence(facts: dict[str, Any]) -> str:
    """The same for people."""
    return {
        "selected": "selected, number {order} of the order"
        # The first has none before it, unless something is remembered or known.
        + (": its witness is chord {distance:.3f} from the frames before it" if facts.get("distance") else ""),
        "released": "released in round {round}, number {order} of the order of sending",
        "retained": "retained, but not among those selected for now",
        "evicted": "was retained, then evicted ({cause}) when {evicted_by} was decided on",
        "not_new": "not new",
        "lost": "lost, {reason}: {detail}",
        "gated": "gated, {reason}",
    }[facts["state"]].format(**facts) + _measures(facts)


def _measures(facts: dict[str, Any]) -> str:
    if facts["novelty"] is None:
        return "" if facts["state"] in ("lost", "gated") else "; nothing was there to compare it with when it was seen"
    radius = "" if facts["radius"] is None else f", radius then {facts['radius']:.3f}"
    nearest = "" if facts["nearest"] is None else f"; nearest was {facts['nearest']}"
    return f"; novelty {facts['novelty']:.3f} when it was seen{radius}{nearest}"


def _of_stored(frame: StoredFrame) -> dict[str, Any]:
    selected = frame.state == "retained" and frame.order is not None
    return {
        "state": "selected" if selected else frame.state,
        "round": frame.round,
        "order": frame.order,
        "distance": frame.distance or 0.0,
        "capture_time_ns": frame.capture_time_ns,
        "novelty": frame.novelty,
        "radius": frame.radius,
        "witness": frame.witness_patches,
    }


def _of_evicted(frame: EvictedFrame) -> dict[str, Any]:
    return {
        "state": "evicted",
        "evicted_by": frame.evicted_by,
        "cause": frame.cause,
        "capture_time_ns": frame.capture_time_ns,
        "novelty": frame.novelty,
        "radius": frame.radius,
    }


def _of_verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "state": verdict.state,
        "reason": verdict.reason,
        "detail": verdict.detail,
        "capture_time_ns": verdict.capture_time_ns,
        "novelty": verdict.novelty,
        "radius": verdict.radius,
        "nearest_unit": verdict.nearest,
    }
