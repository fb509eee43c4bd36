"""TensorRT, the fastest backend on an NVIDIA GPU, for frames in host memory and for frames in GPU memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from esrgan_deploy.alpha import check_alpha, info_at_alpha
from esrgan_deploy.arguments import StrPath, as_path, check_at_least, check_batch
from esrgan_deploy.backends.names import ENGINE_SUFFIXES
from esrgan_deploy.backends.session import Session
from esrgan_deploy.cuda.arrays import DeviceFrames, device_array, stream_handle
from esrgan_deploy.cuda.driver import Driver, open_driver
from esrgan_deploy.cuda.pool import Pool
from esrgan_deploy.engine.adapter import TensorRT, load_tensorrt
from esrgan_deploy.engine.build.progress import BuildProgress
from esrgan_deploy.engine.machine import check_tensorrt
from esrgan_deploy.engine.options import EngineOptions, Profile, Shape
from esrgan_deploy.engine.run.host_streams import HostStreams
from esrgan_deploy.engine.run.loader import Loader
from esrgan_deploy.engine.run.source import CachedEngines, EngineSource, OneEngine
from esrgan_deploy.engine.run.workers import BatchTask, Workers
from esrgan_deploy.engine.store.cache import EngineCache
from esrgan_deploy.errors import ClosedError, MachineError, OptionError
from esrgan_deploy.frame_io import Frames, FrameType


class TensorRTSession(Session):
    """Upscales frames with one TensorRT engine at a time; another engine is loaded when the frames need one.

    One thread gives batches to the GPU, another waits for their results. Results are views of pinned memory, which is
    used again when the last view of it is gone; they stay valid after `close`. Callbacks of a future run in the thread
    that waits for results, and must not call the session.
    """

    def __init__(
        self,
        model: StrPath,
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
            batch: frames that are computed together; None: as many as `prepare` is told of, or as the first batch has.
            streams: execution contexts that work side by side, each with buffers of its own.
            refit: build engines that `set_alpha` can change; the weights of both endpoints must lie beside the model.
            optimization_level: of builds, 0 (quick) to 5; see `EngineOptions`.
            cache: where engines are kept; None: the user's cache folder.
            trt: TensorRT; None: the one that is installed.
            driver: the GPU; None: it is opened here, and closed after the session and its last result.
            device: number of the GPU; `driver` is on it.
            progress: called while an engine is built.

        Raises:
            BackendMissingError: TensorRT, or the package for CUDA, is not installed.
            MachineError: no GPU or driver.
            ModelError: not a model or engine, or an engine for another machine.
            OptionError: a number out of range, or `refit` without the weights of the endpoints.
        """
        path = as_path(model)
        check_at_least(1, batch=batch, streams=streams)
        settings = EngineOptions(Profile.fixed(1, 1, 1), refit=refit, optimization_level=optimization_level)
        with contextlib.ExitStack() as on_failure:
            self._driver = driver or open_driver(device)
            close_driver = self._driver.close if driver is None else lambda: None
            on_failure.callback(close_driver)
            if trt is None:  # only now that a GPU was found: without one TensorRT may crash
                trt = load_tensorrt()
                check_tensorrt(trt, self._driver.facts)
            self._source: EngineSource
            with self._driver.active():
                if path.suffix in ENGINE_SUFFIXES:
                    self._source = OneEngine(path, trt, self._driver)
                else:
                    told = progress or (lambda phase, done, total: None)
                    self._source = CachedEngines(path, trt, self._driver, cache or EngineCache(), settings, told)
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
        """Held while the loader is used and while batches are enqueued."""
        self._workers = Workers(self._driver)

    def submit(self, batch: Frames) -> Future[Frames]:
        """See `Session.submit`. Errors of loading or building an engine come from the future.

        Raises:
            MachineError: from the future: the device failed, has no memory left, or the network overflowed.
        """
        self.check_process()
        frames = check_batch(batch)
        future: Future[Frames] = Future()
        self._workers.feed(partial(self._start, batch, frames, future))
        return future

    def prepare(self, shape: tuple[int, int, int], frame_type: FrameType) -> None:
        """See `Session.prepare`. The engine is loaded, or built, which takes minutes.

        Raises:
            OptionError: the engine, or the model, does not take frames of this size or type.
            ModelError: TensorRT cannot read the model, or load the engine.
            MachineError: there is not enough memory, or the build failed.
        """
        self.check_process()
        count, height, width = shape
        self._call(lambda: None)  # batches that were submitted before still need the present engine
        # In the caller's thread, since Ctrl-C can stop a build only there.
        with self._lock, self._driver.active():
            self._check_open()
            self._batch = self._fixed_batch or count
            self._streams_for(count, height, width, frame_type)

    def set_alpha(self, alpha: float) -> None:
        """See `Session.set_alpha`. Waits for batches that were submitted before, then exchanges the engine's weights.

        Raises:
            ModelError: the weights of both endpoints are damaged, or belong to another model.
            MachineError: TensorRT cannot exchange the weights.
        """
        self.check_process()
        check_alpha(alpha)
        if not self._source.refittable:
            raise OptionError(
                f"{self._source.path}: its engine cannot be refitted, so alpha {alpha:g} cannot be set; use one that "
                "was built with --refit, or a session with refit=True"
            )

        def exchange() -> None:
            self._loader.set_alpha(alpha)
            self.info = (
                self._source.info if alpha == self._source.info.alpha else info_at_alpha(self._source.info, alpha)
            )

        self._call(exchange)

    def run_device(self, frames: object, out: object | None = None, *, stream: object = None) -> DeviceFrames:
        """Upscale frames that are in GPU memory, without copying them and without waiting for the result.

        Args:
            frames: uint8 or uint16 (N, H, W, 3), C-contiguous, with `__cuda_array_interface__` or `__dlpack__`: a
                PyCUDA GPUArray, a CuPy array, a torch tensor. H and W are multiples of `info.multiple_of`. The memory
                must neither change nor be freed before the result is there.
            out: an array of the same kind for the result, (N, H * scale, W * scale, 3); None: the session's memory.
            stream: the CUDA stream that the work is put into, as a number or as an object of PyCUDA, CuPy, torch or
                cuda.core; None: the legacy default stream.

        Returns:
            The result, which is complete after the work in `stream`; other libraries take it without a copy. Call its
            `check` once for a new model: overflow in the network is noticed only there.

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
                    f"frames: width and height must be multiples of {self.info.multiple_of}, not {width}x{height}; "
                    "pad them first: frames in GPU memory are not copied here"
                )
            streams, shape = self._streams_for(count, height, width, source.frame_type)
            return self._loader.device_stream().run(streams, source, target, shape, handle)

    def close(self) -> None:
        """See `Session.close`. Results stay valid; each one's memory is freed when the last view of it is gone."""
        if self.forked or not self._workers.close():
            return
        with self._lock:
            self._closed = True
            try:
                # After a failure the device may refuse everything; that failure has been reported.
                with contextlib.suppress(MachineError), self._driver.active():
                    self._loader.close()
            finally:
                self._pool.close()

    def _call(self, function: Callable[[], None]) -> None:
        """Call `function` after all batches that were submitted before were started, and wait until it returns."""
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
        """Start a batch, in parts if it has more frames than the engine takes at a time."""
        if not future.set_running_or_notify_cancel():
            return
        task = BatchTask(future)
        try:
            with self._lock:
                self._check_open()
                self._enqueue(batch, frames, task)
        except BaseException as error:
            task.error = error
        # Behind its parts, since some may be at work even if another failed.
        self._workers.finish(task.end)

    def _enqueue(self, batch: Frames, frames: FrameType, task: BatchTask) -> None:
        count, height, width, _ = batch.shape
        streams, shape = self._streams_for(count, height, width, frames)
        scale, sizes = self.info.scale, streams.engine.sizes
        # Room for whole batches, so that a short last one can reuse the memory of a full one.
        whole = Shape(-(-count // shape.batch) * shape.batch, shape.height, shape.width)
        block = self._pool.take(None, sizes.frames_out(whole))
        large = block.array((count, shape.height * scale, shape.width * scale, 3), batch.dtype)
        task.result = large[:, : height * scale, : width * scale]
        for start in range(0, count, shape.batch):
            part = batch[start : start + shape.batch]
            buffers = streams.start(part, shape, block, start * sizes.frames_out(whole) // whole.batch)
            self._workers.finish(partial(task.finish, streams, buffers, len(part)))

    def _streams_for(self, count: int, height: int, width: int, frames: FrameType) -> tuple[HostStreams, Shape]:
        """Load the engine for such frames; also returns the shape that they are padded to."""
        self._batch = self._batch or count
        multiple = self.info.multiple_of
        wanted = Shape(self._batch, height + -height % multiple, width + -width % multiple)
        return self._loader.streams_for(wanted, frames)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the tensorrt session is closed; open another one with open_session")
