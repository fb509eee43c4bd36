"""The backends that run a network; `open_session` opens any of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.arguments import StrPath, as_path, check_at_least
from esrgan_deploy.backends.int8 import at_precision
from esrgan_deploy.backends.names import BACKENDS, ENGINE_SUFFIXES, CpuPrecision, untuned_backend
from esrgan_deploy.backends.session import Session
from esrgan_deploy.errors import MachineError, OptionError
from esrgan_deploy.frame_io import Frames
from esrgan_deploy.system.ownership import check_only_owner_writes

if TYPE_CHECKING:
    from esrgan_deploy.engine.build.progress import BuildProgress

__all__ = ["BACKENDS", "CpuPrecision", "Frames", "Session", "open_session"]

_LEAST_MOST_THREADS = 64


def open_session(
    model: StrPath | None,
    backend: str = "auto",
    *,
    precision: CpuPrecision = "auto",
    threads: int | None = None,
    streams: int = 1,
    cache: StrPath | None = None,
    refit: bool = False,
    progress: BuildProgress | None = None,
    allow_cpu_fallback: bool = False,
) -> Session:
    """Load a network on a device.

    Args:
        model: an ONNX file, or a TensorRT engine with its sidecar. None only with "reference", which then enlarges four
            times.
        backend: "tensorrt", "openvino", "ort", "ort-cuda", "ort-tensorrt", "reference", or "auto": tensorrt where it is
            installed and there is a GPU, else ort-cuda where onnxruntime-gpu is installed and works, else what an
            earlier tuning found to be the fastest on this CPU, else openvino where it has code for this CPU, else ort.
            Nothing is timed here.
        precision: "auto": full fidelity; "fp32", "bf16": what openvino computes in, see `OpenVinoSession`; "int8": the
            INT8 artefact that lies beside the model, see `int8_beside`. With backend "auto" it is the model itself if
            tuning found that faster on this machine.
        threads: CPU threads; None: what tuning found, or one for each core that affinity and the container's quota
            leave.
        streams: frames that openvino computes at the same time, for clips; the other backends compute one batch at a
            time. Only `TensorRTSession` itself takes several, for frames that are too small to fill a GPU.
        cache: folder where openvino keeps compiled models, and tensorrt and ort-tensorrt their engines; only its owner
            may write to it.
        refit: let tensorrt build engines that `Session.set_alpha` can change; the other backends always can.
        progress: called while tensorrt builds engines, which takes minutes.
        allow_cpu_fallback: where there is no usable GPU, give an "ort" session instead of "ort-cuda" or "ort-tensorrt".

    Raises:
        OptionError: an unknown backend, no model, a number out of range, or int8 of a model without its INT8 artefact.
        BackendMissingError: the backend's package is not installed; the message names the extra.
        ModelError: the file is damaged or holds something else.
        MachineError: the device cannot be used.
        OutputError: others than its owner can write to `cache`.
    """
    if backend not in BACKENDS:
        raise OptionError(f"backend '{backend}' is unknown; choose one of {', '.join(BACKENDS)}")
    check_at_least(1, threads=threads, streams=streams)
    _check_parallel(threads=threads, streams=streams)
    folder = None if cache is None else as_path(cache)
    if folder is not None:
        check_only_owner_writes(folder)
    if model is None:
        if backend == "reference":
            return _open_reference(None)
        raise OptionError(f"backend '{backend}' needs a model; name an ONNX file")
    path = as_path(model)
    if backend == "reference":
        return _open_reference(path)
    if backend == "tensorrt" or (backend == "auto" and _prefers_tensorrt(path)):
        return _open_tensorrt(path, precision, folder, refit, progress)
    if backend == "auto":
        return _open_fastest(path, precision, threads, streams, folder)
    path = at_precision(path, precision)
    if backend == "openvino":
        return _open_openvino(path, precision, threads, streams, folder)
    return _open_onnxruntime(path, backend, threads, folder, allow_cpu_fallback)


def gpu_comes_first(path: Path) -> bool:
    """Whether "auto" runs this file on a GPU, so that the choice among CPU backends does not matter."""
    from esrgan_deploy.backends.ort import installed

    return _prefers_tensorrt(path) or (installed("onnxruntime-gpu") and _gpu_works())


def _check_parallel(**values: int | None) -> None:
    """Refuse what only makes a machine stand still: each thread takes its own stack, each stream its own memory."""
    most = max(_LEAST_MOST_THREADS, 4 * (os.cpu_count() or 1))
    for name, value in values.items():
        if value is not None and value > most:
            raise OptionError(f"{name} {value} are too many for {os.cpu_count()} cores; give at most {most}")


def _prefers_tensorrt(path: Path) -> bool:
    """Whether "auto" takes TensorRT: for engines, and wherever it is installed and there is a GPU."""
    from importlib.util import find_spec

    return path.suffix in ENGINE_SUFFIXES or (find_spec("tensorrt") is not None and _gpu_works())


def _gpu_works() -> bool:
    from esrgan_deploy.cuda.gpu import find_gpu

    try:
        find_gpu()
    except MachineError:
        return False
    return True


def _open_reference(path: Path | None) -> Session:
    from esrgan_deploy.backends.reference import ReferenceSession
    from esrgan_deploy.model import load_onnx

    return ReferenceSession(None if path is None else load_onnx(path)[1])


def _open_tensorrt(
    path: Path, precision: CpuPrecision, cache: Path | None, refit: bool, progress: BuildProgress | None
) -> Session:
    from esrgan_deploy.backends.trt import TensorRTSession
    from esrgan_deploy.engine.store.cache import EngineCache

    source = path if path.suffix in ENGINE_SUFFIXES else at_precision(path, precision)
    return TensorRTSession(source, refit=refit, cache=EngineCache(cache), progress=progress)


def _open_openvino(
    path: Path, precision: CpuPrecision, threads: int | None, streams: int, cache: Path | None
) -> Session:
    from esrgan_deploy.backends.ov import OpenVinoSession

    return OpenVinoSession(path, precision=precision, threads=threads, streams=streams, cache=cache)


def _open_onnxruntime(
    path: Path, backend: str, threads: int | None, cache: Path | None, allow_cpu_fallback: bool
) -> Session:
    from esrgan_deploy.backends.ort import OrtSession

    if backend != "ort":
        from esrgan_deploy.backends.ort_gpu import OrtGpuSession

        try:
            return OrtGpuSession(path, backend, cache=cache)
        except MachineError:
            if not allow_cpu_fallback:
                raise
    return OrtSession(path, threads=threads)


def _open_fastest(
    path: Path, precision: CpuPrecision, threads: int | None, streams: int, cache: Path | None
) -> Session:
    """Open the fastest backend but TensorRT that works here. Only a missing GPU or package is passed over."""
    from esrgan_deploy.backends.ort import check_installed, installed
    from esrgan_deploy.backends.ort_gpu import OrtGpuSession
    from esrgan_deploy.backends.saved_choices import recall

    if installed("onnxruntime-gpu"):
        check_installed("ort-cuda")  # raises if the CPU package is installed as well, which hides the GPU
        try:
            return OrtGpuSession(at_precision(path, precision), "ort-cuda")
        except MachineError:
            pass  # no usable GPU: "auto" goes on with the CPU
    backend = "openvino" if precision == "bf16" else untuned_backend()  # the others have no bf16
    choice = recall(path, precision)
    if choice:
        best = choice.for_streams(streams)
        backend, precision, threads = best.backend, best.precision, threads or best.threads
    return open_session(path, backend, precision=precision, threads=threads, streams=streams, cache=cache)
