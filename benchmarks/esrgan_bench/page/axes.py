"""Axes of a plot: from values to a place between 0 and 1, with round numbers at the ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log, log10

MANTISSAS = (1, 2, 5)
FINER = (1, 1.5, 2, 3, 5, 7)
FINEST = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
"""Mantissas of ticks where only three or two of the round numbers are in sight."""
ROOM = 0.05
"""So much of a logarithmic axis stays free beyond the first and the last value, for marks and their labels."""
TICKS = 5
"""About so many steps on a linear axis."""
LABELS = 9
"""With more ticks than this on a logarithmic axis, only powers of ten remain."""


@dataclass(frozen=True)
class Axis:
    """One direction of a plot."""

    title: str
    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool
    names: tuple[str, ...]
    """What is written at the ticks."""

    def at(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`, also beyond them."""
        if self.logarithmic:
            return log(value / self.low) / log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def decades(self) -> list[int]:
        """Which of the ticks are powers of ten; none on a linear axis."""
        return [i for i, tick in enumerate(self.ticks) if self.logarithmic and f"{tick:e}".startswith("1.000000e")]


def linear(title: str, largest: float) -> Axis:
    """From zero to a round number not below `largest`, which is positive: lengths can be compared."""
    step = _value(_step_not_below(largest / TICKS))
    count = max(1, ceil(largest / step - 1e-9))
    ticks = tuple(_value_of_multiple(i, step) for i in range(count + 1))
    return Axis(title, 0.0, ticks[-1], ticks, False, _names(ticks))


def logarithmic(title: str, values: Sequence[float]) -> Axis:
    """Between two of 1, 2, 5, 10, 20 ... with a little room around the values, which are positive."""
    first, last = _step_not_above(min(values)), _step_not_below(max(values))
    while True:
        low, high = _value(first), _value(last)
        span = log(high / low) if high > low else 0.0
        lacking_below = log(min(values) / low) <= ROOM * span
        lacking_above = log(high / max(values)) <= ROOM * span
        if not (lacking_below or lacking_above):
            break
        first, last = first - lacking_below, last + lacking_above
    return Axis(title, low, high, ticks := _ticks_between(first, last), True, _names(ticks))


def listed(title: str, values: Sequence[float], names: Sequence[str]) -> Axis:
    """Logarithmic, with a tick and a name at each of the values, which are positive and rise."""
    stretch = (values[-1] / values[0]) ** ROOM
    return Axis(title, values[0] / stretch, values[-1] * stretch, tuple(values), True, tuple(names))


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, or all before the point; never an exponent; thousands set apart: 0.0312, 12 345."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - floor(log10(abs(value)) + 1e-12))
    return f"{value:,.{decimals}f}".replace(",", "\u202f")


def _names(ticks: Sequence[float]) -> tuple[str, ...]:
    """Round numbers without the zeros that `number` keeps: 0.5, 20."""
    texts = (number(tick) for tick in ticks)
    return tuple(text.rstrip("0").rstrip(".") if "." in text else text for text in texts)


def _ticks_between(first: int, last: int) -> tuple[float, ...]:
    """Between two round numbers, given by their places: the round ones, powers of ten, or also finer ones."""
    if last - first + 1 > LABELS:
        return tuple(_value(step) for step in range(3 * -(-first // 3), last + 1, 3))
    if last - first > 2:
        return tuple(_value(step) for step in range(first, last + 1))
    between = FINER if last - first == 2 else FINEST
    candidates = [
        float(f"{mantissa}e{exponent}") for exponent in range(first // 3, last // 3 + 1) for mantissa in between
    ]
    return tuple(tick for tick in candidates if _value(first) <= tick <= _value(last))


def _value(step: int) -> float:
    """The round number with this place in ... 0.5, 1, 2, 5, 10 ...; 1 has the place 0."""
    exponent, mantissa = divmod(step, 3)
    return float(f"{MANTISSAS[mantissa]}e{exponent}")  # the nearest double, which a product would miss


def _value_of_multiple(count: int, step: float) -> float:
    return float(f"{count * step:.12g}")


def _step_not_above(value: float) -> int:
    step = 3 * floor(log10(value)) + 3
    while _value(step) > value:
        step -= 1
    return step


def _step_not_below(value: float) -> int:
    step = _step_not_above(value)
    return step if _value(step) >= value else step + 1
