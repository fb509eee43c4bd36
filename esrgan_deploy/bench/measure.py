"""Time sessions: warm-up, then runs until both a number of them and a stretch of time are reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from time import perf_counter

import numpy as np

from esrgan_deploy.backends import Session, open_session
from esrgan_deploy.bench.flops import count_flops
from esrgan_deploy.bench.machine import peak_rss_mib, reset_peak_rss, rss_mib
from esrgan_deploy.bench.peak import Peak, measure_peak
from esrgan_deploy.errors import ModelError
from esrgan_deploy.model import load_onnx

WARM_UP_RUNS = 2
"""The first run of a shape allocates memory and generates code, on some backends a part of the second one too."""
LEAST_RUNS = 5
LEAST_SECONDS = 10.0


@dataclass(frozen=True)
class Case:
    """What one line of the table measures."""

    model: Path
    backend: str
    """For `open_session`; "auto" is resolved when the session is open."""
    width: int
    height: int
    batch: int
    flops: int | None
    """Operations of one frame, see `count_flops`."""


@dataclass
class Measurement:
    """What is known of a case so far. It grows while it runs, so that an interruption loses no finished run."""

    case: Case
    backend: str
    precision: str
    """The type that the backend computes in."""
    scale: int
    rss_before_mib: float
    """Memory of this process before the model was loaded; the interpreter and remains of earlier cases."""
    rss_mib: float = 0.0
    """Memory with the model loaded, after its last run."""
    rss_peak_mib: float = 0.0
    """The most since the model began to load."""
    seconds: list[float] = field(default_factory=list)
    """One entry for each timed run, a whole batch."""
    peak: Peak | None = None
    """What the backend makes of a matrix product; None: not measured (yet)."""

    @property
    def fps(self) -> float:
        """Frames of all timed runs over their time: what a long job would see."""
        return self.case.batch * len(self.seconds) / sum(self.seconds)

    @property
    def gflops(self) -> float | None:
        """Operations per second at `fps`; None where they are not known."""
        return None if self.case.flops is None else self.fps * self.case.flops / 1e9

    @property
    def share_of_peak(self) -> float | None:
        """`gflops` over those of the fastest matrix product."""
        return None if self.gflops is None or self.peak is None else self.gflops / self.peak.gflops


def plan_cases(
    models: Sequence[Path], backends: Sequence[str], shapes: Sequence[tuple[int, int]], batches: Sequence[int]
) -> list[Case]:
    """Every combination, in the order of the arguments, the last one changing fastest; `shapes` are (width, height).

    Raises:
        ModelError: a file that is not an upscaling network, or one that cannot take one of the shapes.
    """
    cases = []
    for path in models:
        flops = _flops_by_shape(path, shapes)
        for backend, (width, height), batch in product(backends, shapes, batches):
            # The reference backend repeats pixels, whatever the graph says.
            counted = None if backend == "reference" else flops[width, height]
            cases.append(Case(path, backend, width, height, batch, counted))
    return cases


def _flops_by_shape(path: Path, shapes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int | None]:
    """Operations of one frame, for each (width, height)."""
    model, info = load_onnx(path)
    flops = {}
    for width, height in shapes:
        # The session pads to this multiple, and the padding is computed like the rest.
        padded = [size + -size % info.multiple_of for size in (height, width)]
        try:
            flops[width, height] = count_flops(model, *padded)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
    return flops


class Benchmark:
    """Cases, and what has been measured of them; `run` does the work."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases
        self.measurements: list[Measurement] = []
        """One for each case that was begun; those interrupted in their warm-up have no `seconds`."""
        self.complete = False
        self._peaks: dict[tuple[str, str], Peak | None] = {}

    def run(self) -> Iterator[Measurement]:
        """Measure case after case, each in a session of its own, and yield each when it is finished.

        Raises:
            EsrganError: what `open_session` or a run raises. Measurements made until then are kept.
        """
        for case in self.cases:
            reset_peak_rss()
            before = rss_mib()
            with open_session(case.model, case.backend) as session:
                measurement = Measurement(
                    case, session.backend, session.precision, session.info.scale, rss_before_mib=before
                )
                self.measurements.append(measurement)
                self._time(measurement, session)
            # After the network, so that the matrices are no part of its memory.
            key = (session.backend, session.precision)
            if key not in self._peaks:
                self._peaks[key] = measure_peak(*key)
            measurement.peak = self._peaks[key]
            yield measurement
        self.complete = True

    @property
    def peaks(self) -> list[Peak]:
        """The matrix products measured so far."""
        return [peak for peak in self._peaks.values() if peak]

    def _time(self, measurement: Measurement, session: Session) -> None:
        """Fill in times and memory.

        A run is `Session.run` on uint8 RGB frames in host memory: what a host program waits for, with the conversion
        to float and back. The frames are noise; these networks take the same time for every picture.
        """
        case = measurement.case
        frames = np.random.default_rng(0).integers(0, 256, (case.batch, case.height, case.width, 3), np.uint8)
        for _ in range(WARM_UP_RUNS):
            session.run(frames)
        started = perf_counter()
        seconds = measurement.seconds
        while len(seconds) < LEAST_RUNS or perf_counter() - started < LEAST_SECONDS:
            seconds.append(seconds_of(lambda: session.run(frames)))
            measurement.rss_mib, measurement.rss_peak_mib = rss_mib(), peak_rss_mib()


def seconds_of(call: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = perf_counter()
    call()
    return perf_counter() - start


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """The median, the 90th and the 99th percentile in milliseconds, linear between neighbouring runs."""
    p50, p90, p99 = np.percentile(np.asarray(seconds) * 1e3, (50, 90, 99))
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99)}
