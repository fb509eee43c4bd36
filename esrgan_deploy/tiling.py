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

All tiles have the same size, so that a backend compiles and captures one shape only.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from esrgan_deploy.errors import OptionError

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

Pixels: TypeAlias = "npt.NDArray[Any]"


@dataclass(frozen=True)
class Axis:
    """Where the tiles of one axis begin, in input pixels."""

    size: int
    tile: int
    overlap: int
    starts: tuple[int, ...]

    @classmethod
    def plan(cls, size: int, tile: int, overlap: int, multiple_of: int) -> Axis:
        """Fewest tiles that cover `size`, spread evenly; starts are multiples of `multiple_of`."""
        if tile >= size:
            return cls(size, size, overlap, (0,))
        step = tile - 2 * overlap - (tile - 2 * overlap) % multiple_of
        count = 1 + -(-(size - tile) // step)
        last = size - tile
        starts = [last * i // (count - 1) // multiple_of * multiple_of for i in range(count)]
        # The last tile must end with the frame; its start is a multiple only if the frame's size is.
        return cls(size, tile, overlap, (*starts[:-1], last))

    def ramps(self) -> list[tuple[int, int]]:
        """The half-open interval between each two neighbours over which one fades into the other."""
        middles = [(left + self.tile + right) // 2 for left, right in pairwise(self.starts)]
        # Tiles hardly larger than their overlap leave less room between two middles than a whole ramp takes.
        width = min([self.overlap, *(right - left for left, right in pairwise(middles))])
        return [(m - width // 2, m - width // 2 + width) for m in middles]


@dataclass(frozen=True)
class Tiling:
    """The plan for frames of one size; made by `plan`."""

    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def cut(self, frame: Pixels) -> list[Pixels]:
        """Views of the tiles of `frame` (H, W, C), row by row."""
        height, width = self.rows.tile, self.columns.tile
        return [frame[y : y + height, x : x + width] for y in self.rows.starts for x in self.columns.starts]

    def join(self, tiles: list[Pixels], scale: int) -> Pixels:
        """Join upscaled tiles, in the order of `cut`, to one (H * scale, W * scale, C) frame of their type."""
        if len(tiles) == 1:
            return tiles[0]
        per_row = len(self.columns.starts)
        strips = [
            _join_along(tiles[i : i + per_row], self.columns, scale, axis=1) for i in range(0, len(tiles), per_row)
        ]
        return _join_along(strips, self.rows, scale, axis=0)


def plan(height: int, width: int, tile: int, overlap: int, multiple_of: int = 1) -> Tiling:
    """Plan square tiles of `tile` pixels, overlap included, over a frame.

    Args:
        height: of the frame, in pixels, like all that follow; a multiple of `multiple_of`.
        width: likewise.
        tile: side of a tile; along an axis that is shorter, the tile is as long as the frame.
        overlap: context that each tile has beyond its own part, on each inner side.
        multiple_of: tiles begin and end at multiples of this.

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
    return Tiling(Axis.plan(height, tile, overlap, multiple_of), Axis.plan(width, tile, overlap, multiple_of))


def _join_along(parts: list[Pixels], places: Axis, scale: int, axis: int) -> Pixels:
    """Join neighbours along one axis: their own parts are copied, the ramps between them are blended."""
    if len(parts) == 1:
        return parts[0]

    def span(begin: int, end: int) -> tuple[slice, ...]:
        return (*[slice(None)] * axis, slice(begin, end))

    shape = list(parts[0].shape)
    shape[axis] = places.size * scale
    joined = np.empty(shape, dtype=parts[0].dtype)
    origins = [start * scale for start in places.starts]
    ramps = [(begin * scale, end * scale) for begin, end in places.ramps()]
    own_begins = [0, *(end for _, end in ramps)]
    own_ends = [*(begin for begin, _ in ramps), shape[axis]]
    for part, origin, begin, end in zip(parts, origins, own_begins, own_ends, strict=True):
        joined[span(begin, end)] = part[span(begin - origin, end - origin)]
    for i, (begin, end) in enumerate(ramps):
        left, right = (parts[k][span(begin - origins[k], end - origins[k])] for k in (i, i + 1))
        joined[span(begin, end)] = _fade(left, right, axis)
    return joined


def _fade(left: Pixels, right: Pixels, axis: int) -> Pixels:
    """Linear transition along `axis`; equal inputs come out unchanged, integers are rounded."""
    steps = left.shape[axis]
    weight = (np.arange(steps, dtype=np.float32) + 0.5) / max(steps, 1)
    weight = np.expand_dims(weight, [k for k in range(left.ndim) if k != axis])
    mixed = left + weight * (right.astype(np.float32) - left)
    return np.rint(mixed).astype(left.dtype) if np.issubdtype(left.dtype, np.integer) else mixed.astype(left.dtype)
