"""Where a file should end, by the sizes that it states itself, and whether its end is of the kind of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from esrgan_deploy.video.source.matroska import number
from esrgan_deploy.video.source.y4m import Y4M_SIGNATURE, Y4mHeader, frame_length

_EBML = b"\x1a\x45\xdf\xa3"
_RIFF = b"RIFF"
_AVI_HEAD, _AVI_FLAGS, _AVI_HAS_INDEX = 1 << 16, 44, 0x10
"""Bytes that hold the headers; where the flags of the main one are, `dwFlags`; and `AVIF_HASINDEX`."""
_OGG, _OGG_PAGE = b"OggS", 1 << 16
_FLV = b"FLV"
_FLV_TAGS = (8, 9, 18)  # sound, video, script
_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide")
_TS_PACKET = 188
_TS_SYNC = 0x47
_TS_TAIL = 6
"""Packets of a transport stream that are looked at."""


def missing_bytes(path: Path) -> int:
    """Bytes that should follow the last one, by the sizes of the outermost parts; 0 for formats that state none.

    Known are MP4 and MOV (ISO 14496-12, 4.2), Matroska (RFC 8794, 6), AVI (RIFF), transport streams (ISO 13818-1,
    2.4.3.2), FLV (Adobe's specification, annex E.3) and YUV4MPEG2.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(3 * _TS_PACKET)
        if head.startswith(_EBML):
            end = _matroska_end(file)
        elif head.startswith(_RIFF):
            end = _end_of_parts(file, size, 0, _riff_chunk)
        elif head.startswith(_FLV):
            end = _end_of_parts(file, size, int.from_bytes(head[5:9], "big") + 4, _flv_tag)
        elif head[4:8] in _BOXES:
            end = _end_of_parts(file, size, 0, _box)
        elif head.startswith(Y4M_SIGNATURE):
            end = _y4m_end(file, size, head)
        elif len(head) == 3 * _TS_PACKET and set(head[::_TS_PACKET]) == {_TS_SYNC}:
            end = size + -size % _TS_PACKET
        else:
            end = 0
    return max(0, end - size)


def fault_at_the_end(path: Path) -> str | None:
    """What is wrong with the last bytes, which FFmpeg skips without a word where a copy that broke left zeros.

    Known are transport streams, whose packets all begin alike, AVI, whose outermost chunks have names of letters, and
    Ogg, whose last page says that it is the last one (RFC 3533, 6).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(3 * _TS_PACKET)
        if head.startswith(_RIFF) and head[8:12] == b"AVI ":
            return _fault_in_avi(file, min(size, 8 + int.from_bytes(head[4:8], "little")))
        if head.startswith(_OGG):
            file.seek(max(0, size - _OGG_PAGE))
            return _fault_in_ogg(file.read())
        if set(head[::_TS_PACKET]) != {_TS_SYNC}:
            return None
        file.seek(max(0, size - _TS_TAIL * _TS_PACKET))
        tail = file.read()
    # Where something was left out before, packets begin at other places than in the head.
    starts = (tail[phase::_TS_PACKET] for phase in range(min(_TS_PACKET, len(tail))))
    if any(set(start[-_TS_TAIL + 1 :]) == {_TS_SYNC} for start in starts):
        return None
    return "its last bytes are no transport stream"


def _fault_in_ogg(tail: bytes) -> str | None:
    """`tail`: as many bytes as a page has at most; it has 27 bytes, their lengths, and packets."""
    last = tail[max(0, tail.rfind(_OGG)) :]
    lengths = last[27 : 27 + last[26]] if len(last) > 27 else b""
    whole = len(last) == 27 + len(lengths) + sum(lengths) and len(lengths) == last[26]
    return None if whole and last[5] & 4 else "its last page is not the end of a stream"


def _fault_in_avi(file: BinaryIO, end: int) -> str | None:
    file.seek(0)
    head = file.read(_AVI_HEAD)
    indexed = not head[_AVI_FLAGS] & _AVI_HAS_INDEX if len(head) > _AVI_FLAGS else True
    place = 12
    while place + 8 <= end:
        file.seek(place)
        name, length = file.read(4), int.from_bytes(file.read(4), "little")
        if not (name.isascii() and name.decode("ascii").isprintable()):
            return f"what begins at byte {place} is no part of an AVI file"
        indexed = indexed or name == b"idx1"
        place += 8 + length + length % 2
    return None if indexed or b"indx" in head else "the index that its header states is not there"


def _end_of_parts(file: BinaryIO, size: int, start: int, length_of: Callable[[bytes], int | None]) -> int:
    """End of the last part that begins inside the file.

    Args:
        file: holds parts one after the other.
        size: of the file.
        start: of the first part.
        length_of: the length of a part by its first 80 bytes; None: it is not known, as of one that fills the file.
    """
    end = start
    while end < size:
        file.seek(end)
        length = length_of(file.read(80))
        if length is None:
            return size
        end += length
    return end


def _box(header: bytes) -> int | None:
    """MP4: 4 bytes of length, 4 of type, 8 more of length if the first is 1."""
    length = int.from_bytes(header[:4], "big")
    if length == 1:
        length = int.from_bytes(header[8:16], "big")
    return length if length >= 8 and header[4:8].isascii() else None


def _riff_chunk(header: bytes) -> int | None:
    """AVI: large files are several RIFF chunks of 4 bytes of type, 4 of length, the body, and a byte if that is odd."""
    length = int.from_bytes(header[4:8], "little")
    return 8 + length + length % 2 if header[:4] == _RIFF and length not in (0, 2**32 - 1) else None


def _flv_tag(header: bytes) -> int | None:
    """FLV: a byte of type, 3 of length, 7 more, the body, 4 bytes."""
    return 11 + int.from_bytes(header[1:4], "big") + 4 if header[0] & 0x1F in _FLV_TAGS else None


def _y4m_end(file: BinaryIO, size: int, head: bytes) -> int:
    """End of the last frame that has begun; 0 where the first line is not understood."""
    try:
        header = Y4mHeader(head[: head.find(b"\n") + 1])
    except ValueError:
        return 0
    return _end_of_parts(file, size, header.length, lambda start: frame_length(start, header.frame_bytes))


def _matroska_end(file: BinaryIO) -> int:
    """End of the segment, the second element of the file; 0 where it is not stated, as in live recordings."""
    end = 0
    for _ in range(2):
        file.seek(end)
        number(file, keep_marker=True)
        length = number(file)
        if length is None:
            return 0
        end = file.tell() + length
    return end
