"""Which of its libraries a GPU provider of ONNX Runtime lacks here, and what brings them.

onnxruntime-gpu contains nothing of CUDA, cuDNN or TensorRT. Where one of their libraries is missing, or of another
major version than it was linked with, it writes a line to stderr and computes on the CPU. So the libraries are looked
for before a session is made; docs/onnxruntime_gpu.md has a table of what each version is linked with.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import mmap
import struct
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any

from esrgan_deploy.errors import MachineError
from esrgan_deploy.system.libraries import driver_names, library_name, load, provider_name, version_in

FILES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt"}
TENSORRT = tuple(library_name(name, 10) for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"))
"""Every ONNX Runtime from 1.18 on is linked with TensorRT 10; none with 8.x or 11."""
CUDNN = library_name("cudnn", 9)
"""From 1.29 on it is loaded later than the provider, and no longer listed among what that needs."""
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5


def load_libraries() -> None:
    """Load CUDA, cuDNN and TensorRT from the folders that pip puts them into, which the system does not search."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
    for folder in _package_folders("tensorrt_libs"):
        for name in TENSORRT:
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)


def check_libraries(*providers: str) -> None:
    """Refuse to go on where a library of `providers`, keys of `FILES`, is missing.

    Raises:
        MachineError: the message names the libraries, and the pip line or driver that brings them.
    """
    import onnxruntime

    names = tuple(dict.fromkeys(name for provider in providers for name in _needed_by(provider)))
    missing = [name for name in dict.fromkeys((*names, CUDNN)) if names and load(name) is None]
    if missing:
        raise MachineError(
            f"onnxruntime-gpu {onnxruntime.__version__} needs {', '.join(missing)}, not found here: "
            f"{' and '.join(dict.fromkeys(_remedy(name, names) for name in missing))}, or choose -b ort"
        )


def cuda_major(provider: str) -> int | None:
    """The CUDA that the installed onnxruntime-gpu was made for, for instance 13; None where it cannot be told."""
    return _cuda_major(_needed_by(provider))


def _needed_by(provider: str) -> tuple[str, ...]:
    """What a provider was linked with; nothing where that cannot be read: on Windows, or where it is built in."""
    import onnxruntime

    file = Path(onnxruntime.__file__).parent / "capi" / provider_name(FILES[provider])
    return needed(file) if file.exists() and file.suffix == ".so" else ()


def needed(library: Path) -> tuple[str, ...]:
    """The names of the libraries that a shared library was linked with, without loading it.

    Loading would be simpler, but a provider wants to be loaded by ONNX Runtime alone. Format: System V ABI, ELF-64
    object files, little-endian, as x86-64 and aarch64 have them.
    """
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
        # type, flags, offset in the file, virtual address, physical address, size in the file, in memory, alignment
        segments = [struct.unpack_from("<IIQQQQQQ", data, start + index * size) for index in range(count)]
        entries = list(_dynamic(data, next(segment[2] for segment in segments if segment[0] == _PT_DYNAMIC)))
        address = next(value for tag, value in entries if tag == _DT_STRTAB)
        strings = next(
            address - segment[3] + segment[2]
            for segment in segments
            if segment[0] == _PT_LOAD and segment[3] <= address < segment[3] + segment[5]
        )
        names = [strings + value for tag, value in entries if tag == _DT_NEEDED]
        return tuple(data[name : data.find(b"\0", name)].decode() for name in names)


def _dynamic(data: Any, offset: int) -> Iterator[tuple[int, int]]:  # noqa: ANN401  # mmap is no bytes to mypy
    """Tags and values of the dynamic section that begins at `offset`."""
    while True:
        tag, value = struct.unpack_from("<qQ", data, offset)
        if tag == _DT_NULL:
            return
        yield tag, value
        offset += 16


def _remedy(library: str, names: tuple[str, ...]) -> str:
    """What brings `library` to an onnxruntime-gpu that was linked with `names`."""
    cuda = _cuda_major(names) or 12
    if library in driver_names("cuda"):
        return "install the NVIDIA driver"
    if library in TENSORRT:
        return f"pip install 'tensorrt-cu{cuda}>=10,<11'"
    package = metadata.metadata("onnxruntime-gpu")
    if "cuda" in (package.get_all("Provides-Extra") or ()):  # cuBLAS comes with cuDNN, which needs it
        return f"pip install 'onnxruntime-gpu[cuda,cudnn]=={package['Version']}'"
    return "pip install --upgrade 'onnxruntime-gpu[cuda,cudnn]'"  # 1.20 does not look where pip puts them


def _cuda_major(names: tuple[str, ...]) -> int | None:
    return next((major for name in names if (major := version_in(name, "cudart"))), None)


def _package_folders(package: str) -> list[Path]:
    """The folders of an installed package, which is not imported."""
    found = util.find_spec(package)
    return [Path(folder) for folder in (found.submodule_search_locations or ())] if found else []
