"""Three hundred hostile cases, each with a fixed seed; and every oracle catches the fault that it is there for."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES, SEED = 300, 15

if sys.platform != "linux":
    pytest.skip("cases are watched through pidfd and /proc, which only Linux has", allow_module_level=True)
pytest.importorskip("torch", reason="checkpoints, recipes and states need PyTorch")

from hostile import classes  # noqa: E402
from hostile.case import Case, Command, Output  # noqa: E402
from hostile.worker import CANARY, Worker  # noqa: E402

LINE = "esrgan-upscale: in.png: is wrong\n"


def test_three_hundred_cases(tmp_path):
    words = ["--ideas", "--n", str(CASES), "--seed", str(SEED), "--jobs", "2", "--keep", str(tmp_path / "failures")]
    command = [sys.executable, "-m", "tests.hostile", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    assert f"{CASES} cases" in done.stdout


def test_a_case_is_the_same_each_time(worker):
    spec = classes.spec(3, "pictures-40")
    assert (spec.random().random(), spec.idea) == (classes.spec(3, "pictures-40").random().random(), spec.idea)
    first, second = worker.verdict(spec), worker.verdict(spec)
    assert (first.codes, first.faults, first.last) == (second.codes, second.faults, second.last)


def test_names_of_cases_hold_every_class_and_idea():
    names = classes.ideas_first(CASES)
    assert len(names) == len(set(names)) == CASES
    assert {name.rpartition("-")[0] for name in names} == set(classes.NAMES)
    assert classes.names(len(classes.NAMES) + 1)[-1] == f"{classes.NAMES[0]}-1"


def say(text=LINE, code=2):
    sys.stderr.write(text)
    return code


def write(name, data=b"new"):
    Path(name).write_bytes(data)


def good():
    from PIL import Image

    Image.open("in.png").resize((96, 64), 0).save("out.png")
    return 0


def cut_picture():
    good()
    data = Path("out.png").read_bytes()
    write("out.png", data[: len(data) // 2])
    return 0


def other_pixels():
    from PIL import Image

    Image.new("RGB", (96, 64)).save("out.png")
    return 0


def shorter_clip():
    good()
    from clips import write_clip

    write_clip("out.mkv", pts=tuple(range(0, 5 * 512, 512)), size=(32, 48))
    return 0


def greedy():
    data = bytearray(700 << 20)
    return say() + 0 * len(data)


def connects():
    host, port = os.environ[CANARY].split(":")
    socket.create_connection((host, int(port))).close()
    return say()


def ffmpeg_connects():
    import av

    try:
        av.open(f"http://{os.environ[CANARY]}/x.ts", timeout=1)
    except (av.FFmpegError, OSError):
        return say()
    return 0


def after(change, code=2):
    """`change`, then an ordinary refusal."""

    def run():
        change()
        return say() if code else good()

    return run


FAULTS = {
    "exit code": lambda: say(code=1),
    "exit code of Python": lambda: 1 // 0,
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "hang": lambda: time.sleep(60),
    "memory": greedy,
    "internal error": lambda: say("esrgan-upscale: internal error: KeyError: 'x'; run again\n"),
    "internal error, a traceback": lambda: say(f"Traceback (most recent call last):\n  x\n{LINE}"),
    "no line": lambda: say("something went wrong\n"),
    "no line at all": lambda: say(""),
    "flood": lambda: say("x" * 5000 + "\n" + LINE),
    "flood of lines": lambda: say("a note\n" * 1000 + LINE),
    "noise": lambda: say(f"[h264 @ 0x55d] error while decoding MB 3 4\n{LINE}"),
    "escape": lambda: say("esrgan-upscale: \x1b]0;owned\x07: is wrong\n"),
    "escape, directional": lambda: say("esrgan-upscale: \u202egnp.x: is wrong\n"),
    "escape on stdout": lambda: [sys.stdout.write("\x9b2J\n"), good()][1],
    "victim": after(lambda: write("precious.txt")),
    "victim removed": after(lambda: Path("precious.txt").unlink()),
    "victim touched": after(lambda: os.utime("precious.txt")),
    "victim behind a link": after(lambda: write("link/precious.txt"), code=0),
    "left behind": after(lambda: write(".out.1234.part.png")),
    "left behind in TMPDIR": after(lambda: write(f"{os.environ['TMPDIR']}/x")),
    "left behind, parts": after(lambda: [Path("out.mkv.parts").mkdir(), write("out.mkv.parts/lock")]),
    "half-written": after(lambda: write("out.png")),
    "half-written, exit 0": cut_picture,
    "no output": lambda: 0,
    "wrong": other_pixels,
    "lost": shorter_clip,
    "connection": connects,
    "connection by FFmpeg": ffmpeg_connects,
}


def spec_of(run):
    """One command that is `run`, with a picture, a clip and somebody's files beside it."""

    def make(shop):
        shop.seed("rgb.png", "in.png")
        shop.seed("a.mkv", "in.mkv")
        shop.write("precious.txt", "precious")
        shop.write("victim/precious.txt", "precious")
        (shop.folder / "link").symlink_to("victim")
        outputs = [Output("out.png", "picture", like="in.png")]
        if run is shorter_clip:
            outputs.append(Output("out.mkv", "clip", like="in.mkv"))
        command = Command(["esrgan-upscale"], run=True)
        return Case("", [command], outputs, seconds=5, memory=600 << 20)

    return classes.Spec(1, "oracles-0", "oracle", make, run=run)


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    made = Worker(folder / "work", folder / "seeds")
    yield made
    made.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", FAULTS)
def test_each_oracle_catches_its_fault(worker, name):
    kinds = {kind for kind, _ in worker.verdict(spec_of(FAULTS[name])).faults}
    wanted = next(kind for kind in sorted(KINDS, key=len, reverse=True) if name.startswith(kind))
    assert wanted in kinds


KINDS = ("exit code", "crash", "hang", "memory", "internal error", "no line", "flood", "noise", "escape", "victim")
KINDS += ("left behind", "half-written", "no output", "wrong", "lost", "connection")


@pytest.mark.parametrize("run", [good, say], ids=["done", "refused"])
def test_what_is_right_passes(worker, run):
    assert worker.verdict(spec_of(run)).faults == []


def test_the_smallest_failing_input_is_found(worker):
    from hostile.minimise import minimise

    def make(shop):
        data = b"a" * 400
        for at, letter in ((10, b"x"), (200, b"y"), (300, b"z")):
            data = shop.edit(lambda data, at=at, letter=letter: data[:at] + letter + data[at + 1 :], data)
        shop.write("in.txt", data)
        return Case("", [Command(["esrgan-upscale"], run=True)])

    def run():
        return say(code=1 if b"y" in Path("in.txt").read_bytes() else 2)

    spec = classes.Spec(1, "oracles-1", "minimised", make, run=run)
    first = worker.verdict(spec)
    kept, cuts, best = minimise(lambda kept, cuts: worker.verdict(spec, kept, cuts), first)
    assert kept == {1}
    left = 400 - sum(end - begin for begin, end in cuts["in.txt"])
    assert left <= 32
    assert [kind for kind, _ in best.faults] == ["exit code"]
