"""Engines that run a network. `open_session` is the one door to all of them."""

from __future__ import annotations

from pathlib import Path

from esrgan_deploy.backends.ov import CpuPrecision
from esrgan_deploy.backends.session import Frames, Session
from esrgan_deploy.errors import BackendMissingError, MachineError, OptionError

__all__ = ["BACKENDS", "CpuPrecision", "Frames", "Session", "open_session"]

BACKENDS = ("auto", "openvino", "ort", "ort-cuda", "reference")


def open_session(
    model: str | Path | None,
    backend: str = "auto",
    *,
    precision: CpuPrecision = "auto",
    threads: int | None = None,
    streams: int = 1,
    cache: Path | None = None,
    allow_cpu_fallback: bool = False,
) -> Session:
    """Load a network on a device.

    Args:
        model: an ONNX file. None only with "reference", which then enlarges four times.
        backend: "openvino", "ort", "ort-cuda", "reference", or "auto": ort-cuda where onnxruntime-gpu is installed
            and works, else openvino, else ort.
        precision: what openvino computes in; see `OpenVinoSession`.
        threads: CPU threads; None: one per core.
        streams: frames that openvino computes at the same time, for clips; the other backends compute one.
        cache: folder where openvino keeps compiled models.
        allow_cpu_fallback: ort-cuda may run on the CPU where there is no usable GPU, instead of raising.

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
    if backend == "auto":
        return _open_best(path, precision, threads, streams, cache)
    if backend == "openvino":
        from esrgan_deploy.backends.ov import OpenVinoSession

        return OpenVinoSession(path, precision=precision, threads=threads, streams=streams, cache=cache)
    from esrgan_deploy.backends.ort import OrtSession

    return OrtSession(path, backend, threads=threads, allow_cpu_fallback=allow_cpu_fallback)


def _open_best(path: Path, precision: CpuPrecision, threads: int | None, streams: int, cache: Path | None) -> Session:
    """The fastest backend that is installed and works; only a missing device or package moves on to the next."""
    from importlib.util import find_spec

    from esrgan_deploy.backends.ort import OrtSession, check_installed, installed
    from esrgan_deploy.backends.ov import OpenVinoSession

    if installed("onnxruntime-gpu"):
        check_installed("ort-cuda")  # beside the CPU package it would silently lose the GPU
        try:
            return OrtSession(path, "ort-cuda")
        except MachineError:
            pass  # no usable GPU: the CPU backends are the answer that "auto" asks for
    if find_spec("openvino"):
        return OpenVinoSession(path, precision=precision, threads=threads, streams=streams, cache=cache)
    if find_spec("onnxruntime"):
        return OrtSession(path, "ort", threads=threads)
    raise BackendMissingError("no backend is installed: pip install 'esrgan-deploy[cpu]' (or [gpu] with an NVIDIA GPU)")
