"""The page of a comparison (`geal-edge compare --report`): curves, tables, and what one strategy found and another missed.

It has the look, the switch and the pictures of a report (page.py), holds all that it shows, and needs no script.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import geal_edge
from geal_edge.runtime.compare.comparison import Comparison
from geal_edge.runtime.compare.cover import Spread
from geal_edge.runtime.compare.found import Found, found
from geal_edge.runtime.compare.labels.table import LabelTable
from geal_edge.runtime.compare.table import (
    MEASURES,
    SAME,
    Measure,
    in_what,
    leading,
    plain,
    sentences,
    spread_of,
)
from geal_edge.runtime.distance import chord
from geal_edge.runtime.observer import Observer, Silent
from geal_edge.runtime.report import chart, page, replacing, require_a_file
from geal_edge.runtime.report.data import ShownFrame, heat_of
from geal_edge.runtime.report.pictures import WIDTH, Picture, Pictures, pictures_again, require_pillow
from geal_edge.runtime.report.promise import frames_of

HEADLINE = "What a budget buys"
STYLED = ("geal", "stream-paced", "facility-location", "uniform", "random", "coreset-cosine", "density")
"""Strategies whose curves have a style of their own, `line0` to `line6`; the others are drawn thin."""
RIVALS = ("uniform", "random", "coreset-cosine", "stream-paced")
"""What the leading strategy is shown against, frame by frame."""
MANY = 10.0
"""From here on a value is a count, which has no decimals."""
SHOWN = 6
"""Frames that one found and another missed, each way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What `by` selected and `missed_by` did not, at a budget; at most SHOWN frames, the farthest first."""

    by: str
    missed_by: str
    frames: tuple[ShownFrame, ...]


def write_comparison(
    comparison: Comparison, out: Path, *, labels: LabelTable | None = None, watch: Observer | None = None
) -> None:
    """Write the page to `out`, complete or not at all. A frame whose picture is gone gets a card that says so.

    labels  what was found of what is labelled, if that is known

    Raises MissingDependency without Pillow, UsageError or StorageError where `out` cannot be written.
    """
    require_a_file(out)
    require_pillow()
    watch = watch or Silent()
    budget = comparison.budgets[(len(comparison.budgets) - 1) // 2]
    pairs = list(_pairs(comparison, budget))
    shown = [frame for pair in pairs for frame in pair.frames]
    pictures = pictures_again(shown, comparison.sources, WIDTH, watch)
    before, after = page.around(f"{HEADLINE}: {len(comparison.pool.frames):,} frames")
    with replacing(out) as file:
        file.write(before)
        file.write(_top(comparison, labelled=labels is not None, found_any=bool(pairs)))
        file.write(_curves(comparison))
        file.write(_tables(comparison))
        if labels is not None:
            file.write(_labels(comparison, labels))
        file.writelines(_found(pairs, pictures, budget))
        file.write(_sources(comparison))
        file.write(page.end(f"geal-edge {geal_edge.__version__}"))
        file.write(after)


def _top(comparison: Comparison, *, labelled: bool, found_any: bool) -> str:
    links = {"curves": "Curves", "tables": "Tables"}
    links |= ({"labels": "Labels"} if labelled else {}) | ({"found": "Found"} if found_any else {})
    navigation = "".join(f'<a href="#{to}">{words}</a>' for to, words in (links | {"sources": "Sources"}).items())
    told = list(sentences(comparison))
    cut = '<p class="warning"><strong>Stopped early.</strong> Only what was worked out by then is here.</p>'
    return (
        f'<a class="skip" href="#curves">To the curves</a>'
        f'<div class="bar"><div><strong aria-hidden="true">{HEADLINE}</strong>'
        f'{page.over_switch() if found_any else ""}<nav aria-label="On this page">{navigation}</nav></div></div>'
        f'<main><header class="top">'
        + (f'<p class="warning">{page.UNTRAINED}</p>' if comparison.untrained else "")
        + (cut if comparison.cut else "")
        + f'<h1>{HEADLINE}</h1><p class="dek">{escape(in_what(comparison))}</p>'
        + "".join(f'<div class="promise"><p>{escape(sentence)}</p></div>' for sentence in told[:1])
        + page.bullets(told[1:], "notes")
        + page.made(
            {
                "bundle": comparison.bundle_digest.removeprefix("sha256:")[:12],
                "feature space": comparison.feature_space,
                "weights": "untrained" if comparison.untrained else "",
                "made by": f"geal-edge {geal_edge.__version__}",
            }
        )
        + "</header>"
    )


# -- numbers -----------------------------------------------------------------------------------------------------------


def _curves(comparison: Comparison) -> str:
    lede = (
        "How far the clusters seen lie from what was selected, in chords: lower is better. The radius is the farthest cluster of "
        "all, which farthest-first selection is made for; the mean is about what is usual. Bands are 10th to 90th percentile of "
        "several draws. Budgets grow to the right, and every doubling is a step of the same width."
    )
    if len(comparison.budgets) < 2:
        lede = "One budget makes no curve: its numbers are in the tables."
        return f"{page.begin_section('curves', 'What a budget covers', lede)}</section>"
    told = page.begin_section("curves", "What a budget covers", lede)
    for measure, words in MEASURES.items():
        lines = _lines(comparison, measure)
        told += f"<h3>{words[0].upper()}{words[1:]}</h3>{chart.cover_curves(lines, words)}"
    return told + "</section>"


def _lines(comparison: Comparison, measure: Measure) -> list[chart.Line]:
    """Those with a style first, in the order of STYLED, then the rest; what is swept is among the rest."""
    lines = []
    for compared in comparison.compared:
        spreads = [(budget, spread_of(compared, budget, measure)) for budget in comparison.budgets]
        points = tuple((budget, s.median, s.p10, s.p90) for budget, s in spreads if s is not None)
        kind = f"line{STYLED.index(compared.name)}" if compared.name in STYLED else "rest"
        lines.append(chart.Line(name=compared.name, kind=kind, points=points))
    return sorted(lines, key=lambda line: line.kind)


def _tables(comparison: Comparison) -> str:
    lede = "Smaller is better; the smallest of each budget is marked. Below a median of draws, their 10th and 90th percentile."
    told = page.begin_section("tables", "Side by side", lede)
    heads = ("strategy", *(frames_of(budget) for budget in comparison.budgets))
    numbers = range(1, len(comparison.budgets) + 1)
    for measure, words in MEASURES.items():
        table = page.as_table(words, heads, _rows(comparison, measure), numbers=numbers)
        told += f"<h3>{words[0].upper()}{words[1:]}</h3>{table}"
    named = [(page.as_text(compared.name), escape(compared.words)) for compared in plain(comparison)]
    table = page.as_table("The strategies", ("strategy", "what it is"), named, numbers=())
    return f"{told}<h3>The strategies</h3>{table}</section>"


def _rows(comparison: Comparison, measure: Measure) -> Iterator[Sequence[str]]:
    best = {
        budget: min((s.median for c in comparison.compared if (s := spread_of(c, budget, measure))), default=0.0)
        for budget in comparison.budgets
    }
    for compared in comparison.compared:
        cells = (_cell(spread_of(compared, budget, measure), best[budget]) for budget in comparison.budgets)
        yield page.as_text(compared.name), *cells


def _cell(spread: Spread | None, best: float) -> str:
    """A median, marked where it is the best one, over its 10th and 90th percentile."""
    if spread is None:
        return "not done"
    form = "{:,.0f}" if spread.p90 > MANY else "{:.3f}"
    median, low, high = (form.format(value) for value in (spread.median, spread.p10, spread.p90))
    marked = f"<b>{median}</b>" if abs(spread.median - best) <= SAME else median
    return marked if low == high else f"{marked}<small>{low} to {high}</small>"


LABEL_COLUMNS = {
    "rare_area": "Share of the rarest classes' pixels found",
    "rare_instances": "Share of the rarest classes' instances found",
    "instances": "Instances",
    "knn": "Probe: nearest neighbours, on frames held out",
    "logistic": "Probe: logistic regression, on frames held out",
}
"""What is told of the labels, of what there is."""


def _labels(comparison: Comparison, labels: LabelTable) -> str:
    """A table for each thing measured by labels, as those of covers; here larger is better."""
    rare = escape(", ".join(labels.rare))
    lede = (
        f"{labels.labelled:,} of {frames_of(labels.frames)} are labelled; the rarest classes: {rare}. "
        "Larger is better; the largest of each budget is marked."
    )
    told = page.begin_section("labels", "What the labels say", lede)
    results = labels.as_dict()["results"]
    heads = ("strategy", *(frames_of(budget) for budget in comparison.budgets))
    budgets = [str(budget) for budget in comparison.budgets]
    for column, words in LABEL_COLUMNS.items():
        by_name = {
            name: {budget: Spread(**columns[column]) for budget, columns in by_budget.items() if column in columns}
            for name, by_budget in results.items()
        }
        best = {b: max((s[b].median for s in by_name.values() if b in s), default=0.0) for b in budgets}
        rows = [
            (page.as_text(name), *(_cell(spreads.get(b), best[b]) for b in budgets))
            for name, spreads in by_name.items()
        ]
        if any(by_name.values()):
            table = page.as_table(words, heads, rows, numbers=range(1, len(budgets) + 1))
            told += f"<h3>{escape(words)}</h3>{table}"
    return told + "</section>"


# -- what one found and another missed ---------------------------------------------------------------------------------


def _pairs(comparison: Comparison, budget: int) -> Iterator[Pair]:
    """The leading strategy's first draw against each rival's, both ways."""
    orders = {c.name: c.draws[0].orders.get(budget) for c in plain(comparison)}
    lead = leading(comparison).name
    for rival in RIVALS:
        ours, theirs = orders.get(lead), orders.get(rival)
        if rival != lead and ours and theirs:
            yield _pair(comparison, lead, rival, found(comparison.pool, ours, theirs, at_most=SHOWN))
            yield _pair(comparison, rival, lead, found(comparison.pool, theirs, ours, at_most=SHOWN))


def _pair(comparison: Comparison, by: str, missed_by: str, told: Iterable[Found]) -> Pair:
    return Pair(by=by, missed_by=missed_by, frames=tuple(_shown(comparison, each) for each in told))


def _shown(comparison: Comparison, each: Found) -> ShownFrame:
    frame, pick = comparison.pool.frames[each.frame], each.pick
    patch_cluster = frame.clusters.patch_cluster.tolist()
    return ShownFrame(
        order=None,
        place=0,
        id=frame.id,
        source=frame.source,
        frame_index=frame.frame_index,
        capture_time_ns=frame.capture_time_ns,
        distance=chord(pick.squared),
        novelty=None,
        radius=None,
        patches=() if pick.witness is None else tuple(frame.clusters.patches_of(pick.witness)),
        heat=heat_of([chord(squared) for squared in pick.row_squared], patch_cluster),
        clusters=tuple(patch_cluster),
        grid=comparison.grid,
        seen_at=None,
        file=None,
        sha256=frame.digest,
    )


def _found(pairs: Sequence[Pair], pictures: Pictures, budget: int) -> Iterator[str]:
    if not pairs:
        return
    lede = (
        f"At {frames_of(budget)} each: the frames of one selection that lie farthest from all of the other. The number is "
        "the chord to the other selection, and to the frames shown before; the outline is the knowledge cluster that lies so far."
    )
    yield page.begin_section("found", "What one found and another missed", lede)
    for number in range(0, len(pairs), 2):
        there, back = pairs[number], pairs[number + 1]
        yield f"<details{'' if number else ' open'}><summary>{escape(there.by)} beside {escape(there.missed_by)}</summary>"
        for pair in (there, back):
            yield f"<h3>{escape(pair.by)} found, {escape(pair.missed_by)} missed</h3>"
            yield from _cards([(frame, pictures(frame)) for frame in pair.frames])
        yield "</details>"
    yield "</section>"


def _cards(shown: Sequence[tuple[ShownFrame, Picture]]) -> Iterator[str]:
    if not shown:
        yield '<p class="lede">Nothing: the other selection has the same frames.</p>'
        return
    box, cards = page.usual_box(shown)
    yield f'<ul class="pairs" style="--box:{box:.4f}">'
    for frame, picture in cards:
        yield (
            f'<li class="frame"><div class="box">{page.picture_of(frame, picture)}</div>'
            f"<p><b>{frame.distance or 0.0:.2f}</b> {page.as_text(frame.id)}</p></li>\n"
        )
    yield "</ul>"


def _sources(comparison: Comparison) -> str:
    judged: dict[str, int] = {}
    for frame in comparison.pool.frames:
        judged[frame.source] = judged.get(frame.source, 0) + 1
    rows = [
        (page.as_text(source.name), f"{judged.get(source.name, 0):,}", page.as_text(_kind(source.kind, source.fps)))
        for source in comparison.sources
    ]
    table = page.as_table("Sources", ("source", "frames judged", "kind"), rows)
    return f"{page.begin_section('sources', 'Sources')}{table}</section>"


def _kind(kind: str, fps: float | None) -> str:
    return kind if fps is None else f"{kind}, {fps:g} frames a second"
