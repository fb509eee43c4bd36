"""Measure cases: a warm-up, then at least LEAST_RUNS runs and at least LEAST_SECONDS seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from esrgan_bench.bandwidth import copy_bandwidth_gb_s
from esrgan_bench.cases import Case
from esrgan_bench.energy import open_meter
from esrgan_bench.peak import Peak, Peaks
from esrgan_bench.rounds import WARM_UP_ROUNDS, Round, noise, rounds
from esrgan_deploy.backends import Session
from esrgan_deploy.backends.names import GPU_BACKENDS
from esrgan_deploy.system.cpu import disturbance
from esrgan_deploy.system.memory import peak_rss_mib, reset_peak_rss, rss_mib

LEAST_RUNS = 5
LEAST_SECONDS = 10.0


@dataclass
class Measurement:
    """What is known of a case so far. It grows while it runs, so that an interruption loses no finished run."""

    case: Case
    backend: str
    precision: str
    """The type that the backend computes in."""
    scale: int
    model_sha256: str | None
    rss_before_mib: float
    """Memory of this process before the model was loaded: the interpreter, and what earlier cases left behind."""
    rss_mib: float = 0.0
    """Memory with the model loaded, after its last run."""
    rss_peak_mib: float = 0.0
    """The most since the model began to load."""
    rounds: list[Round] = field(default_factory=list)
    """The timed ones."""
    joules: float | None = None
    """Energy of all timed runs; None: no counter tells."""
    peak: Peak | None = None
    """What the backend makes of a matrix product; None: not measured (yet)."""

    @property
    def seconds(self) -> list[float]:
        """One entry for each timed run, from submitting a batch to its result."""
        return [seconds for timed in self.rounds for seconds in timed.latencies_s]

    @property
    def elapsed_s(self) -> float:
        """Of all timed runs together; less than the sum of `seconds` where several are under way at a time."""
        return sum(timed.seconds for timed in self.rounds)

    @property
    def frames(self) -> int:
        """Frames of all timed runs."""
        return self.case.config.batch * len(self.seconds)

    @property
    def fps(self) -> float:
        """Frames of all timed runs over their time: what a long job would see."""
        return self.frames / self.elapsed_s

    @property
    def gflops(self) -> float | None:
        """Operations per second at `fps`; None where they are not known."""
        return None if self.case.cost.flops is None else self.fps * self.case.cost.flops / 1e9

    @property
    def share_of_peak(self) -> float | None:
        """`gflops` over those of the fastest matrix product on all cores."""
        return None if self.gflops is None or self.peak is None else self.gflops / self.peak.gflops

    @property
    def bytes_per_frame(self) -> int | None:
        """What the nodes of the graph read and write, see `count_traffic`; None where it is not known."""
        traffic = self.case.cost.traffic
        return None if traffic is None else traffic.bytes_in(self.precision)

    @property
    def joules_per_frame(self) -> float | None:
        """Energy over frames; None where no counter tells."""
        return None if self.joules is None else self.joules / self.frames


class Benchmark:
    """Cases, and what has been measured of them; `run` does the work."""

    def __init__(self, cases: Sequence[Case], least_seconds: float = LEAST_SECONDS) -> None:
        """`least_seconds`: how long the timed runs of a case take together, at least."""
        self.cases = cases
        self.measurements: list[Measurement] = []
        """One for each case that was begun; those interrupted in their warm-up have no `seconds`."""
        self.complete = False
        self.peaks = Peaks()
        self.bandwidth_gb_s: float | None = None
        """Of main memory, see `copy_bandwidth_gb_s`; None: not measured, since all that was computed on a GPU."""
        self.about_energy = ""
        """What `joules` counts, or why it is None."""
        self._least_seconds = least_seconds

    def run(self, note: Callable[[str], None] = lambda _: None) -> Iterator[Measurement]:
        """Measure case after case, each in a session of its own, and yield each when it is finished.

        Args:
            note: called with a line of text about other programs at work, about each case that is left out because
                another one came to the same session, and about a peak that cannot be measured.

        Raises:
            EsrganError: what `open_session` or a run raises. Measurements made until then are kept.
        """
        remark = disturbance()
        if remark:
            note(remark)
        for case in self.cases:
            config = case.config
            reset_peak_rss()
            before = rss_mib()
            with config.open() as session:
                measurement = Measurement(
                    *(case, session.backend, session.precision, session.info.scale, session.model_sha256), before
                )
                if any(_same(measurement, other) for other in self.measurements):
                    note(
                        f"{config.model.name} with -b {config.backend} and --precision {config.precision} is "
                        f"{session.backend} in {session.precision} once more; not measured again"
                    )
                    continue
                self.measurements.append(measurement)
                self._time(measurement, session)
            # After the network, so that the matrices are no part of its memory.
            self._measure_machine(measurement, note)
            yield measurement
        self.complete = True

    @property
    def measured(self) -> list[Measurement]:
        """Those with at least one timed run."""
        return [measurement for measurement in self.measurements if measurement.rounds]

    def _time(self, measurement: Measurement, session: Session) -> None:
        """Fill in times, energy and memory.

        Submitted are uint8 RGB frames in host memory, and the result is there when it is in host memory again: what a
        host program waits for, with the conversion to float and back, and on a GPU the transfers. The frames are noise;
        these networks take the same time for every picture.
        """
        case, config = measurement.case, measurement.case.config
        frames = noise(session, config.model, config.batch, case.height, case.width, config.streams)
        meter = open_meter(session.backend)
        self.about_energy = meter.about
        with closing(rounds(session, frames, config.streams)) as source:
            for _ in range(WARM_UP_ROUNDS):
                next(source)
            joules_before = meter.joules() if meter.joules else 0.0
            runs, elapsed_s = 0, 0.0
            while runs < LEAST_RUNS or elapsed_s < self._least_seconds:
                timed = next(source)
                runs, elapsed_s = runs + len(timed.latencies_s), elapsed_s + timed.seconds
                measurement.rss_mib, measurement.rss_peak_mib = rss_mib(), peak_rss_mib()
                measurement.rounds.append(timed)
                measurement.joules = meter.joules() - joules_before if meter.joules else None

    def _measure_machine(self, measurement: Measurement, note: Callable[[str], None]) -> None:
        """Measure the peak of this backend and precision, and the memory's bandwidth, unless they are known."""
        measurement.peak = self.peaks.of(measurement.backend, measurement.precision, note)
        if self.bandwidth_gb_s is None and measurement.backend not in GPU_BACKENDS:
            self.bandwidth_gb_s = copy_bandwidth_gb_s()


def _same(one: Measurement, other: Measurement) -> bool:
    """Whether two cases came to the same session and frames."""

    def key(m: Measurement) -> tuple[object, ...]:
        config = m.case.config
        as_run = (config.model, m.backend, m.precision, config.batch, config.streams, config.threads)
        return (*as_run, m.case.width, m.case.height)

    return key(one) == key(other)
