"""Finished segments of a clip: its pictures go through the flow, and each segment has an encoder of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import IO, TYPE_CHECKING, Protocol

from esrgan_deploy.errors import MediaError
from esrgan_deploy.video.decode import Picture, decoded_pictures
from esrgan_deploy.video.encode import SegmentEncoder
from esrgan_deploy.video.flow import Coding, Flow
from esrgan_deploy.video.job import Job
from esrgan_deploy.video.segments import Segment, SegmentRecord, SegmentWriter

if TYPE_CHECKING:
    from esrgan_deploy.upscaler import Upscaler
    from esrgan_deploy.video.preview import Preview


class Shelf(Protocol):
    """Where finished segments go; a `Journal` is one."""

    def file(self, index: int) -> AbstractContextManager[IO[bytes]]:
        """A file for the packets of a segment, which is complete when the block ends."""

    def add(self, record: SegmentRecord) -> None:
        """Take a segment whose file is complete."""


class Chain:
    """Upscales segments of one clip. Made for one run."""

    def __init__(
        self,
        job: Job,
        upscaler: Upscaler,
        shelf: Shelf,
        *,
        progress: Callable[[int], None] | None = None,
        preview: Preview | None = None,
    ) -> None:
        """Prepare.

        Args:
            job: the clip and what to make of it.
            upscaler: gives one frame for each one it gets, in order.
            shelf: takes each segment when it is finished, from another thread.
            progress: called after each frame with the number done.
            preview: takes frames before and after.
        """
        self._job = job
        self._shelf = shelf
        self._flow = Flow(job.source, job.settings, upscaler, progress=progress, preview=preview)
        self._damage: tuple[int, str] | None = None
        """The segment that ends too early, and why."""

    @property
    def busy_s(self) -> dict[str, float]:
        """Seconds that each stage was at work."""
        return self._flow.busy_s

    def run(self, segments: Sequence[Segment]) -> None:
        """Finish `segments`. Where the source is damaged, its segment ends before that, and is the last one.

        Raises:
            OutputError: a segment cannot be written.
        """
        if segments:
            self._flow.run(self._decode(segments), lambda codings: self._encode(segments, codings))

    def _decode(self, segments: Sequence[Segment]) -> Iterator[Picture]:
        for run in _consecutive(segments):
            segment = run[0].index
            try:
                for picture in decoded_pictures(self._job.source, self._job.seen, run):
                    segment = picture.segment
                    yield picture
            except MediaError as error:
                self._damage = (segment, str(error))
                return

    def _encode(self, segments: Sequence[Segment], codings: Iterable[Coding]) -> None:
        left = deque(segments)
        for index, group in groupby(codings, key=lambda coding: coding.segment):
            while left[0].index != index:
                self._finish_segment(left.popleft(), ())
            self._finish_segment(left.popleft(), group)
        for segment in left:
            if self._damage is None or segment.index <= self._damage[0]:
                self._finish_segment(segment, ())

    def _finish_segment(self, segment: Segment, codings: Iterable[Coding]) -> None:
        """Encode all frames of one segment. If damage ends it, that is known when they are through."""
        encoder = SegmentEncoder(self._job.settings)
        reused = 0
        with self._shelf.file(segment.index) as file:
            writer = SegmentWriter(file, segment.index)
            for coding in codings:
                reused += coding.repeated
                for packet in encoder.encode(coding.picture, coding.pts, coding.duration):
                    writer.write(packet)
            for packet in encoder.flush():
                writer.write(packet)
        damage = self._damage[1] if self._damage and self._damage[0] == segment.index else None
        self._shelf.add(writer.record(encoder.header, reused, damage))


def _consecutive(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Runs of segments that follow each other without a gap, each to be decoded in one go."""
    for _, run in groupby(enumerate(segments), key=lambda pair: pair[1].index - pair[0]):
        yield [segment for _, segment in run]
