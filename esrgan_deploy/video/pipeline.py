"""Upscale a clip: decode, infer and encode at the same time, each in its own thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.atomic import replacing, same_file
from esrgan_deploy.errors import OptionError, OutputError
from esrgan_deploy.video.decode import Frame, decoded_frames
from esrgan_deploy.video.encode import CODECS
from esrgan_deploy.video.mux import Output, open_output
from esrgan_deploy.video.passthrough import FORMATS
from esrgan_deploy.video.probe import VideoInfo, count_packets, probe
from esrgan_deploy.video.stages import Channel, Stages

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from esrgan_deploy.upscaler import Upscaler

_DECODED_AHEAD = 4
_UPSCALED_AHEAD = 2
"""Frames that may wait between two stages: enough to even out their pace, few because upscaled frames are large."""


@dataclass(frozen=True)
class VideoSummary:
    """What a run did, and which stage set its pace: the one that was busy nearly all the time."""

    frames: int
    seconds: float
    """From the start to the finished file."""
    decode_busy_s: float
    """Reading, decoding, conversion to RGB."""
    infer_busy_s: float
    """Waiting for the network; where decoding is slower than the network, only the part that decoding does not hide."""
    encode_busy_s: float
    """Conversion from RGB, encoding, writing, copying other streams."""

    @property
    def fps(self) -> float:
        """Frames per second over the whole run."""
        return self.frames / self.seconds


def upscale_video(
    source: Path,
    target: Path,
    upscaler: Upscaler,
    *,
    codec: str = "h264",
    quality: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> VideoSummary:
    """Upscale every frame of `source`; write them with the same time stamps, and all its other streams, to `target`.

    Time stamps, pixel shape, rotation and colour tags stay what they are, sound and subtitles are copied packet for
    packet. MP4 and MOV keep time stamps exactly, Matroska rounds to its clock of 1 ms. The target appears when it is
    finished; after an error or Ctrl-C nothing is left of it.

    Args:
        source: a clip that `probe` accepts.
        target: .mp4, .mov or .mkv; an existing file is replaced.
        upscaler: gives one frame for each one it gets, in order.
        codec: a key of `CODECS`.
        quality: constant rate factor of the encoder, lower is better; None: the codec's default.
        progress: called after each frame with the number done and the number of all, if that is known.

    Raises:
        MediaError: the source is no clip, damaged, or of a kind that would suffer.
        OptionError: an unknown codec or quality.
        OutputError: the target cannot be written, or its format cannot hold what the source carries.
    """
    _check_target(source, target, codec)
    begin = time.perf_counter()
    info = probe(source)
    size = upscaler.output_size(info.height, info.width)
    with (
        replacing(target) as partial,
        open_output(partial, info, size, codec, quality) as output,
        Stages() as stages,
    ):
        total = count_packets(info)  # reads the whole clip, so everything that is refused at once comes before
        decoded: Channel[Frame] = stages.channel(_DECODED_AHEAD)
        upscaled: Channel[Frame] = stages.channel(_UPSCALED_AHEAD)
        stages.start("decode", lambda: _decode(info, decoded))
        stages.start("encode", lambda: _encode(upscaled, output, stages))
        infer_begin = time.perf_counter()
        frames = 0
        for frame in _infer(decoded, upscaler):
            upscaled.put(frame)
            frames += 1
            if progress:
                progress(frames, max(frames, total))
        upscaled.close()
        infer_busy_s = time.perf_counter() - infer_begin - stages.waited_s()
        stages.join()
    return VideoSummary(
        frames=frames,
        seconds=time.perf_counter() - begin,
        decode_busy_s=stages.busy_s["decode"],
        infer_busy_s=infer_busy_s,
        encode_busy_s=stages.busy_s["encode"],
    )


def _check_target(source: Path, target: Path, codec: str) -> None:
    if codec not in CODECS:
        raise OptionError(f"codec '{codec}' is unknown; choose one of {', '.join(CODECS)}")
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; name a file")
    if target.suffix.lower() not in FORMATS:
        raise OutputError(f"{target}: '{target.suffix}' is no video format that is written; use {', '.join(FORMATS)}")
    if same_file(source, target):
        raise OutputError(f"{target}: is the input itself; name another file")


def _decode(info: VideoInfo, decoded: Channel[Frame]) -> None:
    for frame in decoded_frames(info):
        decoded.put(frame)
    decoded.close()


def _infer(decoded: Channel[Frame], upscaler: Upscaler) -> Iterator[Frame]:
    """Upscale frames and give each result the time of the frame it was made from."""
    in_flight: deque[Frame] = deque()

    def pixels() -> Iterator[npt.NDArray[np.uint8]]:
        for frame in decoded:
            in_flight.append(frame)
            yield frame.pixels

    for large in upscaler.map(pixels()):
        if not in_flight:
            raise RuntimeError("the upscaler returned more frames than it was given")
        small = in_flight.popleft()
        yield Frame(large, small.pts, small.duration)
    if in_flight:
        raise RuntimeError(f"the upscaler kept {len(in_flight)} frames")


def _encode(upscaled: Channel[Frame], output: Output, stages: Stages) -> None:
    for frame in upscaled:
        output.write(frame)
    for _ in output.finish():
        stages.check()
