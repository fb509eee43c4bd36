"""DLPack by ctypes: hand an array over to another library, or take one, without a copy.

The structures are those of dlpack.h, version 0.8, which every consumer still takes (DLPack 1.0 asks producers for the
newer ones only where the consumer names a `max_version`, and lets them answer with the old ones):
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
    """DLManagedTensor: a tensor and the function that gives it back."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))

_python = ctypes.pythonapi
# Addresses instead of py_object: inside a destructor the capsule's count is zero, and counting it again would free it
# twice. Prototypes of our own, since `pythonapi` and its functions are shared with every other module.
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", _python)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_SetName", _python))

FRESH, USED = b"dltensor", b"used_dltensor"
"""Names of a capsule before and after somebody took what is in it. CPython keeps the pointer: they must stay alive."""


@dataclass(frozen=True)
class View:
    """Where an array lies and what it looks like."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...] | None = None
    """Bytes; None: C-contiguous."""
    device: tuple[int, int] = (CUDA, 0)
    """DLDeviceType and the device's number."""


class _Lent:
    """Everything that must outlive the consumer of one capsule."""

    def __init__(self, view: View, owner: object) -> None:
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


_lent: dict[int, _Lent] = {}
_lending = threading.Lock()


# Consumers may give back after the interpreter has cleared this module and ctypes: what that takes is bound as defaults
# here, and is never freed.
def _delete(managed: Any, lent: dict[int, _Lent] = _lent, address_of: Any = ctypes.addressof) -> None:  # noqa: ANN401
    lent.pop(address_of(managed.contents), None)


def _give_back_unused(
    capsule: int,
    lent: dict[int, _Lent] = _lent,
    is_valid: Callable[..., int] = _is_valid,
    pointer: Callable[..., int] = _pointer,
    fresh: bytes = FRESH,
) -> None:
    """Give back what nobody took; a consumer has renamed the capsule, and calls the deleter itself."""
    if is_valid(capsule, fresh):
        lent.pop(pointer(capsule, fresh), None)


_deleter = _Deleter(_delete)
_destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_give_back_unused)
_keep = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("Py_IncRef", _python))
for _kept in (_lent, _deleter, _destructor, FRESH, USED):
    _keep(_kept)


def lend(view: View, owner: object) -> object:
    """A capsule for `__dlpack__` to return; `owner` stays alive until its consumer gives it back."""
    lent = _Lent(view, owner)
    with _lending:
        _lent[lent.address] = lent
    capsule: object = _new(lent.address, FRESH, ctypes.cast(_destructor, ctypes.c_void_p))
    return capsule


class Borrowed:
    """What a capsule held: alive, and valid at `view.address`, for as long as this object is."""

    def __init__(self, capsule: object) -> None:
        """Take over the content of `capsule`, which nobody may have taken before.

        Raises:
            ValueError: no DLPack capsule, one that was used, or a type of element that numpy does not have.
        """
        address = _pointer(id(capsule), FRESH) if _is_valid(id(capsule), FRESH) else None
        if not address:
            raise ValueError("is no unused DLPack capsule")
        self._managed = ctypes.cast(address, ctypes.POINTER(_Managed))
        self.view = _view(self._managed.contents.tensor)
        _rename(id(capsule), USED)
        self._taken = True

    def __del__(self) -> None:
        # Without a name of this module: at the end of the interpreter they may be gone.
        if getattr(self, "_taken", False) and self._managed.contents.deleter:
            self._managed.contents.deleter(self._managed)


def _view(tensor: _Tensor) -> View:
    kinds = {code: kind for kind, code in CODES.items()}
    if tensor.code not in kinds or tensor.lanes != 1 or tensor.bits not in (8, 16, 32, 64):
        raise ValueError(f"has elements of DLPack type {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes")
    dtype = np.dtype(f"{kinds[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(stride * dtype.itemsize for stride in tensor.strides[: tensor.ndim]) if tensor.strides else None
    address = (tensor.data or 0) + tensor.byte_offset
    return View(address, shape, dtype, strides, (tensor.device_type, tensor.device_id))


def _contiguous(shape: tuple[int, ...]) -> list[int]:
    """Strides in elements of a C-contiguous array."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
