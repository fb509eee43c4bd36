"""One plot as inline SVG: a frame with axes, and marks, lines and words in it. Colours and fonts are in style.css."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from esrgan_bench.page.axes import Axis
from esrgan_bench.page.labels import Box, Labels, Place, text_width

COLOURS = 8
"""Classes s0, s1 ... in style.css."""
SHAPES = (
    "M0-4.5A4.5 4.5 0 1 1 0 4.5A4.5 4.5 0 1 1 0-4.5Z",  # circle
    "M-4-4H4V4H-4Z",  # square
    "M0-5.2L5 4H-5Z",  # triangle
    "M0-5.8L5.8 0L0 5.8L-5.8 0Z",  # diamond
    "M0 5.2L5-4H-5Z",  # triangle, point down
)
"""Their number shares no factor with that of the colours: pairs of them repeat after forty."""
MARK = 6.0
"""Half the side of the square around a mark, its outline included."""
TOP, BOTTOM = 30.0, 46.0
"""Room for the titles of the axes, and for the names of the ticks below the frame."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Size:
    """Of a plot, in CSS pixels."""

    width: int
    height: int


class Canvas:
    """Collects the elements of one plot.

    `x` and `y` turn values into pixels. Words are placed last, when `labels` knows what they have to keep away from.
    """

    def __init__(self, size: Size, x_axis: Axis, y_axis: Axis, right: float = 20.0) -> None:
        left = 14 + max(text_width(name) for name in y_axis.names)
        self._size, self._x_axis, self._y_axis = size, x_axis, y_axis
        self.frame = Box(left, TOP, size.width - right, size.height - BOTTOM)
        self.labels = Labels(self.frame)
        self._parts: list[str] = []
        self._draw_axes()

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return self.frame.left + self._x_axis.at(value) * (self.frame.right - self.frame.left)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return self.frame.bottom - self._y_axis.at(value) * (self.frame.bottom - self.frame.top)

    def line(self, points: Sequence[Point], classes: str, avoided: bool = True) -> None:
        """A line through points given in pixels. Words keep off it where they can, unless it is not `avoided`."""
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._parts.append(f'<path class="line {classes}" d="M{path}"/>')
        if avoided:
            self.labels.lines += [Box(x - 2, y - 2, x + 2, y + 2) for x, y in _sampled(points)]

    def mark(self, x: float, y: float, series: int, says: str) -> None:
        """A mark at a point given in pixels; `says` is shown under the pointer."""
        self._parts.append(
            f'<path class="mark {colour(series)}" transform="translate({x:.2f} {y:.2f})" '
            f'd="{SHAPES[series % len(SHAPES)]}"><title>{escape(says)}</title></path>'
        )
        self.labels.marks.append(Box(x - MARK, y - MARK, x + MARK, y + MARK))

    def write(self, place: Place, text: str, classes: str) -> None:
        """Words."""
        self._parts.append(
            f'<text class="{classes}" x="{place.x:.1f}" y="{place.y:.1f}" text-anchor="{place.anchor}">'
            f"{escape(text)}</text>"
        )

    def svg(self, title: str, classes: str = "") -> str:
        """The whole plot; `title` is what a screen reader says."""
        box = f'viewBox="0 0 {self._size.width} {self._size.height}"'
        head = f'<svg class="plot {classes}" {box} width="{self._size.width}" role="img" aria-label="{escape(title)}">'
        return "\n".join([head, *self._parts, "</svg>"])

    def _draw_axes(self) -> None:
        frame = self.frame
        for tick, name in zip(self._y_axis.ticks, self._y_axis.names, strict=True):
            height = self.y(tick)
            self.line([(frame.left, height), (frame.right, height)], "grid", avoided=False)
            self.write(Place(frame.left - 8, height, "end"), name, "tick y")
        for tick, name in self._names_with_room():
            across = self.x(tick)
            self.line([(across, frame.top), (across, frame.bottom)], "grid", avoided=False)
            self.write(self._below(tick), name, "tick x")
        self.line([(frame.left, frame.bottom), (frame.right, frame.bottom)], "base", avoided=False)
        self.write(Place(0, 10, "start"), self._y_axis.title, "title")
        self.write(Place(frame.right, frame.bottom + 36, "end"), self._x_axis.title, "title")

    def _names_with_room(self) -> list[tuple[float, str]]:
        """The ticks of the x axis that can be named: all, or the powers of ten, or as many as there is room for."""
        ticks, names = self._x_axis.ticks, self._x_axis.names
        boxes = [self._below(tick).box(name) for tick, name in zip(ticks, names, strict=True)]
        chosen = list(range(len(ticks)))
        if _crowded([boxes[i] for i in chosen]) and len(self._x_axis.decades) > 1:
            chosen = self._x_axis.decades
        while _crowded([boxes[i] for i in chosen]):
            # The ends of the range say most.
            left_out = next(k for k in range(1, len(chosen)) if _crowded([boxes[i] for i in chosen[: k + 1]]))
            del chosen[min(left_out, max(1, len(chosen) - 2))]
        return [(ticks[i], names[i]) for i in chosen]

    def _below(self, tick: float) -> Place:
        """Where a tick of the x axis is named."""
        return Place(self.x(tick), self.frame.bottom + 15, "middle")


def colour(series: int) -> str:
    """The class in style.css."""
    return f"s{series % COLOURS}"


def swatch(series: int) -> str:
    """The mark of a series, to stand in a line of text."""
    shape = f'<path class="mark {colour(series)}" d="{SHAPES[series % len(SHAPES)]}"/>'
    return f'<svg class="swatch" viewBox="-7 -7 14 14" width="14" height="14" aria-hidden="true">{shape}</svg>'


def clipped(a: Point, b: Point, frame: Box) -> tuple[Point, Point] | None:
    """The part of a straight line inside the frame (Liang and Barsky 1984); None: it passes by."""
    (x, y), (dx, dy) = a, (b[0] - a[0], b[1] - a[1])
    first, last = 0.0, 1.0
    for step, room in ((-dx, x - frame.left), (dx, frame.right - x), (-dy, y - frame.top), (dy, frame.bottom - y)):
        if step == 0:
            if room < 0:
                return None
        elif step < 0:
            first = max(first, room / step)
        else:
            last = min(last, room / step)
    if first >= last:
        return None
    return (x + first * dx, y + first * dy), (x + last * dx, y + last * dy)


def _crowded(boxes: Sequence[Box]) -> bool:
    """True if neighbours in a row are less than a space apart."""
    return any(a.right + 8 > b.left for a, b in pairwise(boxes))


def _sampled(points: Sequence[Point]) -> list[Point]:
    """Points on a line, 4 pixels apart."""
    found = []
    for (x0, y0), (x1, y1) in pairwise(points):
        count = int(max(abs(x1 - x0), abs(y1 - y0)) / 4) + 1
        found += [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count + 1)]
    return found
