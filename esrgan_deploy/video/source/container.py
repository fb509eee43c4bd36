"""Open a file that holds a clip: a regular file, in a format that is a clip's, with limits."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError

from esrgan_deploy.budget import check_regular
from esrgan_deploy.errors import MediaError, OptionError
from esrgan_deploy.system.paths import file_url
from esrgan_deploy.video.info import VideoInfo
from esrgan_deploy.video.source import playlist

KEEP_TAG_BYTES: dict[str, Any] = (
    {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}
)
"""For `av.open`: tags in another encoding than UTF-8 are copied byte for byte, as PyAV 19 does by itself."""
MEDIA_FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mxf", "rm", "dv", "gxf", "nut", "nsv", "ivf"),
    *("h261", "h263", "h264", "hevc", "vvc", "av1", "obu", "m4v", "mpegvideo", "vc1", "cavsvideo", "dirac", "dnxhd"),
    *("mjpeg", "mjpeg_2000", "yuv4mpegpipe", "gif", "apng", "swf", "amv", "mp3", "aac", "wav", "flac"),
)
"""FFmpeg's names of what is opened by itself: clips, and sound, which gets a clear message. Left out is text that
FFmpeg would make pictures of, what leads to other files, and what nobody has seen for decades."""
_LISTS = frozenset(["concat", "dash", "webm_dash_manifest", "imf", "sdp", "rtsp", "rtp", "sap", "vobsub", "image2"])
"""Formats that lead to other files, some of them without a bound."""
MOST_PIXELS = 1 << 28
"""Of a frame: 16384 x 16384, what H.264, HEVC and AV1 can hold at most."""
_OPEN_S = 60.0
"""Seconds that opening may take; seconds are usual on a slow network."""


@contextlib.contextmanager
def open_clip(
    path: Path,
    protocols: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
    *,
    media_format: str | None = None,
) -> Iterator[InputContainer]:
    """Open a local file for reading.

    Args:
        path: the file.
        protocols: what a playlist may open beside local files.
        options: for FFmpeg's demuxer.
        media_format: FFmpeg's name of the format; None: one of `MEDIA_FORMATS` or a playlist, which the content tells.

    Raises:
        MediaError: no such file, no regular file, unreadable, empty, or nothing that FFmpeg knows; a format that is not
            opened by itself; a playlist that leads elsewhere or has no end.
        OptionError: `media_format` is none of FFmpeg's.
    """
    if not path.is_dir() and path.exists():
        check_regular(path, MediaError)
    formats: tuple[str, ...] = MEDIA_FORMATS
    if media_format is not None:
        check_format(media_format)
    if media_format not in (None, playlist.FORMAT):
        formats = (*MEDIA_FORMATS, media_format)
    elif media_format or playlist.is_playlist(path):
        playlist.check_playlist(path, protocols)
        formats = (*MEDIA_FORMATS, playlist.FORMAT)
    allowed = {
        # "file:" keeps names with a colon from being taken for a protocol, the whitelist keeps playlists local.
        "protocol_whitelist": ",".join(("file", "crypto", *protocols)),
        "format_whitelist": ",".join(formats),
        "seg_format_options": f"format_whitelist={','.join(MEDIA_FORMATS)}",  # no list inside a list
        **(options or {}),
    }
    try:
        clip = av.open(
            file_url(str(path)),
            format=media_format,
            options={"max_pixels": str(MOST_PIXELS)},  # for the decoders that look at the first frames
            container_options=allowed,
            timeout=(_OPEN_S, None),
            **KEEP_TAG_BYTES,
        )
    except FFmpegError as error:
        raise MediaError(f"{path}: {_why_not_opened(path, error, allowed)}") from error
    with clip:
        if not set(clip.format.name.split(",")).intersection(formats):
            raise MediaError(f"{path}: is of FFmpeg's format {clip.format.name}, which is not taken for a clip")
        yield clip


def open_again(
    info: VideoInfo, options: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[InputContainer]:
    """Open the clip that `info` is of, see `open_clip`."""
    return open_clip(info.path, info.protocols, options, media_format=info.media_format)


def check_format(name: str) -> None:
    """Refuse what cannot be the format of a clip.

    Raises:
        OptionError: FFmpeg reads none of that name, or other files and devices by it.
    """
    if name == playlist.FORMAT:
        return
    try:
        known = av.ContainerFormat(name, "r")
    except ValueError as error:
        raise OptionError(f"format '{name}': FFmpeg reads none of that name; `ffmpeg -demuxers` lists them") from error
    if known.no_file or not known.is_input or _LISTS.intersection(known.name.split(",")):
        raise OptionError(f"format '{name}': reads other files or devices, no clip; name the clip itself")


@contextlib.contextmanager
def logged(level: int) -> Iterator[list[tuple[int, str, str]]]:
    """What FFmpeg logs in this thread: (level, name of the part, message).

    Args:
        level: of the least important messages that are wanted: a constant of `av.logging`.
    """
    usual_level, skip_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(level)
    av.logging.set_skip_repeated(False)  # else a second clip with the same damage would log nothing
    try:
        with av.logging.Capture() as log:
            yield log
    finally:
        av.logging.set_skip_repeated(skip_repeated)
        av.logging.set_level(usual_level)


def _why_not_opened(path: Path, error: FFmpegError, options: Mapping[str, str]) -> str:
    if path.is_dir():
        return "is a folder; name a video file"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, av.error.ExitError):
        return f"cannot be opened within {_OPEN_S:.0f} s; copy it to this machine"
    if path.stat().st_size == 0:
        return "is empty; copy or download it again"
    if (other := _other_format(path, options)) in _LISTS:
        one = f"ffmpeg -i {shlex.quote(str(path))} -c copy new.mkv"
        return f"is a list of other files ({other}); make one clip of them: {one}"
    if other is not None:
        return f"is of FFmpeg's format {other}, which is not taken for a clip; add --format {other} if it is one"
    if isinstance(error, OSError) and not isinstance(error, (av.error.ArgumentError, av.error.InvalidDataError)):
        return f"cannot be read: {error.strerror}"
    return "is no video that FFmpeg can read, or the end that holds its index is missing; copy or download it again"


def _other_format(path: Path, options: Mapping[str, str]) -> str | None:
    """The format of a file that was refused for it."""
    with logged(av.logging.ERROR) as log, contextlib.suppress(FFmpegError):
        av.open(file_url(str(path)), container_options=dict(options)).close()
    return next((name for _, name, message in log if message.startswith("Format not on whitelist")), None)
