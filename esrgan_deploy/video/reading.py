"""Opening clips, and what to say when they cannot be used."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
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
def open_clip(path: Path) -> Iterator[InputContainer]:
    """Open a local file for reading.

    Raises:
        MediaError: no such file, unreadable, empty, or nothing that FFmpeg knows.
    """
    try:
        # "file:" keeps names with a colon from being taken for a protocol, the whitelist keeps playlists local.
        clip = av.open(f"file:{path}", container_options={"protocol_whitelist": "file"}, **KEEP_TAG_BYTES)
    except FFmpegError as error:
        raise MediaError(f"{path}: {_why_not_opened(path, error)}") from error
    with clip:
        yield clip


def fraction(value: Any) -> Fraction:  # noqa: ANN401  # PyAV 19 has its own rational type, older ones use Fraction
    """As a Fraction; 0 for None and for FFmpeg's 0/0 and 0/1."""
    return Fraction(value.numerator, value.denominator) if value and value.denominator else Fraction(0)


def ffmpeg(path: Path, arguments: str) -> str:
    """The command that makes a copy of `path` which can be upscaled."""
    return f"ffmpeg -i {shlex.quote(str(path))} {arguments} new.mkv"


def cut_off(path: Path, frames: int, end: Fraction, reason: str | None) -> MediaError:
    """The error for a clip that is damaged after `frames` frames, at `end` seconds."""
    return MediaError(
        f"{path}: is cut off or damaged after frame {frames} ({float(end):.2f} s): {reason}; get a whole copy, or "
        f"keep what can be read: {ffmpeg(path, '-c copy')}"
    )


def interlaced(path: Path) -> MediaError:
    """The error for a clip of fields."""
    return MediaError(
        f"{path}: is interlaced, and a network would make the combs sharper; deinterlace it: "
        + ffmpeg(path, "-vf bwdif -crf 10 -c:a copy")
    )


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
