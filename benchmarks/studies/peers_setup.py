"""What contenders of `peers.py` need and pip does not put beside this project: environments, and other file formats.

Everything lies in the user's cache, `esrgan-deploy/peers`, and is made once; remove that folder to get newer versions.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from esrgan_deploy.model import load_onnx
from esrgan_deploy.system.paths import user_cache
from esrgan_export.networks import Network
from peers_process import UnavailableError

MLRT_PYTHON = (3, 12)
"""The wheels of vs-mlrt ask for this one or a later one."""
MLRT = ("vapoursynth", "vapoursynth-mlrt-ort", "vapoursynth-mlrt-ov", "numpy")
STEP_LIMIT_S = 1800.0
"""For one command: an installation, or the conversion of a network."""


def vapoursynth_python() -> str:
    """The interpreter of an environment with VapourSynth and vs-mlrt's filters for the CPU.

    Raises:
        UnavailableError: there is no Python for it, or pip cannot install them.
    """

    def make(folder: Path) -> None:
        _run([find_python(interpreters(), MLRT_PYTHON), "-m", "venv", str(folder)])
        _pip([str(folder / "bin/python")], MLRT)

    return str(made_once("vs-mlrt", make) / "bin/python")


def framelift_folder() -> Path:
    """A folder to import framelift-video from, beside the torch and the OpenVINO of this environment.

    Raises:
        UnavailableError: pip cannot install it.
    """
    return made_once("framelift", lambda folder: _pip([sys.executable], ["framelift-video"], folder))


def converted_to_ncnn(model: Path, folder: Path) -> tuple[Path, Path]:
    """An ONNX network as .param and .bin in `folder`, by pnnx, in fp32.

    Raises:
        UnavailableError: pip cannot install pnnx, or it cannot convert the network.
    """
    pnnx = made_once("pnnx", lambda target: _pip([sys.executable], ["pnnx"], target)) / "pnnx" / "pnnx"
    pnnx.chmod(0o755)  # pip unpacks it as package data
    copy = Path(shutil.copy(model, folder / "network.onnx"))  # it writes beside its input
    # Two sizes tell it that height and width may change, so that it does not fold them into constants.
    _run([str(pnnx), str(copy), "inputshape=[1,3,64,64]f32", "inputshape2=[1,3,48,96]f32", "fp16=0"], folder)
    files = folder / "network.ncnn.param", folder / "network.ncnn.bin"
    if not all(file.is_file() for file in files):
        raise UnavailableError("pnnx wrote no ncnn files")
    return files


def framelift_weights(network: Network, folder: Path) -> Path:
    """The weights as the .pth that framelift reads: keys and layout are BasicSR's, as they are here."""
    path = folder / "weights.pth"
    torch.save({"params_ema": network.state_dict()}, path)
    return path


def int8_file(source: list[str], calibration: Path | None, folder: Path) -> Path:
    """The INT8 form of a network, made by esrgan-export.

    Args:
        source: options of esrgan-export that name the network.
        calibration: pictures to calibrate it with.
        folder: an empty one.

    Raises:
        UnavailableError: no `calibration`, or the export fails.
    """
    if calibration is None:
        raise UnavailableError("no INT8 file: name one, or export it with --calibrate DIR")
    command = str(Path(sys.executable).with_name("esrgan-export"))
    _run([command, *source, "--int8", "--calibrate", str(calibration), "-o", str(folder)])
    for path in sorted(folder.glob("*.onnx")):
        if load_onnx(path)[1].precision == "int8":
            return path
    raise UnavailableError("esrgan-export --int8 wrote no INT8 file")


def interpreters() -> list[str]:
    """Pythons that may be on this machine: this one, those on PATH, and those of pyenv."""
    minors = range(MLRT_PYTHON[1], MLRT_PYTHON[1] + 8)
    on_path = [found for minor in minors if (found := shutil.which(f"python3.{minor}"))]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return [sys.executable, *on_path, *map(str, sorted(pyenv.glob("versions/3.*/bin/python")))]


def find_python(candidates: Iterable[str], at_least: tuple[int, int]) -> str:
    """The first of `candidates` that runs and is new enough.

    Raises:
        UnavailableError: none is.
    """
    question = f"import sys; sys.exit(sys.version_info < {at_least})"
    for python in candidates:
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", question], capture_output=True, check=False).returncode == 0:
                return python
    raise UnavailableError(f"there is no Python {at_least[0]}.{at_least[1]} or later here")


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache that `make` fills. Until it is complete it is not trusted, and made anew next time.

    Raises:
        UnavailableError: what `make` raises.
    """
    folder = user_cache("peers") / name
    complete = folder / ".complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"making {folder}", file=sys.stderr)
        make(folder)
        complete.touch()
    return folder


def _pip(python: list[str], packages: Iterable[str], target: Path | None = None) -> None:
    """Install into an environment, or into the folder `target` without what the packages depend on."""
    where = ["--no-deps", "--target", str(target)] if target else []
    options = ["--disable-pip-version-check", "--retries", "1", "-q"]  # without a network, say so soon
    _run([*python, "-m", "pip", *options, "install", *where, *packages])


def _run(command: list[str], folder: Path | None = None) -> None:
    """Run a command in `folder`; the last line that it printed is the reason if it fails."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False, timeout=STEP_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{name} took longer than {STEP_LIMIT_S:.0f} s") from None
    except OSError as error:
        raise UnavailableError(f"{name} cannot be run: {error.strerror}") from None
    if done.returncode:
        lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        raise UnavailableError(f"{name} failed: {lines[-1] if lines else f'status {done.returncode}'}")
