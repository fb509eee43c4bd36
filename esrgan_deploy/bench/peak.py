"""How fast could it have been? A chain of large matrix products through the same backend, in the same precision."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from esrgan_deploy.backends import CpuPrecision, open_session
from esrgan_deploy.bench.flops import count_flops
from esrgan_deploy.model import ModelInfo

if TYPE_CHECKING:
    import onnx

LADDER = ((768, 16), (1536, 8), (3072, 4), (6144, 32), (12288, 64))
"""(side of the matrices, products in a row), tried in this order. The chains keep the time for bringing pixels in and
out near one per cent, on a CPU with the first three, on a GPU with the last two."""
LONG_ENOUGH_S = 0.5
"""No larger matrices are tried once a run takes this long: the device is busy, and the rest is waiting."""
RUNS = 5


@dataclass(frozen=True)
class Peak:
    """The fastest matrix product seen on this machine."""

    backend: str
    precision: str
    side: int
    """The product is (side, side) times (side, side)."""
    chain: int
    """So many products in a row."""
    gflops: float


def measure_peak(backend: str, precision: str) -> Peak | None:
    """Time matrix products as a session of this backend and precision computes, with as many threads.

    The matrices go through such a session, so library and settings are those of the network. Other work on the
    machine can only make this smaller, hence the fastest run counts.

    Returns:
        None for precisions in which no floating-point product can be asked for ("int8", "integer").
    """
    if precision not in ("fp32", "fp16", "bf16"):
        return None
    # bf16 is a setting of the backend, not of the file, just as for the fp32 networks that it runs in bf16.
    setting: CpuPrecision = "bf16" if precision == "bf16" else "fp32"
    peaks = []
    for side, chain in LADDER:
        model = gemm_model(side, chain, "fp16" if precision == "fp16" else "fp32")
        flops = count_flops(model, side // 3, side)
        assert flops is not None  # a graph of our own
        seconds = _fastest(model, side, backend, setting)
        peaks.append(Peak(backend, precision, side, chain, flops / seconds / 1e9))
        if seconds > LONG_ENOUGH_S:
            break
    return max(peaks, key=lambda peak: peak.gflops)


def gemm_model(side: int, chain: int, file_precision: str) -> onnx.ModelProto:
    """A network of scale 1 that takes a frame of (side / 3, side) for a square matrix and multiplies it `chain` times.

    Args:
        side: a multiple of 3, because pixels have three samples.
        chain: number of products.
        file_precision: "fp32" or "fp16", the type of the weights and of the products.
    """
    from onnx import TensorProto, helper, numpy_helper

    kind, dtype = (TensorProto.FLOAT16, np.float16) if file_precision == "fp16" else (TensorProto.FLOAT, np.float32)
    # Divided by sqrt(side), a product has the spread of its factor: no overflow, and no denormals to slow it down.
    weights = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32) / np.sqrt(side)
    shape = [1, 3, side // 3, side]
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["input", "square"], ["product0"]),
            *[helper.make_node("MatMul", [f"product{i}", "weights"], [f"product{i + 1}"]) for i in range(chain)],
            helper.make_node("Reshape", [f"product{chain}", "image"], ["output"]),
        ],
        "gemm",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info("output", kind, shape)],
        [
            numpy_helper.from_array(weights.astype(dtype), "weights"),
            numpy_helper.from_array(np.array([side, side]), "square"),
            numpy_helper.from_array(np.array(shape), "image"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, ModelInfo(scale=1, precision=file_precision).to_metadata())
    return model


def _fastest(model: onnx.ModelProto, side: int, backend: str, setting: CpuPrecision) -> float:
    """Seconds of the fastest of `RUNS` runs of a `gemm_model`."""
    import onnx

    frame = np.random.default_rng(1).integers(0, 256, (1, side // 3, side, 3), np.uint8)
    seconds = []
    with tempfile.TemporaryDirectory(prefix="esrgan-bench-") as folder:
        path = Path(folder) / "gemm.onnx"
        onnx.save(model, path)
        with open_session(path, backend, precision=setting, cache=Path(folder)) as session:
            for _ in range(1 + RUNS):  # the first one pays for allocation and code generation, and never wins
                start = perf_counter()
                session.run(frame)
                seconds.append(perf_counter() - start)
    return min(seconds)
