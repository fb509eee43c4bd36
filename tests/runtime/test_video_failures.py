"""Whatever goes wrong: one clear error, the old file in place, nothing half-written beside it."""

import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import pytest

from children import popen
from clips import nearest, write_clip
from esrgan_deploy.errors import MediaError, OptionError, OutputError
from esrgan_deploy.tile_reuse import Counts
from esrgan_deploy.video import VideoOptions, upscale_video

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
    assert not [
        t for t in threading.enumerate() if t.name.startswith("esrgan-") and not t.name.startswith("esrgan-reference")
    ]


class Faulty:
    """An upscaler that fits the contract but for what `map` is given to do."""

    def __init__(self, work):
        self.map = work

    counts = Counts()

    def output_size(self, height, width):
        return height, width

    def identity(self):
        return {}


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


@pytest.mark.unix("sends signals to another process")
def test_ctrl_c_ends_it_at_once(target, tmp_path):
    """A real signal, while all stages are at work."""
    code = (
        "import time; from pathlib import Path; from clips import nearest\n"
        "from esrgan_deploy.video import VideoOptions, upscale_video\n"
        "def slow(done, total):\n    print(done, flush=True); time.sleep(0.05)\n"
        f"upscale_video(Path({str(BUNNY)!r}), Path({str(target)!r}), nearest(4), VideoOptions('h265'), progress=slow)"
    )
    command = [sys.executable, "-c", code]
    with popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parent, text=True) as child:
        while child.stdout.readline() != "10\n":
            assert child.poll() is None
        assert [path.name for path in target.parent.iterdir() if path != target] == ["clip.mp4.parts"]
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert child.returncode in (-signal.SIGINT, 130, 1)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"codec": "vp9"}, OptionError, "codec 'vp9' is unknown; choose one of h264, h265, av1"),
        ({"quality": 52}, OptionError, r"quality 52 is out of range; libx264 takes 0 \(best\) to 51"),
        ({"quality": -1}, OptionError, "quality -1 is out of range"),
        ({"segment_frames": 0}, OptionError, "segment 0 is too small; give a number of frames, 1 or more"),
        ({"preview": 0}, OptionError, "preview 0 is too small"),
        ({"duration_s": 0.0}, OptionError, "duration 0 is too short; give seconds above 0"),
        ({"frames": (9, 9)}, OptionError, "frames 9:9 is empty"),
        ({"frames": (50, None)}, OptionError, "frames 50: is outside .*bigbuckbunny.mp4, which has frames 0 to 49"),
    ],
)
def test_options_that_cannot_be_right(target, options, error, says):
    with pytest.raises(error, match=says):
        upscale_video(BUNNY, target, nearest(1), VideoOptions(**options))


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


@pytest.mark.unix("takes the right to write from a folder")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
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
        upscale_video(BUNNY, target.parent / "clip.mov", never, VideoOptions(codec="av1"))
    anamorphic = write_clip(tmp_path / "wide.mp4", tags={"sample_aspect_ratio": Fraction(4, 3)})
    with pytest.raises(OutputError, match=r"4/3 as wide as high.*write .mp4"):
        upscale_video(anamorphic, target.parent / "clip.mkv", never, VideoOptions(codec="av1"))


def test_a_size_that_no_encoder_takes(target, tmp_path):
    source = write_clip(tmp_path / "wide.mkv", [0], size=(16, 4200), codec="ffv1")
    with pytest.raises(MediaError, match="h264 cannot encode frames of 16800x64 yuv420p; choose another codec"):
        upscale_video(source, target, nearest(4))


@pytest.mark.unix("limits the size of files with setrlimit")
def test_a_full_disk(target):
    """A limit on the size of files fails a write in the same place."""
    code = (
        "import resource; from pathlib import Path; from clips import nearest;"
        "from esrgan_deploy.video import VideoOptions, upscale_video;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        f"upscale_video(Path({str(BUNNY)!r}), Path({str(target)!r}), nearest(2))"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert run.stderr.rstrip().splitlines()[-1] == (
        f"esrgan_deploy.errors.OutputError: {target}.parts: cannot be written: File too large; "
        "make room, then --resume goes on"
    )
