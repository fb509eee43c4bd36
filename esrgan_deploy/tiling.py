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

All tiles have the same size, so that a backend compiles and captures one shape only. What they share is computed twice:
the larger they are, the less that is, and `fitted_tiles` finds the shape for which it is least.
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


@dataclass(frozen=True)
class Part:
    """Where one tile of an axis comes to lie, in output pixels; intervals are half-open."""

    origin: int
    """Of its first pixel."""
    before: tuple[int, int]
    """Over which the tile before fades into it; empty for the first one."""
    after: tuple[int, int]
    """Over which it fades into the next tile; empty for the last one."""

    @property
    def own(self) -> tuple[int, int]:
        """What no other tile takes part in."""
        return self.before[1], self.after[0]


@dataclass(frozen=True)
class Axis:
    """Where the tiles of one axis begin, in input pixels."""

    size: int
    tile: int
    overlap: int
    starts: tuple[int, ...]

    @classmethod
    def cover(cls, size: int, tile: int, overlap: int, multiple_of: int) -> Axis:
        """Fewest tiles that cover `size`, spread evenly; starts are multiples of `multiple_of`."""
        if tile >= size:
            return cls(size, size, overlap, (0,))
        number = _fewest(size, tile, overlap, multiple_of)
        last = size - tile
        starts = [last * i // (number - 1) // multiple_of * multiple_of for i in range(number)]
        # The last tile must end with the frame; its start is a multiple only if the frame's size is.
        return cls(size, tile, overlap, (*starts[:-1], last))

    def parts(self, scale: int) -> list[Part]:
        """What becomes of each tile when tiles that were enlarged by `scale` are joined."""
        size = self.size * scale
        ramps = [(0, 0), *((begin * scale, end * scale) for begin, end in self.ramps()), (size, size)]
        return [Part(start * scale, *sides) for start, sides in zip(self.starts, pairwise(ramps), strict=True)]

    def ramps(self) -> list[tuple[int, int]]:
        """The half-open interval between each two neighbours over which one fades into the other."""
        middles = [(left + self.tile + right) // 2 for left, right in pairwise(self.starts)]
        # Tiles hardly larger than their overlap leave less room between two middles than a whole ramp takes.
        width = min([self.overlap, *(right - left for left, right in pairwise(middles))])
        return [(m - width // 2, m - width // 2 + width) for m in middles]


@dataclass(frozen=True)
class TileGrid:
    """The tiles of frames of one size; made by `square_tiles` or `fitted_tiles`."""

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
        """Pixels of all tiles over those of the frame: 1 where nothing is computed twice."""
        return len(self) * self.rows.tile * self.columns.tile / (self.rows.size * self.columns.size)

    def join(self, tiles: Iterable[Pixels], scale: int) -> Pixels:
        """Join upscaled tiles, in the order of `cut`, to one (H * scale, W * scale, C) frame of their type.

        Tiles are taken one by one: beside the frame, one of them is held, and what two rows of them share.
        """
        rest = iter(tiles)
        first = next(rest)
        if len(self) == 1:
            return first
        rest = chain(iter([first]), rest)  # which lets go of it, as the list would not
        height, width = self.rows.size * scale, self.columns.size * scale
        joined = np.empty((height, width, *first.shape[2:]), first.dtype)
        del first
        fading = joined[:0]
        for row in self.rows.parts(scale):
            top, bottom = (
                np.empty((end - begin, *joined.shape[1:]), joined.dtype) for begin, end in (row.before, row.after)
            )
            strips = top, joined[slice(*row.own)], bottom
            self._join_row(islice(rest, len(self.columns.starts)), scale, row, strips)
            joined[slice(*row.before)] = _fade(fading, top, axis=0)
            fading = bottom
        return joined

    def _join_row(self, tiles: Iterable[Pixels], scale: int, row: Part, strips: tuple[Pixels, Pixels, Pixels]) -> None:
        """Join a row of tiles to what of it lies before, between and after the ramps to the rows beside it."""
        bounds = [bound - row.origin for bound in (*row.before, *row.after)]
        fading: list[Pixels] = [strip[:, :0] for strip in strips]
        for tile, column in zip(tiles, self.columns.parts(scale), strict=True):
            parts = (tile[top:bottom] for top, bottom in pairwise(bounds))
            fading = [_add(*each, column) for each in zip(strips, parts, fading, strict=True)]


@lru_cache(maxsize=8)  # a clip asks for every frame
def square_tiles(
    height: int, width: int, tile: int, overlap: int, multiple_of: int = 1, *, even: bool = False
) -> TileGrid:
    """Plan square tiles of `tile` pixels, overlap included, over a frame.

    Args:
        height: of the frame, in pixels, like all that follow; a multiple of `multiple_of`.
        width: likewise.
        tile: side of a tile; along an axis that is shorter, the tile is as long as the frame.
        overlap: context that each tile has beyond its own part, on each inner side.
        multiple_of: tiles begin and end at multiples of this.
        even: take `tile` for the longest side that is allowed, and no longer ones than so many tiles need: 400 rows
            become twice 216 if the overlap is 16, and not twice 384.

    Raises:
        OptionError: the tile is not larger than twice the overlap, so nothing of it would be its own.
    """
    if overlap < 0:
        raise OptionError(f"overlap {overlap} is negative; give 0 or more pixels")
    tile -= tile % multiple_of
    if tile - 2 * overlap < max(multiple_of, 1) and tile < max(height, width):
        raise OptionError(
            f"tile {tile} is too small for an overlap of {overlap} on both sides; "
            f"choose a tile of at least {2 * overlap + 16} or a smaller overlap"
        )
    tall = wide = tile
    if even:
        tall, wide = (
            _shortest(size, _fewest(size, tile, overlap, multiple_of), overlap, multiple_of) for size in (height, width)
        )
    return TileGrid(Axis.cover(height, tall, overlap, multiple_of), Axis.cover(width, wide, overlap, multiple_of))


@lru_cache(maxsize=8)
def fitted_tiles(height: int, width: int, most_pixels: int, overlap: int, multiple_of: int = 1) -> TileGrid:
    """Plan tiles of at most `most_pixels`, overlap included, that compute the fewest pixels in all.

    Where so few pixels would leave tiles little of their own, they get as many as a square of four overlaps has.

    Args:
        height: of the frame, in pixels; a multiple of `multiple_of`.
        width: likewise.
        most_pixels: of one tile.
        overlap: context that each tile has beyond its own part, on each inner side.
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
        if tall <= least_side:  # still lower tiles would share most of what they are
            break
    _, _, tall, wide = min(candidates)
    return TileGrid(Axis.cover(height, tall, overlap, multiple_of), Axis.cover(width, wide, overlap, multiple_of))


def _shared(overlap: int, multiple_of: int) -> int:
    """Pixels that two neighbours share at least."""
    return 2 * overlap + -2 * overlap % multiple_of


def _fewest(size: int, longest: int, overlap: int, multiple_of: int) -> int:
    """How many tiles of `longest`, a multiple, it takes to cover `size`."""
    if longest >= size:
        return 1
    return 1 + -(-(size - longest) // (longest - _shared(overlap, multiple_of)))


def _shortest(size: int, number: int, overlap: int, multiple_of: int) -> int:
    """The shortest tile, a multiple, of which `number` cover `size`."""
    tile = -(-(size + (number - 1) * _shared(overlap, multiple_of)) // number)
    return min(size, tile + -tile % multiple_of)


def _add(strip: Pixels, part: Pixels, fading: Pixels, place: Part) -> Pixels:
    """Write what a tile has of a strip, `fading` being left of the tile before, and return what is left of this one."""

    def between(interval: tuple[int, int]) -> Pixels:
        return part[:, interval[0] - place.origin : interval[1] - place.origin]

    strip[:, slice(*place.before)] = _fade(fading, between(place.before), axis=1)
    strip[:, slice(*place.own)] = between(place.own)
    return between(place.after)


def _fade(left: Pixels, right: Pixels, axis: int) -> Pixels:
    """Linear transition along `axis`; equal inputs come out unchanged, integers are rounded."""
    steps = left.shape[axis]
    weight = (np.arange(steps, dtype=np.float32) + 0.5) / max(steps, 1)
    weight = np.expand_dims(weight, tuple(k for k in range(left.ndim) if k != axis))
    mixed = left + weight * (right.astype(np.float32) - left)
    return np.rint(mixed).astype(left.dtype) if np.issubdtype(left.dtype, np.integer) else mixed.astype(left.dtype)
