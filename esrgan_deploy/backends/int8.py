"""The INT8 artefact of a network: which file it is, and that it really is of the same network."""

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
    """The INT8 artefact that lies beside `model`; a model that is one itself is simply taken.

    Raises:
        OptionError: there is none.
        ModelError: what lies there is damaged, or of another network.
    """
    info = load_onnx(model)[1]
    if info.precision == "int8":
        return model
    path = int8_path(model)
    if not path.exists():
        raise OptionError(f"--precision int8: {model} needs {path.name} beside it, which is missing; {REMEDY}")
    found = load_onnx(path)[1]
    if found.precision != "int8":
        raise ModelError(f"{path}: is {found.precision}, in spite of its name; {REMEDY}")
    for name in ("scale", "alpha", "psnr_sha256", "gan_sha256"):
        ours, theirs = getattr(info, name), getattr(found, name)
        if ours != theirs:
            raise ModelError(f"{path}: has {name} {theirs}, and {model} has {ours}: another network; {REMEDY}")
    return path


def at_precision(model: Path, precision: CpuPrecision) -> Path:
    """The file to run: for "int8" the INT8 artefact, else the model itself.

    Raises:
        OptionError, ModelError: see `int8_beside`.
    """
    return int8_beside(model) if precision == "int8" else model
