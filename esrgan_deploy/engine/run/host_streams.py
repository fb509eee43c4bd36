"""Upscale frames that are in host memory: copy them to the GPU, run the engine, copy the results back.

A `HostStream` is an execution context with three CUDA streams. Every batch passes through all three, so that while one
batch is computed the next one is copied in and the one before is copied out:

    copy in    |  1  |  2  |  3  |
    compute          |  1  |  2  |  3  |
    copy out               |  1  |  2  |  3  |

Events order the three streams. The host waits only for the end of a batch, after which its buffers are free again.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from esrgan_deploy.cuda.driver import Driver, Graph
from esrgan_deploy.cuda.pool import Block
from esrgan_deploy.engine.options import Shape
from esrgan_deploy.engine.run.execution import Context, Engine, Sizes
from esrgan_deploy.errors import MachineError
from esrgan_deploy.frame_io import Frames

if TYPE_CHECKING:
    from esrgan_deploy.engine.adapter import TensorRT
    from esrgan_deploy.engine.store.sidecar import EngineFile

IN_FLIGHT = 3
"""Batches at work in one `HostStream`: one for each of its three CUDA streams."""
_LOG = logging.getLogger(__name__)


class BatchBuffers:
    """The memory and events that one batch needs; the next batch may use them after `done` was waited for."""

    def __init__(self, driver: Driver, sizes: Sizes, largest: Shape, stack: ExitStack) -> None:
        """Allocate for batches up to `largest`; closing `stack` frees everything."""

        def device(nbytes: int) -> int:
            address = driver.allocate(nbytes)
            stack.callback(driver.free, address)
            return address

        def pinned(nbytes: int) -> Block:
            address = driver.allocate_pinned(nbytes)
            stack.callback(driver.free_pinned, address)
            return Block(address, nbytes)

        self.frames_in = device(sizes.frames_in(largest))
        self.frames_out = device(sizes.frames_out(largest))
        self.mean = device(sizes.mean(largest))
        self.staging = pinned(sizes.frames_in(largest))
        self.mean_on_host = pinned(sizes.mean(largest))
        self.uploaded, self.computed, self.done = (driver.create_event() for _ in range(3))
        for event in (self.uploaded, self.computed, self.done):
            stack.callback(driver.destroy_event, event)
        self.destination: Block | None = None
        """The pinned memory that the result is copied to, which must live until then."""

    def stage(self, frames: Frames, shape: Shape) -> None:
        """Copy `frames` to pinned memory, and fill up to `shape` with copies of the last row, column and frame."""
        count, height, width, _ = frames.shape
        staged = self.staging.array((shape.batch, shape.height, shape.width, 3), frames.dtype)
        staged[:count, :height, :width] = frames
        staged[:count, height:, :width] = staged[:count, height - 1 : height, :width]
        staged[:count, :, width:] = staged[:count, :, width - 1 : width]
        staged[count:] = staged[count - 1]


class HostStream:
    """One execution context with its three CUDA streams and the buffers of the batches in flight."""

    def __init__(self, driver: Driver, engine: Engine, stack: ExitStack) -> None:
        """Create everything; closing `stack` gives it back."""
        self._driver = driver
        self._sizes = engine.sizes
        self._cuda_streams = [driver.create_stream() for _ in range(3)]
        for stream in self._cuda_streams:
            stack.callback(driver.destroy_stream, stream)
        self.copy_in, self.compute, self.copy_out = self._cuda_streams
        self.buffers = [BatchBuffers(driver, engine.sizes, engine.profile.max, stack) for _ in range(IN_FLIGHT)]
        self._context = engine.create_context(self.compute)
        stack.callback(self._context.close)
        self._graphs: dict[BatchBuffers, Graph] = {}
        self._warm = False
        self._capturing = True
        stack.callback(self.forget_graphs)
        stack.callback(self._settle)

    def enqueue(self, buffers: BatchBuffers, frames: Frames, shape: Shape, destination: Block, offset: int) -> None:
        """Start a batch of at most `shape.batch` frames, none larger than `shape`; no other batch may use `buffers`.

        When the event `buffers.done` has happened, the enlarged frames lie in `destination`, from byte `offset` on.
        """
        driver, sizes = self._driver, self._sizes
        if self._context.set_shape(shape):
            self.forget_graphs()  # they are of another shape
        buffers.stage(frames, shape)
        driver.copy_in(buffers.frames_in, buffers.staging.address, sizes.frames_in(shape), self.copy_in)
        driver.record(buffers.uploaded, self.copy_in)
        driver.wait(self.compute, buffers.uploaded)
        self._run(buffers)
        driver.record(buffers.computed, self.compute)
        driver.wait(self.copy_out, buffers.computed)
        nbytes = sizes.frames_out(shape) // shape.batch * len(frames)
        buffers.destination = destination
        driver.copy_out(destination.address + offset, buffers.frames_out, nbytes, self.copy_out)
        driver.copy_out(buffers.mean_on_host.address, buffers.mean, sizes.mean(shape), self.copy_out)
        driver.record(buffers.done, self.copy_out)

    def forget_graphs(self) -> None:
        """Drop the CUDA graphs: after a change of shape or weights they would replay the old ones."""
        if self._graphs:
            self._settle()
        while self._graphs:
            self._driver.destroy_graph(self._graphs.popitem()[1])
        self._warm = False

    def _settle(self) -> None:
        """Wait for the work in all three streams. A device that failed is ignored: its error was raised before."""
        for stream in self._cuda_streams:
            with contextlib.suppress(MachineError):
                self._driver.synchronize_stream(stream)

    def _run(self, buffers: BatchBuffers) -> None:
        # TensorRT prepares itself for a new shape in the first run, so only later runs are captured.
        if self._warm and self._capturing and buffers not in self._graphs:
            self._capture(buffers)
        if buffers in self._graphs:
            self._driver.launch(self._graphs[buffers], self.compute)
        else:
            self._context.enqueue(buffers.frames_in, buffers.frames_out, buffers.mean, self.compute)
            self._warm = True

    def _capture(self, buffers: BatchBuffers) -> None:
        """Record the run with these buffers as a CUDA graph; after a failure no further attempt is made."""
        graph: Graph = None
        try:
            # If the collector freed a GPU array of the caller in the middle, CUDA would end the capture.
            with _no_garbage_collection():
                self._driver.begin_capture(self.compute)
                try:
                    self._context.enqueue(buffers.frames_in, buffers.frames_out, buffers.mean, self.compute)
                finally:
                    graph = self._driver.end_capture(self.compute)
        except MachineError as error:
            self._capturing = False
            if graph is not None:
                self._driver.destroy_graph(graph)
            _LOG.info("no CUDA graphs, every batch is launched layer by layer: %s", error)
        else:
            self._graphs[buffers] = graph


class HostStreams:
    """A loaded engine with one or several `HostStream`s, which compute batches side by side."""

    def __init__(self, trt: TensorRT, driver: Driver, file: EngineFile, streams: int) -> None:
        """Load `file` and allocate everything that its batches need.

        Raises:
            ModelError: the file is damaged, or TensorRT refuses it.
            MachineError: there is not enough device or pinned memory.
        """
        self._driver = driver
        self._stack = ExitStack()
        self._owners: dict[BatchBuffers, HostStream] = {}
        self._device_context: Context | None = None
        self._failure: BaseException | None = None
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            self.engine = Engine(trt, driver, file, contexts=streams, batches=streams * IN_FLIGHT)
            self._stack.callback(self.engine.close)
            self._streams = [HostStream(driver, self.engine, self._stack) for _ in range(streams)]
            on_failure.pop_all()
        # Ordered so that successive batches go to different streams.
        self._owners = {stream.buffers[index]: stream for index in range(IN_FLIGHT) for stream in self._streams}
        self._free: SimpleQueue[BatchBuffers] = SimpleQueue()
        for buffers in self._owners:
            self._free.put(buffers)

    def start(self, frames: Frames, shape: Shape, destination: Block, offset: int) -> BatchBuffers:
        """Wait until buffers are free and start `frames`, see `HostStream.enqueue`; the caller must then call `finish`.

        Raises:
            MachineError: the device failed, now or before.
        """
        buffers = self._free.get()
        try:
            self._check_sound()
            self._owners[buffers].enqueue(buffers, frames, shape, destination, offset)
        except BaseException as error:
            self._fail(error)
            self._free.put(buffers)
            raise
        return buffers

    def finish(self, buffers: BatchBuffers, count: int) -> None:
        """Wait for a batch of `count` frames, and free its buffers whatever happens.

        Raises:
            MachineError: the device failed, or the output holds NaN or infinite values.
        """
        try:
            self._driver.synchronize(buffers.done)
            buffers.destination = None
        except BaseException as error:
            self._fail(error)
            raise
        else:
            check_finite(buffers.mean_on_host.array((count,), np.float32), self.engine)
        finally:
            self._free.put(buffers)

    def device_context(self) -> Context:
        """The execution context for frames that are on the GPU already, created at the first call.

        Raises:
            MachineError: there is not enough memory for it, or the device failed before.
        """
        self._check_sound()
        if self._device_context is None:
            self._device_context = self.engine.create_context(self._streams[0].compute)
            self._stack.callback(self._device_context.close)
        return self._device_context

    def drain(self) -> None:
        """Wait for all batches. Another thread must call `finish` meanwhile, and none may call `start`."""
        all_buffers = [self._free.get() for _ in self._owners]
        for buffers in all_buffers:
            self._free.put(buffers)

    def forget_graphs(self) -> None:
        """Call this after the weights have changed; no batch may be at work."""
        for stream in self._streams:
            stream.forget_graphs()

    def close(self) -> None:
        """Give everything back; after a failure, wait for batches that are still at work."""
        self._stack.close()
        for buffers in self._owners:
            buffers.destination = None

    def _fail(self, error: BaseException) -> None:
        # Part of that batch may still be at work in buffers that count as free, so no further batch is accepted.
        self._failure = self._failure or error

    def _check_sound(self) -> None:
        if self._failure is not None:
            raise MachineError(f"{self.engine.file.path}: failed before: {self._failure}") from self._failure


def check_finite(means: Frames, engine: Engine) -> None:
    """Make sure that the network did not overflow; `means` holds the mean of each frame.

    Raises:
        MachineError: a mean is NaN or infinite.
    """
    if np.isfinite(means).all():
        return
    info, path = engine.file.sidecar.info, engine.file.path
    raise MachineError(
        f"{path}: the network overflowed in {info.precision}: its output holds NaN or infinite values; export it with "
        "--bf16 or as fp32, or with esrgan-export --fp16, which keeps the layers that overflow in fp32"
    )


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switch cyclic garbage collection off in all threads until the end of the block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
