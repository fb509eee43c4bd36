"""Find libraries that ONNX Runtime's GPU providers need and that are missing, and say what installs them.

onnxruntime-gpu contains nothing of CUDA, cuDNN or TensorRT. If one of their libraries is missing, or has another major
version than it was linked with, it only prints a line to stderr and computes on the CPU. So the libraries are looked
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
"""ONNX Runtime 1.29 and newer load it later, so that the provider no longer lists it among its libraries."""
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5


def load_libraries() -> None:
    """Load CUDA, cuDNN and TensorRT from where pip installs them, which the system's loader does not search."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the names of missing libraries
            onnxruntime.preload_dlls()
    for folder in _package_folders("tensorrt_libs"):
        for name in TENSORRT:
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)


def check_libraries(*providers: str) -> None:
    """Make sure that all libraries of `providers`, keys of `FILES`, are installed.

    Raises:
        MachineError: some are missing; the message says what installs them.
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
    """The CUDA version that the installed onnxruntime-gpu was built for, for instance 13; None if unknown."""
    return _cuda_major(_needed_by(provider))


def _needed_by(provider: str) -> tuple[str, ...]:
    """The libraries that a provider was linked with; none if its file cannot be read for that, as on Windows."""
    import onnxruntime

    file = Path(onnxruntime.__file__).parent / "capi" / provider_name(FILES[provider])
    return needed(file) if file.exists() and file.suffix == ".so" else ()


def needed(library: Path) -> tuple[str, ...]:
    """The names of the libraries that a shared library was linked with, without loading it.

    A provider cannot be loaded to find that out, since only ONNX Runtime may do so. Format: System V ABI, ELF-64 object
    files, little-endian, as on x86-64 and aarch64.
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
    """What installs `library` for an onnxruntime-gpu that was linked with `names`."""
    cuda = _cuda_major(names) or 12
    if library in driver_names("cuda"):
        return "install the NVIDIA driver"
    if library in TENSORRT:
        return f"pip install 'tensorrt-cu{cuda}>=10,<11'"
    package = metadata.metadata("onnxruntime-gpu")
    if "cuda" in (package.get_all("Provides-Extra") or ()):  # cuDNN depends on cuBLAS, so both are installed
        return f"pip install 'onnxruntime-gpu[cuda,cudnn]=={package['Version']}'"
    return "pip install --upgrade 'onnxruntime-gpu[cuda,cudnn]'"  # 1.20 does not find libraries that pip installed


def _cuda_major(names: tuple[str, ...]) -> int | None:
    return next((major for name in names if (major := version_in(name, "cudart"))), None)


def _package_folders(package: str) -> list[Path]:
    """The folders of an installed package, found without importing it."""
    found = util.find_spec(package)
    return [Path(folder) for folder in (found.submodule_search_locations or ())] if found else []
