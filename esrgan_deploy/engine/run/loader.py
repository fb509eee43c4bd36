"""Load the engine that a session needs, one at a time; replace it, or its weights, when shape or alpha change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esrgan_deploy.alpha import Endpoints, read_endpoints
from esrgan_deploy.cuda.driver import Driver
from esrgan_deploy.cuda.pool import Pool
from esrgan_deploy.engine.options import Shape
from esrgan_deploy.engine.run.device_stream import DeviceStream
from esrgan_deploy.engine.run.host_streams import HostStreams
from esrgan_deploy.engine.run.refit import refit
from esrgan_deploy.engine.run.source import EngineSource, nearest_batch
from esrgan_deploy.errors import MachineError, ModelError
from esrgan_deploy.frame_io import FrameType, frame_constants

if TYPE_CHECKING:
    from esrgan_deploy.engine.adapter import TensorRT


class Loader:
    """Loads engines of `source` as they are needed.

    The driver's context must be active, and calls must not overlap. Another thread must finish the batches that are at
    work, see `HostStreams.drain`.
    """

    def __init__(
        self, trt: TensorRT, driver: Driver, source: EngineSource, pool: Pool, *, streams: int, device: int
    ) -> None:
        """`streams`: batches that are computed side by side; `device`: number of the GPU."""
        self._trt = trt
        self._driver = driver
        self._source = source
        self._pool = pool
        self._count = streams
        self._device = device
        self._host_streams: HostStreams | None = None
        self._device_stream: DeviceStream | None = None
        self._picked_for = Shape(1, 1, 1)
        self._alpha: float | None = None
        self._endpoints: Endpoints | None = None

    def streams_for(self, wanted: Shape, frames: FrameType) -> tuple[HostStreams, Shape]:
        """An engine for frames of this size and type, and the shape of the batches that it runs.

        If the engine that is loaded does not take them, its work is finished, and another is loaded or built.

        Raises:
            EsrganError: what `EngineSource.pick` and `HostStreams` raise.
        """
        if self._host_streams is None or not self._source.still_fits(
            self._host_streams.engine.file, self._picked_for, wanted, frames
        ):
            self._unload()
            self._host_streams = self._load(wanted, frames)
            self._picked_for = wanted
        return self._host_streams, nearest_batch(self._host_streams.engine.profile, wanted)

    def device_stream(self) -> DeviceStream:
        """What upscales frames that are in GPU memory already; created at the first call."""
        if self._device_stream is None:
            self._device_stream = DeviceStream(self._driver, self._pool, self._device)
        return self._device_stream

    def set_alpha(self, alpha: float) -> None:
        """Finish all work, and exchange the weights of this engine and of all that are loaded later.

        Raises:
            EsrganError: the weights of both endpoints cannot be used; alpha then stays as it was.
        """
        before, self._alpha = self._alpha, alpha
        if self._host_streams is None:
            return
        self._drain()
        try:
            self._refit(self._host_streams)
        except BaseException:
            self._alpha = before
            self._unload()  # it may hold some of the new weights
            raise

    def close(self) -> None:
        """Finish all work, and free everything."""
        try:
            self._unload()
        finally:
            if self._device_stream is not None:
                self._device_stream.close()

    def _load(self, wanted: Shape, frames: FrameType) -> HostStreams:
        engine = self._source.pick(wanted, frames)
        try:
            streams = HostStreams(self._trt, self._driver, engine, self._count)
        except ModelError as refusal:
            engine = self._source.replace(engine, wanted, refusal)
            streams = HostStreams(self._trt, self._driver, engine, self._count)
        if self._alpha is not None:
            try:
                self._refit(streams)
            except BaseException:
                streams.close()
                raise
        return streams

    def _refit(self, streams: HostStreams) -> None:
        file = streams.engine.file
        if self._endpoints is None:
            endpoints = read_endpoints(file.endpoints)
            endpoints.check_belongs(self._source.info, file.endpoints, self._source.path)
            self._endpoints = endpoints
        assert self._alpha is not None
        weights, constants = self._endpoints.graph_weights(self._alpha), self._endpoints.graph_constants()
        pairs = streams.engine.frames == "uint16"
        for name, value in frame_constants(streams.engine.frames, byte_pairs=pairs).items():
            constants[name] = np.array([value], np.float32)
        try:
            refit(self._trt, streams.engine.raw, weights, constants)
        except (MachineError, ModelError) as error:
            raise type(error)(f"{file.path}: {error}") from error
        streams.forget_graphs()

    def _drain(self) -> None:
        if self._host_streams is not None:
            self._host_streams.drain()
        if self._device_stream is not None:
            self._device_stream.drain()

    def _unload(self) -> None:
        if self._host_streams is None:
            return
        try:
            self._drain()
        finally:
            streams, self._host_streams = self._host_streams, None
            streams.close()
            self._pool.trim()
