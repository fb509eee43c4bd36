"""Exchange arrays with other libraries by DLPack, without a copy, through ctypes.

The structures are those of dlpack.h, version 0.8, which every library still accepts: even with DLPack 1.0, where a
consumer names a `max_version`, producers may answer with the older structures.
https://dmlc.github.io/dlpack/latest/python_spec.html
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

CPU, CUDA = 1, 2
"""DLDeviceType: kDLCPU, kDLCUDA."""
SIGNED, UNSIGNED, FLOAT = 0, 1, 2
"""DLDataTypeCode: kDLInt, kDLUInt, kDLFloat."""
CODES = {"i": SIGNED, "u": UNSIGNED, "f": FLOAT}


class _Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor: a tensor and the function that frees it."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))

_python = ctypes.pythonapi
# Capsules are passed as addresses, not as py_object: inside a destructor the reference count is zero, and a new
# reference would free the capsule twice. The prototypes are our own: all modules share those of `ctypes.pythonapi`.
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", _python)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_SetName", _python))

FRESH, USED = b"dltensor", b"used_dltensor"
"""Names of a capsule before and after its content was taken. CPython keeps pointers to these bytes."""


@dataclass(frozen=True)
class ArrayView:
    """Address, shape and type of an array."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...] | None = None
    """Bytes; None: C-contiguous."""
    device: tuple[int, int] = (CUDA, 0)
    """DLDeviceType and the device's number."""


class _Exported:
    """Everything that must stay alive until the consumer of a capsule gives it back."""

    def __init__(self, view: ArrayView, owner: object) -> None:
        self.owner = owner
        size = view.dtype.itemsize
        ndim = len(view.shape)
        self.shape = (ctypes.c_int64 * ndim)(*view.shape)
        strides = None if view.strides is None else [stride // size for stride in view.strides]
        self.strides = (ctypes.c_int64 * ndim)(*(strides or _contiguous(view.shape)))
        self.managed = _Managed()
        self.managed.tensor = _Tensor(
            view.address, *view.device, ndim, CODES[view.dtype.kind], 8 * size, 1, self.shape, self.strides, 0
        )
        self.managed.deleter = _deleter

    @property
    def address(self) -> int:
        return ctypes.addressof(self.managed)


_exported: dict[int, _Exported] = {}
_exporting = threading.Lock()


# Consumers may give an array back when the interpreter has cleared this module and ctypes already. So these functions
# keep everything that they use as default arguments, which are never freed.
def _delete(managed: Any, exported: dict[int, _Exported] = _exported, address_of: Any = ctypes.addressof) -> None:  # noqa: ANN401
    exported.pop(address_of(managed.contents), None)


def _give_back_unused(
    capsule: int,
    exported: dict[int, _Exported] = _exported,
    is_valid: Callable[..., int] = _is_valid,
    pointer: Callable[..., int] = _pointer,
    fresh: bytes = FRESH,
) -> None:
    """Free the content if nobody took it; a consumer renames the capsule, and calls the deleter itself."""
    if is_valid(capsule, fresh):
        exported.pop(pointer(capsule, fresh), None)


_deleter = _Deleter(_delete)
_destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_give_back_unused)
_keep = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("Py_IncRef", _python))
for _kept in (_exported, _deleter, _destructor, FRESH, USED):
    _keep(_kept)


def export_capsule(view: ArrayView, owner: object) -> object:
    """Make the capsule that `__dlpack__` returns; `owner` stays alive until the consumer gives it back."""
    exported = _Exported(view, owner)
    with _exporting:
        _exported[exported.address] = exported
    capsule: object = _new(exported.address, FRESH, ctypes.cast(_destructor, ctypes.c_void_p))
    return capsule


class ImportedArray:
    """The content of another library's capsule, which stays valid as long as this object is alive."""

    def __init__(self, capsule: object) -> None:
        """Take the content of `capsule`.

        Raises:
            ValueError: no DLPack capsule, one that was used already, or elements of a type that numpy does not have.
        """
        address = _pointer(id(capsule), FRESH) if _is_valid(id(capsule), FRESH) else None
        if not address:
            raise ValueError("is no unused DLPack capsule")
        self._managed = ctypes.cast(address, ctypes.POINTER(_Managed))
        self.view = _view(self._managed.contents.tensor)
        _rename(id(capsule), USED)
        self._taken = True

    def __del__(self) -> None:
        # Uses no global names, which may be gone at the end of the interpreter.
        if getattr(self, "_taken", False) and self._managed.contents.deleter:
            self._managed.contents.deleter(self._managed)


def _view(tensor: _Tensor) -> ArrayView:
    kinds = {code: kind for kind, code in CODES.items()}
    if tensor.code not in kinds or tensor.lanes != 1 or tensor.bits not in (8, 16, 32, 64):
        raise ValueError(f"has elements of DLPack type {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes")
    dtype = np.dtype(f"{kinds[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(stride * dtype.itemsize for stride in tensor.strides[: tensor.ndim]) if tensor.strides else None
    address = (tensor.data or 0) + tensor.byte_offset
    return ArrayView(address, shape, dtype, strides, (tensor.device_type, tensor.device_id))


def _contiguous(shape: tuple[int, ...]) -> list[int]:
    """Strides of a C-contiguous array, in elements."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
