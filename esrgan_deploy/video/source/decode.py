"""Decode segments of a clip into frames with their time stamps."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import TypeAlias

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from esrgan_deploy.errors import MediaError
from esrgan_deploy.video.info import VideoInfo
from esrgan_deploy.video.source.container import open_again
from esrgan_deploy.video.source.ledger import Ledger, MissingFrameError
from esrgan_deploy.video.source.open import check_unchanged, cut_off, ffmpeg, fraction
from esrgan_deploy.video.source.scan import Scan
from esrgan_deploy.video.source.segments import Segment
from esrgan_deploy.watchdog import moved

LEAST_MOST_PIXELS = 1 << 24
"""Of a frame: every decoder may make this many, whatever the size of the first frame."""
_Start: TypeAlias = Callable[[InputContainer, VideoStream], None]
"""Moves a clip to where decoding begins."""


@dataclass(frozen=True)
class DecodedFrame:
    """A decoded frame and when it is shown."""

    frame: VideoFrame
    """As the decoder gave it, in the clip's pixel format."""
    pts: int
    """In units of the clip's time base."""
    duration: int
    """In units of the clip's time base."""
    segment: int
    """Index of the segment that it belongs to."""


def decoded_frames(info: VideoInfo, scan: Scan, segments: Sequence[Segment]) -> Iterator[DecodedFrame]:
    """Decode every frame of some segments, in display order.

    Args:
        info: of the clip.
        scan: of its packets.
        segments: consecutive ones. Decoding begins near the first one, where the container can be sought.

    Raises:
        MediaError: the clip is damaged, or changes halfway in a way that cannot be followed; frame and time are named.
    """
    first, last = segments[0], segments[-1]
    position = 0
    before_damage = set(scan.times) if scan.damage else None
    for frame, pts in _frames_from(info, scan, first.begin):
        if last.end is not None and pts >= last.end:
            return
        if before_damage is not None and pts not in before_damage:
            return  # made of packets after the damage
        while (bound := segments[position].end) is not None and pts >= bound:
            position += 1
        yield DecodedFrame(frame, pts, frame.duration or info.usual_duration, segments[position].index)


def _frames_from(info: VideoInfo, scan: Scan, begin: int | None) -> Iterator[tuple[VideoFrame, int]]:
    """Frames from the time `begin` on with checked time stamps, found by seeking where that is possible."""
    if begin is not None and (key := _key_before(scan.keys, begin)) is not None:
        frames = _read(info, scan, lambda clip, stream: clip.seek(key, stream=stream))
        if (start := _first_from(frames, begin)) is not None:
            yield start
            yield from frames
            return
    yield from ((frame, pts) for frame, pts in _read(info, scan) if begin is None or pts >= begin)


def _key_before(keys: Sequence[int], begin: int) -> int | None:
    """The last key frame but one up to `begin`: frames after the last one may refer to frames before it (open GOP)."""
    place = bisect_right(keys, begin) - 2
    return keys[place] if place >= 0 else None


def _first_from(frames: Iterator[tuple[VideoFrame, int]], begin: int) -> tuple[VideoFrame, int] | None:
    """Skip to the first frame that is not before `begin`; None: the seek missed it, so decode from the start.

    If a frame before `begin` was decoded, the seek went far enough back, and all frames after that one follow.
    """
    before = False
    try:
        for frame, pts in frames:
            if pts >= begin:
                return (frame, pts) if before else None
            before = True
    except MediaError:  # a frame that refers to one before the place that was sought
        pass
    return None


def _read(info: VideoInfo, scan: Scan, start: _Start | None = None) -> Iterator[tuple[VideoFrame, int]]:
    """Frames from `start` on, or from the beginning, with their PTS; deinterlaced if that is wanted."""
    frames = _checked(info, scan, start)
    return deinterlaced(frames, info) if info.deinterlace else frames


def _checked(info: VideoInfo, scan: Scan, start: _Start | None) -> Iterator[tuple[VideoFrame, int]]:
    """Frames and their time stamps, which increase.

    Raises:
        MediaError: damage; a frame of another size, format or colour than the first one; a time stamp that goes back.
    """
    last: tuple[int, int] | None = None
    for index, frame in enumerate(_undamaged(info, scan, start)):
        where = f"{info.path}: frame {index}" if start is None else f"{info.path}: a frame after {last and last[0]}"
        check_unchanged(info, frame, where)
        if scan.by_number:
            pts = scan.times[index] if index < len(scan.times) else sum(last or (0, 0))
        elif frame.pts is None:
            pts = sum(last) if last else 0
        else:
            pts = frame.pts
        if last is not None and pts <= last[0]:
            raise MediaError(
                f"{where} has time stamp {pts} after {last[0]} (in {info.time_base} s), so its time is not known; "
                f"make a copy with new ones: {ffmpeg(info.path, '-crf 10 -c:a copy')}"
            )
        last = (pts, frame.duration or info.usual_duration)
        yield frame, pts


def _undamaged(info: VideoInfo, scan: Scan, start: _Start | None) -> Iterator[VideoFrame]:
    """The decoder's frames: all that are shown before the damage if there is any, then the error.

    Decoding in several threads is fast, but at damage it also loses frames that other threads work on, and marks the
    damaged one only sometimes. So at the first sign of damage the clip is decoded again in one thread, which decides.
    """
    count = 0
    end = Fraction(0)
    for one_thread in (False, True):
        done = count
        try:
            for frame in islice(_decode(info, start, by_number=scan.by_number, one_thread=one_thread), done, None):
                if frame.is_corrupt:
                    raise av.InvalidDataError(0, "a frame cannot be decoded completely")
                yield frame
                known = scan.times[count : count + 1] or scan.times[-1:] or (0,)
                pts = known[0] if scan.by_number else frame.pts or 0
                end = (pts + (frame.duration or info.usual_duration)) * info.time_base
                count += 1
            return
        except FFmpegError as error:
            if one_thread:
                raise cut_off(info.path, None if start else count, end, error.strerror) from error


def _decode(info: VideoInfo, start: _Start | None, *, by_number: bool, one_thread: bool) -> Iterator[VideoFrame]:
    """Frames of a clip from `start` on, or from the beginning.

    Args:
        info: of the clip.
        start: None: the beginning.
        by_number: the clip's packets have no display times.
        one_thread: conceal small errors, and at a large one give all frames that are shown before it; False: decode in
            several threads, and fail at any error.

    Raises:
        FFmpegError: damage, or a packet that gave no frame.
    """
    with open_again(info) as clip:
        stream = clip.streams[info.stream]
        assert isinstance(stream, VideoStream)
        # A frame that is much larger than the first one is refused, but not before the decoder has room for it.
        limit = {"max_pixels": str(max(4 * info.width * info.height, LEAST_MOST_PIXELS))}
        stream.thread_type = "NONE" if one_thread else "AUTO"
        stream.codec_context.options = limit if one_thread else {**limit, "err_detect": "explode"}
        if start:
            start(clip, stream)
        ledger = Ledger(info, by_number=by_number, from_start=start is None)
        damaged_pts: int | None = None
        try:
            for packet in clip.demux(stream):
                moved()
                damaged_pts = packet.pts
                if not packet.size and packet.pts is not None:
                    continue  # Theora repeats a frame by an empty packet
                ledger.sent(packet)
                for frame in packet.decode():
                    ledger.came(frame)
                    yield frame
            ledger.ended()
        except MissingFrameError:
            raise
        except FFmpegError:
            if one_thread:
                with contextlib.suppress(FFmpegError):
                    for frame in stream.codec_context.decode(None):
                        if damaged_pts is None or frame.pts is None or frame.pts < damaged_pts:
                            yield frame
            raise


def deinterlaced(frames: Iterable[tuple[VideoFrame, int]], info: VideoInfo) -> Iterator[tuple[VideoFrame, int]]:
    """FFmpeg's bwdif: one frame for each one, at the same time. Frames that are marked as progressive stay as they are.

    Args:
        frames: with their PTS, in units of the clip's time base. A result depends on the frame's two neighbours.
        info: of the clip.

    Raises:
        MediaError: `frames` did; all frames before that have come out.
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
    damage = None
    try:
        for frame, pts in frames:
            frame.pts, frame.time_base = pts, info.time_base
            graph.vpush(frame)
            yield from _filtered(graph, info)
    except MediaError as error:
        damage = error
    graph.vpush(None)  # the last frame before the end, or before damage, is still in the filter
    yield from _filtered(graph, info)
    if damage:
        raise damage


def _filtered(graph: av.filter.Graph, info: VideoInfo) -> Iterator[tuple[VideoFrame, int]]:
    """The frames that are ready, with their PTS."""
    while True:
        try:
            frame = graph.vpull()
        except (BlockingIOError, av.error.EOFError):
            return
        # bwdif counts in halves of the time base.
        units = fraction(frame.time_base) / info.time_base
        frame.duration = round(frame.duration * units)
        yield frame, round((frame.pts or 0) * units)
