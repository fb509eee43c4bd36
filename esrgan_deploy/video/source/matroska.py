"""The little of Matroska that is needed: numbers and elements (EBML, RFC 8794), and the header of a video track."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

import av
from av.error import FFmpegError
from av.video.stream import VideoStream

_VIDEO = (0x18538067, 0x1654AE6B, 0xAE, 0xE0)
"""The elements around the description of a video: Segment, Tracks, TrackEntry, Video (RFC 9559, 5.1.4)."""


def number(file: BinaryIO, *, keep_marker: bool = False) -> int | None:
    """Read a number of variable length: the leading zeros of its first byte count the bytes that follow it.

    Args:
        file: afterwards at the byte after the number.
        keep_marker: keep the first bit that is 1, which belongs to the name of an element, but not to a length.

    Returns:
        None if there is no number, or it stands for an unknown length.
    """
    first = file.read(1)
    if not first or not first[0]:
        return None
    following = 8 - first[0].bit_length()
    marker = 0x80 >> following
    value = int.from_bytes(bytes([first[0] if keep_marker else first[0] & (marker - 1)]) + file.read(following), "big")
    unknown = (marker << 8 * following) - 1  # never with the marker, which is above it
    return None if value == unknown else value


def elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(name, body) of each element; one of unknown length lasts until the end."""
    file = io.BytesIO(content)
    while (name := number(file, keep_marker=True)) is not None:
        yield name, file.read(number(file))


def video_header(stream: VideoStream) -> dict[int, bytes]:
    """Name -> body of each element by which Matroska would describe a video; empty if it cannot hold the codec.

    FFmpeg reads cropping and chroma location from any container, but PyAV does not show them. FFmpeg also writes them
    into the header of a Matroska file, so one is made in memory.
    """
    header = io.BytesIO()
    try:
        with av.open(header, "w", format="matroska") as copy:
            copy.add_stream_from_template(stream, opaque=True)
            copy.start_encoding()
            content = header.getvalue()
    except (FFmpegError, ValueError):
        return {}
    for name in _VIDEO:
        content = dict(elements(content)).get(name, b"")
    return dict(elements(content))
