"""A measurement as one SVG file: the stages as bars, and beneath them the sustained rate with the heat."""

from collections.abc import Iterator, Sequence
from html import escape

from geal_edge.runtime.bench import Bench, Point
from geal_edge.runtime.bench.told import last_line

WIDE, BAR, LABEL, EDGE = 900, 26, 110, 70
CURVE = 200
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.dim{fill:#666}.bar{fill:#2b6cb0}.tail{stroke:#2b6cb0;stroke-width:2}"
    ".rate{fill:none;stroke:#2b6cb0;stroke-width:2}.heat{fill:none;stroke:#c05621;stroke-width:2}.axis{stroke:#ccc}"
)


def svg(found: Bench) -> str:
    """The drawing: bars to p50, a line on to p99 with a mark at p95; rate from 0, heat over its own range."""
    parts = [*_stages(found)]
    high = 60 + BAR * len(found.stages)
    if found.sustained and len(found.sustained) > 1:
        parts += _sustained(found.sustained, top=high + 20)
        high += CURVE + 60
    parts.append(_text(10, high + 10, last_line(found)))
    high += 25
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high}" width="{WIDE}" height="{high}" role="img">'
        f'<style>{_STYLE}</style><rect width="{WIDE}" height="{high}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _stages(found: Bench) -> Iterator[str]:
    width, height = found.bundle["size"]
    title = (
        f"{found.bundle['model']} {width}x{height}, {found.bundle['precision']}, {found.machine['backend']}: ms a frame"
    )
    yield _text(10, 22, title)
    scale = (WIDE - LABEL - EDGE) / (max(stage.p99 for stage in found.stages.values()) or 1.0)
    for row, (name, stage) in enumerate(found.stages.items()):
        y = 40 + BAR * row
        middle = y + BAR / 2 - 3
        p50, p95, p99 = (LABEL + scale * value for value in (stage.p50, stage.p95, stage.p99))
        yield _text(10, middle + 5, name)
        yield f'<rect class="bar" x="{LABEL}" y="{y}" width="{p50 - LABEL:.1f}" height="{BAR - 8}"/>'
        yield f'<path class="tail" d="M{p50:.1f} {middle:.1f}H{p99:.1f}M{p95:.1f} {middle - 5:.1f}v10"/>'
        yield _text(p99 + 6, middle + 5, f"{stage.p50:.2f}", dim=True)


def _sustained(points: Sequence[Point], *, top: float) -> Iterator[str]:
    most = max(point.frames_per_s for point in points)
    yield _text(10, top + 10, f"sustained: frames/s (0 to {most:.1f})")
    yield f'<path class="axis" d="M{LABEL} {top + 20 + CURVE}H{WIDE - EDGE}"/>'
    yield _text(WIDE - EDGE + 6, top + 25 + CURVE, f"{points[-1].at_s / 60:.1f} min", dim=True)
    yield _line("rate", points, [point.frames_per_s / most for point in points], top + 20)
    hottest = [max(point.temperatures.values()) for point in points if point.temperatures]
    if len(hottest) == len(points):
        low, span = min(hottest), max(hottest) - min(hottest) or 1.0
        yield _text(WIDE / 2, top + 10, f"hottest sensor ({low:.0f} to {max(hottest):.0f} °C)", dim=True)
        yield _line("heat", points, [(value - low) / span for value in hottest], top + 20)


def _line(kind: str, points: Sequence[Point], shares: Sequence[float], top: float) -> str:
    """A curve of shares in [0, 1] over time."""
    across = (WIDE - EDGE - LABEL) / points[-1].at_s
    places = (
        f"{LABEL + across * p.at_s:.1f},{top + CURVE * (1 - share):.1f}"
        for p, share in zip(points, shares, strict=True)
    )
    return f'<polyline class="{kind}" points="{" ".join(places)}"/>'


def _text(x: float, y: float, words: str, *, dim: bool = False) -> str:
    kind = ' class="dim"' if dim else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}>{escape(words)}</text>'
