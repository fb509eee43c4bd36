"""Find the INT8 artefact of a network, and make sure that it belongs to the same network."""

from __future__ import annotations

from pathlib import Path

from esrgan_deploy.backends.names import CpuPrecision
from esrgan_deploy.errors import ModelError, OptionError
from esrgan_deploy.model import PRECISIONS, load_onnx

REMEDY = "make it with esrgan-export --int8 --calibrate DIR, from the same checkpoints and with the same alpha"


def int8_path(model: Path) -> Path:
    """Where the INT8 artefact of a model belongs: x_x4_a0.80_fp16.onnx -> x_x4_a0.80_int8.onnx."""
    name, _, precision = model.stem.rpartition("_")
    base = name if name and precision in PRECISIONS else model.stem
    return model.with_name(f"{base}_int8{model.suffix}")


def int8_beside(model: Path) -> Path:
    """The INT8 artefact that lies beside `model`, or `model` if that is INT8 itself.

    Raises:
        OptionError: there is none.
        ModelError: the file is damaged, or belongs to another network.
    """
    info = load_onnx(model)[1]
    if info.precision == "int8":
        return model
    path = int8_path(model)
    if not path.exists():
        raise OptionError(f"--precision int8: {model} needs {path.name} beside it, which is missing; {REMEDY}")
    found = load_onnx(path)[1]
    if found.precision != "int8":
        raise ModelError(f"{path}: is {found.precision}, though its name says int8; {REMEDY}")
    for name in ("scale", "alpha", "psnr_sha256", "gan_sha256"):
        ours, theirs = getattr(info, name), getattr(found, name)
        if ours != theirs:
            raise ModelError(f"{path}: has {name} {theirs}, {model} has {ours}: another network; {REMEDY}")
    return path


def at_precision(model: Path, precision: CpuPrecision) -> Path:
    """The file to run: for "int8" the INT8 artefact, else the model itself.

    Raises:
        OptionError, ModelError: see `int8_beside`.
    """
    return int8_beside(model) if precision == "int8" else model
