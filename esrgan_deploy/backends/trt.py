"""TensorRT: the fastest backend on an NVIDIA GPU, for frames on the host and for frames that are on the GPU already."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.alpha import check_alpha, info_at_alpha
from esrgan_deploy.backends.names import ENGINE_SUFFIXES
from esrgan_deploy.backends.session import Session, check_batch
from esrgan_deploy.cuda.arrays import DeviceFrames, device_array, stream_handle
from esrgan_deploy.cuda.driver import Driver
from esrgan_deploy.cuda.pool import Pool
from esrgan_deploy.engine.options import EngineOptions, Profile, Shape
from esrgan_deploy.engine.run.host_streams import HostStreams
from esrgan_deploy.engine.run.loader import Loader
from esrgan_deploy.engine.run.source import CachedEngines, EngineSource, OneEngine
from esrgan_deploy.engine.run.workers import BatchTask, Workers
from esrgan_deploy.errors import MachineError, OptionError
from esrgan_deploy.frame_io import Frames, FrameType

if TYPE_CHECKING:
    from esrgan_deploy.engine.adapter import TensorRT
    from esrgan_deploy.engine.build.progress import BuildProgress
    from esrgan_deploy.engine.store.cache import EngineCache


class TensorRTSession(Session):
    """Frames in, frames out, through one TensorRT engine at a time.

    A feeder thread stages batches and enqueues them, a finisher thread waits for their ends. Results are views of
    pinned memory, which is used again when the last view of it is gone; they stay valid after `close`. What is called
    when a future is done runs in the finisher thread, and must not call the session.
    """

    def __init__(
        self,
        model: Path,
        *,
        batch: int | None = None,
        streams: int = 1,
        refit: bool = False,
        optimization_level: int | None = None,
        cache: EngineCache | None = None,
        trt: TensorRT | None = None,
        driver: Driver | None = None,
        device: int = 0,
        progress: BuildProgress | None = None,
    ) -> None:
        """Open `model`; its engine is loaded, or built, by `prepare` or for the first frames.

        Args:
            model: an engine with its sidecar, or an ONNX file, whose engines are in `cache` or are built.
            batch: frames that are computed together; None: as `prepare` says, or as many as come first.
            streams: execution contexts in parallel, each with buffers of its own.
            refit: make engines that `set_alpha` can change, of an ONNX file with its endpoints beside it.
            optimization_level: of builds, 0 (quick) to 5; see `EngineOptions`.
            cache: None: the user's.
            trt: None: the TensorRT that is installed.
            driver: None: a new one on `device`, which is closed after the session and its last result.
            device: number of the GPU; `driver` is on it.
            progress: told of builds; None: nobody is.

        Raises:
            BackendMissingError: TensorRT, or the package for CUDA, is not installed.
            MachineError: no GPU or driver.
            ModelError: not a model or engine, or an engine for another machine.
            OptionError: a number out of range, or `refit` without the endpoints.
        """
        for name, value in (("batch", batch), ("streams", streams)):
            if value is not None and value < 1:
                raise OptionError(f"{name} {value} is too small; give at least 1")
        settings = EngineOptions(Profile.fixed(1, 1, 1), refit=refit, optimization_level=optimization_level)
        with contextlib.ExitStack() as on_failure:
            self._driver = driver or _open_driver(device)
            close_driver = self._driver.close if driver is None else _keep_open
            on_failure.callback(close_driver)
            # After the driver: without a GPU TensorRT may crash.
            trt = trt or _load_tensorrt(self._driver)
            with self._driver.active():
                self._source = _open_source(model, trt, self._driver, cache, settings, progress or _tell_nobody)
            on_failure.pop_all()
        self.info = self._source.info
        self.backend = "tensorrt"
        self.precision = self.info.precision
        self.largest_untiled = self._source.largest_untiled
        self._pool = Pool(self._driver, close_driver)
        self._loader = Loader(trt, self._driver, self._source, self._pool, streams=streams, device=device)
        self._device = device
        self._fixed_batch = self._batch = batch
        self._closed = False
        self._lock = threading.Lock()
        """Held by whoever uses the loader or enqueues."""
        self._workers = Workers(self._driver)

    def submit(self, batch: Frames) -> Future[Frames]:
        """See `Session.submit`. The future also raises what loading or building an engine raises.

        Raises:
            MachineError: from the future: the device failed, has no memory left, or the network overflowed.
        """
        frames = check_batch(batch)
        future: Future[Frames] = Future()
        self._workers.feed(partial(self._start, batch, frames, future))
        return future

    def prepare(self, shape: tuple[int, int, int], frame_type: FrameType) -> None:
        """See `Session.prepare`: loads the engine, or builds it, which takes minutes.

        Raises:
            OptionError: the engine, or the model, does not take frames of this size or type.
            ModelError: TensorRT cannot read the model, or load the engine.
            MachineError: there is not enough memory, or the build failed.
        """
        count, height, width = shape
        self._call(lambda: None)  # what was submitted before comes first, with the engine that it needs
        # In the caller's thread, where Ctrl-C can stop a build.
        with self._lock, self._driver.active():
            self._check_open()
            self._batch = self._fixed_batch or count
            self._streams_for(count, height, width, frame_type)

    def set_alpha(self, alpha: float) -> None:
        """See `Session.set_alpha`: waits for what was submitted before, and changes the engine in place.

        Raises:
            ModelError: the weights of both endpoints are damaged, or belong to another model.
            MachineError: TensorRT cannot exchange the weights.
        """
        check_alpha(alpha)
        if not self._source.refittable:
            raise OptionError(
                f"{self._source.path}: its engine cannot be refitted, so alpha {alpha:g} cannot be set; use one that "
                "was built with --refit, or a session with refit=True"
            )

        def turn() -> None:
            self._loader.set_alpha(alpha)
            self.info = (
                self._source.info if alpha == self._source.info.alpha else info_at_alpha(self._source.info, alpha)
            )

        self._call(turn)

    def run_device(self, frames: object, out: object | None = None, *, stream: object = None) -> DeviceFrames:
        """Upscale frames that are on the GPU, without a copy and without waiting.

        Args:
            frames: uint8 or uint16 (N, H, W, 3), C-contiguous, with `__cuda_array_interface__` or `__dlpack__`: a
                PyCUDA GPUArray, a CuPy array, a torch tensor. H and W are multiples of `info.multiple_of`. The memory
                must not change, or be given back, before the result is there.
            out: the same kind of array for the result, (N, H * scale, W * scale, 3); None: memory of the session's.
            stream: the CUDA stream in whose order this happens, as a number or as an object of PyCUDA, CuPy, torch or
                cuda.core; None: the legacy default stream.

        Returns:
            The result, which is there after the work in `stream`; libraries take it without a copy. What the network
            made of the first frames should be checked once, with its `check`.

        Raises:
            OptionError: not such an array, or frames that the engine does not take.
            ModelError: TensorRT cannot read the model, or load the engine.
            MachineError: the device failed, or has no memory left.
        """
        handle = stream_handle(stream)
        with self._lock, self._driver.active():
            self._check_open()
            source = device_array(frames, handle, device=self._device)
            target = None if out is None else device_array(out, handle, role="out", device=self._device)
            count, height, width, _ = source.shape
            if height % self.info.multiple_of or width % self.info.multiple_of:
                raise OptionError(
                    f"frames: {width}x{height} are no multiples of {self.info.multiple_of}, which this network needs; "
                    "pad them: frames on the GPU are not copied to do that"
                )
            streams, shape = self._streams_for(count, height, width, source.frame_type)
            return self._loader.device_stream().run(streams, source, target, shape, handle)

    def close(self) -> None:
        """See `Session.close`. Results stay valid; the memory of each is freed with its last view."""
        if not self._workers.close():
            return
        with self._lock:
            self._closed = True
            try:
                # What the device refuses after a failure is of no interest any more: the failure has been reported.
                with contextlib.suppress(MachineError), self._driver.active():
                    self._loader.close()
            finally:
                self._pool.close()

    def _call(self, function: Callable[[], None]) -> None:
        """Let the feeder call `function`, after everything that was submitted before, and wait for it."""
        future: Future[None] = Future()

        def step() -> None:
            try:
                with self._lock:
                    self._check_open()
                    function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        self._workers.feed(step)
        future.result()

    def _start(self, batch: Frames, frames: FrameType, future: Future[Frames]) -> None:
        """Enqueue a batch, in parts if it is larger than the engine's."""
        if not future.set_running_or_notify_cancel():
            return
        task = BatchTask(future)
        try:
            with self._lock:
                self._check_open()
                self._enqueue(batch, frames, task)
        except BaseException as error:
            task.error = error
        # After its parts, of which some may be on their way even if one failed.
        self._workers.finish(task.end)

    def _enqueue(self, batch: Frames, frames: FrameType, task: BatchTask) -> None:
        count, height, width, _ = batch.shape
        streams, shape = self._streams_for(count, height, width, frames)
        scale, sizes = self.info.scale, streams.engine.sizes
        # Blocks for whole batches, so that a short last one finds the block of a full one.
        whole = Shape(-(-count // shape.batch) * shape.batch, shape.height, shape.width)
        block = self._pool.take(None, sizes.frames_out(whole))
        large = block.array((count, shape.height * scale, shape.width * scale, 3), batch.dtype)
        task.result = large[:, : height * scale, : width * scale]
        for start in range(0, count, shape.batch):
            part = batch[start : start + shape.batch]
            buffers = streams.start(part, shape, block, start * sizes.frames_out(whole) // whole.batch)
            self._workers.finish(partial(task.finish, streams, buffers, len(part)))

    def _streams_for(self, count: int, height: int, width: int, frames: FrameType) -> tuple[HostStreams, Shape]:
        """The engine for such frames, and the shape that they are padded to."""
        self._batch = self._batch or count
        multiple = self.info.multiple_of
        wanted = Shape(self._batch, height + -height % multiple, width + -width % multiple)
        return self._loader.streams_for(wanted, frames)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the session is closed")


def _open_source(
    model: Path,
    trt: TensorRT,
    driver: Driver,
    cache: EngineCache | None,
    settings: EngineOptions,
    progress: BuildProgress,
) -> EngineSource:
    if model.suffix in ENGINE_SUFFIXES:
        return OneEngine(model, trt, driver)
    from esrgan_deploy.engine.store.cache import EngineCache

    return CachedEngines(model, trt, driver, cache or EngineCache(), settings, progress)


def _open_driver(device: int) -> Driver:
    from esrgan_deploy.cuda.driver import open_driver

    return open_driver(device=device)


def _load_tensorrt(driver: Driver) -> TensorRT:
    from esrgan_deploy.cuda.gpu import check_driver, required_cuda
    from esrgan_deploy.engine.adapter import load_tensorrt

    trt = load_tensorrt()
    check_driver(driver.facts, required_cuda(trt.module.__name__), str(trt))
    return trt


def _keep_open() -> None:
    """For a driver that belongs to the caller."""


def _tell_nobody(phase: str, done: int, total: int) -> None:
    """For builds that nobody watches."""
