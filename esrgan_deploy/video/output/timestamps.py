"""Decoding times for packets whose display times are known: one rule for all encoders.

Encoders give decoding times too, but each segment of a clip has an encoder that does not know of the others, and some
leave them unset for short clips. They follow from the order of the packets and their display times alone.
"""

from __future__ import annotations

from collections.abc import Sequence


def decoding_times(pts: Sequence[int]) -> list[int]:
    """DTS for the packets of a stream: strictly increasing, never after the PTS, as late as that allows.

    Packet i is decoded when frame i - delay is shown, where `delay` is the largest number of places by which a packet
    comes after its place in display order. The first `delay` packets are decoded before the first frame is shown, at
    the distances of the first frames.

    Args:
        pts: display times of the packets in decoding order, all different.
    """
    shown = sorted(pts)
    rank = {time: place for place, time in enumerate(shown)}
    delay = max((place - rank[time] for place, time in enumerate(pts)), default=0)
    before = [shown[0] - (shown[delay] - time) for time in shown[:delay]]
    return before + shown[: len(shown) - delay]


def closing_duration(pts: Sequence[int], dts: Sequence[int], durations: Sequence[int]) -> int:
    """Duration of the packet that is decoded last, such that the stream ends with the frame that is shown last.

    MP4 stores the distances of decoding times, and the duration of the last packet ends the stream. With B-frames that
    is not the frame that is shown last, so that the duration of a long last frame would be lost. No packet lasts longer
    than to the end of that frame.
    """
    last = max(range(len(pts)), key=pts.__getitem__)
    end = pts[last] + durations[last]
    missing = end - min(pts) - (dts[-1] - dts[0])
    return max(durations[-1], min(missing, end - pts[-1]))
