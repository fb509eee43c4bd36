"""How close networks come to the fastest matrix product of the same backend in the same precision, on all cores.

A round times the product, the network on one frame, and the product again, so that whatever else the machine does meets
both; what counts is the median, over the rounds, of the share within a round. `esrgan-bench` prints the share of the
fastest product that it has seen, at whatever time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx

from esrgan_bench.peak import Peak, gemm_model, measure_peak
from esrgan_bench.rounds import seconds_of
from esrgan_deploy import Session, open_session
from esrgan_deploy.backends.int8 import int8_path
from esrgan_deploy.backends.names import CpuPrecision
from esrgan_deploy.backends.ov import cpu_has_bf16
from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import COMPACT_CLEAN
from side_by_side import export_real, save

NETWORK = "REALESRGAN_X4PLUS_UP4X"
BACKEND = "openvino"
SIDE = 128
LEAST = {"fp32": 0.85, "bf16": 0.85}


def main() -> None:
    """Measure, print a table, write results/peak_share.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--int8-rrdbnet", type=Path, metavar="FILE", help="x4plus from esrgan-export --int8")
    parser.add_argument("--rounds", type=int, default=9, help="timed runs of each network (default: 9)")
    args = parser.parse_args()
    precisions: tuple[CpuPrecision, ...] = ("fp32", "bf16") if cpu_has_bf16() else ("fp32",)
    print(f"{'network':32} {'type':5} {'median s':>9} {'GFLOPS':>8} {'product':>8} {'share':>6}")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        rrdbnet = export_real(NETWORK, Path(folder))
        for precision in precisions:
            results += [measure(model, precision, args.rounds) for model in (rrdbnet, COMPACT_CLEAN)]
        for model in filter(None, (args.int8_rrdbnet, int8_path(COMPACT_CLEAN))):
            results.append(measure(model, "int8", args.rounds))
    save("peak_share", {"size": f"{SIDE}x{SIDE}", "backend": BACKEND, "results": results})


def measure(model: Path, precision: CpuPrecision, rounds: int) -> dict[str, Any]:
    """One network beside the product that is the fastest in its precision."""
    flops = count_flops(load_onnx(model)[0], SIDE, SIDE)
    peak = measure_peak(BACKEND, precision)
    assert flops is not None
    assert peak is not None
    with open_session(model, BACKEND, precision=precision) as network, product_of(peak, precision) as product:
        calls = (product, frame_call(network, SIDE, SIDE), product)
        for call in calls:
            call()
        times = [[seconds_of(call) for call in calls] for _ in range(rounds)]
    gflop = peak.chain * 2 * peak.side**3 / 1e9
    products = [gflop / ((before + after) / 2) for before, _, after in times]
    networks = [flops / seconds / 1e9 for _, seconds, _ in times]
    share = median(ours / best for ours, best in zip(networks, products, strict=True))
    name, seconds = model.stem.lower(), [seconds for _, seconds, _ in times]
    print(
        f"{name:32} {precision:5} {median(seconds):9.3f} {median(networks):8.1f} {median(products):8.1f} {share:6.2f}"
        + verdict(share, precision)
    )
    return {
        **{"network": name, "precision": precision, "flops": flops, "seconds": seconds},
        **{"product": asdict(peak), "product_gflops": products, "share": share, "target": LEAST.get(precision)},
    }


@contextmanager
def product_of(peak: Peak, precision: CpuPrecision) -> Iterator[Callable[[], object]]:
    """A call that runs the matrix product of `peak` again."""
    file_precision = "int8" if precision == "int8" else "fp32"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        onnx.save(gemm_model(peak.side, peak.chain, file_precision), path)
        with open_session(path, BACKEND, precision="auto" if precision == "int8" else precision) as session:
            yield frame_call(session, peak.side // 3, peak.side)


def frame_call(session: Session, height: int, width: int) -> Callable[[], object]:
    """A call that runs one frame of noise."""
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    return partial(session.run, frame)


def verdict(share: float, precision: str) -> str:
    """Whether the target is met, where there is one."""
    least = LEAST.get(precision)
    return "" if least is None else f"  aim {least}: {'met' if share >= least else 'missed'}"


if __name__ == "__main__":
    main()
