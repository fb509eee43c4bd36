"""Write the finished file: the packets of all segments, and copies of all other streams of the source."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import AttachmentStream, Discard, Stream
from av.video.stream import VideoStream

from esrgan_deploy.errors import MediaError, OutputError
from esrgan_deploy.system.paths import file_url
from esrgan_deploy.video.info import VideoInfo
from esrgan_deploy.video.output.encode import EncoderSettings, add_stream
from esrgan_deploy.video.output.segment_file import SegmentFile, read_packets
from esrgan_deploy.video.output.timestamps import closing_duration, decoding_times
from esrgan_deploy.video.source.container import KEEP_TAG_BYTES, open_again
from esrgan_deploy.video.source.open import cover_art, ffmpeg, fraction, is_cover
from esrgan_deploy.watchdog import moved

if TYPE_CHECKING:
    from av.container.core import Chapter

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Suffix of the output -> FFmpeg's name of the format. They keep time stamps of any spacing, as AVI does not."""
_FILE_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands"}
_OLD_VIDEO_TAGS = {"encoder", "duration", "bps", "number_of_frames", "number_of_bytes"}
"""Tags, in lower case, that describe the source file or its video stream and are not copied; muxers write their own."""


@dataclass(frozen=True)
class Span:
    """The part of a clip that is wanted, in seconds by its own time stamps."""

    start_s: Fraction = Fraction(0)
    """Becomes 0 in the output, and nothing before it is copied; 0: everything is copied."""
    end_s: Fraction | None = None
    """None: the end of the clip."""
    stop_quietly: bool = False
    """True: a stream that cannot be read any more ends without an error, since the clip is known to be damaged."""


def check_header(target: Path, info: VideoInfo, settings: EncoderSettings) -> None:
    """Refuse before the first frame what could not be written at the end, by writing the header into memory.

    Raises:
        OptionError: a quality out of the encoder's range.
        OutputError: the format cannot hold the codec, the pixel shape or one of the source's streams.
        MediaError: the encoder does not take frames of this size.
    """
    try:
        with _opened(target, info, settings, Span(), into=io.BytesIO()):
            pass
    except OSError as error:  # memory does not fail, so it is FFmpeg's word for what it cannot copy
        raise OutputError(
            f"{info.path}: what it carries beside the video ({', '.join(info.others) or 'tags'}) cannot be written: "
            f"{error.strerror}; make a copy of the video alone: {ffmpeg(info.path, f'-map 0:{info.stream} -c copy')}"
        ) from error


def mux(
    path: Path,
    info: VideoInfo,
    settings: EncoderSettings,
    segments: Sequence[SegmentFile],
    span: Span,
) -> None:
    """Write a file with the video of all segments, and every other stream of the source.

    The same segments and the same source give the same bytes.

    Args:
        path: its suffix, a key of `FORMATS`, chooses the format.
        info: of the source.
        settings: that the segments were encoded with.
        segments: all of them in order, with at least one frame.
        span: the part of the source that they cover.

    Raises:
        OutputError: segments of different encoders; see also `check_header`.
    """
    with _opened(path, info, settings, span) as output:
        header = bytes(output.stream.codec_context.extradata or b"").hex()
        for segment in segments:
            if segment.record.frames and segment.record.header != header:
                raise OutputError(
                    f"{segment.path}: comes from another version of {settings.codec}; "
                    f"delete {segment.path.parent} to start over"
                )
        output.write(segments)


@contextlib.contextmanager
def _opened(
    path: Path, info: VideoInfo, settings: EncoderSettings, span: Span, into: io.BytesIO | None = None
) -> Iterator[_Output]:
    """Create a file, or write `into` memory, with a header for the upscaled video and all other streams of a clip."""
    name = FORMATS[path.suffix.lower()]
    _refuse_pixel_shape(name, info, settings)
    covers = cover_art(info) if name == "matroska" else {}
    with open_again(info) as source:
        container = av.open(into or file_url(str(path)), "w", format=name, **KEEP_TAG_BYTES)
        try:
            stream = add_stream(container, settings, info)
            _copy_tags(source.streams[info.stream], stream)
            start_s = span.start_s or _start_of_clock(source)
            stream_copy = _StreamCopy(source, container, info, start_s, span, covers)
            _write_header(container, source, info, settings.codec)
            yield _Output(container, stream, stream_copy, info.time_base, start_s)
        except OSError as error:
            if isinstance(error, FFmpegError):  # of a write: errors of reading are mapped to MediaError
                raise OSError(error.errno, error.strerror) from error
            raise
        except FFmpegError as error:  # of a packet that waited for its turn
            raise _unwritten(info, f"its packets do not fit into {name}", error) from error
        finally:
            # After an error the file is removed, so it does not matter that its end cannot be written either.
            with contextlib.suppress(FFmpegError):
                container.close()


def _refuse_pixel_shape(name: str, info: VideoInfo, settings: EncoderSettings) -> None:
    if settings.codec == "av1" and name == "matroska" and info.sample_aspect != 1:
        raise OutputError(
            f"{info.path}: its pixels are {info.sample_aspect} as wide as high, which FFmpeg does "
            "not write for AV1 in Matroska; write .mp4, or choose h264 or h265"
        )


def _write_header(container: OutputContainer, source: InputContainer, info: VideoInfo, codec: str) -> None:
    if container.format.name == "matroska":
        # Without it Matroska holds random numbers, and no two runs would give the same bytes.
        container.container_options["fflags"] = "+bitexact"
    else:
        container.container_options["movie_timescale"] = _movie_timescale(source, info)
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
    """Units per second in which MP4 states the delays of its tracks.

    FFmpeg's default of 1000 would round the delay between video and sound. Durations have to fit into 32 bits, since
    many players misread the 64 bit form.
    """
    exact = math.lcm(
        *(fraction(stream.time_base).denominator for stream in (*source.streams.video, *source.streams.audio))
    )
    for scale in (exact, info.time_base.denominator):
        if scale * max(1.0, info.duration_s or 0.0) < 2**31:
            return str(scale)
    return "1000"


def _start_of_clock(source: InputContainer) -> Fraction:
    """Seconds that are taken off all time stamps: the first time stamp of MPEG streams, 0 for other formats.

    The clock of a broadcast starts anywhere, often hours after zero. All its time stamps have the same unit, so the
    difference is exact. In other formats the author chose where the clip starts.
    """
    if source.format.name not in ("mpegts", "mpeg", "hls"):
        return Fraction(0)
    starts = [
        stream.start_time * fraction(stream.time_base) for stream in source.streams if stream.start_time is not None
    ]
    return min(starts, default=Fraction(0))


@dataclass
class _Output:
    """A file whose header is written."""

    container: OutputContainer
    stream: VideoStream
    stream_copy: _StreamCopy
    time_base: Fraction
    start_s: Fraction

    def write(self, segments: Sequence[SegmentFile]) -> None:
        """Write all packets in the order of their times, those of other streams before the video's."""
        for packet in _timed(segments, self.stream, self.time_base):
            _set_back(packet, self.start_s)
            self.stream_copy.copy_until(_due_s(packet))
            moved()
            self.container.mux(packet)
        self.stream_copy.copy_rest()
        self.container.close()


def _timed(segments: Sequence[SegmentFile], stream: VideoStream, time_base: Fraction) -> Iterator[Packet[VideoStream]]:
    """The packets of all segments, ready to be written to `stream`."""
    pts = [time for segment in segments for time in segment.record.pts]
    durations = [duration for segment in segments for duration in segment.record.durations]
    dts = decoding_times(pts)
    durations[-1] = closing_duration(pts, dts, durations)
    packets = (packet for segment in segments for packet in read_packets(segment))
    for packet, time, duration in zip(packets, dts, durations, strict=True):
        packet.dts, packet.duration, packet.time_base = time, duration, time_base
        packet.stream = stream
        yield packet


class _StreamCopy:
    """Copies every stream but the video from a source to an output container, with chapters and tags.

    The source is read again for this at the end, so that packets need not wait in memory for upscaled frames.
    """

    def __init__(
        self,
        source: InputContainer,
        output: OutputContainer,
        info: VideoInfo,
        start_s: Fraction,
        span: Span,
        covers: Mapping[int, bytes],
    ) -> None:
        """Add streams, chapters and tags of `source` to `output`, whose header is not written yet.

        `start_s` is taken off all time stamps. `covers` is the result of `cover_art`, needed for Matroska only.

        Raises:
            OutputError: the output format cannot hold one of them; formats that can are named.
        """
        self._output = output
        self._info = info
        self._start_s = start_s
        self._span = span
        self._targets: dict[int, Stream] = {}
        for stream in source.streams:
            if stream.index != info.stream and not _is_made_by_muxers(stream):
                self._add(stream, covers)
        output.metadata.update({key: value for key, value in source.metadata.items() if key.lower() not in _FILE_TAGS})
        output.set_chapters(_chapters_within(source.chapters(), span))
        self._packets = self._read(source)
        self._next = next(self._packets, None)

    def copy_until(self, time_s: Fraction) -> None:
        """Write the packets that are due at `time_s` or before."""
        while self._next is not None and _due_s(self._next) <= time_s:
            self._copy(self._next)
            self._next = next(self._packets, None)

    def copy_rest(self) -> None:
        """Write all packets that are left."""
        while self._next is not None:
            self._copy(self._next)
            self._next = next(self._packets, None)

    def _copy(self, packet: Packet[Stream]) -> None:
        time_s = float(_due_s(packet))
        try:
            self._output.mux(packet)
        except FFmpegError as error:
            if isinstance(error, OSError):
                raise
            if not self._span.stop_quietly:  # damage is said anyway
                raise _unwritten(self._info, f"its sound or subtitles at {time_s:.2f} s are damaged", error) from error

    def _add(self, stream: Stream, covers: Mapping[int, bytes]) -> None:
        name = self._output.format.name
        if not _holds(name, stream):
            path = self._info.path
            able = [suffix for suffix, other in FORMATS.items() if _holds(other, stream)]
            other = f"-map 0 -map -0:{stream.index} -c copy"
            if stream.type == "audio":
                other = f"-map 0 -c copy -c:{stream.index} flac"
            remedy = f"write {' or '.join(able)}" if able else f"make a copy with what fits: {ffmpeg(path, other)}"
            raise OutputError(
                f"{path}: its stream {stream.index} ({stream.type}, {_codec_of(stream)}) does not fit into {name}; "
                f"{remedy}"
            )
        if name == "matroska" and is_cover(stream):
            # Matroska keeps cover art as an attached file, other formats as a video stream of one packet.
            suffix, kind = ("png", "image/png") if stream.name == "png" else ("jpg", "image/jpeg")
            tags, picture = stream.metadata, covers[stream.index]
            self._output.add_attachment(tags.get("filename", f"cover.{suffix}"), tags.get("mimetype", kind), picture)
        elif isinstance(stream, AttachmentStream):
            self._output.add_stream_from_template(stream)
        else:
            self._targets[stream.index] = self._output.add_stream_from_template(stream, opaque=True)
            _copy_tags(stream, self._targets[stream.index])

    def _read(self, source: InputContainer) -> Iterator[Packet[Stream]]:
        if not self._targets:
            return  # an empty list would mean all streams to `demux`
        end = Fraction(0)
        try:
            for packet in source.demux([source.streams[index] for index in self._targets]):
                moved()
                if not packet.size:
                    continue  # the demuxer's sign that a stream has ended
                end = max(end, _due_s(packet))
                if packet.dts is None and packet.pts is None:
                    packet.pts = packet.dts = 0  # cover art has no time
                elif not self._is_wanted(packet):
                    continue
                else:
                    _set_back(packet, self._start_s)
                packet.stream = self._targets[packet.stream.index]
                yield packet
        except FFmpegError as error:
            if self._span.stop_quietly:
                return
            raise MediaError(
                f"{self._info.path}: sound or subtitles cannot be read after {float(end):.2f} s: {error.strerror}; "
                "get a whole copy"
            ) from error

    def _is_wanted(self, packet: Packet[Any]) -> bool:
        time_s = (packet.pts if packet.pts is not None else packet.dts or 0) * fraction(packet.time_base)
        span = self._span
        return (not span.start_s or time_s >= span.start_s) and (span.end_s is None or time_s < span.end_s)


def _unwritten(info: VideoInfo, what: str, error: FFmpegError) -> MediaError:
    """The error for packets that a muxer refuses: damaged sound, or times further apart than the format can say."""
    return MediaError(
        f"{info.path}: {what}: {error.strerror}; write .mkv, get a whole copy, or one that hides it: "
        f"{ffmpeg(info.path, '-crf 10 -c:a flac')}"
    )


def _chapters_within(chapters: Sequence[Chapter], span: Span) -> list[Chapter]:
    """Those that begin before the end of the span and end after its start, on the clock of the output."""
    moved: list[Chapter] = []
    for chapter in chapters:
        unit = fraction(chapter["time_base"])
        start_s, end_s = chapter["start"] * unit - span.start_s, chapter["end"] * unit - span.start_s
        length_s = None if span.end_s is None else span.end_s - span.start_s
        if end_s > 0 and (length_s is None or start_s < length_s):
            end_s = end_s if length_s is None else min(end_s, length_s)
            moved.append({**chapter, "start": round(max(start_s, Fraction(0)) / unit), "end": round(end_s / unit)})
    return moved


def _copy_tags(source: Stream, target: Stream) -> None:
    """Give `target` the tags (language, title ...) and the disposition of `source`."""
    stale = _OLD_VIDEO_TAGS if source.type == "video" else set()
    for key, value in source.metadata.items():
        if key.lower() not in stale and not key.startswith("_STATISTICS"):
            target.metadata[key] = value
    target.disposition = source.disposition


def _codec_of(stream: Stream) -> str:
    """FFmpeg's name, if it knows the codec."""
    return getattr(stream, "name", None) or "of an unknown codec"


def _is_made_by_muxers(stream: Stream) -> bool:
    """True for data tracks that the muxer writes itself: MP4's chapter titles and time code."""
    return stream.type == "data" and (stream.discard == Discard.all or "timecode" in stream.metadata)


def _holds(format_name: str, stream: Stream) -> bool:
    """True if the format can hold a copy of `stream`."""
    if stream.type == "data":
        return False
    if stream.type == "attachment" or (is_cover(stream) and format_name == "matroska"):
        return format_name == "matroska"
    try:
        with av.open(io.BytesIO(), "w", format=format_name) as trial:
            trial.add_stream_from_template(stream, opaque=True)
    except ValueError:  # no tag for this codec
        return False
    return True


def _set_back(packet: Packet[Any], start_s: Fraction) -> None:
    """Take `start_s` off the time stamps of `packet`."""
    units = round(start_s / fraction(packet.time_base))
    packet.pts = None if packet.pts is None else packet.pts - units
    packet.dts = None if packet.dts is None else packet.dts - units


def _due_s(packet: Packet[Any]) -> Fraction:
    """The time, in seconds, by which packets of all streams are put in order."""
    time = packet.dts if packet.dts is not None else packet.pts
    return (time or 0) * fraction(packet.time_base)
