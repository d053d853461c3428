"""A comparison in words: sentences, tables of plain text, and its machine form."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeAlias, get_args

import geal_edge
from geal_edge.runtime.compare.comparison import Compared, Comparison
from geal_edge.runtime.compare.cover import Spread, spread
from geal_edge.runtime.compare.strategies import RECIPE

SCHEMA = "geal-edge/comparison/1"

Measure: TypeAlias = Literal["radius", "mean", "p95"]
MEASURES: dict[Measure, str] = {"radius": "cover radius", "mean": "mean cover", "p95": "95th percentile of cover"}
SAME = 1e-9
"""Covers nearer than this are one and the same."""


def values(compared: Compared, budget: int, measure: Measure) -> list[float]:
    """One for each draw that is worked out."""
    return [getattr(cover, measure) for cover in compared.covers(budget)]


def spread_of(compared: Compared, budget: int, measure: Measure) -> Spread | None:
    """Over the draws; None where nothing is worked out."""
    found = values(compared, budget, measure)
    return spread(found) if found else None


def leading(comparison: Comparison) -> Compared:
    """The strategy that the sentences speak of: the first, which is `geal` where that is compared."""
    return comparison.compared[0]


# -- sentences ---------------------------------------------------------------------------------------------------------


def sentences(comparison: Comparison) -> Iterator[str]:
    """What the numbers say: what a budget buys and the next one would, who is best, and what the first image matters."""
    if bought := _bought(comparison):
        yield bought
    for budget in comparison.budgets:
        if verdict := _verdict(comparison, budget):
            yield verdict
    if moved := _first_image(comparison):
        yield moved


def _bought(comparison: Comparison) -> str:
    lead = leading(comparison)
    told = [
        (budget, radius.median, mean.median)
        for budget in comparison.budgets
        if (radius := spread_of(lead, budget, "radius")) and (mean := spread_of(lead, budget, "mean"))
    ]
    if not told:
        return ""
    (budget, radius_, mean_), *rest = told
    parts = [
        f"With {lead.name}, {_frames(budget)} cover everything seen to within chord {radius_:.2f}, on average to {mean_:.2f}"
    ]
    parts += [f"{more:,} would to within {radius:.2f}, on average to {mean:.2f}" for more, radius, mean in rest]
    return "; ".join(parts) + "."


def _verdict(comparison: Comparison, budget: int) -> str:
    """Who is best at a budget, and the place of the leading strategy; nothing where it has no rival there."""
    lead = leading(comparison)
    parts = []
    for measure in ("radius", "mean"):
        medians = {c.name: s.median for c in plain(comparison) if (s := spread_of(c, budget, measure))}
        if len(medians) < 2 or lead.name not in medians:
            return ""
        best = min(medians, key=lambda name: medians[name])
        place = 1 + sum(value < medians[lead.name] - SAME for value in medians.values())
        where = (
            f"{lead.name} has the smallest {MEASURES[measure]} ({medians[lead.name]:.2f})"
            if place == 1
            else f"{best} has the smallest {MEASURES[measure]} ({medians[best]:.2f}), {lead.name} comes {ordinal(place)} of "
            f"{len(medians)} ({medians[lead.name]:.2f})"
        )
        parts.append(where)
    return f"At {_frames(budget)}, {'; '.join(parts)}."


def _first_image(comparison: Comparison) -> str:
    """ "The initial image hardly matters" is a claim of the paper."""
    lead = leading(comparison)
    if len(lead.draws) < 2:
        return ""
    parts = []
    for budget in comparison.budgets:
        radii, means = values(lead, budget, "radius"), values(lead, budget, "mean")
        if len(radii) > 1:
            parts.append(f"{_share(radii)} of the radius and {_share(means)} of the mean at {budget:,}")
    return (
        f"{len(lead.draws)} drawn first images move {lead.name} by {', '.join(parts)}: largest less smallest over the median."
        if parts
        else ""
    )


def _share(found: Sequence[float]) -> str:
    middle = spread(found).median
    return f"{100 * (max(found) - min(found)) / middle:.1f} %" if middle > 0.0 else "nothing"


def ordinal(n: int) -> str:
    """
    >>> [ordinal(n) for n in (1, 2, 3, 4, 11, 22)]
    ['1st', '2nd', '3rd', '4th', '11th', '22nd']
    """
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def plain(comparison: Comparison) -> list[Compared]:
    """Without what is swept."""
    return [compared for compared in comparison.compared if not compared.settings]


def swept(comparison: Comparison) -> list[Compared]:
    return [compared for compared in comparison.compared if compared.settings]


def in_what(comparison: Comparison) -> str:
    """What was measured, and where."""
    counted = sum(len(frame.clusters.rows) for frame in comparison.pool.frames)
    sources, lost = len(comparison.sources), sum(comparison.pool.lost.values())
    return (
        f"{_frames(len(comparison.pool.frames))} of {sources} source{'s' * (sources != 1)}{f' ({lost:,} lost)' if lost else ''}, "
        f"one pool in capture order. Chord (0 to 2) from each of their {counted:,} knowledge clusters to the nearest one of a "
        f"selected frame; all strategies in {comparison.feature_space}, attention_ratio {RECIPE.attention_ratio:g}, "
        f"{RECIPE.clusters_per_frame} clusters a frame."
    )


def _frames(n: int) -> str:
    return f"{n:,} frame{'s' * (n != 1)}"


# -- tables ------------------------------------------------------------------------------------------------------------


def tables(comparison: Comparison) -> Iterator[str]:
    """A line each: for every measure a table of strategies by budgets, median and where there are draws p10 to p90."""
    width = max(len(compared.name) for compared in comparison.compared)
    for measure, words in MEASURES.items():
        yield ""
        yield f"{words}, by frames selected (smaller is better; * the smallest)"
        yield " " * (width + 2) + "".join(f"{budget:<25,}" for budget in comparison.budgets).rstrip()
        best = {
            budget: min((s.median for c in comparison.compared if (s := spread_of(c, budget, measure))), default=0.0)
            for budget in comparison.budgets
        }
        for compared in comparison.compared:
            cells = "".join(
                f"{_cell(spread_of(compared, budget, measure), best[budget]):<25}" for budget in comparison.budgets
            )
            yield f"{compared.name:<{width}}  {cells}".rstrip()


def _cell(found: Spread | None, best: float) -> str:
    """
    >>> _cell(Spread(median=0.5, p10=0.4, p90=0.6), 0.3), _cell(Spread(median=0.5, p10=0.5, p90=0.5), 0.5), _cell(None, 0.0)
    ('0.500 (0.400 to 0.600)', '0.500*', 'not done')
    """
    if found is None:
        return "not done"
    text = f"{found.median:.3f}" + "*" * (found.median <= best + SAME)
    return text if found.p10 == found.p90 else f"{text} ({found.p10:.3f} to {found.p90:.3f})"


# -- the machine form --------------------------------------------------------------------------------------------------


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """docs/formats.md, "Comparison"."""
    return {
        "schema": SCHEMA,
        "producer": f"geal-edge {geal_edge.__version__}",
        "bundle": comparison.bundle_digest,
        "feature_space": comparison.feature_space,
        "untrained": comparison.untrained,
        "clusters": RECIPE.as_dict(),
        "sources": [{"name": s.name, "spec": s.spec, "kind": s.kind, "fps": s.fps} for s in comparison.sources],
        "frames": {
            "judged": len(comparison.pool.frames),
            "lost": sum(comparison.pool.lost.values()),
            "clusters": sum(len(frame.clusters.rows) for frame in comparison.pool.frames),
        },
        "budgets": list(comparison.budgets),
        "cut": comparison.cut,
        "sentences": list(sentences(comparison)),
        "strategies": [
            {
                "name": compared.name,
                "words": compared.words,
                "settings": compared.settings,
                "draws": len(compared.draws),
                "covers": {
                    str(budget): {
                        measure: asdict(found)
                        for measure in get_args(Measure)
                        if (found := spread_of(compared, budget, measure))
                    }
                    for budget in comparison.budgets
                    if compared.covers(budget)
                },
            }
            for compared in comparison.compared
        ],
        "seconds": {"run": comparison.run_s, "stored": comparison.stored_s},
    }
