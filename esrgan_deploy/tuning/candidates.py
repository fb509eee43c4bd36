"""The ways to run a network on this CPU that keep the quality asked for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from esrgan_deploy.backends.choice import Candidate
from esrgan_deploy.backends.int8 import int8_beside
from esrgan_deploy.backends.names import CpuPrecision, untuned_backend
from esrgan_deploy.backends.ov import cpu_has_bf16
from esrgan_deploy.errors import OptionError
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.system.cpu import default_threads, openvino_runs_here, usable_threads

STREAMS = (1, 2)
"""Batches computed at a time. `Upscaler.map` keeps three in flight, too few for more than two streams."""
PACKAGES = {"openvino": "openvino", "ort": "onnxruntime"}


def candidates(model: Path, info: ModelInfo, quality: CpuPrecision) -> list[Candidate]:
    """List what to time, the most promising first; without any timing the first one is what runs.

    The size of a batch is not varied: on a CPU, sessions compute frames one after the other.

    Args:
        model: an ONNX file.
        info: of that file.
        quality: "auto": full fidelity, fp32 or bf16; "fp32", "bf16": that alone; "int8": all of them.

    Raises:
        OptionError: bf16 is asked of a CPU without it, or there is no INT8 artefact.
        BackendMissingError: neither OpenVINO nor ONNX Runtime is installed.
    """
    precisions = _precisions(model, info, quality)
    present = [untuned_backend()]
    if openvino_runs_here():  # elsewhere it may run the short network, and fail in the long one
        present += [name for name in ("openvino", "ort") if name != present[0] and find_spec(PACKAGES[name])]
    # One thread for each core first: two threads on a core speed some networks up and slow others down.
    thread_counts = dict.fromkeys((default_threads(), usable_threads()))
    found = [
        Candidate(backend, precision, threads, streams)
        for backend in present
        for precision in precisions
        if backend == "openvino" or (precision != "bf16" and info.precision != "bf16")
        for threads in thread_counts
        for streams in STREAMS
        if streams <= (threads if backend == "openvino" else 1)
    ]
    if not found:
        raise OptionError(f"{model}: only openvino computes in {quality}; pip install 'esrgan-deploy[cpu]'")
    return found


def _precisions(model: Path, info: ModelInfo, quality: CpuPrecision) -> list[CpuPrecision]:
    if info.precision == "int8":
        return ["int8"]
    if quality in ("fp32", "bf16"):
        if quality == "bf16" and not cpu_has_bf16():
            raise OptionError("--precision bf16: this CPU has no bf16 instructions; use --precision fp32")
        return [quality]
    full: list[CpuPrecision] = ["bf16", "fp32"] if cpu_has_bf16() else ["fp32"]
    if quality == "int8":
        int8_beside(model)  # raises if there is no INT8 artefact
        return ["int8", *full]
    return full
