"""Every packet that a decoder gets must give a frame: which ones did not.

FFmpeg leaves out what it cannot decode, often without an error. A frame has the display time of its packet, so times
tell. FFmpeg can also hand a number from packet to frame, but a decoder that is freed while its threads hold such
numbers hangs.
"""

from __future__ import annotations

import logging

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from esrgan_deploy.video.info import VideoInfo

_LOG = logging.getLogger(__name__)
_NOT_CODED_BYTES = 32
"""MPEG-4 says "as before" in fewer bytes than these, and gives no frame for it."""


class MissingFrameError(av.InvalidDataError):
    """A packet has given no frame."""

    def __init__(self) -> None:
        super().__init__(0, "a frame is missing")


class Ledger:
    """Packets that went into the decoder of a clip, and frames that came out."""

    def __init__(self, info: VideoInfo, *, by_number: bool, from_start: bool) -> None:
        """`by_number`: without display times a loss is known at the end only. `from_start`: nothing was sought."""
        self._info = info
        self._by_time = not by_number
        self._from_start = from_start
        self._sent = self._came = 0
        self._waiting: dict[int, int] = {}
        """Display time of each packet whose frame has not come -> its number."""
        self._key: int | None = None
        """Display time of the first key frame: what is shown before it may refer to frames that nobody has."""
        self._last: tuple[int, bool] | None = None
        """Number of the packet that gave the last frame, and whether that is interlaced."""

    def sent(self, packet: Packet[VideoStream]) -> None:
        """Note a packet that is about to be decoded."""
        if not packet.size or packet.is_discard or _is_hidden(self._info.codec, bytes(packet)[:8], packet.size):
            return
        if self._key is None and packet.is_keyframe and packet.pts is not None:
            self._key = packet.pts
        self._sent += 1
        if packet.pts is not None:
            self._waiting[packet.pts] = self._sent

    def came(self, frame: VideoFrame) -> None:
        """Note a frame.

        Raises:
            MissingFrameError: one that is shown before it has not come.
        """
        self._came += 1
        number = None if frame.pts is None else self._waiting.pop(frame.pts, None)
        if not self._by_time or frame.pts is None or number is None:
            self._by_time = False  # the decoder has times of its own
            return
        late = [(pts, waiting) for pts, waiting in self._waiting.items() if pts < frame.pts]
        if self._last is None and self._from_start and (leading := len(late)):
            _LOG.warning(
                "%s: FFmpeg leaves out its first %d packets, which need others before them", self._info.path, leading
            )
        if self._is_known_loss(frame, late):
            _LOG.warning("%s: FFmpeg leaves out a frame where interlacing begins or ends", self._info.path)
            del self._waiting[late.pop()[0]]
        for pts, waiting in late:
            if self._is_missing(pts, waiting):
                raise MissingFrameError
            del self._waiting[pts]
        self._last = number, frame.interlaced_frame

    def ended(self) -> None:
        """Note the end.

        Raises:
            MissingFrameError: a packet has given no frame.
        """
        if self._by_time:
            missing = any(self._is_missing(*pair) for pair in self._waiting.items())
        else:
            missing = self._came < self._sent
        if missing:
            raise MissingFrameError

    def _is_missing(self, pts: int, number: int) -> bool:
        """False: no wonder that it gave no frame of its own."""
        if self._key is not None and pts < self._key:
            return False
        # Two fields are one frame, and may be two packets.
        return self._last is None or (number, True) != (self._last[0] + 1, self._last[1])

    def _is_known_loss(self, frame: VideoFrame, late: list[tuple[int, int]]) -> bool:
        """FFmpeg begins anew where an MPEG-2 sequence changes, and forgets the frame that waits for its turn."""
        changed = self._last is not None and self._last[1] != frame.interlaced_frame
        return self._info.codec == "mpeg2video" and changed and len(late) == 1


def _is_hidden(codec: str, start: bytes, size: int) -> bool:
    """True for a packet that gives no frame: one that others refer to only, or one that says "as before".

    Args:
        codec: FFmpeg's name.
        start: the first bytes of the packet.
        size: of all of it.
    """
    if codec == "vp8":
        return not start[0] & 0x10  # show_frame, RFC 6386, 9.1
    if codec == "vp9":  # frame_marker, two bits of profile (and one more of profile 3), show_existing, type, show_frame
        place = 5 if start[0] & 0x30 == 0x30 else 4
        return not start[0] >> (7 - place) & 1 and not start[0] >> (5 - place) & 1 if place == 4 else False
    return codec in ("mpeg4", "msmpeg4v2", "msmpeg4v3", "h263", "flv1") and size < _NOT_CODED_BYTES
