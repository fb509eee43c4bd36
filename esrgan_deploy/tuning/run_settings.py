"""What a clip is run with: what its user asked for, then what an interrupted run of it took, then what is known here.

Results depend on the backend, the precision and the tiles. So a run that goes on takes those from its journal, whatever
was tuned, forgotten or tuned anew in between; threads and streams may change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esrgan_deploy.backends.names import CpuPrecision
from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import load_onnx
from esrgan_deploy.system.cpu import usable_threads
from esrgan_deploy.tuning.choice import Choice
from esrgan_deploy.tuning.search import LIMIT_S
from esrgan_deploy.tuning.short_network import SIDE, any_size
from esrgan_deploy.upscaler import Upscaler

if TYPE_CHECKING:
    from esrgan_deploy.backends import Session

OPTIMISTIC_GFLOPS = 100.0
"""Of one core: more than most reach, so that a job that seems long with it is long."""
LONG_S = 10 * LIMIT_S
"""The time for tuning should be a small part of a job's, whatever it gains."""
_ALLOWED: Mapping[str, tuple[CpuPrecision, ...]] = {
    "auto": ("auto", "fp32", "bf16"),
    "fp32": ("fp32",),
    "bf16": ("bf16",),
    "int8": ("int8", "fp32", "bf16"),
}
"""What a choice may compute in, by the quality that is asked for."""


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
        """With what decided the results of an interrupted run, where the user leaves it open.

        Args:
            recorded: the identity in its journal. What contradicts an explicit wish is not taken; the journal then
                refuses to go on, and says why.
        """
        precision: CpuPrecision = recorded["precision"] if recorded.get("precision") in _ALLOWED else self.precision
        if self.backend != "auto" or precision not in _ALLOWED[self.precision]:
            return self
        tile = recorded.get("tile")
        # Where the Upscaler chose the tiles, it says for how much memory: there may be more or less of it now.
        limit = re.search(r"up to (\d+) pixels", str(tile))
        return replace(
            self,
            backend=str(recorded.get("backend", self.backend)),
            precision=precision,
            tile=tile if self.tile is None and isinstance(tile, int) else self.tile,
            most_pixels=int(limit[1]) if limit and self.tile is None else None,
        )

    def chosen(self, choice: Choice) -> RunSettings:
        """With the fastest way known, where the user leaves it open."""
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
        """An Upscaler over `session` with the tiles of these settings.

        Args:
            session: opened with these settings.
            size: height and width of its frames; None: not known.
            options: of `Upscaler`, but for `tile`.
        """
        if self.most_pixels is not None:
            session.largest_untiled = self.most_pixels
        upscaler = Upscaler(session, tile=self.tile, **options)
        if self.tile is None and self.choice and size:
            tile = self.choice.tile_for(upscaler, *size)
            upscaler = Upscaler(session, tile=tile, **options)
        return upscaler


def is_long(model: Path, height: int, width: int, frames: int) -> bool:
    """Whether so many frames keep this machine busy for so long that tuning before them pays.

    Raises:
        ModelError: the model's file is damaged or of another kind.
    """
    flops = count_flops(any_size(load_onnx(model)[0]), SIDE, SIDE)
    if flops is None:
        return False
    seconds = flops / SIDE**2 * height * width * frames / (OPTIMISTIC_GFLOPS * 1e9 * usable_threads())
    return seconds > LONG_S
