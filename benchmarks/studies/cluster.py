"""What Ray costs: workers that only sleep, up to 64 of them, and two real ones beside one process.

A sleeping worker does everything that a real one does, from decoding to sending the packets, but its network sleeps for
a known time. All of them share the cores of this machine, with Ray and with the program that collects the segments. So
what is measured is an upper bound for a cluster.

Three times are told apart. The ideal is the sleep alone. The time in the chain is what a worker needs for a segment,
with decoding and encoding, which one machine would need too. Orchestration is what remains: for a worker, the time
between two segments.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from esrgan_deploy.backends.reference import ReferenceSession
from esrgan_deploy.frame_io import Frames
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.models import COMPACT_CLEAN
from esrgan_deploy.upscaler import Upscaler
from esrgan_deploy.video import VideoOptions, upscale_video
from esrgan_deploy.video.run.cluster import UpscalerSpec, upscale_on_ray
from esrgan_deploy.video.run.cluster.run import _Driver
from esrgan_deploy.video.run.cluster.worker import FinishedSegment
from esrgan_deploy.video.source.segments import Segment
from side_by_side import interleaved, save

SOURCE = Path(__file__).parents[2] / "tests/data/bigbuckbunny.mp4"
"""320x180."""
REAL_FRAMES = 24
WORKERS = (1, 2, 8, 64)
SEGMENT_S = 10.0
"""What the network of a sleeping worker takes for one segment."""
SEGMENT_FRAMES = 20
ROUNDS_OF_SEGMENTS = 3
"""Segments for each worker, one after the other."""
OVERHEAD_TARGET = 0.02
EFFICIENCY_TARGET = 0.9


class SleepingSession(ReferenceSession):
    """Sleeps for each frame."""

    def _infer(self, frame: Frames) -> Frames:
        time.sleep(SEGMENT_S / SEGMENT_FRAMES)
        return super()._infer(frame)


@dataclass(frozen=True)
class SleepingSpec(UpscalerSpec):
    """Makes an Upscaler that sleeps."""

    def open(self) -> Upscaler:
        """See `UpscalerSpec.open`."""
        return Upscaler(SleepingSession(ModelInfo(scale=1, overlap=0)))


def main() -> None:
    """Measure, print the tables, write results/cluster.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="timed runs of the real clip, each way (default: 2)")
    rounds = parser.parse_args().rounds
    os.environ["RAY_AUTH_MODE"] = "disabled"  # no key file in the home folder of whoever measures
    # 64 processes start on a few cores, and Ray reads this name in lower case alone.
    os.environ["RAY_worker_register_timeout_seconds"] = "600"  # noqa: SIM112
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sleeping = measure_sleeping(folder)
        real = measure_real(rounds, folder)
    save("cluster", {"segment_s": SEGMENT_S, "sleeping": sleeping, "real": real})


def measure_sleeping(folder: Path) -> list[dict[str, Any]]:
    """Efficiency and overhead by number of workers; each number has a cluster of its own."""
    print(
        f"{'workers':>8} {'segments':>9} {'ideal s':>8} {'work s':>8} {'efficiency':>11} {'chain s':>9} "
        f"{'orchestration':>14}"
    )
    return [measure_workers(workers, folder) for workers in WORKERS]


def measure_workers(workers: int, folder: Path) -> dict[str, Any]:
    """One run of warm workers: its time beside that of the sleep alone."""
    import ray

    segments = ROUNDS_OF_SEGMENTS * workers
    clip = make_clip(segments * SEGMENT_FRAMES, folder / "tiny.mp4")
    run = partial(
        upscale_on_ray, spec=SleepingSpec(None, threads=1), options=VideoOptions(segment_frames=SEGMENT_FRAMES)
    )
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        warm_up(workers, folder)
        with observed() as seen:
            begin = time.perf_counter()
            run(clip, folder / "out.mp4")
            wall = time.perf_counter() - begin
    finally:
        ray.shutdown()
    ideal = ROUNDS_OF_SEGMENTS * SEGMENT_S
    in_chain = sum(result.seconds for result in seen.results) / segments
    orchestration = seen.seconds * workers / segments - in_chain
    efficiency = ideal / seen.seconds
    met = efficiency >= EFFICIENCY_TARGET and (workers > 2 or orchestration <= OVERHEAD_TARGET * SEGMENT_S)
    print(
        f"{workers:8} {segments:9} {ideal:8.1f} {seen.seconds:8.2f} {efficiency:11.3f} {in_chain:9.2f} "
        f"{orchestration:14.3f}  {'met' if met else 'missed'}"
    )
    return {
        "workers": workers,
        "segments": segments,
        "ideal_s": ideal,
        "work_s": seen.seconds,
        "whole_run_s": wall,
        "efficiency": efficiency,
        "chain_s_per_segment": in_chain,
        "orchestration_s_per_segment": orchestration,
        "driver_s_per_segment": seen.driver_s / segments,
        "bytes_received": sum(result.packets.nbytes for result in seen.results),
        "met": met,
    }


def warm_up(workers: int, folder: Path) -> None:
    """Start all worker processes, with everything that they import."""
    import ray

    arrivals = folder / f"arrivals-{workers}"
    arrivals.mkdir()
    task = ray.remote(num_cpus=1)(arrive)
    ray.get([task.remote(arrivals, workers) for _ in range(workers)])


def arrive(folder: Path, workers: int) -> None:
    """A task: wait until all workers are here, so that each process gets one of these."""
    import esrgan_deploy.video.run.cluster.worker  # noqa: F401  # a second or more of work for a process

    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < workers:
        time.sleep(0.2)


@dataclass
class Seen:
    """What the driver of a run went through."""

    results: list[FinishedSegment]
    seconds: float = 0.0
    """From the first segment that is submitted to the last one in the checkpoint."""
    driver_s: float = 0.0
    """Of these, those in which the driver was writing what came back."""


@contextmanager
def observed() -> Iterator[Seen]:
    """Watch the run in this process."""
    seen = Seen([])
    run, take = _Driver.run, _Driver._take

    def timed_run(self: _Driver, segments: Sequence[Segment]) -> None:
        begin = time.perf_counter()
        run(self, segments)
        seen.seconds = time.perf_counter() - begin

    def timed_take(self: _Driver, segment: Segment, result: Any) -> None:  # noqa: ANN401
        begin = time.perf_counter()
        take(self, segment, result)
        seen.driver_s += time.perf_counter() - begin
        seen.results.append(result)

    with patch.object(_Driver, "run", timed_run), patch.object(_Driver, "_take", timed_take):
        yield seen


def measure_real(rounds: int, folder: Path) -> dict[str, Any]:
    """Compact-clean on a real clip: two workers of one thread each beside one process of two threads."""
    import ray

    options = VideoOptions(segment_frames=REAL_FRAMES // 4, frames=(0, REAL_FRAMES))
    targets = {"one process": folder / "one.mp4", "two workers": folder / "two.mp4"}
    seconds: dict[str, list[float]] = {}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        with UpscalerSpec(COMPACT_CLEAN, threads=2).open() as upscaler:
            ways = {
                "one process": partial(upscale_video, SOURCE, targets["one process"], upscaler, options),
                "two workers": partial(
                    upscale_on_ray, SOURCE, targets["two workers"], UpscalerSpec(COMPACT_CLEAN, threads=1), options
                ),
            }
            seconds = interleaved(ways, rounds)
            with observed() as seen:
                ways["two workers"]()
            backend, precision = upscaler.session.backend, upscaler.session.precision
    finally:
        ray.shutdown()
    identical = targets["one process"].read_bytes() == targets["two workers"].read_bytes()
    per_worker = REAL_FRAMES / sum(result.seconds for result in seen.results)
    fps = {way: REAL_FRAMES / median(seconds[way]) for way in ways}
    print(
        f"{REAL_FRAMES} frames, compact network: {fps['one process']:.2f} fps in one process of two threads, "
        f"{fps['two workers']:.2f} fps with two workers of one "
        f"({per_worker:.2f} each at work); files {'identical' if identical else 'DIFFER'}"
    )
    return {
        "frames": REAL_FRAMES,
        "backend": backend,
        "precision": precision,
        "segment_frames": options.segment_frames,
        "seconds": seconds,
        "fps": fps,
        "fps_per_worker": per_worker,
        "identical": identical,
        "met": identical,
    }


def make_clip(frames: int, target: Path) -> Path:
    """A clip of tiny pictures, no two neighbours alike."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), np.uint8)
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": str(SEGMENT_FRAMES)})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in islice(cycle(noise), frames):
            container.mux(stream.encode(VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return target


if __name__ == "__main__":
    main()
