"""Upscale frames that are in GPU memory already, in the caller's own CUDA stream, without copying them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esrgan_deploy.cuda import dlpack
from esrgan_deploy.cuda.arrays import LEGACY, DeviceArray, DeviceFrames
from esrgan_deploy.cuda.driver import Driver
from esrgan_deploy.cuda.pool import Block, Pool
from esrgan_deploy.engine.options import Shape
from esrgan_deploy.engine.run.host_streams import HostStreams, check_finite
from esrgan_deploy.errors import ClosedError, OptionError

if TYPE_CHECKING:
    from esrgan_deploy.engine.run.execution import Context, Engine

ALIGNMENT = 256
"""Addresses of tensors must be multiples of this; TensorRT demands it, and cuMemAlloc gives such addresses."""


@dataclass(frozen=True)
class _Run:
    """Where the frames and results of one call are, and in which batches they are computed."""

    engine: Engine
    source: DeviceArray
    shape: Shape
    """Of a batch."""
    enlarged: tuple[int, int, int, int]
    """Shape of the array of all results."""
    starts: list[int]
    """Index of each batch's first frame; the last batch begins earlier if it would have too few frames."""
    block: Block
    """Holds the result, unless the caller gave memory for it, and then the means."""
    result: int
    means: int

    @property
    def mean_step(self) -> int:
        """Bytes from the means of one batch to those of the next."""
        return _aligned(self.engine.sizes.mean(self.shape))

    def enqueue(self, context: Context, stream: int) -> None:
        sizes, one = self.engine.sizes, Shape(1, self.shape.height, self.shape.width)
        context.set_shape(self.shape)
        for index, start in enumerate(self.starts):
            frames_in = self.source.address + start * sizes.frames_in(one)
            frames_out = self.result + start * sizes.frames_out(one)
            context.enqueue(frames_in, frames_out, self.means + index * self.mean_step, stream)


class DeviceStream:
    """Runs an engine on GPU memory, each call in the CUDA stream that the caller names.

    All calls use the same execution context, so one waits on the GPU for the one before. The driver's context must be
    active, and calls must not overlap.
    """

    def __init__(self, driver: Driver, pool: Pool, device: int) -> None:
        """`device`: number of the GPU; results take their memory from `pool`."""
        self._driver = driver
        self._pool = pool
        self._device = device
        self._stream = driver.create_stream()
        self._ready = driver.create_event()
        self._done = driver.create_event()
        self._closed = False

    def run(
        self, streams: HostStreams, source: DeviceArray, target: DeviceArray | None, shape: Shape, stream: int
    ) -> DeviceFrames:
        """Enqueue `source` on `stream`, in batches of `shape`, and return without waiting.

        Raises:
            OptionError: the frames do not fit the engine, or `target` does not fit the frames.
            MachineError: no memory for the result, or TensorRT failed.
        """
        run = self._prepare(streams.engine, source, target, shape, stream)
        # In the default stream TensorRT would wait for everything on the GPU.
        work = self._stream if stream == LEGACY else stream
        for array in filter(None, (source, target)):
            if array.produced_on not in (None, stream):
                self._order(work, array.produced_on or LEGACY)
        if work != stream:
            self._order(work, stream)
        self._driver.wait(work, self._done)  # the call before used the same context, perhaps in another stream
        try:
            run.enqueue(streams.device_context(), work)
        finally:
            self._driver.record(self._done, work)
        if work != stream:
            self._driver.wait(stream, self._done)
        view = dlpack.ArrayView(run.result, run.enlarged, source.dtype, None, (dlpack.CUDA, self._device))
        memory: object = run.block if target is None else target.owner
        if isinstance(memory, DeviceFrames):
            memory = memory.memory
        return DeviceFrames(view, stream, memory, run, self.order_after, lambda: self._check(run))

    def order_after(self, stream: int) -> None:
        """Let `stream` wait for all calls so far."""
        if not self._closed:
            with self._driver.active():
                self._driver.wait(stream, self._done)

    def drain(self) -> None:
        """Wait for all calls so far."""
        self._driver.synchronize(self._done)

    def close(self) -> None:
        """Free everything but the results; no work may be in flight."""
        self._closed = True
        self._driver.destroy_event(self._ready)
        self._driver.destroy_event(self._done)
        self._driver.destroy_stream(self._stream)

    def _prepare(
        self, engine: Engine, source: DeviceArray, target: DeviceArray | None, shape: Shape, stream: int
    ) -> _Run:
        count = source.shape[0]
        shape, starts = _batches(engine, shape, source)
        everything = Shape(count, shape.height, shape.width)
        scale = engine.sizes.scale
        enlarged = (count, shape.height * scale, shape.width * scale, 3)
        if target is not None and (target.shape, target.dtype) != (enlarged, source.dtype):
            raise OptionError(
                f"out: is {target.dtype} of shape {target.shape}; the result is {source.dtype} of shape {enlarged}"
            )
        for role, array, step in (
            ("frames", source, engine.sizes.frames_in(everything) // count),
            ("out", target, engine.sizes.frames_out(everything) // count),
        ):
            if array is not None and any((array.address + start * step) % ALIGNMENT for start in starts):
                raise OptionError(
                    f"{role}: TensorRT takes memory that begins at a multiple of {ALIGNMENT} bytes only, for each "
                    f"batch of {shape.batch}; copy it to a new array, and give {shape.batch} frames at a time"
                )
        result_bytes = 0 if target else _aligned(engine.sizes.frames_out(everything))
        block = self._pool.take(stream, result_bytes + len(starts) * _aligned(engine.sizes.mean(shape)))
        result = target.address if target else block.address
        return _Run(engine, source, shape, enlarged, starts, block, result, block.address + result_bytes)

    def _order(self, later: int, earlier: int) -> None:
        self._driver.record(self._ready, earlier)
        self._driver.wait(later, self._ready)

    def _check(self, run: _Run) -> None:
        if self._closed:
            raise ClosedError("the tensorrt session is closed; check frames before that")
        nbytes = run.mean_step * len(run.starts)
        with self._driver.active():
            on_host = self._pool.take(None, nbytes)
            self._driver.wait(self._stream, self._done)
            self._driver.copy_out(on_host.address, run.means, nbytes, self._stream)
            self._driver.synchronize_stream(self._stream)
        means = on_host.array((len(run.starts), run.mean_step // 4), np.float32)
        check_finite(means[:, : run.shape.batch], run.engine)


def _batches(engine: Engine, shape: Shape, source: DeviceArray) -> tuple[Shape, list[int]]:
    """Divide frames into batches without copying: the shape of a batch, and the index of each one's first frame.

    Raises:
        OptionError: the engine runs larger batches only.
    """
    count = source.shape[0]
    if count < shape.batch:
        shape = Shape(count, shape.height, shape.width)
        if not engine.profile.covers(shape):
            raise OptionError(
                f"{engine.file.path}: runs batches of {engine.profile.min.batch} frames, and {count} came; frames on "
                "the GPU are not copied to fill up a batch: give more, or build for fewer"
            )
    return shape, [min(start, count - shape.batch) for start in range(0, count, shape.batch)]


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
