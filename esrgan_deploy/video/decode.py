"""A clip as RGB frames with their time stamps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from esrgan_deploy.errors import MediaError
from esrgan_deploy.video.colour import to_rgb
from esrgan_deploy.video.probe import VideoInfo, picture_colour
from esrgan_deploy.video.reading import cut_off, ffmpeg, interlaced, open_clip

_CENTRED_CHROMA = ("mjpeg", "mpeg1video")
"""Codecs whose standard puts chroma between two columns."""


@dataclass(frozen=True)
class Frame:
    """One picture and its place in time."""

    pixels: npt.NDArray[np.uint8]
    """RGB, (H, W, 3)."""
    pts: int
    """Presentation time stamp, in units of the clip's time base."""
    duration: int
    """In units of the clip's time base."""


def decoded_frames(info: VideoInfo) -> Iterator[Frame]:
    """Decode every frame of a clip, in display order.

    Raises:
        MediaError: the clip is damaged, or changes halfway in a way that cannot be followed; frame and time are named.
    """
    convert = to_rgb(
        info.width,
        info.height,
        info.pixel_format,
        info.colour.resolved(info.width, info.height),
        centred_chroma=info.codec in _CENTRED_CHROMA,
    )
    usual_duration = max(1, round(1 / (info.frame_rate * info.time_base)))
    last_pts = None
    for index, picture in enumerate(_pictures(info)):
        last_pts = _checked_pts(picture, info, index, last_pts)
        yield Frame(convert(picture), last_pts, picture.duration or usual_duration)


def _pictures(info: VideoInfo) -> Iterator[VideoFrame]:
    """The decoder's output, its errors mapped."""
    count = 0
    end = Fraction(0)
    with open_clip(info.path) as clip:
        stream = clip.streams[info.stream]
        assert isinstance(stream, VideoStream)
        stream.thread_type = "AUTO"
        try:
            for picture in clip.decode(stream):
                if picture.is_corrupt:
                    raise cut_off(info.path, count, end, "this frame cannot be decoded completely")
                yield picture
                count += 1
                end = ((picture.pts or 0) + picture.duration) * info.time_base
        except FFmpegError as error:
            raise cut_off(info.path, count, end, error.strerror) from error


def _checked_pts(picture: VideoFrame, info: VideoInfo, index: int, last_pts: int | None) -> int:
    """The time stamp of frame `index`, counted from 0, which must come after `last_pts`.

    Raises:
        MediaError: it does not, or the picture is of another kind than the first one.
    """
    where = f"{info.path}: frame {index}"
    if picture.pts is None:
        raise MediaError(
            f"{where} has no time stamp; make a copy that has them: {ffmpeg(info.path, '-crf 10 -c:a copy')}"
        )
    if last_pts is not None and picture.pts <= last_pts:
        raise MediaError(
            f"{where} has time stamp {picture.pts} after {last_pts} (in {info.time_base} s), so its time is not known; "
            f"make a copy with new ones: {ffmpeg(info.path, '-crf 10 -c:a copy')}"
        )
    if picture.interlaced_frame:
        raise interlaced(info.path)
    if (picture.width, picture.height, picture.format.name) != (info.width, info.height, info.pixel_format):
        raise MediaError(
            f"{where} is {picture.width}x{picture.height} {picture.format.name} after {info.width}x{info.height} "
            f"{info.pixel_format}; make it uniform: {ffmpeg(info.path, '-crf 10 -c:a copy')}"
        )
    if picture_colour(picture) != info.colour:
        raise MediaError(f"{where} has other colour tags than the frames before; make a copy in one piece for each")
    return picture.pts
