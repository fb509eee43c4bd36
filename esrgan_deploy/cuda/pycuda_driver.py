"""The driver layer over PyCUDA, for programs that use PyCUDA anyway or have no cuda-python.

PyCUDA's own functions are used for the context, memory, streams and copies. Its events can only be recorded on streams
that it made itself; those of a caller are plain numbers here. Events are therefore made through the driver's library,
which PyCUDA has loaded already.

Sources: https://documen.tician.de/pycuda/driver.html and the CUDA Driver API.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from esrgan_deploy.cuda import DeviceFacts, Driver, Event, Graph
from esrgan_deploy.cuda.drivers import no_pinned_memory, out_of_memory
from esrgan_deploy.errors import MachineError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_BLOCKING_SYNC, _DISABLE_TIMING = 1, 2  # CU_EVENT_*
_LEGACY_STREAM = 1  # CU_STREAM_LEGACY


class PycudaDriver(Driver):
    """See `Driver`. Addresses and streams are integers outside and PyCUDA's objects, which own them, inside."""

    name = "pycuda"
    has_graphs = False

    def __init__(self, facts: DeviceFacts, device: int = 0) -> None:
        """Retain the primary context of GPU number `device`, as `pycuda.autoprimaryctx` does.

        Raises:
            ImportError: PyCUDA is not installed.
            MachineError: CUDA refuses.
        """
        import pycuda.driver as cuda

        self.facts = facts
        self._cuda = cuda
        self._libcuda = ctypes.CDLL("libcuda.so.1")
        self._memory: dict[int, Any] = {}
        self._pinned: dict[int, Any] = {}
        self._streams: dict[int, Any] = {0: None, _LEGACY_STREAM: None}
        with self._mapped():
            cuda.init()
            self._context = cuda.Device(device).retain_primary_context()

    @contextmanager
    def active(self) -> Iterator[None]:
        """See `Driver.active`."""
        with self._mapped():
            self._context.push()
        try:
            yield
        finally:
            with self._mapped():
                self._cuda.Context.pop()

    def memory(self) -> tuple[int, int]:
        """See `Driver.memory`."""
        with self._mapped():
            free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        """See `Driver.allocate`."""
        with self._mapped():
            try:
                memory = self._cuda.mem_alloc(nbytes)
            except self._cuda.MemoryError as error:
                raise out_of_memory(nbytes, *self.memory()) from error
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        """See `Driver.free`."""
        with self._mapped():
            self._owned(self._memory, address).free()

    def allocate_pinned(self, nbytes: int) -> int:
        """See `Driver.allocate_pinned`."""
        with self._mapped():
            try:
                array = self._cuda.pagelocked_empty(nbytes, "u1")
            except self._cuda.MemoryError as error:
                raise no_pinned_memory(nbytes, str(error)) from error
        self._pinned[array.ctypes.data] = array.base
        return int(array.ctypes.data)

    def free_pinned(self, address: int) -> None:
        """See `Driver.free_pinned`."""
        with self._mapped():
            self._owned(self._pinned, address).free()

    def create_stream(self) -> int:
        """See `Driver.create_stream`."""
        with self._mapped():
            stream = self._cuda.Stream(_NON_BLOCKING)
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        """See `Driver.destroy_stream`."""
        self.synchronize_stream(stream)
        self._owned(self._streams, stream)  # PyCUDA destroys it with its object

    def synchronize_stream(self, stream: int) -> None:
        """See `Driver.synchronize_stream`."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def create_event(self, *, timing: bool = False) -> Event:
        """See `Driver.create_event`."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), _BLOCKING_SYNC | (0 if timing else _DISABLE_TIMING))
        return event

    def destroy_event(self, event: Event) -> None:
        """See `Driver.destroy_event`."""
        self._call("cuEventDestroy_v2", event)

    def record(self, event: Event, stream: int) -> None:
        """See `Driver.record`."""
        self._call("cuEventRecord", event, ctypes.c_void_p(stream))

    def wait(self, stream: int, event: Event) -> None:
        """See `Driver.wait`."""
        self._call("cuStreamWaitEvent", ctypes.c_void_p(stream), event, 0)

    def synchronize(self, event: Event) -> None:
        """See `Driver.synchronize`."""
        self._call("cuEventSynchronize", event)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """See `Driver.elapsed_ms`."""
        milliseconds = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(milliseconds), start, end)
        return milliseconds.value

    def copy_in(self, device: int, host: int, nbytes: int, stream: int) -> None:
        """See `Driver.copy_in`. `stream` is one of this driver, or the default stream."""
        source = (ctypes.c_ubyte * nbytes).from_address(host)
        with self._mapped():
            self._cuda.memcpy_htod_async(device, source, self._own_stream(stream))

    def copy_out(self, host: int, device: int, nbytes: int, stream: int) -> None:
        """See `Driver.copy_out`. `stream` is one of this driver, or the default stream."""
        target = (ctypes.c_ubyte * nbytes).from_address(host)
        with self._mapped():
            self._cuda.memcpy_dtoh_async(target, device, self._own_stream(stream))

    def begin_capture(self, stream: int) -> None:
        """See `Driver.begin_capture`."""
        raise _no_graphs()

    def end_capture(self, stream: int) -> Graph:
        """See `Driver.end_capture`."""
        raise _no_graphs()

    def launch(self, graph: Graph, stream: int) -> None:
        """See `Driver.launch`."""
        raise _no_graphs()

    def destroy_graph(self, graph: Graph) -> None:
        """See `Driver.destroy_graph`."""
        raise _no_graphs()

    def close(self) -> None:
        """See `Driver.close`.

        `detach` gives a context back in the thread that made it, or where PyCUDA holds it for the current one. It
        takes the context off the thread's stack for PyCUDA alone: CUDA does that by itself for other contexts, but
        not for primary ones.
        """
        with self._mapped():
            self._context.push()
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
            self._context.detach()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn PyCUDA's exceptions into `MachineError`."""
        try:
            yield
        except self._cuda.Error as error:
            raise MachineError(str(error)) from error

    def _call(self, function: str, *arguments: object) -> None:
        """Call the driver's library itself; ctypes releases the GIL meanwhile."""
        call: Callable[..., int] = getattr(self._libcuda, function)
        result = call(*arguments)
        if result:
            name = ctypes.c_char_p()
            self._libcuda.cuGetErrorName(result, ctypes.byref(name))
            raise MachineError(f"{function} failed: {(name.value or b'CUDA error %d' % result).decode()}")

    def _own_stream(self, stream: int) -> Any:  # noqa: ANN401
        if stream not in self._streams:
            raise MachineError(f"PyCUDA cannot copy on stream {stream:#x}, which it did not make; install cuda-python")
        return self._streams[stream]

    @staticmethod
    def _owned(owners: dict[int, Any], key: int) -> Any:  # noqa: ANN401
        if owners.get(key) is None:
            raise MachineError(f"{key:#x} was not made by this driver, or was given back already")
        return owners.pop(key)


def _no_graphs() -> MachineError:
    return MachineError("PyCUDA cannot capture CUDA graphs; install cuda-python")
