"""Reuse the result of a tile that did not change since the frame before.

The pixels of a tile, overlap included, decide what the network makes of it. If they are equal the old result is the
exact one: nothing is estimated.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import astuple, dataclass
from functools import cached_property

import numpy as np

from esrgan_deploy.arguments import check_result
from esrgan_deploy.frame_io import Frames

ROW_STEP = 16
"""Of two tiles, each 16th row is compared first: if the picture moves, some of these nearly always differ."""


@dataclass
class Counts:
    """Frames and tiles that were asked for, and how many of them were reused."""

    frames: int = 0
    frames_reused: int = 0
    """Frames of which every tile was reused."""
    tiles: int = 0
    """Tiles of all frames; a frame that is not tiled is one tile."""
    tiles_reused: int = 0

    def add(self, tiles: int, reused: int) -> None:
        """Count one frame of `tiles` tiles, of which `reused` were reused."""
        self.frames += 1
        self.frames_reused += reused == tiles
        self.tiles += tiles
        self.tiles_reused += reused

    @property
    def share_reused(self) -> float:
        """Share of the tiles that were reused, 0 to 1; 0 if there are none."""
        return self.tiles_reused / max(1, self.tiles)

    def since(self, before: Counts) -> Counts:
        """What was counted after `before`, an earlier copy of these counts."""
        return Counts(*map(operator.sub, astuple(self), astuple(before)))

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(operator.add, astuple(self), astuple(other)))


class TileResult:
    """The future result of one tile, shared by all frames in which the tile is the same.

    Args:
        source: the tile's input pixels.
        tolerance: largest difference, in 8-bit code values, at which another tile counts as the same.
        detach: copy the result out of its batch. A view would keep the whole batch in memory for as long as the tile
            does not change.
    """

    def __init__(self, source: Frames, tolerance: int, *, detach: bool) -> None:
        # With a tolerance, later tiles are compared with these pixels and not with the tile before, so that a slow
        # drift adds up and is noticed. They are copied, since a view would keep its whole frame in memory.
        self.source = source.copy() if tolerance else source
        self._tolerance = tolerance
        self._detach = detach
        self._batch: Future[Frames] | None = None
        self._index, self._scale = 0, 0

    def holds_for(self, tile: Frames) -> bool:
        """Whether this is also the result for `tile`, which has the shape and type of `source`."""
        if not _differ_at_most(self._tolerance, self.source, tile):
            return False
        if not self._tolerance:
            self.source = tile  # equal pixels; the older frame can be freed
        return True

    def expect(self, batch: Future[Frames], index: int, scale: int) -> None:
        """Set where the result will be: at `index` of `batch`, enlarged `scale` times."""
        self._batch, self._index, self._scale = batch, index, scale

    @cached_property
    def pixels(self) -> Frames:
        """Wait for the result; `expect` was called before. Errors of the session are raised here."""
        assert self._batch is not None
        batch, self._batch = self._batch.result(), None
        own = batch[self._index : self._index + 1] if isinstance(batch, np.ndarray) else batch
        check_result(self.source[None], own, self._scale, "the session")
        pixels: Frames = own[0]
        return pixels.copy() if self._detach else pixels

    def take(self) -> Frames:
        """Like `pixels`, but the result is not kept."""
        pixels = self.pixels
        del self.pixels
        return pixels


class FrameResult:
    """An upscaled frame, joined from its tiles when it is first asked for. Equal frames share one.

    Args:
        tiles: results of the frame's tiles.
        join: makes the upscaled frame of the upscaled tiles, which it takes one by one.
        keep: whether the upscaled tiles are kept for the next frames.
    """

    def __init__(self, tiles: list[TileResult], join: Callable[[Iterable[Frames]], Frames], *, keep: bool) -> None:
        self.tiles = tiles
        self._join = join
        self._keep = keep

    @cached_property
    def pixels(self) -> Frames:
        """Wait for the tiles and join them; later calls return the same array."""
        return self._join(tile.pixels if self._keep else tile.take() for tile in self.tiles)


def _differ_at_most(tolerance: int, one: Frames, other: Frames) -> bool:
    """Whether two tiles of one shape and type differ nowhere by more than `tolerance` 8-bit code values."""
    import cv2

    largest = tolerance * (257 if one.dtype == np.uint16 else 1)
    sample, all_rows = slice(None, None, ROW_STEP), slice(None)
    return all(cv2.norm(one[rows], other[rows], cv2.NORM_INF) <= largest for rows in (sample, all_rows))
