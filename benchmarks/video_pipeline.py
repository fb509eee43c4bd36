"""A clip from file to file beside the bare network on the same frames, and the memory of a ten times longer clip.

What the pipeline adds (decoding, colour conversion, encoding) should hide behind the network. Times are those of the
whole call, from opening the clip to the renamed result; the bare session gets frames that were decoded beforehand.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import av
from av.video.stream import VideoStream
from side_by_side import export_real, interleaved, ratio, save

from esrgan_deploy import Session, Upscaler, open_session
from esrgan_deploy.video import probe, upscale_video
from esrgan_deploy.video.decode import decoded_frames

SOURCE = Path(__file__).parent.parent / "tests/data/bigbuckbunny.mp4"
SPEED_TARGET = 0.95
MEMORY_TARGET = 0.05
LONGER = 10


class Clip(NamedTuple):
    """A clip to make, and the network that it goes through."""

    network: str
    width: int
    height: int
    frames: int


SPEED = (
    Clip("REALESRGAN_ANIMAVIDEOV3_UP4X", 320, 180, 50),
    Clip("REALESRGAN_X4PLUSANIME_UP4X", 128, 72, 30),
)
MEMORY = Clip("REALESRGAN_ANIMAVIDEOV3_UP4X", 160, 90, 40)

# A process of its own for each clip: the peak of a process never falls.
MEMORY_PROBE = """
import sys
from esrgan_deploy.bench.machine import peak_rss_mib
from esrgan_deploy.cli.upscale import main
code = main(sys.argv[1:])
print(peak_rss_mib())
sys.exit(code)
"""


def main() -> None:
    """Measure, print the tables, write results/video_pipeline.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each clip and each way (default: 5)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'network':30} {'clip':>8} {'frames':>7} {'bare fps':>9} {'clip fps':>9} {'share':>6}")
        speed = [measure_speed(clip, rounds, folder) for clip in SPEED]
        memory = measure_memory(MEMORY, folder)
    save("video_pipeline", {"rounds": rounds, "speed": speed, "memory": memory})


def measure_speed(clip: Clip, rounds: int, folder: Path) -> dict[str, Any]:
    """Frames per second of both ways, and the share that the pipeline keeps."""
    path = make_clip(clip, clip.frames, folder / "clip.mp4")
    pictures = [frame.pixels for frame in decoded_frames(probe(path))]
    with open_session(export_real(clip.network, folder)) as session:
        upscaler = Upscaler(session)
        ways: dict[str, Callable[[], object]] = {
            "bare": partial(run_bare, session, pictures),
            "pipeline": partial(upscale_video, path, folder / "large.mp4", upscaler),
        }
        seconds = interleaved(ways, rounds)
        backend, precision = session.backend, session.precision
    bare, pipeline = (clip.frames / median(seconds[way]) for way in ways)
    share = ratio(seconds["bare"], seconds["pipeline"])
    print(
        f"{clip.network:30} {f'{clip.width}x{clip.height}':>8} {clip.frames:7} {bare:9.3f} {pipeline:9.3f} "
        f"{share:6.3f}  target {SPEED_TARGET}: {'met' if share >= SPEED_TARGET else 'missed'}"
    )
    return {
        **clip._asdict(),
        "backend": backend,
        "precision": precision,
        "seconds": seconds,
        "bare_fps": bare,
        "pipeline_fps": pipeline,
        "share": share,
        "target": SPEED_TARGET,
        "met": share >= SPEED_TARGET,
    }


def run_bare(session: Session, pictures: list[Any]) -> None:
    """The network alone, frame by frame."""
    for picture in pictures:
        session.run(picture[None])


def measure_memory(clip: Clip, folder: Path) -> dict[str, Any]:
    """The most memory that esrgan-upscale held for a clip, and for one ten times as long."""
    model = export_real(clip.network, folder)
    peaks = []
    for frames in (clip.frames, LONGER * clip.frames):
        path = make_clip(clip, frames, folder / "clip.mp4")
        arguments = [str(path), "-o", str(folder / "large.mp4"), "-m", str(model)]
        done = subprocess.run(
            [sys.executable, "-c", MEMORY_PROBE, *arguments], check=True, stdout=subprocess.PIPE, text=True
        )
        peaks.append(float(done.stdout.splitlines()[-1]))
    short, long = peaks
    growth = long / short - 1
    met = growth <= MEMORY_TARGET
    print(
        f"Peak memory: {short:.0f} MiB for {clip.frames} frames, {long:.0f} MiB for {LONGER * clip.frames}: "
        f"{growth:+.1%}, target {MEMORY_TARGET:.0%}: {'met' if met else 'missed'}"
    )
    return {
        **clip._asdict(),
        "longer": LONGER,
        "peak_rss_mib": {"short": short, "long": long},
        "growth": growth,
        "target": MEMORY_TARGET,
        "met": met,
    }


def make_clip(clip: Clip, frames: int, target: Path) -> Path:
    """Scale the source clip down, and repeat it until there are `frames` frames."""
    with av.open(str(SOURCE)) as source:
        small = [f.reformat(clip.width, clip.height, "yuv420p") for f in islice(source.decode(video=0), frames)]
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        for index, frame in enumerate(islice(cycle(small), frames)):
            frame.pts, frame.time_base = index, 1 / stream.codec_context.framerate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target


if __name__ == "__main__":
    main()
