"""Edges of the picture that a container hides: Matroska's PixelCrop, MP4's clean aperture."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import av
from av.error import FFmpegError
from av.stream import Stream

_VIDEO = (0x18538067, 0x1654AE6B, 0xAE, 0xE0)
"""Where Matroska describes a picture: Segment, Tracks, TrackEntry, Video (RFC 9559, 5.1.4)."""
_PIXEL_CROP = {0x54BB: "top", 0x54AA: "bottom", 0x54CC: "left", 0x54DD: "right"}


@dataclass(frozen=True)
class Cropping:
    """Rows and columns of the decoded picture that are not shown."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def __str__(self) -> str:
        """As words."""
        return f"top {self.top}, bottom {self.bottom}, left {self.left}, right {self.right}"


def cropping(stream: Stream) -> Cropping | None:
    """What the container of a video stream hides; None: nothing.

    FFmpeg reads it into a place that PyAV does not show, but writes it into the header of a Matroska copy.
    """
    header = io.BytesIO()
    try:
        with av.open(header, "w", format="matroska") as copy:
            copy.add_stream_from_template(stream, opaque=True)
            copy.start_encoding()
            content = header.getvalue()
    except (ValueError, FFmpegError):  # no codec for Matroska, and so not from a container that can hide edges
        return None
    for element in _VIDEO:
        content = next((body for name, body in _elements(content) if name == element), b"")
    hidden = {
        _PIXEL_CROP[name]: int.from_bytes(body, "big") for name, body in _elements(content) if name in _PIXEL_CROP
    }
    return Cropping(**hidden) if any(hidden.values()) else None


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(name, body) of each EBML element; one of unknown length lasts until the end (RFC 8794, 6)."""
    file = io.BytesIO(content)
    while first := file.read(1):
        name = int.from_bytes(first + file.read(8 - first[0].bit_length()), "big")
        first = file.read(1)
        following = 8 - first[0].bit_length()
        marker = 0x80 >> following
        length = int.from_bytes(bytes([first[0] & (marker - 1)]) + file.read(following), "big")
        unknown = length == (marker << 8 * following) - 1
        yield name, file.read() if unknown else file.read(length)
