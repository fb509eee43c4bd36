"""What is left to do of a clip, and the finished file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from esrgan_deploy.errors import MediaError
from esrgan_deploy.system.files import replacing
from esrgan_deploy.video.output.checkpoint import Checkpoint
from esrgan_deploy.video.output.mux import mux
from esrgan_deploy.video.output.segment_file import SegmentRecord
from esrgan_deploy.video.run.job import VideoJob
from esrgan_deploy.video.source.segments import Segment


def missing(job: VideoJob, checkpoint: Checkpoint) -> list[Segment]:
    """The segments that are still to be done. Behind damage there is nothing to do."""
    return [
        segment for segment in job.segments[: _last(job, checkpoint) + 1] if segment.index not in checkpoint.records
    ]


def _last(job: VideoJob, checkpoint: Checkpoint) -> int:
    """Index of the last segment that the target gets, as far as damage is known."""
    damaged = (index for index, record in checkpoint.records.items() if record.damage)
    return min(damaged, default=len(job.segments) - 1)


def finish(job: VideoJob, checkpoint: Checkpoint, target: Path) -> list[SegmentRecord]:
    """Make the target of the finished segments, and remove them.

    Raises:
        MediaError: the source is damaged, and the target holds the frames before that; or there is no frame at all.
    """
    records = [checkpoint.records[index] for index in range(_last(job, checkpoint) + 1)]
    damage = records[-1].damage or (str(job.scan.damage) if job.scan.damage else None)
    frames = sum(record.frames for record in records)
    if frames:
        span = replace(job.span, stop_quietly=damage is not None)
        with replacing(target) as partial:
            mux(
                partial, job.source, job.settings, [(checkpoint.path(record.index), record) for record in records], span
            )
    checkpoint.remove()
    if damage:
        kept = f"{target} holds the {frames} frames before that" if frames else "no frame comes before that"
        raise MediaError(f"{damage}; {kept}")
    if not frames:
        raise MediaError(f"{job.source.path}: holds no frame in the part that was asked for")
    return records
