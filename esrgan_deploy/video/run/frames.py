"""The frame pipeline: five stages that work at the same time, each in its own thread.

    decode -> to RGB -> infer -> to YUV -> encode

Decode and encode are FFmpeg's, which has threads of its own. Infer submits frames to the session and waits for the
results. Between two stages only a few frames wait, so that memory does not grow with the length of a clip.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from esrgan_deploy.errors import MediaError
from esrgan_deploy.video.info import VideoInfo
from esrgan_deploy.video.output.encode import EncoderSettings, FrameToEncode
from esrgan_deploy.video.output.segment_file import SegmentStore, write_segments
from esrgan_deploy.video.pixels.convert import to_rgb, to_yuv
from esrgan_deploy.video.run.job import VideoJob
from esrgan_deploy.video.run.stages import Channel, Stages
from esrgan_deploy.video.source.decode import DecodedFrame, decoded_frames
from esrgan_deploy.video.source.segments import Segment

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    from esrgan_deploy.upscaler import Upscaler
    from esrgan_deploy.video.run.preview import Preview

FrameProgress: TypeAlias = Callable[[int, "int | None"], None]
"""Called with the number of frames done and the number of all, None where that is unknown."""

STAGES = ("decode", "to RGB", "infer", "to YUV", "encode")
_SMALL_AHEAD = 4
_LARGE_AHEAD = 2
"""Frames that may wait between two stages: enough to even out their pace, few because upscaled frames are large."""
_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class _RgbFrame:
    """RGB pixels, (H, W, 3) uint8 or uint16, and when they are shown."""

    pixels: npt.NDArray[Any]
    pts: int
    duration: int
    segment: int
    before: npt.NDArray[Any] | None = None
    """The pixels that were upscaled, kept for the preview only."""


@dataclass(frozen=True)
class FramePipeline:
    """Takes decoded frames through the network to an encoder."""

    info: VideoInfo
    """Of the clip that the frames come from."""
    settings: EncoderSettings
    upscaler: Upscaler
    """Gives one frame for each one it gets, in order."""
    progress: Callable[[int], None] | None = None
    """Called after each frame with the number done."""
    preview: Preview | None = None
    """Takes frames before and after."""

    def run(
        self, frames: Iterable[DecodedFrame], encode: Callable[[Iterable[FrameToEncode]], None]
    ) -> dict[str, float]:
        """Run all stages until the last frame is encoded.

        Args:
            frames: from a decoder; iterated in a thread.
            encode: takes all frames in order; called in a thread.

        Returns:
            Seconds that each of `STAGES` was at work; waiting for the network is part of infer.

        Raises:
            RuntimeError: the upscaler does not give one frame of the right size for each one.
        """
        with Stages() as stages:
            decoded: Channel[DecodedFrame] = stages.channel(_SMALL_AHEAD)
            small: Channel[_RgbFrame] = stages.channel(_SMALL_AHEAD)
            large: Channel[_RgbFrame] = stages.channel(_LARGE_AHEAD)
            to_encode: Channel[FrameToEncode] = stages.channel(_LARGE_AHEAD)
            stages.start("decode", lambda: decoded.put_all(frames))
            stages.start("to RGB", lambda: small.put_all(self._to_rgb(decoded)))
            stages.start("to YUV", lambda: to_encode.put_all(self._to_yuv(large)))
            stages.start("encode", lambda: encode(to_encode))
            with stages.here("infer"):
                large.put_all(self._counted(self._infer(small)))
            stages.join()
        return {name: stages.busy_s[name] for name in STAGES}

    def _to_rgb(self, frames: Iterable[DecodedFrame]) -> Iterator[_RgbFrame]:
        info = self.info
        convert = to_rgb(
            info.width,
            info.height,
            info.pixel_format,
            info.colour.resolved(info.width, info.height),
            chroma_location=info.chroma_location,
        )
        for decoded in frames:
            yield _RgbFrame(convert(decoded.frame), decoded.pts, decoded.duration, decoded.segment)

    def _infer(self, frames: Iterable[_RgbFrame]) -> Iterator[_RgbFrame]:
        """Upscale frames and give each result the time of the frame it was made from.

        Each segment is upscaled on its own, so that its bytes do not depend on which other ones this run upscales.
        """
        for _, segment in groupby(frames, key=lambda frame: frame.segment):
            in_flight: deque[_RgbFrame] = deque()
            for large in self.upscaler.map(self._pixels(segment, in_flight)):
                if not in_flight:
                    raise RuntimeError("the upscaler returned more frames than it was given")
                yield replace(in_flight.popleft(), pixels=large)
            if in_flight:
                raise RuntimeError(f"the upscaler kept {len(in_flight)} frames")

    def _pixels(self, frames: Iterable[_RgbFrame], in_flight: deque[_RgbFrame]) -> Iterator[npt.NDArray[Any]]:
        """The pixels of frames, for the upscaler. The times go to `in_flight`, and for a preview the pixels as well."""
        for frame in frames:
            in_flight.append(replace(frame, pixels=_NO_PIXELS, before=frame.pixels if self.preview else None))
            yield frame.pixels

    def _counted(self, frames: Iterable[_RgbFrame]) -> Iterator[_RgbFrame]:
        for done, frame in enumerate(frames, 1):
            yield frame
            if self.progress:
                self.progress(done)

    def _to_yuv(self, frames: Iterable[_RgbFrame]) -> Iterator[FrameToEncode]:
        settings = self.settings
        size = (settings.height, settings.width, 3)
        convert = to_yuv(
            settings.width,
            settings.height,
            settings.pixel_format,
            settings.colour,
            chroma_location=settings.chroma_location,
        )
        pixels = converted = None
        for frame in frames:
            if frame.pixels.shape != size:
                raise RuntimeError(f"a frame of shape {frame.pixels.shape} was to be encoded as {size}")
            if self.preview and frame.before is not None:
                self.preview.add(frame.before, frame.pixels)
            repeated = frame.pixels is pixels
            if converted is None or not repeated:
                pixels, converted = frame.pixels, convert(frame.pixels)
            yield FrameToEncode(converted, frame.pts, frame.duration, frame.segment, repeated)


def upscale_segments(
    job: VideoJob,
    segments: Sequence[Segment],
    upscaler: Upscaler,
    store: SegmentStore,
    *,
    progress: Callable[[int], None] | None = None,
    preview: Preview | None = None,
) -> dict[str, float]:
    """Decode, upscale and encode segments of a clip. Where it is damaged, its last segment ends before the damage.

    `segments` are some of the job's, in order; `store` takes each of them when it is finished, from another thread. For
    the others see `FramePipeline`.

    Returns:
        See `FramePipeline.run`; empty if there are no segments.

    Raises:
        OutputError: a segment cannot be written.
    """
    if not segments:
        return {}
    damage: dict[int, str] = {}
    indices = [segment.index for segment in segments]
    return FramePipeline(job.source, job.settings, upscaler, progress, preview).run(
        _decoded(job, segments, damage),
        lambda frames: write_segments(store, indices, job.settings, frames, damage),
    )


def _decoded(job: VideoJob, segments: Sequence[Segment], damage: dict[int, str]) -> Iterator[DecodedFrame]:
    """The frames of segments up to damage of the clip, which is put into `damage` by the index of its segment."""
    for neighbours in _consecutive(segments):
        index = neighbours[0].index
        try:
            for frame in decoded_frames(job.source, job.scan, neighbours):
                index = frame.segment
                yield frame
        except MediaError as error:
            damage[index] = str(error)
            return


def _consecutive(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Lists of segments that follow each other without a gap: the decoder seeks once for each list."""
    for _, group in groupby(enumerate(segments), key=lambda pair: pair[1].index - pair[0]):
        yield [segment for _, segment in group]
