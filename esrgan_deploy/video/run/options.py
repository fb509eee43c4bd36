"""What a user may ask of a clip."""

from __future__ import annotations

from dataclasses import dataclass

from esrgan_deploy.errors import OptionError
from esrgan_deploy.video.output.encode import CODECS

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
