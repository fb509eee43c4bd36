"""Where the words of a plot go: beside what they name, and never on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Anchor = Literal["start", "middle", "end"]
FONT = 12
"""Height of a label's letters in pixels, as in style.css."""
_NARROW = frozenset("fijlrtI.,:;|!'()[]-/ \u202f·")
_WIDE = frozenset("mwMW@%")


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """True if both have a point in common that is not on the edge."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def holds(self, other: Box) -> bool:
        """True if the other one is inside."""
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom


@dataclass(frozen=True)
class Place:
    """Where a text is written: its middle line is at `y`, and `x` is where it starts, is centred or ends."""

    x: float
    y: float
    anchor: Anchor

    def box(self, text: str) -> Box:
        """What the text covers there."""
        width = text_width(text)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return Box(left, self.y - FONT * 0.62, left + width, self.y + FONT * 0.62)


@dataclass
class Labels:
    """The labels of one plot, and what they must keep away from."""

    area: Box
    marks: list[Box] = field(default_factory=list)
    """Never covered, just as other labels."""
    lines: list[Box] = field(default_factory=list)
    """Covered only where there is no other place."""

    def place(self, text: str, wishes: Sequence[Place]) -> Place | None:
        """The first of the wishes that is free, and from now on is not; None: no room."""
        for taken in (self.marks + self.lines, self.marks):
            for wish in wishes:
                box = wish.box(text)
                if self.area.holds(box) and not any(box.meets(other) for other in taken):
                    self.marks.append(box)
                    return wish
        return None


def around(points: Sequence[tuple[float, float]]) -> list[Place]:
    """Beside one of the marks of a series, close ones first, and the first of the marks before the others."""
    wishes = []
    for distance in (9.0, 16.0, 26.0, 40.0):
        for x, y in points:
            for dx, dy, anchor in _DIRECTIONS:
                # Above and below, a line of text begins half its height away from its middle.
                wishes.append(Place(x + dx * distance, y + dy * (distance + 4), anchor))
    return wishes


_DIRECTIONS: tuple[tuple[float, float, Anchor], ...] = (
    *((1, 0, "start"), (-1, 0, "end"), (0.5, -0.8, "start"), (0.5, 0.8, "start")),
    *((-0.5, -0.8, "end"), (-0.5, 0.8, "end"), (0, -1, "middle"), (0, 1, "middle")),
)


def along(points: Sequence[tuple[float, float]]) -> list[Place]:
    """Just above a line, at its points in turn, then just below it."""
    sides: tuple[Anchor, ...] = ("end", "start")
    return [Place(x, y + dy, side) for dy in (-10, 10) for x, y in points for side in sides]


def stacked(heights: Sequence[float], top: float, bottom: float, distance: float = FONT * 1.25) -> list[float]:
    """Heights of labels beside the ends of lines, moved as little as keeps them `distance` apart and inside.

    Neighbours that are too close become a block around the middle of what its members wish for; blocks that then
    meet become one. This is the least-squares answer (pool adjacent violators). With more labels than there is
    room for, they stay `distance` apart and run over the bottom.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[list[float]] = []  # of each: the sum of the wishes for the place of its first member, and its size
    for rank, i in enumerate(order):
        blocks.append([heights[i] - rank * distance, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, size = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += size
    highest = bottom - (len(heights) - 1) * distance
    firsts = [max(top, min(highest, total / size)) for total, size in blocks for _ in range(int(size))]
    placed = [0.0] * len(heights)
    for rank, i in enumerate(order):
        placed[i] = firsts[rank] + rank * distance
    return placed


def text_width(text: str) -> float:
    """About so many pixels. The reader's font is not known: as wide as semi-bold DejaVu Sans, a wide one."""
    return FONT * sum(0.42 if c in _NARROW else 1.0 if c in _WIDE else 0.78 if c.isupper() else 0.7 for c in text)


def shortened(text: str, width: float) -> str:
    """Both ends of a text that is wider than this, in pixels."""
    kept = len(text)
    while kept > 2 and text_width(short := _middle_left_out(text, kept)) > width:
        kept -= 1
    return text if kept == len(text) else short


def _middle_left_out(text: str, kept: int) -> str:
    head, tail = (kept + 1) // 2, kept // 2
    return text if kept == len(text) else f"{text[:head]}…{text[len(text) - tail :]}"
