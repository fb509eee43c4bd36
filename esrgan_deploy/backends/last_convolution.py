"""The last convolution, two by two pixels at a time.

It has three output channels, but processors compute sixteen at a time, and at the full size of the result: in a narrow
network it takes as long as the layer in front of it, for a tenth of the arithmetic. Twelve channels, three for each of
four pixels, fill most of the vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

BLOCK = 2
ELEMENTWISE = ("Cast", "Clip", "Identity")
"""What may stand between the convolution and the output: it keeps the size."""


def widen_last_convolution(model: onnx.ModelProto, scale: int) -> onnx.ModelProto:
    """A copy of `model` that computes the same, its last convolution with stride 2 and a DepthToSpace behind it.

    A kernel of (3, C, k, k) becomes (12, C, k + 1, k + 1): four copies, each shifted to its pixel of the block, with
    zeros around. The sums have the same terms.

    Args:
        model: takes images of any size.
        scale: of the network.

    Returns:
        `model` itself where that does not apply: an odd scale, with which a result may not consist of whole blocks, or
        a last layer that is no convolution of stride 1 with constant floating-point weights, larger than 1x1, that
        keeps the size.
    """
    import onnx
    from onnx import helper, numpy_helper

    last = _last_convolution(model.graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    if last is None or scale % BLOCK or len(last.input) != 3 or not {*last.input[1:]} <= {*constants}:
        return model
    kernel, bias = (numpy_helper.to_array(constants[name]) for name in last.input[1:])
    if kernel.dtype not in (np.float32, np.float16) or not _keeps_the_size(last, kernel.shape):
        return model
    side = kernel.shape[2]
    widened = onnx.ModelProto()
    widened.CopyFrom(model)
    graph = widened.graph
    block, weights, biases = (f"{last.output[0]}/{part}" for part in ("block", "weights", "bias"))
    graph.initializer.append(numpy_helper.from_array(_widened(kernel), weights))
    graph.initializer.append(numpy_helper.from_array(bias.repeat(BLOCK**2), biases))
    strided = helper.make_node(
        "Conv", [last.input[0], weights, biases], [block], last.name, strides=[BLOCK] * 2, pads=[side // 2] * 4
    )
    unfolded = helper.make_node("DepthToSpace", [block], last.output, blocksize=BLOCK, mode="CRD")
    position = list(model.graph.node).index(last)
    del graph.node[position]
    graph.node.insert(position, unfolded)
    graph.node.insert(position, strided)
    return widened


def _last_convolution(graph: onnx.GraphProto) -> onnx.NodeProto | None:
    """The convolution that makes the output; None: something else does."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in ELEMENTWISE:
        node = makers.get(node.input[0])
    return node if node is not None and node.op_type == "Conv" else None


def _keeps_the_size(node: onnx.NodeProto, kernel: tuple[int, ...]) -> bool:
    """Whether `node` is a plain square convolution with zeros around its image."""
    from onnx import helper

    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    side = kernel[2]
    plain = {"auto_pad": b"NOTSET", "group": 1, "kernel_shape": [side] * 2, "dilations": [1] * 2, "strides": [1] * 2}
    given = {**plain, "pads": [0] * 4, **found}
    return kernel[2:] == (side, side) and side % 2 == 1 and side > 1 and given == {**plain, "pads": [side // 2] * 4}


def _widened(kernel: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """(3, C, k, k) -> (12, C, k + 1, k + 1); the output channels of a colour stand together (DepthToSpace's CRD)."""
    colours, channels, side, _ = kernel.shape
    wide = np.zeros((colours, BLOCK, BLOCK, channels, side + 1, side + 1), kernel.dtype)
    for y in range(BLOCK):
        for x in range(BLOCK):
            wide[:, y, x, :, y : y + side, x : x + side] = kernel
    return wide.reshape(-1, *wide.shape[3:])
