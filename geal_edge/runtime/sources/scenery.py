"""The pictures of the drawn drive: a country road seen from a car, and what may happen on it.

Everything stands in metres on a flat world: `across` from the centre line to the right, `up` from the road, `ahead` from
the camera. Coordinates are rounded to whole pixels before they are drawn and pixels are computed with +, -, * and /
only, so that a seed gives the same picture on every machine.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from geal_edge.errors import missing_library
from geal_edge.runtime.frame import Image

if TYPE_CHECKING:
    from PIL import ImageDraw

Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float, float]
"""(across, up, ahead) in metres."""

WIDTH, HEIGHT = 480, 270
HORIZON = 112
FOCAL = 340.0
CAMERA_UP = 1.5
CAMERA_ACROSS = 1.85  # the middle of the right lane: this country drives on the right
METRES_PER_FRAME = 4.3
LANE = 3.7
ROAD_HALF_WIDTH = 3.95
VIEW = 150.0  # metres; beyond it nothing stands at the roadside

GRAIN = 4  # of 255: the camera's noise

GRASS, TARMAC, KERB, MARK = range(4)
TONES = 64
STUFFS = (((92, 122, 58), 1.6), ((98, 99, 103), 0.6), ((110, 108, 104), 0.6), ((238, 238, 232), 0.0))
"""Of the ground, in the order of the names above: colour, and how much its texture shows."""

WHITE, BLACK, RED, YELLOW = (238, 238, 232), (24, 24, 26), (196, 24, 28), (244, 200, 40)


class Pen:
    """Draws in metres on one picture."""

    def __init__(self, draw: "ImageDraw.ImageDraw", bend: float, step: int, progress: float) -> None:
        self.draw = draw
        self.bend = bend
        self.step = step  # frame index: legs walk and lamps flash by it
        self.progress = progress  # of the event, 0.0 in its first frame to 1.0 in its last

    def pixel(self, point: Point) -> tuple[int, int]:
        across, up, ahead = point
        x = WIDTH / 2 + FOCAL * ((across - CAMERA_ACROSS) / ahead + self.bend * ahead / 2)
        return math.floor(x + 0.5), math.floor(HORIZON + FOCAL * (CAMERA_UP - up) / ahead + 0.5)

    def shape(self, points: list[Point], colour: Colour) -> None:
        self.draw.polygon([self.pixel(point) for point in points], fill=colour)

    def box(self, left: float, bottom: float, right: float, top: float, ahead: float, colour: Colour) -> None:
        """An upright rectangle that faces the camera; never thinner than a pixel."""
        x0, y1 = self.pixel((left, bottom, ahead))
        x1, y0 = self.pixel((right, top, ahead))
        self.draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), fill=colour)

    def disc(self, across: float, up: float, ahead: float, wide: float, high: float, colour: Colour) -> None:
        """An ellipse `wide` x `high` metres around a point."""
        x0, y1 = self.pixel((across - wide / 2, up - high / 2, ahead))
        x1, y0 = self.pixel((across + wide / 2, up + high / 2, ahead))
        self.draw.ellipse((x0, y0, max(x0, x1), max(y0, y1)), fill=colour)

    def bar(self, start: Point, end: Point, thick: float, colour: Colour) -> None:
        wide = max(1, math.floor(thick * FOCAL / start[2] + 0.5))
        self.draw.line([self.pixel(start), self.pixel(end)], fill=colour, width=wide)

    def on_road(self, left: float, right: float, near: float, far: float, colour: Colour) -> None:
        """A patch that lies flat on the ground."""
        near = max(near, 2.5)
        if far > near:
            self.shape([(left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)], colour)

    def between(self, first: float, last: float) -> float:
        """From `first` to `last` as the event goes by."""
        return first + (last - first) * self.progress

    def shadow(self, across: float, ahead: float, wide: float) -> None:
        self.disc(across, 0.02, ahead, wide, wide * 0.16, (40, 42, 44))


# What may happen. Each painter gets the pen after the road is drawn; far things first, near things last.


def pedestrian_crossing(pen: Pen) -> None:
    ahead = pen.between(19.0, 8.5)
    for stripe in range(8):
        left = -ROAD_HALF_WIDTH + 0.3 + stripe * 1.0
        pen.on_road(left, left + 0.52, ahead - 1.6, ahead + 1.6, WHITE)
    for start, coat, trousers in ((4.2, (178, 34, 92), (38, 44, 74)), (5.4, (52, 120, 196), (70, 62, 52))):
        across = start - pen.between(0.6, 4.6)
        stride = 0.28 if pen.step % 2 else -0.18
        pen.shadow(across, ahead, 0.9)
        for foot in (stride, -stride):
            pen.bar((across, 0.85, ahead), (across + foot, 0.0, ahead), 0.17, trousers)
        pen.box(across - 0.25, 0.78, across + 0.25, 1.45, ahead, coat)
        pen.bar((across, 1.38, ahead), (across - stride * 1.3, 0.85, ahead), 0.12, coat)
        pen.disc(across, 1.62, ahead, 0.27, 0.32, (214, 168, 138))
        pen.disc(across + 0.02, 1.72, ahead, 0.28, 0.18, (66, 44, 30))
    for post in (-4.6, 4.6):
        pen.box(post - 0.05, 0.0, post + 0.05, 2.4, ahead, (90, 92, 96))
        pen.box(post - 0.38, 2.1, post + 0.38, 2.9, ahead, (28, 84, 186))
        pen.shape([(post - 0.26, 2.2, ahead), (post + 0.26, 2.2, ahead), (post, 2.78, ahead)], WHITE)


def deer_on_road(pen: Pen) -> None:
    ahead = pen.between(21.0, 9.0)
    coat, dark, pale = (146, 96, 52), (96, 60, 32), (214, 190, 158)
    across = pen.between(4.2, 0.4)
    pen.shadow(across, ahead, 1.9)
    gait = 0.16 if pen.step % 2 else -0.10
    for leg in (-0.52, -0.36, 0.44, 0.60):
        pen.bar((across + leg, 0.75, ahead), (across + leg + gait, 0.0, ahead), 0.10, dark)
        gait = -gait
    pen.disc(across, 0.98, ahead, 1.55, 0.68, coat)
    pen.disc(across + 0.72, 1.05, ahead, 0.26, 0.34, pale)  # the tail's mirror
    pen.shape(
        [(across - 0.78, 0.9, ahead), (across - 0.40, 1.15, ahead), (across - 0.80, 1.75, ahead)]
        + [(across - 1.02, 1.62, ahead)],
        coat,
    )
    pen.disc(across - 1.03, 1.72, ahead, 0.56, 0.26, coat)
    pen.disc(across - 1.26, 1.67, ahead, 0.16, 0.14, dark)
    for tip in (-0.34, 0.16):
        root, fork = (across - 0.92, 1.80, ahead), (across - 0.92 + tip, 2.28, ahead)
        pen.bar(root, fork, 0.06, (92, 74, 52))
        pen.bar(fork, (across - 0.92 + tip * 1.2, 2.62, ahead), 0.06, (92, 74, 52))
        pen.bar(fork, (across - 1.20 + tip, 2.46, ahead), 0.05, (92, 74, 52))


def red_lorry(pen: Pen) -> None:
    ahead = pen.between(21.0, 11.0)
    middle = CAMERA_ACROSS
    pen.shadow(middle, ahead, 3.1)
    for wheel in (-0.95, 0.95):
        pen.box(middle + wheel - 0.27, 0.0, middle + wheel + 0.27, 0.9, ahead, BLACK)
    pen.box(middle - 1.28, 0.75, middle + 1.28, 3.75, ahead, RED)
    pen.box(middle - 1.28, 3.62, middle + 1.28, 3.78, ahead, (232, 226, 218))
    for edge in (-1.28, -0.03, 1.20):
        pen.box(middle + edge, 0.8, middle + edge + 0.07, 3.62, ahead, (132, 12, 18))
    for lock in (-0.42, 0.36):
        pen.box(middle + lock, 0.9, middle + lock + 0.07, 3.5, ahead, (222, 222, 220))
    pen.box(middle - 1.05, 2.3, middle - 0.55, 2.9, ahead, YELLOW)
    pen.box(middle - 1.28, 0.5, middle + 1.28, 0.78, ahead, (52, 52, 56))
    pen.box(middle - 0.28, 0.54, middle + 0.28, 0.70, ahead, WHITE)
    lamp = (255, 74, 58) if pen.step % 3 else (170, 20, 24)
    for side in (-1.22, 0.90):
        pen.box(middle + side, 0.54, middle + side + 0.32, 0.74, ahead, lamp)


def roadworks(pen: Pen) -> None:
    offset = 5.0 - (pen.step * METRES_PER_FRAME) % 5.0
    digger = pen.between(34.0, 15.0)
    yellow, dark = (240, 176, 20), (52, 48, 44)
    pen.box(4.6, 0.0, 8.0, 0.75, digger, dark)
    pen.box(4.7, 0.75, 7.6, 1.7, digger, yellow)
    pen.box(5.5, 1.6, 7.2, 3.1, digger, yellow)
    pen.box(5.7, 1.9, 6.7, 2.85, digger, (150, 190, 206))
    pen.bar((5.2, 1.5, digger), (3.9, 4.3, digger), 0.42, yellow)
    pen.bar((3.9, 4.3, digger), (2.9, 1.9, digger), 0.34, yellow)
    pen.shape([(2.5, 1.9, digger), (3.3, 2.0, digger), (3.2, 1.2, digger), (2.6, 1.2, digger)], dark)
    for number in range(7, -1, -1):
        ahead = offset + 3.0 + number * 5.0
        across = 3.5 - 1.5 * min(1.0, max(0.0, (ahead - 5.0) / 26.0))
        pen.box(across - 0.32, 0.0, across + 0.32, 0.07, ahead, (70, 48, 36))
        cone = [(across - 0.24, 0.06, ahead), (across + 0.24, 0.06, ahead), (across, 0.98, ahead)]
        pen.shape(cone, (240, 92, 20))
        pen.box(across - 0.13, 0.38, across + 0.14, 0.56, ahead, WHITE)
    sign = pen.between(24.0, 7.5)
    pen.box(4.55, 0.0, 4.65, 1.2, sign, (80, 80, 84))
    pen.shape([(3.85, 1.1, sign), (5.35, 1.1, sign), (4.6, 2.45, sign)], RED)
    pen.shape([(4.10, 1.24, sign), (5.10, 1.24, sign), (4.6, 2.16, sign)], (250, 228, 120))
    pen.disc(4.66, 1.78, sign, 0.16, 0.18, BLACK)
    pen.bar((4.64, 1.68, sign), (4.52, 1.32, sign), 0.11, BLACK)
    pen.bar((4.62, 1.60, sign), (4.86, 1.34, sign), 0.06, BLACK)


def fire_engine(pen: Pen) -> None:
    ahead = pen.between(36.0, 9.0)
    middle = -CAMERA_ACROSS
    pen.shadow(middle, ahead, 3.2)
    for wheel in (-1.0, 1.0):
        pen.box(middle + wheel - 0.26, 0.0, middle + wheel + 0.26, 0.85, ahead, BLACK)
    pen.box(middle - 1.3, 0.55, middle + 1.3, 3.1, ahead, (214, 18, 22))
    pen.box(middle - 1.3, 0.95, middle + 1.3, 1.25, ahead, (240, 236, 60))
    pen.box(middle - 1.12, 1.75, middle + 1.12, 2.72, ahead, (44, 62, 78))
    pen.shape(
        [(middle - 1.0, 1.8, ahead), (middle - 0.6, 1.8, ahead), (middle - 0.1, 2.68, ahead)]
        + [(middle - 0.5, 2.68, ahead)],
        (112, 140, 156),
    )
    pen.box(middle - 0.75, 1.30, middle + 0.75, 1.66, ahead, WHITE)
    pen.box(middle - 1.3, 0.40, middle + 1.3, 0.62, ahead, (226, 226, 226))
    pen.box(middle - 0.9, 3.1, middle + 0.9, 3.22, ahead, (190, 190, 194))
    for side, lit in ((-0.95, pen.step % 2 == 0), (0.95, pen.step % 2 == 1)):
        pen.disc(middle + side, 3.35, ahead, 0.95 if lit else 0.45, 0.75 if lit else 0.36, (40, 90, 255))
        if lit:
            pen.disc(middle + side, 3.35, ahead, 0.42, 0.36, (190, 220, 255))
    for side in (-0.98, 0.98):
        pen.disc(middle + side, 0.80, ahead, 0.5, 0.4, (255, 250, 214))


def cyclist(pen: Pen) -> None:
    ahead = pen.between(15.0, 7.0)
    middle = 2.75 + (0.08 if pen.step % 2 else -0.05)
    pen.shadow(middle, ahead, 0.8)
    pen.disc(middle, 0.36, ahead, 0.10, 0.72, BLACK)
    pen.box(middle - 0.07, 0.70, middle + 0.07, 0.95, ahead, (180, 30, 36))
    lift = 0.16 if pen.step % 2 else 0.0
    for side, knee in ((-0.16, lift), (0.16, 0.16 - lift)):
        pen.bar((middle + side * 0.7, 1.0, ahead), (middle + side, 0.22 + knee, ahead), 0.15, (40, 44, 60))
    pen.bar((middle - 0.36, 1.12, ahead), (middle + 0.36, 1.12, ahead), 0.07, (60, 60, 64))
    pen.shape(
        [(middle - 0.20, 0.92, ahead), (middle + 0.20, 0.92, ahead), (middle + 0.28, 1.52, ahead)]
        + [(middle - 0.28, 1.52, ahead)],
        (214, 244, 30),
    )
    pen.box(middle - 0.25, 1.14, middle + 0.25, 1.24, ahead, (226, 230, 232))
    for side in (-0.30, 0.30):
        pen.bar((middle + side * 0.9, 1.46, ahead), (middle + side * 1.15, 1.10, ahead), 0.12, (214, 244, 30))
    pen.disc(middle, 1.70, ahead, 0.30, 0.34, (206, 160, 130))
    pen.disc(middle, 1.78, ahead, 0.36, 0.26, (230, 232, 236))
    pen.disc(middle, 0.78, ahead, 0.13, 0.13, (255, 40, 40))


def bridge(pen: Pen) -> None:
    ahead = pen.between(52.0, 17.0)
    stone, dark, pale = (150, 144, 134), (96, 92, 88), (184, 178, 168)
    for side in (-1.0, 1.0):
        slope = [(side * 60.0, 0.0, ahead), (side * 60.0, 5.6, ahead), (side * 6.2, 5.6, ahead)]
        pen.shape([*slope, (side * 5.2, 0.0, ahead)], (84, 104, 58))
    for side in (-5.6, 5.6):
        pen.box(side - 0.7, 0.0, side + 0.7, 5.2, ahead, stone)
        pen.box(side - 0.7, 0.0, side - 0.2, 5.2, ahead, pale)
    pen.box(-60.0, 5.0, 60.0, 6.5, ahead, stone)
    pen.box(-60.0, 5.0, 60.0, 5.35, ahead, dark)
    pen.box(-60.0, 6.4, 60.0, 6.6, ahead, pale)
    for rail in range(-60, 61, 3):
        pen.box(rail - 0.08, 6.6, rail + 0.08, 7.6, ahead, dark)
    pen.box(-60.0, 7.5, 60.0, 7.65, ahead, dark)
    pen.on_road(-ROAD_HALF_WIDTH, ROAD_HALF_WIDTH, ahead, ahead + 7.0, (58, 58, 62))
    pen.box(0.4, 5.25, 3.2, 6.2, ahead, (28, 84, 186))
    for line in (5.5, 5.85):
        pen.box(0.7, line, 2.9, line + 0.15, ahead, WHITE)


def broken_down_car(pen: Pen) -> None:
    ahead = pen.between(30.0, 11.5)
    middle, paint, glass = 2.55, (66, 112, 176), (48, 58, 66)
    pen.shadow(middle, ahead, 2.2)
    for wheel in (-0.68, 0.68):
        pen.box(middle + wheel - 0.14, 0.0, middle + wheel + 0.14, 0.55, ahead, BLACK)
    pen.box(middle - 0.92, 0.28, middle + 0.92, 0.98, ahead, paint)
    cabin = [(middle - 0.86, 0.96, ahead), (middle + 0.86, 0.96, ahead), (middle + 0.64, 1.5, ahead)]
    pen.shape([*cabin, (middle - 0.64, 1.5, ahead)], paint)
    window = [(middle - 0.70, 0.99, ahead), (middle + 0.70, 0.99, ahead), (middle + 0.54, 1.4, ahead)]
    pen.shape([*window, (middle - 0.54, 1.4, ahead)], glass)
    pen.shape([(middle - 0.7, 1.45, ahead), (middle + 0.7, 1.45, ahead), (middle + 0.8, 2.3, ahead)], (50, 88, 142))
    pen.shape([(middle - 0.7, 1.45, ahead), (middle + 0.8, 2.3, ahead), (middle - 0.8, 2.3, ahead)], (50, 88, 142))
    pen.box(middle - 0.26, 0.42, middle + 0.26, 0.56, ahead, WHITE)
    lamp = (255, 168, 20) if pen.step % 2 else (150, 30, 26)
    for side in (-0.90, 0.66):
        pen.box(middle + side, 0.62, middle + side + 0.24, 0.86, ahead, lamp)
    triangle = ahead - 5.0
    pen.shape([(2.0, 0.05, triangle), (3.0, 0.05, triangle), (2.5, 0.95, triangle)], (232, 30, 28))
    pen.shape([(2.26, 0.20, triangle), (2.74, 0.20, triangle), (2.5, 0.62, triangle)], (96, 98, 100))


def train_at_crossing(pen: Pen) -> None:
    ahead = pen.between(34.0, 16.0)
    pen.on_road(-30.0, 34.0, ahead - 1.2, ahead + 1.2, (112, 98, 84))
    for rail in (-0.7, 0.7):
        pen.on_road(-30.0, 34.0, ahead + rail - 0.1, ahead + rail + 0.1, (176, 176, 180))
    shift = (pen.step * 7.0) % 22.0
    for coach in range(-2, 3):
        left = coach * 22.0 - shift
        pen.box(left, 0.55, left + 21.4, 1.0, ahead, (46, 46, 50))
        pen.box(left, 0.95, left + 21.4, 4.1, ahead, (232, 226, 206))
        pen.box(left, 0.95, left + 21.4, 1.9, ahead, (18, 108, 96))
        pen.box(left, 3.95, left + 21.4, 4.25, ahead, (110, 112, 116))
        for window in range(6):
            glass = left + 1.4 + window * 3.3
            pen.box(glass, 2.25, glass + 2.2, 3.4, ahead, (40, 56, 70))
        pen.box(left + 20.0, 1.1, left + 20.9, 3.5, ahead, (18, 108, 96))
    stop = ahead - 3.5
    for number in range(10):
        left = -4.2 + number * 0.84
        pen.box(left, 0.95, left + 0.84, 1.17, stop, RED if number % 2 else WHITE)
    for post in (-4.6, 4.6):
        pen.box(post - 0.08, 0.0, post + 0.08, 2.7, stop, (200, 200, 200))
        pen.box(post - 0.42, 1.95, post + 0.42, 2.45, stop, BLACK)
        lit = -0.2 if pen.step % 2 else 0.2
        pen.disc(post + lit, 2.2, stop, 0.34, 0.34, (255, 44, 36))
        pen.bar((post - 0.55, 2.6, stop), (post + 0.55, 3.3, stop), 0.17, WHITE)
        pen.bar((post - 0.55, 3.3, stop), (post + 0.55, 2.6, stop), 0.17, RED)


def fallen_tree(pen: Pen) -> None:
    ahead = pen.between(27.0, 9.0)
    bark, leaf = (98, 70, 44), (44, 92, 36)
    pen.bar((5.6, 0.75, ahead), (-2.6, 0.42, ahead), 0.62, bark)
    pen.bar((5.6, 0.95, ahead), (-2.4, 0.55, ahead), 0.14, (134, 100, 66))
    pen.disc(5.7, 0.8, ahead, 1.0, 1.9, (84, 58, 38))
    for root in (0.1, 0.9, 1.7):
        pen.bar((5.7, 0.8, ahead), (6.5, root, ahead), 0.16, (84, 58, 38))
    for start, across, up in ((2.6, 3.3, 2.1), (1.2, 0.6, 2.0), (0.2, -0.6, 1.7), (-0.8, 0.1, 1.6)):
        pen.bar((start, 0.6, ahead), (across, up, ahead), 0.15, bark)
        pen.disc(across, up, ahead, 1.2, 0.8, leaf)
        pen.disc(across + 0.25, up + 0.2, ahead, 0.6, 0.4, (74, 126, 52))
    for across, up, wide in ((-1.6, 0.8, 1.9), (-2.7, 1.0, 2.2), (-3.7, 0.7, 1.9), (-2.2, 1.5, 1.6), (-3.2, 1.6, 1.4)):
        pen.disc(across, up, ahead, wide, wide * 0.75, leaf)
        pen.disc(across - 0.2, up + 0.25, ahead, wide * 0.5, wide * 0.35, (74, 126, 52))


def nothing(pen: Pen) -> None:
    """Weather and tunnels are not things that stand on the road; `Scenery` paints them itself."""


EVENTS: dict[str, Callable[[Pen], None]] = {
    "pedestrian_crossing": pedestrian_crossing,
    "deer_on_road": deer_on_road,
    "red_lorry": red_lorry,
    "roadworks": roadworks,
    "tunnel": nothing,
    "heavy_rain": nothing,
    "sun_glare": nothing,
    "fire_engine": fire_engine,
    "cyclist": cyclist,
    "bridge": bridge,
    "broken_down_car": broken_down_car,
    "train_at_crossing": train_at_crossing,
    "fallen_tree": fallen_tree,
    "fog": nothing,
}
"""Everything that can happen on a drawn drive, by name."""


class Scenery:
    """The world of one seed. `paint` is a function of its arguments alone: any frame can be drawn without those before it.

    Raises MissingDependency where Pillow is not installed.
    """

    def __init__(self, seed: int) -> None:
        try:
            from PIL import Image as pil
            from PIL import ImageDraw
        except ImportError as error:
            raise missing_library("The drawn drive is drawn with Pillow", "Pillow", error) from error
        self._pil: Any = pil
        self._draw: Any = ImageDraw
        rng = np.random.default_rng([seed, 1])
        self._phase = [float(number) / 1000.0 for number in rng.integers(0, 6283, size=6)]
        self._roadside = rng.integers(
            0, 1000, size=(512, 3)
        )  # side and place, kind, size: one row every 9 m, repeating
        self._clouds = rng.integers(0, 1000, size=(7, 3))
        texture = rng.integers(-10, 11, size=(64, 64))
        # Eight copies, each fainter: far texture must fade before it flickers.
        self._texture = np.stack([texture * (8 - level) // 8 + TONES // 2 for level in range(8)])
        self._grain = rng.integers(-GRAIN, GRAIN + 1, size=(HEIGHT + 64, WIDTH + 64, 1)).astype(np.int8).view(np.uint8)
        tones = np.arange(TONES)[:, None] - TONES // 2
        self._stuffs = np.concatenate(
            [np.clip(np.array(colour) + tones * contrast, 0, 255) for colour, contrast in STUFFS]
        ).astype(np.uint8)
        rows = np.arange(HORIZON + 1, HEIGHT, dtype=np.float32)
        self._ahead = FOCAL * CAMERA_UP / (rows - HORIZON)  # (rows,) metres to the ground seen in each row
        self._fade = np.minimum(7, self._ahead / 5.0).astype(np.intp)  # (rows,) 0 near to 7 far
        columns = np.arange(WIDTH, dtype=np.float32) - WIDTH / 2
        self._flat = columns[None, :] * self._ahead[:, None] / FOCAL + CAMERA_ACROSS  # across, were the road straight
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
        halo = 3600.0 / ((x - 262.0) ** 2 + ((y - 84.0) * 1.15) ** 2 + 1800.0)
        self._sun = np.minimum(halo, 2.0)[:, :, None] * np.array((250.0, 232.0, 178.0), np.float32)
        shine = 1.0 - np.abs(self._flat - 2.6) / (self._ahead[:, None] + 2.0)  # the wet look of tarmac under a low sun
        self._sun[HORIZON + 1 :] += 70.0 * np.clip(shine, 0.0, 1.0)[:, :, None]

    def paint(self, step: int, event: str | None, progress: float) -> Image:
        """Frame number `step`, uint8 (HEIGHT, WIDTH, 3) RGB, with `event` going on, `progress` 0.0 to 1.0 through it."""
        bend = 0.0011 * math.sin(step / 23.0 + self._phase[0]) + 0.0006 * math.sin(step / 9.7 + self._phase[1])
        bend = math.floor(bend * 1e5 + 0.5) / 1e5  # libraries' sines differ in the last bit; no pixel may
        tunnel = event == "tunnel"
        canvas = self._pil.new("RGB", (WIDTH, HEIGHT))
        draw = self._draw.Draw(canvas)
        pen = Pen(draw, bend, step, progress)
        if tunnel:
            self._paint_tunnel(pen)
        else:
            self._paint_sky(draw, step, bend)
        picture = np.array(canvas)
        self._lay_ground(picture, step, bend, tunnel)
        canvas = self._pil.fromarray(picture)
        pen.draw = self._draw.Draw(canvas)
        if not tunnel:
            self._paint_roadside(pen)
        if event is not None:
            EVENTS[event](pen)
        if event == "heavy_rain":
            self._paint_rain(pen)
        if event in ("heavy_rain", "fog", "sun_glare"):
            canvas = self._pil.fromarray(self._weather(np.asarray(canvas), event))
        top, left = (step * 37) % 64, (step * 23) % 64
        # Bytes wrap around, so adding 252 takes 4 away; `_hour` keeps every value far enough from both ends.
        return np.asarray(canvas.point(self._hour(step))) + self._grain[top : top + HEIGHT, left : left + WIDTH]

    def _paint_sky(self, draw: "ImageDraw.ImageDraw", step: int, bend: float) -> None:
        for y in range(0, HORIZON + 1, 4):
            down = y / HORIZON
            draw.rectangle(
                (0, y, WIDTH, y + 3), fill=(int(108 + 92 * down), int(154 + 62 * down), int(206 + 26 * down))
            )
        turn = bend * 9000.0
        for place, height, size in self._clouds.tolist():
            x = (place * 1.1 + step * 0.35 - turn * 1.5) % (WIDTH + 160) - 80
            y, wide = 10 + height * 0.055, 26 + size * 0.045
            for shift, drop, grow in ((-0.5, 3.0, 0.8), (0.45, 2.0, 0.9), (0.0, 0.0, 1.0)):
                middle = x + shift * wide
                box = (middle - wide * grow / 2, y + drop, middle + wide * grow / 2, y + drop + wide * grow * 0.22)
                draw.ellipse([math.floor(edge) for edge in box], fill=(236, 240, 244))
        for layer, colour in enumerate(((122, 146, 160), (92, 118, 92))):
            points = [(0, HORIZON + 1)]
            for x in range(0, WIDTH + 1, 12):
                far = (x + turn * (2 + layer)) / (70.0 - 22.0 * layer) + self._phase[2 + layer] + step * 0.004
                lift = (13.0 - 5.0 * layer) * (1.2 + math.sin(far) * 0.7 + math.sin(far * 2.7) * 0.35)
                points.append((x, math.floor(HORIZON - lift)))
            draw.polygon([*points, (WIDTH, HORIZON + 1)], fill=colour)

    def _lay_ground(self, picture: Image, step: int, bend: float, tunnel: bool) -> None:
        """Road, lane marks and verge, row by row: what a row shows stands at one distance."""
        ahead = self._ahead[:, None]
        across = self._flat - np.float32(bend / 2) * ahead * ahead
        along = ahead + np.float32((step * METRES_PER_FRAME) % 576.0)  # 576 m: a whole number of every pattern below
        beside = np.abs(across)
        tone = self._texture[
            self._fade[:, None], (along * 3.0).astype(np.intp) & 63, (across * 5.0).astype(np.int32) & 63
        ]
        # One byte per pixel, stuff x 64 + tone, then one look-up: three channels of floats take three times as long.
        grass = TONES * GRASS + ((along / 4.0).astype(np.intp) & 1) * (9 - self._fade[:, None])
        stuff = np.where(beside < ROAD_HALF_WIDTH, TONES * TARMAC, TONES * KERB if tunnel else grass) + tone
        pixel = 0.5 * ahead / FOCAL  # half a pixel's width in metres: a mark is at least one pixel wide
        edge = np.abs(beside - (LANE - 0.15)) < np.maximum(pixel, 0.09)
        dash = (beside < np.maximum(pixel, 0.08)) & (along % 12.0 < 5.0)
        stuff[edge | dash] = TONES * MARK + TONES // 2
        ground = self._stuffs[stuff]
        if not tunnel:
            picture[HORIZON + 1 :] = ground
            return
        lit = (ground * (0.35 + 8.0 / (16.0 + ahead[:, :, None]))).astype(np.uint8)
        picture[HORIZON + 1 :] = np.where(beside[:, :, None] < 4.7, lit, picture[HORIZON + 1 :])

    def _paint_roadside(self, pen: Pen) -> None:
        """Trees, bushes and marker posts, one every 9 m: what makes the dull stretches move."""
        gone = pen.step * METRES_PER_FRAME
        first = int(gone // 9.0)
        for number in range(first + int(VIEW // 9.0), first, -1):
            place, kind, size = self._roadside[number % len(self._roadside)].tolist()
            ahead = number * 9.0 - gone + 2.0
            if ahead < 3.0:
                continue
            side = -1.0 if place % 2 else 1.0
            across = side * (6.4 + place * 0.010)
            haze = ahead / (ahead + 90.0)
            if kind < 520:
                self._tree(pen, across, ahead, 4.0 + size * 0.004, haze)
            elif kind < 860:
                pen.disc(across, 0.5, ahead, 2.4 + size * 0.002, 1.6, _hazed((66, 96, 48), haze))
                pen.disc(across - 0.3, 0.8, ahead, 1.3, 0.8, _hazed((90, 122, 62), haze))
            if number % 4 == 0:
                for post in (-4.9, 4.9):
                    pen.box(post - 0.06, 0.0, post + 0.06, 1.0, ahead, _hazed(WHITE, haze))
                    pen.box(post - 0.06, 0.66, post + 0.06, 0.84, ahead, _hazed((60, 60, 60), haze))

    def _tree(self, pen: Pen, across: float, ahead: float, high: float, haze: float) -> None:
        pen.box(across - 0.18, 0.0, across + 0.18, high * 0.5, ahead, _hazed((84, 66, 48), haze))
        dark, pale = _hazed((52, 86, 42), haze), _hazed((82, 120, 58), haze)
        pen.disc(across, high * 0.62, ahead, high * 0.66, high * 0.6, dark)
        pen.disc(across - high * 0.12, high * 0.78, ahead, high * 0.42, high * 0.4, dark)
        pen.disc(across - high * 0.1, high * 0.74, ahead, high * 0.3, high * 0.28, pale)

    def _paint_tunnel(self, pen: Pen) -> None:
        """Rings of concrete from near to far, lamps along the vault, daylight at the end."""
        shift = (pen.step * METRES_PER_FRAME) % 8.0
        pen.draw.rectangle((0, 0, WIDTH, HEIGHT), fill=(44, 42, 40))
        rings = [ring for ring in (8.0 * number - shift for number in range(1, 14)) if ring > 2.5]
        for number, ahead in enumerate(rings):
            shade = 40 + int(70.0 * ahead / (ahead + 30.0)) + (10 if number % 2 else 0)
            pen.shape(_vault(ahead), (shade + 8, shade + 2, shade - 8))
            lamp = ahead + 3.0
            for across in (-3.1, 3.1):
                pen.shape(
                    [(across - 0.35, 4.9, lamp), (across + 0.35, 4.9, lamp), (across + 0.35, 4.9, lamp + 3.0)]
                    + [(across - 0.35, 4.9, lamp + 3.0)],
                    (255, 214, 130),
                )
        pen.shape(_vault(pen.between(140.0, 60.0)), (232, 240, 244))

    def _paint_rain(self, pen: Pen) -> None:
        drops = np.random.default_rng([pen.step, 7]).integers(0, 1000, size=(170, 3)).tolist()
        for x, y, size in drops:
            column, row, length = x * 0.5 - 8, y * 0.28 - 10, 8 + size // 70
            pen.draw.line((column, row, column - length // 4, row + length), fill=(206, 214, 222))
        sweep = -0.9 + 1.8 * ((pen.step * 3) % 8) / 7.0
        foot, tip = (200, HEIGHT + 6), (math.floor(200 + 250 * sweep), math.floor(HEIGHT - 210 + 110 * abs(sweep)))
        pen.draw.line([foot, tip], fill=(14, 14, 16), width=6)

    def _weather(self, picture: Image, event: str) -> Image:
        """What lies over the whole picture: rain's grey, fog, a low sun."""
        light = picture.astype(np.float32)
        if event == "heavy_rain":
            light = light * 0.42 + np.array((52.0, 58.0, 66.0), np.float32)
        elif event == "fog":
            clear = np.zeros((HEIGHT, 1, 1), np.float32)
            clear[HORIZON + 1 :, 0, 0] = 7.0 / (7.0 + self._ahead)
            light = light * (clear * 0.9 + 0.1) + 206.0 * (0.9 - clear * 0.9)
        elif event == "sun_glare":
            light = light * 0.62 + self._sun
        return np.clip(light, 0, 255).astype(np.uint8)

    def _hour(self, step: int) -> list[int]:
        """The slow changes of daylight, as a table of 3 x 256 that also leaves room for the grain at both ends."""
        day = math.floor(1000.0 * (0.94 + 0.08 * math.sin(step / 61.0 + self._phase[4]))) / 1000.0
        warm = math.floor(1000.0 * 0.04 * math.sin(step / 83.0 + self._phase[5])) / 1000.0
        table = np.outer((day + warm, day, day - warm), np.arange(256)).astype(int)
        return [int(value) for value in np.clip(table, GRAIN, 255 - GRAIN).ravel()]


def _hazed(colour: Colour, haze: float) -> Colour:
    red, green, blue = (int(value + (sky - value) * haze) for value, sky in zip(colour, (170, 190, 200), strict=True))
    return red, green, blue


def _vault(ahead: float) -> list[Point]:
    """The inner line of a tunnel at one distance."""
    arch = [
        (-4.7, 0.0),
        (-4.7, 3.4),
        (-4.0, 4.9),
        (-2.6, 5.9),
        (0.0, 6.4),
        (2.6, 5.9),
        (4.0, 4.9),
        (4.7, 3.4),
        (4.7, 0.0),
    ]
    return [(across, up, ahead) for across, up in arch]
