r"""Cut a frame into overlapping tiles of one size and join the upscaled tiles again. Pure numpy.

Along one axis, two neighbouring tiles share at least `2 * overlap` pixels. Each shared region is divided in the
middle, and over the central `overlap` pixels one tile fades into the other (linear weights):

    tile A   |=====================|
    tile B              |=====================|
    weight A 1111111111111111\00000000000000000
                        |--2 ovl---|
                            |ovl|

So a pixel that is used lies at least `overlap / 2` inside the tile it comes from, unless the frame ends there: a
network whose receptive radius is at most that gives the same result tiled and untiled.

All tiles have the same size, so that a backend compiles and captures one shape only. Shared pixels are computed twice.
Larger tiles share less, and `fitted_tiles` finds the shape with the fewest computed pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count, islice, pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from esrgan_deploy.errors import OptionError

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

Pixels: TypeAlias = "npt.NDArray[Any]"
MOST_TILES = 1_000_000
"""Of one frame; each takes about a kilobyte beside its pixels."""


@dataclass(frozen=True)
class Placement:
    """The place of one upscaled tile along an axis, in output pixels; intervals are half-open."""

    origin: int
    """Position of the tile's first pixel."""
    before: tuple[int, int]
    """Interval in which the previous tile fades into this one; empty for the first tile."""
    after: tuple[int, int]
    """Interval in which this tile fades into the next one; empty for the last tile."""

    @property
    def own(self) -> tuple[int, int]:
        """Interval that this tile fills alone."""
        return self.before[1], self.after[0]


@dataclass(frozen=True)
class Axis:
    """The tiles along one axis, in input pixels: where they start, and their common length `tile`."""

    size: int
    tile: int
    overlap: int
    starts: tuple[int, ...]

    @classmethod
    def cover(cls, size: int, tile: int, overlap: int, multiple_of: int) -> Axis:
        """The fewest tiles that cover `size`, spread evenly; starts are multiples of `multiple_of`."""
        if tile >= size:
            return cls(size, size, overlap, (0,))
        number = _fewest(size, tile, overlap, multiple_of)
        last = size - tile
        starts = [last * i // (number - 1) // multiple_of * multiple_of for i in range(number)]
        # The last tile must end with the frame; its start is a multiple only if the frame's size is.
        return cls(size, tile, overlap, (*starts[:-1], last))

    def placements(self, scale: int) -> list[Placement]:
        """Where each tile is placed after upscaling by `scale`."""
        size = self.size * scale
        ramps = [(0, 0), *((begin * scale, end * scale) for begin, end in self.ramps()), (size, size)]
        return [Placement(start * scale, *sides) for start, sides in zip(self.starts, pairwise(ramps), strict=True)]

    def ramps(self) -> list[tuple[int, int]]:
        """The intervals, half-open, in which each tile fades into the next one."""
        middles = [(left + self.tile + right) // 2 for left, right in pairwise(self.starts)]
        # Between the middles of two shared regions there must be room for a ramp; small tiles get shorter ones.
        width = min([self.overlap, *(right - left for left, right in pairwise(middles))])
        return [(m - width // 2, m - width // 2 + width) for m in middles]


@dataclass(frozen=True)
class TileGrid:
    """The tiles of all frames of one size; made by `square_tiles` or `fitted_tiles`."""

    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def cut(self, frame: Pixels) -> list[Pixels]:
        """Views of the tiles of `frame` (H, W, C), row by row."""
        height, width = self.rows.tile, self.columns.tile
        return [frame[y : y + height, x : x + width] for y in self.rows.starts for x in self.columns.starts]

    @property
    def overhead(self) -> float:
        """Pixels of all tiles divided by those of the frame: 1 if nothing is computed twice."""
        return len(self) * self.rows.tile * self.columns.tile / (self.rows.size * self.columns.size)

    def join(self, tiles: Iterable[Pixels], scale: int) -> Pixels:
        """Join upscaled tiles, in the order of `cut`, to one frame (H * scale, W * scale, C) of their type.

        Tiles are taken one by one. Beside the frame, one tile is in memory, and the strip that two rows share.
        """
        rest = iter(tiles)
        first = next(rest)
        if len(self) == 1:
            return first
        rest = chain(iter([first]), rest)  # an iterator frees it when it was taken
        height, width = self.rows.size * scale, self.columns.size * scale
        joined = np.empty((height, width, *first.shape[2:]), first.dtype)
        del first
        fading = joined[:0]
        for row in self.rows.placements(scale):
            top, bottom = (
                np.empty((end - begin, *joined.shape[1:]), joined.dtype) for begin, end in (row.before, row.after)
            )
            strips = top, joined[slice(*row.own)], bottom
            self._join_row(islice(rest, len(self.columns.starts)), scale, row, strips)
            joined[slice(*row.before)] = _fade(fading, top, axis=0)
            fading = bottom
        return joined

    def _join_row(
        self, tiles: Iterable[Pixels], scale: int, row: Placement, strips: tuple[Pixels, Pixels, Pixels]
    ) -> None:
        """Join a row of tiles into three strips: the ramp to the row above, the middle, the ramp to the row below."""
        bounds = [bound - row.origin for bound in (*row.before, *row.after)]
        fading: list[Pixels] = [strip[:, :0] for strip in strips]
        for tile, column in zip(tiles, self.columns.placements(scale), strict=True):
            parts = (tile[top:bottom] for top, bottom in pairwise(bounds))
            fading = [_add(*each, column) for each in zip(strips, parts, fading, strict=True)]


@lru_cache(maxsize=8)  # it is called for every frame of a clip
def square_tiles(
    height: int, width: int, tile: int, overlap: int, multiple_of: int = 1, *, even: bool = False
) -> TileGrid:
    """Cover a frame with square tiles of `tile` pixels, overlap included.

    Args:
        height: height of the frame, in pixels like all that follow; a multiple of `multiple_of`.
        width: width of the frame, also a multiple.
        tile: side of a tile; along a shorter axis the tile is as long as the frame.
        overlap: context that each tile has on each inner side.
        multiple_of: tiles begin and end at multiples of this.
        even: make tiles only as long as their number requires, at most `tile`: with an overlap of 16, 400 rows and
            `tile` 384 become two tiles of 216 rows instead of two of 384.

    Raises:
        OptionError: the tile is not larger than twice the overlap, so it would be context only; or it is so small that
            there would be more than a million.
    """
    if overlap < 0:
        raise OptionError(f"overlap {overlap} is negative; give 0 or more pixels")
    tile -= tile % multiple_of
    if tile - 2 * overlap < max(multiple_of, 1) and tile < max(height, width):
        raise OptionError(
            f"tile {tile} is too small for an overlap of {overlap} on both sides; "
            f"choose a tile of at least {2 * overlap + 16} or a smaller overlap"
        )
    number = _fewest(height, tile, overlap, multiple_of) * _fewest(width, tile, overlap, multiple_of)
    if number > MOST_TILES:
        raise OptionError(f"tile {tile} cuts {width}x{height} pixels into {number} tiles; choose a larger one")
    tall = wide = tile
    if even:
        tall, wide = (
            _shortest(size, _fewest(size, tile, overlap, multiple_of), overlap, multiple_of) for size in (height, width)
        )
    return TileGrid(Axis.cover(height, tall, overlap, multiple_of), Axis.cover(width, wide, overlap, multiple_of))


@lru_cache(maxsize=8)
def fitted_tiles(height: int, width: int, most_pixels: int, overlap: int, multiple_of: int = 1) -> TileGrid:
    """Cover a frame with tiles of at most `most_pixels`, overlap included, so that the fewest pixels are computed.

    A tile gets at least the pixels of a square whose side is four overlaps, even if that is more than `most_pixels`:
    smaller tiles would be hardly more than context.

    Args:
        height: height of the frame, in pixels; a multiple of `multiple_of`.
        width: width of the frame, also a multiple.
        most_pixels: most pixels of one tile.
        overlap: context that each tile has on each inner side.
        multiple_of: tiles begin and end at multiples of this.
    """
    shared = _shared(overlap, multiple_of)
    least_side = max(2 * shared, multiple_of)
    most_pixels = max(most_pixels, least_side**2)
    candidates = []
    for rows in count(1):
        tall = _shortest(height, rows, overlap, multiple_of)
        longest = most_pixels // tall // multiple_of * multiple_of
        if longest >= min(width, least_side):
            columns = _fewest(width, longest, overlap, multiple_of)
            wide = _shortest(width, columns, overlap, multiple_of)
            candidates.append((rows * columns * tall * wide, rows * columns, tall, wide))
        if tall <= least_side:  # lower tiles would be mostly context
            break
    _, _, tall, wide = min(candidates)
    return TileGrid(Axis.cover(height, tall, overlap, multiple_of), Axis.cover(width, wide, overlap, multiple_of))


def _shared(overlap: int, multiple_of: int) -> int:
    """The least number of pixels that two neighbouring tiles share."""
    return 2 * overlap + -2 * overlap % multiple_of


def _fewest(size: int, longest: int, overlap: int, multiple_of: int) -> int:
    """How many tiles of length `longest`, a multiple of `multiple_of`, cover `size`."""
    if longest >= size:
        return 1
    return 1 + -(-(size - longest) // (longest - _shared(overlap, multiple_of)))


def _shortest(size: int, number: int, overlap: int, multiple_of: int) -> int:
    """Length of the shortest tile, a multiple of `multiple_of`, of which `number` cover `size`."""
    tile = -(-(size + (number - 1) * _shared(overlap, multiple_of)) // number)
    return min(size, tile + -tile % multiple_of)


def _add(strip: Pixels, part: Pixels, fading: Pixels, place: Placement) -> Pixels:
    """Write a tile's part of a strip, after its ramp from `fading`, the end of the tile before; return its own end."""

    def between(interval: tuple[int, int]) -> Pixels:
        return part[:, interval[0] - place.origin : interval[1] - place.origin]

    strip[:, slice(*place.before)] = _fade(fading, between(place.before), axis=1)
    strip[:, slice(*place.own)] = between(place.own)
    return between(place.after)


def _fade(left: Pixels, right: Pixels, axis: int) -> Pixels:
    """Linear transition along `axis`; equal values stay as they are, integers are rounded."""
    steps = left.shape[axis]
    weight = (np.arange(steps, dtype=np.float32) + 0.5) / max(steps, 1)
    weight = np.expand_dims(weight, tuple(k for k in range(left.ndim) if k != axis))
    mixed = left + weight * (right.astype(np.float32) - left)
    return np.rint(mixed).astype(left.dtype) if np.issubdtype(left.dtype, np.integer) else mixed.astype(left.dtype)
