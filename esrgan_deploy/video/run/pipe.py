"""Clips through pipes: YUV4MPEG2, as ffmpeg, mpv and x265 write and read it, from stdin and to stdout.

A pipe cannot be read twice and holds pictures only, so there is no sound to copy, and nothing to go on with after a
crash.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from esrgan_deploy.errors import MediaError, OptionError, OutputError
from esrgan_deploy.system.files import replacing
from esrgan_deploy.video.info import VideoInfo
from esrgan_deploy.video.output.encode import (
    Y4M,
    EncoderSettings,
    FrameToEncode,
    add_stream,
    configure,
    encoder_settings,
)
from esrgan_deploy.video.output.mux import FORMATS
from esrgan_deploy.video.run.frames import FramePipeline
from esrgan_deploy.video.run.job import check_target
from esrgan_deploy.video.run.options import VideoOptions, check_options
from esrgan_deploy.video.run.pipeline import Progress, VideoSummary
from esrgan_deploy.video.run.preview import Preview
from esrgan_deploy.video.source.decode import DecodedFrame, decoded_frames, deinterlaced
from esrgan_deploy.video.source.open import describe, probe
from esrgan_deploy.video.source.scan import scan_packets
from esrgan_deploy.video.source.segments import Segment, wanted_part

if TYPE_CHECKING:
    from esrgan_deploy.upscaler import Upscaler

_Y4M = "yuv4mpegpipe"


def upscale_pipe(
    source: Path | BinaryIO,
    target: Path | BinaryIO,
    upscaler: Upscaler,
    options: VideoOptions | None = None,
    *,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> VideoSummary:
    """Upscale frames from a pipe, to a pipe, or both.

    Args:
        source: where YUV4MPEG2 comes from, or the path of a clip.
        target: what takes YUV4MPEG2, or the path of a clip to make; it gets the picture alone.
        upscaler: gives one frame for each one it gets, in order.
        options: what is asked for beside that.
        progress: called after each frame.
        note: called with a line that the user should see before the work begins.

    Raises:
        MediaError: the source is no clip or no YUV4MPEG2, or of a kind that would suffer. Or it is damaged: then the
            frames before the damage were written.
        OptionError: an option that cannot be right, or one of files when the target is a pipe.
        OutputError: the target cannot be written, or its reader has gone away.
    """
    begin = time.perf_counter()
    options = options or VideoOptions()
    check_options(options)
    if not isinstance(target, Path):
        _refuse_options_of_files(options)
    counts = replace(upscaler.counts)
    with contextlib.ExitStack() as stack:
        pictures = _from_file(source, options) if isinstance(source, Path) else _from_pipe(stack, source, options)
        info = pictures.info
        size = upscaler.output_size(info.height, info.width)
        settings = encoder_settings(info, size, options.codec if isinstance(target, Path) else Y4M, options.quality)
        flow = FramePipeline(
            info,
            settings,
            upscaler,
            progress=(lambda done: progress(done, pictures.total)) if progress else None,
            preview=Preview(target, options.preview) if options.preview and isinstance(target, Path) else None,
        )
        if isinstance(target, Path):
            check_target(source if isinstance(source, Path) else None, target)
            partial = stack.enter_context(replacing(target))
            flow.run(pictures, lambda codings: _to_file(codings, partial, info, settings))
        else:
            if note:
                note(_what_a_pipe_loses(pictures))
            flow.run(pictures, lambda codings: _to_pipe(codings, target, settings))
        done = upscaler.counts.since(counts)
        if not done.frames:
            raise pictures.damage or MediaError(f"{info.path}: holds no frame in the part that was asked for")
    if pictures.damage:
        raise MediaError(f"{pictures.damage}; the {done.frames} frames before that are written")
    return VideoSummary(
        frames=done.frames,
        computed=done.frames,
        reused=done.frames_reused,
        tiles_reused=done.share_reused,
        seconds=time.perf_counter() - begin,
        busy_s=flow.busy_s,
    )


def _refuse_options_of_files(options: VideoOptions) -> None:
    for name, value in (("preview", options.preview), ("codec", options.codec), ("crf", options.quality)):
        if value is not None:
            raise OptionError(
                f"--{name}: a pipe gets uncompressed pictures and nothing beside; leave it out, or name a file"
            )


class _Pictures:
    """Iterates over decoded pictures; damage ends them, and is kept."""

    def __init__(
        self, info: VideoInfo, pictures: Iterator[DecodedFrame], total: int | None, times: Sequence[int]
    ) -> None:
        self.info = info
        self.total = total
        """Frames to expect; None: unknown."""
        self.times = times
        """Display times, as far as they are known beforehand."""
        self.damage: MediaError | None = None
        self._pictures = pictures

    def __iter__(self) -> Iterator[DecodedFrame]:
        try:
            yield from self._pictures
        except MediaError as error:
            self.damage = error


def _from_file(path: Path, options: VideoOptions) -> _Pictures:
    info = probe(path, stream=options.stream, deinterlace=options.deinterlace, protocols=options.protocols)
    scan = scan_packets(info)
    begin, end = wanted_part(info, scan, options.frames, options.duration_s)
    times = [time for time in scan.times if (begin is None or begin <= time) and (end is None or time < end)]
    return _Pictures(info, decoded_frames(info, scan, [Segment(0, begin, end)]), len(times), times)


def _from_pipe(stack: contextlib.ExitStack, pipe: BinaryIO, options: VideoOptions) -> _Pictures:
    name = Path("standard input")
    try:
        counted = _Counted(pipe)
        clip = stack.enter_context(av.open(counted, "r", format=_Y4M))
        stream = clip.streams.video[0]
        decoded = _decoded(clip, stream, counted, name)
        first = next(decoded)
    except (FFmpegError, StopIteration) as error:
        raise MediaError(
            f"{name}: is no YUV4MPEG2, or holds no frame; send it with "
            "ffmpeg -i CLIP -strict -1 -f yuv4mpegpipe - | esrgan-upscale -"
        ) from error
    info = describe(clip, stream, first, name, deinterlace=options.deinterlace)
    return _Pictures(info, _numbered(chain([first], decoded), info, options), None, ())


class _Counted:
    """A pipe that counts what is read from it: FFmpeg silently drops a frame that ends too early."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._header: int | None = None
        self._bytes = 0

    def read(self, size: int) -> bytes:
        """For FFmpeg."""
        data = self._pipe.read(size)
        if self._header is None and b"\n" in data:
            self._header = self._bytes + data.index(b"\n") + 1
        self._bytes += len(data)
        return data

    def ends_within(self, frames: int, size: int) -> bool:
        """True if there is more than `frames` frames of `size` bytes, each after a line that is the same for all."""
        lines = self._bytes - (self._header or 0) - frames * size
        return frames > 0 and lines % frames != 0


def _decoded(clip: InputContainer, stream: VideoStream, pipe: _Counted, name: Path) -> Iterator[VideoFrame]:
    count = size = 0
    for packet in clip.demux(stream):
        if packet.size:
            count, size = count + 1, packet.size
        yield from packet.decode()
    if pipe.ends_within(count, size):
        raise MediaError(f"{name}: ends in the middle of frame {count}; look at the program that writes to the pipe")


def _numbered(decoded: Iterable[VideoFrame], info: VideoInfo, options: VideoOptions) -> Iterator[DecodedFrame]:
    """The pictures that are wanted. A pipe has a constant rate, so their numbers are their times."""
    first, stop = options.frames
    if options.duration_s is not None:
        after = (first or 0) + math.ceil(options.duration_s * info.frame_rate)
        stop = after if stop is None else min(stop, after)
    pictures: Iterable[tuple[VideoFrame, int]] = (
        (picture, index * info.usual_duration) for index, picture in enumerate(islice(decoded, stop))
    )
    for picture, pts in deinterlaced(pictures, info) if info.deinterlace else pictures:
        if pts >= (first or 0) * info.usual_duration:
            yield DecodedFrame(picture, pts - (first or 0) * info.usual_duration, info.usual_duration, 0)


def _to_file(codings: Iterable[FrameToEncode], path: Path, info: VideoInfo, settings: EncoderSettings) -> None:
    """Write a clip that holds the picture alone."""
    with av.open(f"file:{path}", "w", format=FORMATS[path.suffix.lower()]) as container:
        stream = add_stream(container, settings, info)
        _encode(codings, container, stream, settings)


def _to_pipe(codings: Iterable[FrameToEncode], pipe: BinaryIO, settings: EncoderSettings) -> None:
    # Depths beyond 8 bits are no part of the first definition of the format, but everybody reads them.
    unofficial = {"strict": "-1"}
    try:
        with av.open(pipe, "w", format=_Y4M, container_options=unofficial) as container:
            stream = container.add_stream("rawvideo", rate=settings.frame_rate)
            assert isinstance(stream, VideoStream)
            # The header states the time base as the rate, so times are the numbers of the frames.
            counting = replace(settings, time_base=1 / settings.frame_rate)
            configure(stream.codec_context, counting)
            _encode((replace(coding, pts=n) for n, coding in enumerate(codings)), container, stream, counting)
        pipe.flush()
    except (OSError, FFmpegError) as error:
        raise OutputError("standard output: cannot be written any more; has its reader gone away?") from error


def _encode(
    codings: Iterable[FrameToEncode], container: OutputContainer, stream: VideoStream, settings: EncoderSettings
) -> None:
    for coding in codings:
        coding.picture.pts, coding.picture.time_base = coding.pts, settings.time_base
        container.mux(stream.encode(coding.picture))
    container.mux(stream.encode(None))


def _what_a_pipe_loses(pictures: _Pictures) -> str:
    info = pictures.info
    lost = [f"its {kind}" for kind in dict.fromkeys(info.others)]
    if len({after - before for before, after in pairwise(pictures.times)}) > 2:
        lost.append("the varying distances between its frames")
    lost.append(f"colour tags beyond the range (matrix {info.colour.resolved(info.width, info.height).matrix})")
    return f"{info.path}: YUV4MPEG2 does not carry {', '.join(lost)}"
