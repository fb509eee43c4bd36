"""RRDBNet with 23 blocks (Real-ESRGAN x4plus) on the CPU: the default backend beside the usual ways to run it.

Every contender gets the same uint8 frame and returns the enlarged uint8 frame, on all cores that it takes by default.
PSNR compares results before rounding to 8 bits with PyTorch's fp32.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from esrgan_bench.peak import Peak, measure_peak
from esrgan_deploy import Session, open_session
from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import load_onnx
from esrgan_deploy.system.machine import machine_facts
from esrgan_export.metrics import psnr
from esrgan_export.ncnn import read_ncnn
from esrgan_export.photos import load_photos
from side_by_side import export_real, interleaved, ncnn_files, ratio, save

NETWORK = "REALESRGAN_X4PLUS_UP4X"
SIDE = 128
TARGETS = {"onnxruntime fp32": 2.0, "pytorch eager fp32": 2.2}
LEAST_PSNR_DB = 45.0

Pixels = npt.NDArray[np.uint8]
Image = npt.NDArray[np.floating[Any]]


class Contender(NamedTuple):
    """One way to run the network."""

    upscale: Callable[[Pixels], Pixels]
    """(H, W, 3) -> (4H, 4W, 3): this is timed."""
    unrounded: Callable[[Pixels], Image]
    """The same in [0, 1], rounded to 16 bits at most: this is compared."""


def main() -> None:
    """Measure, print a table, write results/cpu_backends.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each contender (default: 5)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        path = export_real(NETWORK, Path(folder))
        flops = count_flops(load_onnx(path)[0], SIDE, SIDE)
        assert flops is not None
        with open_session(path) as default, open_session(path, "ort") as ort:
            contenders = {
                "default backend": session_contender(default),
                "onnxruntime fp32": session_contender(ort),
                "pytorch eager fp32": torch_contender(read_ncnn(*ncnn_files(NETWORK))),
                "ncnn": ncnn_contender(),
            }
            photo = real_photo()
            reference = contenders["pytorch eager fp32"].unrounded(photo)
            fidelity = {name: psnr(reference, c.unrounded(photo)) for name, c in contenders.items()}
            seconds = interleaved({name: partial(c.upscale, photo) for name, c in contenders.items()}, rounds)
        peak = measure_peak(default.backend, default.precision)
    report(default, peak, flops, seconds, fidelity)


def real_photo() -> Pixels:
    """128x128 of real pictures: one of 128x96, and the top of another below it."""
    photos = load_photos()
    return np.ascontiguousarray(np.concatenate([photos["dogs"], photos["mountain"]])[:SIDE, :SIDE])


def session_contender(session: Session) -> Contender:
    """A backend of this project. Its 16-bit frames show what 8 bits would round away; 257 maps 255 to 65535."""
    return Contender(
        upscale=lambda frame: session.run(frame[None])[0],
        unrounded=lambda frame: session.run(frame[None].astype(np.uint16) * 257)[0] / 65535,
    )


def torch_contender(network: nn.Module) -> Contender:
    """PyTorch as most people run it: eager, fp32, inference mode."""
    network.eval()

    @torch.inference_mode()
    def unrounded(frame: Pixels) -> torch.Tensor:
        image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
        result: torch.Tensor = network(image)
        return result[0].clamp(0, 1).permute(1, 2, 0)

    return Contender(
        upscale=lambda frame: (unrounded(frame) * 255).round().to(torch.uint8).contiguous().numpy(),
        unrounded=lambda frame: unrounded(frame).numpy(),
    )


def ncnn_contender() -> Contender:
    """The ncnn library with its default options (on x86 these include Winograd convolution), on the original files."""
    import ncnn

    net = ncnn.Net()
    param, weights = ncnn_files(NETWORK)
    net.load_param(str(param))
    net.load_model(str(weights))

    def unrounded(frame: Pixels) -> Image:
        planes = np.ascontiguousarray(frame.transpose(2, 0, 1), dtype=np.float32) / 255
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(planes).clone())  # the Mat alone would not own its samples
        _, result = extractor.extract("output")
        image: Image = np.clip(np.array(result), 0, 1)
        return image.transpose(1, 2, 0)

    return Contender(
        upscale=lambda frame: np.ascontiguousarray(np.rint(unrounded(frame) * 255).astype(np.uint8)),
        unrounded=unrounded,
    )


def report(
    default: Session, peak: Peak | None, flops: int, seconds: dict[str, list[float]], fidelity: dict[str, float]
) -> None:
    """Print the table and the verdict, and write both."""
    rows = []
    print(f"RRDBNet-23 x4 at {SIDE}x{SIDE}; default backend: {default.backend} in {default.precision}")
    print(f"{'':20} {'median s':>9} {'GFLOPS':>8} {'default is':>11} {'PSNR dB':>8}")
    for name, times in seconds.items():
        middle, decibels = median(times), fidelity[name]
        same = np.isinf(decibels)
        rows.append(
            {
                "contender": name,
                "seconds": times,
                "median_s": middle,
                "gflops": flops / middle / 1e9,
                "default_is_faster_by": (faster_by := ratio(times, seconds["default backend"])),
                "psnr_db": None if same else decibels,  # JSON has no infinity
            }
        )
        print(
            f"{name:20} {middle:9.3f} {flops / middle / 1e9:8.1f} {faster_by:10.2f}x "
            f"{'same' if same else f'{decibels:.1f}':>8}"
        )
    verdict = judge(default, peak, flops, seconds, fidelity["default backend"])
    print(*verdict["remarks"], sep="\n")
    facts = {"default_backend": default.backend, "default_precision": default.precision, "flops": flops}
    save("cpu_backends", {**facts, "results": rows, **verdict})


def judge(
    default: Session, peak: Peak | None, flops: int, seconds: dict[str, list[float]], decibels: float
) -> dict[str, Any]:
    """Each target, whether it is met, and where it is not, what stands in the way."""
    ratios = {name: ratio(seconds[name], seconds["default backend"]) for name in TARGETS}
    met = {name: ratios[name] >= target for name, target in TARGETS.items()}
    remarks = [
        f"Target {target}x of {name}: {ratios[name]:.2f}x, {'met' if met[name] else 'missed'}."
        for name, target in TARGETS.items()
    ]
    remarks.append(
        f"Target {LEAST_PSNR_DB:.0f} dB: {decibels:.1f} dB, {'met' if decibels >= LEAST_PSNR_DB else 'missed'}."
    )
    if not all(met.values()) and not {"avx512_bf16", "amx_bf16", "bf16"} & set(machine_facts()["cpu_features"]):
        remarks.append("This CPU has no bf16 instructions, on which the targets rest: all contenders compute in fp32.")
    if peak is not None:
        bounds = [f"{peak.gflops / (flops / median(seconds[name]) / 1e9):.2f}x of {name}" for name in TARGETS]
        remarks.append(
            f"A matrix product in {peak.precision} reaches {peak.gflops:.1f} GFLOPS here: {' and '.join(bounds)}."
        )
    return {
        "targets": {name: {"target": TARGETS[name], "ratio": ratios[name], "met": met[name]} for name in TARGETS},
        "psnr_target": {"target_db": LEAST_PSNR_DB, "met": decibels >= LEAST_PSNR_DB},
        "peak_gflops": None if peak is None else peak.gflops,
        "remarks": remarks,
    }


if __name__ == "__main__":
    main()
