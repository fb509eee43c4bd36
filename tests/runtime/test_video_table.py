"""Clips of every kind, and what the ffprobe program says of them before and after: the same.

The table says for each clip what is allowed to differ. For all clips, frames are twice as large, the clock of a
broadcast (.ts, .mpg) starts at zero, with all streams moved by the same time, and Matroska rounds times to its clock of
1 ms.
"""

import hashlib
import subprocess
from fractions import Fraction

import numpy as np
import pytest

from clips import nearest
from described import begins, described
from esrgan_deploy.video import VideoOptions, probe, upscale_video
from esrgan_deploy.video.source.decode import decoded_frames
from esrgan_deploy.video.source.scan import scan_packets
from esrgan_deploy.video.source.segments import cut
from odd_clips import make_clip, needs_programs

pytestmark = needs_programs


def numbered(count=24, rate=25):
    """Times of frames that a container only counts."""
    return [Fraction(index, rate) for index in range(count)]


SMALL = {"colour": ["tv", "smpte170m", None, None]}
"""No tags: the matrix that players assume for frames of this size is written down."""
LARGE = {"colour": ["tv", "bt709", None, None]}
PROGRESSIVE = {"fields": "progressive"}

ROWS = {
    "h264.mp4": {},
    "h264.mov": {},
    "h264.mkv": {},
    "h264.flv": {},
    "h264.ts": {"duration": 1.024},  # of a broadcast it is guessed, without the last packet of sound
    "aac.ts": {},
    "fragmented.mp4": {},
    "hevc.mp4": {},
    "hevc.mkv": {},
    "hevc.ts": {},
    "av1.mp4": SMALL,
    "av1.mkv": SMALL,
    "vp9.webm": {},
    "vp9.mp4": {},
    "vp8.webm": {"colour": ["tv", "bt470bg", None, None]},
    "mpeg2.ts": {},
    # The sound begins 451 ticks of the system clock earlier; ffprobe has no time for the last frame, and
    # guesses the end.
    "mpeg2.mpg": {"ends": 0.97, "duration": 1.008, "times": [Fraction(451, 45000) + time for time in numbered()]},
    "mpeg1.mpg": {
        **SMALL,
        "ends": 0.97,
        "duration": 1.008,
        "times": [Fraction(451, 45000) + time for time in numbered()],
    },
    "mpeg4.mp4": SMALL,
    "mpeg4.avi": SMALL,
    "mpeg4_bframes.avi": {**SMALL, "times": numbered()},
    "xvid.avi": {**SMALL, "times": [Fraction(n, 25) for n in (0, *range(3, 24))]},
    "h264_bframes.avi": {"times": numbered(), "duration": 1.032},  # AVI counts empty frames before the first one
    "mjpeg.avi": {},
    "mjpeg.mov": {},
    "ffv1.mkv": SMALL,
    "rgb.mkv": SMALL,
    "theora.ogv": SMALL,
    "raw.h264": {"times": numbered()},
    "raw_no_bframes.h264": {"times": numbered()},
    "raw.hevc": {"times": numbered()},
    "raw.m2v": {"times": [time + Fraction(1, 25) for time in numbered()]},
    "pictures.y4m": SMALL,
    "film.mp4": {},
    "film.mkv": {},
    "ntsc.mp4": {},
    "pal50.mkv": {},
    "vfr.mp4": {},
    "vfr.mkv": {},
    "long_last.mp4": {},
    "dropped.avi": {**SMALL, "ends": 1.2},  # MP4 adds up times of decoding, which B-frames put before those of display
    "open_gop.mp4": {},
    "open_gop.ts": {},
    "pyramid.mkv": {},
    "intra_refresh.mp4": {},
    "intra_refresh.ts": {},
    "one_gop.mp4": {},
    "edit_list.mp4": {"ends": 0.52},  # where the last frame ends; the source was cut for the sound
    "negative.mp4": {},
    "late_5s.mp4": {},
    "late_5s.mkv": {},
    "clock_wraps.ts": {},  # 33 bits of 90 kHz, after 26.5 hours
    "late_picture.mp4": {},
    "late_picture.mkv": {},
    "late_picture.ts": {},
    "late_sound.mp4": {},
    "late_sound.mkv": {},
    "one_frame.mp4": {},
    "one_frame.mkv": {},
    "two_frames.mp4": {},
    "sizes_of_no_block.mp4": {},
    "sizes_of_no_block.mkv": {},
    "odd.mp4": {},
    "odd.webm": {},
    "one_pixel.mkv": SMALL,
    "wide.mp4": {},
    "anamorphic.mp4": {},
    "anamorphic.mkv": {},
    "anamorphic.ts": {},
    "turned_90.mp4": {},
    "turned_180.mov": {},
    "turned_270.mp4": {},
    "fields.mpg": {**PROGRESSIVE, "times": numbered(), "ends": 0.96, "duration": 0.96},
    "fields.ts": PROGRESSIVE,
    "fields.mkv": PROGRESSIVE,
    "two_languages.mkv": {},
    "two_languages.mp4": {},
    "srt.mkv": {},
    "ass.mkv": {},
    "mov_text.mp4": {},
    "chapters.mp4": {},
    "chapters.mkv": {},
    "font.mkv": {},
    "cover.mp4": {},
    "cover.mkv": {},
    "bt601.mp4": {},
    "bt709.mkv": {},
    "full_range.mp4": {},
    "yuv422.mp4": {},
    "yuv444.mp4": {},
    "ten_bits.mp4": {},
    "ten_bits_422.mov": SMALL,
    "twelve_bits_444.mkv": {},
    "pq.mp4": {},
    "hlg.mkv": {},
    "real_bunny.mp4": {},
    "real_film.mp4": LARGE,
    "real_carphone.mp4": {**SMALL, "ends": 1.1011},  # the cut left out a frame, and its end with it
}
"""Clip -> what differs in the result."""

TO_MP4 = {".mp4", ".mov", ".flv", ".avi", ".h264", ".hevc", ".m2v"}
"""Sources whose result is written to MP4 or MOV, where times are exact; the others go to Matroska."""


@pytest.fixture(scope="session")
def odd(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "odd"
    folder.mkdir(exist_ok=True)
    return lambda name: make_clip(name, folder)


@pytest.mark.parametrize("name", ROWS)
def test_everything_but_the_size_stays(odd, tmp_path, name):
    source = odd(name)
    suffix = source.suffix if source.suffix in (".mp4", ".mov") else ".mp4" if source.suffix in TO_MP4 else ".mkv"
    target = tmp_path / f"large{suffix}"
    upscale_video(source, target, nearest(2), VideoOptions(segment_frames=7, deinterlace="fields" in ROWS[name]))
    expected = on_clock_of(source) | ROWS[name]
    expected["size"] = tuple(2 * side for side in expected["size"])
    if name == "aac.ts":
        expected["packets"] = without_adts(source)
    loosen(expected, exact=suffix != ".mkv")
    assert described(target) == expected


def on_clock_of(source):
    """What ffprobe says, all times moved as is stated above."""
    expected = described(source)
    if source.suffix in (".ts", ".mpg"):
        begin = begins(source)
        expected["times"] = [None if time is None else time - begin for time in expected["times"]]
        expected["packet times"] = [[time - begin for time in times] for times in expected["packet times"]]
        expected["ends"] -= float(begin)
    return expected


def loosen(expected, *, exact):
    """Say how exact the times of a container are."""
    if expected["ends"] is None:  # the container does not say
        expected["ends"] = float(expected["times"][-1]) + 0.04
    expected["ends"] = pytest.approx(expected["ends"], abs=0.0011)
    # That of the longest stream; whether the padding of its last packet counts depends on the muxer.
    expected["duration"] = pytest.approx(expected["duration"] or expected["ends"].expected, abs=0.05)
    if not exact:
        for times in (expected["times"], *expected["packet times"]):
            times[:] = [time and pytest.approx(float(time), abs=0.0006) for time in times]


def without_adts(source):
    """Hashes of AAC packets as MP4 and Matroska hold them: a broadcast puts a header before each."""
    copy = source.with_suffix(".adts.mkv")
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, "-map", "0", "-c", "copy", copy], check=True)
    return described(copy)["packets"]


def test_a_frame_of_8k(odd, tmp_path):
    upscale_video(odd("eight_k.mkv"), tmp_path / "target.mp4", nearest(1))
    found = described(tmp_path / "target.mp4")
    assert (found["frames"], found["size"]) == (1, (7680, 4320))


CARRIES_MORE = {
    name for name in ROWS if name.startswith(("two_", "one_frame", "srt", "ass", "mov_", "ch", "font", "cover"))
}
"""Clips whose frames are like those of others."""


@pytest.mark.parametrize("name", [name for name in ROWS if name not in CARRIES_MORE])
def test_a_segment_alone_holds_the_same_frames(odd, name):
    """Resumed runs and clusters need this, bit for bit: open GOPs, hidden frames, edit lists, broadcasts."""
    info = probe(odd(name), deinterlace="fields" in ROWS[name])
    seen = scan_packets(info)
    segments = cut(seen.times, 5)
    in_one_go = [contents(decoded) for decoded in decoded_frames(info, seen, segments)]
    alone = [contents(decoded) for segment in segments for decoded in decoded_frames(info, seen, [segment])]
    assert alone == in_one_go
    assert [sum(place == segment.index for _, _, place, _ in alone) for segment in segments[:-1]] == [5] * (
        len(segments) - 1
    )


def contents(decoded):
    """Place in time and a hash of every visible sample."""
    planes = [
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in decoded.frame.planes
    ]
    digest = hashlib.sha256(b"".join(plane.tobytes() for plane in planes)).hexdigest()[:12]
    return decoded.pts, decoded.duration, decoded.segment, digest


@pytest.mark.parametrize("name", ["vfr.mp4", "open_gop.ts", "vp9.webm", "mpeg4_bframes.avi"])
def test_times_do_not_depend_on_the_segments(odd, tmp_path, name):
    seen = []
    for frames in (1, 7, 1000):
        target = tmp_path / f"{frames}.mp4" if "webm" not in name else tmp_path / f"{frames}.mkv"
        upscale_video(odd(name), target, nearest(1), VideoOptions(segment_frames=frames))
        found = described(target)
        seen.append([found[key] for key in ("frames", "times", "duration", "packets", "packet times")])
    assert seen[0] == seen[1] == seen[2]
