"""A finished segment of a clip: a file of encoded packets, one after the other, and a record of what they are.

Each segment has an encoder of its own, so that its neighbours can be encoded by another run or another machine.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

import av
from av.packet import Packet

from esrgan_deploy.system.own_folder import OwnFolder
from esrgan_deploy.video.output.encode import EncoderSettings, FrameToEncode, SegmentEncoder

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_FINISHED = re.compile(r"\d{6,}\.packets")
_UNFINISHED = re.compile(r"\.\d{6,}\.part")
_INT32 = (1 << 31) - 1
_INT64 = (1 << 63) - 1
_LARGEST_INDEX = 10**9


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
        """A dictionary of plain values; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SegmentRecord:
        """Read back what `to_json` gave.

        Raises:
            ValueError: something is missing, of another type, or contradicts the rest; says what.
        """
        try:
            record = cls(**values)
        except TypeError as error:
            raise ValueError("its names are others") from error
        for name, value, largest in (
            ("index", record.index, _LARGEST_INDEX),
            ("frames", record.frames, len(record.sizes) if isinstance(record.sizes, list) else 0),
            ("bytes", record.bytes, _INT64),
            ("reused", record.reused, record.frames),
        ):
            if type(value) is not int or not 0 <= value <= largest:
                raise ValueError(f"{name} is out of range")
        for name, numbers, smallest, largest in (
            ("sizes", record.sizes, 0, _INT32),
            ("pts", record.pts, -_INT64, _INT64),
            ("durations", record.durations, 0, _INT64),
            ("keys", record.keys, 0, record.frames - 1),
        ):
            if not isinstance(numbers, list) or not all(type(n) is int and smallest <= n <= largest for n in numbers):
                raise ValueError(f"{name} are no list of numbers in their range")
        if not record.frames == len(record.sizes) == len(record.pts) == len(record.durations):
            raise ValueError("its lists are not as long as it has frames")
        if sum(record.sizes) != record.bytes:
            raise ValueError("its sizes are not those of its bytes")
        for name, text in (("sha256", record.sha256), ("header", record.header)):
            if not isinstance(text, str) or not re.fullmatch("(?:[0-9a-f]{2})*", text):
                raise ValueError(f"{name} is not in hexadecimal")
        if record.damage is not None and not isinstance(record.damage, str):
            raise ValueError("damage is no text")
        return record


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


def packets_name(index: int) -> str:
    """Of the file of a segment in the folder of a `Checkpoint`."""
    return f"{index:06}.packets"


def unfinished_name(index: int) -> str:
    """Of the same file while it is written."""
    return f".{index:06}.part"


def finished_segments(folder: OwnFolder) -> list[str]:
    """The names of all files of segments in a folder, listed in its journal or not."""
    return list(filter(_FINISHED.fullmatch, folder.names()))


def all_segments(folder: OwnFolder) -> list[str]:
    """As `finished_segments`, and those that were being written when the run ended."""
    return [name for name in folder.names() if _FINISHED.fullmatch(name) or _UNFINISHED.fullmatch(name)]


@dataclass(frozen=True)
class SegmentFile:
    """The file of a finished segment."""

    path: Path
    """As messages name it."""
    open: Callable[[], IO[bytes]]
    record: SegmentRecord


def read_packets(segment: SegmentFile) -> Iterator[Packet[VideoStream]]:
    """The packets of a finished segment, with PTS, duration and key flag; the caller sets DTS and stream."""
    record = segment.record
    keys = set(record.keys)
    with segment.open() as file:
        for place, (size, pts, duration) in enumerate(zip(record.sizes, record.pts, record.durations, strict=True)):
            packet = cast("Packet[VideoStream]", av.Packet(file.read(size)))
            packet.pts, packet.duration, packet.is_keyframe = pts, duration, place in keys
            yield packet
