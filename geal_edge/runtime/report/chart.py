"""The report's drawings as inline SVG: the region that was new, the time line, and the curve of distances.

A drawing stretches with its box, so lines do not scale with it, dots are lines of no length with round ends, and every
label is HTML above the drawing: it stays readable on a phone.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TypeAlias

from geal_edge.runtime.report.data import Report, ShownFrame

WIDE, HIGH = 1000.0, 300.0
"""The drawings' own units; the box on the page has its own size."""
OUTSET = 0.12
"""Of a patch: the outline stands around what it points at, not on it."""
HEAT_STEPS = 5
HEAT_OPACITY = 0.62
COLOURS = 25
"""Of clusters, as `.c0` to `.c24` in page.html; in frames of more clusters they come again."""
Y_STEP = 0.05
"""Chord between two lines of the grid of a cover curve; such an axis begins where its lines do."""
MANY = 150
"""Dots above which they are drawn smaller."""


# -- the region that was new -------------------------------------------------------------------------------------------


def region(frame: ShownFrame) -> str:
    """What lies over the picture: the witness as an outline, and below it either a heat map of how far each patch's cluster
    was from all frames before, or all knowledge clusters in colours (the paper's Fig. 4); the page's switch shows one of
    the two. Frames are resized to the model's input without keeping their aspect, so the grid stretches over the whole
    picture. Empty where there is nothing to show."""
    rows, columns = frame.grid
    parts = _heat_map(frame.heat, columns) + _cluster_map(frame.clusters, frame.grid)
    if frame.patches:
        outline = outline_of(frame.patches, frame.grid, outset=OUTSET)
        parts += f'<path class="halo" d="{outline}"/><path class="edge" d="{outline}"/>'
    view = f'viewBox="0 0 {columns} {rows}" preserveAspectRatio="none" aria-hidden="true"'
    return f'<svg class="region" {view}>{parts}</svg>' if parts else ""


def _heat_map(heat: Sequence[float], columns: int) -> str:
    """The patches in steps of warmth, from half the farthest distance up; the cool half stays as it is."""
    hottest = max(heat, default=0.0)
    steps: dict[int, str] = {}
    for patch, distance in enumerate(heat):
        step = math.ceil(HEAT_STEPS * (2.0 * distance / hottest - 1.0)) if hottest > 0.0 else 0
        if step > 0:
            row, column = divmod(patch, columns)
            steps[step] = steps.get(step, "") + f"M{column} {row}h1v1h-1z"
    paths = (f'<path opacity="{HEAT_OPACITY * step / HEAT_STEPS:.2f}" d="{d}"/>' for step, d in sorted(steps.items()))
    return f'<g class="heat">{"".join(paths)}</g>' if steps else ""


def _cluster_map(clusters: Sequence[int], grid: tuple[int, int]) -> str:
    """Each knowledge cluster as one shape in a colour of its own; what was distilled away stays plain."""
    patches: dict[int, list[int]] = {}
    for patch, cluster in enumerate(clusters):
        if cluster >= 0:
            patches.setdefault(cluster, []).append(patch)
    paths = (f'<path class="c{c % COLOURS}" d="{outline_of(patches[c], grid)}"/>' for c in sorted(patches))
    return f'<g class="clusters">{"".join(paths)}</g>' if patches else ""


def outline_of(patches: Iterable[int], grid: tuple[int, int], *, outset: float = 0.0) -> str:
    """The border of a set of patches as an SVG path, clockwise around them and counter-clockwise around holes.

    outset  how far outside the border, in patches; not beyond the picture

    >>> outline_of([0, 1, 3], (2, 3))  # two beside each other, one below the first
    'M0 0H2V1H1V2H0Z'
    >>> outline_of([4], (3, 3), outset=0.1)
    'M0.9 0.9H2.1V2.1H0.9Z'
    """
    rows, columns = grid
    inside = {divmod(patch, columns)[::-1] for patch in patches}  # (x, y)
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}  # corner -> corners that a border edge leads to
    for x, y in sorted(inside, key=lambda at: (at[1], at[0])):
        for neighbour, begin, end in (
            ((x, y - 1), (x, y), (x + 1, y)),
            ((x + 1, y), (x + 1, y), (x + 1, y + 1)),
            ((x, y + 1), (x + 1, y + 1), (x, y + 1)),
            ((x - 1, y), (x, y + 1), (x, y)),
        ):
            if neighbour not in inside:
                steps.setdefault(begin, []).append(end)
    path = ""
    while steps:
        loop = [start := next(iter(steps))]
        while True:
            ends = steps[loop[-1]]
            corner = ends.pop()
            if not ends:
                del steps[loop[-1]]
            if corner == start:
                break
            loop.append(corner)
        turns = [b for a, b, c in _neighbours(loop) if (a[0] == b[0]) != (b[0] == c[0])]
        moved = [_moved(*corners, outset, (columns, rows)) for corners in _neighbours(turns)]
        path += f"M{moved[0][0]:g} {moved[0][1]:g}"
        path += "".join(f"H{b[0]:g}" if a[1] == b[1] else f"V{b[1]:g}" for a, b in pairwise(moved)) + "Z"
    return path


Corner: TypeAlias = tuple[int, int]
"""(x, y) in patches."""


def _neighbours(loop: list[Corner]) -> Iterator[tuple[Corner, Corner, Corner]]:
    return zip(loop[-1:] + loop[:-1], loop, loop[1:] + loop[:1], strict=True)


def _moved(before: Corner, corner: Corner, after: Corner, outset: float, size: Corner) -> tuple[float, float]:
    """A corner, pushed away from the patches: on a clockwise border they lie to the right of the way."""
    x, y = map(float, corner)
    for (x0, y0), (x1, y1) in ((before, corner), (corner, after)):
        x, y = x + outset * _sign(y1 - y0), y - outset * _sign(x1 - x0)
    return round(min(max(x, 0), size[0]), 2), round(min(max(y, 0), size[1]), 2)


def _sign(n: int) -> int:
    return (n > 0) - (n < 0)


def whereabouts(patches: Sequence[int], grid: tuple[int, int]) -> str:
    """Where in the picture the patches lie on the whole, for those who hear the page.

    >>> whereabouts([0], (3, 3)), whereabouts([4], (3, 3)), whereabouts([6], (3, 3))
    ('upper left', 'centre', 'lower left')
    """
    rows, columns = grid
    down = sum(patch // columns + 0.5 for patch in patches) / len(patches) / rows
    along = sum(patch % columns + 0.5 for patch in patches) / len(patches) / columns
    vertical = "upper" if down < 1 / 3 else "lower" if down > 2 / 3 else ""
    horizontal = "left" if along < 1 / 3 else "right" if along > 2 / 3 else ""
    if vertical and horizontal:
        return f"{vertical} {horizontal}"
    return {"upper": "top", "lower": "bottom"}.get(vertical, horizontal or "centre")


# -- the time line -----------------------------------------------------------------------------------------------------


def time_line(report: Report) -> str:
    """Novelty against the radius in force over everything seen; empty where nothing was seen."""
    line = report.timeline
    if line is None or not line.buckets:
        return ""
    seen = sum(bucket.frames for bucket in line.buckets)
    selected = _first_of_units(report.selected)
    top = _top([b.novelty for b in line.buckets] + [b.radius for b in line.buckets])
    x, y = _scale(seen), _height(top)

    skyline, radius, lost = f"M0 {HIGH:g}", "", ""
    start, pen_down = 0, False
    for bucket in line.buckets:
        left, right = x(start), x(start + bucket.frames)
        skyline += f"V{y(bucket.novelty or 0.0):g}H{right:g}"
        if bucket.lost < bucket.frames:  # where nothing was judged, the radius stayed what it was
            if bucket.radius is not None:
                radius += f"{'V' if pen_down else f'M{left:g} '}{y(bucket.radius):g}H{right:g}"
            pen_down = bucket.radius is not None
        if bucket.lost:
            lost += f"M{(left + right) / 2:g} {HIGH + 4:g}v12"
        start += bucket.frames
    begins = "".join(
        f"M{x(source.first_seen):g} 0V{HIGH:g}" for source in report.sources[1:] if source.first_seen is not None
    )
    drawing = [
        _grid_lines(top),
        f'<path class="begin" d="{begins}"/>' if begins else "",
        f'<path class="skyline" d="{skyline}V{HIGH:g}Z"/>',
        f'<path class="radius" d="{radius}"/>' if radius else "",
        _dots("retained", _first_of_units(report.others), x, y),
        *(_linked_dot(frame, x, y) for frame in selected if frame.seen_at is not None),
        f'<path class="lost" d="{lost}"/>' if lost else "",
    ]
    stretch = "each frame" if line.width == 1 else f"each stretch of {line.width:,} frames"
    words = (
        f"Largest novelty in {stretch} and the radius in force, over {seen:,} frames seen. "
        f"{len(selected):,} selected {'units' if report.grouped else 'frames'} are marked."
    )
    legend = [
        _key("skyline", f"largest novelty in {stretch}"),
        _key("radius", "radius in force") if radius else "",
        _key("selected", "selected, at its novelty when it was seen"),
        _key("retained", "retained, not selected") if report.others else "",
        _key("begin", "another source begins") if begins else "",
        _key("lost", "frames lost or gated" if report.gated else "frames lost") if lost else "",
    ]
    labels = _y_labels(top) + _x_labels(seen) + _source_labels(report, seen)
    return _chart(drawing, labels, words, legend, "frames seen", dots=len(selected))


def distance_curve(report: Report) -> str:
    """Distance over order: what each further frame adds. The first has none, so there is nothing to draw below two."""
    units = _first_of_units(report.selected)
    frames = units[1:]
    if not frames:
        return ""
    top = _top([frame.distance for frame in frames])
    x, y = _scale(len(units)), _height(top)
    points = [(x((frame.order or 0) - 0.5), y(frame.distance or 0.0)) for frame in frames]
    curve = "M" + "L".join(f"{left:g} {up:g}" for left, up in points)
    area = f"{curve}V{HIGH:g}H{points[0][0]:g}Z"
    drawing = [
        _grid_lines(top),
        f'<path class="skyline" d="{area}"/><path class="radius" d="{curve}"/>',
        *(_linked(frame, left, up) for frame, (left, up) in zip(frames, points, strict=True)),
    ]
    what = "unit" if report.grouped else "frame"
    words = (
        f"Distance of each selected {what} from those before it: {frames[0].distance:.2f} for the second, "
        f"{frames[-1].distance:.2f} for the last of {len(units):,}."
    )
    legend = [_key("selected", f"a selected {what}, at its distance from all before it")]
    labels = _y_labels(top) + _x_labels(len(units), shift=-0.5)
    return _chart(drawing, labels, words, legend, "order", dots=len(frames))


def histogram(counts: Sequence[int], words: str, what: str, x_name: str) -> str:
    """Numbers of frames over equal shares from nothing to all of something; words for those who hear the page."""
    top = max(counts)
    x, y = _scale(len(counts)), _height(top)
    skyline = f"M0 {HIGH:g}" + "".join(f"V{y(n):g}H{x(place + 1):g}" for place, n in enumerate(counts))
    labels = f'<span class="y" style="bottom:0%">0</span><span class="y" style="bottom:100%">{top:,}</span>'
    labels += "".join(f'<span class="x" style="left:{share}%">{share} %</span>' for share in (0, 25, 50, 75, 100))
    drawing = [f'<path class="skyline" d="{skyline}V{HIGH:g}Z"/>']
    return _chart(drawing, labels, words, [_key("skyline", what)], x_name, y_name="frames", dots=0)


# -- what a budget covers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A strategy's cover by budget. kind: a style of its own, `line0` to `line6` in page.html, or `rest` for all that has none;
    points: (budget, median, low, high) by ascending budget."""

    name: str
    kind: str
    points: tuple[tuple[int, float, float, float], ...]


def cover_curves(lines: Sequence[Line], what: str) -> str:
    """Lines over budgets, a step to twice the budget always as wide; the band of the first line of draws lies below them.

    what  the measure in words, for those who hear the page
    """
    budgets = sorted({budget for line in lines for budget, *_ in line.points})
    values = [value for line in lines for _, *spread in line.points for value in spread]
    if len(budgets) < 2 or not values:
        return ""
    low, high = Y_STEP * math.floor(min(values) / Y_STEP), Y_STEP * math.ceil(max(values) / Y_STEP)
    high = max(high, low + 2 * Y_STEP)
    first, last = math.log(budgets[0]), math.log(budgets[-1])

    def along(budget: int) -> float:
        return (math.log(budget) - first) / (last - first)

    def up(value: float) -> float:
        return (value - low) / (high - low)

    def place(budget: int, value: float) -> str:
        return f"{WIDE * along(budget):.2f} {HIGH * (1.0 - up(value)):.2f}"

    ticks = [low + Y_STEP * i for i in range(round((high - low) / Y_STEP) + 1)]
    ticks = ticks[:: math.ceil(len(ticks) / 8)]
    drawing = [
        '<path class="grid" d="' + "".join(f"M0 {HIGH * (1.0 - up(tick)):.2f}H{WIDE:g}" for tick in ticks) + '"/>'
    ]
    for line in lines:
        if line.kind != "rest" and any(lowest < highest for _, _, lowest, highest in line.points):
            there = "L".join(place(budget, lowest) for budget, _, lowest, _ in line.points)
            back = "L".join(place(budget, highest) for budget, _, _, highest in reversed(line.points))
            drawing.append(f'<path class="band {line.kind}" d="M{there}L{back}Z"/>')
    for line in sorted(lines, key=lambda line: line.kind != "rest"):  # those with a style of their own above the rest
        path = "M" + "L".join(place(budget, middle) for budget, middle, *_ in line.points)
        dots = "".join(f"M{place(budget, middle)}h.01" for budget, middle, *_ in line.points)
        drawing.append(
            f'<g class="line {line.kind}"><title>{escape(line.name)}</title><path d="{path}"/><path class="dot" d="{dots}"/></g>'
        )
    labels = "".join(f'<span class="y" style="bottom:{100 * up(tick):.2f}%">{tick:.2f}</span>' for tick in ticks)
    labels += "".join(
        f'<span class="x" style="left:{100 * along(budget):.2f}%">{budget:,}</span>' for budget in budgets
    )
    legend = [_line_key(line.kind, line.name) for line in lines if line.kind != "rest"]
    if len(legend) < len(lines):
        legend.append(_line_key("rest", "all others, named in the table"))
    lead = lines[0]
    words = f"{what} by frames selected. {lead.name}: " + ", ".join(f"{y:.2f} at {x:,}" for x, y, *_ in lead.points)
    return _chart(drawing, labels, words, legend, "frames selected", dots=0)


def _line_key(kind: str, name: str) -> str:
    swatch = f'<g class="line {kind}"><path d="M1 6H23"/></g>'
    return f'<li><svg class="key" viewBox="0 0 24 12" aria-hidden="true">{swatch}</svg>{escape(name)}</li>'


# -- pieces ------------------------------------------------------------------------------------------------------------


def anchor(frame: ShownFrame) -> str:
    """Where on the page a selected frame stands; the first of a unit stands for it."""
    return f"frame-{frame.order}-{frame.place}" if frame.place else f"frame-{frame.order}"


def _first_of_units(frames: Sequence[ShownFrame]) -> list[ShownFrame]:
    """One frame for each unit: all of a unit share what the drawings show."""
    return [frame for frame in frames if frame.place == 0]


def _scale(total: int) -> Callable[[float], float]:
    return lambda value: round(WIDE * value / total, 2)


def _height(top: float) -> Callable[[float], float]:
    return lambda value: round(HIGH * (1.0 - min(value, top) / top), 2)


def _top(values: Iterable[float | None]) -> float:
    """The end of the chord axis: the next quarter above everything drawn."""
    largest = max((value for value in values if value is not None), default=0.0)
    return max(0.5, 0.25 * (int(largest / 0.25) + 1))


def _dots(kind: str, frames: Iterable[ShownFrame], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    at = [(x(f.seen_at), y(f.novelty)) for f in frames if f.seen_at is not None and f.novelty is not None]
    path = "".join(f"M{left:g} {up:g}h.01" for left, up in at)
    return f'<path class="dot {kind}" d="{path}"/>' if path else ""


def _linked_dot(frame: ShownFrame, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """The first frame seen had nothing to be far from: it stands at the top."""
    return _linked(frame, x(frame.seen_at or 0.0), 0.0 if frame.novelty is None else y(frame.novelty))


def _linked(frame: ShownFrame, left: float, up: float) -> str:
    title = escape(f"{frame.order}: {frame.id}")
    return (
        f'<a href="#{anchor(frame)}" tabindex="-1"><path class="dot selected" d="M{left:g} {up:g}h.01"/>'
        f"<title>{title}</title></a>"
    )


def _grid_lines(top: float) -> str:
    return '<path class="grid" d="' + "".join(f"M0 {_height(top)(v):g}H{WIDE:g}" for v in _y_ticks(top)) + '"/>'


def _y_ticks(top: float) -> list[float]:
    step = 0.25 if top <= 1.0 else 0.5
    return [step * i for i in range(int(top / step) + 1)]


def _y_labels(top: float) -> str:
    return "".join(f'<span class="y" style="bottom:{100 * v / top:.2f}%">{v:g}</span>' for v in _y_ticks(top))


def _x_labels(total: int, shift: float = 0.0) -> str:
    """At most seven round numbers; every second one steps back on a narrow page."""
    step = 1
    while total / step > 6:
        step = {1: 2, 2: 5, 5: 10}[step // 10 ** (len(str(step)) - 1)] * 10 ** (len(str(step)) - 1)
    values = [value for value in range(0, total + 1, step) if value + shift >= 0]
    return "".join(
        f'<span class="x{" odd" if i % 2 else ""}" style="left:{100 * (value + shift) / total:.2f}%">{value:,}</span>'
        for i, value in enumerate(values)
    )


def _source_labels(report: Report, seen: int) -> str:
    """Each source's name above its own stretch, where there is room for a few letters of it."""
    begins = [source.first_seen or 0 for source in report.sources] + [seen]
    labels = ""
    for source, begin, end in zip(report.sources, begins, begins[1:], strict=False):
        share = 100 * (end - begin) / seen
        room = "" if share >= 25 else " tight" if share >= 7 else None
        if room is not None:
            labels += (
                f'<span class="of{room}" style="left:{100 * begin / seen:.2f}%;max-width:{share:.2f}%">'
                f"<bdi>{escape(source.name)}</bdi></span>"
            )
    return labels


def _key(kind: str, words: str) -> str:
    return f'<li><svg class="key" viewBox="0 0 24 12" aria-hidden="true">{_SWATCHES[kind]}</svg>{escape(words)}</li>'


_SWATCHES = {
    "skyline": '<path class="skyline" d="M2 12V6H9V2H15V8H22V12Z"/>',
    "radius": '<path class="radius" d="M1 6H23"/>',
    "selected": '<path class="dot selected" d="M12 6h.01"/>',
    "retained": '<path class="dot retained" d="M12 6h.01"/>',
    "begin": '<path class="begin" d="M12 0V12"/>',
    "lost": '<path class="lost" d="M12 2V10"/>',
}


def _chart(
    drawing: Iterable[str],
    labels: str,
    words: str,
    legend: Iterable[str],
    x_name: str,
    *,
    y_name: str = "chord",
    dots: int,
) -> str:
    return (
        f'<figure class="chart{" many" if dots > MANY else ""}"><div class="plot">'
        f'<svg viewBox="0 0 {WIDE:g} {HIGH:g}" preserveAspectRatio="none" role="img" aria-label="{escape(words)}">'
        f'{"".join(drawing)}</svg><div aria-hidden="true"><span class="chord">{y_name}</span>{labels}'
        f'<span class="x-name">{x_name}</span></div></div>'
        f'<figcaption><ul class="legend">{"".join(legend)}</ul></figcaption></figure>'
    )
