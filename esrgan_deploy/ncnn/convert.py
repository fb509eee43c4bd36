"""From the two files of ncnn to the artefact that every backend runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esrgan_deploy.arguments import StrPath
from esrgan_deploy.budget import check_memory
from esrgan_deploy.errors import BackendMissingError
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.ncnn.graph import build_onnx
from esrgan_deploy.ncnn.networks import multiple_of
from esrgan_deploy.ncnn.read import read_ncnn
from esrgan_deploy.version import __version__

if TYPE_CHECKING:
    import onnx


def onnx_from_ncnn(param: StrPath, weights: StrPath, *, overlap: int | None = None) -> onnx.ModelProto:
    """The network in `param` and `weights` as an fp32 artefact, the same that esrgan-export makes of them.

    Args:
        param: the graph.
        weights: the .bin that belongs to it; fp16 weights are widened.
        overlap: context that tiles need, in input pixels, where somebody has measured it; None: unknown.

    Raises:
        BackendMissingError: the onnx package is not installed.
        ModelError: a file cannot be read, is damaged, or holds another network; the message names what differs.
        MachineError: the network does not fit into memory.
    """
    try:
        import onnx  # noqa: F401  # before the work, not after it
    except ImportError as error:
        raise BackendMissingError(
            f"{param}: converting it needs the 'onnx' package: pip install 'esrgan-deploy[cpu]' or 'esrgan-deploy[gpu]'"
        ) from error
    network = read_ncnn(param, weights)
    check_memory(param, "its ONNX form", 2 * sum(values.nbytes for values in network.weights.values()))
    info = ModelInfo(
        scale=network.config["scale"],
        multiple_of=multiple_of(network.config),
        overlap=overlap,
        arch=network.config,
        gan_sha256=network.sha256,
        created_by=f"esrgan-deploy {__version__}",
    )
    return build_onnx(network.config, network.weights, info)
