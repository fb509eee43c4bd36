"""Upscaler: frames in, frames out, over one Session, with tiles where a frame is too large."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from esrgan_deploy import tiling
from esrgan_deploy.backends.session import Session, check_batch
from esrgan_deploy.errors import OptionError
from esrgan_deploy.frame_io import Frames
from esrgan_deploy.tile_reuse import Counts, FrameResult, TileResult

if TYPE_CHECKING:
    from typing_extensions import Self

UNMEASURED_OVERLAP = 32
"""Input pixels of context for a model that does not say what it needs."""
_BY_MEMORY = "auto, up to {} pixels"
"""Tiles in an identity, where they follow the memory."""
AUTO_TILE = 384
"""Side of tiles where the session prepares for each shape, so that all frames should have one."""


class Upscaler:
    """Upscales frames of any size in order, with work in flight.

        with Upscaler(open_session("model.onnx")) as upscaler:
            for large in upscaler.map(frames):
                ...

    It owns its session: closing the one closes the other.
    """

    def __init__(
        self,
        session: Session,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        batch: int = 1,
        outscale: float | None = None,
        tolerance: int = 0,
    ) -> None:
        """Plan for `session`.

        Args:
            session: from `open_session`.
            tile: side of a tile in input pixels, overlap included, at most; 0: never tile; None: tile what is too large
                for the memory, in the shape that computes the fewest pixels twice.
            overlap: context of a tile on each inner side, in input pixels; None: what the model was measured to need.
            batch: frames, or tiles of them, that go to the session together.
            outscale: enlargement wanted, if other than the network's: its output is resampled to that.
            tolerance: `map` takes a tile for unchanged that differs nowhere by more than this, in code values of 8 bits
                (257 times as much in 16), from the pixels that its result was made from. 0: only if it is equal.

        Raises:
            OptionError: a value out of range, or a tile that is not larger than its overlap on both sides.
        """
        for name, value, smallest in (("tile", tile, 0), ("overlap", overlap, 0), ("batch", batch, 1)):
            if value is not None and value < smallest:
                raise OptionError(f"{name} {value} is too small; give at least {smallest}")
        if not 0 <= tolerance <= 255:
            raise OptionError(f"tolerance {tolerance} is out of range; give 0 (equal) to 255")
        if outscale is not None and not 0 < outscale <= 64:
            raise OptionError(f"outscale {outscale:g} is out of range; give a value above 0, up to 64")
        measured = session.info.overlap
        self.session = session
        self.scale = session.info.scale
        self.overlap = overlap if overlap is not None else UNMEASURED_OVERLAP if measured is None else measured
        self.batch = batch
        self.tolerance = tolerance
        self.counts = Counts()
        self._tile = tile
        self._affordable = session.largest_untiled
        self._outscale = outscale if outscale != self.scale else None
        if tile:
            tiling.square_tiles(2 * tile, 2 * tile, tile, self.overlap, session.info.multiple_of)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a frame of the given height and width gets, in pixels."""
        factor = self._outscale or self.scale
        return max(1, round(height * factor)), max(1, round(width * factor))

    def identity(self) -> dict[str, str | int | float | None]:
        """Everything that decides what becomes of a frame, for a record: equal entries, equal results.

        The number of threads and the batch are not in it, since results do not depend on them.
        """
        return {
            "model_sha256": self.session.model_sha256,
            "backend": self.session.backend,
            "precision": self.session.precision,
            "scale": self.scale,
            "outscale": self._outscale or self.scale,
            "tile": self._named_tile(),
            "overlap": self.overlap,
            "tolerance": self.tolerance,
        }

    def follow(self, identity: Mapping[str, Any], height: int, width: int) -> None:
        """Cut frames of one size as the Upscaler of another machine does, where there is the memory for it here.

        Machines that choose tiles by themselves choose them by their memory, and results depend on tiles.

        Args:
            identity: of the other Upscaler; where more is different than the memory for tiles, it stays so.
            height: of the frames, in pixels.
            width: likewise.
        """
        named = re.fullmatch(_BY_MEMORY.format(r"(\d+)"), str(identity["tile"]))
        if named is None or self._tile is not None or not self._any_shape:
            return
        self.session.largest_untiled = self._affordable
        own = self.tiles_of(height, width)
        self.session.largest_untiled = int(named[1])
        if int(named[1]) > self._affordable and self.tiles_of(height, width) != own:
            self.session.largest_untiled = self._affordable

    def tiles_of(self, height: int, width: int) -> tiling.TileGrid | None:
        """How a frame of the given height and width is cut, filled up to what the model takes; None: it is not.

        `TileGrid.overhead` tells what that costs.
        """
        multiple, most = self.session.info.multiple_of, self.session.largest_untiled
        filled = height + -height % multiple, width + -width % multiple
        tile = self._tile
        if tile is None:
            if height * width <= most:
                return None
            if self._any_shape:
                return tiling.fitted_tiles(*filled, most, self.overlap, multiple)
            tile = max(AUTO_TILE, 4 * self.overlap)
        if not tile or tile >= max(height, width):
            return None
        return tiling.square_tiles(*filled, tile, self.overlap, multiple, even=self._any_shape)

    def upscale(self, frame: Frames) -> Frames:
        """Upscale one frame, uint8 or uint16 (H, W, 3) RGB, to one of the same type and of `output_size`.

        Beside the two frames, this takes the memory of a tile, and of those enlarged ones that are not joined yet.
        """
        work = _Work(self, keep=False)
        return work.finish(work.add(frame))

    def map(self, frames: Iterable[Frames]) -> Iterator[Frames]:
        """Upscale `frames`, each like `upscale`, in order and lazily; what stands still is computed once.

        A tile that shows, with its overlap, what it showed in the frame before keeps its result. A frame that is not
        tiled, like a small one if `tile` is None, is one tile: `tile` decides the grain. A frame of another size or
        type than the one before starts anew, and so does each call; `counts` adds up over all of them. Where nothing of
        a frame is new, the very same array comes out as for the frame before, which `is` tells. So modify no result,
        and no frame that was given.

        While one batch is computed the next one is already submitted, and the results of the previous one are handed
        out; so at most `3 * batch` frames are held, not counting repetitions, which need no memory. Of frames and
        repetitions together at most `12 * batch` are taken in before the first one is handed out.
        """
        work = _Work(self)
        in_flight: deque[FrameResult] = deque()
        for frame in frames:
            in_flight.append(work.add(frame))
            while len(set(in_flight)) >= 3 * self.batch or len(in_flight) >= 12 * self.batch:
                yield work.finish(in_flight.popleft())
        while in_flight:
            yield work.finish(in_flight.popleft())

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut(self, frame: Frames) -> tuple[list[Frames], Callable[[Iterable[Frames]], Frames]]:
        """The tiles of a frame, and the function that makes the enlarged frame of the enlarged tiles."""
        height, width = frame.shape[:2]
        grid = self.tiles_of(height, width)
        if grid is None:
            return [frame], lambda tiles: self._resampled(next(iter(tiles)), height, width)
        missing = grid.rows.size - height, grid.columns.size - width
        padded = np.pad(frame, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge") if any(missing) else frame

        def join(tiles: Iterable[Frames]) -> Frames:
            joined = grid.join(tiles, self.scale)
            return self._resampled(joined[: height * self.scale, : width * self.scale], height, width)

        return grid.cut(padded), join

    def _resampled(self, enlarged: Frames, height: int, width: int) -> Frames:
        """What the network made of a frame of this size, in the size asked for."""
        return enlarged if self._outscale is None else _resample(enlarged, self.output_size(height, width))

    def _named_tile(self) -> str | int:
        """For `identity`. How large a tile may be depends on the machine's memory, and how frames are cut on that."""
        if self._tile is not None:
            return self._tile
        return _BY_MEMORY.format(self.session.largest_untiled) if self._any_shape else "auto"

    @property
    def _any_shape(self) -> bool:
        return self.session.any_shape and self.session.info.fixed_size is None


class _Work:
    """One call of `map`: cuts frames, finds what is known of them, and sends the rest to the session in batches."""

    def __init__(self, upscaler: Upscaler, *, keep: bool = True) -> None:
        """`keep`: the enlarged tiles of a frame, for the one after it."""
        self._upscaler = upscaler
        self._keep = keep
        self._kind: object = None
        self._last: FrameResult | None = None
        self._waiting: list[TileResult] = []

    def add(self, frame: Frames) -> FrameResult:
        """Take in a frame; where nothing of it is new, its result is that of the last one.

        Raises:
            OptionError: no uint8 or uint16 (H, W, 3), or a size that the model is not made for.
        """
        frame_type = check_batch(frame[None])
        cut, join = self._upscaler._cut(frame)
        kind = (frame.shape, frame.dtype, self._upscaler.session.model_sha256)  # the last changes with alpha
        if self._kind != kind:
            self._submit_waiting()  # a batch has one shape and type
            self._kind, self._last = kind, None
            height, width = cut[0].shape[:2]
            self._upscaler.session.prepare((self._upscaler.batch, height, width), frame_type)
        known = self._last.tiles if self._last else [None] * len(cut)
        tiles = [
            result if result and result.holds_for(tile) else self._new_tile(tile, alone=len(cut) == 1)
            for tile, result in zip(cut, known, strict=True)
        ]
        reused = sum(tile is old for tile, old in zip(tiles, known, strict=True))
        if self._last is None or reused < len(tiles):
            self._last = FrameResult(tiles, join, keep=self._keep)
        self._upscaler.counts.add(len(tiles), reused)
        return self._last

    def finish(self, result: FrameResult) -> Frames:
        """Wait for a result; a batch that it needs is no longer kept open for more."""
        if not set(self._waiting).isdisjoint(result.tiles):
            self._submit_waiting()
        return result.pixels

    def _new_tile(self, tile: Frames, *, alone: bool) -> TileResult:
        batch = self._upscaler.batch
        result = TileResult(tile, self._upscaler.tolerance, detach=batch > 1 and not alone)
        self._waiting.append(result)
        if len(self._waiting) == batch:
            self._submit_waiting()
        return result

    def _submit_waiting(self) -> None:
        if not self._waiting:
            return
        tiles = [result.source for result in self._waiting]
        batch = self._upscaler.session.submit(tiles[0][None] if len(tiles) == 1 else np.stack(tiles))
        for index, result in enumerate(self._waiting):
            result.expect(batch, index)
        self._waiting = []


def _resample(frame: Frames, size: tuple[int, int]) -> Frames:
    """Resize to (height, width): by area when shrinking, against moire; by Lanczos when enlarging."""
    import cv2

    method = cv2.INTER_AREA if size[0] < frame.shape[0] else cv2.INTER_LANCZOS4
    resized: Frames = cv2.resize(frame, size[::-1], interpolation=method)
    return resized
