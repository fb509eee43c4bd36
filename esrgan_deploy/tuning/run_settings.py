"""The settings of a run: what the user asked for, then what an interrupted run used, then what tuning found.

Results depend on the backend, the precision and the tiles. So a resumed run takes those from its checkpoint, whatever
was tuned since then; the numbers of threads and streams may change.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esrgan_deploy import tiling
from esrgan_deploy.backends.choice import Choice
from esrgan_deploy.backends.names import CpuPrecision
from esrgan_deploy.errors import OptionError
from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import load_onnx
from esrgan_deploy.system.cpu import usable_threads
from esrgan_deploy.tuning.halving import NOISE
from esrgan_deploy.tuning.search import LIMIT_S
from esrgan_deploy.tuning.short_network import SIDE, any_size
from esrgan_deploy.upscaler import Upscaler

if TYPE_CHECKING:
    from esrgan_deploy.backends.session import Session

OPTIMISTIC_GFLOPS = 100.0
"""Speed of one core, higher than most reach, so that a run that seems long at this speed is certainly long."""
LONG_S = 10 * LIMIT_S
"""Tuning pays where it takes at most a tenth of the run's time."""
_ALLOWED: Mapping[str, tuple[CpuPrecision, ...]] = {
    "auto": ("auto", "fp32", "bf16"),
    "fp32": ("fp32",),
    "bf16": ("bf16",),
    "int8": ("int8", "fp32", "bf16"),
}
"""What a run may compute in, by the precision that the user asks for."""


@dataclass(frozen=True)
class RunSettings:
    """Arguments for `open_session` and `Upscaler`."""

    backend: str
    precision: CpuPrecision
    threads: int | None
    streams: int
    tile: int | None
    """None: what `choice` finds for the frame, or what the Upscaler does by itself."""
    choice: Choice | None = None
    most_pixels: int | None = None
    """Of a tile; None: as many as there is memory for now."""

    def resumed(self, recorded: Mapping[str, Any]) -> RunSettings:
        """Fill in what the user left open from an interrupted run, so that its results stay the same.

        Args:
            recorded: the identity in the run's checkpoint. Where it contradicts what the user asks for, it is not
                taken; resuming is then refused by the checkpoint, which says why.
        """
        recorded = {name: value for name, value in recorded.items() if isinstance(value, (str, int))}
        precision: CpuPrecision = recorded["precision"] if recorded.get("precision") in _ALLOWED else self.precision
        if self.backend != "auto" or precision not in _ALLOWED[self.precision]:
            return self
        tile = recorded.get("tile")
        # Where the Upscaler chose the tiles, it recorded for how much memory; that may have changed since.
        limit = re.search(r"up to (\d{1,15}) pixels", str(tile))
        return replace(
            self,
            backend=str(recorded.get("backend", self.backend)),
            precision=precision,
            tile=tile if self.tile is None and isinstance(tile, int) else self.tile,
            most_pixels=int(limit[1]) if limit and self.tile is None else None,
        )

    def chosen(self, choice: Choice) -> RunSettings:
        """Fill in what the user left open with the fastest settings known."""
        best = choice.best
        threads = self.threads or best.threads
        return replace(
            self,
            backend=best.backend,
            precision=best.precision,
            threads=threads,
            streams=min(best.streams, threads),
            choice=choice,
        )

    def upscaler(self, session: Session, size: tuple[int, int] | None, **options: Any) -> Upscaler:  # noqa: ANN401
        """Make an Upscaler over `session` with the tiles of these settings.

        Args:
            session: opened with these settings.
            size: height and width of its frames; None: not known.
            options: of `Upscaler`, but for `tile`.
        """
        if self.most_pixels is not None:
            session.largest_untiled = self.most_pixels
        upscaler = Upscaler(session, tile=self.tile, **options)
        if self.tile is None and self.choice and size:
            upscaler = Upscaler(session, tile=fastest_tile(self.choice, upscaler, *size), **options)
        return upscaler


def fastest_tile(choice: Choice, upscaler: Upscaler, height: int, width: int) -> int | None:
    """The side of the tiles with which a frame is computed the fastest; None: leave it to the Upscaler.

    By itself an Upscaler takes the largest tiles that there is memory for, which overlap the least; but smaller ones
    fit into the CPU's caches. Times between two measured tiles are interpolated, and beyond the largest one the time
    for each pixel is taken to stay the same.

    Args:
        choice: with the measured tiles.
        upscaler: whose `tile` is not set.
        height: of the frame, in pixels.
        width: of the frame, in pixels.
    """
    if len(choice.tiles) < 2:
        return None
    sides, ns = zip(*choice.tiles, strict=True)

    def ns_of_tile(height: int, width: int) -> float:
        return float(height * width * np.interp((height * width) ** 0.5, sides, ns))

    def ns_of_frame(grid: tiling.TileGrid) -> float:
        return len(grid) * ns_of_tile(grid.rows.tile, grid.columns.tile)

    session = upscaler.session
    multiple = session.info.multiple_of
    filled = height + -height % multiple, width + -width % multiple
    costs = {}
    for side in sides:
        if side * side <= session.largest_untiled and side < max(filled):
            with contextlib.suppress(OptionError):  # hardly larger than its overlap
                grid = tiling.square_tiles(*filled, side, upscaler.overlap, multiple, even=session.any_shape)
                costs[side] = ns_of_frame(grid)
    if not costs:
        return None
    own = upscaler.tiles_of(height, width)
    usual = ns_of_frame(own) if own else ns_of_tile(*filled)
    fastest = min(costs, key=costs.__getitem__)
    return fastest if costs[fastest] * NOISE < usual else None


def is_long(model: Path, height: int, width: int, frames: int) -> bool:
    """Whether upscaling so many frames takes so long on this machine that tuning first pays.

    Raises:
        ModelError: the model's file is damaged or of another kind.
    """
    flops = count_flops(any_size(load_onnx(model)[0]), SIDE, SIDE)
    if flops is None:
        return False
    seconds = flops / SIDE**2 * height * width * frames / (OPTIMISTIC_GFLOPS * 1e9 * usable_threads())
    return seconds > LONG_S
