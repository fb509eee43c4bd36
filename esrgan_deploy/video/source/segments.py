"""Which frames of a clip are wanted, and where it is cut into segments.

A segment is an interval of display times, so that a run that resumes, and a machine that upscales one segment only, cut
a clip in the same places.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from esrgan_deploy.errors import OptionError
from esrgan_deploy.video.info import VideoInfo
from esrgan_deploy.video.source.scan import Scan


@dataclass(frozen=True)
class Segment:
    """The frames with `begin` <= PTS < `end`, in units of the clip's time base; None: no bound on that side."""

    index: int
    begin: int | None
    end: int | None


def wanted_part(
    info: VideoInfo, scan: Scan, frames: tuple[int | None, int | None], duration_s: float | None
) -> tuple[int | None, int | None]:
    """PTS of the first frame that is wanted and of the first one after them; None: no bound on that side.

    Args:
        info: of the clip.
        scan: of its packets.
        frames: first frame, counted from 0, and the frame after the last one; None: no bound.
        duration_s: seconds from the first wanted frame on; None: all.

    Raises:
        OptionError: the clip has no such frame.
    """
    first, stop = frames
    times = scan.times
    if first is not None and not 0 <= first < len(times):
        raise OptionError(f"frames {first}: is outside {info.path}, which has frames 0 to {len(times) - 1}")
    begin = times[first] if first else None
    end = times[stop] if stop is not None and stop < len(times) else None
    if duration_s is not None and times:
        after = times[first or 0] + round(Fraction(duration_s) / info.time_base)
        end = after if end is None else min(end, after)
    return begin, end


def cut(times: Sequence[int], frames: int, begin: int | None = None, end: int | None = None) -> tuple[Segment, ...]:
    """Segments of `frames` frames each between `begin` and `end`, which may both be open.

    Args:
        times: the display times that the packets state, ascending. They decide where a clip is cut; a decoded frame
            that is not among them belongs to the segment around it, and a time without a frame to none.
        frames: of a segment, by these times; the last segment may hold fewer.
        begin: of the first segment.
        end: of the last one.
    """
    inside = times_within(times, begin, end)
    bounds: list[int | None] = [begin, *inside[frames::frames], end]
    return tuple(Segment(index, *pair) for index, pair in enumerate(pairwise(bounds)))


def times_within(times: Sequence[int], begin: int | None, end: int | None) -> Sequence[int]:
    """The display times of `times`, ascending, from `begin` on and before `end`; None: no bound on that side."""
    first = 0 if begin is None else bisect_left(times, begin)
    return times[first : None if end is None else bisect_left(times, end)]
