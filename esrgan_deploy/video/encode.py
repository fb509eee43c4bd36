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
    "h264": Codec("libx264", 16, 51, {"preset": "veryfast"}, odd_format="yuv444p"),
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
"""Encoders by the names that users know. Measured on 1280x720: 30, 110 and 27 ms of CPU per frame, 45, 44 and 42 dB."""


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
        if quality is None:
            quality = codec.quality
        if not 0 <= quality <= codec.worst_quality:
            raise OptionError(
                f"quality {quality} is out of range; {codec.encoder} takes 0 (best) to {codec.worst_quality}"
            )
        height, width = size
        pixel_format = codec.odd_format if height % 2 or width % 2 else "yuv420p"
        self._size = size
        self._time_base = info.time_base
        self._pending: dict[int, int] = {}
        self._first_pts: int | None = None
        self._last_pts = 0
        colour = info.colour.resolved(info.width, info.height)
        self._to_yuv = to_yuv(width, height, pixel_format, colour)
        self.stream = cast(
            "VideoStream",
            container.add_stream(
                codec.encoder,
                rate=info.frame_rate,
                options={**codec.options, "crf": str(quality)},
                width=width,
                height=height,
                pix_fmt=pixel_format,
                time_base=info.time_base,
            ),
        )
        context = self.stream.codec_context
        context.sample_aspect_ratio = info.sample_aspect
        context.colorspace = colour.matrix
        context.color_range = FULL_RANGE if colour.full_range else LIMITED_RANGE
        context.color_primaries = colour.primaries
        context.color_trc = colour.transfer
        if codec.mp4_tag and container.format.name in ("mp4", "mov"):
            context.codec_tag = codec.mp4_tag
        if info.display_matrix:
            self.stream.set_display_matrix(_enlarged(info.display_matrix, width / info.width))

    def encode(self, frame: Frame) -> list[Packet[VideoStream]]:
        """Send one frame; the packets that are ready, none at first."""
        if frame.pixels.shape != (*self._size, 3):
            raise RuntimeError(f"a frame of shape {frame.pixels.shape} was to be encoded as {self._size}")
        picture = self._to_yuv(frame.pixels)
        picture.pts = frame.pts
        picture.time_base = self._time_base
        self._pending[frame.pts] = frame.duration
        self._first_pts = frame.pts if self._first_pts is None else self._first_pts
        self._last_pts = frame.pts
        return [self._accounted(packet) for packet in self.stream.encode(picture)]

    def flush(self) -> Iterator[Packet[VideoStream]]:
        """The packets that the encoder still holds; encoding them happens as they are asked for."""
        for packet in self.stream.codec_context.encode_lazy(None):
            yield self._accounted(packet)
        if self._pending:
            raise RuntimeError(f"the encoder kept {len(self._pending)} frames, the first with PTS {min(self._pending)}")

    def _accounted(self, packet: Packet[VideoStream]) -> Packet[VideoStream]:
        """Check that `packet` is a frame that was sent, sent once, and give it its duration.

        Encoders drop the duration. x265 leaves the DTS of clips with fewer frames than its delay uninitialised; such
        clips have no reordered frames, so the PTS is right. A true DTS is not further from the start than the clip is
        long.
        """
        if packet.pts not in self._pending:
            raise RuntimeError(f"the encoder returned PTS {packet.pts}, which it was not given or has returned before")
        packet.stream = self.stream
        packet.duration = self._pending.pop(packet.pts)
        earliest = 2 * (self._first_pts or 0) - self._last_pts
        if packet.dts is None or not earliest <= packet.dts <= packet.pts:
            packet.dts = packet.pts
        return packet


def _enlarged(matrix: tuple[int, ...], factor: float) -> tuple[int, ...]:
    """A display matrix for a picture `factor` times as large: its translation is counted in pixels."""
    return (*matrix[:6], round(matrix[6] * factor), round(matrix[7] * factor), matrix[8])
