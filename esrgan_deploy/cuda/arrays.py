"""Exchange arrays in GPU memory with any library, without a copy, by CUDA Array Interface v3 or DLPack.

PyCUDA, CuPy and torch have the first, and all but PyCUDA the second too:
https://nvidia.github.io/numba-cuda/user/cuda_array_interface.html
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from esrgan_deploy.cuda import dlpack
from esrgan_deploy.errors import OptionError
from esrgan_deploy.frame_io import FrameType, frame_type_of

LEGACY = 1
"""CU_STREAM_LEGACY, the number of the default stream."""
NO_ORDER = -1
"""DLPack's number for "the consumer orders its work itself"."""


@dataclass(frozen=True)
class DeviceArray:
    """Frames in GPU memory that belong to another library."""

    address: int
    shape: tuple[int, int, int, int]
    """(N, H, W, 3), C-contiguous."""
    dtype: np.dtype[Any]
    """uint8 or uint16."""
    produced_on: int | None
    """The stream whose work must be done before the array is read; None: the array can be read at once."""
    owner: object
    """Keeps the memory alive."""

    @property
    def frame_type(self) -> FrameType:
        """The name of the dtype."""
        return frame_type_of(self.dtype)


def stream_handle(stream: object) -> int:
    """The number of a CUDA stream, given as such or as an object of PyCUDA, CuPy, torch or cuda.core.

    None and 0 mean the legacy default stream, whose number is 1.

    Raises:
        OptionError: something else.
    """
    if stream is None:
        return LEGACY
    if hasattr(stream, "__cuda_stream__"):  # cuda.core: (version of the protocol, handle)
        protocol = stream.__cuda_stream__
        stream = (protocol() if callable(protocol) else protocol)[1]
    for name in ("cuda_stream", "ptr", "handle"):  # torch, CuPy, PyCUDA
        stream = getattr(stream, name, stream)
    try:
        handle = int(stream)  # type: ignore[call-overload]  # int() checks it
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"stream {stream!r} is no CUDA stream; give its number, or the object of PyCUDA, CuPy, torch or cuda.core"
        ) from error
    return int(handle) or LEGACY


def device_array(frames: object, stream: int, *, role: str = "frames", device: int = 0) -> DeviceArray:
    """Find the memory of `frames`, without a copy.

    Args:
        frames: an object with `__cuda_array_interface__` or `__dlpack__`.
        stream: the stream that will read them; a DLPack producer orders its own work before it.
        role: name of the array in messages; "out" must be writable.
        device: number of the GPU that it must be on.

    Raises:
        OptionError: not on this GPU, not uint8 or uint16 (N, H, W, 3), not C-contiguous, or read-only.
    """
    interface = getattr(frames, "__cuda_array_interface__", None)
    has_dlpack = hasattr(frames, "__dlpack__") and hasattr(frames, "__dlpack_device__")
    # torch's interface, of version 2, does not name the stream to wait for; with DLPack torch orders the work itself.
    if interface is not None and ("stream" in interface or not has_dlpack):
        view, produced_on = _from_interface(interface, role)
        owner = frames
    elif has_dlpack:
        view, owner = _from_dlpack(frames, stream, role, device)
        produced_on = None
    else:
        raise OptionError(
            f"{role}: {type(frames).__name__} is no array on a GPU: it has neither __cuda_array_interface__ nor "
            "__dlpack__; give host arrays to submit()"
        )
    shape = _checked(view, role)
    return DeviceArray(view.address, shape, view.dtype, produced_on, owner)


def _from_interface(interface: dict[str, Any], role: str) -> tuple[dlpack.ArrayView, int | None]:
    try:
        dtype = np.dtype(interface["typestr"])
        address, read_only = interface["data"]
        shape, strides = tuple(interface["shape"]), interface.get("strides")
    except (KeyError, TypeError, ValueError) as error:
        raise OptionError(f"{role}: its __cuda_array_interface__ is not of version 2 or 3 ({error})") from error
    if interface.get("mask") is not None:
        raise OptionError(f"{role}: is a masked array; give one without a mask")
    if read_only and role == "out":
        raise OptionError("out: is read-only; give an array that can be written")
    return dlpack.ArrayView(int(address), shape, dtype, strides and tuple(strides)), interface.get("stream")


def _from_dlpack(frames: Any, stream: int, role: str, device: int) -> tuple[dlpack.ArrayView, object]:  # noqa: ANN401
    kind, number = frames.__dlpack_device__()
    if (int(kind), int(number)) != (dlpack.CUDA, device):
        raise OptionError(
            f"{role}: is on DLPack device ({int(kind)}, {int(number)}), the session is on CUDA device {device}; "
            "give host arrays to submit(), and move others there"
        )
    try:
        imported = dlpack.ImportedArray(frames.__dlpack__(stream=stream))
    except (ValueError, TypeError, BufferError) as error:
        raise OptionError(f"{role}: {error}; give a uint8 or uint16 array of shape (N, H, W, 3)") from error
    return imported.view, imported


def _checked(view: dlpack.ArrayView, role: str) -> tuple[int, int, int, int]:
    dtype, shape = view.dtype, view.shape
    native = dtype in (np.uint8, np.uint16) and dtype.isnative
    if not native or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise OptionError(f"{role}: must be uint8 or uint16 of shape (N, H, W, 3); received {dtype} of shape {shape}")
    expected = tuple(dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(4))
    # The stride of an axis of length 1 has no meaning, and libraries write anything there.
    if view.strides and any(n > 1 and a != b for n, a, b in zip(shape, view.strides, expected, strict=True)):
        raise OptionError(
            f"{role}: must be C-contiguous, strides {expected}; received strides {view.strides}; copy it to a "
            "contiguous array first"
        )
    return shape[0], shape[1], shape[2], shape[3]


class DeviceFrames:
    """Upscaled frames in GPU memory, which may still be computed: (N, H * scale, W * scale, 3), C-contiguous.

    Other libraries take them without a copy: `cupy.asarray(frames)`, `torch.from_dlpack(frames)`, or `address` for
    PyCUDA's `gpudata`. The first two order their work after the frames; with the address alone, use `stream` or wait.

    When this object and all arrays made from it are gone, later calls on the same stream reuse the memory. So keep one
    of them until work in *another* stream that reads the frames is done.
    """

    def __init__(
        self,
        view: dlpack.ArrayView,
        stream: int,
        memory: object,
        inputs: object,
        order: Callable[[int], None],
        check: Callable[[], None],
    ) -> None:
        """Make a result.

        Args:
            view: address, shape and type.
            stream: the stream that computes the frames.
            memory: the owner of the memory, and no more, so that results that are passed back as `out` do not keep all
                earlier ones alive.
            inputs: kept alive until the frames are computed.
            order: makes a stream wait for the frames.
            check: raises if the network overflowed.
        """
        self.address = view.address
        """Of the first sample, in device memory."""
        self.shape = view.shape
        """(N, H * scale, W * scale, 3)."""
        self.dtype = view.dtype
        """uint8 or uint16."""
        self.stream = stream
        """The stream that computes the frames; 1 is the legacy default stream."""
        self._view = view
        self.memory = memory
        """The owner of the memory."""
        self._inputs = inputs
        self._order = order
        self._check = check

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """CUDA Array Interface, version 3."""
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": self.stream,
        }

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """Make a DLPack capsule; work given to `stream` (None: the default stream) from now on waits for the frames.

        Raises:
            BufferError: a copy was asked for, or another device.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self._view.device):
            raise BufferError("frames on the GPU are handed over without a copy, to the same GPU only")
        if stream != NO_ORDER:
            self._order(stream_handle(stream))
        return dlpack.export_capsule(self._view, self)

    def __dlpack_device__(self) -> tuple[int, int]:
        """(2, number of the GPU): CUDA."""
        return self._view.device

    def check(self) -> None:
        """Wait for the frames, and make sure that the network did not overflow.

        `submit` does that for every batch. `run_device` does not, since it would have to wait; call this for the first
        frames of a new model.

        Raises:
            MachineError: the network's output holds NaN or infinite values.
        """
        self._check()
