"""Work that need not be done: a tile that shows what it showed in the frame before keeps its result.

A network's result for a tile is decided by the tile's pixels, its overlap included. Where these are equal, the old
result is the exact one; nothing is estimated.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import astuple, dataclass
from functools import cached_property

import numpy as np

from esrgan_deploy.frame_io import Frames

SAMPLE = 16
"""Every so manyth row is compared first: where the picture moves, that nearly always settles it."""


@dataclass
class Counts:
    """What was asked for, and how much of it was there already."""

    frames: int = 0
    frames_reused: int = 0
    """Frames of which every tile was reused."""
    tiles: int = 0
    """Of all frames; a frame that is not tiled is one tile."""
    tiles_reused: int = 0

    def add(self, tiles: int, reused: int) -> None:
        """Count one frame of `tiles` tiles."""
        self.frames += 1
        self.frames_reused += reused == tiles
        self.tiles += tiles
        self.tiles_reused += reused

    @property
    def share_reused(self) -> float:
        """Of the tiles; 0 where there is none."""
        return self.tiles_reused / max(1, self.tiles)

    def since(self, before: Counts) -> Counts:
        """What was added since these counts were equal to `before`."""
        return Counts(*map(operator.sub, astuple(self), astuple(before)))

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(operator.add, astuple(self), astuple(other)))


class TileResult:
    """The enlarged pixels of one tile, as soon as they are there. All frames that show the tile share it.

    Args:
        source: the tile's input pixels.
        tolerance: the largest difference from them, in 8-bit code values, that passes for equal.
        detach: copy the result out of its batch. As a view it keeps the whole batch in memory for as long as the tile
            stands still, which adds up over the tiles of a frame.
    """

    def __init__(self, source: Frames, tolerance: int, *, detach: bool) -> None:
        # With a tolerance these pixels stay the measure, so that a slow drift adds up and is noticed. They are copied
        # for that: as a view, each tile would keep alive the frame that it last changed in.
        self.source = source.copy() if tolerance else source
        self._tolerance = tolerance
        self._detach = detach
        self._batch: Future[Frames] | None = None
        self._index = 0

    def holds_for(self, tile: Frames) -> bool:
        """Tell whether this is the result for `tile` too, which has the shape and type of `source`."""
        if not _differ_at_most(self._tolerance, self.source, tile):
            return False
        if not self._tolerance:
            self.source = tile  # equal, so as good as the older frame, which can be let go
        return True

    def expect(self, batch: Future[Frames], index: int) -> None:
        """Say where the result will be: at `index` of `batch`."""
        self._batch, self._index = batch, index

    @cached_property
    def pixels(self) -> Frames:
        """Wait for the result, which must be expected by now; what the session raised is raised here."""
        assert self._batch is not None
        pixels: Frames = self._batch.result()[self._index]
        self._batch = None
        return pixels.copy() if self._detach else pixels

    def take(self) -> Frames:
        """Like `pixels`, for the last time: nothing is kept."""
        pixels = self.pixels
        del self.pixels
        return pixels


class FrameResult:
    """An enlarged frame, joined from its tiles when it is first asked for. Frames that are equal share it.

    Args:
        tiles: of the frame.
        join: makes the frame of their pixels, which it takes one by one.
        keep: the enlarged tiles, for frames that share some of them.
    """

    def __init__(self, tiles: list[TileResult], join: Callable[[Iterable[Frames]], Frames], *, keep: bool) -> None:
        self.tiles = tiles
        self._join = join
        self._keep = keep

    @cached_property
    def pixels(self) -> Frames:
        """Wait for the tiles and join them: the same array for everybody who asks."""
        return self._join(tile.pixels if self._keep else tile.take() for tile in self.tiles)


def _differ_at_most(tolerance: int, one: Frames, other: Frames) -> bool:
    """Tell whether no value of two tiles of one shape and type differs by more than `tolerance` 8-bit code values."""
    import cv2

    largest = tolerance * (257 if one.dtype == np.uint16 else 1)
    sample, everything = slice(None, None, SAMPLE), slice(None)
    return all(cv2.norm(one[rows], other[rows], cv2.NORM_INF) <= largest for rows in (sample, everything))
