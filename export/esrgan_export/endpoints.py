"""The weights at alpha 0 and 1 in the form of an exported graph; `esrgan_deploy.alpha` blends them at run time."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from torch.nn.modules.batchnorm import _BatchNorm

from esrgan_deploy.alpha import Endpoints, model_at_alpha, of_graph
from esrgan_deploy.errors import FidelityError, OptionError
from esrgan_deploy.model import ModelInfo
from esrgan_export.checkpoint import Checkpoint
from esrgan_export.networks import Network
from esrgan_export.verify import ProgressMessage, Reference, measure


def check_refittable(network: Network, precision: str) -> None:
    """Check, before minutes of work, that alpha can be set later by blending two sets of exported weights.

    Raises:
        OptionError: it cannot, for a network with batch normalisation or for int8.
    """
    if any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise OptionError(
            f"--refit: {network.config()['name']} has batch normalisation, which is folded into its convolutions; "
            "folded weights are not linear in alpha, so export each alpha without --refit"
        )
    if precision == "int8":
        raise OptionError(
            "--refit: int8 weights have scales of their own at each alpha; export as fp16, bf16 or fp32, "
            "or each alpha without --refit"
        )


def measure_endpoints(
    psnr: Checkpoint, gan: Checkpoint, model: onnx.ModelProto, info: ModelInfo, progress: ProgressMessage
) -> dict[float, Reference]:
    """Measure both endpoints like the network between them, since their activations and seams differ from its own.

    Args:
        psnr: alpha 0.
        gan: alpha 1.
        model: fp32, exported from the interpolation of both at `info.alpha`.
        info: metadata of `model`.
        progress: called with one line before each long step.

    Returns:
        The measurements by alpha, without the alpha of `model`.
    """
    endpoints = make_endpoints(psnr, gan, model, info)
    return {
        alpha: measure(
            checkpoint.network,
            model_at_alpha(model, endpoints, alpha),
            progress=lambda step, alpha=alpha: progress(f"alpha {alpha:g}: {step}"),  # type: ignore[misc]
        )
        for alpha, checkpoint in ((0.0, psnr), (1.0, gan))
        if alpha != info.alpha
    }


def make_endpoints(psnr: Checkpoint, gan: Checkpoint, model: onnx.ModelProto, info: ModelInfo) -> Endpoints:
    """The endpoints of `model`, which was exported from the interpolation of `psnr` and `gan` at `info.alpha`.

    Raises:
        FidelityError: set to its own alpha, the model has other weights than it was exported with.
        ModelError: a weight of an endpoint is too large for its type in the graph; blends have no larger weights.
    """
    weights = (_as_in_graph(checkpoint.network, model) for checkpoint in (psnr, gan))
    made_from = dataclasses.replace(info, psnr_sha256=psnr.sha256, gan_sha256=gan.sha256, arch=gan.network.config())
    endpoints = of_graph(model, made_from, *weights)
    assert info.alpha is not None, "a model of two checkpoints has an alpha"
    blended = model_at_alpha(model, endpoints, info.alpha)
    for ours, theirs in zip(blended.graph.initializer, model.graph.initializer, strict=True):
        if numpy_helper.to_array(ours).tobytes() != numpy_helper.to_array(theirs).tobytes():
            raise FidelityError(
                f"--refit: '{theirs.name}' would not be what was exported at alpha {info.alpha:g}; nothing was "
                "written; export without --refit, and report it"
            )
    for alpha in (0.0, 1.0):
        endpoints.graph_weights(alpha)
    return endpoints


def _as_in_graph(network: Network, model: onnx.ModelProto) -> dict[str, npt.NDArray[np.float32]]:
    """The weights of `network` in the shapes of the graph, in which PReLU's slopes are (C, 1, 1)."""
    state = network.state_dict()
    return {
        tensor.name: state[tensor.name].detach().cpu().float().numpy().reshape(tensor.dims)
        for tensor in model.graph.initializer
    }
