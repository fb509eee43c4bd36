"""What Windows and macOS lack is taken away from real commands, which then make the same files as on Linux."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clips import write_clip
from esrgan_deploy.errors import OutputError
from esrgan_deploy.system.paths import user_cache
from other_systems import run, start

OTHERS = ["macos", "windows"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two pictures in a folder, one with a name that no code page of Western Europe has, and a clip."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "pictures").mkdir()
    for seed, name in enumerate(("plain.png", "写真.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / name)
    write_clip(folder / "clip.mp4", range(0, 24 * 512, 512))
    return folder


@pytest.fixture(scope="module")
def on_linux(source, tmp_path_factory):
    """The same commands with nothing taken away: a folder with what they make, and what the first one says."""
    folder = tmp_path_factory.mktemp("linux")
    said = run("linux", "upscale", source / "pictures", "-o", folder / "写真")
    run("linux", "upscale", source / "clip.mp4", "-o", folder / "clip.mp4", "--segment", "3")
    return folder, said


def session_line(said):
    """Which network runs on which backend in which precision."""
    return next(line for line in said.splitlines() if " x4, " in line)


@pytest.mark.parametrize("system", OTHERS)
def test_pictures(system, source, on_linux, tmp_path):
    """A single one and a folder of them; the backend is the one that is chosen on Linux."""
    expected, said_on_linux = on_linux
    run(system, "upscale", source / "pictures" / "写真.png", "-o", tmp_path / "写真.png")
    said = run(system, "upscale", source / "pictures", "-o", tmp_path / "写真")
    assert session_line(said) == session_line(said_on_linux)
    for name in ("plain.png", "写真.png"):
        assert (tmp_path / "写真" / name).read_bytes() == (expected / "写真" / name).read_bytes()
    assert (tmp_path / "写真.png").read_bytes() == (expected / "写真" / "写真.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["写真", "写真.png"]


@pytest.mark.parametrize("system", OTHERS)
def test_a_clip_that_was_killed_is_resumed_to_the_same_file(system, source, on_linux, tmp_path):
    expected, _ = on_linux
    target, journal = tmp_path / "clip.mp4", tmp_path / "clip.mp4.parts" / "journal.jsonl"
    words = ("upscale", source / "clip.mp4", "-o", target, "--segment", "3", "--threads", "1")
    with start(system, *words) as killed:
        while killed.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
            time.sleep(0.005)
        killed.kill()
        said = "".join(killed.communicate(timeout=60))
    assert killed.returncode not in (0, 1, 2, 3), said
    assert b"\r" not in journal.read_bytes()
    run(system, *words, "--resume")
    assert target.read_bytes() == (expected / "clip.mp4").read_bytes()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("system", OTHERS)
def test_an_error_names_a_file_that_the_code_page_lacks(system, tmp_path):
    """In print of the console, whose code page cannot say it, and not as a fault of ours."""
    with start(system, "upscale", tmp_path / "写真.png", "-o", tmp_path / "out.png") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    name = "\\u5199\\u771f.png" if system == "windows" else "写真.png"
    assert f"{name}: does not exist" in err


def in_python(system, code, *arguments):
    """What Python code prints in a fresh process on `system`."""
    code = f"from other_systems import become\nbecome({system!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


TUNED = """
import sys
from pathlib import Path
from esrgan_deploy.backends.choice import Candidate, Choice, Timing
from esrgan_deploy.backends.saved_choices import recall, remember
model = Path(sys.argv[1])
choice = Choice((Timing(Candidate("ort", "fp32", 2, 1), 1.0, 64),), ((64, 1.0),), (), 1.0)
assert recall(model, "auto") is None
print(remember(model, "auto", choice))
remember(model, "auto", choice)
assert recall(model, "auto") == choice
"""


@pytest.mark.parametrize("system", OTHERS)
def test_what_was_tuned_is_remembered(system, blur_x2, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (path,) = in_python(system, TUNED, blur_x2)
    assert [str(file) for file in tmp_path.rglob("*.json")] == [path]


def test_a_cache_folder_needs_no_user_id(monkeypatch, tmp_path):
    """platformdirs cannot be imported without os.getuid."""
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache("tuning") == tmp_path / "esrgan-deploy" / "tuning"
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME"):
        user_cache()


REFUSALS = """
import importlib, os, sys
from pathlib import Path
file = Path(sys.argv[1]) / "open.txt"
refused = {
    "affinity": lambda: os.sched_getaffinity(0),
    "/proc": lambda: Path("/proc/cpuinfo").read_text(),
    "/sys": lambda: os.listdir("/sys"),
    "fsync": lambda: os.fsync(read.fileno()),
    "folder": lambda: os.open(file.parent, os.O_RDONLY),
    "fcntl": lambda: importlib.import_module("fcntl"),
    "uid": lambda: os.getuid(),
    "name": lambda: file.with_name("12:00.txt").write_text(""),
    "rename": lambda: file.with_name("a").rename(file.with_name("b")),
    "replace": lambda: file.with_name("c").replace(file),
    "remove": lambda: file.unlink(),
    "folder's name": lambda: file.parent.rename(str(file.parent) + "2"),
}
file.with_name("a").touch()
file.with_name("b").touch()
file.with_name("c").touch()
with file.open("w") as out, file.open() as read:
    out.write("\\u00e9\\n")
    for name, call in refused.items():
        try:
            call()
        except (AttributeError, ImportError, OSError):
            print(name.replace(" ", "_"))
if file.exists():
    print(file.read_bytes().hex())
    written = os.open(file, os.O_WRONLY | os.O_TRUNC)
    os.write(written, b"\\n")
    print(file.read_bytes().hex())
"""


def test_the_simulation_takes_away_what_it_says(tmp_path):
    """Otherwise every test here would pass without a reason."""
    macos = ["affinity", "/proc", "/sys"]
    windows = [*macos, "fsync", "folder", "fcntl", "uid", "name", "rename", "replace", "remove", "folder's_name"]
    lines = [b"\xe9\r\n".hex(), b"\r\n".hex()]
    for system, expected in {"linux": [], "macos": macos, "windows": windows + lines}.items():
        (tmp_path / system).mkdir()
        assert in_python(system, REFUSALS, tmp_path / system) == expected
