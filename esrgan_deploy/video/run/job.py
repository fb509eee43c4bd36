"""Everything that is decided before the first frame of a clip is upscaled, in a form that workers can be sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from esrgan_deploy import __version__
from esrgan_deploy.budget import check_memory
from esrgan_deploy.errors import OutputError
from esrgan_deploy.system.files import check_no_other, same_file
from esrgan_deploy.video.info import VideoInfo
from esrgan_deploy.video.output.encode import EncoderSettings, encoder_settings
from esrgan_deploy.video.output.mux import FORMATS, Span, check_header
from esrgan_deploy.video.run.options import VideoOptions, check_options
from esrgan_deploy.video.source.open import probe
from esrgan_deploy.video.source.scan import Scan, scan_packets
from esrgan_deploy.video.source.segments import Segment, cut, times_within, wanted_part


@dataclass(frozen=True)
class VideoJob:
    """A clip, how its output is encoded, and the segments that it is cut into."""

    source: VideoInfo
    scan: Scan
    settings: EncoderSettings
    segments: tuple[Segment, ...]
    span: Span
    frames: int
    """How many to expect, by the packets of the clip."""
    identity: Mapping[str, Any]
    """Everything that decides the bytes of the target, as JSON values."""


def prepare_job(
    source: Path,
    target: Path,
    options: VideoOptions,
    upscaler: Mapping[str, Any],
    output_size: Callable[[int, int], tuple[int, int]],
    note: Callable[[str], None] | None = None,
) -> VideoJob:
    """Read the clip without decoding it, and refuse what cannot work.

    `upscaler` and `output_size` are `Upscaler.identity()` and `Upscaler.output_size`. `note` is called with a line for
    the user if the clip is damaged.

    Raises:
        MediaError: the source is no clip, or of a kind that is refused, see `probe`.
        OptionError: an option that cannot be right for this clip.
        OutputError: the target cannot hold what the source carries.
    """
    check_options(options)
    check_target(source, target)
    info = probe(
        source,
        stream=options.stream,
        deinterlace=options.deinterlace,
        protocols=options.protocols,
        media_format=options.media_format,
    )
    settings = encoder_settings(info, output_size(info.height, info.width), options.codec, options.quality)
    check_frames_fit(info, settings)
    check_header(target, info, settings)
    scan = scan_packets(info)  # reads the whole clip, so it comes after everything that is refused at once
    begin, end = wanted_part(info, scan, options.frames, options.duration_s)
    if scan.damage and note:
        note(f"{scan.damage}; the frames before that are written")
    return VideoJob(
        source=info,
        scan=scan,
        settings=settings,
        segments=cut(scan.times, options.segment_frames, begin, end),
        span=Span(
            start_s=Fraction(0) if begin is None else begin * info.time_base,
            end_s=None if end is None else end * info.time_base,
        ),
        frames=len(times_within(scan.times, begin, end)),
        identity={
            "input": scan.sha256,
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
    """Of the software beside the Upscaler that decides the bytes of a target."""
    return {"esrgan-deploy": __version__, "FFmpeg": ".".join(map(str, av.library_versions["libavcodec"]))}


def check_frames_fit(info: VideoInfo, settings: EncoderSettings) -> None:
    """Refuse frames that surely do not fit into memory.

    Raises:
        MachineError: less is free than four frames before the network and four after it need, as RGB and as YUV.
    """
    pixels = info.width * info.height + settings.width * settings.height
    check_memory(
        info.path,
        f"upscaling frames of {info.width}x{info.height} to {settings.width}x{settings.height}",
        4 * 4 * pixels * (1 if info.bits <= 8 else 2),
    )


def check_target(source: Path | None, target: Path) -> None:
    """Refuse a target that cannot be written; `source` is None for a pipe.

    Raises:
        OutputError: a name that no file can have, a folder, a missing folder, an unknown format, or the source itself.
    """
    check_no_other(target)
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; create it first")
    if target.suffix.lower() not in FORMATS:
        raise OutputError(f"{target}: '{target.suffix}' is no video format that is written; use {', '.join(FORMATS)}")
    if source and same_file(source, target):
        raise OutputError(f"{target}: is the input itself; name another file")
