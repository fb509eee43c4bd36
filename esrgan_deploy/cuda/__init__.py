"""The little of CUDA that the runtime needs, behind one interface that cuda-python and PyCUDA both fill."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

DriverName = Literal["auto", "cuda-python", "pycuda"]
Event: TypeAlias = Any
"""An event of the driver layer in use; opaque."""
Graph: TypeAlias = Any
"""An instantiated CUDA graph of the driver layer in use; opaque."""


@dataclass(frozen=True)
class DeviceFacts:
    """One GPU and its driver, as an engine depends on them."""

    name: str
    """For instance "NVIDIA H200"."""
    compute_capability: tuple[int, int]
    """(9, 0) for sm_90."""
    driver: str
    """The driver's own version, for instance "580.159.03"."""
    cuda: int
    """The newest CUDA that the driver runs, as CUDA counts: 13000 for 13.0."""
    total_memory: int
    """Bytes."""


class Driver(ABC):
    """A GPU through its primary context, which torch, CuPy, ONNX Runtime and PyCUDA's autoprimaryctx share.

    Addresses and streams are plain integers, as TensorRT takes them. Every thread that calls a method does so inside
    `with driver.active():`. Failures raise `MachineError`; for lack of memory the message says how much was wanted.
    """

    name: str
    """ "cuda-python" or "pycuda"."""
    facts: DeviceFacts
    has_graphs: bool
    """Whether work can be captured into CUDA graphs; PyCUDA cannot."""

    @abstractmethod
    def active(self) -> AbstractContextManager[None]:
        """Make the primary context current in this thread, for the block."""

    @abstractmethod
    def memory(self) -> tuple[int, int]:
        """Free and total bytes of device memory."""

    @abstractmethod
    def allocate(self, nbytes: int) -> int:
        """Device memory; the address."""

    @abstractmethod
    def free(self, address: int) -> None:
        """Give device memory back; no work in flight may use it."""

    @abstractmethod
    def allocate_pinned(self, nbytes: int) -> int:
        """Page-locked host memory, from which copies run beside computation; the address."""

    @abstractmethod
    def free_pinned(self, address: int) -> None:
        """Give page-locked memory back."""

    @abstractmethod
    def create_stream(self) -> int:
        """A stream that does not wait for the default stream."""

    @abstractmethod
    def destroy_stream(self, stream: int) -> None:
        """Give a stream back; its work is finished first."""

    @abstractmethod
    def synchronize_stream(self, stream: int) -> None:
        """Wait, without the GIL, until the work given to `stream` so far is done."""

    @abstractmethod
    def create_event(self, *, timing: bool = False) -> Event:
        """An event, with time stamps if `timing`."""

    @abstractmethod
    def destroy_event(self, event: Event) -> None:
        """Give an event back."""

    @abstractmethod
    def record(self, event: Event, stream: int) -> None:
        """`event` happens when all work given to `stream` so far is done."""

    @abstractmethod
    def wait(self, stream: int, event: Event) -> None:
        """Work given to `stream` from now on starts after `event`, as recorded last."""

    @abstractmethod
    def synchronize(self, event: Event) -> None:
        """Wait, without the GIL, for `event` as recorded last."""

    @abstractmethod
    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds between two events that were made with `timing` and have happened."""

    @abstractmethod
    def copy_in(self, device: int, host: int, nbytes: int, stream: int) -> None:
        """Host (pinned) to device, in the order of `stream`."""

    @abstractmethod
    def copy_out(self, host: int, device: int, nbytes: int, stream: int) -> None:
        """Device to host (pinned), in the order of `stream`."""

    @abstractmethod
    def begin_capture(self, stream: int) -> None:
        """From now on what this thread gives to `stream` is recorded instead of executed.

        Raises:
            MachineError: `has_graphs` is False.
        """

    @abstractmethod
    def end_capture(self, stream: int) -> Graph:
        """The graph of what was recorded.

        Raises:
            MachineError: something in between cannot be captured; the stream is usable again.
        """

    @abstractmethod
    def launch(self, graph: Graph, stream: int) -> None:
        """Execute a graph in the order of `stream`."""

    @abstractmethod
    def destroy_graph(self, graph: Graph) -> None:
        """Give a graph back."""

    @abstractmethod
    def close(self) -> None:
        """Give the primary context back; nothing may be in flight."""
