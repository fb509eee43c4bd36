"""Backends that run a network. `open_session` is the one door to all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.backends.ov import CpuPrecision
from esrgan_deploy.backends.session import Frames, Session
from esrgan_deploy.errors import BackendMissingError, MachineError, OptionError

if TYPE_CHECKING:
    from esrgan_deploy.engine.watch import Progress

__all__ = ["BACKENDS", "CpuPrecision", "Frames", "Session", "open_session"]

BACKENDS = ("auto", "tensorrt", "openvino", "ort", "ort-cuda", "ort-tensorrt", "reference")
ON_GPU = ("tensorrt", "ort-cuda", "ort-tensorrt")
ENGINE_SUFFIXES = (".engine", ".plan")
"""Of files that TensorRT runs as they are."""


def open_session(
    model: str | Path | None,
    backend: str = "auto",
    *,
    precision: CpuPrecision = "auto",
    threads: int | None = None,
    streams: int = 1,
    cache: Path | None = None,
    refit: bool = False,
    progress: Progress | None = None,
    allow_cpu_fallback: bool = False,
) -> Session:
    """Load a network on a device.

    Args:
        model: an ONNX file, or a TensorRT engine with its sidecar. None only with "reference", which then enlarges four
            times.
        backend: "tensorrt", "openvino", "ort", "ort-cuda", "ort-tensorrt", "reference", or "auto": tensorrt where it is
            installed and a GPU is there, else ort-cuda where onnxruntime-gpu is installed and works, else openvino,
            else ort.
        precision: what openvino computes in; see `OpenVinoSession`.
        threads: CPU threads; None: one per core.
        streams: frames that openvino computes at the same time, for clips; the other backends compute one batch at a
            time. `TensorRTSession` itself takes several, for frames that are too small to fill a GPU.
        cache: folder where openvino keeps compiled models, and tensorrt and ort-tensorrt their engines.
        refit: let tensorrt build engines that `Session.set_alpha` can change; the other backends need not know.
        progress: told of engines that tensorrt builds, which takes minutes; None: nobody is.
        allow_cpu_fallback: where there is no usable GPU, give an "ort" session instead of "ort-cuda" or "ort-tensorrt".

    Raises:
        OptionError: an unknown backend, or no model.
        BackendMissingError: the backend's package is not installed; the message names the extra.
        ModelError: the file is damaged or holds something else.
        MachineError: the device cannot be used.
    """
    if backend not in BACKENDS:
        raise OptionError(f"backend '{backend}' is unknown; choose one of {', '.join(BACKENDS)}")
    if backend == "reference":
        from esrgan_deploy.backends.reference import ReferenceSession
        from esrgan_deploy.model import load_onnx

        return ReferenceSession(load_onnx(Path(model))[1] if model else None)
    if model is None:
        raise OptionError(f"backend '{backend}' needs a model; name an ONNX file")
    path = Path(model)
    if backend == "tensorrt" or (backend == "auto" and _prefers_tensorrt(path)):
        from esrgan_deploy.backends.trt import TensorRTSession
        from esrgan_deploy.engine.cache import EngineCache

        return TensorRTSession(path, refit=refit, cache=EngineCache(cache), progress=progress)
    if backend == "auto":
        return _open_best(path, precision, threads, streams, cache)
    if backend == "openvino":
        from esrgan_deploy.backends.ov import OpenVinoSession

        return OpenVinoSession(path, precision=precision, threads=threads, streams=streams, cache=cache)
    from esrgan_deploy.backends.ort import OrtSession

    if backend != "ort":
        from esrgan_deploy.backends.ort_gpu import OrtGpuSession

        try:
            return OrtGpuSession(path, backend, cache=cache)
        except MachineError:
            if not allow_cpu_fallback:
                raise
    return OrtSession(path, threads=threads)


def _prefers_tensorrt(path: Path) -> bool:
    """Whether "auto" means TensorRT: for engines, and wherever it is installed beside a GPU."""
    from importlib.util import find_spec

    from esrgan_deploy.cuda.probe import probe

    if path.suffix in ENGINE_SUFFIXES:
        return True
    if not find_spec("tensorrt"):
        return False
    try:
        probe()
    except MachineError:
        return False
    return True


def _open_best(path: Path, precision: CpuPrecision, threads: int | None, streams: int, cache: Path | None) -> Session:
    """The fastest of the others that is installed and works; only a missing device or package moves on to the next."""
    from importlib.util import find_spec

    from esrgan_deploy.backends.ort import OrtSession, check_installed, installed
    from esrgan_deploy.backends.ort_gpu import OrtGpuSession
    from esrgan_deploy.backends.ov import OpenVinoSession

    if installed("onnxruntime-gpu"):
        check_installed("ort-cuda")  # beside the CPU package it would silently lose the GPU
        try:
            return OrtGpuSession(path, "ort-cuda")
        except MachineError:
            pass  # no usable GPU: the CPU backends are the answer that "auto" asks for
    if find_spec("openvino"):
        return OpenVinoSession(path, precision=precision, threads=threads, streams=streams, cache=cache)
    if find_spec("onnxruntime"):
        return OrtSession(path, threads=threads)
    raise BackendMissingError("no backend is installed: pip install 'esrgan-deploy[cpu]' (or [gpu] with an NVIDIA GPU)")
