"""The functions of the CUDA driver API that the runtime needs, called through NVIDIA's package cuda-python.

Source: https://docs.nvidia.com/cuda/cuda-driver-api/. cuda-python releases the GIL in every call from version 12.9.1
on; with older versions all threads would stop while one of them waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from esrgan_deploy.cuda.gpu import DeviceFacts, find_gpu
from esrgan_deploy.errors import BackendMissingError, MachineError

Event: TypeAlias = Any
"""A CUDA event; only `Driver` looks inside."""
Graph: TypeAlias = Any
"""An instantiated CUDA graph; only `Driver` looks inside."""
_CUDA_12 = 12000
"""The CUDA version, as CUDA counts, from which on every release of cuda-python works."""


def open_driver(device: int = 0) -> Driver:
    """Open GPU number `device`.

    Raises:
        MachineError: no driver, a driver that does not work, no such GPU, or no memory for a context.
        BackendMissingError: cuda-python is not installed, or does not load with this driver.
    """
    facts = find_gpu(device)
    try:
        return Driver(facts, device)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cuda":
            raise
        raise BackendMissingError(
            "cuda-python is not installed; install it with: pip install 'esrgan-deploy[tensorrt]'"
        ) from error
    except ImportError as error:
        # Newer releases look for functions that drivers for CUDA 11 do not have.
        wanted = ">=12.9.1" if facts.cuda >= _CUDA_12 else ">=12.9.1,<=12.9.6"
        raise BackendMissingError(
            f"cuda-python does not load ({error}); install it again with: pip install 'cuda-python{wanted}'"
        ) from error


class Driver:
    """One GPU, used through one CUDA context.

    The context is the one that is current for the calling thread when the driver is opened, if it belongs to this GPU:
    so a program that made a context of its own, as `pycuda.autoinit` does, shares its memory and streams with us. Such
    a context must outlive the driver. Otherwise it is the GPU's primary context, which torch, CuPy, ONNX Runtime and
    `pycuda.autoprimaryctx` use.

    Addresses and streams are plain integers, as TensorRT takes them. Every method but `active` and `close` must be
    called inside `with driver.active():`. All of them raise `MachineError` where CUDA reports an error.
    """

    facts: DeviceFacts

    def __init__(self, facts: DeviceFacts, device: int = 0) -> None:
        """Open GPU number `device`, which `facts` describe.

        Raises:
            ImportError: cuda-python is not installed, or does not know this driver.
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
        except RuntimeError as error:  # the first call is when it looks for its functions in libcuda
            raise ImportError(f"driver {facts.driver}: {error}") from error
        self._device = self._call(cuda.cuDeviceGet, device)
        self._context = self._callers_context()
        self._is_retained = self._context is None
        if self._is_retained:
            self._context = self._call(cuda.cuDevicePrimaryCtxRetain, self._device)

    def _callers_context(self) -> Any | None:  # noqa: ANN401
        """The current context if it is one of this GPU that its program made; None for no context or the primary."""
        cuda = self._cuda
        current = self._call(cuda.cuCtxGetCurrent)
        if not int(current) or int(self._call(cuda.cuCtxGetDevice)) != int(self._device):
            return None
        _, primary_is_active = self._call(cuda.cuDevicePrimaryCtxGetState, self._device)
        if primary_is_active:
            primary = self._call(cuda.cuDevicePrimaryCtxRetain, self._device)
            self._call(cuda.cuDevicePrimaryCtxRelease, self._device)
            if int(primary) == int(current):
                return None
        return current

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the context current in this thread until the end of the block; blocks may be nested."""
        self._call(self._cuda.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            self._call(self._cuda.cuCtxPopCurrent)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of device memory."""
        free, total = self._call(self._cuda.cuMemGetInfo)
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        """Allocate device memory and return its address; if there is too little, the error says how much is free."""
        result, address = self._cuda.cuMemAlloc(nbytes)
        if result == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            wanted, free, total = (f"{size / 2**20:.0f} MiB" for size in (nbytes, *self.memory()))
            raise MachineError(
                f"out of GPU memory: {wanted} wanted, {free} of {total} free; use smaller tiles or batches, "
                "or end what else runs on the GPU"
            )
        self._check(result, "cuMemAlloc")
        return int(address)

    def free(self, address: int) -> None:
        """Give device memory back; no work in flight may use it."""
        self._call(self._cuda.cuMemFree, address)

    def allocate_pinned(self, nbytes: int) -> int:
        """Allocate page-locked host memory, which the GPU copies from and to while it computes; return its address."""
        result, address = self._cuda.cuMemHostAlloc(nbytes, 0)
        if result == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise MachineError(
                f"{nbytes / 2**20:.0f} MiB of host memory cannot be page-locked ({result.name}); "
                "use smaller tiles or batches"
            )
        self._check(result, "cuMemHostAlloc")
        return int(address)

    def free_pinned(self, address: int) -> None:
        """Give page-locked memory back."""
        self._call(self._cuda.cuMemFreeHost, address)

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default stream."""
        return int(self._call(self._cuda.cuStreamCreate, int(self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)))

    def destroy_stream(self, stream: int) -> None:
        """Finish a stream's work and give the stream back."""
        self.synchronize_stream(stream)
        self._call(self._cuda.cuStreamDestroy, stream)

    def synchronize_stream(self, stream: int) -> None:
        """Wait, without the GIL, until the work given to `stream` so far is done."""
        self._call(self._cuda.cuStreamSynchronize, stream)

    def create_event(self, *, timing: bool = False) -> Event:
        """Create an event, which keeps its time if `timing`."""
        return self._call(self._cuda.cuEventCreate, self._timed if timing else self._untimed)

    def destroy_event(self, event: Event) -> None:
        """Give an event back."""
        self._call(self._cuda.cuEventDestroy, event)

    def record(self, event: Event, stream: int) -> None:
        """Let `event` happen when all work given to `stream` so far is done."""
        self._call(self._cuda.cuEventRecord, event, stream)

    def wait(self, stream: int, event: Event) -> None:
        """Let work given to `stream` from now on start after `event`, as recorded last."""
        self._call(self._cuda.cuStreamWaitEvent, stream, event, 0)

    def synchronize(self, event: Event) -> None:
        """Wait, without the GIL, for `event` as recorded last."""
        self._call(self._cuda.cuEventSynchronize, event)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds between two events that were made with `timing` and have happened."""
        return float(self._call(self._cuda.cuEventElapsedTime, start, end))

    def copy_in(self, device: int, host: int, nbytes: int, stream: int) -> None:
        """Copy from host (pinned) to device, in the order of `stream`."""
        self._call(self._cuda.cuMemcpyHtoDAsync, device, host, nbytes, stream)

    def copy_out(self, host: int, device: int, nbytes: int, stream: int) -> None:
        """Copy from device to host (pinned), in the order of `stream`."""
        self._call(self._cuda.cuMemcpyDtoHAsync, host, device, nbytes, stream)

    def begin_capture(self, stream: int) -> None:
        """Record what this thread gives to `stream` from now on, instead of executing it.

        Other threads may allocate and wait meanwhile.
        """
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call(self._cuda.cuStreamBeginCapture, stream, mode)

    def end_capture(self, stream: int) -> Graph:
        """Return what was recorded as a graph.

        Raises:
            MachineError: something in between cannot be captured; the stream is usable again.
        """
        recorded = self._call(self._cuda.cuStreamEndCapture, stream)
        try:
            return self._call(self._cuda.cuGraphInstantiate, recorded, 0)
        finally:
            self._call(self._cuda.cuGraphDestroy, recorded)

    def launch(self, graph: Graph, stream: int) -> None:
        """Execute a graph in the order of `stream`."""
        self._call(self._cuda.cuGraphLaunch, graph, stream)

    def destroy_graph(self, graph: Graph) -> None:
        """Give a graph back."""
        self._call(self._cuda.cuGraphExecDestroy, graph)

    def close(self) -> None:
        """Give the primary context back; a context of the caller stays as it is. No work may be in flight."""
        if self._is_retained:
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
