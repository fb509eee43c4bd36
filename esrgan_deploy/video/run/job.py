"""Everything that is decided before the first frame of a clip is upscaled, and written down for those who do it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from esrgan_deploy import __version__
from esrgan_deploy.errors import OptionError, OutputError
from esrgan_deploy.system.files import same_file
from esrgan_deploy.video.info import VideoInfo
from esrgan_deploy.video.output.encode import CODECS, EncoderSettings, encoder_settings
from esrgan_deploy.video.output.mux import FORMATS, Span, check_header
from esrgan_deploy.video.output.segments import Segment, cut
from esrgan_deploy.video.source.open import probe
from esrgan_deploy.video.source.scan import Survey, survey

SEGMENT_FRAMES = 120
"""Frames that are done again at most when a run dies: minutes of work. Each segment begins with a key frame, and the
encoders' own distance between two of them is 250."""


@dataclass(frozen=True)
class VideoOptions:
    """What a user may ask of a clip."""

    codec: str | None = None
    """A key of `CODECS`; None: h264 for 8 bits, h265 for more."""
    quality: int | None = None
    """Constant rate factor of the encoder, lower is better; None: the codec's default."""
    stream: int | None = None
    """Index of the video stream, as ffprobe counts; None: there has to be just one."""
    deinterlace: bool = False
    """Make pictures of two fields into pictures of one moment."""
    frames: tuple[int | None, int | None] = (None, None)
    """Number of the first frame, from 0, and of the first one that is left out again; None: no bound."""
    duration_s: float | None = None
    """Seconds to do, from the first frame on; None: all."""
    segment_frames: int = SEGMENT_FRAMES
    """Frames of a segment: what is kept when a run dies, and what one machine of several does at a time."""
    protocols: tuple[str, ...] = ()
    """What a playlist may reach beside local files."""
    preview: int | None = None
    """Write a picture, before and after, of every so manyth frame; None: of none."""


@dataclass(frozen=True)
class Job:
    """A clip, what to make of it, and in which pieces."""

    source: VideoInfo
    seen: Survey
    settings: EncoderSettings
    segments: tuple[Segment, ...]
    span: Span
    frames: int
    """Frames to expect, by the packets of the clip."""
    identity: Mapping[str, Any]
    """Everything that decides the bytes of the result."""


def plan(
    source: Path,
    target: Path,
    options: VideoOptions,
    upscaler: Mapping[str, Any],
    output_size: Callable[[int, int], tuple[int, int]],
) -> Job:
    """Look at the clip, and refuse what cannot work.

    Args:
        source: the clip.
        target: the file to make.
        options: what is asked for.
        upscaler: see `Upscaler.identity`.
        output_size: see `Upscaler.output_size`.

    Raises:
        MediaError: the source is no clip, or of a kind that would suffer.
        OptionError: an option that cannot be right for this clip.
        OutputError: the target cannot hold what the source carries.
    """
    check_options(options)
    check_target(source, target)
    info = probe(source, stream=options.stream, deinterlace=options.deinterlace, protocols=options.protocols)
    settings = encoder_settings(info, output_size(info.height, info.width), options.codec, options.quality)
    check_header(target, info, settings)
    seen = survey(info)  # reads the whole clip, so everything that is refused at once comes before
    first, last = wanted_part(info, seen, options)
    frames = bisect_left(seen.times, last) if last is not None else len(seen.times)
    frames -= bisect_left(seen.times, first) if first is not None else 0
    return Job(
        source=info,
        seen=seen,
        settings=settings,
        segments=cut(seen.times, options.segment_frames, first, last),
        span=Span(
            start_s=Fraction(0) if first is None else first * info.time_base,
            end_s=None if last is None else last * info.time_base,
        ),
        frames=frames,
        identity={
            "input": seen.sha256,
            **upscaler,
            "codec": settings.codec,
            "crf": settings.quality,
            "stream": info.stream,
            "deinterlace": options.deinterlace,
            "frames": options.frames,
            "duration": options.duration_s,
            "segment": options.segment_frames,
            **versions(),
        },
    )


def versions() -> dict[str, str]:
    """Of everything here that decides the bytes of a result beside the Upscaler."""
    return {"esrgan-deploy": __version__, "FFmpeg": ".".join(map(str, av.library_versions["libavcodec"]))}


def check_options(options: VideoOptions) -> None:
    """Refuse what is wrong with any clip.

    Raises:
        OptionError: an unknown codec, or a value out of range.
    """
    if options.codec is not None and options.codec not in CODECS:
        raise OptionError(f"codec '{options.codec}' is unknown; choose one of {', '.join(CODECS)}")
    for name, value in (("segment", options.segment_frames), ("preview", options.preview)):
        if value is not None and value < 1:
            raise OptionError(f"{name} {value} is too small; give a number of frames, 1 or more")
    if options.duration_s is not None and not options.duration_s > 0:
        raise OptionError(f"duration {options.duration_s:g} is too short; give seconds above 0")
    first, stop = options.frames
    if stop is not None and not (first or 0) < stop:
        raise OptionError(f"frames {first or 0}:{stop} is empty; the second number is the first frame that is left out")


def check_target(source: Path | None, target: Path) -> None:
    """Refuse a target that cannot be written; `source` is None for a pipe.

    Raises:
        OutputError: a folder, a missing folder, an unknown format, or the source itself.
    """
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; name a file")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; create it first")
    if target.suffix.lower() not in FORMATS:
        raise OutputError(f"{target}: '{target.suffix}' is no video format that is written; use {', '.join(FORMATS)}")
    if source and same_file(source, target):
        raise OutputError(f"{target}: is the input itself; name another file")


def wanted_part(info: VideoInfo, seen: Survey, options: VideoOptions) -> tuple[int | None, int | None]:
    """PTS of the first frame that is wanted and of the first one after them; None: no bound on that side.

    Raises:
        OptionError: the clip has no such frame.
    """
    first, stop = options.frames
    times = seen.times
    if first is not None and not 0 <= first < len(times):
        raise OptionError(f"frames {first}: is outside {info.path}, which has frames 0 to {len(times) - 1}")
    begin = times[first] if first else None
    end = times[stop] if stop is not None and stop < len(times) else None
    if options.duration_s is not None and times:
        after = times[first or 0] + round(Fraction(options.duration_s) / info.time_base)
        end = after if end is None else min(end, after)
    return begin, end
