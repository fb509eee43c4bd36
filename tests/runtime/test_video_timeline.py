"""The account of frames that go through an encoder."""

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esrgan_deploy.video.decode import Frame
from esrgan_deploy.video.timeline import Timeline, trusted_dts

PIXELS = np.zeros((2, 2, 3), np.uint8)


def packet(pts, dts):
    made = av.Packet(4)
    made.pts, made.dts = pts, dts
    return made


def timeline_of(*times):
    timeline = Timeline()
    for pts, duration in times:
        timeline.send(Frame(PIXELS, pts, duration))
    return timeline


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.integers(-5000, 5000))
def test_packets_come_back_once_with_their_durations(durations, start):
    pts = [start + sum(durations[:index]) for index in range(len(durations))]
    timeline = timeline_of(*zip(pts, durations, strict=True))
    got = [*timeline.receive(packet(time, time) for time in pts), *timeline.end()]
    assert [(p.pts, p.dts, p.duration) for p in got] == list(zip(pts, pts, durations, strict=True))


@pytest.mark.parametrize("returned", [[0, 0], [0, 3]], ids=["twice", "never sent"])
def test_a_packet_too_many_is_an_error(returned):
    timeline = timeline_of((0, 1), (1, 1))
    with pytest.raises(RuntimeError, match=f"returned PTS {returned[1]}, not sent to it or returned before"):
        list(timeline.receive(packet(time, time) for time in returned))


def test_a_packet_too_few_is_an_error():
    timeline = timeline_of((0, 1), (1, 1))
    assert list(timeline.receive([packet(0, 0)])) == []
    with pytest.raises(RuntimeError, match="kept 1 frames, one has PTS 1"):
        list(timeline.end())


def test_the_last_packet_lasts_until_the_end_of_the_clip():
    """Shown I B P, decoded I P B: the P lasts 500 units, but MP4 ends with the B."""
    timeline = timeline_of((0, 10), (10, 10), (20, 500))
    *_, last = [*timeline.receive([packet(0, -10), packet(20, 0), packet(10, 10)]), *timeline.end()]
    assert last.pts == 10
    assert (last.dts - -10) + last.duration == 520


@pytest.mark.parametrize(
    ("dts", "expected"),
    [(-2048, -2048), (0, 0), (512, 512), (None, 512), (-2049, 512), (-(2**62), 512), (2**62, 512), (513, 512)],
)
def test_a_dts_that_cannot_be_true_is_replaced(dts, expected):
    """x265 returns what was in memory for clips of two frames: seen were -244813135929 and -4409931549575161904."""
    assert trusted_dts(dts, pts=512, first_pts=0, last_pts=2048) == expected
