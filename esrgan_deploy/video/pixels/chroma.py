"""Interpolate chroma to every pixel, and filter it down again: integer arithmetic, the same on every processor.

Along one axis, a chroma sample lies level with the first of its two luma samples (cosited) or halfway between them
(centred). Reading interpolates between the two nearest samples, as most players do. Writing uses the shortest filters
that invert that: samples that are read and written again are the same, however fine the detail. They are the low-pass
filters of biorthogonal spline wavelets (Cohen, Daubechies and Feauveau 1992, table 6.1, with 2 and 3 factors):
-1 2 6 2 -1, which JPEG 2000 uses as well, and -1 3 3 -1. Intermediate values are multiples of the true ones ("gain"),
so that only the result is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[Any]
"""uint8, uint16 or int32, whatever holds the values."""


@dataclass(frozen=True)
class ChromaGrid:
    """Where chroma samples lie among luma samples. For each axis, None: at each luma sample; True: centred."""

    across: bool | None
    down: bool | None

    @property
    def columns(self) -> int:
        """Luma columns for each chroma sample."""
        return 1 if self.across is None else 2

    @property
    def lines(self) -> int:
        """Luma lines for each chroma sample."""
        return 1 if self.down is None else 2

    @property
    def reading_gain(self) -> int:
        """The factor by which the results of `ChromaReader` are too large."""
        return _READING_GAIN[self.across] * _READING_GAIN[self.down]

    @property
    def writing_gain(self) -> int:
        """The sum of the weights of `ChromaWriter`, by which it divides in the end."""
        return _WRITING_GAIN[self.across] * _WRITING_GAIN[self.down]


_READING_GAIN: Mapping[bool | None, int] = {None: 1, False: 2, True: 4}
_WRITING_GAIN: Mapping[bool | None, int] = {None: 1, False: 8, True: 4}

LOCATIONS: Mapping[str, ChromaGrid] = MappingProxyType(
    {
        "left": ChromaGrid(across=False, down=True),
        "center": ChromaGrid(across=True, down=True),
        "topleft": ChromaGrid(across=False, down=False),
        "top": ChromaGrid(across=True, down=False),
    }
)
"""FFmpeg's names of chroma locations, for 4:2:0. The default of H.264, H.265, MPEG-2 and AV1 is left, of JPEG and
MPEG-1 center, of Blu-ray in BT.2020 and DV topleft."""


def grid_of(subsampling: str, location: str) -> ChromaGrid:
    """The grid of "420", "422" or "444" with a location of `LOCATIONS`."""
    grid = LOCATIONS[location]
    return ChromaGrid(
        across=grid.across if subsampling in ("420", "422") else None, down=grid.down if subsampling == "420" else None
    )


def clamp(values: Integers, peak: int) -> None:
    """Limit `values` to 0 to `peak` in place, several times as fast as `np.clip`."""
    one_channel = values.reshape(len(values), -1)  # OpenCV compares a scalar with the first channel alone
    if values.dtype == np.int32:
        lowest, highest = cast("Any", 0.0), cast("Any", float(peak))
        cv2.max(cv2.min(one_channel, highest, one_channel), lowest, one_channel)
        return
    cv2.threshold(one_channel, peak, 0, cv2.THRESH_TRUNC, one_channel)
    if values.dtype == np.int16:
        cv2.threshold(one_channel, 0, 0, cv2.THRESH_TOZERO, one_channel)


class ChromaReader:
    """Interpolates both planes of chroma, a few lines at a time, in buffers of its own."""

    def __init__(self, grid: ChromaGrid, height: int, width: int, lines: int) -> None:
        """Prepare for planes of (height, width) chroma samples, and for `lines` luma lines at once, an even number."""
        self._grid = grid
        self._planes = np.empty((2, height + 2, width + 2), np.uint16)
        self._scratch = np.empty((2, lines, width + 2), np.uint16)
        self._tall = np.empty((2, lines // grid.lines, grid.lines, width + 2), np.uint16)
        self._even, self._odd = (np.empty((2, lines, width), np.uint16) for _ in range(2))
        self._wide = np.empty((2 * lines, width, 2), np.uint16)

    def load(self, planes: Sequence[Integers]) -> None:
        """Take Cb and Cr (height, width); their edges are repeated outside."""
        for padded, plane in zip(self._planes, planes, strict=True):
            padded[1:-1, 1:-1] = plane
        self._planes[:, 0], self._planes[:, -1] = self._planes[:, 1], self._planes[:, -2]
        self._planes[..., 0], self._planes[..., -1] = self._planes[..., 1], self._planes[..., -2]

    def lines(self, top: int, bottom: int) -> Integers:
        """Chroma at luma lines `top` (even) to `bottom`, times `reading_gain`: (2, lines, columns).

        It is a view of a buffer that the next call overwrites. It may have a line and a column more than the frame.
        """
        first, last = top // self._grid.lines, -(-bottom // self._grid.lines)
        before, here, after = (self._planes[:, first + row : last + row] for row in range(3))
        count = last - first
        if self._grid.down is not None:
            tall = self._tall[:, :count]
            pair = tall[:, :, 0], tall[:, :, 1]
            _interpolate(self._grid.down, (before, here, after), pair, self._scratch[:, :count])
            count *= 2
            here = self._tall.reshape(2, -1, self._tall.shape[-1])[:, :count]
        if self._grid.across is None:
            return here[..., 1:-1]
        even, odd = self._even[:, :count], self._odd[:, :count]
        neighbours = here[..., :-2], here[..., 1:-1], here[..., 2:]
        _interpolate(self._grid.across, neighbours, (even, odd), self._scratch[:, :count, 1:-1])
        wide = self._wide.reshape(2, -1, *self._wide.shape[1:])[:, :count]
        for channel in range(2):
            cv2.merge([even[channel], odd[channel]], wide[channel])
        return wide.reshape(2, count, -1)


def _interpolate(
    centred: bool,
    neighbours: tuple[Integers, Integers, Integers],
    pair: tuple[Integers, Integers],
    scratch: Integers,
) -> None:
    """Values at the two luma positions of each sample, from its predecessor, itself and its successor."""
    before, here, after = neighbours
    first, second = pair
    if centred:
        np.multiply(here, 3, out=scratch)
        np.add(scratch, before, out=first)
        np.add(scratch, after, out=second)
    else:
        np.add(here, here, out=first)
        np.add(here, after, out=second)


class ChromaWriter:
    """Filters both channels of chroma down, a few lines at a time, in buffers of its own."""

    HALO = 2
    """Lines that are needed above and below those that are written."""

    def __init__(self, grid: ChromaGrid, width: int, lines: int, dtype: type[np.uint16 | np.int32]) -> None:
        """Prepare for at most `lines` lines of `width` luma samples; both are multiples of the grid's.

        For uint16 sums are int16, so values must be below 512 and lines must not be cosited; else sums are int32.
        """
        self._grid = grid
        sums = np.int16 if dtype is np.uint16 else np.int32
        self._lines = np.empty((2, lines + 2 * self.HALO, width), dtype)
        self._tall, self._spare = (np.empty((2, lines // grid.lines, width), sums) for _ in range(2))
        half = (2, lines // grid.lines, width // grid.columns)
        self._even, self._odd = (np.empty((*half[:2], half[2] + 2), sums) for _ in range(2))
        self._result, self._more = (np.empty(half, sums) for _ in range(2))

    def buffers(self, count: int) -> list[Integers]:
        """Buffers for the next lines of Cb and Cr, (count, width) each, with `HALO` lines above and below."""
        return [channel[:count] for channel in self._lines]

    def write(self, planes: Sequence[Integers], spare: int, peak: int) -> None:
        """Filter the lines in the buffers, divide them by their gain, round them and store them in `planes`.

        Args:
            planes: of Cb and Cr, each (lines / lines of the grid, width / columns of the grid).
            spare: bits that the values in the buffers have in addition to those of the planes.
            peak: the largest code value.
        """
        height = len(planes[0])
        lines = self._lines[:, : height * self._grid.lines + 2 * self.HALO].view(self._tall.dtype)
        columns = self._across(self._down(lines, height))
        shift = spare + self._grid.writing_gain.bit_length() - 1
        result = self._result[:, :height]
        np.add(columns, 1 << shift >> 1, out=result)
        result >>= shift
        for plane, channel in zip(planes, result, strict=True):
            clamp(channel, peak)
            np.copyto(plane, channel[:, : plane.shape[1]], casting="unsafe")

    def _down(self, lines: Integers, height: int) -> Integers:
        if self._grid.down is None:
            return lines[:, self.HALO : self.HALO + height]
        # Lines from two above the first of each pair to two below it.
        around = [lines[:, start : start + 2 * height : 2] for start in range(5)]
        return _decimate(self._grid.down, around, self._tall[:, :height], self._spare[:, :height])

    def _across(self, lines: Integers) -> Integers:
        if self._grid.across is None:
            return lines
        _, height, width = lines.shape
        even, odd = self._even[:, :height], self._odd[:, :height]
        for channel in range(2):
            pairs = lines[channel].reshape(height, width // 2, 2)
            cv2.split(pairs, [even[channel, :, 1:-1], odd[channel, :, 1:-1]])
        even[..., 0] = odd[..., 0] = even[..., 1]  # columns outside repeat the edge
        even[..., -1] = odd[..., -2]
        inside = slice(1, -1)
        around = [even[..., :-2], odd[..., :-2], even[..., inside], odd[..., inside], even[..., 2:]]
        return _decimate(self._grid.across, around, self._result[:, :height], self._more[:, :height])


def _decimate(centred: bool, around: list[Integers], out: Integers, scratch: Integers) -> Integers:
    """Weighted sum of the luma positions from two before to two after the first one of each pair."""
    two_before, before, first, second, after = around
    if centred:  # -1 3 3 -1
        np.add(first, second, out=out)
        np.add(before, after, out=scratch)
        out *= 3
        out -= scratch
    else:  # -1 2 6 2 -1
        np.add(before, second, out=out)
        np.multiply(first, 3, out=scratch)
        out += scratch
        out += out
        np.add(two_before, after, out=scratch)
        out -= scratch
    return out
