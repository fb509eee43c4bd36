"""Read what `torch.save` wrote, of which nothing is believed: checkpoints of networks, and states of training runs."""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from typing import IO, Any, BinaryIO

import torch
from torch import Tensor

from esrgan_deploy.budget import MIB, check_memory
from esrgan_deploy.errors import ModelError

_PICKLE_MIB = 16
"""The most that the part without the numbers may have; that of the largest known network with its optimiser has one."""
_DEPTH, _NODES = 32, 1_000_000
"""Levels of lists and dicts inside one another, and things in all of them."""
_LONGEST_NAME = 200
"""Characters of the name of a class; PyTorch's own have up to 50."""
_PICKLES = 5
"""One behind the other in the format from before PyTorch 1.6, before the numbers; in a zip file there is one."""
_BYTES_BY_NUMBER = b"\nbytearray\n"
"""The one thing in a pickle that PyTorch lets through and that fills memory by a number: bytearray(10**11)."""


class _ClaimError(Exception):
    """What the file says of itself cannot be; the message follows its name."""


def load_torch_file(file: BinaryIO, source: object, remedy: str, *, old: bool = True) -> Any:  # noqa: ANN401 - pickles
    """The content of a file of PyTorch, on the CPU. Nothing in it is executed.

    Dicts are exactly dicts, whatever their kind was, and tensors are dense and have no more elements than the file.

    Args:
        file: a regular file, open for reading at its start, or its bytes (BytesIO).
        source: the file's name in messages.
        remedy: the end of messages, for instance "download or copy it again".
        old: take the format from before PyTorch 1.6 too, which is no zip file.

    Raises:
        ModelError: it is damaged, holds anything but plain values and tensors, or claims more than it has.
        MachineError: it does not fit into memory.
    """
    size = file.seek(0, 2)
    check_memory(source, "its content", 2 * size)
    try:
        file.seek(0)
        is_zip = file.read(4) == b"PK\3\4"  # what PyTorch goes by
        file.seek(0)
        if is_zip:
            _check_zip(file, size)
        elif old:
            _check_pickle(file)
            file.seek(0)
            _check_names(file)
        else:
            raise _ClaimError("is truncated, or no file of PyTorch")
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types of storage that are no longer used
            content = torch.load(file, map_location="cpu", weights_only=True)
        return _Plain(size).of(content, 0)
    except _ClaimError as error:
        raise ModelError(f"{source}: {error}; {remedy}") from error
    except Exception as error:  # damaged streams make it raise nearly anything, MemoryError among it
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise ModelError(
                f"{source}: holds {code[1]}, which is code, and was not run; store the weights alone, "
                f"torch.save(network.state_dict(), ...); {remedy}"
            ) from error
        raise ModelError(f"{source}: is truncated, altered, or no file of PyTorch; {remedy}") from error


def _check_zip(file: BinaryIO, size: int) -> None:
    """PyTorch stores without compression, so what is compressed, or said to be larger than the file, is a bomb."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise _ClaimError("is compressed, which files of PyTorch are not")
        if sum(entry.file_size for entry in entries) > size:
            raise _ClaimError("claims to hold more than it does")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                if entry.file_size > _PICKLE_MIB * MIB:
                    raise _ClaimError(f"has more than {_PICKLE_MIB} MiB beside its numbers")
                with archive.open(entry) as pickle:
                    _check_pickle(pickle)
                with archive.open(entry) as pickle:
                    _check_names(pickle)


def _check_pickle(pickle: IO[bytes]) -> None:
    before = b""
    while piece := pickle.read(MIB):
        if _BYTES_BY_NUMBER in before + piece:
            raise _ClaimError("holds a bytearray, which no network has")
        before = piece[-len(_BYTES_BY_NUMBER) :]


def _check_names(pickle: IO[bytes]) -> None:
    """Refuse long names of classes: PyTorch takes time by their square to say that it does not know one."""
    for _ in range(_PICKLES):
        start = pickle.tell()
        if not pickle.read(1):
            return
        pickle.seek(start)
        try:
            for operation, argument, _position in pickletools.genops(pickle):
                if operation.name == "GLOBAL" and len(str(argument)) > _LONGEST_NAME:
                    raise _ClaimError(f"names a class by {len(str(argument))} characters")
        except ValueError as error:
            raise _ClaimError("is truncated, altered, or no file of PyTorch") from error


class _Plain:
    """Copies what was read into Python's own dicts, lists and tuples.

    A pickle can give other kinds of dicts any attribute, let a list hold itself, and name more numbers than it has.
    """

    def __init__(self, size: int) -> None:
        self._things_left = _NODES
        self._bytes_left = size
        self._storages: set[int] = set()  # addresses of those that were counted

    def of(self, value: Any, depth: int) -> Any:  # noqa: ANN401 - pickles
        self._things_left -= 1
        if depth > _DEPTH or self._things_left < 0:
            raise _ClaimError("is nested deeper, or holds more things, than any training state or network")
        if isinstance(value, dict):
            return {key: self.of(inner, depth + 1) for key, inner in dict.items(value)}
        if isinstance(value, torch.Size):
            return tuple(value)
        if type(value) in (list, tuple):
            return type(value)(self.of(inner, depth + 1) for inner in value)
        if isinstance(value, Tensor):
            return self._dense(value)
        if isinstance(value, torch.UntypedStorage | torch.TypedStorage):
            raise _ClaimError("holds memory without a shape, not only tensors")
        return value

    def _dense(self, tensor: Tensor) -> Tensor:
        """`tensor`, if every element of it is in the file: strides of 0 show one number a million times."""
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise _ClaimError("holds a tensor that is no plain array of numbers")
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._storages:
            self._storages.add(storage.data_ptr())
            self._bytes_left -= storage.nbytes()
        if self._bytes_left < 0 or tensor.numel() * tensor.element_size() > storage.nbytes():
            raise _ClaimError("holds a tensor with more elements than it has numbers")
        return tensor
