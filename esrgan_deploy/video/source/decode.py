"""A clip as decoded pictures with their time stamps, the whole of it or some of its segments."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from esrgan_deploy.errors import MediaError
from esrgan_deploy.video.info import VideoInfo
from esrgan_deploy.video.source.open import (
    check_unchanged,
    cut_off,
    ffmpeg,
    fraction,
    open_clip,
)
from esrgan_deploy.video.source.scan import Scan
from esrgan_deploy.video.source.segments import Segment


@dataclass(frozen=True)
class DecodedFrame:
    """A decoded picture and its place in time."""

    picture: VideoFrame
    """As the decoder gave it, in the clip's pixel format."""
    pts: int
    """Presentation time stamp, in units of the clip's time base."""
    duration: int
    """In units of the clip's time base."""
    segment: int
    """Index of the segment that it belongs to."""


def decoded_frames(info: VideoInfo, scan: Scan, segments: Sequence[Segment]) -> Iterator[DecodedFrame]:
    """Decode every frame of some segments, in display order.

    Args:
        info: of the clip.
        scan: its survey.
        segments: consecutive ones. Decoding begins near the first one, where the container can find it.

    Raises:
        MediaError: the clip is damaged, or changes halfway in a way that cannot be followed; frame and time are named.
    """
    first, last = segments[0], segments[-1]
    position = 0
    whole = set(scan.times) if scan.damage else None
    for picture, pts in _timed(info, scan, first.begin):
        if last.end is not None and pts >= last.end:
            return
        if whole is not None and pts not in whole:
            return  # made of packets behind the damage
        while (bound := segments[position].end) is not None and pts >= bound:
            position += 1
        yield DecodedFrame(picture, pts, picture.duration or info.usual_duration, segments[position].index)


def _timed(info: VideoInfo, scan: Scan, begin: int | None) -> Iterator[tuple[VideoFrame, int]]:
    """Pictures from `begin` on with checked time stamps, found by seeking where that is possible."""
    if begin is not None and (key := _key_before(scan.keys, begin)) is not None:
        pictures = _read(info, scan, lambda clip, stream: clip.seek(key, stream=stream))
        if (start := _first_after(pictures, begin)) is not None:
            yield start
            yield from pictures
            return
    yield from ((picture, pts) for picture, pts in _read(info, scan) if begin is None or pts >= begin)


def _key_before(keys: Sequence[int], begin: int) -> int | None:
    """The key frame before the last one that is not after `begin`: by then all references are there."""
    place = bisect_right(keys, begin) - 2
    return keys[place] if place >= 0 else None


def _first_after(pictures: Iterator[tuple[VideoFrame, int]], begin: int) -> tuple[VideoFrame, int] | None:
    """Skip to the first picture that is not before `begin`; None: seeking has gone wrong, so begin at the start.

    It has gone right if a picture before `begin` was decoded: then the next ones are all there.
    """
    before = False
    try:
        for picture, pts in pictures:
            if pts >= begin:
                return (picture, pts) if before else None
            before = True
    except MediaError:  # a picture whose references lie before the place that was sought
        pass
    return None


def _read(
    info: VideoInfo, scan: Scan, start: Callable[[InputContainer, VideoStream], None] | None = None
) -> Iterator[tuple[VideoFrame, int]]:
    pictures = _checked(info, scan, start)
    return deinterlaced(pictures, info) if info.deinterlace else pictures


def _checked(
    info: VideoInfo, scan: Scan, start: Callable[[InputContainer, VideoStream], None] | None
) -> Iterator[tuple[VideoFrame, int]]:
    """Pictures and their time stamps, which increase.

    Raises:
        MediaError: damage; a picture of another kind than the first one; a time stamp that goes back.
    """
    last: tuple[int, int] | None = None
    for index, picture in enumerate(_pictures(info, scan, start)):
        where = f"{info.path}: frame {index}" if start is None else f"{info.path}: a frame after {last and last[0]}"
        check_unchanged(info, picture, where)
        if scan.by_number:
            pts = scan.times[index] if index < len(scan.times) else scan.times[-1] + info.usual_duration
        elif picture.pts is None:
            pts = sum(last) if last else 0
        else:
            pts = picture.pts
        if last is not None and pts <= last[0]:
            raise MediaError(
                f"{where} has time stamp {pts} after {last[0]} (in {info.time_base} s), so its time is not known; "
                f"make a copy with new ones: {ffmpeg(info.path, '-crf 10 -c:a copy')}"
            )
        last = (pts, picture.duration or info.usual_duration)
        yield picture, pts


def _pictures(
    info: VideoInfo, scan: Scan, start: Callable[[InputContainer, VideoStream], None] | None
) -> Iterator[VideoFrame]:
    """The decoder's output, its errors mapped. All pictures that are shown before the damage come before the error.

    Decoding in threads is quick, but pictures that were on their way are lost with a damaged one, and whether one is
    marked as damaged is left to chance. So at the first doubt the decoder begins again, with one thread, which decides.
    """
    count = 0
    end = Fraction(0)
    for careful in (False, True):
        done = count
        try:
            for picture in islice(_decode(info, start, careful=careful), done, None):
                if picture.is_corrupt:
                    raise av.InvalidDataError(0, "a frame cannot be decoded completely")
                yield picture
                pts = scan.times[min(count, len(scan.times) - 1)] if scan.by_number else picture.pts or 0
                end = (pts + (picture.duration or info.usual_duration)) * info.time_base
                count += 1
            return
        except FFmpegError as error:
            if careful:
                raise cut_off(info.path, None if start else count, end, error.strerror) from error


def _decode(
    info: VideoInfo, start: Callable[[InputContainer, VideoStream], None] | None, *, careful: bool
) -> Iterator[VideoFrame]:
    """Pictures of a clip from `start` on.

    Args:
        info: of the clip.
        start: moves the clip to where decoding begins; None: the beginning.
        careful: use one thread, conceal small errors, and before an error give all pictures that are shown before it;
            False: use many, and take every error seriously.

    Raises:
        FFmpegError: damage.
    """
    with open_clip(info.path, info.protocols) as clip:
        stream = clip.streams[info.stream]
        assert isinstance(stream, VideoStream)
        if careful:
            stream.thread_type = "NONE"
        else:
            stream.thread_type = "AUTO"
            stream.codec_context.options = {"err_detect": "explode"}
        if start:
            start(clip, stream)
        sent = received = 0
        damaged_pts: int | None = None
        try:
            for packet in clip.demux(stream):
                damaged_pts = packet.pts
                if not packet.size and packet.pts is not None:
                    continue  # Theora's way to say that the picture before stays
                pictures = packet.decode()
                sent += bool(packet.size) and not packet.is_discard
                received += len(pictures)
                if not (packet.size or careful) and received < sent:
                    raise av.InvalidDataError(0, "a frame is missing")  # at the end, errors of threads are not reported
                yield from pictures
        except FFmpegError:
            if careful:
                with contextlib.suppress(FFmpegError):
                    for picture in stream.codec_context.decode(None):
                        if damaged_pts is None or picture.pts is None or picture.pts < damaged_pts:
                            yield picture
            raise


def deinterlaced(pictures: Iterable[tuple[VideoFrame, int]], info: VideoInfo) -> Iterator[tuple[VideoFrame, int]]:
    """FFmpeg's bwdif: one picture for each one, at the same time. Pictures marked as progressive stay as they are.

    Args:
        pictures: with their PTS, in units of the clip's time base. A picture depends on its two neighbours.
        info: of the clip.

    Raises:
        MediaError: `pictures` did; all pictures before that have come out.
    """
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add(
            "buffer",
            video_size=f"{info.width}x{info.height}",
            pix_fmt=info.pixel_format,
            time_base=f"{info.time_base.numerator}/{info.time_base.denominator}",
        ),
        graph.add("bwdif", mode="send_frame", deint="interlaced"),
        graph.add("buffersink"),
    )
    graph.configure()
    try:
        for picture, pts in pictures:
            picture.pts, picture.time_base = pts, info.time_base
            graph.vpush(picture)
            yield from _ready(graph, info)
    except MediaError:  # damage; the picture before it is still in the filter
        graph.vpush(None)
        yield from _ready(graph, info)
        raise
    graph.vpush(None)
    yield from _ready(graph, info)


def _ready(graph: av.filter.Graph, info: VideoInfo) -> Iterator[tuple[VideoFrame, int]]:
    while True:
        try:
            picture = graph.vpull()
        except (BlockingIOError, av.error.EOFError):
            return
        # bwdif counts in halves of the time base.
        units = fraction(picture.time_base) / info.time_base
        picture.duration = round(picture.duration * units)
        yield picture, round((picture.pts or 0) * units)
