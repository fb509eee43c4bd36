"""YUV4MPEG2 byte by byte: a line that says what the frames are, and before each frame a line that begins with FRAME.

FFmpeg drops a last frame that is incomplete without a word, so what comes through a pipe is counted here. A stream that
ends between two frames is whole: the format states no number of frames.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from esrgan_deploy.budget import check_memory
from esrgan_deploy.errors import MediaError
from esrgan_deploy.watchdog import waiting_outside

Y4M_FORMAT = "yuv4mpegpipe"
"""FFmpeg's name."""
Y4M_SIGNATURE = b"YUV4MPEG2 "
_HEADER_BYTES, _MARKER_BYTES = 96, 80
"""The longest lines that FFmpeg reads."""
_MARKER = b"FRAME"
_SIDE = 1 << 16
_CHROMA = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "411": (4, 1)}
"""Columns and lines of luma for each sample of chroma."""
_KIND = re.compile(
    r"(420)(?:jpeg|mpeg2|paldv)|(420|422|444)p(9|10|12|14|16)|mono(9|10|12|16)?|(420|422|444|411)|444alpha"
)


class Y4mHeader:
    """The first line of a stream: how many bytes a frame has.

    Raises:
        ValueError: it is no such line, or a kind of frames that FFmpeg does not know; the message ends a sentence.
    """

    def __init__(self, line: bytes) -> None:
        if not line.startswith(Y4M_SIGNATURE) or not line.endswith(b"\n"):
            raise ValueError("it does not begin with YUV4MPEG2 and a line of at most 96 bytes")
        self.length = len(line)
        tags: dict[str, str] = {}
        for word in line.decode("ascii", "replace").split()[1:]:
            tags.setdefault(word[0], word[1:])
            if word.startswith("XYSCSS="):
                tags.setdefault("old C", word[7:].lower())
        sides = [tags.get(name, "") for name in "WH"]
        if not all(re.fullmatch(r"[1-9]\d{0,4}", side) and int(side) < _SIDE for side in sides):
            raise ValueError(f"its frames are '{sides[0]}' x '{sides[1]}', and sides are numbers from 1 to {_SIDE - 1}")
        self.width, self.height = map(int, sides)
        self.frame_bytes = _frame_bytes(tags.get("C", tags.get("old C", "420")), self.width, self.height)


def _frame_bytes(kind: str, width: int, height: int) -> int:
    found = _KIND.fullmatch(kind)
    if not found:
        raise ValueError(f"its frames are of kind C{kind}, which FFmpeg does not know")
    luma = width * height
    if kind == "444alpha":
        return 4 * luma
    depth = found[3] or found[4]
    per_sample = 2 if depth else 1
    if kind.startswith("mono"):
        return luma * per_sample
    columns, lines = _CHROMA[kind[:3]]
    return (luma + 2 * -(-width // columns) * -(-height // lines)) * per_sample


class Y4mPipe:
    """Hands a stream on to FFmpeg, byte for byte, up to the first one that cannot be right; `fault` says what it is."""

    def __init__(self, pipe: BinaryIO, name: str) -> None:
        self._pipe = pipe
        self._name = name
        self._line = b""
        """What FFmpeg has not yet taken of the last line."""
        self._left = 0
        """Bytes of the current frame that have not come yet."""
        self.header: Y4mHeader | None = None
        self.frames = 0
        """Those that have begun."""
        self.fault: str | None = None

    def read(self, size: int) -> bytes:
        """Called by FFmpeg: at most `size` bytes, none at the end or at a fault.

        Raises:
            MachineError: the frames that the header states do not fit into memory.
        """
        if self.fault is None and not self._left and not self._line:
            self._next_line()
        if self.fault is not None:
            return b""
        if self._line:
            data, self._line = self._line[:size], self._line[size:]
            return data
        if not self._left:
            return b""
        data = self._taken(min(size, self._left))
        self._left -= len(data)
        if not data:
            self.fault = f"ends in the middle of frame {self.frames - 1}"
        return data

    def _next_line(self) -> None:
        line = bytearray()
        most = _MARKER_BYTES if self.header else _HEADER_BYTES
        while len(line) < most and not line.endswith(b"\n") and (byte := self._taken(1)):
            line += byte
        if self.header is None:
            try:
                self.header = Y4mHeader(bytes(line))
            except ValueError as error:
                self.fault = str(error)
                return
            check_memory(self._name, f"a frame of {self.header.width}x{self.header.height}", self.header.frame_bytes)
        elif not line:
            return  # the end, between two frames
        elif len(line) < most and not line.endswith(b"\n"):
            self.fault = f"ends in the middle of frame {self.frames}"
            return
        elif not _is_marker(line):
            self.fault = f"has {bytes(line[:20])!r} where the line of frame {self.frames} should be"
            return
        else:
            self._left = self.header.frame_bytes
            self.frames += 1
        self._line = bytes(line)

    def _taken(self, size: int) -> bytes:
        with waiting_outside("standard input"):
            return self._pipe.read(size)


def frame_length(start: bytes, frame_bytes: int) -> int | None:
    """Bytes of a frame and its line, by the first 80 of them; None: it does not begin with such a line.

    At the end of a file there may be fewer, and the line may be cut off itself.
    """
    line = start[: start.find(b"\n") + 1]
    if not line and len(start) < _MARKER_BYTES:
        return len(start) + 1 + frame_bytes
    return len(line) + frame_bytes if _is_marker(line) else None


def _is_marker(line: bytes | bytearray) -> bool:
    """True for a line of a frame: FRAME, and perhaps parameters behind blanks."""
    return line.endswith(b"\n") and line[:-1].split(b" ")[0] == _MARKER


def refused(name: object, reason: str | None) -> MediaError:
    """The error for a pipe that carries something else."""
    why = f" ({reason})" if reason else ""
    return MediaError(
        f"{name}: is no YUV4MPEG2, or holds no frame; send it with "
        f"ffmpeg -i CLIP -strict -1 -f yuv4mpegpipe - | esrgan-upscale -{why}"
    )
