"""The segments that are still missing, the finished file made of all of them, and what the run did."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from esrgan_deploy.errors import MediaError, OutputError
from esrgan_deploy.system.files import UnwritableError, replacing
from esrgan_deploy.tile_reuse import Counts
from esrgan_deploy.video.output.checkpoint import Checkpoint
from esrgan_deploy.video.output.mux import mux
from esrgan_deploy.video.run.job import VideoJob
from esrgan_deploy.video.source.segments import Segment


@dataclass(frozen=True)
class VideoSummary:
    """What a run did, and which stage set its pace."""

    frames: int
    """Of the finished file."""
    computed: int
    """Of these, the ones that this run upscaled; the others come from an interrupted run that it resumed."""
    reused: int
    """Of all frames, those that equal the frame before and were not computed again."""
    tiles_reused: float
    """Share of the tiles that this run did not have to compute, 0 to 1."""
    seconds: float
    """From the start to the finished file."""
    busy_s: Mapping[str, float]
    """Seconds that each stage was at work: decode, to RGB, infer, to YUV, encode."""

    @property
    def fps(self) -> float:
        """Frames per second over the whole run."""
        return self.computed / self.seconds

    @property
    def limit(self) -> str:
        """The stage that the others waited for."""
        return max(self.busy_s, key=self.busy_s.__getitem__, default="decode")


def missing(job: VideoJob, checkpoint: Checkpoint) -> list[Segment]:
    """The segments that are not finished. None after damage: the target ends there."""
    wanted = job.segments[: _last(job, checkpoint) + 1]
    return [segment for segment in wanted if segment.index not in checkpoint.records]


def finish(
    job: VideoJob, checkpoint: Checkpoint, target: Path, counts: Counts, busy_s: Mapping[str, float], begin: float
) -> VideoSummary:
    """Mux the finished segments into the target, remove them, and sum up the run.

    Args:
        job: all its segments are finished, up to damage of the source.
        checkpoint: holds them.
        target: the file to make.
        counts: what the Upscalers of this run did.
        busy_s: seconds that each stage was at work.
        begin: `time.perf_counter()` at the start of the run.

    Raises:
        MediaError: the source is damaged, and the target holds the frames before that; or there is no frame at all.
    """
    records = [checkpoint.records[index] for index in range(_last(job, checkpoint) + 1)]
    damage = records[-1].damage or (str(job.scan.damage) if job.scan.damage else None)
    frames = sum(record.frames for record in records)
    if frames:
        files = [checkpoint.segment(record.index) for record in records]
        try:
            with replacing(target) as partial:
                mux(partial, job.source, job.settings, files, replace(job.span, stop_quietly=damage is not None))
        except UnwritableError as error:
            raise OutputError(
                f"{error.what}; make room, then --resume goes on; or move {checkpoint.folder.path} to another disk as "
                "NAME.parts, then -o NAME --resume finishes there"
            ) from error
    checkpoint.remove()
    if damage:
        kept = f"{target} holds the {frames} frames before that" if frames else "no frame comes before that"
        raise MediaError(f"{damage}; {kept}")
    if not frames:
        raise MediaError(f"{job.source.path}: holds no frame in the part that was asked for")
    return VideoSummary(
        frames=frames,
        computed=frames - checkpoint.resumed,
        reused=sum(record.reused for record in records),
        tiles_reused=counts.share_reused,
        seconds=time.perf_counter() - begin,
        busy_s=busy_s,
    )


def _last(job: VideoJob, checkpoint: Checkpoint) -> int:
    """Index of the last segment of the target, as far as damage is known."""
    damaged = (index for index, record in checkpoint.records.items() if record.damage)
    return min([*damaged, len(job.segments) - 1])
