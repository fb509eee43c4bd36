"""Read the packets of a clip once, without decoding them: when frames are shown, and whether any are missing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet

from esrgan_deploy.errors import MediaError
from esrgan_deploy.video.info import VideoInfo
from esrgan_deploy.video.source import playlist
from esrgan_deploy.video.source.container import logged, open_again
from esrgan_deploy.video.source.file_end import fault_at_the_end, missing_bytes
from esrgan_deploy.video.source.open import cut_off, encrypted, fraction
from esrgan_deploy.watchdog import moved

_INDEXED = "mov,mp4,m4a,3gp,3g2,mj2"
_STATE_DURATION = (_INDEXED, "matroska,webm", "flv")
"""Formats whose header states the duration: a clip that ends long before that was cut off."""
_OF_PARTS = ("mpegts", _INDEXED)
"""What the parts of a playlist are."""
_TOLERANCE_S = 1
_SEEKABLE = (_INDEXED, "matroska,webm", "mpegts")
"""Formats in which a key frame can be sought by its time."""


@dataclass(frozen=True)
class Scan:
    """What the packets of a clip say. Times are in units of the video stream's time base."""

    times: tuple[int, ...]
    """Display times of the video stream's packets, ascending: those of its frames, except hidden and discarded ones."""
    keys: tuple[int, ...]
    """Those of `times` at which decoding can begin; empty where seeking by time is not reliable."""
    by_number: bool
    """True: the container has no display times (AVI, raw streams), so frame n is shown at `times[n]`."""
    sha256: str
    """Of all packets of all streams, in the order of the file."""
    damage: MediaError | None
    """Why the clip ends before it should; None: it is not damaged."""


def scan_packets(info: VideoInfo) -> Scan:
    """Read the whole clip once: seconds, where upscaling it takes hours.

    A clip that was cut off is no error: the scan describes what can be read, and `damage` says why it ends there.

    Raises:
        MediaError: the clip cannot be opened any more, or is encrypted.
    """
    packets = _Packets(info)
    # After damage a demuxer goes on and only logs it; packets that a broadcast lost, at a low level.
    level = av.logging.DEBUG if info.container in ("mpegts", playlist.FORMAT) else av.logging.ERROR
    with logged(level) as log, open_again(info) as clip:
        complaint = _complaint(log, clip, info.stream)
        damage = _read(clip, packets, log)
    if complaint and damage is None:
        # Opening reads ahead, so it may be in the header or in the first seconds; open again without reading ahead.
        second = _Packets(info)
        with logged(level) as log, open_again(info, {"probesize": "32"}) as clip:
            log.clear()
            if info.stream < len(clip.streams) and (damage := _read(clip, second, log)):
                packets = second
    if complaint and damage is None and info.container == "ogg":
        damage = packets.cut_off(complaint)  # of Ogg, opening may read all there is
    return packets.summary(damage)


def _read(clip: InputContainer, packets: _Packets, log: list[tuple[int, str, str]]) -> MediaError | None:
    """Add all packets that can be read; the result says why there are no more, None if the clip is undamaged."""
    info = packets.info
    stream = clip.streams[info.stream]
    # The index of a fragmented MP4 grows while it is read; such a file states 0 frames. AVI lists gaps as empty frames.
    listed = [entry for entry in stream.index_entries if entry.size or info.container != "avi"]
    indexed = len(listed) if info.container in (_INDEXED, "avi") and stream.frames else None
    stated = Fraction(clip.duration or 0, av.time_base)
    log.clear()
    try:
        for packet in clip.demux():
            moved()
            if reason := _complaint(log, clip, info.stream):
                return packets.cut_off(reason)
            log.clear()
            if packet.size and not packets.add(packet):
                return packets.cut_off("a packet is damaged or incomplete")
    except FFmpegError as error:
        return packets.cut_off(error.strerror)
    if indexed is not None and packets.count < indexed:
        if info.container == "avi":
            packets.keep_listed([(entry.timestamp, entry.size) for entry in listed])
        return packets.cut_off(f"its index lists {indexed} frames")
    if packets.ends_incomplete:
        return packets.cut_off("its last packet is incomplete")
    if missing := missing_bytes(info.path):
        return packets.cut_off(f"{missing} bytes are missing at the end")
    if fault := fault_at_the_end(info.path):
        return packets.cut_off(fault)
    if indexed is None and info.container in _STATE_DURATION and packets.end_s < stated - _TOLERANCE_S:
        return packets.cut_off(f"its header states {float(stated):.2f} s")
    return None


def _complaint(log: list[tuple[int, str, str]], clip: InputContainer, stream: int) -> str | None:
    """The first message about damage to the file, lost packets of a broadcast's video, or a part that was left out."""
    lost: tuple[str, ...] = (f"Continuity check failed for pid {clip.streams[stream].id} ",)
    # Parsers and decoders of other streams log as well; only the demuxers' messages are about the file.
    demuxers: tuple[str, ...] = (clip.format.name,)
    if clip.format.name == playlist.FORMAT:  # which gives its streams other numbers
        lost, demuxers = ("Continuity check failed for pid ", "Failed to open segment "), (*demuxers, *_OF_PARTS)
    for level, name, message in log:
        if name in demuxers and (level <= av.logging.ERROR or message.startswith(lost)):
            return message.strip()
    return None


@dataclass
class _Packets:
    """The packets that were read so far."""

    info: VideoInfo
    count: int = 0
    """Packets of the video stream."""
    end_s: Fraction = Fraction(0)
    """When the last frame or sound ends."""
    ends_incomplete: bool = False
    """The last packet, of whichever stream, is incomplete."""
    _pts: list[int | None] = field(default_factory=list)
    _dts: list[int | None] = field(default_factory=list)
    _sizes: list[int] = field(default_factory=list)
    _keys: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, packet: Packet[Any]) -> bool:
        """Add a packet; False: it is one of the video stream, and damaged.

        Raises:
            MediaError: it is encrypted.
        """
        if packet.has_sidedata("encryption_info"):
            raise encrypted(self.info.path)
        self.ends_incomplete = packet.is_corrupt
        if packet.stream_index == self.info.stream:
            if packet.is_corrupt:
                self._forget_from(packet.pts)
                return False
            self.count += 1
            if not packet.is_discard:
                self._pts.append(packet.pts)
                self._dts.append(packet.dts)
                self._sizes.append(packet.size)
                if packet.is_keyframe and packet.pts is not None:
                    self._keys.append(packet.pts)
        if packet.pts is not None:
            self.end_s = max(self.end_s, (packet.pts + (packet.duration or 0)) * fraction(packet.time_base))
        self._digest.update(packet)
        return True

    def _forget_from(self, pts: int | None) -> None:
        """Forget the frames that are shown after a damaged one, even those that are decoded before it."""
        if pts is not None:
            before = [index for index, time in enumerate(self._pts) if time is None or time < pts]
            self._pts, self._dts = [self._pts[index] for index in before], [self._dts[index] for index in before]
            self.count = len(before)
            self.end_s = pts * self.info.time_base

    def keep_listed(self, listed: Sequence[tuple[int, int]]) -> None:
        """Forget the packets from the first one that the index does not list: after it, FFmpeg counts AVI wrongly.

        Args:
            listed: (time, bytes) of each packet in the index.
        """
        pairs = enumerate(zip(zip(self._dts, self._sizes, strict=True), listed, strict=False))
        self.count = next((index for index, (found, entry) in pairs if found != entry), self.count)
        self.end_s = listed[self.count][0] * self.info.time_base
        self._dts, self._pts = self._dts[: self.count], self._pts[: self.count]

    def cut_off(self, reason: str | None) -> MediaError:
        """The error for a clip that ends after these packets."""
        return cut_off(self.info.path, self.count, self.end_s, reason)

    def summary(self, damage: MediaError | None) -> Scan:
        """The result for these packets."""
        pts = [time for time in self._pts if time is not None]
        dts = [time for time in self._dts if time is not None]
        by_number = self.info.container == "avi" or not pts
        if by_number:
            usable = len(dts) == len(self._dts) and len(set(dts)) == len(dts)
            times = dts if usable else [index * self.info.usual_duration for index in range(len(self._dts))]
        else:
            times = pts
        return Scan(
            times=tuple(sorted(times)),
            keys=tuple(sorted(self._keys)) if self.info.container in _SEEKABLE and not by_number else (),
            by_number=by_number,
            sha256=self._digest.hexdigest(),
            damage=damage,
        )
