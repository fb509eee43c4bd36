"""Upscale a clip from file to file: segment after segment, each kept when it is finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.video.output.checkpoint import open_checkpoint
from esrgan_deploy.video.run.finish import VideoSummary, finish, missing
from esrgan_deploy.video.run.frames import FrameProgress, upscale_segments
from esrgan_deploy.video.run.job import prepare_job
from esrgan_deploy.video.run.options import VideoOptions
from esrgan_deploy.video.run.preview import Preview

if TYPE_CHECKING:
    from esrgan_deploy.upscaler import Upscaler


def upscale_video(
    source: StrPath,
    target: StrPath,
    upscaler: Upscaler,
    options: VideoOptions | None = None,
    *,
    resume: bool = False,
    progress: FrameProgress | None = None,
    note: Callable[[str], None] | None = None,
) -> VideoSummary:
    """Upscale every frame of `source`; write them with the same time stamps, and all its other streams, to `target`.

    Time stamps, pixel shape, rotation and colour tags stay what they are; sound and subtitles are copied packet for
    packet. MP4 and MOV keep time stamps exactly, Matroska rounds to its clock of 1 ms. The target appears when it is
    finished. Until then finished segments lie in `TARGET.parts`; after an error, Ctrl-C or a crash, `resume` goes on
    with them, to the same bytes.

    Args:
        source: a clip that `probe` accepts.
        target: .mp4, .mov or .mkv; an existing file is replaced.
        upscaler: gives one frame for each one it gets, in order.
        options: which frames, and how they are encoded.
        resume: go on with the segments that an interrupted run finished, if there are any.
        progress: called after each frame.
        note: called with a line that the user should see before the work begins.

    Raises:
        MediaError: the source is no clip, or of a kind that is refused, see `probe`. Or it is damaged: then the target
            holds the frames before the damage.
        OptionError: an option that cannot be right for this clip.
        OutputError: the target cannot be written, or its format cannot hold what the source carries; or there are
            segments of another run, or of this one without `resume`.
    """
    begin, counts = time.perf_counter(), replace(upscaler.counts)
    options = options or VideoOptions()
    source, target = as_path(source), as_path(target)
    job = prepare_job(source, target, options, upscaler.identity(), upscaler.output_size, note)
    with open_checkpoint(target, job.identity, resume=resume) as checkpoint:
        resumed = checkpoint.resumed
        busy_s = upscale_segments(
            job,
            missing(job, checkpoint),
            upscaler,
            checkpoint,
            progress=(lambda done: progress(resumed + done, max(resumed + done, job.frames))) if progress else None,
            preview=Preview(target, options.preview) if options.preview else None,
        )
        return finish(job, checkpoint, target, upscaler.counts.since(counts), busy_s, begin)
