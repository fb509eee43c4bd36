"""Upscale a clip: five stages at the same time, segment after segment, and a journal of those that are finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.video.output.checkpoint import open_checkpoint
from esrgan_deploy.video.run.finish import finish, missing
from esrgan_deploy.video.run.frames import SegmentUpscaler
from esrgan_deploy.video.run.job import prepare_job
from esrgan_deploy.video.run.options import VideoOptions
from esrgan_deploy.video.run.preview import Preview

if TYPE_CHECKING:
    from esrgan_deploy.upscaler import Upscaler

Progress = Callable[[int, "int | None"], None]
"""Called with the number of frames done and the number of all, if that is known."""


@dataclass(frozen=True)
class VideoSummary:
    """What a run did, and which stage set its pace."""

    frames: int
    """Of the finished file."""
    computed: int
    """Of these, the ones that this run did; the others were finished by a run before it."""
    reused: int
    """Of all frames, those that were equal to the one before and did not have to be computed."""
    tiles_reused: float
    """Share of the tiles that this run did not have to compute."""
    seconds: float
    """From the start to the finished file."""
    busy_s: dict[str, float]
    """Seconds that each stage was at work: decode, to RGB, infer, to YUV, encode."""

    @property
    def fps(self) -> float:
        """Frames per second over the whole run."""
        return self.computed / self.seconds

    @property
    def limit(self) -> str:
        """The stage that the others waited for."""
        return max(self.busy_s, key=self.busy_s.__getitem__, default="decode")


def upscale_video(
    source: Path,
    target: Path,
    upscaler: Upscaler,
    options: VideoOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> VideoSummary:
    """Upscale every frame of `source`; write them with the same time stamps, and all its other streams, to `target`.

    Time stamps, pixel shape, rotation and colour tags stay what they are, sound and subtitles are copied packet for
    packet. MP4 and MOV keep time stamps exactly, Matroska rounds to its clock of 1 ms. The target appears when it is
    finished. Until then finished segments lie in `TARGET.parts`; after an error, Ctrl-C or a crash, `resume` goes on
    with them, to the same bytes.

    Args:
        source: a clip that `probe` accepts.
        target: .mp4, .mov or .mkv; an existing file is replaced.
        upscaler: gives one frame for each one it gets, in order.
        options: what is asked for beside that.
        resume: go on with the segments that an interrupted run finished, if there are any.
        progress: called after each frame.
        note: called with a line that the user should see before the work begins.

    Raises:
        MediaError: the source is no clip, or of a kind that would suffer. Or it is damaged: then the target holds the
            frames before the damage.
        OptionError: an option that cannot be right for this clip.
        OutputError: the target cannot be written, or its format cannot hold what the source carries; or there are
            segments of another run, or of this one without `resume`.
    """
    begin = time.perf_counter()
    options = options or VideoOptions()
    job = prepare_job(source, target, options, upscaler.identity(), upscaler.output_size)
    if job.scan.damage and note:
        note(f"{job.scan.damage}; the frames before that are written")
    with open_checkpoint(target, job.identity, resume=resume) as checkpoint:
        before = sum(record.frames for record in checkpoint.records.values())
        counts = replace(upscaler.counts)
        segments = SegmentUpscaler(
            job,
            upscaler,
            checkpoint,
            progress=(lambda done: progress(before + done, max(before + done, job.frames))) if progress else None,
            preview=Preview(target, options.preview) if options.preview else None,
        )
        segments.run(missing(job, checkpoint))
        records = finish(job, checkpoint, target)
    frames = sum(record.frames for record in records)
    return VideoSummary(
        frames=frames,
        computed=frames - before,
        reused=sum(record.reused for record in records),
        tiles_reused=upscaler.counts.since(counts).share_reused,
        seconds=time.perf_counter() - begin,
        busy_s=segments.busy_s,
    )
