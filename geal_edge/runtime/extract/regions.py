"""The witness of a frame in the picture's pixels: a box and an outline around each connected group of its patches.

A frame is resized to the model's input without keeping its aspect, so the grid of patches stretches over the whole picture.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

Corner: TypeAlias = tuple[int, int]
"""(x, y) in patches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One connected group of patches, in pixels from the picture's upper left corner.

    box      (left, top, width, height)
    outline  corners (x, y), clockwise as seen; at least four, the first not repeated
    area     inside the outline. A hole in the group counts as inside: most tools know no polygons with holes
    """

    box: tuple[float, float, float, float]
    outline: tuple[tuple[float, float], ...]
    area: float


def regions_of(patches: Iterable[int], grid: tuple[int, int], size: tuple[int, int]) -> list[Region]:
    """Groups of patches that touch along a side, in the order of their first patches.

    patches  row-major indices on the grid
    grid     (rows, columns)
    size     (width, height) of the picture

    >>> [region] = regions_of([0, 1, 3], (2, 3), (300, 100))  # two beside each other, one below the first
    >>> region.box, region.area
    ((0.0, 0.0, 200.0, 100.0), 15000.0)
    >>> region.outline
    ((0.0, 0.0), (200.0, 0.0), (200.0, 50.0), (100.0, 50.0), (100.0, 100.0), (0.0, 100.0))
    """
    rows, columns = grid
    width, height = size
    regions = []
    for group in _groups(patches, columns):
        outline = _outline(group)
        pixels = tuple((round(x * width / columns, 2), round(y * height / rows, 2)) for x, y in outline)
        xs, ys = [x for x, _ in pixels], [y for _, y in pixels]
        box = (min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2))
        regions.append(Region(box=box, outline=pixels, area=round(_area(pixels), 2)))
    return regions


def _groups(patches: Iterable[int], columns: int) -> list[set[Corner]]:
    left = {divmod(patch, columns)[::-1] for patch in patches}
    groups = []
    for start in sorted(left, key=lambda at: (at[1], at[0])):
        if start not in left:
            continue
        left.discard(start)
        group, edge = {start}, [start]
        while edge:
            x, y = edge.pop()
            found = {(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)} & left
            left -= found
            group |= found
            edge += found
        groups.append(group)
    return groups


def _outline(group: set[Corner]) -> list[Corner]:
    """The outer border, clockwise from the upper left corner of the group's first patch; corners only where it turns.

    The walk keeps the group on its right hand. Where two patches meet only at a corner it turns right, which stays with the
    patch it is at: so one walk goes around the whole group, and never crosses itself.
    """
    start = min(group, key=lambda at: (at[1], at[0]))
    at, heading = start, (1, 0)
    corners: list[Corner] = []
    while True:
        (x, y), (dx, dy) = at, heading
        # The patches to the right and to the left of the step ahead, whose corner `at` is.
        right_ahead = (x + min(dx - dy, 0), y + min(dx + dy, 0))
        left_ahead = (x + min(dx + dy, 0), y + min(dy - dx, 0))
        if right_ahead not in group:
            turn = (-dy, dx)  # right, as y grows downwards
        elif left_ahead in group:
            turn = (dy, -dx)
        else:
            turn = heading
        if turn != heading or not corners:
            corners.append(at)
        heading = turn
        at = (x + turn[0], y + turn[1])
        if at == start and corners:
            break
    return corners


def _area(outline: tuple[tuple[float, float], ...]) -> float:
    ahead = outline[1:] + outline[:1]
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(outline, ahead, strict=True))) / 2.0
