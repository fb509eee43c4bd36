"""The two networks of `peers.py` in every file format that somebody asks for, and who runs them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import peers_setup as setup
from esrgan_deploy.backends.ov import cpu_has_bf16
from esrgan_deploy.models import MODELS
from esrgan_export.checkpoint import load_checkpoint, save_checkpoint
from esrgan_export.interpolate import interpolate
from esrgan_export.ncnn import read_ncnn
from esrgan_export.networks import Network
from peers_process import Contender, UnavailableError
from side_by_side import export_real, ncnn_files

X4PLUS = "REALESRGAN_X4PLUS_UP4X"
DEFAULT = "esrgan-deploy"
INT8 = "esrgan-deploy int8"
REFERENCE = "PyTorch eager"
ORT = "ONNX Runtime"
OWN = (DEFAULT, "esrgan-deploy fp32", "esrgan-deploy bf16", INT8)

Start = Callable[[], Contender]
"""Start a contender, or raise UnavailableError."""


class Subject(NamedTuple):
    """A network in the formats of all contenders. What takes a while, or may fail, is made when it is asked for."""

    title: str
    network: Network
    onnx: Path
    checkpoint: Path
    int8: Callable[[], Path]
    ncnn: Callable[[], tuple[Path, Path]]
    framelift_model: str | None
    """What framelift-video calls a network of this architecture; None: it has none."""


def rrdbnet23(folder: Path, int8: Path | None, calibration: Path | None) -> Subject:
    """Real-ESRGAN x4plus, RRDBNet with 23 blocks. Its files are written into `folder`.

    Args:
        folder: an empty one.
        int8: the network's INT8 file; None: export it.
        calibration: pictures to export it with.
    """
    param, weights = ncnn_files(X4PLUS)
    network = read_ncnn(param, weights)
    return Subject(
        title="RRDBNet-23 x4 (Real-ESRGAN x4plus)",
        network=network,
        onnx=export_real(X4PLUS, folder),
        checkpoint=_checkpoint(network, folder),
        int8=lambda: int8 or setup.int8_file(["--gan", str(param)], calibration, _new(folder / "int8")),
        ncnn=lambda: (param, weights),
        framelift_model="realesrgan-x4plus",
    )


def compact(folder: Path, int8: Path | None, calibration: Path | None) -> Subject:
    """The smallest network that comes with the package, an RRDBNet with 3 blocks of 16 channels; arguments as above."""
    model = MODELS["compact-clean"]
    network = interpolate(load_checkpoint(model.psnr), load_checkpoint(model.gan), model.alpha)
    pair = ["--psnr", str(model.psnr), "--gan", str(model.gan), "--alpha", f"{model.alpha:g}"]
    return Subject(
        title="compact-clean x4 (bundled)",
        network=network,
        onnx=model.onnx,
        checkpoint=_checkpoint(network, folder),
        int8=lambda: int8 or setup.int8_file(pair, calibration, _new(folder / "int8")),
        ncnn=lambda: setup.converted_to_ncnn(model.onnx, _new(folder / "ncnn")),
        framelift_model=None,
    )


def lineup(subject: Subject, folder: Path, size: tuple[int, int]) -> dict[str, Start]:
    """Everybody who takes part, by name: this project first, then its peers.

    Args:
        subject: what they run.
        folder: for files that are made of it.
        size: (height, width) of the frames.
    """
    model, checkpoint = str(subject.onnx), str(subject.checkpoint)
    shape = {"model": model, "height": size[0], "width": size[1]}

    def here(loader: str, **arguments: object) -> Start:
        """In this interpreter, with files that are there."""
        return lambda: Contender(loader, arguments, size)

    def ncnn() -> Contender:
        param, weights = subject.ncnn()
        return Contender("ncnn", {"param": str(param), "weights": str(weights)}, size)

    def torch_compile() -> Contender:
        kernels = {"TORCHINDUCTOR_CACHE_DIR": str(setup.made_once("inductor", lambda _: None))}
        return Contender("pytorch", {"checkpoint": checkpoint, "compiled": True}, size, environment=kernels)

    def mlrt(plugin: str, precision: str) -> Contender:
        arguments = {**shape, "plugin": plugin, "precision": precision}
        return Contender("vsmlrt", arguments, size, python=setup.vapoursynth_python())

    everybody: dict[str, Start] = {
        DEFAULT: here("session", model=model),
        INT8: lambda: Contender("session", {"model": str(subject.int8())}, size),
        REFERENCE: here("pytorch", checkpoint=checkpoint),
        "PyTorch compile": torch_compile,
        ORT: here("onnxruntime", model=model),
        "OpenVINO": here("openvino", **shape, precision="fp32"),
        "ncnn": ncnn,
        "vs-mlrt ORT": functools.partial(mlrt, "ort", "fp32"),
        "vs-mlrt OV": functools.partial(mlrt, "ov", "fp32"),
        "framelift-video": functools.partial(_framelift, subject, folder, size),
    }
    in_bf16: dict[str, Start] = {
        "esrgan-deploy fp32": here("session", model=model, precision="fp32"),  # the default is bf16 there
        "OpenVINO bf16": here("openvino", **shape, precision="bf16"),
        "vs-mlrt OV bf16": functools.partial(mlrt, "ov", "bf16"),
    }
    return {**everybody, **in_bf16} if cpu_has_bf16() else {**everybody, "esrgan-deploy bf16": _no_bf16}


def _no_bf16() -> Contender:
    raise UnavailableError("this CPU has no bf16 instructions")


def _framelift(subject: Subject, folder: Path, size: tuple[int, int]) -> Contender:
    if subject.framelift_model is None:
        raise UnavailableError("it builds RRDBNet with 64 channels only")
    arguments = {
        "folder": str(setup.framelift_folder()),
        "model": subject.framelift_model,
        "weights": str(setup.framelift_weights(subject.network, _new(folder / "framelift"))),
    }
    return Contender("framelift", arguments, size)


def _checkpoint(network: Network, folder: Path) -> Path:
    path = folder / "network.safetensors"
    save_checkpoint(network, path)
    return path


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
