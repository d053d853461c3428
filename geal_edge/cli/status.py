"""`geal-edge status`: how a spool stands."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from geal_edge.cli.common import Json, SpoolFolder
from geal_edge.runtime.ladder import Certificate
from geal_edge.runtime.spoolview import open_view


def status(spool: SpoolFolder, as_json: Json = False) -> None:
    """Show how a spool stands: frames by state, budget, radius, certificate.

    Example: `geal-edge status spool`
    """
    with open_view(spool) as view:
        data = view.status()
    print(json.dumps(data, indent=1, ensure_ascii=False) if as_json else "\n".join(status_lines(spool, data)))


def status_lines(spool: Path, data: dict[str, Any]) -> Iterator[str]:
    frames, budget, last = data["frames"], data["budget"][0], data["rounds"][-1]
    states = ["not_new", "gated", "lost", "retained", *(["released"] if frames["released"] else []), "evicted"]
    yield (
        f"spool {spool}"
        + (" (UNTRAINED weights)" if data["untrained"] else "")
        + (" (shadow: no frames)" if "shadow" in data else "")
    )
    yield f"  frames    {frames['seen']} seen: " + ", ".join(
        f"{frames[state]} {state.replace('_', ' ')}" for state in states
    )
    for state in ("lost", "gated"):
        for reason, n in sorted(data[state].items()):
            yield f"  {state:<8}  {n} {reason}"
    if last["round"] > 1 or last["length_s"] is not None:
        length = (
            "until it is ended" if last["length_s"] is None else f"{last['elapsed_s']:.0f} of {last['length_s']:.0f} s"
        )
        yield f"  round     {last['round']}, {length}, release {last['release']}"
    selected = data.get("units", frames)["selected"]
    limit = f"{budget['limit']} {budget['unit']}" + (f" per {budget['period']}" if budget["period"] else "")
    yield f"  budget    {selected} of {limit} selected, {budget['spent']} spent{_refill(budget)}"
    for cap in data["budget"][1:]:
        yield f"            {cap['spent']} of {cap['limit']} {cap['unit']} per {cap['period']} spent{_refill(cap)}"
    if "time_rule" in data:
        yield f"  time      {TIME_RULES[data['time_rule']]}"
    if "units" in data:
        yield f"  units     {frames['selected']} frames in them, formed with --group {data['group_s']:g}"
    certificate = Certificate(**last["certificate"])
    yield f"  coverage  {certificate_words(certificate, frames) if frames['seen'] else 'nothing seen yet'}"
    for source in data["sources"]:
        state = "read to its end" if source["finished"] else f"at frame {source['cursor']}"
        yield f"  source    {source['name']}: {state}"
    yield f"  bundle    {data['bundle'][:19]}, preset {data['preset']}, feature space {data['feature_space']}"


TIME_RULES = {
    "synchronised": "the clock is synchronised: time switched off counts, one window at most",
    "powered": "the clock is not synchronised: a day is 24 powered hours",
}


def _refill(budget: dict[str, Any]) -> str:
    left_s = budget["refills_in_s"]
    return "" if left_s is None else f", refills in {left_s / 3600:.1f} h"


def certificate_words(certificate: Certificate, frames: Mapping[str, int]) -> str:
    """The certificate as a sentence; never a claim against the best frames, for which no factor exists.

    frames  how many are in which state, as in the machine form

    >>> certificate_words(Certificate(radius=0.5, lower_bound=0.0), {"selected": 3, "released": 0})
    'every cluster seen is within chord 0.500 of the 3 selected frames'
    >>> certificate_words(Certificate(radius=0.5, lower_bound=0.0), {"selected": 3, "released": 9})
    'every cluster seen is within chord 0.500 of the 3 selected frames or of a released one'
    >>> certificate_words(Certificate(radius=0.5, lower_bound=0.0), {"selected": 0, "released": 9})
    'every cluster seen is within chord 0.500 of a released frame'
    """
    if certificate.radius is None:
        return "no radius can be certified"
    near = f"the {frames['selected']} selected frames"
    if frames["released"]:
        near = f"{near} or of a released one" if frames["selected"] else "a released frame"
    covered = f"every cluster seen is within chord {certificate.radius:.3f} of {near}"
    if certificate.lower_bound == 0.0:
        return covered
    return f"{covered}; no choice of as many single patches as the budget gets below {certificate.lower_bound:.3f}"
