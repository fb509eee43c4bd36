"""Encode frames into packets of a video stream, with the depth, colours and times of the source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast

import av
from av.codec.context import Flags
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from esrgan_deploy.errors import MediaError, OptionError, OutputError
from esrgan_deploy.video.info import (
    DEPTHS,
    FULL_RANGE,
    LIMITED_RANGE,
    SUBSAMPLINGS,
    Colour,
    Samples,
    StaticHdr,
    VideoInfo,
)
from esrgan_deploy.video.output.hdr import with_hdr

# SVT-AV1 writes its banner to stderr unless told not to, and can be told in no other way.
os.environ.setdefault("SVT_LOG", "1")

Y4M = "y4m"
"""Stands beside the keys of `CODECS` for uncompressed frames in a pipe."""


@dataclass(frozen=True)
class Codec:
    """An encoder of FFmpeg and its options: constant quality, at a speed that leaves the CPU to the network.

    The number of threads is fixed, whatever the machine has, where the packets depend on it: a file that is made by
    several runs, or on several machines, is the same file.
    """

    encoder: str
    quality: int
    """Default of the constant rate factor: lower is better and larger."""
    worst_quality: int
    """The largest rate factor that the encoder takes; the smallest is 0."""
    bits: int
    """Per sample, at most."""
    subsamplings: tuple[str, ...] = ("420", "422", "444")
    odd_sizes: bool = False
    """True: takes subsampled chroma with an odd width or height; H.264 and H.265 cannot crop half a chroma sample."""
    options: Mapping[str, str] = field(default_factory=dict)
    mp4_tag: str | None = None
    """Tag in MP4 and MOV where Apple's players want another one than FFmpeg's default."""


CODECS: Mapping[str, Codec] = {
    "h264": Codec("libx264", 16, 51, bits=10, options={"preset": "superfast", "threads": "8"}),
    "h265": Codec(
        "libx265",
        18,
        51,
        bits=12,
        options={"preset": "superfast", "x265-params": "log-level=none:frame-threads=3:pools=8"},
        mp4_tag="hvc1",
    ),
    "av1": Codec("libsvtav1", 22, 63, bits=10, subsamplings=("420",), odd_sizes=True, options={"preset": "10"}),
}
"""Encoders by the names that users know.

Measured on 1280x720: 17, 110 and 27 ms of CPU per frame, 46, 44 and 42 dB. x264's next slower preset, "veryfast", took
30 ms for files a fifth smaller at the same PSNR: on a CPU that also runs the network, those cycles are frames."""

_UNCOMPRESSED = Codec("rawvideo", 0, 0, bits=12, odd_sizes=True)


@dataclass(frozen=True)
class FrameToEncode:
    """A frame for the encoder. Several may share one VideoFrame, so its own time stamp says nothing."""

    frame: VideoFrame
    pts: int
    """In units of the source's time base, as is the duration."""
    duration: int
    segment: int
    repeated: bool
    """True: the same VideoFrame as before."""


@dataclass(frozen=True)
class EncoderSettings:
    """What an encoder has to know before the first frame; the same settings give the same packets."""

    codec: str
    """A key of `CODECS`, or `Y4M`."""
    quality: int | None
    """Constant rate factor; None: the codec's default."""
    width: int
    height: int
    pixel_format: str
    frame_rate: Fraction
    time_base: Fraction
    colour: Colour
    """See `Colour.resolved`."""
    chroma_location: str
    """Where subsampled chroma sits: a key of `chroma.LOCATIONS`."""
    hdr: StaticHdr | None
    """Of the source."""
    sample_aspect: Fraction

    def options(self) -> dict[str, str]:
        """Private options of the encoder.

        Raises:
            OptionError: a rate factor out of the encoder's range.
        """
        codec = CODECS[self.codec]
        quality = codec.quality if self.quality is None else self.quality
        if not 0 <= quality <= codec.worst_quality:
            raise OptionError(
                f"quality {quality} is out of range; {codec.encoder} takes 0 (best) to {codec.worst_quality}"
            )
        options = {**codec.options, "crf": str(quality)}
        if self.pixel_format.startswith("yuv420"):
            options["chroma_sample_location"] = self.chroma_location
        return with_hdr(codec.encoder, options, self.hdr)


def encoder_settings(
    info: VideoInfo, size: tuple[int, int], codec: str | None = None, quality: int | None = None
) -> EncoderSettings:
    """How the frames of a clip are encoded in another size: tags, times and depth stay.

    Args:
        info: of the clip.
        size: (height, width) of the output.
        codec: a key of `CODECS`, or `Y4M`; None: see `default_codec`.
        quality: constant rate factor; None: the codec's default.

    Raises:
        OutputError: the codec cannot hold the depth or the subsampling of the source.
    """
    codec = codec or default_codec(info)
    height, width = size
    return EncoderSettings(
        codec=codec,
        quality=quality,
        width=width,
        height=height,
        pixel_format=output_pixel_format(info, codec, height, width),
        frame_rate=info.frame_rate,
        time_base=info.time_base,
        colour=info.colour.resolved(info.width, info.height),
        chroma_location=info.chroma_location,
        hdr=info.hdr,
        sample_aspect=info.sample_aspect,
    )


def default_codec(info: VideoInfo) -> str:
    """The key of `CODECS` for a clip when nobody chose: H.264 plays everywhere, its 10 bit profile nearly nowhere."""
    return "h264" if info.bits <= 8 else "h265"


def output_pixel_format(info: VideoInfo, codec: str, height: int, width: int) -> str:
    """The pixel format that keeps depth and subsampling of a source.

    RGB and grey become 4:2:0; 4:1:0, 4:1:1 and 4:4:0 become 4:4:4. A depth that encoders do not know is raised to the
    next one of `DEPTHS`. Odd sizes of the output become 4:4:4 where the encoder needs that.

    Raises:
        OutputError: the codec cannot hold that; the message names one that can.
    """
    samples = info.samples
    bits = next(depth for depth in DEPTHS if depth >= samples.bits)
    subsampling = samples.subsampling if samples.family == "yuv" else "420"

    def fitted(codec: Codec) -> str | None:
        cut = width % 2 or (height % 2 and subsampling == "420")
        wanted = subsampling if codec.odd_sizes or subsampling == "444" or not cut else "444"
        return wanted if wanted in codec.subsamplings and bits <= codec.bits else None

    chosen = fitted(_UNCOMPRESSED if codec == Y4M else CODECS[codec])
    if chosen is None:
        others = " or ".join(name for name, other in CODECS.items() if fitted(other))
        raise OutputError(
            f"{info.path}: has {bits} bits in {':'.join(subsampling)}, which {codec} cannot hold; "
            f"choose the codec {others}"
        )
    return Samples("yuv", bits, *next(ratio for ratio, name in SUBSAMPLINGS.items() if name == chosen)).planar


class SegmentEncoder:
    """Encodes the frames of one segment. The first packet is a key frame, and none refers to another segment."""

    def __init__(self, settings: EncoderSettings) -> None:
        """Open the encoder.

        Raises:
            OptionError: a rate factor out of the encoder's range.
            MediaError: it does not take frames of this size.
        """
        self._time_base = settings.time_base
        self._durations: dict[int, int] = {}
        """PTS -> duration of the frames that were sent and have not come back."""
        encoder = CODECS[settings.codec].encoder
        self._context = cast("VideoCodecContext", av.CodecContext.create(encoder, "w"))
        self._context.flags |= Flags.global_header
        self._context.framerate = settings.frame_rate
        configure(self._context, settings)
        open_encoder(self._context, settings)

    @property
    def header(self) -> bytes:
        """What a decoder needs before the first packet."""
        return bytes(self._context.extradata or b"")

    def encode(self, frame: VideoFrame, pts: int, duration: int) -> Iterator[Packet[VideoStream]]:
        """Send one frame; the packets that are ready, none at first. Times are in units of the source's time base."""
        frame.pts, frame.time_base = pts, self._time_base
        self._durations[pts] = duration
        return self._receive(self._context.encode(frame))

    def flush(self) -> Iterator[Packet[VideoStream]]:
        """The packets that the encoder still holds.

        Raises:
            RuntimeError: a frame has not come back.
        """
        yield from self._receive(self._context.encode(None))
        if self._durations:
            raise RuntimeError(f"the encoder kept {len(self._durations)} frames, one has PTS {min(self._durations)}")

    def _receive(self, packets: list[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
        for packet in packets:
            if packet.pts not in self._durations:
                raise RuntimeError(f"the encoder returned PTS {packet.pts}, not sent to it or returned before")
            packet.duration = self._durations.pop(packet.pts)  # encoders do not hand it on
            yield packet


def add_stream(container: OutputContainer, settings: EncoderSettings, info: VideoInfo) -> VideoStream:
    """Add a video stream for packets of `SegmentEncoder` to a container whose header is not written.

    Raises:
        OptionError: a rate factor out of the encoder's range.
        MediaError: it does not take frames of this size.
    """
    codec = CODECS[settings.codec]
    stream = cast("VideoStream", container.add_stream(codec.encoder, rate=settings.frame_rate))
    configure(stream.codec_context, settings)
    if codec.mp4_tag and container.format.name in ("mp4", "mov"):
        stream.codec_context.codec_tag = codec.mp4_tag
    if info.display_matrix:
        stream.set_display_matrix(_enlarged(info.display_matrix, settings.width / info.width))
    elif info.rotation:
        stream.set_display_rotation(info.rotation)
    open_encoder(stream.codec_context, settings)
    return stream


def configure(context: VideoCodecContext, settings: EncoderSettings) -> None:
    """Tell an encoder that is not open yet what the frames are."""
    context.width, context.height, context.pix_fmt = settings.width, settings.height, settings.pixel_format
    context.time_base = settings.time_base
    context.sample_aspect_ratio = settings.sample_aspect
    context.colorspace = settings.colour.matrix
    context.color_range = FULL_RANGE if settings.colour.full_range else LIMITED_RANGE
    context.color_primaries = settings.colour.primaries
    context.color_trc = settings.colour.transfer


def open_encoder(context: VideoCodecContext, settings: EncoderSettings) -> None:
    """Open an encoder that is configured.

    Raises:
        OptionError: a rate factor out of the encoder's range.
        MediaError: it does not take frames of this size.
    """
    context.options = settings.options()
    try:
        context.open()
    except FFmpegError as error:
        raise MediaError(
            f"{settings.codec} cannot encode frames of {settings.width}x{settings.height} {settings.pixel_format}; "
            "choose another codec or a smaller scale"
        ) from error


def _enlarged(matrix: tuple[int, ...], factor: float) -> tuple[int, ...]:
    """A display matrix for frames `factor` times as large: its translation is counted in pixels."""
    return (*matrix[:6], round(matrix[6] * factor), round(matrix[7] * factor), matrix[8])
