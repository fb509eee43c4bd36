"""A clip in pieces: each is decoded, upscaled and encoded on its own, and what is finished stays finished.

A segment is an interval of display times, so that everybody cuts a clip in the same places: a run that goes on after a
crash, and a machine that computes one segment only. Each starts an encoder of its own. A finished segment is a file of
packets, one after the other, and a `SegmentRecord` that says what they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import av
from av.packet import Packet

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    from esrgan_deploy.video.output.encode import Coded


@dataclass(frozen=True)
class Segment:
    """The frames with `begin` <= PTS < `end`, in units of the clip's time base; None: no bound on that side."""

    index: int
    begin: int | None
    end: int | None


def cut(times: Sequence[int], frames: int, begin: int | None = None, end: int | None = None) -> tuple[Segment, ...]:
    """Segments of `frames` frames each between `begin` and `end`, which may both be open.

    Args:
        times: the display times that the clip states, ascending. They decide where cuts are; a frame that is not among
            them, or a time without a frame, does no harm.
        frames: that a segment holds, by these times; the last one may hold fewer.
        begin: of the first segment.
        end: of the last one.
    """
    inside = [time for time in times if (begin is None or begin <= time) and (end is None or time < end)]
    bounds: list[int | None] = [begin, *inside[frames::frames], end]
    return tuple(Segment(index, *pair) for index, pair in enumerate(pairwise(bounds)))


@dataclass(frozen=True)
class SegmentRecord:
    """What one finished segment holds. Times are in units of the source's time base, packets in decoding order."""

    index: int
    frames: int
    """Frames that went in and packets that came out."""
    bytes: int
    sha256: str
    """Of the file of packets."""
    header: str
    """The encoder's extradata, as hexadecimal digits; the same for all segments of a run."""
    sizes: list[int]
    """Bytes of each packet."""
    pts: list[int]
    durations: list[int]
    keys: list[int]
    """Places of the packets that decoding can begin at."""
    reused: int = 0
    """Frames whose pixels did not have to be computed."""
    damage: str | None = None
    """Why the source ends inside this segment, though it should not; None: it does not."""

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values; `SegmentRecord(**values)` reads it back."""
        return asdict(self)


@dataclass
class SegmentWriter:
    """Writes the packets of one segment to a file, one after the other, and takes down what they are."""

    file: IO[bytes]
    index: int
    _sizes: list[int] = field(default_factory=list)
    _pts: list[int] = field(default_factory=list)
    _durations: list[int] = field(default_factory=list)
    _keys: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256()

    def write(self, packet: Coded) -> None:
        """Append one packet, in decoding order."""
        if packet.key:
            self._keys.append(len(self._sizes))
        self._sizes.append(len(packet.data))
        self._pts.append(packet.pts)
        self._durations.append(packet.duration)
        self.file.write(packet.data)
        self._digest.update(packet.data)

    def record(self, header: bytes, reused: int = 0, damage: str | None = None) -> SegmentRecord:
        """What was written."""
        return SegmentRecord(
            index=self.index,
            frames=len(self._sizes),
            bytes=sum(self._sizes),
            sha256=self._digest.hexdigest(),
            header=header.hex(),
            sizes=self._sizes,
            pts=self._pts,
            durations=self._durations,
            keys=self._keys,
            reused=reused,
            damage=damage,
        )


def packets_path(folder: Path, index: int) -> Path:
    """Where the packets of a finished segment lie in the folder of a run."""
    return folder / f"{index:06}.packets"


def read_packets(path: Path, record: SegmentRecord) -> Iterator[Packet[VideoStream]]:
    """The packets of a finished segment, with PTS, duration and key flag; DTS and stream are the caller's."""
    keys = set(record.keys)
    with path.open("rb") as file:
        for place, (size, pts, duration) in enumerate(zip(record.sizes, record.pts, record.durations, strict=True)):
            packet = cast("Packet[VideoStream]", av.Packet(file.read(size)))
            packet.pts, packet.duration, packet.is_keyframe = pts, duration, place in keys
            yield packet
