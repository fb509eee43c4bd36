"""Describe a clip, and refuse one that would come out damaged."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av import VideoFormat
from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import Type
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import check_memory
from esrgan_deploy.errors import MediaError
from esrgan_deploy.video.info import (
    BT2020_PRIMARIES,
    DEPTHS,
    FULL_RANGE,
    MATRICES,
    RGB,
    WEIGHTS,
    Colour,
    Samples,
    VideoInfo,
    samples_of,
)
from esrgan_deploy.video.source.container import MOST_PIXELS, open_again, open_clip
from esrgan_deploy.video.source.hdr import parse_static_hdr
from esrgan_deploy.video.source.matroska import elements, video_header
from esrgan_deploy.video.source.mp4_index import check_index

_DECODED_BYTES = 6
"""For each pixel, at the very least: two frames with their chroma, and one in RGB."""
_SIDE_DATA_LOST = {
    "A53_CC": "closed captions inside the frames",
    "SPHERICAL": "a 360 degree projection",
    "STEREO3D": "stereo 3D packing",
    "DOVI_METADATA": "Dolby Vision",
    "DYNAMIC_HDR_PLUS": "HDR10+, brightness scene by scene",
    "DYNAMIC_HDR_VIVID": "HDR Vivid, brightness scene by scene",
}
"""Side data of a frame that the output would lack: names of `av.sidedata.sidedata.Type`, and words for them."""
_PIXEL_CROP = (0x54BB, 0x54AA, 0x54CC, 0x54DD)
"""Matroska's elements for what players hide: rows at the top and at the bottom, columns on the left and on the right.
FFmpeg translates MP4's clean aperture into them."""
_COLOUR, _SITING_HORZ, _SITING_VERT = 0x55B0, 0x55B7, 0x55B8
_SITING = {(b"\1", b"\1"): "topleft", (b"\1", b"\2"): "left", (b"\2", b"\1"): "top", (b"\2", b"\2"): "center"}
"""Matroska's ChromaSitingHorz and ChromaSitingVert -> a key of `chroma.LOCATIONS`."""


def probe(
    path: StrPath,
    *,
    stream: int | None = None,
    deinterlace: bool = False,
    protocols: tuple[str, ...] = (),
    media_format: str | None = None,
) -> VideoInfo:
    """Open `path`, decode its first frame and describe the clip.

    Args:
        path: the file.
        stream: index of the video stream to upscale, as ffprobe counts; None: the clip has only one.
        deinterlace: accept interlaced frames; they will be deinterlaced.
        protocols: what a playlist may open beside local files.
        media_format: FFmpeg's name of the file's format; None: the content tells, and only formats of clips are opened.

    Raises:
        OptionError: FFmpeg reads no such format.
        MediaError: no such file, not a video, or a kind that would come out damaged: more than 12 bits per sample,
            Dolby Vision, interlaced, an alpha channel, an unknown matrix, several video streams. The message says what
            to do.
    """
    path = as_path(path)
    if path.is_file():
        check_index(path)
    with open_clip(path, protocols, media_format=media_format) as clip:
        chosen = _video_stream(clip, path, stream)
        first = _first_frame(clip, chosen, path)
        info = describe(clip, chosen, first, path, deinterlace=deinterlace)
    return replace(info, protocols=protocols, media_format=media_format)


def describe(
    clip: InputContainer,
    stream: VideoStream,
    first: VideoFrame,
    path: Path,
    *,
    deinterlace: bool = False,
) -> VideoInfo:
    """Describe an open clip by its video stream and the first frame of that.

    Raises:
        MediaError: see `probe`.
    """
    header = video_header(stream)
    _refuse_hidden_edges(header, first, path)
    _refuse_unsupported(first, path)
    if first.interlaced_frame and not deinterlace:
        raise _interlaced(path)
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
        colour=_colour_of(first, samples_of(first.format.name)),
        sample_aspect=fraction(stream.sample_aspect_ratio) or Fraction(1),
        rotation=first.rotation,
        display_matrix=tuple(np.frombuffer(matrix, np.int32).tolist()) if matrix else None,
        others=tuple(other.type for other in clip.streams if other.index != stream.index),
        chroma_location=_chroma_location(header),
        hdr=parse_static_hdr(_side_data(first, "MASTERING_DISPLAY_METADATA"), _side_data(first, "CONTENT_LIGHT_LEVEL")),
        deinterlace=deinterlace,
    )


def cover_art(info: VideoInfo) -> dict[int, bytes]:
    """Index of each stream of cover art -> the PNG or JPEG file that it holds."""
    if "video" not in info.others:
        return {}
    with open_again(info) as clip:
        return {stream.index: bytes(next(clip.demux(stream))) for stream in clip.streams.video if is_cover(stream)}


def is_cover(stream: Stream) -> bool:
    """True for a video stream that is one still image, which players show beside the sound."""
    return bool(stream.disposition & Disposition.attached_pic)


def check_unchanged(info: VideoInfo, frame: VideoFrame, where: str) -> None:
    """Compare a frame with the first one of its clip.

    Raises:
        MediaError: it has another size, format or colour, or is interlaced; `where` names the frame.
    """
    if frame.interlaced_frame and not info.deinterlace:
        raise _interlaced(info.path)
    if (frame.width, frame.height, frame.format.name) != (info.width, info.height, info.pixel_format):
        raise MediaError(
            f"{where} is {frame.width}x{frame.height} {frame.format.name} after {info.width}x{info.height} "
            f"{info.pixel_format}; make it uniform: {ffmpeg(info.path, '-crf 10 -c:a copy')}"
        )
    if _colour_of(frame, info.samples) != info.colour:
        raise MediaError(f"{where} has other colour tags than the frames before; split it there into two clips")


def cut_off(path: Path, frames: int | None, end: Fraction, reason: str | None) -> MediaError:
    """The error for a clip that is damaged at `end` seconds, after `frames` frames if that is known."""
    place = f"{float(end):.2f} s" if frames is None else f"frame {frames} ({float(end):.2f} s)"
    conceal = ffmpeg(path, "-crf 10 -c:a copy")
    return MediaError(
        f"{path}: is cut off or damaged after {place}: {reason}; get a whole copy, or one that hides it: {conceal}"
    )


def encrypted(path: Path) -> MediaError:
    """The error for a clip whose packets need a key."""
    return MediaError(f"{path}: is encrypted (DRM) and cannot be decoded; get a copy without protection")


def ffmpeg(path: Path, arguments: str) -> str:
    """The command that makes a copy of `path` which can be upscaled."""
    return f"ffmpeg -i {shlex.quote(str(path))} {arguments} new.mkv"


def fraction(value: Any) -> Fraction:  # noqa: ANN401  # PyAV 19 has its own rational type, older ones use Fraction
    """As a Fraction; 0 for None and for FFmpeg's 0/0 and 0/1."""
    return Fraction(value.numerator, value.denominator) if value and value.denominator else Fraction(0)


def _video_stream(clip: InputContainer, path: Path, wanted: int | None) -> VideoStream:
    streams = [stream for stream in clip.streams.video if not is_cover(stream)]
    if not streams:
        kinds = sorted({stream.type for stream in clip.streams})
        only = f"no video, only {', '.join(kinds)}" if kinds else "nothing at all"
        raise MediaError(f"{path}: holds {only}")
    indices = [stream.index for stream in streams]
    if wanted is None and len(streams) > 1:
        raise MediaError(
            f"{path}: holds {len(streams)} video streams; choose one with --stream {' or '.join(map(str, indices))}, "
            "the others are copied as they are"
        )
    if wanted is not None and wanted not in indices:
        raise MediaError(f"{path}: stream {wanted} is no video; its video is stream {' and '.join(map(str, indices))}")
    chosen = streams[0 if wanted is None else indices.index(wanted)]
    if chosen.codec_context is None:
        raise MediaError(f"{path}: FFmpeg has no decoder for its video; convert it with the program that made it")
    width, height = chosen.codec_context.width, chosen.codec_context.height
    check_memory(path, f"decoding frames of {width}x{height}", _DECODED_BYTES * width * height)
    if width * height <= MOST_PIXELS:
        chosen.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # whatever the frames themselves say
    return chosen


def _first_frame(clip: InputContainer, stream: VideoStream, path: Path) -> VideoFrame:
    try:
        for packet in clip.demux(stream):
            if packet.has_sidedata("encryption_info"):
                raise encrypted(path)
            for frame in packet.decode():
                return frame
    except FFmpegError as error:
        raise MediaError(f"{path}: its first frame cannot be decoded: {error.strerror}; get a whole copy") from error
    raise MediaError(f"{path}: holds a video stream without a single frame")


def _refuse_hidden_edges(header: Mapping[int, bytes], frame: VideoFrame, path: Path) -> None:
    top, bottom, left, right = (int.from_bytes(header.get(name, b""), "big") for name in _PIXEL_CROP)
    if top or bottom or left or right:
        crop = f"{frame.width - left - right}:{frame.height - top - bottom}:{left}:{top}"
        raise MediaError(
            f"{path}: its container hides the edges of the frames (top {top}, bottom {bottom}, left {left}, right "
            f"{right}), which the output would show; cut them off: {ffmpeg(path, f'-vf crop={crop} -crf 10 -c:a copy')}"
        )


def _refuse_unsupported(frame: VideoFrame, path: Path) -> None:
    """Raise MediaError for a kind of frame that would come out damaged."""

    def refuse(what: str, arguments: str) -> MediaError:
        return MediaError(f"{path}: {what}; convert it: {ffmpeg(path, f'{arguments} -crf 10 -c:a copy')}")

    colour = _colour_of(frame, samples_of(frame.format.name))
    if unsupported := _unsupported_format(frame.format.name):
        raise refuse(*unsupported)
    if colour.matrix not in MATRICES:
        filtered, tag = ("2020_ncl", "bt2020nc") if colour.primaries == BT2020_PRIMARIES else ("709", "bt709")
        raise refuse(
            f"has colour matrix {colour.matrix} of H.273, this version knows {', '.join(map(str, sorted(WEIGHTS)))}",
            f"-vf zscale=matrix={filtered} -colorspace {tag}",
        )
    for kind, words in _SIDE_DATA_LOST.items():
        if _side_data(frame, kind):
            raise refuse(f"carries {words}, which would be lost", f"-vf sidedata=delete:{Type[kind].value}")


def _unsupported_format(pixel_format: str) -> tuple[str, str] | None:
    """Why frames of a format would lose something, and ffmpeg's arguments for a copy that would not; None: fine."""
    layout = VideoFormat(pixel_format)
    samples = samples_of(pixel_format)
    if any(component.is_alpha for component in layout.components):
        return f"has an alpha channel ({pixel_format}), which video output cannot keep", "-pix_fmt yuv444p"
    if pixel_format.startswith(("xyz", "bayer")):
        return f"is {pixel_format}, which is neither YUV nor RGB", "-pix_fmt yuv444p12le -c:v libx265"
    if samples.bits > DEPTHS[-1]:
        arguments = f"-pix_fmt {Samples('yuv', DEPTHS[-1], samples.columns, samples.lines).planar} -c:v libx265"
        return f"is {pixel_format}, and no encoder here keeps more than {DEPTHS[-1]} bits per sample", arguments
    return None


def _interlaced(path: Path) -> MediaError:
    return MediaError(
        f"{path}: is interlaced, and a network would sharpen the combing; add --deinterlace, which makes one frame of "
        "the two fields of each frame"
    )


def _colour_of(frame: VideoFrame, samples: Samples) -> Colour:
    """The colour tags of a decoded frame that holds `samples`."""
    rgb, grey, full = samples.family == "rgb", samples.family == "grey", frame.format.name.startswith("yuvj")
    # FFmpeg's convention: grey without a tag comes from still images, which use the full range.
    full_by_kind = rgb or full or (grey and frame.color_range == 0)
    return Colour(
        matrix=RGB if rgb else frame.colorspace,
        full_range=full_by_kind or frame.color_range == FULL_RANGE,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
    )


def _side_data(frame: VideoFrame, kind: str) -> bytes | None:
    """What FFmpeg attached to `frame` under a name of `av.sidedata.sidedata.Type`."""
    try:
        data: Any = frame.side_data.get(kind)
    except ValueError:  # before version 19, PyAV fails if any kind of side data has a name that it lacks, such as EXIF
        return None
    return None if data is None else bytes(data)


def _chroma_location(header: Mapping[int, bytes]) -> str:
    """Where the chroma of a frame sits: a key of `chroma.LOCATIONS`.

    Matroska's elements are 1 for level with the first luma sample, 2 for halfway to the next one. They are missing
    where nothing is known, and for level with the second line, which fields of interlaced video have.
    """
    colour = dict(elements(header.get(_COLOUR, b"")))
    return _SITING.get((colour.get(_SITING_HORZ, b""), colour.get(_SITING_VERT, b"")), "left")
