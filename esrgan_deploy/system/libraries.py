"""What native libraries are called on each system, and loading them by that name."""

from __future__ import annotations

import ctypes
import re
import sys

_LINUX_ON_WINDOWS = "/usr/lib/wsl/lib"
"""Where Windows puts the driver's libraries into its Linux, which the loader often does not know."""


def driver_names(library: str, system: str = sys.platform) -> tuple[str, ...]:
    """The file names of a library of the NVIDIA driver, the likeliest first.

    Args:
        library: "cuda" or "nvidia-ml".
        system: whose names, as in `sys.platform`.
    """
    if system == "win32":
        return ({"cuda": "nvcuda.dll", "nvidia-ml": "nvml.dll"}[library],)
    name = f"lib{library}.so.1"
    return name, f"{_LINUX_ON_WINDOWS}/{name}"


def library_name(library: str, version: int, system: str = sys.platform) -> str:
    """The file name of a major version of a library that comes beside the driver: "nvinfer", "cudart", "cudnn"."""
    if system == "win32":
        bits = "64" if library.startswith("cu") else ""
        return f"{library}{bits}_{version}.dll"
    return f"lib{library}.{version}.dylib" if system == "darwin" else f"lib{library}.so.{version}"


def version_in(name: str, library: str) -> int | None:
    """The major version in the file name of a library, on any system; None: it is another library's."""
    found = re.fullmatch(rf"(?:lib)?{library}(?:64)?(?:\.so\.|_)(\d+).*", name)
    return int(found[1]) if found else None


def provider_name(provider: str, system: str = sys.platform) -> str:
    """The file name of one of ONNX Runtime's providers, "cuda" or "tensorrt"."""
    prefix, suffix = ("", "dll") if system == "win32" else ("lib", "dylib" if system == "darwin" else "so")
    return f"{prefix}onnxruntime_providers_{provider}.{suffix}"


def load(*names: str) -> ctypes.CDLL | None:
    """The first of these libraries that the system finds; None: it finds none."""
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
