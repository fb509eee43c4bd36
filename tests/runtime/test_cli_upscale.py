"""esrgan-upscale as its user meets it: exit codes, one line per error, files that appear or do not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from children import popen
from esrgan_deploy.cli.upscale import CODECS, PICTURES, main
from esrgan_deploy.errors import StallError
from esrgan_deploy.models import BUNDLED
from esrgan_deploy.video import parts_of


@pytest.fixture
def picture(tmp_path, rng):
    path = tmp_path / "in.png"
    cv2.imwrite(str(path), rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
    return path


def fails(capsys, arguments, code):
    """Run, expect `code`, and return the one line on stderr."""
    try:
        returned = main([str(a) for a in arguments])
    except SystemExit as stop:  # argparse
        returned = stop.code
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("esrgan-upscale:")]
    assert returned == code
    assert len(error) == 1, error
    return error[0]


def test_picture(picture, tmp_path, capsys):
    assert main([str(picture), "-o", str(tmp_path / "out.png"), "-b", "reference"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out.png'}: 32x24\n"
    expected = cv2.imread(str(picture)).repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.png")), expected)


def test_picture_through_a_network(picture, tmp_path, blur_x2):
    target = tmp_path / "out.png"
    assert main([str(picture), "-o", str(target), "-m", str(blur_x2), "-t", "8", "--outscale", "3"]) == 0
    assert cv2.imread(str(target)).shape == (18, 24, 3)


def test_without_a_model_the_default_that_comes_along_runs(tmp_path, capsys):
    """A step edge comes out sharper than the best that linear interpolation can do, and flat areas stay flat."""
    picture = np.full((24, 24, 3), 64, np.uint8)
    picture[:, 12:] = 192
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    cv2.imwrite(str(source), picture)
    assert main([str(source), "-o", str(target)]) == 0
    assert f"{BUNDLED.name} x4" in capsys.readouterr().err
    large = cv2.imread(str(target)).astype(int)
    assert large.shape == (96, 96, 3)
    assert np.abs(large[32:64, 16:32] - 64).max() <= 4
    assert np.abs(large[32:64, 64:80] - 192).max() <= 4
    steepest = np.diff(large[48, :, 1]).max()
    assert steepest > (192 - 64) / 4


def test_folder_is_mirrored_and_one_bad_picture_does_not_stop_the_rest(picture, tmp_path, capsys):
    source = tmp_path / "album"
    (source / "deep" / "er").mkdir(parents=True)
    picture.rename(source / "deep" / "er" / "a.png")
    cv2.imwrite(str(source / "b.jpg"), np.full((5, 5, 3), 90, np.uint8))
    (source / "broken.png").write_bytes(b"\x89PNG\r\n")
    (source / "notes.txt").write_text("left alone")
    target = source / "large"  # inside its own input: must not be read back
    for _ in range(2):
        assert main([str(source), "-o", str(target), "-b", "reference"]) == 2
        errors = capsys.readouterr().err
        assert "broken.png" in errors
        assert "1 of 3 pictures" in errors
    found = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    assert found == ["b.jpg", "deep/er/a.png"]
    assert cv2.imread(str(target / "deep/er/a.png")).shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{tmp}/none.png", "-o", "{tmp}/o.png", "-b", "reference"], 2, "none.png"),
        (["{in}", "-o", "{in}", "-b", "reference"], 2, "input itself"),
        (["{in}", "-o", "{tmp}", "-b", "reference"], 2, "is a folder"),
        (["{in}", "-o", "{tmp}/no/o.png", "-b", "reference"], 2, "does not exist"),
        (["{in}", "-o", "{tmp}/o.mp4", "-b", "reference"], 2, "does not fit"),
        (["{in}", "-o", "{tmp}/o.png", "-b", "reference", "-t", "8", "--overlap", "16"], 2, "tile 8"),
        (["{in}", "-o", "{tmp}/o.png", "-b", "reference", "--batch", "0"], 2, "batch 0"),
        (["{in}", "-o", "{tmp}/o.png", "-b", "reference", "-s", "-1"], 2, "outscale -1"),
        (["{in}", "-o", "{tmp}/o.png", "-b", "reference", "-s", "nan"], 2, "outscale nan"),
        (["{in}", "-o", "{tmp}/o.png", "-b", "reference", "--threads", "0"], 2, "threads 0"),
        (["{in}", "-o", "{tmp}/o.png", "-b", "tensorflow"], 2, "tensorflow"),
        (["{in}", "-o", "{tmp}/o.png", "-m", "{tmp}/none.onnx"], 2, "none.onnx"),
        (["{in}", "-o", "{tmp}/o.png", "-m", "{in}"], 2, "not an ONNX file"),
        (["{in}", "-o", "{tmp}/o.png", "--frobnicate"], 2, "--frobnicate"),
        (["{tmp}", "-o", "{in}", "-b", "reference"], 2, "name a folder"),
    ],
)
def test_bad_arguments_get_one_line_and_leave_nothing(picture, tmp_path, capsys, arguments, code, words):
    filled = [a.format(tmp=tmp_path, **{"in": picture}) for a in arguments]
    assert words in fails(capsys, filled, code)
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.unix("makes links")
def test_a_link_among_the_results_leads_to_no_input(picture, tmp_path, capsys):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for place in (folder, folder / "more"):
        shutil.copy(picture, place / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "more").symlink_to(folder)
    assert main([str(folder), "-o", str(tmp_path / "out"), "-b", "reference"]) == 2
    assert "out/more/a.png: is a picture of the input; name another output" in capsys.readouterr().err
    assert (folder / "a.png").read_bytes() == picture.read_bytes()


@pytest.mark.unix("makes a pipe")
def test_a_pipe_is_refused_as_a_target_before_the_model_is_loaded(picture, tmp_path, capsys):
    os.mkfifo(tmp_path / "out.png")
    arguments = [picture, "-o", tmp_path / "out.png", "-m", tmp_path / "none.onnx"]
    assert "is a device or a pipe; name a file" in fails(capsys, arguments, 2)
    assert (tmp_path / "out.png").is_fifo()


def test_a_folder_that_cannot_be_read_is_said(picture, tmp_path, capsys, monkeypatch):
    (tmp_path / "folder").mkdir()

    def cannot(path, pattern):
        raise OSError(22, "Invalid argument", str(tmp_path / "folder" / "net"))

    monkeypatch.setattr(Path, "rglob", cannot)
    line = fails(capsys, [tmp_path / "folder", "-o", tmp_path / "out", "-b", "reference"], 2)
    assert "net: cannot be read: Invalid argument; name another" in line


def test_empty_folder_is_said(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no picture" in fails(capsys, [tmp_path / "empty", "-o", tmp_path / "out", "-b", "reference"], 2)


@pytest.mark.linux("writes to /proc, which takes no files")
def test_unwritable_folder_is_said(picture, capsys):
    assert "/proc/o.png: cannot be written" in fails(capsys, [picture, "-o", "/proc/o.png", "-b", "reference"], 2)


@pytest.mark.parametrize("suffix", [".bmp", ".mp4"])
def test_full_disk_is_said_and_leaves_nothing(tmp_path, tiny_disk, rng, capsys, suffix):
    source = tmp_path / f"in{suffix}"
    if suffix == ".mp4":
        write_clip(source, frames=200)
    else:
        cv2.imwrite(str(source), rng.integers(0, 256, (80, 80, 3)).astype(np.uint8))
    target = tiny_disk / f"out{suffix}"
    assert "No space left" in fails(capsys, [source, "-o", target, "-b", "reference"], 2)
    assert not [path for path in tiny_disk.iterdir() if path != parts_of(target)]


@pytest.mark.internal_error
def test_internal_error_is_one_line_and_a_traceback_only_with_debug(picture, tmp_path, capsys, monkeypatch):
    def broken(*_args, **_options):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("esrgan_deploy.cli.upscale.open_session", broken)
    arguments = [str(picture), "-o", str(tmp_path / "o.png"), "-b", "reference"]
    assert "ZeroDivisionError" in fails(capsys, arguments, 1)
    assert main([*arguments, "--debug"]) == 1
    traced = capsys.readouterr().err
    assert traced.index("Traceback") < traced.index("in broken") < traced.rindex("internal error")


@pytest.mark.parametrize(
    ("second", "code", "says"),
    [
        (NameError("name 'coroutines' is not defined"), 130, "interrupted; cleaning up failed (NameError: name 'cor"),
        (StallError("it stood still"), 5, "it stood still"),
    ],
)
def test_what_fails_in_place_of_an_interruption_is_still_one(
    capsys, tmp_path, picture, monkeypatch, second, code, says
):
    """Unless it is an error of ours, which was raised on purpose."""

    def interrupted(*_, **__):
        try:
            raise KeyboardInterrupt
        finally:
            raise second

    monkeypatch.setattr("esrgan_deploy.cli.upscale.open_session", interrupted)
    assert says in fails(capsys, [str(picture), "-o", str(tmp_path / "o.png"), "-b", "reference"], code)


@pytest.mark.unix("sends signals to another process")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_clip_leaves_no_half_file(tmp_path, sent):
    """A real clip, large enough to be running when the signal arrives."""
    clip = tmp_path / "in.mkv"
    write_clip(clip, frames=2000)
    program = "import sys; from esrgan_deploy.cli.upscale import main; sys.exit(main())"
    target = tmp_path / "out.mkv"
    process = popen(
        [sys.executable, "-c", program, str(clip), "-o", str(target), "-b", "reference"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + sent, error
    assert "interrupted" in error
    left = {clip, parts_of(target)} if any(parts_of(target).glob("*.packets")) else {clip}
    assert set(tmp_path.iterdir()) == left
    assert ("--resume goes on" in error) is (len(left) == 2)


def write_clip(path, frames):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for i in range(frames):
            pixels = np.random.default_rng(i).integers(0, 256, (96, 160, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def test_lists_of_the_command_agree_with_the_modules():
    """The command keeps its own copies, so that --help loads neither OpenCV nor FFmpeg."""
    from esrgan_deploy import images, video

    assert images.SUFFIXES == PICTURES
    assert tuple(video.CODECS) == CODECS
