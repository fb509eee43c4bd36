"""Whatever goes wrong: one clear error, the old file in place, nothing half-written beside it."""

import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from clips import nearest, numbered, picture, write_clip
from esrgan_deploy.errors import MediaError, OptionError, OutputError
from esrgan_deploy.video import upscale_video

BUNNY = Path(__file__).parent.parent / "data" / "bigbuckbunny.mp4"


@pytest.fixture
def target(tmp_path):
    """A target that exists already, in a folder of its own; checks that it is untouched and alone afterwards."""
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / "clip.mp4"
    path.write_bytes(b"the old clip")
    yield path
    assert path.read_bytes() == b"the old clip"
    assert list(folder.iterdir()) == [path]
    assert not [t for t in threading.enumerate() if t.name in ("esrgan-decode", "esrgan-encode")]


class Faulty:
    """An upscaler that fits the contract but for what `map` is given to do."""

    def __init__(self, work):
        self.map = work

    def output_size(self, height, width):
        return height, width


def raise_at(count, error):
    def work(frames):
        for index, frame in enumerate(frames):
            if index == count:
                raise error
            yield frame

    return Faulty(work)


@pytest.mark.parametrize("error", [ValueError("no memory"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("count", [0, 20])
def test_an_error_of_the_network_stops_everything(target, error, count):
    with pytest.raises(type(error)) as caught:
        upscale_video(BUNNY, target, raise_at(count, error))
    assert caught.value is error


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (lambda frames: (frame for index, frame in enumerate(frames) if index != 7), "kept 1 frames"),
        (lambda frames: (frame for frame in frames for _ in range(2)), "more frames than it was given"),
        (lambda frames: (frame[:90] for frame in frames), r"shape \(90, 320, 3\)"),
    ],
    ids=["drops", "doubles", "another size"],
)
def test_a_lost_or_extra_frame_is_never_written(target, work, says):
    with pytest.raises(RuntimeError, match=says):
        upscale_video(BUNNY, target, Faulty(work))


def test_an_error_of_the_progress_bar_stops_everything(target):
    def fail(done, total):
        raise BrokenPipeError(f"at {done}")

    with pytest.raises((BrokenPipeError, OutputError), match="at 1"):
        upscale_video(BUNNY, target, nearest(1), progress=fail)


def test_ctrl_c_ends_it_at_once(target, tmp_path):
    """A real signal, while all stages are at work."""
    code = (
        "import time; from pathlib import Path; from clips import nearest\n"
        "from esrgan_deploy.video import upscale_video\n"
        "def slow(done, total):\n    print(done, flush=True); time.sleep(0.05)\n"
        f"upscale_video(Path({str(BUNNY)!r}), Path({str(target)!r}), nearest(4), codec='h265', progress=slow)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parent, text=True
    ) as child:
        while child.stdout.readline() != "10\n":
            assert child.poll() is None
        assert len(list(target.parent.iterdir())) == 2, "the hidden file is there while it runs"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert child.returncode in (-signal.SIGINT, 130, 1)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1


def test_a_clip_cut_in_the_middle(target, tmp_path):
    whole = write_clip(tmp_path / "whole.mkv", range(0, 4000, 40), time_base=Fraction(1, 1000), options={"bf": "2"})
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"cut\.mkv: is cut off or damaged after frame \d+ \(\d\.\d\d s\): its header"):
        upscale_video(cut, target, nearest(1))


@pytest.mark.parametrize("length", [40, 4000])
def test_damage_inside_is_noticed_where_it_is(target, tmp_path, length):
    noise = write_clip(
        tmp_path / "noise.mp4",
        range(0, 60 * 512, 512),
        draw=lambda index, size: picture(np.random.default_rng(index).integers(40, 200, size), 128, 128),
        options={"g": "60", "bf": "0"},
    )
    data = bytearray(noise.read_bytes())
    start = len(data) // 2
    data[start : start + length] = np.random.default_rng(0).bytes(length)
    noise.write_bytes(data)
    with pytest.raises(MediaError, match=r"noise\.mp4: is cut off or damaged after frame [23]\d \(1\.\d\d s\)"):
        upscale_video(noise, target, nearest(1))


def test_a_clip_that_changes_its_size(target, tmp_path):
    path = tmp_path / "grows.ts"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, width=64, height=48, time_base=Fraction(1, 25))
        later = av.CodecContext.create("libx264", "w")
        later.width, later.height, later.pix_fmt, later.time_base = 128, 96, "yuv420p", Fraction(1, 25)
        for encoder, size, start in ((stream.codec_context, (48, 64), 0), (later, (96, 128), 10)):
            frames = [numbered(index, size) for index in range(10)]
            for index, frame in enumerate(frames, start):
                frame.pts, frame.time_base = index, Fraction(1, 25)
            for packet in [packet for frame in [*frames, None] for packet in encoder.encode(frame)]:
                packet.stream = stream
                out.mux(packet)
    with pytest.raises(MediaError, match=r"frame 10 is 128x96 yuv420p after 64x48 yuv420p.*uniform"):
        upscale_video(path, target, nearest(1))


def test_a_clip_without_time_stamps(target, tmp_path):
    raw = write_clip(tmp_path / "raw.h264")
    with pytest.raises(MediaError, match=r"frame 0 has no time stamp.*ffmpeg -i"):
        upscale_video(raw, target, nearest(1))


def test_time_stamps_that_go_back(target, tmp_path):
    """AVI stores no order of display: FFmpeg's guess for B-frames goes wrong."""
    avi = write_clip(tmp_path / "b.avi", range(40), time_base=Fraction(1, 25), options={"bf": "3", "preset": "fast"})
    with pytest.raises(MediaError, match=r"frame \d+ has time stamp \d+ after \d+"):
        upscale_video(avi, target, nearest(1))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"codec": "vp9"}, OptionError, "codec 'vp9' is unknown; choose one of h264, h265, av1"),
        ({"quality": 52}, OptionError, r"quality 52 is out of range; libx264 takes 0 \(best\) to 51"),
        ({"quality": -1}, OptionError, "quality -1 is out of range"),
    ],
)
def test_options_that_cannot_be_right(target, arguments, error, says):
    with pytest.raises(error, match=says):
        upscale_video(BUNNY, target, nearest(1), **arguments)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "is a folder; name a file"),
        ("clip.avi", "'.avi' is no video format that is written; use .mp4, .mov, .mkv"),
        ("missing/clip.mp4", "missing does not exist; create it first"),
    ],
)
def test_targets_that_cannot_be_written(target, name, says):
    with pytest.raises(OutputError, match=says):
        upscale_video(BUNNY, target.parent / name, nearest(1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(target):
    target.parent.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            upscale_video(BUNNY, target, nearest(1))
    finally:
        target.parent.chmod(0o755)


def test_the_target_is_the_source(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4")
    link = tmp_path / "link.mp4"
    link.symlink_to(clip)
    before = clip.read_bytes()
    for target in (clip, link):
        with pytest.raises(OutputError, match="is the input itself"):
            upscale_video(clip, target, nearest(1))
    assert clip.read_bytes() == before


def test_what_the_format_cannot_hold_is_refused_before_the_first_frame(target, tmp_path):
    source = write_clip(tmp_path / "titles.mkv", subtitle=True)
    never = raise_at(0, AssertionError("a frame was upscaled"))
    with pytest.raises(OutputError, match=r"stream 1 \(subtitle, \w+\) does not fit into mp4; write .mkv"):
        upscale_video(source, target, never)
    with pytest.raises(OutputError, match=r"av1.* mov.*write .mkv"):
        upscale_video(BUNNY, target.parent / "clip.mov", never, codec="av1")
    anamorphic = write_clip(tmp_path / "wide.mp4", tags={"sample_aspect_ratio": Fraction(4, 3)})
    with pytest.raises(OutputError, match=r"4/3 as wide as high.*write .mp4"):
        upscale_video(anamorphic, target.parent / "clip.mkv", never, codec="av1")


def test_a_size_that_no_encoder_takes(target, tmp_path):
    source = write_clip(tmp_path / "wide.mkv", [0], size=(16, 4200), codec="ffv1")
    with pytest.raises(MediaError, match="h264 cannot encode frames of 16800x64; choose another codec"):
        upscale_video(source, target, nearest(4))


def test_a_full_disk(target):
    """A limit on the size of files fails a write in the same place."""
    code = (
        "import resource; from pathlib import Path; from clips import nearest;"
        "from esrgan_deploy.video import upscale_video;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        f"upscale_video(Path({str(BUNNY)!r}), Path({str(target)!r}), nearest(2))"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert run.stderr.rstrip().splitlines()[-1] == (
        f"esrgan_deploy.errors.OutputError: {target}: cannot be written: File too large; choose another place"
    )
