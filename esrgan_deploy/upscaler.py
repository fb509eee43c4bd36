"""Upscaler: frames in, frames out, over one Session, in tiles where a frame is too large."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from esrgan_deploy import tiling
from esrgan_deploy.arguments import check_at_least, check_frame, described
from esrgan_deploy.backends.session import Session
from esrgan_deploy.budget import check_memory
from esrgan_deploy.errors import ClosedError, OptionError
from esrgan_deploy.frame_io import Frames
from esrgan_deploy.tile_reuse import Counts, FrameResult, TileResult

if TYPE_CHECKING:
    from typing_extensions import Self

UNMEASURED_OVERLAP = 32
"""Overlap, in input pixels, for a model that does not say what it needs."""
_BY_MEMORY = "auto, up to {} pixels"
"""Entry "tile" of an identity, where the size of tiles depends on the memory."""
AUTO_TILE = 384
"""Side of a tile, in input pixels, where the session prepares for each shape: one shape then does for all frames."""


class Upscaler:
    """Upscales frames of any size, in order.

        with Upscaler(open_session("model.onnx")) as upscaler:
            for large in upscaler.map(frames):
                ...

    It owns its session and closes it. Results are new arrays; `map` may give the same one several times.
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
        """Upscale with `session`.

        Args:
            session: from `open_session`.
            tile: longest side of a tile in input pixels, overlap included; 0: never tile; None: tile frames that are
                too large for the memory, in the shape that computes the fewest pixels twice.
            overlap: context of a tile on each inner side, in input pixels; None: what the model was measured to need.
            batch: number of frames or tiles that go to the session together.
            outscale: enlargement, 1/64 to 64; None: that of the network. The network's output is resampled.
            tolerance: `map` reuses the result of a tile whose values differ by at most this from those that the result
                was computed from, in 8-bit code values (times 257 for 16 bits). 0: only of an equal tile.

        Raises:
            OptionError: no session, a value out of range, or a tile that is not larger than its overlap on both sides.
        """
        if not isinstance(session, Session):
            raise OptionError(f"an Upscaler takes a session, from open_session(model); received {described(session)}")
        check_at_least(0, tile=tile, overlap=overlap, tolerance=tolerance)
        check_at_least(1, batch=batch)
        if tolerance > 255:
            raise OptionError(f"tolerance {tolerance} is out of range; give 0 (equal) to 255")
        if outscale is not None and not (isinstance(outscale, Real) and 1 / 64 <= outscale <= 64):
            raise OptionError(f"outscale {described(outscale)} is out of range; give a value from 1/64 to 64")
        measured = session.info.overlap
        self.session = session
        self.scale = session.info.scale
        self.overlap = overlap if overlap is not None else UNMEASURED_OVERLAP if measured is None else measured
        self.batch = batch
        self.tolerance = tolerance
        self.counts = Counts()
        """What `upscale` and `map` were given so far, and how much of it was reused."""
        self._closed = False
        self._tile = tile
        self._affordable = session.largest_untiled
        self._outscale = outscale if outscale != self.scale else None
        if tile:
            tiling.square_tiles(2 * tile, 2 * tile, tile, self.overlap, session.info.multiple_of)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result for a frame of this height and width, in pixels."""
        factor = self._outscale or self.scale
        return max(1, round(height * factor)), max(1, round(width * factor))

    def identity(self) -> dict[str, str | int | float | None]:
        """Everything that decides the result for a frame: Upscalers with equal entries give equal results.

        The number of threads and the batch are left out, since results do not depend on them.
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
        """Tile frames as the Upscaler of another machine does, if this machine has the memory for that.

        Automatic tiles depend on the memory of a machine, and results depend on the tiles.

        Args:
            identity: of the other Upscaler. Only its automatic tiles are taken over, none of its other entries.
            height: height of the frames, in pixels.
            width: width of the frames.
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
        """The tiles of a frame of this height and width, None if it is not tiled; `TileGrid.overhead` is their cost.

        Height and width are rounded up to multiples that the model takes.
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
        """Upscale one frame and wait for the result.

        Beside the two frames, this takes the memory of one tile, and of the upscaled tiles that are not joined yet.

        Args:
            frame: numpy array of uint8 or uint16, (H, W, 3), RGB.

        Returns:
            A new array of the same type and of `output_size`.

        Raises:
            OptionError: another type or shape, or a size that the model cannot take.
            MachineError: the device failed, or there is too little memory for the result or for batches of this size.
            ClosedError: the Upscaler is closed.
        """
        self._check_open()
        work = _Work(self, keep=False)
        return work.finish(work.add(frame))

    def map(self, frames: Iterable[Frames]) -> Iterator[Frames]:
        """Upscale frames one after the other; whatever did not change since the frame before is computed once.

        The iterator is lazy: it takes frames only when a result is asked for. While one batch is computed, the next
        one is submitted already and the results of the previous one are given out, so at most `3 * batch` different
        frames are held. Frames that are equal to the one before need no memory; at most `12 * batch` of all are taken
        before the first result is given out.

        A tile keeps its result if it is equal, overlap included, to the same tile of the frame before. A frame that is
        not tiled is one tile, so a smaller `tile` finds more to reuse. A frame of another size or type, and each call,
        starts afresh. If nothing of a frame is new, its result is the very array of the frame before (`is` tells).
        Therefore modify neither results nor frames that were given.

        Args:
            frames: any iterable of frames as `upscale` takes them, also a batch (N, H, W, 3).

        Returns:
            An iterator with one result for each frame, in order. It raises what `upscale` raises, at the frame that
            is at fault, and what `frames` raises.

        Raises:
            OptionError: `frames` is one frame, or nothing that can be iterated.
            ClosedError: the Upscaler is closed.
        """
        self._check_open()
        one = isinstance(frames, np.ndarray) and frames.ndim not in (1, 4)
        if one or isinstance(frames, (str, bytes)) or not isinstance(frames, Iterable):
            raise OptionError(
                f"map takes an iterable of frames; received {described(frames)}; one frame goes to upscale(frame)"
            )
        return self._map(frames)

    def _map(self, frames: Iterable[Frames]) -> Iterator[Frames]:
        work = _Work(self)
        in_flight: deque[FrameResult] = deque()
        for frame in frames:
            in_flight.append(work.add(frame))
            while len(set(in_flight)) >= 3 * self.batch or len(in_flight) >= 12 * self.batch:
                yield work.finish(in_flight.popleft())
        while in_flight:
            yield work.finish(in_flight.popleft())

    def close(self) -> None:
        """Wait for submitted batches and close the session; closing twice is allowed."""
        self._closed = True
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this Upscaler is closed, and its session with it; make another one")
        self.session.check_process()

    def _cut(self, frame: Frames) -> tuple[list[Frames], Callable[[Iterable[Frames]], Frames]]:
        """The tiles of a frame, and the function that joins the upscaled tiles to the upscaled frame."""
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
        """Resample the network's output for a frame of this height and width to `output_size`."""
        return enlarged if self._outscale is None else _resample(enlarged, self.output_size(height, width))

    def _named_tile(self) -> str | int:
        """Entry "tile" of the identity."""
        if self._tile is not None:
            return self._tile
        return _BY_MEMORY.format(self.session.largest_untiled) if self._any_shape else "auto"

    @property
    def _any_shape(self) -> bool:
        return self.session.any_shape and self.session.info.fixed_size is None


class _Work:
    """The work of one call: cuts frames into tiles, reuses known results, and submits the other tiles in batches."""

    def __init__(self, upscaler: Upscaler, *, keep: bool = True) -> None:
        """`keep`: whether the upscaled tiles of a frame are kept, to be reused by the frame after it."""
        self._upscaler = upscaler
        self._keep = keep
        self._kind: object = None
        self._last: FrameResult | None = None
        self._waiting: list[TileResult] = []

    def add(self, frame: Frames) -> FrameResult:
        """Submit the new tiles of a frame, or collect them for a batch; a frame without any has the last one's result.

        Raises:
            OptionError: see `Upscaler.upscale`.
        """
        frame_type = check_frame(frame)
        cut, join = self._upscaler._cut(frame)
        kind = (frame.shape, frame.dtype, self._upscaler.session.model_sha256)  # the hash changes with alpha
        if self._kind != kind:
            self._submit_waiting()  # a batch has one shape and type
            self._kind, self._last = kind, None
            height, width = cut[0].shape[:2]
            self._check_memory(frame, cut[0], len(cut))
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

    def _check_memory(self, frame: Frames, tile: Frames, tiles: int) -> None:
        """Refuse what could never be held: the result of a frame, or all the batches under way."""
        upscaler = self._upscaler
        height, width = upscaler.output_size(*frame.shape[:2])
        needed = height * width * 3 * frame.itemsize
        what = f"the result of {width}x{height}"
        if upscaler.batch > 1:
            under_way = 3 * upscaler.batch if self._keep else min(upscaler.batch, tiles)
            needed += under_way * tile.nbytes * (1 + upscaler.scale**2)
            what += f" and batches of {upscaler.batch} for {tile.shape[1]}x{tile.shape[0]} pixels"
        check_memory(f"frames of {frame.shape[1]}x{frame.shape[0]}", what, needed)

    def finish(self, result: FrameResult) -> Frames:
        """Wait for a result. If the batch with its tiles is not full yet, it is submitted as it is."""
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
            result.expect(batch, index, self._upscaler.scale)
        self._waiting = []


def _resample(frame: Frames, size: tuple[int, int]) -> Frames:
    """Resize to (height, width): by area when shrinking, which avoids moire, else by Lanczos."""
    import cv2

    method = cv2.INTER_AREA if size[0] < frame.shape[0] else cv2.INTER_LANCZOS4
    resized: Frames = cv2.resize(frame, size[::-1], interpolation=method)
    return resized
