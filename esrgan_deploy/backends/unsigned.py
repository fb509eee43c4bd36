"""INT8 activations as uint8 around 128, for processors whose products are of unsigned with signed bytes.

VNNI multiplies uint8 by int8. Signed activations have to be shifted there each time that a convolution loads them;
these are shifted once, where they are made, and what the offset adds to a sum is known beforehand from the weights.
The grid is the same: code 128 is zero, and no value is rounded or clipped otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

OFFSET = 128
_ZERO = "unsigned/zero"


def unsigned_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` that computes the same, its int8 activations as uint8.

    Args:
        model: in Q/DQ form, symmetric, as esrgan-export writes it.

    Returns:
        `model` itself where that does not apply: there are no such activations, or something else than Concat and
        DequantizeLinear reads their codes.
    """
    import onnx
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    codes = _codes(model.graph, constants)
    readers = [node for node in model.graph.node if codes.intersection(node.input)]
    ends = [node for node in readers if node.op_type == "DequantizeLinear" and _is_symmetric(node, constants)]
    joins = [node for node in readers if codes.issuperset(node.output)]
    if not codes or len(ends) + len(joins) < len(readers):
        return model
    shifted = onnx.ModelProto()
    shifted.CopyFrom(model)
    graph = shifted.graph
    for node in graph.node:
        begins = node.op_type == "QuantizeLinear" and codes.issuperset(node.output)
        if begins or (node.op_type == "DequantizeLinear" and node.input[0] in codes):
            node.input[2] = _ZERO
    graph.initializer.append(numpy_helper.from_array(np.array(OFFSET, np.uint8), _ZERO))
    kept = [value for value in graph.value_info if value.name not in codes]  # of the others the type is another now
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return shifted


def _codes(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> set[str]:
    """The tensors that hold int8 activations."""
    codes: set[str] = set()
    for node in graph.node:
        begins = node.op_type == "QuantizeLinear" and node.input[0] not in constants and _is_symmetric(node, constants)
        if begins or (node.op_type == "Concat" and codes.issuperset(node.input)):
            codes.add(node.output[0])
    return codes


def _is_symmetric(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether `node` has one int8 grid for all, around zero."""
    from onnx import numpy_helper

    zero = constants.get(node.input[2]) if len(node.input) == 3 else None
    if zero is None:
        return False
    value = numpy_helper.to_array(zero)
    return value.dtype == np.int8 and value.shape == () and not value.any()
