"""Networks in half precision, int8 and fp8 for the tests of engines, and a check of messages."""

import numpy as np
from onnx import TensorProto, helper

from esrgan_deploy import ModelInfo
from tiny_onnx import write_onnx


def write_half(path):
    """Two convolutions in half precision that enlarge by 2, with a final Clip."""
    rng = np.random.default_rng(1)
    weights = {
        "w1": (rng.standard_normal((8, 3, 3, 3)) / 5).astype(np.float16),
        "w2": (rng.standard_normal((12, 8, 3, 3)) / 5).astype(np.float16),
        "half": np.float16(0.5),
        "zero": np.float16(0),
        "one": np.float16(1),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.2),
        helper.make_node("Mul", ["b", "half"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["d"], ["e"], blocksize=2),
        helper.make_node("Clip", ["e", "zero", "one"], ["output"]),
    ]
    return write_onnx(path, nodes, weights, ModelInfo(scale=2, precision="fp16"), TensorProto.FLOAT16)


def write_quantised(path):
    """A convolution between QuantizeLinear and DequantizeLinear, its int8 weights with a scale for each channel."""
    weights = {
        "w": np.random.default_rng(2).integers(-127, 128, (12, 3, 3, 3)).astype(np.int8),
        "w_scale": np.full(12, 0.01, np.float32),
        "w_zero": np.zeros(12, np.int8),
        "scale": np.float32(1 / 127),
        "zero": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], axis=0),
        helper.make_node("Conv", ["x", "wf"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["y"], ["output"], blocksize=2),
    ]
    return write_onnx(path, nodes, weights, ModelInfo(scale=2, precision="int8"))


def write_fp8(path):
    """The second of two convolutions in fp8, as far as QuantizeLinear and DequantizeLinear can say so."""
    rng = np.random.default_rng(2)
    fp8 = TensorProto.FLOAT8E4M3FN
    kernel = (rng.standard_normal((12, 16, 3, 3)) / 5).astype(helper.tensor_dtype_to_np_dtype(fp8))
    weights = {
        "w1": (rng.standard_normal((16, 3, 3, 3)) / 5).astype(np.float16),
        "w2": kernel,
        "w2_scale": np.float16(1),
        "scale": np.float16(1 / 64),
        "zero": np.zeros((), kernel.dtype),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w2", "w2_scale", "zero"], ["w2f"]),
        helper.make_node("Conv", ["x", "w2f"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["y"], ["output"], blocksize=2),
    ]
    return write_onnx(path, nodes, weights, ModelInfo(scale=2, precision="fp16"), TensorProto.FLOAT16, opset=19)


def one_line(caught, *words):
    """The message of an exception, which holds these words and no line break."""
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message
