"""A pair of networks whose blend is easy to state: each pixel times a gain, 0.5 at alpha 0 and 1 at alpha 1."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from esrgan_deploy import ModelInfo
from esrgan_deploy.alpha import Endpoints, endpoints_path, write_endpoints
from tiny_onnx import write_onnx

PSNR_GAIN, GAN_GAIN = 0.5, 1.0
ARCH = {"name": "gain"}
GREY = np.arange(0, 240, dtype=np.uint8).reshape(1, 10, 24, 1).repeat(3, 3)


def kernel(gain):
    """A 1x1 convolution that multiplies by `gain`."""
    return (np.eye(3) * gain).astype(np.float32).reshape(3, 3, 1, 1)


def pair_endpoints(**changes):
    """Endpoints of the pair."""
    fields = {
        "psnr": {"kernel": kernel(PSNR_GAIN)},
        "gan": {"kernel": kernel(GAN_GAIN)},
        "types": {"kernel": "fp32"},
        "psnr_sha256": "a" * 64,
        "gan_sha256": "b" * 64,
        "arch": ARCH,
    }
    return Endpoints(**{**fields, **changes})


def write_model(path, alpha=0.8, *, with_endpoints=True):
    """The pair at `alpha` as fp32 ONNX, x2, with its endpoints beside it."""
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])
    nodes = [
        helper.make_node("Constant", [], ["scales"], value=scales),
        helper.make_node("Conv", ["input", "kernel"], ["dimmed"]),
        helper.make_node("Resize", ["dimmed", "", "scales"], ["output"], mode="nearest"),
    ]
    weights = {"kernel": pair_endpoints().blend(alpha)["kernel"]}
    info = ModelInfo(scale=2, overlap=0, alpha=alpha, arch=ARCH, psnr_sha256="a" * 64, gan_sha256="b" * 64)
    write_onnx(path, nodes, weights, info)
    if with_endpoints:
        write_endpoints(endpoints_path(path), pair_endpoints())
    return path


def expected(frames, alpha):
    """What the pair at `alpha` makes of (N, H, W, 3) frames, computed in float64."""
    gain = PSNR_GAIN + alpha * (GAN_GAIN - PSNR_GAIN)
    return np.rint(frames.astype(np.float64) * gain).astype(frames.dtype).repeat(2, 1).repeat(2, 2)


def kernel_of(model: onnx.ModelProto):
    """The one initialiser of the pair's graph."""
    return onnx.numpy_helper.to_array(model.graph.initializer[0])
