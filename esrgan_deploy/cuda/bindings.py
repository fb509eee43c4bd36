"""The driver layer over NVIDIA's own bindings, `cuda.bindings` of the package cuda-python.

Source of the functions: CUDA Driver API, https://docs.nvidia.com/cuda/cuda-driver-api/. From
version 12.9.1 on cuda.bindings releases the GIL in every call; older ones would stop all threads while one waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from esrgan_deploy.cuda import DeviceFacts, Driver, Event, Graph
from esrgan_deploy.cuda.drivers import no_pinned_memory, out_of_memory
from esrgan_deploy.errors import MachineError


class BindingsDriver(Driver):
    """See `Driver`. Streams and device addresses are integers at all times; events and graphs are objects of CUDA."""

    name = "cuda-python"
    has_graphs = True

    def __init__(self, facts: DeviceFacts, device: int = 0) -> None:
        """Retain the primary context of GPU number `device`.

        Raises:
            ImportError: cuda-python is not installed, or this driver is too old for it.
            MachineError: CUDA refuses.
        """
        from cuda.bindings import driver as cuda

        self.facts = facts
        self._cuda = cuda
        self._success = cuda.CUresult.CUDA_SUCCESS
        flags = cuda.CUevent_flags
        self._timed = int(flags.CU_EVENT_BLOCKING_SYNC)  # waiting spends no core that decoding could use
        self._untimed = self._timed | int(flags.CU_EVENT_DISABLE_TIMING)
        try:
            self._call(cuda.cuInit, 0)
        except RuntimeError as error:  # it looks for its functions in libcuda at the first call
            raise ImportError(f"driver {facts.driver}: {error}") from error
        self._device = self._call(cuda.cuDeviceGet, device)
        self._context = self._call(cuda.cuDevicePrimaryCtxRetain, self._device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """See `Driver.active`."""
        self._call(self._cuda.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            self._call(self._cuda.cuCtxPopCurrent)

    def memory(self) -> tuple[int, int]:
        """See `Driver.memory`."""
        free, total = self._call(self._cuda.cuMemGetInfo)
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        """See `Driver.allocate`."""
        result, address = self._cuda.cuMemAlloc(nbytes)
        if result == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise out_of_memory(nbytes, *self.memory())
        self._check(result, "cuMemAlloc")
        return int(address)

    def free(self, address: int) -> None:
        """See `Driver.free`."""
        self._call(self._cuda.cuMemFree, address)

    def allocate_pinned(self, nbytes: int) -> int:
        """See `Driver.allocate_pinned`."""
        result, address = self._cuda.cuMemHostAlloc(nbytes, 0)
        if result == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise no_pinned_memory(nbytes, result.name)
        self._check(result, "cuMemHostAlloc")
        return int(address)

    def free_pinned(self, address: int) -> None:
        """See `Driver.free_pinned`."""
        self._call(self._cuda.cuMemFreeHost, address)

    def create_stream(self) -> int:
        """See `Driver.create_stream`."""
        return int(self._call(self._cuda.cuStreamCreate, int(self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)))

    def destroy_stream(self, stream: int) -> None:
        """See `Driver.destroy_stream`."""
        self.synchronize_stream(stream)
        self._call(self._cuda.cuStreamDestroy, stream)

    def synchronize_stream(self, stream: int) -> None:
        """See `Driver.synchronize_stream`."""
        self._call(self._cuda.cuStreamSynchronize, stream)

    def create_event(self, *, timing: bool = False) -> Event:
        """See `Driver.create_event`."""
        return self._call(self._cuda.cuEventCreate, self._timed if timing else self._untimed)

    def destroy_event(self, event: Event) -> None:
        """See `Driver.destroy_event`."""
        self._call(self._cuda.cuEventDestroy, event)

    def record(self, event: Event, stream: int) -> None:
        """See `Driver.record`."""
        self._call(self._cuda.cuEventRecord, event, stream)

    def wait(self, stream: int, event: Event) -> None:
        """See `Driver.wait`."""
        self._call(self._cuda.cuStreamWaitEvent, stream, event, 0)

    def synchronize(self, event: Event) -> None:
        """See `Driver.synchronize`."""
        self._call(self._cuda.cuEventSynchronize, event)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """See `Driver.elapsed_ms`."""
        return float(self._call(self._cuda.cuEventElapsedTime, start, end))

    def copy_in(self, device: int, host: int, nbytes: int, stream: int) -> None:
        """See `Driver.copy_in`."""
        self._call(self._cuda.cuMemcpyHtoDAsync, device, host, nbytes, stream)

    def copy_out(self, host: int, device: int, nbytes: int, stream: int) -> None:
        """See `Driver.copy_out`."""
        self._call(self._cuda.cuMemcpyDtoHAsync, host, device, nbytes, stream)

    def begin_capture(self, stream: int) -> None:
        """See `Driver.begin_capture`. Other threads may allocate and wait meanwhile."""
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call(self._cuda.cuStreamBeginCapture, stream, mode)

    def end_capture(self, stream: int) -> Graph:
        """See `Driver.end_capture`."""
        recorded = self._call(self._cuda.cuStreamEndCapture, stream)
        try:
            return self._call(self._cuda.cuGraphInstantiate, recorded, 0)
        finally:
            self._call(self._cuda.cuGraphDestroy, recorded)

    def launch(self, graph: Graph, stream: int) -> None:
        """See `Driver.launch`."""
        self._call(self._cuda.cuGraphLaunch, graph, stream)

    def destroy_graph(self, graph: Graph) -> None:
        """See `Driver.destroy_graph`."""
        self._call(self._cuda.cuGraphExecDestroy, graph)

    def close(self) -> None:
        """See `Driver.close`."""
        self._call(self._cuda.cuDevicePrimaryCtxRelease, self._device)

    def _call(self, function: Callable[..., tuple[Any, ...]], *arguments: object) -> Any:  # noqa: ANN401
        """What a function of the driver API gives besides CUDA_SUCCESS."""
        result, *values = function(*arguments)
        self._check(result, function.__name__)
        return values[0] if len(values) == 1 else values

    def _check(self, result: Any, what: str) -> None:  # noqa: ANN401
        if result != self._success:
            _, text = self._cuda.cuGetErrorString(result)
            raise MachineError(f"{what} failed: {result.name} ({text.decode() if text else 'unknown to this driver'})")
