"""A clip from file to file beside what cannot be spared: the bare network, ffmpeg's decoding and encoding, memory.

What the pipeline adds (decoding, colour conversion, encoding) should hide behind the network. With a network that does
nothing it should hide behind the codecs: ffmpeg does no colour conversion there. Times are those of the whole call,
from opening the clip to the renamed result; the bare session gets frames that were decoded beforehand.
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

from esrgan_deploy import ModelInfo, Session, Upscaler, open_session
from esrgan_deploy.backends.reference import ReferenceSession
from esrgan_deploy.cli.upscale import CLIP_STREAMS
from esrgan_deploy.models import COMPACT_CLEAN
from esrgan_deploy.video import CODECS, probe, upscale_video
from esrgan_deploy.video.pixels.convert import to_rgb
from side_by_side import interleaved, ratio, save

SOURCE = Path(__file__).parents[2] / "tests/data/bigbuckbunny.mp4"
SPEED_TARGET = 0.97
IDENTITY_TARGET = 0.9
MEMORY_TARGET = 0.05


class Clip(NamedTuple):
    """A clip to make."""

    width: int
    height: int
    frames: int


SPEED = Clip(320, 180, 50)
IDENTITY = Clip(1280, 720, 250)
MEMORY = Clip(320, 180, 100), Clip(320, 180, 3000)

# A process of its own for each clip: the peak of a process never falls.
MEMORY_PROBE = """
import sys
from esrgan_deploy.system.memory import peak_rss_mib
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
        figures = {
            "speed": measure_speed(rounds, folder),
            "identity": measure_identity(rounds, folder),
            "memory": measure_memory(folder),
        }
    save("video_pipeline", {"rounds": rounds, **figures})


def measure_speed(rounds: int, folder: Path) -> dict[str, Any]:
    """The compact network's frames per second, bare and in the pipeline."""
    path = make_clip(SPEED, folder / "clip.mp4")
    pictures = decoded(path)
    with open_session(COMPACT_CLEAN, streams=CLIP_STREAMS) as session:
        ways: dict[str, Callable[[], object]] = {
            "bare": partial(run_bare, session, pictures),
            "pipeline": partial(upscale_video, path, folder / "large.mp4", Upscaler(session)),
        }
        seconds = interleaved(ways, rounds)
        named = {"network": COMPACT_CLEAN.name, "backend": session.backend, "precision": session.precision}
    return {**named, **compared("compact network / bare network", SPEED, seconds, SPEED_TARGET)}


def measure_identity(rounds: int, folder: Path) -> dict[str, Any]:
    """Frames per second of a network that changes nothing, and of ffmpeg with the same codecs and settings."""
    path = make_clip(IDENTITY, folder / "clip.mp4")
    upscaler = Upscaler(ReferenceSession(ModelInfo(scale=1, overlap=0)), tile=0)
    codec = CODECS["h264"]
    settings = [word for name, value in codec.options.items() for word in (f"-{name}", value)]
    ffmpeg = ["ffmpeg", "-v", "error", "-y", "-i", str(path), "-c:v", codec.encoder, *settings]
    ffmpeg += ["-crf", str(codec.quality), str(folder / "ffmpeg.mp4")]
    ways: dict[str, Callable[[], object]] = {
        "bare": partial(subprocess.run, ffmpeg, check=True),
        "pipeline": partial(upscale_video, path, folder / "large.mp4", upscaler),
    }
    figures = compared("identity / ffmpeg alone", IDENTITY, interleaved(ways, rounds), IDENTITY_TARGET)
    busy = upscale_video(path, folder / "large.mp4", upscaler)
    return {**figures, "busy_s": busy.busy_s, "busy_total_s": busy.seconds}


def compared(title: str, clip: Clip, seconds: dict[str, list[float]], target: float) -> dict[str, Any]:
    """The share of the bare rate that the pipeline keeps."""
    bare, pipeline = (clip.frames / median(seconds[way]) for way in ("bare", "pipeline"))
    share = ratio(seconds["bare"], seconds["pipeline"])
    met = share >= target
    print(
        f"{title:32} {clip.width}x{clip.height}: bare {bare:.2f} fps, clip to clip {pipeline:.2f} fps, "
        f"share {share:.3f}, target {target}: {'met' if met else 'missed'}",
        flush=True,
    )
    return {
        **clip._asdict(),
        "seconds": seconds,
        "bare_fps": bare,
        "pipeline_fps": pipeline,
        "share": share,
        "target": target,
        "met": met,
    }


def decoded(path: Path) -> list[Any]:
    """All frames of a clip, as a session takes them."""
    info = probe(path)
    convert = to_rgb(info.width, info.height, info.pixel_format, info.colour.resolved(info.width, info.height))
    with av.open(str(path)) as clip:
        return [convert(picture) for picture in clip.decode(video=0)]


def run_bare(session: Session, pictures: list[Any]) -> None:
    """The network alone, as fast as it can."""
    for result in [session.submit(picture[None]) for picture in pictures]:
        result.result()


def measure_memory(folder: Path) -> dict[str, Any]:
    """The most memory that esrgan-upscale held for a clip, and for a much longer one."""
    peaks = []
    for clip in MEMORY:
        path = make_clip(clip, folder / "clip.mp4")
        arguments = [str(path), "-o", str(folder / "large.mp4"), "-b", "reference"]
        done = subprocess.run(
            [sys.executable, "-c", MEMORY_PROBE, *arguments], check=True, stdout=subprocess.PIPE, text=True
        )
        peaks.append(float(done.stdout.splitlines()[-1]))
    growth = peaks[1] / peaks[0] - 1
    met = growth <= MEMORY_TARGET
    frames = [clip.frames for clip in MEMORY]
    print(
        f"Peak memory: {peaks[0]:.0f} MiB for {frames[0]} frames, {peaks[1]:.0f} MiB for {frames[1]}: "
        f"{growth:+.1%}, target {MEMORY_TARGET:.0%}: {'met' if met else 'missed'}"
    )
    return {"frames": frames, "peak_rss_mib": peaks, "growth": growth, "target": MEMORY_TARGET, "met": met}


def make_clip(clip: Clip, target: Path) -> Path:
    """Scale the source clip, and repeat it until there are enough frames."""
    with av.open(str(SOURCE)) as source:
        small = [f.reformat(clip.width, clip.height, "yuv420p") for f in islice(source.decode(video=0), clip.frames)]
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18", "preset": "veryfast"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        for index, frame in enumerate(islice(cycle(small), clip.frames)):
            frame.pts, frame.time_base = index, 1 / stream.codec_context.framerate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target


if __name__ == "__main__":
    main()
