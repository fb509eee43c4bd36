"""A finished segment of a clip: a file of encoded packets, one after the other, and a record of what they are.

Each segment has an encoder of its own, so that its neighbours can be encoded by another run or another machine.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

import av
from av.packet import Packet

from esrgan_deploy.video.output.encode import EncoderSettings, FrameToEncode, SegmentEncoder

if TYPE_CHECKING:
    from av.video.stream import VideoStream


@dataclass(frozen=True)
class SegmentRecord:
    """What one finished segment holds. Times are in units of the source's time base, packets in decoding order."""

    index: int
    frames: int
    """As many as packets."""
    bytes: int
    sha256: str
    """Of the file of packets."""
    header: str
    """The encoder's extradata in hexadecimal; the same for all segments of a run."""
    sizes: list[int]
    """Bytes of each packet."""
    pts: list[int]
    durations: list[int]
    keys: list[int]
    """Indices of the packets that decoding can begin at."""
    reused: int = 0
    """Frames that equal the frame before and were not computed again."""
    damage: str | None = None
    """Why the source is damaged inside this segment, which ends there; None: it is not."""

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values; `SegmentRecord(**values)` reads it back."""
        return asdict(self)


class SegmentStore(Protocol):
    """Where finished segments go; a `Checkpoint` is one."""

    def file(self, index: int) -> AbstractContextManager[IO[bytes]]:
        """A file for the packets of a segment, which is complete when the block ends."""

    def add(self, record: SegmentRecord) -> None:
        """Take a segment whose file is complete."""


def write_segments(
    store: SegmentStore,
    indices: Sequence[int],
    settings: EncoderSettings,
    frames: Iterable[FrameToEncode],
    damage: Mapping[int, str],
) -> None:
    """Encode the frames of several segments, each into a file of its own.

    Args:
        store: takes each segment when it is finished.
        indices: of the segments, in order; one without frames is written too.
        settings: of the encoder.
        frames: of these segments, in order.
        damage: index of the segment that the source ends in too early -> why. It may be filled in while frames come,
            since damage is met when the frames before it are decoded. Segments after it are left out.

    Raises:
        OutputError: a segment cannot be written.
    """
    left = deque(indices)

    def finish(index: int, own_frames: Iterable[FrameToEncode]) -> None:
        with store.file(index) as file:
            record = write_segment(file, index, settings, own_frames)
        store.add(replace(record, damage=damage.get(index)))

    for index, group in groupby(frames, key=lambda frame: frame.segment):
        while left[0] != index:
            finish(left.popleft(), ())
        finish(left.popleft(), group)
    for index in left:
        if index <= min(damage, default=index):
            finish(index, ())


def write_segment(
    file: IO[bytes], index: int, settings: EncoderSettings, frames: Iterable[FrameToEncode]
) -> SegmentRecord:
    """Encode the frames of one segment into a file: its packets in decoding order, one after the other.

    Raises:
        OptionError: a rate factor that the encoder does not know.
        MediaError: the encoder does not take frames of this size.
        RuntimeError: the encoder did not return one packet for each frame.
    """
    encoder = SegmentEncoder(settings)
    digest = hashlib.sha256()
    sizes: list[int] = []
    pts: list[int] = []
    durations: list[int] = []
    keys: list[int] = []
    reused = 0

    def write(ready: Iterable[Packet[VideoStream]]) -> None:
        for packet in ready:
            file.write(packet)
            digest.update(packet)
            if packet.is_keyframe:
                keys.append(len(sizes))
            sizes.append(packet.size)
            pts.append(cast("int", packet.pts))  # `SegmentEncoder` leaves none without
            durations.append(cast("int", packet.duration))

    for to_encode in frames:
        reused += to_encode.repeated
        write(encoder.encode(to_encode.frame, to_encode.pts, to_encode.duration))
    write(encoder.flush())
    return SegmentRecord(
        index=index,
        frames=len(sizes),
        bytes=sum(sizes),
        sha256=digest.hexdigest(),
        header=encoder.header.hex(),
        sizes=sizes,
        pts=pts,
        durations=durations,
        keys=keys,
        reused=reused,
    )


def packets_path(folder: Path, index: int) -> Path:
    """The file of a segment in the folder of a `Checkpoint`."""
    return folder / f"{index:06}.packets"


def read_packets(path: Path, record: SegmentRecord) -> Iterator[Packet[VideoStream]]:
    """The packets of a finished segment, with PTS, duration and key flag; the caller sets DTS and stream."""
    keys = set(record.keys)
    with path.open("rb") as file:
        for place, (size, pts, duration) in enumerate(zip(record.sizes, record.pts, record.durations, strict=True)):
            packet = cast("Packet[VideoStream]", av.Packet(file.read(size)))
            packet.pts, packet.duration, packet.is_keyframe = pts, duration, place in keys
            yield packet
