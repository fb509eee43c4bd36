"""What a clip is, and whether it is one that can be upscaled without damage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from esrgan_deploy.errors import MediaError
from esrgan_deploy.video.colour import BT2020_PRIMARIES, FULL_RANGE, MATRICES, RGB, WEIGHTS, Colour
from esrgan_deploy.video.formats import samples_of, why_not_read
from esrgan_deploy.video.hdr import StaticHdr, parse_static_hdr
from esrgan_deploy.video.matroska import elements, picture_header
from esrgan_deploy.video.reading import encrypted, ffmpeg, fraction, interlaced, open_clip

_SIDE_DATA_LOST = {
    "A53_CC": "closed captions inside the pictures",
    "SPHERICAL": "a 360 degree projection",
    "STEREO3D": "stereo 3D packing",
    "DOVI_METADATA": "Dolby Vision",
    "DYNAMIC_HDR_PLUS": "HDR10+, brightness scene by scene",
    "DYNAMIC_HDR_VIVID": "HDR Vivid, brightness scene by scene",
}
"""Properties of a picture that would not survive: names of `av.sidedata.sidedata.Type`, and what to call them."""
_PIXEL_CROP = (0x54BB, 0x54AA, 0x54CC, 0x54DD)
"""Matroska's elements for what is not shown: rows at the top and at the bottom, columns on the left and on the right.
FFmpeg tells of MP4's clean aperture in them as well."""
_COLOUR, _SITING_HORZ, _SITING_VERT = 0x55B0, 0x55B7, 0x55B8
_SITING = {(b"\1", b"\1"): "topleft", (b"\1", b"\2"): "left", (b"\2", b"\1"): "top", (b"\2", b"\2"): "center"}
"""Matroska's ChromaSitingHorz and ChromaSitingVert -> a key of `chroma.LOCATIONS`."""


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
    chroma_location: str = "left"
    """Where subsampled chroma sits: a key of `chroma.LOCATIONS`; "left" where the clip does not say."""
    hdr: StaticHdr | None = None
    """What the first picture says of the display that it was graded on and of its brightness; None: nothing."""
    deinterlace: bool = False
    """Wanted: pictures of two fields become pictures of one moment."""
    protocols: tuple[str, ...] = ()
    """What a playlist may reach beside local files, for instance "https", "tls", "tcp"."""

    @property
    def bits(self) -> int:
        """Per sample."""
        return samples_of(self.pixel_format).bits

    @property
    def usual_duration(self) -> int:
        """Of a frame, in units of the time base, by the mean rate."""
        return max(1, round(1 / (self.frame_rate * self.time_base)))


def probe(
    path: Path, *, stream: int | None = None, deinterlace: bool = False, protocols: tuple[str, ...] = ()
) -> VideoInfo:
    """Open `path`, decode its first picture and describe the clip.

    Args:
        path: the file.
        stream: index of the video stream that is meant, as ffprobe counts; None: there has to be just one.
        deinterlace: accept interlaced pictures; they will be deinterlaced.
        protocols: what a playlist may reach beside local files.

    Raises:
        MediaError: no such file, not a video, or a kind that this version would damage: more than 12 bits per sample,
            Dolby Vision, interlaced, an alpha channel, an unknown matrix, several video streams. The message says what
            to do.
    """
    with open_clip(path, protocols) as clip:
        chosen = _picture_stream(clip, path, stream)
        first = _first_picture(clip, chosen, path)
        return describe(clip, chosen, first, path, deinterlace=deinterlace, protocols=protocols)


def describe(
    clip: InputContainer,
    stream: VideoStream,
    first: VideoFrame,
    path: Path,
    *,
    deinterlace: bool = False,
    protocols: tuple[str, ...] = (),
) -> VideoInfo:
    """Describe an open clip by its picture stream and the first picture of that.

    Raises:
        MediaError: see `probe`.
    """
    header = picture_header(stream)
    _refuse_hidden_edges(header, first, path)
    _refuse_what_would_suffer(first, path)
    if first.interlaced_frame and not deinterlace:
        raise interlaced(path)
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
        chroma_location=_chroma_location(header),
        hdr=parse_static_hdr(_side_data(first, "MASTERING_DISPLAY_METADATA"), _side_data(first, "CONTENT_LIGHT_LEVEL")),
        deinterlace=deinterlace,
        protocols=protocols,
    )


def picture_colour(picture: VideoFrame) -> Colour:
    """The colour tags of a decoded picture."""
    name = picture.format.name
    family = samples_of(name).family
    # FFmpeg's convention: grey that says nothing comes from stills, and uses all values.
    full_by_kind = family == "rgb" or name.startswith("yuvj") or (family == "grey" and picture.color_range == 0)
    return Colour(
        matrix=RGB if family == "rgb" else picture.colorspace,
        full_range=full_by_kind or picture.color_range == FULL_RANGE,
        primaries=picture.color_primaries,
        transfer=picture.color_trc,
    )


def _picture_stream(clip: InputContainer, path: Path, wanted: int | None) -> VideoStream:
    pictures = [stream for stream in clip.streams.video if not stream.disposition & Disposition.attached_pic]
    if not pictures:
        kinds = sorted({stream.type for stream in clip.streams})
        only = f"no video, only {', '.join(kinds)}" if kinds else "nothing at all"
        raise MediaError(f"{path}: holds {only}")
    indices = [stream.index for stream in pictures]
    if wanted is None and len(pictures) > 1:
        raise MediaError(
            f"{path}: holds {len(pictures)} video streams; choose one with --stream {' or '.join(map(str, indices))}, "
            "the others are copied as they are"
        )
    if wanted is not None and wanted not in indices:
        raise MediaError(f"{path}: stream {wanted} is no video; its video is stream {' and '.join(map(str, indices))}")
    chosen = pictures[0 if wanted is None else indices.index(wanted)]
    if chosen.codec_context is None:
        raise MediaError(f"{path}: FFmpeg has no decoder for its video; convert it with the program that made it")
    return chosen


def _first_picture(clip: InputContainer, stream: VideoStream, path: Path) -> VideoFrame:
    try:
        for packet in clip.demux(stream):
            if packet.has_sidedata("encryption_info"):
                raise encrypted(path)
            for picture in packet.decode():
                return picture
    except FFmpegError as error:
        raise MediaError(f"{path}: its first picture cannot be decoded: {error.strerror}; get a whole copy") from error
    raise MediaError(f"{path}: holds a video stream without a single picture")


def _refuse_hidden_edges(header: Mapping[int, bytes], picture: VideoFrame, path: Path) -> None:
    top, bottom, left, right = (int.from_bytes(header.get(name, b""), "big") for name in _PIXEL_CROP)
    if top or bottom or left or right:
        crop = f"{picture.width - left - right}:{picture.height - top - bottom}:{left}:{top}"
        raise MediaError(
            f"{path}: its container hides the edges of the picture (top {top}, bottom {bottom}, left {left}, right "
            f"{right}), which would come to light; cut them off: {ffmpeg(path, f'-vf crop={crop} -crf 10 -c:a copy')}"
        )


def _refuse_what_would_suffer(picture: VideoFrame, path: Path) -> None:
    """Raise MediaError for a kind of picture that would come out damaged."""

    def refuse(what: str, arguments: str) -> MediaError:
        return MediaError(f"{path}: {what}; convert it: {ffmpeg(path, f'{arguments} -crf 10 -c:a copy')}")

    colour = picture_colour(picture)
    if complaint := why_not_read(picture.format.name):
        raise refuse(*complaint)
    if colour.matrix not in MATRICES:
        filtered, tag = ("2020_ncl", "bt2020nc") if colour.primaries == BT2020_PRIMARIES else ("709", "bt709")
        raise refuse(
            f"has colour matrix {colour.matrix} of H.273, this version knows {', '.join(map(str, sorted(WEIGHTS)))}",
            f"-vf zscale=matrix={filtered} -colorspace {tag}",
        )
    for kind, words in _SIDE_DATA_LOST.items():
        if _side_data(picture, kind):
            raise refuse(f"carries {words}, which would be lost", f"-vf sidedata=delete:{Type[kind].value}")


def _side_data(picture: VideoFrame, kind: str) -> bytes | None:
    """What FFmpeg attached to `picture` under a name of `av.sidedata.sidedata.Type`."""
    try:
        data: Any = picture.side_data.get(kind)
    except ValueError:  # before version 19, PyAV gives up when there is one kind that it has no name for, such as EXIF
        return None
    return None if data is None else bytes(data)


def _chroma_location(header: Mapping[int, bytes]) -> str:
    """Where the chroma of a picture sits: a key of `chroma.LOCATIONS`.

    Matroska's elements are 1 for level with the first luma sample, 2 for halfway to the next one. They are missing
    where nothing is known, and for level with the second line, which fields of interlaced video have.
    """
    colour = dict(elements(header.get(_COLOUR, b"")))
    return _SITING.get((colour.get(_SITING_HORZ, b""), colour.get(_SITING_VERT, b"")), "left")
