"""How fast could it have been? A chain of large matrix products through the same backend, in the same precision."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from esrgan_deploy.backends import open_session
from esrgan_deploy.backends.names import CpuPrecision
from esrgan_deploy.errors import EsrganError
from esrgan_deploy.model import PRECISIONS, ModelInfo

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

LADDER = ((768, 16), (1536, 8), (3072, 4), (6144, 32), (12288, 64))
"""(side of the matrices, products in a row), tried in this order. The chains keep the time for bringing pixels in and
out near one per cent, on a CPU with the first three, on a GPU with the last two."""
LONGEST_RUN_S = 1.5
"""No larger matrices are tried if a run of them would take longer: the device was busy, and the rest is waiting."""
RUNS = 5
SIGMAS = 4.0
"""INT8 reaches this many standard deviations."""


@dataclass(frozen=True)
class Peak:
    """The fastest matrix product seen on this machine."""

    backend: str
    precision: str
    side: int
    """The product is (side, side) times (side, side)."""
    chain: int
    """Number of products in a row."""
    gflops: float


class Peaks:
    """The peaks of a machine by backend and precision, each measured when it is first asked for."""

    def __init__(self, longest_run_s: float = LONGEST_RUN_S) -> None:
        """`longest_run_s`: see `measure_peak`."""
        self._longest_run_s = longest_run_s
        self._known: dict[tuple[str, str], Peak | None] = {}

    def of(self, backend: str, precision: str, note: Callable[[str], None]) -> Peak | None:
        """The peak; None where it cannot be measured, and then `note` is called with the reason."""
        key = (backend, precision)
        if key not in self._known:
            try:
                self._known[key] = measure_peak(*key, self._longest_run_s)
            except EsrganError as error:  # the network runs, so its figures stand without this one
                note(f"the peak of {backend} in {precision} is unknown: {error}")
                self._known[key] = None
        return self._known[key]

    @property
    def found(self) -> list[Peak]:
        """Those that are known by now."""
        return [peak for peak in self._known.values() if peak]


def measure_peak(backend: str, precision: str, longest_run_s: float = LONGEST_RUN_S) -> Peak | None:
    """Time matrix products as a session of this backend and precision computes, on all cores that it takes by default.

    The matrices go through such a session, so library and settings are those of the network. Other work on the
    machine can only make this smaller, hence the fastest run counts.

    Args:
        backend: for `open_session`.
        precision: as sessions call theirs.
        longest_run_s: no larger matrices if a run of them would take longer; less gives a rougher answer sooner.

    Returns:
        None for what the reference backend calls its precision: it multiplies nothing.
    """
    if precision not in PRECISIONS:
        return None
    # bf16 is a setting of the backend, not of the file, just as for the fp32 networks that it runs in bf16.
    setting: CpuPrecision = "bf16" if precision == "bf16" else "auto" if precision == "int8" else "fp32"
    best: Peak | None = None
    for side, chain in LADDER:
        gflop = chain * 2 * side**3 / 1e9
        if best and gflop / best.gflops > longest_run_s:
            break
        model = gemm_model(side, chain, precision if precision in ("fp16", "int8") else "fp32")
        gflops = gflop / _fastest(model, side, backend, setting)
        if not best or gflops > best.gflops:
            best = Peak(backend, precision, side, chain, gflops)
    return best


def gemm_model(side: int, chain: int, file_precision: str) -> onnx.ModelProto:
    """A network of scale 1 that takes a frame of (side / 3, side) for a square matrix and multiplies it `chain` times.

    Args:
        side: a multiple of 3, because pixels have three samples.
        chain: number of products.
        file_precision: "fp32" or "fp16", the type of the weights and of the products, or "int8": Q/DQ in front of every
            product, like in a quantised network. These are written as 1x1 convolutions, the same arithmetic, for which
            backends have the faster INT8 kernels.
    """
    from onnx import TensorProto, helper, numpy_helper

    kind, dtype = (TensorProto.FLOAT16, np.float16) if file_precision == "fp16" else (TensorProto.FLOAT, np.float32)
    # Divided by sqrt(side), a product has the spread of its factor: no overflow, and no denormals to slow it down.
    weights = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32) / np.sqrt(side)
    if file_precision == "int8":
        square, nodes, initialisers = _int8_products(weights, chain)
    else:
        square = [side, side]
        nodes = [helper.make_node("MatMul", [f"product{i}", "weights"], [f"product{i + 1}"]) for i in range(chain)]
        initialisers = [numpy_helper.from_array(weights.astype(dtype), "weights")]
    shape = [1, 3, side // 3, side]
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["input", "square"], ["product0"]),
            *nodes,
            helper.make_node("Reshape", [f"product{chain}", "image"], ["output"]),
        ],
        "gemm",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info("output", kind, shape)],
        [
            *initialisers,
            numpy_helper.from_array(np.array(square), "square"),
            numpy_helper.from_array(np.array(shape), "image"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, ModelInfo(scale=1, precision=file_precision).to_metadata())
    return model


def _int8_products(
    weights: npt.NDArray[np.float32], chain: int
) -> tuple[list[int], list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Shape of the first factor as an image with `side` channels, the convolutions with their Q/DQ, the constants."""
    from onnx import helper, numpy_helper

    side = len(weights)
    height = max(divisor for divisor in range(1, isqrt(side) + 1) if side % divisor == 0)
    step = np.float32(SIGMAS * weights.std() / 127)
    quantised = np.clip(np.rint(weights / step), -127, 127).astype(np.int8)
    constants = {
        "weights": quantised.reshape(side, side, 1, 1),
        "weight_step": step,
        "step": np.float32(SIGMAS / 127),  # pixels are in [0, 1], products have the same spread
        "zero": np.int8(0),
    }
    nodes = [helper.make_node("DequantizeLinear", ["weights", "weight_step", "zero"], ["kernel"])]
    nodes += _quantised("product0", "factor0")
    for i in range(chain):
        nodes.append(helper.make_node("Conv", [f"factor{i}", "kernel"], [f"wide{i}"]))
        # Behind the last one too: only between two of them is a convolution one of integers for every backend.
        nodes += _quantised(f"wide{i}", f"factor{i + 1}" if i + 1 < chain else f"product{chain}")
    initialisers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    return [1, side, height, side // height], nodes, initialisers


def _quantised(source: str, result: str) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear."""
    from onnx import helper

    return [
        helper.make_node("QuantizeLinear", [source, "step", "zero"], [f"{source}_bytes"]),
        helper.make_node("DequantizeLinear", [f"{source}_bytes", "step", "zero"], [result]),
    ]


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
