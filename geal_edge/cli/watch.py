"""`geal-edge status --watch`: what a run does now, on a terminal, for as long as somebody looks."""

import json
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from geal_edge.cli.common import onlooking
from geal_edge.cli.status import status_lines, status_marks, status_rows
from geal_edge.runtime.budget import megabytes
from geal_edge.runtime.eventlog import SWITCHED_ON, Event, printable, utc, when, words
from geal_edge.runtime.livestatus import Look, Onlook

TERMINAL_S = 1.0
PLAIN_S = 10.0
"""Between two looks: on a terminal, and where whoever reads is no person at one."""
LABEL = 10
LEAST_EVENTS = 3
WRITTEN_S = 90.0
"""A run stores something every minute, also where no frame comes."""
SPARKS = "▁▂▃▄▅▆▇█"
PLAIN_SPARKS = ".:-=+*#%"
FIRST_ROWS = ("now", "rate", "cameras", "frames", "lost", "gated", "budget", "radius", "coverage", "upload", "disk")
"""In this order; what has no room is left out from the end."""
BAD_EVENTS = ("camera_lost", "disk_full", "engine_stopped", "link_lost", "set_aside", "commits_lost", "config_refused")

QUIET_EVENTS = ("units_evicted",)
"""The selector's daily work, which the numbers tell: others must not scroll away for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """bad: something that a person should see to."""

    label: str
    text: str
    bad: bool = False


def watch_status(spool: Path, *, as_json: bool) -> None:
    """Show the status of a spool again and again, until it is enough."""
    console, onlook = Console(highlight=False), Onlook(spool)
    if as_json or not console.is_terminal or console.is_dumb_terminal:
        with onlooking() as looking:
            while True:
                for line in plain_lines(spool, onlook.look(), as_json=as_json):
                    print(line)
                sys.stdout.flush()
                if not looking.wait(PLAIN_S):
                    return
    # Another screen of the terminal: what was on it before is there again afterwards, whatever ends this.
    with (
        onlooking(keys=True) as looking,
        Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while not looking.over:
            width, height = console.size
            lines = screen(spool, onlook.look(), width=width, height=height, encoding=console.encoding)
            live.update(Text("\n", no_wrap=True, overflow="crop").join(lines), refresh=True)
            looking.wait(TERMINAL_S)


def plain_lines(spool: Path, look: Look, *, as_json: bool) -> Iterator[str]:
    """One status, where there is no terminal; in the machine form an object with `wall_ns` and the pulse beside it, or with
    `problem`."""
    wall_ns = time.time_ns()
    if as_json:
        data = {"problem": look.problem} if look.status is None else look.status
        yield json.dumps({**data, "wall_ns": wall_ns, "pulse": look.pulse}, ensure_ascii=False)
        return
    yield utc(wall_ns)
    if look.status is None:
        yield f"  {look.problem}"
        return
    yield from status_lines(spool, look.status)
    for row in now_rows(look, wall_ns=wall_ns):
        yield f"  {row.label:<8}  {row.text}"


def screen(
    spool: Path, look: Look, *, width: int, height: int, encoding: str = "utf-8", wall_ns: int | None = None
) -> list[Text]:
    """The lines of a terminal of this size; no more, and none longer. encoding: what its characters can be."""
    now_ns = time.time_ns() if wall_ns is None else wall_ns
    marks = "" if look.status is None else status_marks(look.status)
    clock = utc(now_ns)[11:19] + "Z"
    title = printable(f"geal-edge  {spool}{marks}")
    room = max(0, width - len(clock) - 2)
    lines = [Text(f"{title[-room:] if room else '':<{room}}  {clock}"[:width], style="bold reverse")]
    body: list[Text] = []
    if look.problem:
        body += _wrapped(Row(label="waiting", text=look.problem, bad=True), width)
    for row in all_rows(look, width=width, encoding=encoding, now_ns=now_ns):
        body += _wrapped(row, width)
    events = [
        Text(f"{_at(event, now_ns)}  {words(event)}", style="yellow" if event["name"] in BAD_EVENTS else "")
        for event in look.events
        if event["name"] not in QUIET_EVENTS
    ]
    left = height - 2  # the title, and the line that says how to end it
    body = body[: max(0, left - min(LEAST_EVENTS, len(events)))]
    shown = left - len(body)
    lines += body + (events[-shown:] if shown > 0 else [])
    lines += [Text()] * (height - 1 - len(lines))
    lines.append(Text("q or Ctrl-C ends", style="dim"))
    return [_fitting(line, width, encoding) for line in lines[:height]]


def all_rows(look: Look, *, width: int, encoding: str, now_ns: int) -> list[Row]:
    """What there is to say, the most important first."""
    rows = list(now_rows(look, wall_ns=now_ns))
    if look.status is not None:
        told = status_rows(look.status, now_ns=now_ns, changed=look.changed)
        rows += [Row(label=label, text=text, bad=_is_bad(label, look)) for label, text in told]
        if any(look.changed.values()):
            rows.append(Row(label="frames", text=f"(+n) in the last {look.over_s:.0f} s"))
        drawn = sparkline(look.radii, max(8, width - LABEL - 30), encoding)
        radius = (
            "none: only the largest level is alive" if not drawn else f"{drawn} {look.radii[-1] or 0.0:.3f} in force"
        )
        rows.append(Row(label="radius", text=radius))
    places = {label: place for place, label in enumerate(FIRST_ROWS)}
    rows.sort(key=lambda row: places.get(row.label, len(places)))
    return [
        Row(label=label, text="; ".join(row.text for row in same), bad=any(row.bad for row in same))
        for label, group in groupby(rows, key=attrgetter("label"))
        for same in [list(group)]
    ]


def now_rows(look: Look, *, wall_ns: int) -> Iterator[Row]:
    """What the run does now, and how fresh that is."""
    stored_s = max(0.0, (wall_ns - look.stored_ns) / 1e9)
    if look.pulse is None:
        if look.status is not None:
            seems = "a run seems to fill it, and is not heard here" if stored_s < WRITTEN_S else "no run fills it now"
            yield Row(label="now", text=f"{seems}: stored {_ago(stored_s)}", bad=stored_s >= WRITTEN_S)
        return
    pulse, pace = look.pulse, look.pulse["pace"]
    newest = "no frame judged yet" if pulse["newest"] is None else f"newest judged {_ago(pulse['newest']['age_s'])}"
    yield Row(
        label="now",
        text=f"{_pace(pace['seen_per_s'])} frames/s seen, {_pace(pace['judged_per_s'])} judged; {newest}; "
        f"told {_ago(pulse['age_s'])}, stored {_ago(stored_s)}",
        bad=pulse["age_s"] > WRITTEN_S,
    )
    yield Row(label="rate", text="; ".join(_rate_and_machine(look, pulse)), bad=look.held_down is not None)
    if look.cameras:
        told = (f"{name}: {wrong or _shows(pulse['cameras'][name])}" for name, wrong in look.cameras.items())
        yield Row(label="cameras", text=", ".join(told), bad=any(look.cameras.values()))


def _rate_and_machine(look: Look, pulse: dict[str, Any]) -> Iterator[str]:
    rate, machine, engine = pulse["rate"], pulse["machine"], pulse["engine"]
    if rate is not None:
        down = rate["in_force_hz"] < rate["asked_hz"]
        why = f" of {rate['asked_hz']:g}, held down by {rate['cause'] or look.held_down}" if down else ""
        yield f"{rate['in_force_hz']:.3g} Hz a camera{why}"
    if machine:
        cpu = "" if machine["cpu_percent"] is None else f"CPU {machine['cpu_percent']:.0f} %, "
        heat = "" if machine["temperature_c"] is None else f", {machine['temperature_c']:.0f} C"
        yield f"{cpu}{megabytes(machine['rss_bytes'])}{heat}"
    yield f"engine {engine['name']}" + (f" in place of {engine['first']}" if engine["changes"] else "")


def _shows(camera: dict[str, Any]) -> str:
    lost = sum(camera["lost"].values())
    seen = "begins" if camera.get("silent_s") is None else f"picture {_ago(camera['silent_s'])}"
    return seen + (f", {lost} lost" if lost else "")


def _is_bad(label: str, look: Look) -> bool:
    """What has become worse within a minute, or will not mend by itself."""
    status = look.status or {}
    if label == "lost":
        return look.changed.get("lost", 0) > 0
    link = status.get("upload", {}).get("link") or {}
    return label == "upload" and (link.get("state") == "failing" or status["upload"]["set_aside"] > 0)


def sparkline(values: Sequence[float | None], width: int, encoding: str = "utf-8") -> str:
    """Numbers as a line of bars from zero to the largest; at most so many, each the last of its stretch. None: nothing there.

    >>> sparkline([None, 0.5, 1.0, 1.0], 2)
    '▄█'
    >>> sparkline([0.5, 1.0], 8, "ascii"), sparkline([None], 8)
    ('=%', '')
    """
    sparks = SPARKS if encoding.lower().startswith("utf") else PLAIN_SPARKS
    top = max((value for value in values if value is not None), default=0.0)
    if top <= 0.0:
        return ""
    bars = min(width, len(values))
    ends = [values[(i + 1) * len(values) // bars - 1] for i in range(bars)]
    return "".join(" " if end is None else sparks[max(0, round(end / top * len(sparks)) - 1)] for end in ends)


def _wrapped(row: Row, width: int) -> list[Text]:
    """A row in as many lines as it takes, under its label."""
    lines = textwrap.wrap(printable(row.text), max(8, width - LABEL)) or [""]
    heads = [row.label, *[""] * (len(lines) - 1)]
    style = "yellow" if row.bad else ""
    return [Text.assemble((f"{head:<{LABEL}}", "bold"), (line, style)) for head, line in zip(heads, lines, strict=True)]


def _fitting(line: Text, width: int, encoding: str) -> Text:
    """Not longer than the terminal, and of characters that it has. What is not ours in it is printable already."""
    line.plain = line.plain.encode(encoding, "replace").decode(encoding)
    line.truncate(width, overflow="crop")
    return line


def _at(event: Event, now_ns: int) -> str:
    """When an event was, in few letters: the time of today, else the date too."""
    told = when(event)
    if told.startswith(SWITCHED_ON):
        return told.removeprefix(SWITCHED_ON)
    at, today = utc(event["wall_ns"]), utc(now_ns)[:10]
    return (at[11:19] if at.startswith(today) else f"{at[5:10]} {at[11:16]}") + told[-1]


def _pace(per_s: float | None) -> str:
    return "-" if per_s is None else f"{per_s:.1f}"


def _ago(seconds: float) -> str:
    """
    >>> _ago(0.44), _ago(75.0), _ago(7200.0), _ago(200_000.0)
    ('0.4 s ago', '75 s ago', '2.0 h ago', '2.3 days ago')
    """
    if seconds < 10.0:
        return f"{seconds:.1f} s ago"
    if seconds < 600.0:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 3600:.1f} h ago" if seconds < 172800.0 else f"{seconds / 86400:.1f} days ago"
