"""`geal-edge status`: how a spool stands."""

import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from geal_edge.cli.common import Json, SpoolOrUrl, Terminal
from geal_edge.cli.farside import Prefix, is_far, opened_fleet, standing_lines
from geal_edge.errors import UsageError
from geal_edge.runtime.budget import megabytes
from geal_edge.runtime.farside.standing import standing
from geal_edge.runtime.ladder import Certificate
from geal_edge.runtime.pressure import DISK_QUOTA
from geal_edge.runtime.spoolview import SpoolView, open_view
from geal_edge.runtime.vehicletime import age_s


def status(
    where: SpoolOrUrl,
    as_json: Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on showing it, until q or Ctrl-C; without a terminal every 10 s.")
    ] = False,
    prefix: Prefix = "",
    silent_days: Annotated[
        float | None,
        typer.Option(min=0.0, help="Of a URL: mark vehicles that were not heard for so many days. Default: 2."),
    ] = None,
) -> None:
    """Show how a spool stands: frames by state, budget, radius, certificate; with --watch what the run does now, too.

    Of a URL: what each vehicle sent, by day, what still waits there, and who has fallen silent.

    Example: `geal-edge status spool --watch`, `geal-edge status s3://bucket --prefix fleet`
    """
    if is_far(where, prefix=prefix, silent_days=silent_days):
        if watch:
            raise UsageError("--watch: is for a spool.")
        _fleet_status(where, prefix, 2.0 if silent_days is None else silent_days, as_json=as_json)
        return
    spool = Path(where)
    if watch:
        from geal_edge.cli.watch import watch_status  # `run` needs this module, and none that draws

        watch_status(spool, as_json=as_json)
        return
    with open_view(spool) as view:
        data = view.status()
    print(json.dumps(data, indent=1, ensure_ascii=False) if as_json else "\n".join(status_lines(spool, data)))


def _fleet_status(url: str, prefix: str, silent_days: float, *, as_json: bool) -> None:
    now = datetime.now(timezone.utc)
    with Terminal() as terminal, opened_fleet(url, prefix, terminal) as (fleet, _, _):
        data = standing(fleet, now)
    print(
        json.dumps(data, indent=1, ensure_ascii=False) if as_json else "\n".join(standing_lines(data, silent_days, now))
    )


def status_lines(spool: Path, data: dict[str, Any]) -> Iterator[str]:
    """The machine form for people."""
    yield f"spool {spool}{status_marks(data)}"
    for label, text in status_rows(data, now_ns=time.time_ns()):
        yield f"  {label:<8}  {text}"


def status_marks(data: Mapping[str, Any]) -> str:
    """What nobody may overlook."""
    return (" (UNTRAINED weights)" if data["untrained"] else "") + (" (shadow: no frames)" if "shadow" in data else "")


def status_rows(
    data: Mapping[str, Any], *, now_ns: int, changed: Mapping[str, int] | None = None
) -> Iterator[tuple[str, str]]:
    """(label, text) of each line; a label may come again. changed: as of a Look, where somebody looks on."""
    frames, budget, last = data["frames"], data["budget"][0], data["rounds"][-1]
    more = changed or {}
    rare = [state for state in ("pinned", "expired", "erased") if frames[state]]
    final = [state for state in ("released", "sent") if frames[state]]
    states = ["not_new", "gated", "lost", "retained", *final, "evicted", *rare]
    yield (
        "frames",
        f"{frames['seen']}{_plus(more, 'seen')} seen: "
        + ", ".join(f"{frames[state]}{_plus(more, state)} {state.replace('_', ' ')}" for state in states),
    )
    for state in ("lost", "gated"):
        for reason, n in sorted(data[state].items()):
            yield state, f"{n}{_plus(more, f'{state}:{reason}')} {reason}"
    if last["round"] > 1 or last["length_s"] is not None:
        length = (
            "until it is ended" if last["length_s"] is None else f"{last['elapsed_s']:.0f} of {last['length_s']:.0f} s"
        )
        yield "round", f"{last['round']}, {length}, release {last['release']}"
    selected = data.get("units", frames)["selected"]
    limit = f"{budget['limit']} {budget['unit']}" + (f" per {budget['period']}" if budget["period"] else "")
    left = "" if changed is None else f", {max(0, budget['limit'] - budget['spent'])} left"
    yield "budget", f"{selected} of {limit} selected, {budget['spent']} spent{left}{_refill(budget)}"
    for cap in data["budget"][1:]:
        yield "budget", f"{cap['spent']} of {cap['limit']} {cap['unit']} per {cap['period']} spent{_refill(cap)}"
    yield "disk", disk_words(data["disk"], now_ns=now_ns)
    if "time_rule" in data:
        yield "time", TIME_RULES[data["time_rule"]]
    if "units" in data:
        yield "units", f"{frames['selected']} frames in them, formed with --group {data['group_s']:g}"
    certificate = Certificate(**last["certificate"])
    yield "coverage", certificate_words(certificate, frames) if frames["seen"] else "nothing seen yet"
    if "upload" in data and (data["upload"]["waiting"] or data["upload"]["link"]):
        yield "upload", upload_words(data["upload"])
    for source in data["sources"]:
        state = "read to its end" if source["finished"] else f"at frame {source['cursor']}"
        yield "source", f"{source['name']}: {state}"
    yield "bundle", f"{data['bundle'][:19]}, preset {data['preset']}, feature space {data['feature_space']}"


def _plus(changed: Mapping[str, int], name: str) -> str:
    n = changed.get(name, 0)
    return f" ({n:+d})" if n else ""


def disk_words(disk: Mapping[str, Any], *, now_ns: int) -> str:
    """How full a spool is and what waits in it, from the machine form.

    >>> empty = {"unsent_units": 0, "unsent_bytes": 0, "oldest_stored_ns": None}
    >>> disk_words({"used_bytes": 3_100_000, "max_bytes": 2 * 10**9, "free_bytes": 5 * 10**10, **empty}, now_ns=0)
    '3.1 MB of 2.0 GB used, 50.0 GB free'
    """
    quota = "" if disk["max_bytes"] is None else f" of {megabytes(disk['max_bytes'])}"
    words = f"{megabytes(disk['used_bytes'])}{quota} used, {megabytes(disk['free_bytes'])} free"
    if not disk["unsent_units"]:
        return words
    oldest_s = age_s(disk["oldest_stored_ns"], now_ns)
    since = "" if oldest_s is None else f", the oldest stored {oldest_s / 86400:.1f} days ago"
    return f"{words}; {disk['unsent_units']} units not sent{since}"


TIME_RULES = {
    "synchronised": "the clock is synchronised: time switched off counts, one window at most",
    "powered": "the clock is not synchronised: a day is 24 powered hours",
}


def _refill(budget: dict[str, Any]) -> str:
    left_s = budget["refills_in_s"]
    return "" if left_s is None else f", refills in {left_s / 3600:.1f} h"


def upload_words(upload: Mapping[str, Any]) -> str:
    """How the outbox stands; `upload` as in the machine form.

    >>> upload_words({"waiting": 2, "waiting_bytes": 612_000, "set_aside": 1, "link": None})
    '2 units wait (0.6 MB), 1 set aside; no uploader has run here'
    """
    aside = f", {upload['set_aside']} set aside" if upload["set_aside"] else ""
    said = "no uploader has run here" if upload["link"] is None else upload["link"]["detail"]
    return f"{upload['waiting']} units wait ({upload['waiting_bytes'] / 1e6:.1f} MB){aside}; {said}"


def certificate_words(certificate: Certificate, frames: Mapping[str, int]) -> str:
    """The certificate as a sentence; never a claim against the best frames, for which no factor exists.

    frames  how many are in which state, as in the machine form

    >>> certificate_words(Certificate(radius=0.5, lower_bound=0.0), {"selected": 3, "released": 0, "sent": 0})
    'every cluster seen is within chord 0.500 of the 3 selected frames'
    >>> certificate_words(Certificate(radius=0.5, lower_bound=0.0), {"selected": 3, "released": 9, "sent": 0})
    'every cluster seen is within chord 0.500 of the 3 selected frames or of a released one'
    >>> certificate_words(Certificate(radius=0.5, lower_bound=0.0), {"selected": 0, "released": 2, "sent": 7})
    'every cluster seen is within chord 0.500 of a released frame'
    """
    if certificate.radius is None:
        return "no radius can be certified"
    near = f"the {frames['selected']} selected frames"
    if frames["released"] or frames["sent"]:
        near = f"{near} or of a released one" if frames["selected"] else "a released frame"
    covered = f"every cluster seen is within chord {certificate.radius:.3f} of {near}"
    if certificate.lower_bound == 0.0:
        return covered
    return f"{covered}; no choice of as many single patches as the budget gets below {certificate.lower_bound:.3f}"


def result_lines(view: SpoolView, spool: Path) -> Iterator[str]:
    """What a run came to, for people."""
    frames, lost = view.counts()
    gated = f"{frames['gated']} gated, " if frames["gated"] else ""
    released = "".join(f"{frames[state]} {state}, " for state in ("released", "sent") if frames[state])
    more = frames["retained"] - frames["selected"]
    beside = f"{more} more retained, " if more > 0 else ""
    units = "" if view.group_s is None else f" units, of which {view.units()['selected']} are selected"
    yield (
        f"{frames['selected']} of {frames['seen']} frames selected, budget {view.budget}{units} "
        f"({released}{beside}{frames['not_new']} not new, {frames['evicted']} evicted, {gated}{frames['lost']} lost): {spool}"
    )
    yield certificate_words(view.certificate(), frames)
    if no_room := lost.get(DISK_QUOTA):
        yield f"no room on the disk, or under its quota, for {no_room} frames: lost, new or not. Raise --max-disk or free space."
