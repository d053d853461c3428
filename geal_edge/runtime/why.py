"""Why a frame was selected, or not: all that a spool knows of one frame, as `geal-edge why` says it."""

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from geal_edge.errors import UsageError
from geal_edge.runtime.spoolview import EvictedFrame, SpoolView, StoredFrame
from geal_edge.runtime.verdicts import MAX_VERDICTS, Verdict

WHY_SCHEMA = "geal-edge/why/1"


def why(view: SpoolView, id_: str) -> dict[str, Any]:
    """The machine form of `why --json` (docs/formats.md). Raises UsageError for a frame that the spool does not know."""
    stored = [frame for frame in view.retained(pinned=True) if frame.id == id_]
    evicted = [] if stored else [frame for frame in view.evicted(expired=True) if frame.id == id_]
    verdict = None if stored or evicted else view.verdict(id_)
    if stored:
        facts = _of_stored(stored[-1])
        if facts["state"] in ("released", "sent"):
            facts["upload"] = view.upload_facts(stored[-1].unit)
    elif evicted:
        facts = _of_evicted(evicted[0])
    elif verdict is not None:
        facts = _of_verdict(verdict)
    elif (erased := view.erased(id_)) is not None:
        facts = _of_erased(*erased)
    else:
        raise UsageError(
            f"{id_}: this spool does not know the frame. It was never looked at (--fps passes frames over), or is not among the "
            f"newest {MAX_VERDICTS:,} that were not retained. `geal-edge list {view.path} --retained` shows ids."
        )
    nearest = view.nearest(id_, facts.pop("nearest_unit", None))
    return {"schema": WHY_SCHEMA, "untrained": view.untrained, "id": id_, **facts, "nearest": nearest}


def refused(view: SpoolView, state: str, *, at_most: int) -> Iterator[dict[str, Any]]:
    """The same of the newest frames of a state that was not retained, newest first. state: `not_new`, `lost` or `gated`."""
    for verdict in view.verdicts(state, at_most=at_most):
        facts = _of_verdict(verdict)
        nearest = view.first_of(facts.pop("nearest_unit"))
        yield {"schema": WHY_SCHEMA, "untrained": view.untrained, "id": verdict.id, **facts, "nearest": nearest}


def sentence(facts: dict[str, Any]) -> str:
    """The same for people."""
    return (
        {
            "selected": "selected, number {order} of the order"
            # The first has none before it, unless something is remembered or known.
            + (": its witness is chord {distance:.3f} from the frames before it" if facts.get("distance") else ""),
            "released": "released in round {round}, number {order} of the order of sending",
            "sent": "released in round {round}, number {order} of the order of sending, and sent",
            "retained": "retained, but not among those selected for now",
            "pinned": "no candidate any more, and held by a pin",
            "evicted": "was retained, then evicted ({cause})"
            + (" when {evicted_by} was decided on" if facts.get("evicted_by") != facts.get("cause") else ""),
            "expired": "was retained, and too old before it was sent; what it showed stays covered",
            "erased": "erased on {erased_on:%Y-%m-%d} by the rule: {rule}",
            "not_new": "not new",
            "lost": "lost, {reason}: {detail}",
            "gated": "gated, {reason}: {detail}",
        }[facts["state"]].format(
            **facts, erased_on=datetime.fromtimestamp(facts.get("erased_ns", 0) / 1e9, timezone.utc)
        )
        + (", pinned" if facts.get("pinned") and facts["state"] != "pinned" else "")
        + _sending(facts)
        + _measures(facts)
        + _beside(facts)
    )


def _sending(facts: dict[str, Any]) -> str:
    """Why a released frame has not been sent yet, or how it was; empty for all others."""
    upload = facts.get("upload")
    if upload is None:
        return ""
    if facts["state"] == "sent":
        return "" if upload["key"] is None else f" as {upload['key']} (checked by {upload['verified']})"
    if upload["set_aside"] is not None:
        reason = upload["set_aside"]["reason"]
        hourly = "It is tried again every hour, and when the uploader starts; " if reason == "privacy" else ""
        return (
            f"; not sent: set aside ({reason}), since {upload['set_aside']['detail']}. "
            f"{hourly}`geal-edge upload --force ID` tries it {'now' if hourly else 'again'}"
        )
    link = upload["link"]
    said = "no `geal-edge upload` has run here" if link is None else str(link["detail"])
    return f"; not sent yet: number {upload['place']} of those that wait, and {said}"


def _beside(facts: dict[str, Any]) -> str:
    return f"; {facts['context']} pictures of context beside it" if "context" in facts else ""


def _measures(facts: dict[str, Any]) -> str:
    if facts["novelty"] is None:
        return (
            ""
            if facts["state"] in ("lost", "gated", "erased")
            else "; nothing was there to compare it with when it was seen"
        )
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
        **({"metadata": frame.metadata} if frame.metadata else {}),
        **({"context": len(frame.context)} if frame.context else {}),
        **({"pinned": True} if frame.pinned else {}),
    }


def _of_evicted(frame: EvictedFrame) -> dict[str, Any]:
    return {
        "state": frame.state,
        "evicted_by": frame.evicted_by,
        "cause": frame.cause,
        "capture_time_ns": frame.capture_time_ns,
        "novelty": frame.novelty,
        "radius": frame.radius,
    }


def _of_erased(wall_ns: int, rule: str) -> dict[str, Any]:
    """All that is left of it."""
    return {
        "state": "erased",
        "rule": rule,
        "erased_ns": wall_ns,
        "capture_time_ns": None,
        "novelty": None,
        "radius": None,
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
