"""A small network in fp32, and its INT8 artefact beside it, as an export names them."""

from itertools import pairwise

import numpy as np
from onnx import helper

from esrgan_deploy import ModelInfo
from tiny_onnx import write_onnx

CHANNELS = 16


def write_float(path, layers=3, **info):
    """3x3 convolutions of `CHANNELS` channels with LeakyReLU between them, then pixel-shuffle by 2."""
    return _write(path, layers, quantised=False, **info)


def write_int8(path, layers=3, **info):
    """The same, the inner convolutions with int8 weights and int8 activations (Q/DQ)."""
    return _write(path, layers, quantised=True, **info)


def _write(path, layers, quantised, **info):
    rng = np.random.default_rng(3)
    widths = [3, *[CHANNELS] * layers, 12]
    nodes, weights = [], {"scale": np.float32(1 / 32), "zero": np.int8(0)}
    source = "input"
    for i, (wide, out) in enumerate(pairwise(widths)):
        kernel = rng.normal(0, 0.5 / np.sqrt(9 * wide), (out, wide, 3, 3)).astype(np.float32)
        weight = f"w{i}"
        if quantised and 0 < i < layers:
            steps = np.abs(kernel).max((1, 2, 3)) / 127
            weights[f"q{i}"] = np.rint(kernel / steps[:, None, None, None]).astype(np.int8)
            weights[f"s{i}"], weights[f"z{i}"] = steps.astype(np.float32), np.zeros(out, np.int8)
            nodes += [
                helper.make_node("DequantizeLinear", [f"q{i}", f"s{i}", f"z{i}"], [weight], axis=0),
                helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{source}_q"]),
                helper.make_node("DequantizeLinear", [f"{source}_q", "scale", "zero"], [f"{source}_dq"]),
            ]
            source = f"{source}_dq"
        else:
            weights[weight] = kernel
        nodes.append(helper.make_node("Conv", [source, weight], [f"c{i}"], pads=[1] * 4, name=f"conv{i}"))
        source = f"c{i}"
        if i < layers:
            nodes.append(helper.make_node("LeakyRelu", [source], [f"a{i}"], alpha=0.2))
            source = f"a{i}"
    nodes.append(helper.make_node("DepthToSpace", [source], ["output"], blocksize=2))
    if not quantised:
        del weights["scale"], weights["zero"]
    about = {"scale": 2, "overlap": 4, "alpha": 0.8, "psnr_sha256": "a" * 64, "gan_sha256": "b" * 64, **info}
    return write_onnx(path, nodes, weights, ModelInfo(precision="int8" if quantised else "fp32", **about))
