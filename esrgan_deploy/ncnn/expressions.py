"""Two graphs compute the same if the same expressions come out of them.

Each value of a graph gets a number: the same number for the same operation on the same inputs, whatever the layers are
called, in whatever order they stand, and however they are written (a sum of two with a factor may be one layer or two).
Nothing is computed, so that nothing in a file decides how much memory or time this takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

MOST_CHANNELS = 1 << 20
"""No network has more than some thousand; a graph of hostile layers would double a number for ever."""


class Value(NamedTuple):
    """A result in a graph."""

    number: int
    """Equal for equal expressions."""
    channels: int


class Slot(NamedTuple):
    """A layer that has weights."""

    shape: tuple[int, ...]
    """Of its weights; a convolution has a bias as well."""
    reads: Value


@dataclass
class Expressions:
    """The `Operations` of `esrgan_deploy.ncnn.networks` on values that are expressions."""

    slots: dict[str, Slot] = field(default_factory=dict)
    """The layers with weights, in the order in which they are computed."""
    _numbers: dict[tuple[object, ...], int] = field(default_factory=dict)
    _factors: dict[int, tuple[float, Value]] = field(default_factory=dict)

    def image(self) -> Value:
        """The picture that goes in."""
        return self.value(3, "image")

    def at(self, module: str) -> Expressions:
        """Where in the network an operation stands makes no difference to what it computes."""
        return self

    def conv(self, layer: str, x: Value, outputs: int, padding: tuple[int, ...] = (1, 1, 1, 1)) -> Value:
        """See `Operations`."""
        self.slots[layer] = Slot((outputs, x.channels, 3, 3), x)
        return self.value(outputs, "conv", layer, x.number, padding)

    def prelu(self, layer: str, x: Value) -> Value:
        """See `Operations`."""
        self.slots[layer] = Slot((x.channels,), x)
        return self.value(x.channels, "prelu", layer, x.number)

    def leaky(self, x: Value, slope: float) -> Value:
        """See `Operations`."""
        return self.value(x.channels, "leaky", x.number, _rounded(slope))

    def concat(self, *parts: Value) -> Value:
        """See `Operations`."""
        return self.value(sum(part.channels for part in parts), "concat", *(part.number for part in parts))

    def add(self, x: Value, y: Value) -> Value:
        """See `Operations`."""
        return self.weighted_sum([(1.0, x), (1.0, y)])

    def weighted_sum(self, terms: Sequence[tuple[float, Value]]) -> Value:
        """The sum of factor * value, in any order; factors may have been applied before."""
        flat = []
        for factor, x in terms:
            inner, base = self._factors.get(x.number, (1.0, x))
            flat.append((base.number, _rounded(factor * inner)))
        return self.value(max(x.channels for _, x in terms), "sum", *sorted(flat))

    def scaled(self, x: Value, factor: float) -> Value:
        """See `Operations`."""
        product = self.value(x.channels, "scaled", x.number, _rounded(factor))
        self._factors[product.number] = (factor, x)
        return product

    def enlarged(self, x: Value, factor: int, columns: int | None = None) -> Value:
        """See `Operations`; `columns` is the factor of the width, where it is another."""
        return self.value(x.channels, "enlarged", x.number, factor, columns or factor)

    def pixel_shuffle(self, x: Value, factor: int) -> Value:
        """See `Operations`."""
        return self.value(x.channels // factor**2, "pixel_shuffle", x.number, factor)

    def pixel_unshuffle(self, image: Value, factor: int) -> Value:
        """See `Operations`."""
        return self.value(image.channels * factor**2, "pixel_unshuffle", image.number, factor)

    def value(self, channels: int, *expression: object) -> Value:
        """The value of an expression, which no other expression has.

        Raises:
            ValueError: more channels than any network has.
        """
        if channels > MOST_CHANNELS:
            raise ValueError(f"more than {MOST_CHANNELS} channels")
        return Value(self._numbers.setdefault((*expression, channels), len(self._numbers)), channels)


def _rounded(factor: float) -> float:
    """Converters write numbers with seven digits."""
    return float(f"{factor:.6e}")
