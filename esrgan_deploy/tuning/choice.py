"""What was chosen, and the times that it was chosen by."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esrgan_deploy import tiling
from esrgan_deploy.backends.names import CpuPrecision
from esrgan_deploy.errors import OptionError

if TYPE_CHECKING:
    from esrgan_deploy.upscaler import Upscaler

WORTH = 1.03
"""What is faster by less than this is within the noise; then the plainer one is taken."""


@dataclass(frozen=True)
class Candidate:
    """Arguments for `open_session`."""

    backend: str
    precision: CpuPrecision
    """What it computes in; "int8" is the INT8 artefact, which lies beside a floating-point model."""
    threads: int
    streams: int

    def __str__(self) -> str:
        many = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.backend} in {self.precision}, {many}" + (f", {self.streams} streams" if self.streams > 1 else "")


@dataclass(frozen=True)
class Timing:
    """How a candidate did."""

    candidate: Candidate
    slower: float | None
    """Its time over that of the best, both on the tile on which it was timed last; None: it failed."""
    side: int
    """Of that tile, in pixels: those that drop out early see small ones only."""
    fault: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Choice:
    """The fastest way to run a network here, and what else was timed."""

    timings: tuple[Timing, ...]
    """Of all candidates, the fastest first; those that dropped out earlier stand behind those that stayed."""
    tiles: tuple[tuple[int, float], ...]
    """Side of a tile, and nanoseconds for each of its pixels, of `best`."""
    remarks: tuple[str, ...]
    """What this machine lacks, for instance "no bf16"."""
    seconds: float
    """That the tuning took."""

    @property
    def best(self) -> Candidate:
        """The most frames per second, several being there at a time."""
        return self.timings[0].candidate

    @property
    def alone(self) -> Candidate:
        """The fastest of those that compute one batch at a time: the soonest result for a single picture."""
        return next((t.candidate for t in self.timings if t.candidate.streams == 1 and not t.fault), self.best)

    def for_streams(self, streams: int) -> Candidate:
        """The fastest that computes at most so many batches at a time."""
        return self.best if self.best.streams <= streams else self.alone

    def line(self) -> str:
        """What was chosen and why."""
        reasons = [*self._lead(), *self.remarks]
        return f"{self.best}" + (f" ({'; '.join(reasons)})" if reasons else "")

    def _lead(self) -> list[str]:
        """By how much the best one is ahead of the best of each other backend and precision."""
        first = self.timings[0]
        seen, leads = {(first.candidate.backend, first.candidate.precision)}, []
        for timing in self.timings[1:]:
            kind = (timing.candidate.backend, timing.candidate.precision)
            if kind not in seen and timing.slower:
                leads.append(f"{timing.slower:.2f}x {' '.join(kind)}")
            seen.add(kind)
        return [", ".join(leads)] if leads else []

    def table(self) -> str:
        """All candidates and all tiles, with their times relative to the best."""
        lines = [f"{'candidate':45} {'time':>6}  timed up to"]
        for t in self.timings:
            told = f"{t.slower:6.2f}  {t.side}x{t.side}" if t.slower else f"failed  {t.fault}"
            lines.append(f"{t.candidate!s:45} {told}")
        if self.tiles:
            least = min(ns for _, ns in self.tiles)
            lines.append("tile: " + ", ".join(f"{side} {ns / least:.2f}" for side, ns in self.tiles))
        return "\n".join(lines)

    def tile_for(self, upscaler: Upscaler, height: int, width: int) -> int | None:
        """The side of the tiles that a frame is computed of the soonest; None: leave it to the Upscaler.

        By itself an Upscaler takes the largest tiles that there is memory for, which have the least overlap; smaller
        ones fit into the caches. The time of a tile follows from `tiles`: it lies on a line between two of them, and
        beyond the largest a pixel takes what it takes there.

        Args:
            upscaler: whose `tile` is not set.
            height: of the frame, in pixels.
            width: likewise.
        """
        if len(self.tiles) < 2:
            return None
        session = upscaler.session
        multiple = session.info.multiple_of
        filled = height + -height % multiple, width + -width % multiple
        costs = {}
        for side, _ in self.tiles:
            if side * side <= session.largest_untiled and side < max(filled):
                with contextlib.suppress(OptionError):  # hardly larger than its overlap
                    plan = tiling.square_tiles(*filled, side, upscaler.overlap, multiple, even=session.any_shape)
                    costs[side] = len(plan) * self._ns_of_tile(plan.rows.tile, plan.columns.tile)
        if not costs:
            return None
        own = upscaler.tiles_of(height, width)
        usual = len(own) * self._ns_of_tile(own.rows.tile, own.columns.tile) if own else self._ns_of_tile(*filled)
        fastest = min(costs, key=costs.__getitem__)
        return fastest if costs[fastest] * WORTH < usual else None

    def _ns_of_tile(self, height: int, width: int) -> float:
        sides, ns = zip(*self.tiles, strict=True)
        return float(height * width * np.interp((height * width) ** 0.5, sides, ns))

    def to_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Choice:
        """Read back what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        timings = tuple(Timing(**{**t, "candidate": Candidate(**t["candidate"])}) for t in values["timings"])
        if not timings or not all(isinstance(value, int) for value in _numbers(timings[0].candidate)):
            raise ValueError("no candidate was timed")
        tiles = tuple((int(side), float(ns)) for side, ns in values["tiles"])
        return cls(timings, tiles, tuple(map(str, values["remarks"])), float(values["seconds"]))


def _numbers(candidate: Candidate) -> tuple[object, ...]:
    return candidate.threads, candidate.streams
