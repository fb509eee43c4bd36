"""What is copied as it is: sound, subtitles, cover art, attachments, chapters and tags."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import AttachmentStream, Discard, Disposition, Stream

from esrgan_deploy.errors import MediaError, OutputError
from esrgan_deploy.video.probe import VideoInfo
from esrgan_deploy.video.reading import ffmpeg, fraction, open_clip

if TYPE_CHECKING:
    from av.container.core import Chapter

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Output suffix -> FFmpeg's format. They keep time stamps of any spacing, which others (AVI, for one) do not."""
_FILE_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands"}
_OLD_VIDEO_TAGS = {"encoder", "duration", "bps", "number_of_frames", "number_of_bytes"}
"""Tags, in lower case, that are true of the old file or the old video stream only; muxers write their own."""


@dataclass(frozen=True)
class Span:
    """The part of a clip that is wanted, in seconds of its own clock."""

    start_s: Fraction = Fraction(0)
    """What the output's clock calls zero; nothing before it is copied, unless it is 0."""
    end_s: Fraction | None = None
    """None: the end of the clip."""
    stop_quietly: bool = False
    """True: where a stream cannot be read any more, its copy ends; the clip is known to be damaged."""


class Passthrough:
    """Copies every stream but the picture from a source to an output container, packet for packet.

    The source is read a second time for this, so that packets need not wait in memory for the pictures around them.
    """

    def __init__(
        self, source: InputContainer, output: OutputContainer, info: VideoInfo, start_s: Fraction, span: Span
    ) -> None:
        """Add streams, chapters and tags of `source` to `output`, whose header is not written yet.

        Args:
            source: the clip, at its beginning.
            output: where to.
            info: of the clip.
            start_s: what is taken off all time stamps: the start of the span, and see `start_of_clock`.
            span: the part to copy.

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
                self._add(stream)
        output.metadata.update({key: value for key, value in source.metadata.items() if key.lower() not in _FILE_TAGS})
        output.set_chapters(_chapters_within(source.chapters(), span))
        self._packets = self._read(source)
        self._next = next(self._packets, None)

    def copy_until(self, time_s: Fraction) -> None:
        """Write the packets that are due at `time_s` or before."""
        while self._next is not None and due_s(self._next) <= time_s:
            self._output.mux(self._next)
            self._next = next(self._packets, None)

    def copy_rest(self) -> None:
        """Write all packets that are left."""
        while self._next is not None:
            self._output.mux(self._next)
            self._next = next(self._packets, None)

    def _add(self, stream: Stream) -> None:
        name = self._output.format.name
        if not _holds(name, stream):
            path = self._info.path
            able = [suffix for suffix, other in FORMATS.items() if _holds(other, stream)]
            other = f"-map 0 -map -0:{stream.index} -c copy"
            if stream.type == "audio":
                other = f"-map 0 -c copy -c:{stream.index} flac"
            remedy = f"write {' or '.join(able)}" if able else f"make a copy with what fits: {ffmpeg(path, other)}"
            raise OutputError(
                f"{path}: its stream {stream.index} ({stream.type}, {stream.name}) does not fit into {name}; {remedy}"
            )
        if name == "matroska" and _is_cover(stream):
            self._add_cover_as_attachment(stream)
        elif isinstance(stream, AttachmentStream):
            self._output.add_stream_from_template(stream)
        else:
            self._targets[stream.index] = self._output.add_stream_from_template(stream, opaque=True)
            copy_tags(stream, self._targets[stream.index])

    def _add_cover_as_attachment(self, stream: Stream) -> None:
        """Matroska keeps cover art as an attached file, other formats as a video stream of one packet."""
        suffix, kind = ("png", "image/png") if stream.name == "png" else ("jpg", "image/jpeg")
        with open_clip(self._info.path, self._info.protocols) as again:
            picture = next(again.demux(again.streams[stream.index]))
        tags = stream.metadata
        self._output.add_attachment(tags.get("filename", f"cover.{suffix}"), tags.get("mimetype", kind), bytes(picture))

    def _read(self, source: InputContainer) -> Iterator[Packet[Stream]]:
        if not self._targets:
            return  # an empty list would mean all streams to `demux`
        end = Fraction(0)
        try:
            for packet in source.demux([source.streams[index] for index in self._targets]):
                if not packet.size:
                    continue  # the demuxer's sign that a stream has ended
                end = max(end, due_s(packet))
                if packet.dts is None and packet.pts is None:
                    packet.pts = packet.dts = 0  # cover art has no time
                elif not self._is_wanted(packet):
                    continue
                else:
                    set_back(packet, self._start_s)
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


def copy_tags(source: Stream, target: Stream) -> None:
    """Give `target` the tags (language, title ...) and the disposition of `source`."""
    stale = _OLD_VIDEO_TAGS if source.type == "video" else set()
    for key, value in source.metadata.items():
        if key.lower() not in stale and not key.startswith("_STATISTICS"):
            target.metadata[key] = value
    target.disposition = source.disposition


def _is_made_by_muxers(stream: Stream) -> bool:
    """True for the data tracks that a muxer writes by itself: MP4's chapter titles and time code."""
    return stream.type == "data" and (stream.discard == Discard.all or "timecode" in stream.metadata)


def _is_cover(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _holds(format_name: str, stream: Stream) -> bool:
    """True if the format can hold a copy of `stream`."""
    if stream.type == "data":
        return False
    if stream.type == "attachment" or (_is_cover(stream) and format_name == "matroska"):
        return format_name == "matroska"
    try:
        with av.open(io.BytesIO(), "w", format=format_name) as trial:
            trial.add_stream_from_template(stream, opaque=True)
    except ValueError:  # no tag for this codec
        return False
    return True


def start_of_clock(source: InputContainer) -> Fraction:
    """Seconds that are taken off all time stamps: 0 but for MPEG streams.

    The clock of a broadcast starts anywhere, often hours after zero. Its time stamps are all counted in the same unit,
    so that taking off the first one is exact. Other formats start where their author wanted them to.
    """
    if source.format.name not in ("mpegts", "mpeg", "hls"):
        return Fraction(0)
    starts = [
        stream.start_time * fraction(stream.time_base) for stream in source.streams if stream.start_time is not None
    ]
    return min(starts, default=Fraction(0))


def set_back(packet: Packet[Any], start_s: Fraction) -> None:
    """Take `start_s` off the time stamps of `packet`."""
    units = round(start_s / fraction(packet.time_base))
    packet.pts = None if packet.pts is None else packet.pts - units
    packet.dts = None if packet.dts is None else packet.dts - units


def due_s(packet: Packet[Any]) -> Fraction:
    """When `packet` belongs into the file, in seconds."""
    time = packet.dts if packet.dts is not None else packet.pts
    return (time or 0) * fraction(packet.time_base)
