"""What a clip is, and whether it is one that can be upscaled without damage."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from esrgan_deploy.errors import MediaError
from esrgan_deploy.video.colour import FULL_RANGE, HLG, MATRICES, PQ, RGB, Colour
from esrgan_deploy.video.reading import cut_off, ffmpeg, fraction, interlaced, open_clip

_SIDE_DATA_LOST = {
    "A53_CC": "closed captions inside the pictures",
    "SPHERICAL": "a 360 degree projection",
    "STEREO3D": "stereo 3D packing",
    "DOVI_METADATA": "Dolby Vision",
}
"""Properties of a picture that would not survive: names of `av.sidedata.sidedata.Type`, and what to call them."""

_INDEXED = "mov,mp4,m4a,3gp,3g2,mj2"
_STATE_DURATION = (_INDEXED, "matroska,webm", "flv")
"""Formats whose header says how long the clip is: a clip that ends long before that was cut off."""
_TOLERANCE_S = 1


@dataclass(frozen=True)
class VideoInfo:
    """One clip: its picture stream, and what else it carries."""

    path: Path
    container: str
    """FFmpeg's name of the format, for instance "matroska,webm"."""
    stream: int
    """Index of the picture stream."""
    codec: str
    width: int
    height: int
    pixel_format: str
    """FFmpeg's name, for instance "yuv420p"."""
    frames: int | None
    """What the container states, or duration times rate; None: neither is known. Do not rely on it."""
    frame_rate: Fraction
    """Mean rate, frames per second; time stamps need not follow it."""
    duration_s: float | None
    time_base: Fraction
    """Seconds per unit of the picture stream's time stamps."""
    colour: Colour
    """As the clip states it; see `Colour.resolved` for what it leaves open."""
    sample_aspect: Fraction
    """Width of a pixel divided by its height."""
    rotation: int
    """Degrees counter-clockwise by which a player turns the picture."""
    display_matrix: tuple[int, ...] | None
    """The nine numbers behind `rotation`, in FFmpeg's layout; None: not given or not readable."""
    others: tuple[str, ...]
    """Kinds of all other streams: "audio", "subtitle", "video" (cover art), "attachment", "data"."""


def probe(path: Path) -> VideoInfo:
    """Open `path`, decode its first picture and describe the clip.

    Raises:
        MediaError: no such file, not a video, or a kind that this version would damage: more than 8 bits per sample,
            HDR, interlaced, an alpha channel, an unknown matrix, several video streams. The message says what to do.
    """
    with open_clip(path) as clip:
        stream = _picture_stream(clip, path)
        first = _first_picture(clip, stream, path)
        _refuse_what_would_suffer(first, path)
        matrix = _side_data(first, "DISPLAYMATRIX")
        rate = fraction(stream.average_rate) or fraction(stream.guessed_rate) or Fraction(25)
        time_base = fraction(stream.time_base)
        duration = stream.duration * time_base if stream.duration else Fraction(clip.duration or 0, av.time_base)
        return VideoInfo(
            path=path,
            container=clip.format.name,
            stream=stream.index,
            codec=stream.codec_context.name,
            width=first.width,
            height=first.height,
            pixel_format=first.format.name,
            frames=stream.frames or round(duration * rate) or None,
            frame_rate=rate,
            duration_s=float(duration) or None,
            time_base=time_base,
            colour=picture_colour(first),
            sample_aspect=fraction(stream.sample_aspect_ratio) or Fraction(1),
            rotation=first.rotation,
            display_matrix=tuple(np.frombuffer(matrix, np.int32).tolist()) if matrix else None,
            others=tuple(other.type for other in clip.streams if other.index != stream.index),
        )


def count_packets(info: VideoInfo) -> int:
    """Read the clip once without decoding it, and make sure that it is whole.

    This costs seconds where upscaling costs hours, so a clip that was cut off is refused before the first frame.

    Returns:
        Packets of the picture stream: the number of frames, but for codecs with hidden frames and for edit lists.

    Raises:
        MediaError: the clip ends before its index or header says, or a packet is damaged; frame and time are named.
    """
    count = 0
    end = Fraction(0)
    with open_clip(info.path) as clip:
        stream = clip.streams[info.stream]
        # A fragmented MP4 states no number of frames, and its index grows while it is read.
        indexed = len(stream.index_entries) if info.container == _INDEXED and stream.frames else None
        try:
            for packet in clip.demux():
                if packet.pts is not None and packet.size:
                    end = max(end, (packet.pts + (packet.duration or 0)) * fraction(packet.time_base))
                if packet.stream_index == info.stream and packet.size:
                    if packet.is_corrupt:
                        raise cut_off(info.path, count, end, "a packet is damaged or incomplete")
                    count += 1
        except FFmpegError as error:
            raise cut_off(info.path, count, end, error.strerror) from error
        stated = Fraction(clip.duration or 0, av.time_base)
        if indexed is not None and count < indexed:
            raise cut_off(info.path, count, end, f"its index lists {indexed} frames")
        if indexed is None and info.container in _STATE_DURATION and end < stated - _TOLERANCE_S:
            raise cut_off(info.path, count, end, f"its header states {float(stated):.2f} s")
    return count


def picture_colour(picture: VideoFrame) -> Colour:
    """The colour tags of a decoded picture."""
    is_rgb = picture.format.is_rgb
    return Colour(
        matrix=RGB if is_rgb else picture.colorspace,
        full_range=is_rgb or picture.format.name.startswith("yuvj") or picture.color_range == FULL_RANGE,
        primaries=picture.color_primaries,
        transfer=picture.color_trc,
    )


def _picture_stream(clip: InputContainer, path: Path) -> VideoStream:
    pictures = [stream for stream in clip.streams.video if not stream.disposition & Disposition.attached_pic]
    if not pictures:
        kinds = sorted({stream.type for stream in clip.streams})
        raise MediaError(f"{path}: holds no video, only {', '.join(kinds) or 'nothing'}")
    if len(pictures) > 1:
        raise MediaError(
            f"{path}: holds {len(pictures)} video streams, this version upscales one; "
            f"take one out: {ffmpeg(path, '-map 0:v:0 -map 0:a? -c copy')}"
        )
    if pictures[0].codec_context is None:
        raise MediaError(f"{path}: FFmpeg has no decoder for its video; convert it with the program that made it")
    return pictures[0]


def _first_picture(clip: InputContainer, stream: VideoStream, path: Path) -> VideoFrame:
    try:
        for picture in clip.decode(stream):
            return picture
    except FFmpegError as error:
        raise MediaError(f"{path}: its first picture cannot be decoded: {error.strerror}; get a whole copy") from error
    raise MediaError(f"{path}: holds a video stream without a single picture")


def _refuse_what_would_suffer(picture: VideoFrame, path: Path) -> None:
    """Raise MediaError for a kind of picture that would come out damaged."""

    def refuse(what: str, arguments: str) -> MediaError:
        return MediaError(f"{path}: {what}; convert it: {ffmpeg(path, f'{arguments} -crf 10 -c:a copy')}")

    components = picture.format.components
    name = picture.format.name
    colour = picture_colour(picture)
    if colour.transfer in (PQ, HLG):
        raise MediaError(f"{path}: is HDR, which this version would flatten; tone-map a copy to SDR")
    if any(component.is_alpha for component in components):
        raise refuse(f"has an alpha channel ({name}), which video output cannot keep", "-pix_fmt yuv444p")
    if any(component.bits != 8 for component in components):
        raise refuse(f"is {name}, this version reads 8 bits per sample", "-pix_fmt yuv420p")
    if picture.format.has_palette or len(components) != 3:
        raise refuse(f"is {name}, which is neither YUV nor RGB", "-pix_fmt yuv420p")
    if colour.matrix not in MATRICES:
        raise refuse(
            f"has colour matrix {colour.matrix}, this version knows BT.601 and BT.709",
            "-vf scale=out_color_matrix=bt709 -colorspace bt709",
        )
    if picture.interlaced_frame:
        raise interlaced(path)
    for kind, words in _SIDE_DATA_LOST.items():
        if _side_data(picture, kind):
            raise refuse(f"carries {words}, which would be lost", "-vf sidedata=delete")


def _side_data(picture: VideoFrame, kind: str) -> bytes | None:
    """What FFmpeg attached to `picture` under a name of `av.sidedata.sidedata.Type`."""
    try:
        data: Any = picture.side_data.get(kind)
    except ValueError:  # before version 19, PyAV gives up when there is one kind that it has no name for, such as EXIF
        return None
    return None if data is None else bytes(data)
