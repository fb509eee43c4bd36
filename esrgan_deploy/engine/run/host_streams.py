"""Host frames through an engine: staged, copied in, computed, copied out, with several batches on their way at once.

One lane is an execution context with three streams. Each batch passes through them, and while one is computed the next
is copied in and the one before is copied out:

    copy in    |  1  |  2  |  3  |
    compute          |  1  |  2  |  3  |
    copy out               |  1  |  2  |  3  |

Only events order the three; the host waits for nothing but the end of a batch, which frees its slot.
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

from esrgan_deploy.cuda import Driver, Graph
from esrgan_deploy.cuda.pool import Block
from esrgan_deploy.engine.options import Shape
from esrgan_deploy.engine.run.execution import Context, Engine, Sizes
from esrgan_deploy.errors import MachineError
from esrgan_deploy.frame_io import Frames

if TYPE_CHECKING:
    from esrgan_deploy.engine.adapter import TensorRT
    from esrgan_deploy.engine.store.sidecar import EngineFile

SLOTS = 3
"""Batches on their way in one lane: one for each of the three streams."""
_LOG = logging.getLogger(__name__)


class Slot:
    """Buffers and events of one batch on its way; used again when its `done` was waited for."""

    def __init__(self, driver: Driver, sizes: Sizes, largest: Shape, stack: ExitStack) -> None:
        """Allocate for batches up to `largest`; `stack` frees."""

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
        """Keeps the pinned memory alive that the batch is copied out to."""

    def stage(self, frames: Frames, shape: Shape) -> None:
        """Copy `frames` to pinned memory, and fill up to `shape` with copies of the last row, column and frame."""
        count, height, width, _ = frames.shape
        staged = self.staging.array((shape.batch, shape.height, shape.width, 3), frames.dtype)
        staged[:count, :height, :width] = frames
        staged[:count, height:, :width] = staged[:count, height - 1 : height, :width]
        staged[:count, :, width:] = staged[:count, :, width - 1 : width]
        staged[count:] = staged[count - 1]


class Lane:
    """One execution context and its streams."""

    def __init__(self, driver: Driver, engine: Engine, stack: ExitStack) -> None:
        """`stack` gives all of it back."""
        self._driver = driver
        self._sizes = engine.sizes
        self._streams = [driver.create_stream() for _ in range(3)]
        for stream in self._streams:
            stack.callback(driver.destroy_stream, stream)
        self.copy_in, self.compute, self.copy_out = self._streams
        self.slots = [Slot(driver, engine.sizes, engine.profile.max, stack) for _ in range(SLOTS)]
        self._context = engine.create_context(self.compute)
        stack.callback(self._context.close)
        self._graphs: dict[Slot, Graph] = {}
        self._warm = False
        self._capturing = driver.has_graphs
        stack.callback(self.forget_graphs)
        stack.callback(self._settle)

    def enqueue(self, slot: Slot, frames: Frames, shape: Shape, destination: Block, offset: int) -> None:
        """Start `frames`, at most `shape.batch` and none larger than `shape`; `slot` belongs to nobody else.

        As many enlarged frames, of `shape`, are in `destination` from `offset` on when `slot.done` happens.
        """
        driver, sizes = self._driver, self._sizes
        if self._context.set_shape(shape):
            self.forget_graphs()  # they are of another shape
        slot.stage(frames, shape)
        driver.copy_in(slot.frames_in, slot.staging.address, sizes.frames_in(shape), self.copy_in)
        driver.record(slot.uploaded, self.copy_in)
        driver.wait(self.compute, slot.uploaded)
        self._run(slot)
        driver.record(slot.computed, self.compute)
        driver.wait(self.copy_out, slot.computed)
        nbytes = sizes.frames_out(shape) // shape.batch * len(frames)
        slot.destination = destination
        driver.copy_out(destination.address + offset, slot.frames_out, nbytes, self.copy_out)
        driver.copy_out(slot.mean_on_host.address, slot.mean, sizes.mean(shape), self.copy_out)
        driver.record(slot.done, self.copy_out)

    def forget_graphs(self) -> None:
        """Capture anew: after another shape or other weights, what was recorded is no longer what should be run."""
        if self._graphs:
            self._settle()
        while self._graphs:
            self._driver.destroy_graph(self._graphs.popitem()[1])
        self._warm = False

    def _settle(self) -> None:
        """Wait until nothing is on its way, where the device still works; if not, that was reported already."""
        for stream in self._streams:
            with contextlib.suppress(MachineError):
                self._driver.synchronize_stream(stream)

    def _run(self, slot: Slot) -> None:
        # TensorRT settles what depends on the shape in its first run, which therefore is no part of a graph.
        if self._warm and self._capturing and slot not in self._graphs:
            self._capture(slot)
        if slot in self._graphs:
            self._driver.launch(self._graphs[slot], self.compute)
        else:
            self._context.enqueue(slot.frames_in, slot.frames_out, slot.mean, self.compute)
            self._warm = True

    def _capture(self, slot: Slot) -> None:
        """Record the run with the buffers of `slot`; if that cannot be done, never try again."""
        graph: Graph = None
        try:
            # A GPU array of somebody's that were freed in the middle would end the capture.
            with _no_garbage_collection():
                self._driver.begin_capture(self.compute)
                try:
                    self._context.enqueue(slot.frames_in, slot.frames_out, slot.mean, self.compute)
                finally:
                    graph = self._driver.end_capture(self.compute)
        except MachineError as error:
            self._capturing = False
            if graph is not None:
                self._driver.destroy_graph(graph)
            _LOG.info("no CUDA graphs, every batch is launched layer by layer: %s", error)
        else:
            self._graphs[slot] = graph


class Lanes:
    """A loaded engine that takes host frames, in one or several lanes."""

    def __init__(self, library: TensorRT, driver: Driver, file: EngineFile, lanes: int) -> None:
        """Load `file` and allocate everything that batches need on their way.

        Raises:
            ModelError: the file is damaged, or TensorRT refuses it.
            MachineError: there is not enough device or pinned memory.
        """
        self._driver = driver
        self._stack = ExitStack()
        self._owners: dict[Slot, Lane] = {}
        self._device_context: Context | None = None
        self._failure: BaseException | None = None
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            self.engine = Engine(library, driver, file, contexts=lanes, batches=lanes * SLOTS)
            self._stack.callback(self.engine.close)
            self._lanes = [Lane(driver, self.engine, self._stack) for _ in range(lanes)]
            on_failure.pop_all()
        # In turn: neighbouring batches go to different lanes.
        self._owners = {lane.slots[index]: lane for index in range(SLOTS) for lane in self._lanes}
        self._free: SimpleQueue[Slot] = SimpleQueue()
        for slot in self._owners:
            self._free.put(slot)

    def start(self, frames: Frames, shape: Shape, destination: Block, offset: int) -> Slot:
        """Wait for a free slot and start `frames` in it, see `Lane.enqueue`. Then `finish` must be called.

        Raises:
            MachineError: the device failed, now or before.
        """
        slot = self._free.get()
        try:
            self._check_sound()
            self._owners[slot].enqueue(slot, frames, shape, destination, offset)
        except BaseException as error:
            self._fail(error)
            self._free.put(slot)
            raise
        return slot

    def finish(self, slot: Slot, count: int) -> None:
        """Wait for a batch of `count` frames, and free its slot in any case.

        Raises:
            MachineError: the device failed, or the network gave something else than finite numbers.
        """
        try:
            self._driver.synchronize(slot.done)
            slot.destination = None
        except BaseException as error:
            self._fail(error)
            raise
        else:
            check_finite(slot.mean_on_host.array((count,), np.float32), self.engine)
        finally:
            self._free.put(slot)

    def device_context(self) -> Context:
        """A context of its own for frames that are on the device already; made when first asked for.

        Raises:
            MachineError: there is not enough memory for it, or the device failed before.
        """
        self._check_sound()
        if self._device_context is None:
            self._device_context = self.engine.create_context(self._lanes[0].compute)
            self._stack.callback(self._device_context.close)
        return self._device_context

    def drain(self) -> None:
        """Wait until nothing is on its way; meanwhile somebody must call `finish`, and nobody `start`."""
        slots = [self._free.get() for _ in self._owners]
        for slot in slots:
            self._free.put(slot)

    def forget_graphs(self) -> None:
        """After the weights have changed; nothing may be on its way."""
        for lane in self._lanes:
            lane.forget_graphs()

    def close(self) -> None:
        """Give everything back; after a failure, wait for what is still on its way."""
        self._stack.close()
        for slot in self._owners:
            slot.destination = None

    def _fail(self, error: BaseException) -> None:
        # Some work of that batch may be on its way, in a slot that counts as free: nothing can be trusted any more.
        self._failure = self._failure or error

    def _check_sound(self) -> None:
        if self._failure is not None:
            raise MachineError(f"{self.engine.file.path}: failed before: {self._failure}") from self._failure


def check_finite(means: Frames, engine: Engine) -> None:
    """Refuse what a network made that overflowed; `means` has one value for each frame.

    Raises:
        MachineError: names the remedy.
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
    """Put cyclic garbage collection off until the end of the block, in all threads."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
