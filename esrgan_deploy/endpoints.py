"""The weights at alpha 0 and 1 of a model: from the file beside it, or from the checkpoints of a bundled pair.

A model made from a pair that comes with the package, in any precision and wherever it lies, needs no file beside it:
its metadata names the two checkpoints by their hashes, and the weights in them have the names of the graph's.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from esrgan_deploy.alpha import (
    EXPORT_AGAIN,
    Endpoints,
    check_alpha,
    endpoints_path,
    info_at_alpha,
    model_at_alpha,
    of_graph,
    read_endpoints,
    safetensors_needed,
)
from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import read_bytes
from esrgan_deploy.errors import ModelError, OptionError
from esrgan_deploy.model import ModelInfo, load_onnx
from esrgan_deploy.models import MODELS

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx


def load_at_alpha(path: StrPath, alpha: float | None) -> tuple[onnx.ModelProto, ModelInfo]:
    """Read an ONNX file like `load_onnx`, and give it the weights at `alpha` from its endpoints.

    If the weights change, `file_sha256` becomes "HASH@ALPHA", so that nobody takes results of the new network, say in
    the checkpoint of a clip, for results of the file.

    Args:
        path: an ONNX file.
        alpha: None, or the alpha of the file: leave it as it is. Then no endpoints are needed.

    Raises:
        BackendMissingError: onnx or safetensors is not installed.
        ModelError: a damaged file, or endpoints of another pair.
        OptionError: alpha is not in [0, 1], there are no endpoints, or the file is of INT8.
    """
    path = as_path(path)
    model, info = load_onnx(path)
    if alpha is None or alpha == info.alpha:
        return model, info
    check_alpha(alpha)
    endpoints = load_endpoints(path, model, info)
    try:
        return model_at_alpha(model, endpoints, alpha), info_at_alpha(info, alpha)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def check_endpoints(path: Path, info: ModelInfo) -> None:
    """Make sure, without reading weights, that alpha can be set for the model at `path`.

    Raises:
        OptionError: it has no endpoints, or can have none: it is of INT8.
    """
    if info.precision == "int8":
        raise OptionError(
            f"{path}: int8 weights have scales of their own at each alpha, so alpha cannot be set; run it without "
            "--precision int8, or make a file of that alpha by esrgan-export --int8"
        )
    beside = endpoints_path(path)
    if not beside.exists() and _bundled_pair(info) is None:
        raise OptionError(f"{path}: setting alpha needs {beside.name} beside it, which is missing; {EXPORT_AGAIN}")


def load_endpoints(path: Path, model: onnx.ModelProto, info: ModelInfo) -> Endpoints:
    """The endpoints of a model, from the file beside it or, for one of a bundled pair, from its two checkpoints.

    Args:
        path: where `model` was read from.
        model: as `load_onnx` gives it.
        info: its metadata.

    Raises:
        BackendMissingError: safetensors is not installed.
        ModelError: a damaged file, or endpoints of another pair.
        OptionError: see `check_endpoints`.
    """
    check_endpoints(path, info)
    beside, pair = endpoints_path(path), _bundled_pair(info)
    if beside.exists() or pair is None:
        endpoints = read_endpoints(beside)
        endpoints.check_belongs(info, beside, path)
        return endpoints
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    psnr, gan = (_weights(file, shapes) for file in pair)
    return of_graph(model, info, psnr, gan)


def _bundled_pair(info: ModelInfo) -> tuple[Path, Path] | None:
    """Both checkpoints, where the model was made from a pair that comes with the package."""
    made_from = (info.psnr_sha256, info.gan_sha256)
    if None in made_from:
        return None
    pairs = ((model.psnr, model.gan) for model in MODELS.values())
    return next((pair for pair in pairs if tuple(map(_sha256, pair)) == made_from), None)


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path, ModelError)).hexdigest()


def _weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, npt.NDArray[np.float32]]:
    """The weights of a checkpoint in float32, in the shapes of a graph, in which PReLU's slopes are (C, 1, 1)."""
    with safetensors_needed():
        from safetensors.numpy import load
    stored = load(read_bytes(path, ModelError))
    if stored.keys() != shapes.keys():
        raise ModelError(f"{path}: the weights of the model are not those of its checkpoints; {EXPORT_AGAIN}")
    return {name: stored[name].astype(np.float32).reshape(shape) for name, shape in shapes.items()}
