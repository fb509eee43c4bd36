"""Playlists (HLS): one list of local parts, all of them there, that ends.

FFmpeg leaves out parts that it cannot open, follows lists inside lists without a bound, and reads a list without an end
again and again. So a list is read here before FFmpeg does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from esrgan_deploy.budget import TEXT_BYTES, check_regular, opened, read_bytes
from esrgan_deploy.errors import MediaError

FORMAT = "hls"
"""FFmpeg's name."""
_SIGNATURE = b"#EXTM3U"
_MOST_PARTS = 50_000
"""Six days of parts of ten seconds."""
_LONGEST_LINE = 4000
"""FFmpeg cuts off what is longer than 4096."""
_VARIANTS = (b"#EXT-X-STREAM-INF", b"#EXT-X-MEDIA:", b"#EXT-X-I-FRAME-STREAM-INF")
_URI = re.compile(rb'URI=(?:"([^"]*)"|([^",]+))')
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_PROTOCOLS = {"http": "http,tcp", "https": "https,tls,tcp"}


def is_playlist(path: Path) -> bool:
    """True for a list of parts; a file that cannot be read is none."""
    try:
        with opened(path, MediaError) as file:
            return file.read(len(_SIGNATURE)) == _SIGNATURE
    except MediaError:
        return False


def check_playlist(path: Path, protocols: Sequence[str]) -> None:
    """Refuse a list that FFmpeg would not read to its end, or not whole.

    Args:
        path: a playlist.
        protocols: what it may open beside local files.

    Raises:
        MediaError: it has no end, names other lists, or a part that is no local file or is not there.
    """
    lines = _lines(path)
    # First of all, since whatever else is wrong, one of the lists inside may be right.
    inside = [os.fsdecode(part) for part in _parts(lines) if _names_a_list(path, part)]
    if inside or any(line.startswith(_VARIANTS) for line in lines):
        which = f", for instance {path.parent / inside[0]}" if inside else ""
        raise MediaError(f"{path}: is a list of other lists, and none is followed; name one of those{which}")
    parts = list(dict.fromkeys(_parts(lines)))
    for part in parts:
        _check_part(path, os.fsdecode(part), protocols)
    if not any(line.startswith(b"#EXT-X-ENDLIST") for line in lines):
        raise MediaError(
            f"{path}: has no #EXT-X-ENDLIST, so FFmpeg would wait for more parts; add that line where no more will come"
        )


def _lines(path: Path) -> list[bytes]:
    """As FFmpeg separates them."""
    lines = [line.rstrip() for line in re.split(rb"[\n\r\0]", read_bytes(path, MediaError, TEXT_BYTES))]
    longest = max(map(len, lines))
    if longest > _LONGEST_LINE:
        raise MediaError(f"{path}: has a line of {longest} bytes, and FFmpeg reads {_LONGEST_LINE}; use shorter names")
    if len(lines) > 8 * _MOST_PARTS or sum(1 for _ in _parts(lines)) > _MOST_PARTS:
        raise MediaError(f"{path}: names more than {_MOST_PARTS} parts; join some of them")
    return lines


def _parts(lines: Sequence[bytes]) -> Iterator[bytes]:
    """What a list leads to."""
    for line in lines:
        if line.startswith(b"#"):
            yield from (quoted or bare for quoted, bare in _URI.findall(line))
        elif line:
            yield line


def _names_a_list(path: Path, part: bytes) -> bool:
    name = os.fsdecode(part)
    return not _SCHEME.match(name.removeprefix("file:")) and is_playlist(_local(path, name))


def _local(path: Path, part: str) -> Path:
    return path.parent / part.removeprefix("file:")


def _check_part(path: Path, part: str, protocols: Sequence[str]) -> None:
    if scheme := _SCHEME.match(part.removeprefix("file:")):
        name = scheme[0][:-1]
        if name not in protocols:
            raise MediaError(
                f"{path}: leads to {part}, and only local files are opened; "
                f"add --protocols {_PROTOCOLS.get(name, name)} to allow it"
            )
        return
    local = _local(path, part)
    try:
        check_regular(local, MediaError)
        with opened(local, MediaError):
            pass
    except MediaError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise MediaError(f"{path}: leads to {part}, which {str(error).removeprefix(f'{local}: ')}") from error
        raise MediaError(f"{path}: leads to {part}, which is not there; put it beside the playlist") from error
