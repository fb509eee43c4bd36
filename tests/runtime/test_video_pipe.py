"""YUV4MPEG2 in and out, parts of a clip, and previews. Oracles: ffmpeg and ffprobe."""

import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from clips import copied_packets, nearest, numbered, planes, read_frames, times, write_clip
from esrgan_deploy.errors import MediaError, OptionError
from esrgan_deploy.video import VideoOptions, parts_of, upscale_video

BUNNY = Path(__file__).parent.parent / "data" / "bigbuckbunny.mp4"
UPSCALE = [sys.executable, "-c", "import sys; from esrgan_deploy.cli.upscale import main; sys.exit(main())"]
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the oracle, ffmpeg, is not installed")


def y4m(path, *arguments):
    command = ["ffmpeg", "-v", "error", "-i", str(path), *arguments, "-strict", "-1", "-f", "yuv4mpegpipe", "-"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def upscale(*arguments, stdin=b""):
    return subprocess.run([*UPSCALE, *map(str, arguments), "-b", "reference"], input=stdin, capture_output=True)


def times_in(data, folder):
    (folder / "clip").write_bytes(data)
    return times(folder / "clip")


def described(data):
    """What ffprobe says of a clip that comes through a pipe."""
    entries = "stream=width,height,pix_fmt,r_frame_rate,nb_read_frames,sample_aspect_ratio,color_range"
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", entries, "-of", "json", "-"]
    return json.loads(subprocess.run(command, input=data, capture_output=True, check=True).stdout)["streams"][0]


@needs_ffmpeg
def test_a_pipe_becomes_a_file(tmp_path):
    out = tmp_path / "out.mp4"
    run = upscale("-", "-o", out, "-s", "2", stdin=y4m(BUNNY, "-r", "30000/1001", "-vf", "setsar=64/45"))
    assert run.returncode == 0, run.stderr
    shown = described(y4m(out))
    assert (shown["width"], shown["height"], shown["sample_aspect_ratio"]) == (640, 360, "64:45")
    assert int(shown["nb_read_frames"]) >= 59
    assert times(out) == [n * Fraction(1001, 30000) for n in range(len(times(out)))]
    assert list(tmp_path.iterdir()) == [out]


@needs_ffmpeg
@pytest.mark.parametrize(
    ("pixel_format", "expected"),
    [("yuv420p", "yuv420p"), ("yuv444p", "yuv444p"), ("yuv422p10le", "yuv422p10le"), ("yuv420p12le", "yuv420p12le")],
)
def test_a_file_becomes_a_pipe(tmp_path, pixel_format, expected):
    source = tmp_path / "in.mkv"
    write_clip(source, codec="ffv1", pixel_format=pixel_format, rate=24, time_base=Fraction(1, 24), pts=range(12),
               draw=lambda index, size: numbered(index, size).reformat(format=pixel_format))  # fmt: skip
    run = upscale(source, "-o", "-", "-s", "2")
    assert run.returncode == 0, run.stderr
    shown = described(run.stdout)
    assert (shown["width"], shown["height"], shown["pix_fmt"]) == (128, 96, expected)
    assert (shown["r_frame_rate"], shown["nb_read_frames"]) == ("24/1", "12")


@needs_ffmpeg
def test_from_pipe_to_pipe_the_frames_are_those_of_a_file(tmp_path):
    run = upscale("-", "-o", "-", stdin=y4m(BUNNY))
    assert run.returncode == 0, run.stderr
    assert described(run.stdout)["nb_read_frames"] == "50"
    (tmp_path / "out.y4m").write_bytes(run.stdout)
    small, large = read_frames(BUNNY), read_frames(tmp_path / "out.y4m")
    for (_, _, before), (_, _, after) in zip(small[::10], large[::10], strict=True):
        shrunk = planes(after)[0].reshape(180, 4, 320, 4).mean((1, 3))
        assert np.quantile(np.abs(shrunk - planes(before)[0]), 0.999) <= 1, "the rest is no RGB colour"


@needs_ffmpeg
def test_what_a_pipe_does_not_carry_is_said(tmp_path):
    run = upscale(BUNNY, "-o", "-")
    assert b"does not carry its audio, " in run.stderr


@needs_ffmpeg
@pytest.mark.parametrize("target", ["-", "out.mp4"])
def test_a_pipe_that_ends_in_the_middle_of_a_frame(tmp_path, target):
    path = target if target == "-" else tmp_path / target
    whole = y4m(BUNNY)
    run = upscale("-", "-o", path, stdin=whole[: len(whole) // 2])
    assert run.returncode == 2
    assert b"standard input" in run.stderr.splitlines()[-1]
    assert b"ends in the middle of frame 24; " in run.stderr.splitlines()[-1]
    assert b"the 24 frames before that are written" in run.stderr.splitlines()[-1]
    assert len(times_in(run.stdout if target == "-" else path.read_bytes(), tmp_path)) == 24


@pytest.mark.parametrize("data", [b"", b"not a clip\n" * 99, BUNNY.read_bytes()[:5000]])
def test_stdin_that_is_no_y4m(tmp_path, data):
    run = upscale("-", "-o", tmp_path / "out.mp4", stdin=data)
    assert run.returncode == 2
    assert (
        run.stderr.decode()
        .splitlines()[-1]
        .startswith("esrgan-upscale: standard input: is no YUV4MPEG2, or holds no frame; send it with ffmpeg")
    )
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_away(tmp_path):
    with subprocess.Popen([*UPSCALE, str(BUNNY), "-o", "-", "-b", "reference"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as child:  # fmt: skip
        child.stdout.read(1000)
        child.stdout.close()
        errors = child.stderr.read().decode()
    assert child.returncode == 2
    assert errors.splitlines()[-1].endswith("standard output: cannot be written any more; has its reader gone away?")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-", "-o", "out.png"], "- stands for the frames of a clip"),
        (["photo.png", "-o", "-"], "- stands for the frames of a clip"),
        (["-", "-o", "out.mp4", "--resume"], "--resume: a pipe cannot be read again"),
        (["-", "-o", "-", "--preview", "5"], "--preview: a pipe gets uncompressed frames"),
        ([BUNNY, "-o", "-", "--codec", "h264"], "--codec: a pipe gets uncompressed frames"),
        ([BUNNY, "-o", "-", "--crf", "0"], "--crf: a pipe gets uncompressed frames"),
        (["-", "-o", "out.avi"], "'.avi' is no video format that is written"),
        (["-", "-o", "out.mp4", "--frames", "7"], "'7' is not FIRST:END"),
    ],
)
def test_what_a_pipe_cannot_do(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", np.zeros((4, 4, 3), np.uint8))
    run = upscale(*arguments, stdin=b"YUV4MPEG2 W16 H16 F25:1\nFRAME\n" + bytes(384))
    assert run.returncode == 2
    assert says in run.stderr.decode().splitlines()[-1]
    assert run.stdout == b""


@needs_ffmpeg
def test_what_a_file_from_a_pipe_can_be_asked_for(tmp_path):
    out = tmp_path / "out.mp4"
    run = upscale("-", "-o", out, "--codec", "h265", "--crf", "51", "--preview", "40", stdin=y4m(BUNNY))
    assert run.returncode == 0, run.stderr
    assert [path.name for path in sorted((tmp_path / "out.mp4.preview").glob("*.png"))] == [
        "frame_000000.png",
        "frame_000040.png",
    ]
    assert copied_packets(out) == []
    assert out.stat().st_size < BUNNY.stat().st_size


def test_a_part_begins_at_zero_with_its_sound(tmp_path):
    out = tmp_path / "out.mp4"
    options = VideoOptions(frames=(20, 40), segment_frames=7)
    summary = upscale_video(BUNNY, out, nearest(1), options)
    assert summary.frames == 20
    assert times(out) == [Fraction(n, 25) for n in range(20)]
    before = [(time, data) for _, time, data in copied_packets(BUNNY) if Fraction(20, 25) <= time < Fraction(40, 25)]
    after = [(time + Fraction(20, 25), data) for _, time, data in copied_packets(out)]
    assert len(after) > 30
    assert [data for _, data in after] == [data for _, data in before]
    assert all(abs(a - b) < Fraction(1, 1000) for (a, _), (b, _) in zip(after, before, strict=True))
    luma = [planes(frame)[0] for _, _, frame in read_frames(BUNNY)[20:40]]
    for small, (_, _, large) in zip(luma, read_frames(out), strict=True):
        assert np.abs(small - planes(large)[0]).mean() < 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (VideoOptions(frames=(None, 10)), range(10)),
        (VideoOptions(frames=(45, None)), range(45, 50)),
        (VideoOptions(frames=(45, 1000)), range(45, 50)),
        (VideoOptions(duration_s=0.4), range(10)),
        (VideoOptions(frames=(10, None), duration_s=0.2), range(10, 15)),
        (VideoOptions(frames=(10, 12), duration_s=0.2), range(10, 12)),
        (VideoOptions(duration_s=99), range(50)),
    ],
)
def test_parts_by_number_and_by_time(tmp_path, options, expected):
    source = write_clip(tmp_path / "in.mp4", range(0, 50 * 512, 512), options={"bf": "3", "g": "12", "preset": "fast"})
    upscale_video(source, tmp_path / "out.mp4", nearest(2), options)
    assert [number for _, number, _ in read_frames(tmp_path / "out.mp4")] == list(expected)


@needs_ffmpeg
def test_a_part_of_a_pipe(tmp_path):
    out = tmp_path / "out.mp4"
    assert upscale("-", "-o", out, "--frames", "10:30", "--duration", "0.4", stdin=y4m(BUNNY)).returncode == 0
    assert len(times(out)) == 10


def test_chapters_of_a_part(tmp_path):
    import av

    chapters = [(0, 200, "One"), (200, 400, "Two"), (400, 480, "Three")]
    source = write_clip(tmp_path / "in.mkv", chapters=chapters)
    upscale_video(source, tmp_path / "out.mkv", nearest(1), VideoOptions(frames=(6, 9)))
    with av.open(str(tmp_path / "out.mkv")) as clip:
        unit = 1 / Fraction(1, 10**9)
        kept = [(c["metadata"]["title"], c["start"] / unit, c["end"] / unit) for c in clip.chapters()]
    assert kept == [("Two", 0, Fraction(120, 1000))]


def test_previews_show_before_and_after(tmp_path):
    source = write_clip(tmp_path / "in.mp4", range(0, 12 * 512, 512), options={"qp": "1"})
    upscale_video(source, tmp_path / "out.mp4", nearest(2), VideoOptions(preview=5))
    files = sorted((tmp_path / "out.mp4.preview").glob("*.png"))
    assert [path.name for path in files] == ["frame_000000.png", "frame_000005.png", "frame_000010.png"]
    preview = cv2.imread(str(files[1]))
    assert preview.shape == (96, 2 * 128, 3)
    assert np.array_equal(preview[:, :128], preview[:, 128:]), "nearest neighbour is what both halves show"
    bars = preview[48, 8:128:16, 0]
    assert [int(value > 100) for value in bars] == [1, 0, 1, 0, 0, 0, 0, 0], "5, least significant bit first"


@pytest.mark.skipif(os.name != "posix", reason="file descriptors")
def test_a_pipe_leaves_no_parts(tmp_path):
    with pytest.raises(MediaError, match="no such file"):
        upscale_video(tmp_path / "missing.mp4", tmp_path / "out.mp4", nearest(2))
    with pytest.raises(OptionError, match="frames 60: is outside"):
        upscale_video(BUNNY, tmp_path / "out.mp4", nearest(2), VideoOptions(frames=(60, None)))
    assert not parts_of(tmp_path / "out.mp4").exists()
