"""Whether a file ends where its own structure says that it ends."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from esrgan_deploy.video.matroska import number

_EBML = b"\x1a\x45\xdf\xa3"
_RIFF = b"RIFF"
_FLV = b"FLV"
_FLV_TAGS = (8, 9, 18)  # sound, picture, script
_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide")
_TS_PACKET = 188
_TS_SYNC = 0x47


def missing_bytes(path: Path) -> int:
    """Bytes that should follow the last one, by the sizes of the outermost parts; 0 for formats that state none.

    Looked at are MP4 and MOV (ISO 14496-12, 4.2), Matroska (RFC 8794, 6), AVI (RIFF), transport streams (ISO 13818-1,
    2.4.3.2) and FLV (Adobe's specification, annex E.3).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(3 * _TS_PACKET)
        if head.startswith(_EBML):
            return max(0, _matroska_end(file) - size)
        if head.startswith(_RIFF):
            return max(0, _riff_end(file, size) - size)
        if head.startswith(_FLV):
            return max(0, _flv_end(file, size) - size)
        if head[4:8] in _BOXES:
            return max(0, _boxes_end(file, size) - size)
    if len(head) == 3 * _TS_PACKET and set(head[::_TS_PACKET]) == {_TS_SYNC}:
        return -size % _TS_PACKET
    return 0


def _boxes_end(file: BinaryIO, size: int) -> int:
    """End of the last box that begins inside the file: 4 bytes of length, 4 of type, perhaps 8 of a longer length."""
    end = 0
    while end < size:
        file.seek(end)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8 or not header[4:8].isascii():  # 0: up to the end of the file; else this is no box
            return size
        end += length
    return end


def _riff_end(file: BinaryIO, size: int) -> int:
    """End of the last RIFF chunk that begins inside the file: large AVI files are several."""
    end = 0
    while end < size:
        file.seek(end)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        if header[:4] != _RIFF or length in (0, 2**32 - 1):
            return size
        end += 8 + length + length % 2
    return end


def _flv_end(file: BinaryIO, size: int) -> int:
    """End of the last tag that begins inside the file: 11 bytes with its length in the middle, and 4 behind it."""
    file.seek(5)
    end = int.from_bytes(file.read(4), "big") + 4
    while end < size:
        file.seek(end)
        header = file.read(4)
        if header[0] & 0x1F not in _FLV_TAGS:
            return size
        end += 11 + int.from_bytes(header[1:], "big") + 4
    return end


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
