"""What goes into an encoder comes out of it, with its time: checked, and mended where encoders are careless."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from av.packet import Packet
from av.video.stream import VideoStream

from esrgan_deploy.video.decode import Frame


class Timeline:
    """Follows the frames of one video stream through its encoder. All times are in units of one time base."""

    def __init__(self) -> None:
        self._in_encoder: dict[int, int] = {}
        """PTS -> duration of the frames that were sent and have not come back."""
        self._first_pts: int | None = None
        self._last: tuple[int, int] = (0, 0)
        """PTS and duration of the frame that was sent last."""
        self._first_dts: int | None = None
        self._held: Packet[VideoStream] | None = None

    def send(self, frame: Frame) -> None:
        """Note that `frame` goes into the encoder."""
        self._in_encoder[frame.pts] = frame.duration
        self._first_pts = frame.pts if self._first_pts is None else self._first_pts
        self._last = (frame.pts, frame.duration)

    def receive(self, packets: Iterable[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
        """Check and mend packets from the encoder. The latest is held back, since the last one is treated specially.

        Raises:
            RuntimeError: a time stamp that was not sent, or that comes back a second time.
        """
        for packet in packets:
            if packet.pts not in self._in_encoder:
                raise RuntimeError(f"the encoder returned PTS {packet.pts}, not sent to it or returned before")
            packet.duration = self._in_encoder.pop(packet.pts)  # encoders drop it
            packet.dts = trusted_dts(packet.dts, packet.pts, self._first_pts or 0, self._last[0])
            if self._first_dts is None:
                self._first_dts = packet.dts
            if self._held is not None:
                yield self._held
            self._held = packet

    def end(self) -> Iterator[Packet[VideoStream]]:
        """The last packet.

        Raises:
            RuntimeError: a frame has not come back.
        """
        if self._in_encoder:
            raise RuntimeError(f"the encoder kept {len(self._in_encoder)} frames, one has PTS {min(self._in_encoder)}")
        if self._held is not None:
            self._held.duration = self._closing_duration(self._held)
            yield self._held

    def _closing_duration(self, packet: Packet[VideoStream]) -> int:
        """Duration of the packet that is decoded last, which need not be the one that is shown last.

        MP4 stores the distances of decoding times and lets the last packet end the stream, so that the duration of a
        long last frame would be lost with B-frames. The packet lasts until the end, as far as it does not reach beyond.
        """
        end = sum(self._last)
        decoded_so_far = (packet.dts or 0) - (self._first_dts or 0)
        missing = end - (self._first_pts or 0) - decoded_so_far
        return max(packet.duration or 0, min(missing, end - (packet.pts or 0)))


def trusted_dts(dts: int | None, pts: int, first_pts: int, last_pts: int) -> int:
    """`dts`, or `pts` where it is impossible.

    x265 leaves the DTS of a clip with fewer frames than its delay uninitialised. Such a clip has no reordered frames,
    so that its PTS will do. A true DTS is not after the PTS, nor further before the first PTS than the clip is long.
    """
    if dts is None or not first_pts - (last_pts - first_pts) <= dts <= pts:
        return pts
    return dts
