"""Upscaling a clip end to end: every frame, its time, its colours, and everything else copied."""

import json
import shutil
import struct
import subprocess
import sys
import tempfile
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clips import TICKS, copied_packets, nearest, numbered, planes, read_frames, times, write_clip, yuv_frame
from esrgan_deploy.tile_reuse import Counts
from esrgan_deploy.video import CODECS, VideoOptions, probe, upscale_video
from esrgan_deploy.video.info import BT601, BT709, Colour

BUNNY = Path(__file__).parent.parent / "data" / "bigbuckbunny.mp4"
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the oracle, ffmpeg, is not installed")
B_FRAMES = {"bf": "3", "g": "12", "preset": "fast"}


def reordered(path):
    with av.open(str(path)) as clip:
        return any(packet.pts != packet.dts for packet in clip.demux(video=0) if packet.size)


@pytest.mark.parametrize("codec", CODECS)
def test_a_real_clip_keeps_frames_times_sound_and_tags(tmp_path, codec):
    out = tmp_path / "out.mp4"
    summary = upscale_video(BUNNY, out, nearest(2), VideoOptions(codec=codec))
    assert reordered(BUNNY), "the excerpt is there to test B-frames"
    assert reordered(out) is (codec != "av1"), "which hides its reordering inside packets"
    assert times(out) == times(BUNNY) == [Fraction(n, 25) for n in range(50)]
    assert copied_packets(out) == copied_packets(BUNNY)
    before, after = probe(BUNNY), probe(out)
    assert (after.width, after.height) == (640, 360)
    assert (after.colour, after.frame_rate, after.time_base) == (before.colour, before.frame_rate, before.time_base)
    assert after.duration_s == before.duration_s == 2.0
    assert (summary.frames, len(list(tmp_path.iterdir()))) == (50, 1)


def test_the_frames_are_those_of_the_source(tmp_path):
    out = tmp_path / "out.mp4"
    upscale_video(BUNNY, out, nearest(2))
    for (_, _, small), (_, _, large) in zip(read_frames(BUNNY)[::10], read_frames(out)[::10], strict=True):
        shrunk = planes(large)[0].reshape(180, 2, 320, 2).mean((1, 3))
        error = ((shrunk - planes(small)[0]) ** 2).mean()
        assert 10 * np.log10(255**2 / error) > 40


@needs_ffmpeg
def test_ffmpeg_sees_the_same_sound_and_the_same_times(tmp_path):
    out = tmp_path / "out.mp4"
    upscale_video(BUNNY, out, nearest(2))

    def sound(path):
        command = ["ffmpeg", "-v", "error", "-i", path, "-map", "0:a", "-c", "copy", "-f", "streamhash", "-"]
        return subprocess.run(command, capture_output=True, check=True).stdout

    def picture_times(path):
        command = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_frames", "-of", "json", path]
        frames = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["frames"]
        return [frame["pts_time"] for frame in frames]

    assert sound(out) == sound(BUNNY) != b""
    assert picture_times(out) == picture_times(BUNNY)


@settings(max_examples=15)
@given(
    gaps=st.lists(st.integers(1, 40_000), min_size=1, max_size=40),
    start=st.integers(0, 50_000),
    time_base=st.sampled_from([TICKS, Fraction(1, 90_000), Fraction(1001, 30_000), Fraction(1, 24)]),
    options=st.sampled_from([{"bf": "0"}, B_FRAMES]),
    codec=st.sampled_from(sorted(CODECS)),
)
def test_times_of_any_spacing_are_kept_exactly(gaps, start, time_base, options, codec):
    if time_base.denominator < 1000:
        gaps, start = [gap % 60 + 1 for gap in gaps], start % 100
    pts = [*accumulate(gaps, initial=start)]
    with tempfile.TemporaryDirectory() as folder:
        source = write_clip(Path(folder) / "in.mp4", pts, time_base=time_base, options=options)
        out = Path(folder) / "out.mp4"
        upscale_video(source, out, nearest(1), VideoOptions(codec=codec))
        frames = read_frames(out)
        assert [number for _, number, _ in frames] == list(range(len(pts)))
        assert [time for time, _, _ in frames] == times(source)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_shortest_clips_are_complete(tmp_path, codec, count):
    source = write_clip(tmp_path / "in.mp4", range(0, 512 * count, 512))
    upscale_video(source, tmp_path / "out.mp4", nearest(2), VideoOptions(codec=codec))
    assert times(tmp_path / "out.mp4") == [Fraction(n, 25) for n in range(count)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [1, 6, 9])
def test_a_long_last_frame_stays_long(tmp_path, codec, count):
    pts = range(0, 512 * count, 512)
    options = {"bf": "0", "preset": "fast"}  # a preset with a delay: the last packet comes when flushing
    source = write_clip(tmp_path / "in.mp4", pts, options=options, last_duration=12800)
    upscale_video(source, tmp_path / "out.mp4", nearest(1), VideoOptions(codec=codec))
    expected = float(Fraction(count - 1, 25) + 1)
    assert probe(source).duration_s == expected
    assert probe(tmp_path / "out.mp4").duration_s == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize(("rate", "base"), [(Fraction(30_000, 1001), 30_000), (Fraction(24_000, 1001), 24_000)])
def test_ntsc_rates_do_not_drift(tmp_path, rate, base):
    source = write_clip(tmp_path / "in.mp4", range(0, 200 * 1001, 1001), time_base=Fraction(1, base), rate=rate)
    upscale_video(source, tmp_path / "out.mp4", nearest(1))
    assert times(tmp_path / "out.mp4") == [n / rate for n in range(200)]
    assert probe(tmp_path / "out.mp4").frame_rate == rate


@pytest.mark.parametrize("delay", [0, 1, 1579, 20_001])
def test_a_video_that_starts_later_than_its_sound_stays_in_step(tmp_path, delay):
    source = write_clip(
        tmp_path / "in.mp4",
        range(delay, delay + 20 * 512, 512),
        options=B_FRAMES,
        sounds=[(0, 1.0)],
        container_options={"movie_timescale": "192000"},
    )
    out = tmp_path / "out.mp4"
    upscale_video(source, out, nearest(1))
    assert times(out)[0] == times(source)[0] == delay * TICKS
    assert times(out) == times(source)
    assert copied_packets(out) == copied_packets(source), "their times included"


def test_sound_and_video_alternate_in_the_file(tmp_path):
    """Players read a file from front to back. FFmpeg's muxer sorts by itself, but over ten seconds only."""
    source = write_clip(tmp_path / "in.mkv", range(0, 30_000, 500), time_base=Fraction(1, 1000), sounds=[(0, 30)])
    upscale_video(source, tmp_path / "out.mkv", nearest(1))
    with av.open(str(tmp_path / "out.mkv")) as clip:
        order = [(packet.stream.type, packet.pts) for packet in clip.demux() if packet.size]
    latest = {"audio": 0, "video": 0}
    for kind, milliseconds in order:
        latest[kind] = milliseconds
        assert abs(latest["audio"] - latest["video"]) < 3000


def test_matroska_rounds_to_its_clock_of_a_millisecond(tmp_path):
    source = write_clip(tmp_path / "in.mp4", range(0, 30 * 1001, 1001), time_base=Fraction(1, 30_000))
    upscale_video(source, tmp_path / "out.mkv", nearest(1))
    apart = [abs(a - b) for a, b in zip(times(tmp_path / "out.mkv"), times(source), strict=True)]
    assert max(apart) <= Fraction(1, 2000)


def test_matroska_moves_sound_before_zero_and_video_together(tmp_path):
    upscale_video(BUNNY, tmp_path / "out.mkv", nearest(1))
    sound_before, sound_after = (copied_packets(path)[0][1] for path in (BUNNY, tmp_path / "out.mkv"))
    assert sound_before < 0, "the excerpt is there to test a sound that starts before zero"
    shift = times(tmp_path / "out.mkv")[0] - times(BUNNY)[0]
    assert abs(sound_after - sound_before - shift) <= Fraction(1, 1000)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_broadcast_starts_at_zero_with_sound_and_video_in_step(tmp_path, suffix):
    source = write_clip(
        tmp_path / "in.ts",
        range(9000, 9000 + 20 * 3600, 3600),
        time_base=Fraction(1, 90_000),
        options=B_FRAMES,
        sounds=[(0, 1.0)],
        container_options={"output_ts_offset": "3000"},
    )
    out = tmp_path / f"out{suffix}"
    upscale_video(source, out, nearest(1))

    def sound(path):
        return [time for _, time, _ in copied_packets(path)]

    assert min(times(source)) > 3000
    assert 0 <= min(*times(out), *sound(out)) < 0.001
    tolerance = Fraction(0) if suffix == ".mp4" else Fraction(1, 1000)
    shift = sound(source)[0] - sound(out)[0]
    assert all(abs(a - b - shift) <= tolerance for a, b in zip(times(source), times(out), strict=True))


def test_everything_else_is_copied(tmp_path):
    plain = write_clip(
        tmp_path / "plain.mkv",
        sounds=[(0, 0.5), (0.1, 0.4)],
        subtitle=True,
        metadata={"title": "A film", "artist": "Somebody"},
        chapters=[(0, 200, "One"), (200, 480, "Two")],
    )
    source, out = tmp_path / "in.mkv", tmp_path / "out.mkv"
    add_attachments(plain, source)
    upscale_video(source, out, nearest(2))
    assert copied_packets(out) == copied_packets(source)
    assert {stream for stream, _, _ in copied_packets(out)} == {1, 2, 3}
    with av.open(str(source)) as before, av.open(str(out)) as after:
        assert after.chapters() == before.chapters()
        assert [stream.type for stream in after.streams] == [stream.type for stream in before.streams]
        for key in ("title", "ARTIST"):
            assert after.metadata[key] == before.metadata[key]
        assert [s.language for s in after.streams.audio] == ["ger", "fre"]
        assert [s.disposition for s in after.streams] == [s.disposition for s in before.streams]
        assert after.streams.attachments[0].data == b"a font"
        cover = [bytes(packet) for packet in after.demux() if packet.stream.disposition & 1024 and packet.size]
        assert cover == [png()]


def png():
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 8, 8, "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.full((8, 8, 3), 99, np.uint8), format="rgb24")
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


def add_attachments(source, target):
    """Copy a clip and give it languages, a font and cover art."""
    languages = iter(["ger", "fre"])
    with av.open(str(source)) as clip, av.open(str(target), "w") as out:
        copies = {stream.index: out.add_stream_from_template(stream, opaque=True) for stream in clip.streams}
        for stream in copies.values():
            if stream.type == "audio":
                stream.metadata["language"] = next(languages)
                stream.disposition = av.stream.Disposition.comment
        out.add_attachment("font.ttf", "font/ttf", b"a font")
        out.add_attachment("cover.png", "image/png", png())
        out.metadata.update(clip.metadata)
        out.set_chapters(clip.chapters())
        for packet in clip.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                out.mux(packet)


def test_a_title_in_latin_1_is_copied_byte_for_byte(tmp_path):
    source, out = tmp_path / "in.mkv", tmp_path / "out.mkv"
    write_clip(source, metadata={"title": "Cafe__"})
    source.write_bytes(source.read_bytes().replace(b"Cafe__", b"Caf\xe9 !"))
    upscale_video(source, out, nearest(1))
    assert b"Caf\xe9 !" in out.read_bytes()


def test_time_code_and_chapter_titles_of_mp4_are_kept(tmp_path):
    source, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    chapters = [(0, 200, "One"), (200, 480, "Two")]
    write_clip(source, metadata={"timecode": "01:00:00:00"}, chapters=chapters, sounds=[(0, 0.5)])
    assert probe(source).others == ("audio", "data", "data")
    upscale_video(source, out, nearest(1))
    with av.open(str(source)) as before, av.open(str(out)) as after:
        titles = [[chapter["metadata"]["title"] for chapter in clip.chapters()] for clip in (before, after)]
        assert titles == [["One", "Two"]] * 2
        assert after.streams.video[0].metadata["timecode"] == "01:00:00:00"
    assert probe(out).others == ("audio", "data", "data")


@pytest.mark.parametrize("codec", CODECS)
def test_pixel_shape_rotation_and_colour_tags_survive(tmp_path, codec):
    tags = {"colorspace": 5, "color_range": 2, "color_primaries": 5, "color_trc": 6}
    source = write_clip(
        tmp_path / "in.mp4", tags={**tags, "sample_aspect_ratio": Fraction(128, 117)}, rotation=-90, rate=24
    )
    upscale_video(source, tmp_path / "out.mp4", nearest(2), VideoOptions(codec=codec))
    before, after = probe(source), probe(tmp_path / "out.mp4")
    assert before.colour == Colour(5, True, 5, 6)
    assert after.colour == before.colour
    assert (after.sample_aspect, after.rotation) == (Fraction(128, 117), -90)


def test_the_offset_of_a_display_matrix_grows_with_the_frames(tmp_path):
    source, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    with av.open(str(source), "w") as clip:
        stream = clip.add_stream("libx264", rate=25, width=64, height=48, time_base=TICKS)
        stream.set_display_matrix([0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30])  # as a phone writes it
        frame = yuv_frame(np.full((48, 64), 90), 128, 128)
        frame.pts, frame.time_base = 0, TICKS
        clip.mux(stream.encode(frame))
        clip.mux(stream.encode(None))
    upscale_video(source, out, nearest(4))
    assert probe(source).display_matrix == (0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    assert probe(out).display_matrix == (0, 1 << 16, 0, -1 << 16, 0, 0, 192 << 16, 0, 1 << 30)


def test_the_orientation_of_a_camera_with_exif_is_kept(tmp_path):
    """Each JPEG of the clip carries EXIF with orientation 6: turn by 90 degrees clockwise."""
    entry = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    source, out = tmp_path / "in.mkv", tmp_path / "out.mp4"
    with av.open(str(source), "w") as clip:
        stream = clip.add_stream("mjpeg", rate=25, width=64, height=48, pix_fmt="yuvj420p", time_base=Fraction(1, 25))
        for index in range(3):
            frame = numbered(index).reformat(format="yuvj420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            (jpeg,) = stream.encode(frame)
            marked = av.Packet(bytes(jpeg)[:2] + struct.pack(">HH", 0xFFE1, len(exif) + 2) + exif + bytes(jpeg)[2:])
            marked.pts, marked.dts, marked.time_base, marked.stream = jpeg.pts, jpeg.dts, jpeg.time_base, stream
            clip.mux(marked)
    upscale_video(source, out, nearest(1))
    assert probe(source).rotation == probe(out).rotation == -90


@pytest.mark.parametrize(("size", "matrix"), [((360, 640), BT601), ((720, 1280), BT709)])
def test_an_untagged_clip_gets_the_matrix_that_players_assumed(tmp_path, size, matrix):
    """Upscaled, 360 lines become 1440: players would now assume another matrix than before."""
    source = write_clip(tmp_path / "in.mp4", [0], size=size)
    upscale_video(source, tmp_path / "out.mp4", nearest(1))
    assert probe(source).colour == Colour(2, False, 2, 2)
    assert probe(tmp_path / "out.mp4").colour == Colour(matrix, False, 2, 2)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [BT709, BT601])
@pytest.mark.parametrize("codec", CODECS)
def test_solid_colours_come_back_as_they_were(tmp_path, codec, matrix, full):
    colours = [(81, 105, 180), (145, 100, 95), (60, 165, 118), (200, 100, 140), (120, 128, 128)]  # all within RGB
    tags = {"colorspace": matrix, "color_range": 2 if full else 1}
    source = write_clip(
        tmp_path / "in.mkv",
        range(len(colours)),
        time_base=Fraction(1, 25),
        draw=lambda index, size: yuv_frame(np.full(size, colours[index][0]), *colours[index][1:]),
        codec="ffv1",
        tags=tags,
    )
    upscale_video(source, tmp_path / "out.mkv", nearest(2), VideoOptions(codec=codec, quality=1))
    for (_, _, frame), colour in zip(read_frames(tmp_path / "out.mkv"), colours, strict=True):
        for plane, value in zip(planes(frame), colour, strict=True):
            assert np.abs(plane - value).max() <= 2


def test_rgb_becomes_limited_range_yuv_of_the_same_colour(tmp_path):
    rgb = np.array([200, 90, 40], np.uint8)
    source = write_clip(
        tmp_path / "in.mkv",
        draw=lambda index, size: av.VideoFrame.from_ndarray(np.tile(rgb, (*size, 1)), "rgb24").reformat(format="bgr0"),
        codec="ffv1",
        pixel_format="bgr0",
    )
    upscale_video(source, tmp_path / "out.mp4", nearest(2), VideoOptions(quality=1))
    assert probe(tmp_path / "out.mp4").colour == Colour(BT601, False, 2, 2)
    expected = (117, 90, 180)  # 16 + 219 Y, 128 + 224 Cb, 128 + 224 Cr of BT.601, by hand
    for plane, value in zip(planes(read_frames(tmp_path / "out.mp4")[5][2]), expected, strict=True):
        assert np.abs(plane - value).max() <= 2


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("scale", [1, 3])
def test_odd_sizes_lose_no_row_and_no_column(tmp_path, codec, scale):
    source = write_clip(tmp_path / "in.mkv", codec="ffv1", size=(49, 67),
                        draw=lambda index, size: yuv_frame(np.full(size, 90), 128, 128))  # fmt: skip
    upscale_video(source, tmp_path / "out.mp4", nearest(scale), VideoOptions(codec=codec))
    after = probe(tmp_path / "out.mp4")
    assert (after.height, after.width) == (49 * scale, 67 * scale)


def test_quality_decides_the_size(tmp_path):
    sizes = []
    for quality in (8, 40):
        upscale_video(BUNNY, tmp_path / "out.mp4", nearest(1), VideoOptions(quality=quality))
        sizes.append((tmp_path / "out.mp4").stat().st_size)
    assert sizes[0] > 3 * sizes[1]


def test_progress_counts_every_frame(tmp_path):
    calls = []
    upscale_video(BUNNY, tmp_path / "out.mp4", nearest(1), progress=lambda *call: calls.append(call))
    assert calls == [(n, 50) for n in range(1, 51)]


def test_the_summary_shows_the_stage_that_limits(tmp_path):
    class Slow:
        """Stands for a slow network; what it returns does not matter."""

        counts = Counts()

        def output_size(self, height, width):
            return height, width

        def identity(self):
            return {}

        def map(self, frames):
            import time

            for frame in frames:
                time.sleep(0.02)
                yield frame

    source = write_clip(tmp_path / "in.mp4", range(0, 30 * 512, 512))
    summary = upscale_video(source, tmp_path / "out.mp4", Slow())
    assert summary.limit == "infer"
    assert summary.busy_s["infer"] >= 0.6
    assert all(summary.busy_s["infer"] > 2 * seconds for stage, seconds in summary.busy_s.items() if stage != "infer")
    assert summary.fps == pytest.approx(30 / summary.seconds)


@pytest.mark.unix("reads the peak of memory from getrusage")
def test_memory_does_not_grow_with_the_length(tmp_path):
    """Frames are 1.3 MB each: 200 more of them would show."""
    peaks = []
    for count in (100, 300):
        source = write_clip(tmp_path / f"{count}.mp4", range(0, count * 512, 512), size=(320, 448))
        code = (
            "import resource, sys; from pathlib import Path; from clips import nearest;"
            "from esrgan_deploy.video import VideoOptions, upscale_video;"
            f"upscale_video(Path({str(source)!r}), Path({str(tmp_path / 'out.mp4')!r}), nearest(2));"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = [sys.executable, "-c", code]
        run = subprocess.run(command, capture_output=True, check=True, text=True, cwd=Path(__file__).parent)
        peaks.append(int(run.stdout))
    assert peaks[1] < 1.05 * peaks[0]
