"""The cases of a benchmark: every combination of models, backends, precisions, batches, streams, threads and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_bench.traffic import Traffic, count_traffic
from esrgan_deploy.backends import Session, open_session
from esrgan_deploy.backends.int8 import int8_beside
from esrgan_deploy.backends.names import CpuPrecision
from esrgan_deploy.errors import ModelError, OptionError
from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import ModelInfo, load_onnx
from esrgan_deploy.system.cpu import default_threads
from esrgan_deploy.system.paths import real_path

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Sweep:
    """The values that are tried; every combination of them is measured."""

    models: Sequence[Path]
    backends: Sequence[str] = ("auto",)
    precisions: Sequence[CpuPrecision] = ("auto",)
    shapes: Sequence[tuple[int, int]] = ((128, 128),)
    """(width, height) of a frame in pixels."""
    batches: Sequence[int] = (1,)
    streams: Sequence[int] = (1,)
    threads: Sequence[int | None] = (None,)
    """None: one for each usable core."""


@dataclass(frozen=True)
class Configuration:
    """How a network is run."""

    model: Path
    """With precision "int8" the INT8 artefact itself."""
    backend: str
    """For `open_session`, like the precision; with "auto", the open session tells which one it is."""
    precision: CpuPrecision
    batch: int
    """Frames that are submitted together."""
    streams: int
    """Batches that are being computed at any time: the next is submitted as soon as one is finished."""
    threads: int

    def open(self) -> Session:
        """A session of this configuration; raises what `open_session` raises."""
        return open_session(
            self.model, self.backend, precision=self.precision, threads=self.threads, streams=self.streams
        )


@dataclass(frozen=True)
class FrameCost:
    """Operations and bytes of one frame, counted from the network's graph."""

    flops: int | None
    """See `count_flops`."""
    traffic: Traffic | None


@dataclass(frozen=True)
class Case:
    """One row of the table: a configuration on frames of one size."""

    config: Configuration
    width: int
    height: int
    cost: FrameCost


def list_configurations(sweep: Sweep) -> list[Configuration]:
    """Every combination of everything except the shapes, without duplicates; the threads change fastest.

    Raises:
        ModelError: a file that is not an upscaling network.
        OptionError: int8 of a model without an INT8 artefact, or two models of one name, which no reader of the figures
            could tell apart.
    """
    for one, other in combinations(sweep.models, 2):
        if one.name == other.name and real_path(one) != real_path(other):
            raise OptionError(f"{one} and {other} have the same name in the table; rename or link one of them")
    files = [
        (int8_beside(model) if precision == "int8" else model, precision)
        for model, precision in product(sweep.models, sweep.precisions)
    ]
    configurations = [
        Configuration(file, backend, precision, batch, streams, threads or default_threads())
        for (file, precision), backend, batch, streams, threads in product(
            files, sweep.backends, sweep.batches, sweep.streams, sweep.threads
        )
    ]
    return list(dict.fromkeys(configurations))  # two precisions may come to one file


def list_cases(sweep: Sweep) -> list[Case]:
    """Every combination, the shapes changing fastest.

    Raises:
        ModelError: a file that is not an upscaling network, or one that cannot take one of the shapes.
        OptionError: see `list_configurations`.
    """
    configurations = list_configurations(sweep)
    costs = {model: _costs(model, sweep.shapes) for model in dict.fromkeys(c.model for c in configurations)}
    return [
        # The reference backend repeats pixels, whatever the graph says.
        Case(config, *shape, FrameCost(None, None) if config.backend == "reference" else costs[config.model][shape])
        for config in configurations
        for shape in sweep.shapes
    ]


def _costs(path: Path, shapes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], FrameCost]:
    model, info = load_onnx(path)
    try:
        return {shape: _cost(model, info, *shape) for shape in shapes}
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _cost(model: onnx.ModelProto, info: ModelInfo, width: int, height: int) -> FrameCost:
    # The session pads to this multiple, and the padding is computed like the rest.
    padded = [size + -size % info.multiple_of for size in (height, width)]
    return FrameCost(count_flops(model, *padded), count_traffic(model, *padded))
