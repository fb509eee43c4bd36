"""Commands whose native code never returns: they say so, end with an exit code of their own, keep what is finished."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from children import popen
from esrgan_deploy import StallError, watchdog
from esrgan_deploy.cli import upscale
from esrgan_deploy.video import parts_of
from esrgan_deploy.video.run.stages import Stages

DATA = Path(__file__).parents[1] / "data"
CLIP = DATA / "bigbuckbunny.mp4"
LIMIT_S = 60

STUCK = """
import ctypes, sys
from esrgan_deploy.system import monitor
how, frames, monitor.GRACE_S = sys.argv[1], int(sys.argv[2]), 2.0
del sys.argv[1:3]
from esrgan_deploy.backends.reference import ReferenceSession

libc = {"without GIL": ctypes.CDLL, "with GIL": ctypes.PyDLL}[how](None)
infer = ReferenceSession._infer

def stuck(self, frame):
    global frames
    frames -= 1
    while frames < 0:
        libc.pause()
    return infer(self, frame)

ReferenceSession._infer = stuck
from esrgan_deploy.cli.upscale import main
sys.exit(main())
"""
DEADLOCK = """
import sys, threading
import openvino
from esrgan_deploy.cli.guard import Guard

barrier = threading.Barrier(8)

def work():
    barrier.wait()
    openvino.Type.u16.to_dtype()

def spin():
    while True:
        pass

sys.setswitchinterval(1e-5)
for _ in range(2):  # somebody always wants the GIL, so that it changes hands wherever it can
    threading.Thread(target=spin, daemon=True).start()
with Guard("test", 1.0, None):
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def start(how, frames, *arguments):
    """esrgan-upscale with a network that returns so many frames, and is stuck then."""
    command = [sys.executable, "-c", STUCK, how, str(frames), *map(str, arguments), "-b", "reference"]
    return popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def end_of(process):
    """Exit code and stderr."""
    _, errors = process.communicate(timeout=LIMIT_S)
    return process.returncode, errors


@pytest.mark.parametrize("how", ["without GIL", "with GIL"])
def test_a_clip_that_stands_still_ends_with_5_and_goes_on(tmp_path, how):
    target, whole = tmp_path / "out.mp4", tmp_path / "whole.mp4"
    options = ["--segment", 4, "--frames", ":24"]
    code, errors = end_of(start(how, 20, CLIP, "-o", target, "--stall", 2, *options))
    assert code == 5, errors
    assert "in stuck" in errors, "the stacks"
    kept = f"what is finished lies in {parts_of(target)}; the same command with --resume goes on\n"
    assert errors.endswith(kept)
    if how == "without GIL":
        assert "esrgan-upscale: nothing has moved for " in errors
        assert "  infer: took " in errors
        assert "waits for 'infer'" in errors
    else:
        assert "esrgan-upscale: no Python code has run in it for " in errors
    arguments = [str(CLIP), "-b", "reference", *map(str, options)]
    assert upscale.main([*arguments, "-o", str(target), "--resume"]) == 0
    assert upscale.main([*arguments, "-o", str(whole)]) == 0
    assert target.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("folder", [False, True])
def test_pictures_that_stand_still_end_with_5(tmp_path, folder):
    (tmp_path / "in").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), np.zeros((8, 8, 3), np.uint8))
    source = tmp_path / "in" if folder else tmp_path / "in" / "a.png"
    code, errors = end_of(
        start("without GIL", int(folder), source, "-o", tmp_path / f"out{source.suffix}", "--stall", 1)
    )
    assert code == 5, errors
    assert "in stuck" in errors
    assert errors.endswith("ended, since nothing moved; nothing is kept of it\n")
    left = {"in", "out"} if folder else {"in"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_a_pipe_may_pause_for_longer(tmp_path):
    """The other end decides when it sends; afterwards the network stands still, and that is noticed."""
    with start("without GIL", 1, "-", "-o", tmp_path / "out.mkv", "--stall", 1) as process:
        time.sleep(3)
        assert process.poll() is None
        header = "YUV4MPEG2 W16 H16 F25:1 Ip C420jpeg\n"
        process.stdin.write(header + "".join("FRAME\n" + 384 * number for number in "01234567"))
        code, errors = end_of(process)
    assert code == 5, errors
    assert not (tmp_path / "out.mkv").exists()
    assert not list(tmp_path.iterdir()), "the file that was being written is removed"


@pytest.mark.parametrize(
    ("how", "signals", "expected"),
    [
        ("without GIL", [signal.SIGINT, signal.SIGINT], 130),
        ("without GIL", [signal.SIGINT], 130),
        ("without GIL", [signal.SIGTERM], 143),
        ("with GIL", [signal.SIGINT, signal.SIGINT], -signal.SIGKILL),
        ("with GIL", [signal.SIGTERM], -signal.SIGKILL),
    ],
)
def test_signals_end_what_is_stuck_within_seconds(tmp_path, how, signals, expected):
    target = tmp_path / "out.mp4"
    process = start(how, 20, CLIP, "-o", target, "--segment", 4)
    wait_until(lambda: list(parts_of(target).glob("000001.packets")))
    time.sleep(1)
    begin = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    code, errors = end_of(process)
    assert code == expected, errors
    assert time.monotonic() - begin < 20
    assert errors.endswith(f"what is finished lies in {parts_of(target)}; the same command with --resume goes on\n")


def test_the_deadlock_of_a_native_library_is_ended():
    """Openvino's own, which this package avoids; not every process meets it."""
    pytest.importorskip("openvino")
    for _ in range(12):
        done = subprocess.run([sys.executable, "-c", DEADLOCK], capture_output=True, text=True, timeout=LIMIT_S)
        if done.returncode:
            assert done.returncode == 5, done.stderr
            assert "no Python code has run in it" in done.stderr
            assert done.stderr.count("in work") >= 2
            return
    pytest.skip("this version of OpenVINO has no such deadlock")


def test_whoever_ignores_ctrl_c_goes_on_to(tmp_path):
    """`nohup` and the background of a shell: that is the user's wish."""
    target = tmp_path / "out.mp4"
    program = "import sys; from esrgan_deploy.cli.upscale import main; sys.exit(main())"
    command = [sys.executable, "-c", program, str(CLIP), "-o", str(target), "-b", "reference", "--frames", ":30"]
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, ignored)
    wait_until(parts_of(target).exists)
    process.send_signal(signal.SIGINT)
    assert end_of(process)[0] == 0


def test_a_second_ctrl_c_leaves_stages_that_are_stuck(monkeypatch):
    monkeypatch.setattr("esrgan_deploy.video.run.stages.LEAVE_S", 0.2)
    stuck, main = threading.Event(), threading.main_thread().ident

    def press():
        for _ in range(2):
            time.sleep(0.3)
            signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=press).start()
        with pytest.raises(KeyboardInterrupt), Stages() as stages:
            stages.start("stuck", stuck.wait)
            stages.join()
    finally:
        signal.signal(signal.SIGINT, before)
        stuck.set()


def test_the_hook_of_a_watchdog_hears_what_each_stage_waits_for():
    stuck, told = threading.Event(), []

    def hear(error):
        told.append(error)
        stuck.set()

    with watchdog.Watchdog(1, hear), Stages() as stages:
        numbers, same = stages.channel(1), stages.channel(1)
        stages.start("produce", lambda: numbers.put_all(range(5)))
        stages.start("middle", lambda: same.put_all(number for number in numbers if number < 2 or stuck.wait()))
        with stages.here("last"):
            assert list(same) == [0, 1, 2, 3, 4]
        stages.join()
    (error,) = told
    assert isinstance(error, StallError)
    assert error.exit_code == 5
    first, *parts = str(error).split("; ")
    assert first.startswith("nothing has moved for ")
    parts = {part.split(":")[0]: part for part in parts}
    assert "gave 4, for " in parts["produce"]
    assert parts["produce"].endswith("waits until 'middle' takes one")
    assert parts["last"].startswith("last: took 2, gave 0, for ")
    assert parts["last"].endswith("waits for 'middle'")
    assert "middle: took 3, gave 2, for " in parts["middle"]
    assert " in stages.py:" in parts["middle"]


def test_a_process_that_computes_may_take_longer(monkeypatch):
    """A large frame on a slow network moves nothing for minutes."""
    clock = [0.0, 0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(watchdog.time, "process_time", lambda: clock[1])

    def seconds_until_told(cores):
        standstill = watchdog.Standstill(30)
        begin = clock[0]
        while not standstill.look():
            clock[0] += 1
            clock[1] += cores
        return clock[0] - begin

    assert seconds_until_told(0.01) == 30
    assert seconds_until_told(1.5) == 300


def test_time_in_which_the_process_was_stopped_does_not_count(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock[0])
    standstill = watchdog.Standstill(30)
    for seconds in (1, 3600, 1, 3600):
        clock[0] += seconds
        assert standstill.look() is None


def test_without_a_limit_nothing_is_told(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock[0])
    standstill = watchdog.Standstill(0)
    for _ in range(5000):
        clock[0] += 1
        assert standstill.look() is None


def test_the_folder_of_segments_has_the_name_that_the_command_says(tmp_path):
    assert parts_of(tmp_path / "a.mp4") == tmp_path / f"a.mp4{upscale.PARTS}"


@pytest.mark.parametrize("wrong", ["-1", "soon", "1e3"])
def test_stall_takes_seconds(tmp_path, capsys, wrong):
    with pytest.raises(SystemExit) as caught:
        upscale.main([str(CLIP), "-o", str(tmp_path / "o.mp4"), f"--stall={wrong}"])
    assert caught.value.code == 2
    assert "is not a number of seconds, 0 or more" in capsys.readouterr().err


def wait_until(condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
