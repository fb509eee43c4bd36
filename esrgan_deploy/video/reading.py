"""Opening clips, and what to say when they cannot be used."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError

from esrgan_deploy.errors import MediaError

PYAV = int(av.__version__.split(".")[0])
KEEP_TAG_BYTES: dict[str, Any] = {"metadata_errors": "surrogateescape"} if PYAV < 19 else {}
"""For `av.open`: tags in another encoding than UTF-8 are copied byte for byte, as PyAV 19 does by itself."""


@contextlib.contextmanager
def open_clip(
    path: Path, protocols: Sequence[str] = (), options: Mapping[str, str] | None = None
) -> Iterator[InputContainer]:
    """Open a local file for reading.

    Args:
        path: the file.
        protocols: what else it may lead to, if it is a playlist; by default nothing but local files.
        options: for FFmpeg's demuxer.

    Raises:
        MediaError: no such file, unreadable, empty, or nothing that FFmpeg knows; a playlist that leads elsewhere.
    """
    _check_playlist(path, protocols)
    try:
        # "file:" keeps names with a colon from being taken for a protocol, the whitelist keeps playlists local.
        allowed = {"protocol_whitelist": ",".join(("file", "crypto", *protocols)), **(options or {})}
        clip = av.open(f"file:{path}", container_options=allowed, **KEEP_TAG_BYTES)
    except FFmpegError as error:
        raise MediaError(f"{path}: {_why_not_opened(path, error)}") from error
    with clip:
        yield clip


@contextlib.contextmanager
def logged(level: int) -> Iterator[list[tuple[int, str, str]]]:
    """What FFmpeg logs in this thread: (level, name of the part, message).

    Args:
        level: the least important messages that are wanted: a constant of `av.logging`.
    """
    usual_level, skip_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(level)
    av.logging.set_skip_repeated(False)  # else a second clip with the same damage would be silent
    try:
        with av.logging.Capture() as log:
            yield log
    finally:
        av.logging.set_skip_repeated(skip_repeated)
        av.logging.set_level(usual_level)


def fraction(value: Any) -> Fraction:  # noqa: ANN401  # PyAV 19 has its own rational type, older ones use Fraction
    """As a Fraction; 0 for None and for FFmpeg's 0/0 and 0/1."""
    return Fraction(value.numerator, value.denominator) if value and value.denominator else Fraction(0)


def ffmpeg(path: Path, arguments: str) -> str:
    """The command that makes a copy of `path` which can be upscaled."""
    return f"ffmpeg -i {shlex.quote(str(path))} {arguments} new.mkv"


def cut_off(path: Path, frames: int | None, end: Fraction, reason: str | None) -> MediaError:
    """The error for a clip that is damaged at `end` seconds, after `frames` frames if that is known."""
    place = f"{float(end):.2f} s" if frames is None else f"frame {frames} ({float(end):.2f} s)"
    conceal = ffmpeg(path, "-crf 10 -c:a copy")
    return MediaError(
        f"{path}: is cut off or damaged after {place}: {reason}; get a whole copy, or one that hides it: {conceal}"
    )


def interlaced(path: Path) -> MediaError:
    """The error for a clip of fields."""
    return MediaError(
        f"{path}: is interlaced, and a network would make the combs sharper; add --deinterlace, one picture for each "
        "frame of two fields"
    )


def encrypted(path: Path) -> MediaError:
    """The error for a clip whose packets need a key."""
    return MediaError(f"{path}: is encrypted (DRM), and so its pictures cannot be read; get a copy without protection")


def _check_playlist(path: Path, protocols: Sequence[str]) -> None:
    """Refuse a playlist (HLS) with a part that cannot be opened: FFmpeg would go on without it, and say nothing."""
    named = list(_parts(path))
    deeper = [pair for _, name in named for pair in _parts(path.parent / name)]  # a list of variants leads to lists
    for playlist, part in named + deeper:
        scheme, remote, _ = part.partition("://")
        if remote and scheme not in ("file", *protocols):
            needed = {"http": "http,tcp", "https": "https,tls,tcp"}.get(scheme, scheme)
            raise MediaError(
                f"{playlist}: leads to {part}, and only local files are opened; add --protocols {needed} to allow it"
            )
        if not remote and not part.startswith("data:") and not (playlist.parent / part).exists():
            raise MediaError(f"{playlist}: leads to {part}, which is not there; put it beside the playlist")


def _parts(path: Path) -> Iterator[tuple[Path, str]]:
    """(playlist, name of a part) for each file that a playlist leads to; nothing for any other file."""
    if not path.is_file():  # the caller says so; and a pipe can be read once only
        return
    try:
        with path.open("rb") as file:
            if file.read(7) != b"#EXTM3U":
                return
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:  # the caller opens it as well, and says why that fails
        return
    for line in lines:
        names = re.findall(r'URI="([^"]+)"', line) if line.startswith("#") else [line.strip()]
        yield from ((path, name) for name in names if name)


def _why_not_opened(path: Path, error: FFmpegError) -> str:
    if path.is_dir():
        return "is a folder; name a video file"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    if path.stat().st_size == 0:
        return "is empty; copy or download it again"
    return "is no video that FFmpeg can read, or the end that holds its index is missing; copy or download it again"
