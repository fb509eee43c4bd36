"""The options of a run, as users give them."""

from __future__ import annotations

from dataclasses import dataclass

from esrgan_deploy.arguments import described
from esrgan_deploy.errors import OptionError
from esrgan_deploy.video.output.encode import CODECS
from esrgan_deploy.video.source.container import check_format

SEGMENT_FRAMES = 120
"""How many frames at most an interrupted run loses: minutes of work. Each segment begins with a key frame, and encoders
by themselves put one every 250 frames."""
MOST_SECONDS, MOST_FRAMES = 10**9, 10**12
"""Of a clip, as far as options go: thirty years, and a million hours."""


@dataclass(frozen=True)
class VideoOptions:
    """Which frames of a clip to upscale, and how to encode them."""

    codec: str | None = None
    """A key of `CODECS`; None: h264 for 8 bits, h265 for more."""
    quality: int | None = None
    """Constant rate factor of the encoder, lower is better; None: the codec's default."""
    stream: int | None = None
    """Index of the video stream, as ffprobe counts; None: the clip has only one."""
    deinterlace: bool = False
    """Make one progressive frame of the two fields of each interlaced frame."""
    frames: tuple[int | None, int | None] = (None, None)
    """First frame, counted from 0, and the frame after the last one, as in a Python slice; None: no bound."""
    duration_s: float | None = None
    """Seconds to upscale, from the first frame on; None: all."""
    segment_frames: int = SEGMENT_FRAMES
    """Frames of a segment: what an interrupted run keeps when it is finished, and what is one task of a cluster."""
    protocols: tuple[str, ...] = ()
    """What a playlist may open beside local files: protocols of FFmpeg."""
    media_format: str | None = None
    """What the clip is read as, in FFmpeg's words; None: its content tells, and only formats of clips are opened."""
    preview: int | None = None
    """N: write every Nth frame, before and after, as a PNG into `TARGET.preview`; None: none."""


def check_options(options: VideoOptions) -> None:
    """Refuse what is wrong whatever the clip is.

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
    if options.duration_s is not None and not options.duration_s <= MOST_SECONDS:
        raise OptionError(f"duration {options.duration_s:g} is longer than any clip; leave it out for all")
    if options.media_format is not None:
        check_format(options.media_format)
    first, stop = options.frames
    for number in (first, stop):
        if number is not None and number > MOST_FRAMES:
            raise OptionError(
                f"frames {described(number)}: no clip has more than {MOST_FRAMES:.0e}; leave it out for all"
            )
    if stop is not None and not (first or 0) < stop:
        raise OptionError(f"frames {first or 0}:{stop} is empty; the second number is the frame after the last one")
