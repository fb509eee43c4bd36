"""Clips through pipes: YUV4MPEG2, as ffmpeg, mpv and x265 write and read it, from stdin and to stdout.

A pipe cannot be read twice and holds frames only, so there is no sound to copy, and nothing can be resumed.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.errors import MediaError, OptionError, OutputError
from esrgan_deploy.system.files import replacing
from esrgan_deploy.system.paths import file_url
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
from esrgan_deploy.video.run.finish import VideoSummary
from esrgan_deploy.video.run.frames import FramePipeline, FrameProgress
from esrgan_deploy.video.run.job import check_frames_fit, check_target
from esrgan_deploy.video.run.options import VideoOptions, check_options
from esrgan_deploy.video.run.preview import Preview
from esrgan_deploy.video.source.decode import DecodedFrame, decoded_frames, deinterlaced
from esrgan_deploy.video.source.open import describe, probe
from esrgan_deploy.video.source.scan import scan_packets
from esrgan_deploy.video.source.segments import Segment, times_within, wanted_part
from esrgan_deploy.video.source.y4m import Y4M_FORMAT, Y4mPipe, refused
from esrgan_deploy.watchdog import waiting_outside

if TYPE_CHECKING:
    from esrgan_deploy.upscaler import Upscaler


def upscale_pipe(
    source: StrPath | BinaryIO,
    target: StrPath | BinaryIO,
    upscaler: Upscaler,
    options: VideoOptions | None = None,
    *,
    progress: FrameProgress | None = None,
    note: Callable[[str], None] | None = None,
) -> VideoSummary:
    """Upscale frames from a pipe, to a pipe, or both.

    Args:
        source: where YUV4MPEG2 comes from, or the path of a clip.
        target: what takes YUV4MPEG2, or the path of a clip to make; it gets the video alone.
        upscaler: gives one frame for each one it gets, in order.
        options: which frames, and how they are encoded.
        progress: called after each frame.
        note: called with a line that the user should see before the work begins.

    Raises:
        MediaError: the source is no clip or no YUV4MPEG2, or of a kind that is refused, see `probe`. Or it is damaged:
            then the frames before the damage were written.
        OptionError: an option that cannot be right, or one of files when the target is a pipe.
        OutputError: the target cannot be written, or its reader has gone away.
    """
    begin, counts = time.perf_counter(), replace(upscaler.counts)
    options = options or VideoOptions()
    check_options(options)
    source, target = (as_path(value) if isinstance(value, (str, PathLike)) else value for value in (source, target))
    if not isinstance(target, Path):
        _refuse_options_of_files(options)
    if not isinstance(source, Path):
        for name, value in (("stream", options.stream), ("format", options.media_format)):
            if value:
                raise OptionError(f"--{name} {value}: a pipe carries YUV4MPEG2, one stream of it; leave it out")
    with contextlib.ExitStack() as stack:
        frames = _from_file(source, options) if isinstance(source, Path) else _from_pipe(stack, source, options)
        info = frames.info
        size = upscaler.output_size(info.height, info.width)
        settings = encoder_settings(info, size, options.codec if isinstance(target, Path) else Y4M, options.quality)
        check_frames_fit(info, settings)
        pipeline = FramePipeline(
            info,
            settings,
            upscaler,
            progress=(lambda done: progress(done, frames.total)) if progress else None,
            preview=Preview(target, options.preview) if options.preview and isinstance(target, Path) else None,
        )
        if isinstance(target, Path):
            check_target(source if isinstance(source, Path) else None, target)
            partial = stack.enter_context(replacing(target))
            busy_s = pipeline.run(frames, lambda to_encode: _to_file(to_encode, partial, info, settings))
        else:
            if note:
                note(_what_a_pipe_loses(frames))
            busy_s = pipeline.run(frames, lambda to_encode: _to_pipe(to_encode, target, settings))
        done = upscaler.counts.since(counts)
        if not done.frames:
            raise frames.damage or MediaError(f"{info.path}: holds no frame in the part that was asked for")
    if frames.damage:
        raise MediaError(f"{frames.damage}; the {done.frames} frames before that are written")
    return VideoSummary(
        frames=done.frames,
        computed=done.frames,
        reused=done.frames_reused,
        tiles_reused=done.share_reused,
        seconds=time.perf_counter() - begin,
        busy_s=busy_s,
    )


def _refuse_options_of_files(options: VideoOptions) -> None:
    for name, value in (("preview", options.preview), ("codec", options.codec), ("crf", options.quality)):
        if value is not None:
            raise OptionError(
                f"--{name}: a pipe gets uncompressed frames and nothing else; leave it out, or name a file"
            )


@dataclass
class _Frames:
    """Iterates over decoded frames; damage of the clip ends them without an error, and is kept."""

    info: VideoInfo
    decoded: Iterator[DecodedFrame]
    total: int | None = None
    """Frames to expect; None: unknown."""
    times: Sequence[int] = ()
    """Display times, as far as they are known beforehand."""
    damage: MediaError | None = None

    def __iter__(self) -> Iterator[DecodedFrame]:
        try:
            yield from self.decoded
        except MediaError as error:
            self.damage = error


def _from_file(path: Path, options: VideoOptions) -> _Frames:
    info = probe(
        path,
        stream=options.stream,
        deinterlace=options.deinterlace,
        protocols=options.protocols,
        media_format=options.media_format,
    )
    scan = scan_packets(info)
    begin, end = wanted_part(info, scan, options.frames, options.duration_s)
    times = times_within(scan.times, begin, end)
    return _Frames(info, decoded_frames(info, scan, [Segment(0, begin, end)]), len(times), times)


def _from_pipe(stack: contextlib.ExitStack, pipe: BinaryIO, options: VideoOptions) -> _Frames:
    name = Path("standard input")
    checked = Y4mPipe(pipe, str(name))
    try:
        clip = stack.enter_context(av.open(checked, "r", format=Y4M_FORMAT))
        stream = clip.streams.video[0]
        decoded = _decoded(clip, stream, checked, name)
        first = next(decoded)
    except (FFmpegError, StopIteration) as error:
        raise refused(name, checked.fault) from error
    info = describe(clip, stream, first, name, deinterlace=options.deinterlace)
    return _Frames(info, _wanted(chain([first], decoded), info, options))


class _PatientPipe:
    """A pipe to write to, whose reader may pause for as long as it likes."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe

    def write(self, data: bytes) -> int:
        """Called by FFmpeg."""
        with waiting_outside("standard output"):
            return self._pipe.write(data)


def _decoded(clip: InputContainer, stream: VideoStream, pipe: Y4mPipe, name: Path) -> Iterator[VideoFrame]:
    """All frames that are whole, then the error if the stream is not."""
    try:
        for packet in clip.demux(stream):
            yield from packet.decode()
    except FFmpegError as error:
        raise MediaError(f"{name}: cannot be read after frame {pipe.frames - 1}: {error.strerror}") from error
    if pipe.fault:
        raise MediaError(f"{name}: {pipe.fault}; look at the program that writes to the pipe")


def _wanted(decoded: Iterable[VideoFrame], info: VideoInfo, options: VideoOptions) -> Iterator[DecodedFrame]:
    """The frames that are wanted. A pipe has a constant rate, so their numbers are their times."""
    first, stop = options.frames[0] or 0, options.frames[1]
    if options.duration_s is not None:
        after = first + math.ceil(options.duration_s * info.frame_rate)
        stop = after if stop is None else min(stop, after)
    frames: Iterable[tuple[VideoFrame, int]] = (
        (frame, index * info.usual_duration) for index, frame in enumerate(islice(decoded, stop))
    )
    start = first * info.usual_duration
    for frame, pts in deinterlaced(frames, info) if info.deinterlace else frames:
        if pts >= start:
            yield DecodedFrame(frame, pts - start, info.usual_duration, 0)


def _to_file(frames: Iterable[FrameToEncode], path: Path, info: VideoInfo, settings: EncoderSettings) -> None:
    """Write a clip that holds the video alone."""
    with av.open(file_url(str(path)), "w", format=FORMATS[path.suffix.lower()]) as container:
        stream = add_stream(container, settings, info)
        _encode(frames, container, stream, settings)


def _to_pipe(frames: Iterable[FrameToEncode], pipe: BinaryIO, settings: EncoderSettings) -> None:
    # Depths beyond 8 bits are no part of the first definition of the format, but everybody reads them.
    unofficial = {"strict": "-1"}
    try:
        with av.open(_PatientPipe(pipe), "w", format=Y4M_FORMAT, container_options=unofficial) as container:
            stream = container.add_stream("rawvideo", rate=settings.frame_rate)
            assert isinstance(stream, VideoStream)
            # The header states the time base as the rate, so times are the numbers of the frames.
            counting = replace(settings, time_base=1 / settings.frame_rate)
            configure(stream.codec_context, counting)
            _encode((replace(frame, pts=number) for number, frame in enumerate(frames)), container, stream, counting)
        with waiting_outside("standard output"):
            pipe.flush()
    except (OSError, FFmpegError) as error:
        raise OutputError("standard output: cannot be written any more; has its reader gone away?") from error


def _encode(
    frames: Iterable[FrameToEncode], container: OutputContainer, stream: VideoStream, settings: EncoderSettings
) -> None:
    for to_encode in frames:
        frame = to_encode.frame
        frame.pts, frame.time_base = to_encode.pts, settings.time_base
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _what_a_pipe_loses(frames: _Frames) -> str:
    info = frames.info
    lost = [f"its {kind}" for kind in dict.fromkeys(info.others)]
    if len({after - before for before, after in pairwise(frames.times)}) > 2:
        lost.append("the varying distances between its frames")
    lost.append(f"colour tags beyond the range (matrix {info.colour.resolved(info.width, info.height).matrix})")
    return f"{info.path}: YUV4MPEG2 does not carry {', '.join(lost)}"
