"""Decoding times and the end of a stream, from display times alone."""

import json
import subprocess
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esrgan_deploy.video.output.timestamps import closing_duration, decoding_times
from odd_clips import ffmpeg, needs_programs


@st.composite
def decoding_orders(draw, longest=24):
    """Display times in an order that an encoder could send them: no packet comes many places late."""
    gaps = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=longest))
    start = draw(st.integers(-5000, 5000))
    shown = [start + sum(gaps[:index]) for index in range(len(gaps))]
    late = draw(st.lists(st.integers(0, 4), min_size=len(shown), max_size=len(shown)))
    return [time for _, time in sorted(zip((place + by for place, by in enumerate(late)), shown, strict=True))]


@given(decoding_orders())
def test_decoding_times_increase_and_never_come_after_display(pts):
    dts = decoding_times(pts)
    assert all(early < late for early, late in pairwise(dts))
    assert all(decoded <= shown for decoded, shown in zip(dts, pts, strict=True))


@given(decoding_orders(longest=9))
def test_no_packet_could_be_decoded_one_place_later(pts):
    """With one place less of delay, some packet would be decoded after it is shown."""
    shown = sorted(pts)
    early = delay(pts)
    assert decoding_times(pts)[early:] == shown[: len(pts) - early]
    if early:
        later = shown[: len(pts) - early + 1]
        assert any(decoded > time for decoded, time in zip(later, pts[early - 1 :], strict=True))


@given(st.lists(decoding_orders(longest=6), min_size=1, max_size=4))
def test_segments_are_delayed_as_much_as_the_one_that_needs_most(groups):
    """No packet crosses the border of a segment, so that borders add nothing."""
    pts, end = [], 0
    for group in groups:
        shift = end - min(group) + 1
        pts += [time + shift for time in group]
        end = max(pts)
    assert delay(pts) == max(map(delay, groups))


def delay(pts):
    """Packets that are decoded before the clock begins."""
    return sum(time < min(pts) for time in decoding_times(pts))


@given(st.integers(1, 7), st.integers(1, 500), st.integers(-900, 900))
def test_without_reordering_decoding_is_display(count, gap, start):
    pts = [start + index * gap for index in range(count)]
    assert decoding_times(pts) == pts


@pytest.mark.parametrize(
    ("pts", "dts"),
    [
        ([7], [7]),
        ([0, 2, 1], [-1, 0, 1]),
        ([0, 4, 2, 1, 3], [-2, -1, 0, 1, 2]),
        ([0, 1000, 10, 20], [-10, 0, 10, 20]),
        ([100, 300, 150, 1300, 400], [50, 100, 150, 300, 400]),
    ],
)
def test_times_worked_out_by_hand(pts, dts):
    """The packets before the clock begins lie at the distances with which it goes on."""
    assert decoding_times(pts) == dts


@needs_programs
@pytest.mark.parametrize(
    "settings", ["bframes=0", "bframes=1", "bframes=3:b-pyramid=none", "bframes=5:b-pyramid=normal:open-gop=1"]
)
def test_x264_gives_the_same_decoding_times(tmp_path, settings):
    source = "-f lavfi -i testsrc2=size=64x48:rate=25 -frames:v 30"
    encoder = f"-c:v libx264 -preset veryfast -x264-params keyint=12:{settings}"
    ffmpeg(f"{source} {encoder} -enc_time_base 1/25 clip.mp4", tmp_path)
    show = ["ffprobe", "-v", "error", "-show_entries", "packet=pts,dts", "-print_format", "json", "clip.mp4"]
    packets = json.loads(subprocess.run(show, cwd=tmp_path, capture_output=True, check=True).stdout)["packets"]
    assert decoding_times([int(packet["pts"]) for packet in packets]) == [int(packet["dts"]) for packet in packets]


@given(decoding_orders(), st.integers(1, 100_000), st.integers(1, 1000))
def test_the_end_is_kept_as_far_as_it_can_be(pts, last, usual):
    """A sum of decoding distances and the closing one is what MP4 calls the duration."""
    durations = [last if time == max(pts) else usual for time in pts]
    dts = decoding_times(pts)
    closing = closing_duration(pts, dts, durations)
    end = max(pts) + last
    lasts = dts[-1] - dts[0] + closing
    assert closing >= durations[-1]
    assert pts[-1] + closing <= max(end, pts[-1] + durations[-1])
    assert lasts >= end - min(pts) or pts[-1] + closing == max(end, pts[-1] + durations[-1])


def test_a_long_last_frame_with_b_frames():
    """Shown I B P, decoded I P B: the P lasts 500 units, and MP4 ends with the B, which is decoded last."""
    pts, durations = [0, 20, 10], [10, 500, 10]
    dts = decoding_times(pts)
    assert dts == [-10, 0, 10]
    assert (dts[-1] - dts[0]) + closing_duration(pts, dts, durations) == 520


def test_every_order_of_four_frames_has_valid_times():
    for pts in permutations([0, 10, 20, 35]):
        dts = decoding_times(pts)
        assert sorted(set(dts)) == dts
        assert all(decoded <= shown for decoded, shown in zip(dts, pts, strict=True))
