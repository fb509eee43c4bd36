"""Which cases a benchmark consists of: every combination of its axes."""

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

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Axes:
    """What varies; every combination is measured."""

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
class Setting:
    """How a network is run."""

    model: Path
    """With precision "int8" the INT8 artefact itself."""
    backend: str
    """For `open_session`, like the precision; "auto" is resolved when the session is open."""
    precision: CpuPrecision
    batch: int
    """Frames that are submitted together."""
    streams: int
    """Batches that are submitted before the first one is finished, all the time."""
    threads: int

    def open(self) -> Session:
        """A session that runs so; raises what `open_session` raises."""
        return open_session(
            self.model, self.backend, precision=self.precision, threads=self.threads, streams=self.streams
        )


@dataclass(frozen=True)
class Work:
    """What one frame takes by the network's graph."""

    flops: int | None
    """See `count_flops`."""
    traffic: Traffic | None


@dataclass(frozen=True)
class Case:
    """What one line of the table measures: a setting on frames of one size."""

    setting: Setting
    width: int
    height: int
    work: Work


def plan_settings(axes: Axes) -> list[Setting]:
    """Every combination but for the shapes, the last axis changing fastest.

    Raises:
        ModelError: a file that is not an upscaling network.
        OptionError: int8 of a model without an INT8 artefact, or two models of one name, which no reader of the figures
            could tell apart.
    """
    for one, other in combinations(axes.models, 2):
        if one.name == other.name and one.resolve() != other.resolve():
            raise OptionError(f"{one} and {other} have the same name in the table; rename or link one of them")
    files = [
        (int8_beside(model) if precision == "int8" else model, precision)
        for model, precision in product(axes.models, axes.precisions)
    ]
    settings = [
        Setting(file, backend, precision, batch, streams, threads or default_threads())
        for (file, precision), backend, batch, streams, threads in product(
            files, axes.backends, axes.batches, axes.streams, axes.threads
        )
    ]
    return list(dict.fromkeys(settings))  # two precisions may come to one file


def plan_cases(axes: Axes) -> list[Case]:
    """Every combination, the shapes changing fastest.

    Raises:
        ModelError: a file that is not an upscaling network, or one that cannot take one of the shapes.
        OptionError: see `plan_settings`.
    """
    settings = plan_settings(axes)
    works = {model: _works(model, axes.shapes) for model in dict.fromkeys(s.model for s in settings)}
    return [
        # The reference backend repeats pixels, whatever the graph says.
        Case(setting, *shape, Work(None, None) if setting.backend == "reference" else works[setting.model][shape])
        for setting in settings
        for shape in axes.shapes
    ]


def _works(path: Path, shapes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Work]:
    model, info = load_onnx(path)
    try:
        return {shape: _work(model, info, *shape) for shape in shapes}
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _work(model: onnx.ModelProto, info: ModelInfo, width: int, height: int) -> Work:
    # The session pads to this multiple, and the padding is computed like the rest.
    padded = [size + -size % info.multiple_of for size in (height, width)]
    return Work(count_flops(model, *padded), count_traffic(model, *padded))
