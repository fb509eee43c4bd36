"""Which backend, precision, threads and streams were the fastest for a model on this CPU, and the times that say so.

`esrgan_deploy.tuning` finds it out and saves it; `open_session` uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from esrgan_deploy.backends.names import BACKENDS, CpuPrecision

_MOST = 4096
"""Threads or streams: more than any machine has cores."""


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
    """How fast a candidate was."""

    candidate: Candidate
    slower: float | None
    """Its time divided by that of the best, both on the last tile that it was timed on; None: it failed."""
    side: int
    """Of that tile, in pixels; slow candidates are timed on small tiles only."""
    fault: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Choice:
    """The fastest way to run a network on this machine, and what else was timed."""

    timings: tuple[Timing, ...]
    """Of all candidates, the fastest first, then those that were dropped earlier, then those that failed."""
    tiles: tuple[tuple[int, float], ...]
    """Side of a tile, and nanoseconds for each of its pixels, of `best`."""
    remarks: tuple[str, ...]
    """What this machine lacks, for instance "no bf16"."""
    seconds: float
    """How long the tuning took."""

    @property
    def best(self) -> Candidate:
        """The candidate with the most frames per second when several frames are submitted at a time."""
        return self.timings[0].candidate

    def for_streams(self, streams: int) -> Candidate:
        """`best`, or the fastest with a single stream if `best` has more than `streams`."""
        if self.best.streams <= streams:
            return self.best
        return next((t.candidate for t in self.timings if t.candidate.streams == 1 and not t.fault), self.best)

    def line(self) -> str:
        """The choice in one line, with the best time of every other backend and precision."""
        first = self.timings[0].candidate
        seen, others = {(first.backend, first.precision)}, []
        for timing in self.timings[1:]:
            kind = (timing.candidate.backend, timing.candidate.precision)
            if kind not in seen and timing.slower:
                others.append(f"{timing.slower:.2f}x {' '.join(kind)}")
            seen.add(kind)
        reasons = [*([", ".join(others)] if others else []), *self.remarks]
        return f"{self.best}" + (f" ({'; '.join(reasons)})" if reasons else "")

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

    def to_json(self) -> dict[str, Any]:
        """Values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Choice:
        """Read back what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        timings = tuple(Timing(**{**t, "candidate": Candidate(**t["candidate"])}) for t in values["timings"])
        if not timings:
            raise ValueError("no candidate was timed")
        for candidate in (timing.candidate for timing in timings):
            counts = (candidate.threads, candidate.streams)
            if candidate.backend not in BACKENDS or not all(type(n) is int and 1 <= n <= _MOST for n in counts):
                raise ValueError("no such candidate is ever timed")
        tiles = tuple((int(side), float(ns)) for side, ns in values["tiles"])
        return cls(timings, tiles, tuple(map(str, values["remarks"])), float(values["seconds"]))
