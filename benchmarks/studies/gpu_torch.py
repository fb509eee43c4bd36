"""The PyTorch rows of gpu_check.py: a matrix product, then RRDBNet-23 eager and compiled, all in fp16 on the GPU.

    python benchmarks/studies/gpu_torch.py FOLDER {peak,eager,compile} WxH ...

Every row is a line of JSON, printed as soon as it is measured: whoever stops this loses no finished row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import load_onnx
from esrgan_export.checkpoint import load_checkpoint
from gpu_check import NAME

SIDE = 8192
WARM_UP_S, SECONDS = 0.5, 2.0


def main() -> None:
    """Print the rows that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what gpu_networks.py wrote")
    parser.add_argument("what", choices=("peak", "eager", "compile"))
    parser.add_argument("shapes", nargs="*", help="WxH of frames")
    args = parser.parse_args()
    if args.what == "peak":
        print_row("torch GEMM fp16", f"{SIDE}x{SIDE}", gemm_ms(), 2 * SIDE**3)
        return
    network = load(args.folder)
    call: Callable[[torch.Tensor], torch.Tensor] = torch.compile(network) if args.what == "compile" else network
    graph, _ = load_onnx(args.folder / f"{NAME}_a1_fp16.onnx")
    for shape in args.shapes:
        width, height = map(int, shape.split("x"))
        image = torch.rand(1, 3, height, width, device="cuda", dtype=torch.half)
        image = image.to(memory_format=torch.channels_last)
        start = time.perf_counter()
        with torch.inference_mode():
            times = event_ms(lambda image=image: call(image))  # type: ignore[misc]
        name = f"torch {args.what} fp16 channels_last"
        print_row(name, shape, times, count_flops(graph, height, width), total_s=time.perf_counter() - start)


def load(folder: Path) -> nn.Module:
    """The network in fp16 on the GPU, channels last."""
    network = load_checkpoint(folder / "gan.safetensors").network
    network.cuda().half().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return network


def gemm_ms() -> list[float]:
    """Milliseconds of a square fp16 product on random data: zeros would let the clock rise."""
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.half) for _ in range(2))
    return event_ms(lambda: a @ b)


def event_ms(call: Callable[[], object]) -> list[float]:
    """Milliseconds from the end of one run to the end of the next, with two more behind it, after a warm-up.

    As for the engine in gpu_tensorrt.py: the chip is as warm, and its clock as low, as in a long run.
    """
    call()
    torch.cuda.synchronize()
    ends: deque[torch.cuda.Event] = deque()
    times: list[float] = []
    start = time.perf_counter()
    while (seconds := time.perf_counter() - start) < WARM_UP_S + SECONDS or not times:
        call()
        ends.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
        ends[-1].record()
        if len(ends) == 4:
            before = ends.popleft()
            ends[0].synchronize()
            if seconds > WARM_UP_S:
                times.append(before.elapsed_time(ends[0]))
    return times


def print_row(name: str, shape: str, times: list[float], flops: int | None, **more: float) -> None:
    """One line of JSON: every time, and the speed at the median."""
    tflops = None if flops is None else flops / median(times) / 1e9
    peak = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({"row": name, "shape": shape, "ms": times, "tflops": tflops, "gpu_mib": peak, **more}), flush=True)


if __name__ == "__main__":
    main()
