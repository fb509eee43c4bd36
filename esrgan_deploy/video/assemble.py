"""The finished file: the packets of all segments between copies of everything else."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from esrgan_deploy.errors import OutputError
from esrgan_deploy.video.encode import EncoderSettings, add_stream
from esrgan_deploy.video.passthrough import FORMATS, Passthrough, Span, copy_tags, due_s, set_back, start_of_clock
from esrgan_deploy.video.probe import VideoInfo
from esrgan_deploy.video.reading import KEEP_TAG_BYTES, fraction, open_clip
from esrgan_deploy.video.segments import SegmentRecord, read_packets
from esrgan_deploy.video.timeline import closing_duration, decoding_times


def check_header(target: Path, info: VideoInfo, settings: EncoderSettings) -> None:
    """Refuse before the first frame what could not be written at the end: the header is made, and thrown away.

    Raises:
        OptionError: a quality that the encoder does not know.
        OutputError: the format cannot hold the codec, the pixel shape or one of the source's streams.
        MediaError: the encoder does not take frames of this size.
    """
    with _opened(target, info, settings, Span(), into=io.BytesIO()):
        pass


def assemble(
    path: Path,
    info: VideoInfo,
    settings: EncoderSettings,
    segments: Sequence[tuple[Path, SegmentRecord]],
    span: Span,
) -> None:
    """Write a file with the picture of all segments, and every other stream of the source.

    The same segments and the same source give the same bytes.

    Args:
        path: the file; its suffix, a key of `FORMATS`, chooses the format.
        info: of the source.
        settings: that the segments were encoded with.
        segments: all of them in order, at least one frame among them.
        span: the part of the source that they cover.

    Raises:
        OutputError: segments of different encoders; see also `check_header`.
    """
    with _opened(path, info, settings, span) as output:
        header = bytes(output.stream.codec_context.extradata or b"").hex()
        for packets, record in segments:
            if record.frames and record.header != header:
                raise OutputError(
                    f"{packets}: was encoded by another version of {settings.codec}; delete {packets.parent} and begin "
                    "anew"
                )
        output.write(segments)


class _Output:
    """A file whose header is written."""

    def __init__(
        self,
        container: OutputContainer,
        stream: VideoStream,
        passthrough: Passthrough,
        time_base: Fraction,
        start_s: Fraction,
    ) -> None:
        self.stream = stream
        self._time_base = time_base
        self._container = container
        self._passthrough = passthrough
        self._start_s = start_s

    def write(self, segments: Sequence[tuple[Path, SegmentRecord]]) -> None:
        """Write all packets, those of other streams before the pictures that they belong to."""
        for packet in _timed(segments, self.stream, self._time_base):
            set_back(packet, self._start_s)
            self._passthrough.copy_until(due_s(packet))
            self._container.mux(packet)
        self._passthrough.copy_rest()
        self._container.close()


def _timed(
    segments: Sequence[tuple[Path, SegmentRecord]], stream: VideoStream, time_base: Fraction
) -> Iterator[Packet[VideoStream]]:
    pts = [time for _, record in segments for time in record.pts]
    durations = [duration for _, record in segments for duration in record.durations]
    dts = decoding_times(pts)
    durations[-1] = closing_duration(pts, dts, durations)
    packets = (packet for path, record in segments for packet in read_packets(path, record))
    for packet, time, duration in zip(packets, dts, durations, strict=True):
        packet.dts, packet.duration, packet.time_base = time, duration, time_base
        packet.stream = stream
        yield packet


@contextlib.contextmanager
def _opened(
    path: Path, info: VideoInfo, settings: EncoderSettings, span: Span, into: io.BytesIO | None = None
) -> Iterator[_Output]:
    """Create a file with a header for the picture of a clip in another size, and for all other streams of the clip."""
    name = FORMATS[path.suffix.lower()]
    with open_clip(info.path, info.protocols) as source:
        # "bitexact" keeps random numbers out of Matroska, so that the same run gives the same bytes.
        options = {"fflags": "+bitexact"} if name == "matroska" else {"movie_timescale": _movie_timescale(source, info)}
        container = av.open(into or f"file:{path}", "w", format=name, container_options=options, **KEEP_TAG_BYTES)
        try:
            _refuse_pixel_shape(name, info, settings)
            stream = add_stream(container, settings, info)
            copy_tags(source.streams[info.stream], stream)
            start_s = span.start_s or start_of_clock(source)
            passthrough = Passthrough(source, container, info, start_s, span)
            _start(container, info, settings.codec)
            yield _Output(container, stream, passthrough, info.time_base, start_s)
        except OSError as error:
            if isinstance(error, FFmpegError):  # reading maps its own, so this was a write
                raise OSError(error.errno, error.strerror) from error
            raise
        finally:
            # After an error the file is thrown away, so a trailer that does not fit on the disk is no second error.
            with contextlib.suppress(FFmpegError):
                container.close()


def _refuse_pixel_shape(name: str, info: VideoInfo, settings: EncoderSettings) -> None:
    if settings.codec == "av1" and name == "matroska" and info.sample_aspect != 1:
        raise OutputError(
            f"{info.path}: its pixels are {info.sample_aspect} as wide as high, which FFmpeg does "
            "not write for AV1 in Matroska; write .mp4, or choose h264 or h265"
        )


def _start(container: OutputContainer, info: VideoInfo, codec: str) -> None:
    try:
        container.start_encoding()
    except OSError:
        raise
    except FFmpegError as error:
        raise OutputError(
            f"{info.path}: {codec} and its other streams ({', '.join(info.others) or 'none'}) do not fit into "
            f"{container.format.name} together: {error.strerror}; write .mkv"
        ) from error


def _movie_timescale(source: InputContainer, info: VideoInfo) -> str:
    """Units per second in which MP4 counts the delays of its tracks.

    FFmpeg's default of 1000 would round the first time stamp of the picture against the sound. The finest scale whose
    duration still fits into 32 bits is taken, since players are careless about the 64 bit form.
    """
    every = math.lcm(
        *(fraction(stream.time_base).denominator for stream in (*source.streams.video, *source.streams.audio))
    )
    for scale in (every, info.time_base.denominator):
        if scale * max(1.0, info.duration_s or 0.0) < 2**31:
            return str(scale)
    return "1000"
