"""The report's page, part by part: HTML that holds no string of the data unescaped."""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from hashlib import sha256
from html import escape
from importlib.resources import files
from itertools import chain, islice
from statistics import median_low
from string import Template

from geal_edge.runtime.pressure import PRESSURES
from geal_edge.runtime.report import chart
from geal_edge.runtime.report.data import Report, ShownFrame
from geal_edge.runtime.report.pictures import Picture, Thumbnail
from geal_edge.runtime.report.promise import frames_of
from geal_edge.runtime.spoolview import EvictedFrame

SOURCES_NAMED = 3
PICTURES_FOR_BOX = 12
EPOCH_NS = 10**17
"""Capture times from here on (1973) count from 1970; smaller ones from the start of a recording."""

UNTRAINED = (
    "<strong>Made with untrained weights.</strong> The picks show that the machinery works, not what DINO would choose."
)
STATES = {
    "seen": "seen",
    "not_new": "not new",
    "gated": "gated",
    "lost": "lost",
    "retained": "retained",
    "selected": "selected",
    "released": "released",
    "sent": "sent",
    "evicted": "evicted",
    "pinned": "pinned",
    "expired": "expired",
    "erased": "erased",
}


def around(title: str) -> tuple[str, str]:
    """What stands before and after the parts of a page of this title.

    The page allows itself pictures of its own, its styles and this one script."""
    template = files("geal_edge.runtime.report").joinpath("page.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", template, re.DOTALL)
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    head, tail = template.split("$body")
    return Template(head).substitute(title=escape(title), script_hash=f"sha256-{digest}"), tail


def headline(report: Report) -> str:
    n = len(report.selected)
    return "No frame is selected yet" if not n else "Why this frame" if n == 1 else f"Why these {n:,} frames"


def top(report: Report) -> str:
    """The bar that stays, and all that is said before the first picture."""
    links = {"frames": "Frames", "time": "Time line" if report.timeline else "Distances", "sources": "Sources"}
    if any(report.refused):
        links["refused"] = "Not new"
    if report.counts.get("lost"):
        links["lost"] = "Lost"
    if report.others:
        links["others"] = "Retained"
    if report.counts.get("evicted"):
        links["evicted"] = "Evicted"
    navigation = "".join(f'<a href="#{target}">{words}</a>' for target, words in links.items())
    return (
        f'<a class="skip" href="#frames">To the frames</a>'
        f'<div class="bar"><div><strong aria-hidden="true">{headline(report)}</strong>'
        f"{over_switch()}"
        f'<nav aria-label="On this page">{navigation}</nav></div></div>'
        f'<main><header class="top">'
        + (f'<p class="warning">{UNTRAINED}</p>' if report.untrained else "")
        + f'<h1>{headline(report)}</h1><p class="dek">{_dek(report)}</p>'
        + f'<dl class="counts">{"".join(_counts(report))}</dl>'
        + f'<div class="promise"><p>{escape(report.promise.sentence)}</p><p>{escape(report.promise.note)}</p></div>'
        + bullets(report.notes, "notes")
        + f"{_made(report)}</header>"
    )


def over_switch() -> str:
    """What lies over all pictures: a radio group that CSS alone obeys."""
    choices = "".join(
        f'<label><input type="radio" name="over" id="over-{what}"{" checked" if what == "new" else ""}> {words}</label>'
        for what, words in (("nothing", "plain"), ("new", "what was new"), ("clusters", "clusters"))
    )
    return f'<div class="switch" role="radiogroup" aria-label="Over the pictures">{choices}</div>'


def _dek(report: Report) -> str:
    names = [as_text(source.name) for source in report.sources]
    shown, left = names[:SOURCES_NAMED], len(names) - SOURCES_NAMED
    if left > 0:
        shown.append(f"{left:,} more")
    where = f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else "".join(shown)
    budget = f"{report.budget:,}{_units(report)}" + (" in each round" if report.round > 1 else "")
    return (
        f"From {frames_of(report.counts['seen'])}{f' of {where}' if where else ''}, with a budget of {budget}. "
        "Shown in the order of what each adds to those before it."
    )


def _units(report: Report) -> str:
    """What the budget counts, where that is not frames."""
    return "" if not report.grouped else " unit" if report.budget == 1 else " units"


def _counts(report: Report) -> Iterator[str]:
    more_of = {
        "selected": f"budget {report.budget:,}{_units(report)}",
        "lost": _reasons(report.lost),
        "gated": _reasons(report.gated),
    }
    for state, n in report.counts.items():
        main = ' class="main"' if state == "selected" else ""
        more = more_of.get(state, "")
        if state == "selected":  # of which what is final has a number of its own beside it
            n += report.counts.get("released", 0) + report.counts.get("sent", 0)
        words = STATES[state] + (f"<small>{more}</small>" if more else "")
        yield f"<div{main}><dt>{words}</dt><dd>{n:,}</dd></div>"


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {as_text(reason)}" for reason, n in sorted(counts.items(), key=lambda item: -item[1]))


def _made(report: Report) -> str:
    return made(
        {
            "bundle": report.bundle.removeprefix("sha256:")[:12],
            "feature space": report.feature_space,
            "preset": report.preset,
            "weights": "untrained" if report.untrained else "",
            "from": report.name,
            "made by": report.producer,
        }
    )


def made(facts: Mapping[str, str]) -> str:
    """What a page was made from, in small letters; empty facts are left out."""
    told = (f"<div><dt>{what}</dt><dd>{as_text(value)}</dd></div>" for what, value in facts.items() if value)
    return f'<dl class="made">{"".join(told)}</dl>'


# -- the frames --------------------------------------------------------------------------------------------------------


def frames(report: Report, pictures: Iterable[tuple[ShownFrame, Picture]]) -> Iterator[str]:
    """The selected frames, one string each."""
    lede = (
        "The warmer a region, the farther it lay from all frames before; the outline is the knowledge cluster that lay "
        "farthest, and the bar below a picture is its distance. Switched to clusters, each knowledge cluster of a frame has "
        "a colour of its own, which says nothing of other frames; what was distilled away stays plain. "
        '<span class="pointer">Point at a picture to see it plain; the arrow keys walk from frame to frame.</span>'
    )
    yield begin_section("frames", "The frames, in order", lede)
    longest = max((frame.distance or 0.0 for frame in report.selected), default=0.0)
    box, pictures = usual_box(pictures)
    yield f'<ol class="frames" style="--box:{box:.4f}">'
    for frame, picture in pictures:
        yield card(frame, picture, longest, anchor=chart.anchor(frame))
    yield "</ol></section>"


def usual_box(pictures: Iterable[tuple[ShownFrame, Picture]]) -> tuple[float, Iterator[tuple[ShownFrame, Picture]]]:
    """The shape (width / height) of the boxes that all pictures stand in, and the pictures, whole again.

    It is the usual shape of the first few, so that they fill their boxes; one of another shape keeps it inside its box.
    """
    rest = iter(pictures)
    first = list(islice(rest, PICTURES_FOR_BOX))
    shapes = [picture.width / picture.height for _, picture in first if isinstance(picture, Thumbnail)]
    box = min(max(median_low(shapes), 1.2), 2.4) if shapes else 16 / 9
    return box, chain(first, rest)


def card(frame: ShownFrame, picture: Picture, longest: float, *, anchor: str) -> str:
    """A selected frame; its bar is its distance as a share of the longest."""
    distance = frame.distance or 0.0
    added = "first of the round" if frame.order == 1 else f"<b>{distance:.2f}</b> from all before it"
    return (
        f'<li class="frame" id="{anchor}"><div class="box">{picture_of(frame, picture)}</div>'
        f'<div class="adds"><i style="width:{100 * distance / longest if longest else 0:.1f}%"></i></div>'
        f'<p class="title"><span class="order">{frame.order}</span><span class="distance">{added}</span></p>'
        f'<p class="id">{as_text(frame.id)}</p><p class="where">{_where(frame)}</p>{_when_seen(frame)}'
        f"{_marks(frame)}{_said(frame)}</li>\n"
    )


def picture_of(frame: ShownFrame, picture: Picture) -> str:
    if not isinstance(picture, Thumbnail):
        return f'<p class="missing">No picture. {escape(picture.why)}</p>'
    data = base64.b64encode(picture.jpeg).decode()
    name = f"Frame {frame.order}" if frame.order else "Retained frame"
    place = f"; what was new lies at the {chart.whereabouts(frame.patches, frame.grid)}" if frame.patches else ""
    return (
        f'<div class="picture" style="--ratio:{picture.width / picture.height:.4f}">'
        f'<img src="data:image/jpeg;base64,{data}" width="{picture.width}" height="{picture.height}" loading="lazy" '
        f'decoding="async" alt="{escape(f"{name}, {frame.id}{place}")}">'
        f"{chart.region(frame)}</div>"
    )


def _where(frame: ShownFrame | EvictedFrame) -> str:
    source = "" if frame.id.startswith(frame.source) else f"{as_text(frame.source)}, "
    time = "" if frame.capture_time_ns is None else f", at {clock(frame.capture_time_ns)}"
    return f"{source}frame {frame.frame_index:,}{time}"


def _marks(frame: ShownFrame) -> str:
    """What became of it, where that is more than to be selected for now."""
    pictures = f"{frame.context} picture{'s' * (frame.context > 1)} of context" if frame.context else ""
    state = frame.state if frame.state in ("released", "sent") else ""
    marks = [mark for mark in (state, "pinned" if frame.pinned else "", pictures) if mark]
    return f'<p class="when">{", ".join(marks)}</p>' if marks else ""


def _said(frame: ShownFrame) -> str:
    """What the vehicle said of it, in short: the page is for eyes, `list --json` has all of it."""
    if not frame.metadata:
        return ""
    text = json.dumps(frame.metadata, ensure_ascii=False)
    return f'<p class="when">{as_text(text if len(text) <= 200 else f"{text[:200]}...")}</p>'


def _when_seen(frame: ShownFrame) -> str:
    if frame.file is None and frame.novelty is None:
        return ""  # a picks file: nothing was judged at the time
    if frame.novelty is None:
        return '<p class="when">seen first: nothing to compare it with</p>'
    radius = "" if frame.radius is None else f", radius then {frame.radius:.2f}"
    return f'<p class="when">novelty {frame.novelty:.2f} when seen{radius}</p>'


def clock(time_ns: int) -> str:
    """
    >>> clock(75_320_000_000), clock(3_600_000_000_000), clock(1_700_000_000_250_000_000)
    ('1:15.32', '1:00:00.00', '2023-11-14 22:13:20.25 UTC')
    """
    hundredths = time_ns // 10_000_000
    seconds, fraction = divmod(hundredths, 100)
    if time_ns >= EPOCH_NS:
        try:
            date = datetime.fromtimestamp(seconds, timezone.utc)
        except (ValueError, OverflowError, OSError):
            return f"{time_ns} ns"
        return f"{date:%Y-%m-%d %H:%M:%S}.{fraction:02d} UTC"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}" if hours else f"{minutes}") + f":{seconds:02d}.{fraction:02d}"


# -- around the frames -------------------------------------------------------------------------------------------------


def over_time(report: Report) -> str:
    """The time line of a spool, or the curve of a picks file."""
    if report.timeline is not None:
        heading = "Novelty against radius"
        lede = (
            "A frame is retained when its novelty lies above a radius still in force. The line is the smallest of them; it "
            "rises whenever the drive proves that the budget cannot cover it more finely. A dot below the line was retained "
            "for a larger radius." + (" With each round it begins anew." if report.round > 1 else "")
        )
        drawing = chart.time_line(report)
    else:
        heading = "What each further frame adds"
        lede = (
            "The distance of each frame from everything picked before it. Where farthest-first picks make a flat curve, a "
            "larger budget hardly makes the cover finer."
        )
        drawing = chart.distance_curve(report)
    return f"{begin_section('time', heading, lede)}{drawing}</section>"


def sources(report: Report) -> str:
    selected = Counter(frame.source for frame in report.selected)
    rows = []
    for source in report.sources:
        rate = "" if source.fps is None else f", {source.fps:g} frames a second"
        end = "" if source.finished or source.kind == "live" else ", not read to its end"
        rows.append(
            (as_text(source.name), f"{selected[source.name]:,}", as_text(source.kind) + rate + end, _code(source.spec))
        )
    return (
        begin_section("sources", "Sources")
        + as_table("Sources", ("source", "selected", "kind", "from"), rows)
        + "</section>"
    )


def lost(report: Report) -> str:
    """Frames that no decision saw, by reason, with the first few of each."""
    if not report.lost:
        return ""
    rows = []
    for reason, n in sorted(report.lost.items(), key=lambda item: (-item[1], item[0])):
        told = [f"{_code(e.id)} {as_text(e.detail)}" for e in report.examples if e.reason == reason]
        if told and n > len(told):
            told.append(f"and {n - len(told):,} more")
        rows.append((as_text(reason), f"{n:,}", f"<ul>{''.join(f'<li>{line}</li>' for line in told)}</ul>"))
    lede = "No decision saw these: they count as seen, and nothing is known of them."
    return (
        begin_section("lost", "Lost frames", lede)
        + as_table("Lost frames", ("reason", "frames", "which"), rows)
        + "</section>"
    )


def others(report: Report, pictures: Iterable[tuple[ShownFrame, Picture]]) -> Iterator[str]:
    """The frames retained but not selected, folded away."""
    if not report.others:
        return
    total = report.counts["retained"] - report.counts["selected"]
    some = f" Shown are the {len(report.others):,} with the largest novelty." if len(report.others) < total else ""
    yield begin_section(
        "others", "Retained, not selected", f"Candidates on disk: they come in when the radius rises.{some}"
    )
    box, pictures = usual_box(pictures)
    yield f'<details><summary>{frames_of(total)}</summary><ul class="others" style="--box:{box:.4f}">'
    for frame, picture in pictures:
        novelty = "seen first" if frame.novelty is None else f"<b>{frame.novelty:.2f}</b>"
        yield (
            f'<li class="frame"><div class="box">{picture_of(frame, picture)}</div>'
            f"<p>{novelty} {as_text(frame.id)}</p></li>\n"
        )
    yield "</ul></details></section>"


def evicted(report: Report) -> str:
    n = report.counts.get("evicted", 0)
    if not n:
        return ""
    lede = (
        f"{frames_of(n)} {'was' if n == 1 else 'were'} retained for a while and gave way when the radius rose. "
        "There are no pictures: the files were removed."
    )
    if len(report.evicted) < n:
        lede += f" Told are the {len(report.evicted):,} that were retained last."
    rows = [
        (
            f"{_code(frame.id)}<br>{_where(frame)}",
            "seen first" if frame.novelty is None else f"{frame.novelty:.2f}",
            "none" if frame.radius is None else f"{frame.radius:.2f}",
            _why_evicted(frame),
        )
        for frame in report.evicted
    ]
    heads = ("frame", "novelty when seen", "radius then", "why it gave way")
    table = as_table("Evicted frames", heads, rows, numbers=(1, 2))
    return (
        f"{begin_section('evicted', 'Evicted', lede)}"
        f'<details class="evicted"><summary>{frames_of(n)}</summary>{table}</details></section>'
    )


def _why_evicted(frame: EvictedFrame) -> str:
    by = _code(frame.evicted_by)
    if frame.cause == "one_too_many":
        return f"{by} was one too many for the last radius that still held it"
    if frame.cause in PRESSURES:
        return f"{PRESSURES[frame.cause]} was reached with {by}, and the smallest radii were given up"
    if frame.cause == "unpinned":
        return "only its pin had held it"
    if frame.cause == "repair":
        return "it was damaged, and the spool was repaired"
    if frame.cause == "round_end":
        return "its round ended, and it was not among the selected"
    if frame.cause == "feature_space_changed":
        return "the vehicle got another bundle, which saw nothing new in it"
    return f"it gave way to {by}; what for is no longer noted"


def end(producer: str) -> str:
    return f"<footer>{escape(producer)}. The page holds all it shows: it can be mailed and kept.</footer></main>"


# -- pieces ------------------------------------------------------------------------------------------------------------


def begin_section(anchor: str, heading: str, lede: str = "") -> str:
    return f'<section id="{anchor}"><h2>{heading}</h2>' + (f'<p class="lede">{lede}</p>' if lede else "")


def as_text(data: str) -> str:
    """A string of the data: harmless, and with a direction of its own, so that it cannot turn what stands around it."""
    return f"<bdi>{escape(data)}</bdi>"


def _code(data: str) -> str:
    return f"<code>{as_text(data)}</code>"


def bullets(sentences: Iterable[str], kind: str) -> str:
    items = "".join(f"<li>{as_text(sentence)}</li>" for sentence in sentences)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def as_table(label: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = (1,)) -> str:
    """Cells are HTML; `numbers` are columns that hold such. Where the table is too wide for the page, it scrolls by itself."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=n' if i in numbers else ''}>{cell}</{tag[:2]}>" for i, cell in enumerate(cells))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
        f"<thead><tr>{line(heads, 'th scope=col')}</tr></thead><tbody>{body}</tbody></table></div>"
    )
