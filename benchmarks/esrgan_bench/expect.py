"""What speed to expect on this machine, in seconds: before a long run, and to tell whether a speed is normal.

The cost per pixel of these networks hardly depends on the size, so a small probe tells the time of any frame. Pixels
that the tiles of a frame share are counted as often as they are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from math import prod
from statistics import median

from esrgan_bench.cases import Configuration, Sweep, list_configurations
from esrgan_bench.peak import Peak, Peaks
from esrgan_bench.rounds import noise, rounds
from esrgan_bench.table import format_fps
from esrgan_deploy.backends import Session
from esrgan_deploy.errors import OptionError
from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import load_onnx
from esrgan_deploy.system.cpu import disturbance
from esrgan_deploy.upscaler import Upscaler

SMALLEST_PROBE = 32
PROBE_S = 1.0
"""A larger probe is tried only while a round of it is expected to take less than this."""
ROUNDS = 3
PEAK_S = 0.1
"""Longest run of the matrix product: shorter than in a benchmark, so the peak is a few per cent too low."""
LEGEND = """\
By the network alone, tiled like esrgan-upscale does. The peak is a large matrix product through the same backend.
Seen with OpenVINO on an Intel CPU: in fp32 70% of it or more for RRDBNet and 55% for the compact network, in int8 60%
and 35%. On GPUs 30 to 40% is the best ever published for RRDBNet. Far less than that means that other programs compute,
that the machine is throttled, or that threads are missing."""
UNITS = (("s", 1), ("min", 60), ("h", 3600), ("d", 86400))


@dataclass(frozen=True)
class Expectation:
    """What to expect of a network in one configuration on frames of one size."""

    config: Configuration
    backend: str
    precision: str
    """The type that the backend computes in."""
    width: int
    height: int
    tile: tuple[int, int]
    """Width and height of what is computed at once: the whole frame if it is not tiled."""
    tiles: int
    """Of each frame."""
    seconds_per_pixel: float
    """For each input pixel that is computed, while `config.streams` batches run at the same time."""
    share_of_peak: float | None
    """GFLOPS over those of a large matrix product through the same backend; None: one of the two is not known."""

    @property
    def pixels(self) -> int:
        """Computed for each frame."""
        return self.tiles * self.tile[0] * self.tile[1]

    @property
    def overhead(self) -> float:
        """Computed pixels over the frame's own."""
        return self.pixels / (self.width * self.height)

    @property
    def seconds_per_frame(self) -> float:
        """By the network alone. Decoding and encoding go on at the same time, and rarely take longer."""
        return self.pixels * self.seconds_per_pixel


def expect(sweep: Sweep, note: Callable[[str], None]) -> Iterator[list[Expectation]]:
    """Probe the networks, some seconds for each configuration, and tell what follows for each shape.

    Args:
        sweep: what to probe; shapes are those of whole frames, which are tiled as `Upscaler` does by itself.
        note: called with a line of text about what may disturb the measurement.

    Raises:
        EsrganError: see `list_configurations` and `open_session`; OptionError for a shape that a model is not made for.
    """
    remark = disturbance()
    if remark:
        note(remark)
    peaks = Peaks(PEAK_S)
    for config in list_configurations(sweep):
        with config.open() as session:
            tilings = [_tiling(session, config, width, height) for width, height in sweep.shapes]
            known: dict[tuple[int, int], float] = {}
            probes = [_probe(session, config, tile, known) for tile, _ in tilings]
        backend, precision, gflops = session.backend, session.precision, _gflops(config, known)
        peak = peaks.of(backend, precision, note)
        yield [
            Expectation(
                *(config, backend, precision, *shape, *grid),
                seconds_per_pixel=known[probe] / prod(probe),
                share_of_peak=_share(gflops[probe], peak),
            )
            for shape, grid, probe in zip(sweep.shapes, tilings, probes, strict=True)
        ]


def expectation_lines(expectations: list[Expectation], frames: int) -> list[str]:
    """Lines for people about one network in one configuration, with the time that `frames` frames take."""
    config, backend, precision = expectations[0].config, expectations[0].backend, expectations[0].precision
    how = f"batch {config.batch}, streams {config.streams}, threads {config.threads}"
    lines = [f"{config.model.name}, {backend} in {precision}, {how}"]
    for e in expectations:
        share = "" if e.share_of_peak is None else f"{e.share_of_peak:.0%} of peak"
        cut = "whole" if e.tiles == 1 else f"{e.tiles} tiles of {e.tile[0]}x{e.tile[1]}, {e.overhead:.2f}x the pixels"
        lines.append(
            f"{f'{e.width}x{e.height}':>11} {format_fps(1 / e.seconds_per_frame):>8} fps  {share:12}  "
            f"{frames} frames: {format_duration(frames * e.seconds_per_frame):>12}  {cut}"
        )
    return lines


def format_duration(seconds: float) -> str:
    """Like 45.2 s, 12 min 30 s, 3 h 05 min, or 2 d 04 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    larger = max(i for i, (_, size) in enumerate(UNITS) if seconds >= size)
    (name, size), (small_name, small) = UNITS[larger], UNITS[larger - 1]
    whole, rest = divmod(round(seconds / small), size // small)
    return f"{whole} {name} {rest:02d} {small_name}"


def _tiling(session: Session, config: Configuration, width: int, height: int) -> tuple[tuple[int, int], int]:
    """(Width, height) of the tiles of a frame, and how many they are."""
    fixed = session.info.fixed_size
    if fixed and fixed != (height, width):
        raise OptionError(
            f"{config.model}: takes frames of {fixed[1]}x{fixed[0]} only; give --shapes {fixed[1]}x{fixed[0]}"
        )
    grid = Upscaler(session).tiles_of(height, width)
    return ((grid.columns.tile, grid.rows.tile), len(grid)) if grid else ((width, height), 1)


def _probe(
    session: Session, config: Configuration, largest: tuple[int, int], known: dict[tuple[int, int], float]
) -> tuple[int, int]:
    """(Width, height) of the largest square within `PROBE_S`, but not beyond `largest`; its time is known then.

    Args:
        session: of `config`.
        config: how many batches of how many frames are under way.
        largest: (width, height) of a tile; the only size that a model of fixed size takes.
        known: seconds of frames by (width, height); what is timed is added.
    """
    multiple, fixed = session.info.multiple_of, session.info.fixed_size
    side = SMALLEST_PROBE
    while True:
        width, height = largest if fixed else (min(size, side) + -min(size, side) % multiple for size in largest)
        if (width, height) not in known:
            known[width, height] = _seconds_per_frame(session, config, width, height)
        next_round_s = 4 * known[width, height] * config.batch * config.streams
        if fixed or side >= max(largest) or next_round_s > PROBE_S:
            return width, height
        side *= 2


def _seconds_per_frame(session: Session, config: Configuration, width: int, height: int) -> float:
    """The median over some rounds; the first one, which allocates memory and generates code, does not count."""
    frames = noise(session, config.model, config.batch, height, width, config.streams)
    with closing(rounds(session, frames, config.streams)) as source:
        _, *timed = islice(source, 1 + ROUNDS)
    return median(one.seconds for one in timed) / (config.batch * config.streams)


def _gflops(config: Configuration, known: dict[tuple[int, int], float]) -> dict[tuple[int, int], float | None]:
    """Of what was timed; None where the operations are not known."""
    if config.backend == "reference":  # repeats pixels, whatever the graph says
        return dict.fromkeys(known)
    graph, _ = load_onnx(config.model)
    counted = {(width, height): count_flops(graph, height, width) for width, height in known}
    return {size: flops / known[size] / 1e9 if flops else None for size, flops in counted.items()}


def _share(gflops: float | None, peak: Peak | None) -> float | None:
    return gflops / peak.gflops if gflops and peak else None
