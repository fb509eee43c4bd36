"""How many samples the index of an MP4 claims where it need not list them: FFmpeg makes room for each at once.

A track whose samples all have one size says so, and how many there are, in eight bytes (ISO 14496-12, 8.7.3.2); a
fragment with usual values throughout does the same (8.8.8). No file has more samples than bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from esrgan_deploy.budget import opened
from esrgan_deploy.errors import MediaError

_HEADER = 8
_OUTER = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
_FEW = 1 << 20
"""Entries that cost nothing worth a check."""
_MOST_BOXES = 200_000


def check_index(path: Path) -> None:
    """Refuse an index of more samples than the file has bytes; other files pass.

    Raises:
        MediaError: it claims too many.
    """
    with opened(path, MediaError) as file:
        size = file.seek(0, 2)
        for number, (kind, body) in enumerate(_boxes(file, 0, size)):
            if number > _MOST_BOXES:
                return
            claimed = _claimed(kind, body)
            if claimed > max(size, _FEW):
                raise MediaError(
                    f"{path}: its index claims {claimed} samples, and the file has {size} bytes; get a whole copy"
                )


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """(type, first bytes of the body) of each box, those inside the boxes of an index included."""
    ends = [end]
    place = start
    while ends:
        if place + _HEADER > ends[-1]:
            ends.pop()
            continue
        file.seek(place)
        head = file.read(_HEADER + 16)
        length, kind, body = int.from_bytes(head[:4], "big"), head[4:8], head[8:]
        if length == 1:
            length = int.from_bytes(body[:8], "big")
        if length < _HEADER or not kind.isascii():
            return  # no MP4, or its last box
        yield kind, body
        if kind in _OUTER and place + length <= ends[-1]:
            ends.append(place + length)
            place += _HEADER
        else:
            place += length


def _claimed(kind: bytes, body: bytes) -> int:
    """Samples that a box claims without an entry for each."""
    if kind == b"stsz" and any(body[4:8]):
        return int.from_bytes(body[8:12], "big")
    if kind == b"trun":
        return int.from_bytes(body[4:8], "big")
    return 0
