"""The ways to run a network on this CPU that keep the quality asked for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from esrgan_deploy.backends.int8 import int8_beside
from esrgan_deploy.backends.names import CpuPrecision, untuned_backend
from esrgan_deploy.backends.ov import cpu_has_bf16
from esrgan_deploy.errors import OptionError
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.system.cpu import default_threads, openvino_runs_here, usable_threads
from esrgan_deploy.tuning.choice import Candidate

STREAMS = (1, 2)
"""Batches at a time. `Upscaler.map` has three on their way: more than two streams would wait for it."""
PACKAGES = {"openvino": "openvino", "ort": "onnxruntime"}


def candidates(model: Path, info: ModelInfo, quality: CpuPrecision) -> list[Candidate]:
    """What is worth timing, by promise: the first one is what runs where nothing was timed.

    How many frames go to a session together is no question on a CPU: sessions compute them one after the other.

    Args:
        model: an ONNX file.
        info: of that file.
        quality: "auto": full fidelity, fp32 or bf16; "fp32", "bf16": that alone; "int8": everything.

    Raises:
        OptionError: bf16 is asked of a CPU without it, or there is no INT8 artefact.
        BackendMissingError: neither OpenVINO nor ONNX Runtime is installed.
    """
    precisions = _precisions(model, info, quality)
    present = [untuned_backend()]
    if openvino_runs_here():  # elsewhere it may run the excerpt, and fail in the network
        present += [name for name in ("openvino", "ort") if name != present[0] and find_spec(PACKAGES[name])]
    found = [
        Candidate(backend, precision, threads, streams)
        for backend in present
        for precision in precisions
        if backend == "openvino" or (precision != "bf16" and info.precision != "bf16")
        for threads in _threads()
        for streams in STREAMS
        if streams <= (threads if backend == "openvino" else 1)
    ]
    if not found:
        raise OptionError(f"{model}: {quality} is computed by openvino alone: pip install 'esrgan-deploy[cpu]'")
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
        int8_beside(model)  # says so where there is none
        return ["int8", *full]
    return full


def _threads() -> list[int]:
    """One for each core first: two that share a core help some networks, and hinder others."""
    return list(dict.fromkeys((default_threads(), usable_threads())))
