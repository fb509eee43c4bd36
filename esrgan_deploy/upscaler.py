"""Upscaler: frames in, frames out, over one Session, with tiles where a frame is too large."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from esrgan_deploy import tiling
from esrgan_deploy.backends.session import Frames, Session, check_batch
from esrgan_deploy.errors import OptionError

if TYPE_CHECKING:
    from typing_extensions import Self

UNMEASURED_OVERLAP = 32
"""Input pixels of context for a model that does not say what it needs."""
LARGEST_UNTILED = 512 * 512
"""With automatic tiling, a frame of more input pixels is tiled. RRDBNet x4 takes 11 kB of memory for each of them in
OpenVINO and 15 kB in ONNX Runtime (measured at 256x256), so this is 3 to 4 GB."""
AUTO_TILE = 384


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
    ) -> None:
        """Plan for `session`.

        Args:
            session: from `open_session`.
            tile: side of a tile in input pixels, overlap included; 0: never tile; None: tile what is large.
            overlap: context of a tile on each inner side, in input pixels; None: what the model was measured to need.
            batch: frames, or tiles of one frame, that go to the session together.
            outscale: enlargement wanted, if other than the network's: its output is resampled to that.

        Raises:
            OptionError: a value out of range, or a tile that is not larger than its overlap on both sides.
        """
        for name, value, smallest in (("tile", tile, 0), ("overlap", overlap, 0), ("batch", batch, 1)):
            if value is not None and value < smallest:
                raise OptionError(f"{name} {value} is too small; give at least {smallest}")
        if outscale is not None and not 0 < outscale <= 64:
            raise OptionError(f"outscale {outscale:g} is out of range; give a value above 0, up to 64")
        measured = session.info.overlap
        self.session = session
        self.scale = session.info.scale
        self.overlap = overlap if overlap is not None else UNMEASURED_OVERLAP if measured is None else measured
        self.batch = batch
        self._tile = tile
        self._outscale = outscale if outscale != self.scale else None
        if tile:
            tiling.plan(2 * tile, 2 * tile, tile, self.overlap, session.info.multiple_of)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a frame of the given height and width gets, in pixels."""
        factor = self._outscale or self.scale
        return max(1, round(height * factor)), max(1, round(width * factor))

    def upscale(self, frame: Frames) -> Frames:
        """Upscale one frame, uint8 or uint16 (H, W, 3) RGB, to one of the same type and of `output_size`."""
        return self._submit([frame])()[0]

    def map(self, frames: Iterable[Frames]) -> Iterator[Frames]:
        """Upscale `frames`, each like `upscale`, in order and lazily.

        While one batch is computed the next one is already submitted, and the results of the previous one are handed
        out; so at most `3 * batch` frames are held. Frames of different sizes may follow each other.
        """
        in_flight: deque[Callable[[], list[Frames]]] = deque()
        for group in _groups(frames, self.batch):
            in_flight.append(self._submit(group))
            if len(in_flight) > 2:
                yield from in_flight.popleft()()
        while in_flight:
            yield from in_flight.popleft()()

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, frames: list[Frames]) -> Callable[[], list[Frames]]:
        """Start upscaling frames of one size; the returned function waits for the results."""
        enlarged = self._submit_to_network(frames)
        if self._outscale is None:
            return enlarged
        size = self.output_size(*frames[0].shape[:2])
        return lambda: [_resample(frame, size) for frame in enlarged()]

    def _submit_to_network(self, frames: list[Frames]) -> Callable[[], list[Frames]]:
        batch = np.stack(frames) if len(frames) > 1 else frames[0][None]
        check_batch(batch)
        height, width = batch.shape[1:3]
        tile = self._tile_side(height, width)
        if not tile or tile >= max(height, width):
            future = self.session.submit(batch)
            return lambda: list(future.result())
        multiple = self.session.info.multiple_of
        padded = np.pad(batch, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")
        plan = tiling.plan(padded.shape[1], padded.shape[2], tile, self.overlap, multiple)
        futures = [self._submit_tiles(plan.cut(frame)) for frame in padded]

        def collect() -> list[Frames]:
            joined = [plan.join([t for f in parts for t in f.result()], self.scale) for parts in futures]
            return [frame[: height * self.scale, : width * self.scale] for frame in joined]

        return collect

    def _submit_tiles(self, tiles: list[Frames]) -> list[Future[Frames]]:
        groups = [tiles[i : i + self.batch] for i in range(0, len(tiles), self.batch)]
        return [self.session.submit(np.stack(group)) for group in groups]

    def _tile_side(self, height: int, width: int) -> int:
        """Side of a tile for a frame of this size; 0: do not tile."""
        if self._tile is not None:
            return self._tile
        if height * width <= LARGEST_UNTILED:
            return 0
        return max(AUTO_TILE, 4 * self.overlap)


def _resample(frame: Frames, size: tuple[int, int]) -> Frames:
    """Resize to (height, width): by area when shrinking, against moire; by Lanczos when enlarging."""
    import cv2

    method = cv2.INTER_AREA if size[0] < frame.shape[0] else cv2.INTER_LANCZOS4
    resized: Frames = cv2.resize(frame, size[::-1], interpolation=method)
    return resized


def _groups(frames: Iterable[Frames], size: int) -> Iterator[list[Frames]]:
    """Consecutive frames of one shape and type, at most `size` of them."""
    group: list[Frames] = []
    for frame in frames:
        if group and (len(group) == size or frame.shape != group[0].shape or frame.dtype != group[0].dtype):
            yield group
            group = []
        group.append(frame)
    if group:
        yield group
