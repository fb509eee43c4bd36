"""Names of backends and precisions, and which CPU backend to take without tuning."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from esrgan_deploy.errors import BackendMissingError
from esrgan_deploy.system.cpu import openvino_runs_here

BACKENDS = ("auto", "tensorrt", "openvino", "ort", "ort-cuda", "ort-tensorrt", "reference")
GPU_BACKENDS = ("tensorrt", "ort-cuda", "ort-tensorrt")
ENGINE_SUFFIXES = (".engine", ".plan")
"""Files that TensorRT runs as they are."""
CpuPrecision = Literal["auto", "fp32", "bf16", "int8"]


def untuned_backend() -> str:
    """The CPU backend that is most likely the fastest on this machine.

    Raises:
        BackendMissingError: none is installed.
    """
    present = [name for name, module in (("openvino", "openvino"), ("ort", "onnxruntime")) if find_spec(module)]
    if not present:
        raise BackendMissingError(
            "no backend is installed: pip install 'esrgan-deploy[cpu]' (or [gpu] with an NVIDIA GPU)"
        )
    return present[0] if openvino_runs_here() else present[-1]
