"""RGB frames to packets of a video stream, with nothing lost between the two."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from esrgan_deploy.errors import OptionError
from esrgan_deploy.video.colour import FULL_RANGE, LIMITED_RANGE, to_yuv
from esrgan_deploy.video.decode import Frame
from esrgan_deploy.video.probe import VideoInfo
from esrgan_deploy.video.timeline import Timeline

# SVT-AV1 writes its banner to stderr unless told not to, and can be told in no other way.
os.environ.setdefault("SVT_LOG", "1")


@dataclass(frozen=True)
class Codec:
    """An encoder of FFmpeg and how it is driven: constant quality, at a speed that leaves the CPU to the network."""

    encoder: str
    quality: int
    """Default of the constant rate factor: lower is better and larger."""
    worst_quality: int
    """The largest rate factor that the encoder takes; the smallest is 0."""
    options: Mapping[str, str] = field(default_factory=dict)
    odd_format: str = "yuv420p"
    """Pixel format for an odd width or height: H.264 and H.265 cannot crop half a 4:2:0 chroma sample."""
    mp4_tag: str | None = None
    """Tag in MP4 and MOV where Apple's players want another one than FFmpeg's default."""


CODECS: Mapping[str, Codec] = {
    "h264": Codec("libx264", 16, 51, {"preset": "superfast"}, odd_format="yuv444p"),
    "h265": Codec(
        "libx265",
        18,
        51,
        {"preset": "superfast", "x265-params": "log-level=none"},
        odd_format="yuv444p",
        mp4_tag="hvc1",
    ),
    "av1": Codec("libsvtav1", 22, 63, {"preset": "10"}),
}
"""Encoders by the names that users know.

Measured on 1280x720: 17, 110 and 27 ms of CPU per frame, 46, 44 and 42 dB. x264's next slower preset, "veryfast", took
30 ms for files a fifth smaller at the same PSNR: on a CPU that also runs the network, those cycles are frames."""


class Encoder:
    """One video stream of an output container that is still to be started."""

    def __init__(
        self, container: OutputContainer, info: VideoInfo, size: tuple[int, int], codec: Codec, quality: int | None
    ) -> None:
        """Add the stream to `container`, with the time base, colour tags, pixel shape and rotation of `info`.

        Args:
            container: open for writing, header not written.
            info: the source.
            size: height and width of the frames to come.
            codec: one of `CODECS`.
            quality: constant rate factor; None: the codec's default.

        Raises:
            OptionError: a rate factor that the encoder does not know.
        """
        self._size = size
        self._time_base = info.time_base
        self._timeline = Timeline()
        self.stream = _add_stream(container, info, size, codec, codec.quality if quality is None else quality)
        colour = info.colour.resolved(info.width, info.height)
        self._to_yuv = to_yuv(size[1], size[0], self.stream.codec_context.pix_fmt or "", colour)

    def encode(self, frame: Frame) -> Iterator[Packet[VideoStream]]:
        """Send one frame; the packets that are ready, none at first."""
        if frame.pixels.shape != (*self._size, 3):
            raise RuntimeError(f"a frame of shape {frame.pixels.shape} was to be encoded as {self._size}")
        picture = self._to_yuv(frame.pixels)
        picture.pts = frame.pts
        picture.time_base = self._time_base
        self._timeline.send(frame)
        return self._timeline.receive(self.stream.encode(picture))

    def flush(self) -> Iterator[Packet[VideoStream]]:
        """The packets that the encoder still holds; encoding them happens as they are asked for."""
        for packet in self.stream.codec_context.encode_lazy(None):
            packet.stream = self.stream
            yield from self._timeline.receive([packet])
        yield from self._timeline.end()


def _add_stream(
    container: OutputContainer, info: VideoInfo, size: tuple[int, int], codec: Codec, quality: int
) -> VideoStream:
    if not 0 <= quality <= codec.worst_quality:
        raise OptionError(f"quality {quality} is out of range; {codec.encoder} takes 0 (best) to {codec.worst_quality}")
    height, width = size
    stream = cast(
        "VideoStream",
        container.add_stream(
            codec.encoder,
            rate=info.frame_rate,
            options={**codec.options, "crf": str(quality)},
            width=width,
            height=height,
            pix_fmt=codec.odd_format if height % 2 or width % 2 else "yuv420p",
            time_base=info.time_base,
        ),
    )
    context = stream.codec_context
    colour = info.colour.resolved(info.width, info.height)
    context.sample_aspect_ratio = info.sample_aspect
    context.colorspace = colour.matrix
    context.color_range = FULL_RANGE if colour.full_range else LIMITED_RANGE
    context.color_primaries = colour.primaries
    context.color_trc = colour.transfer
    if codec.mp4_tag and container.format.name in ("mp4", "mov"):
        context.codec_tag = codec.mp4_tag
    if info.display_matrix:
        stream.set_display_matrix(_enlarged(info.display_matrix, width / info.width))
    elif info.rotation:
        stream.set_display_rotation(info.rotation)
    return stream


def _enlarged(matrix: tuple[int, ...], factor: float) -> tuple[int, ...]:
    """A display matrix for a picture `factor` times as large: its translation is counted in pixels."""
    return (*matrix[:6], round(matrix[6] * factor), round(matrix[7] * factor), matrix[8])
