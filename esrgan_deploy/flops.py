"""Count the floating-point operations of an ONNX network from its graph, and find every shape in it."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from esrgan_deploy.errors import ModelError

if TYPE_CHECKING:
    import onnx

COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LARGEST_SHAPE = 64
"""Values of a constant that may tell a shape."""
Shapes = dict[str, tuple[int, ...]]


def count_flops(model: onnx.ModelProto, height: int, width: int) -> int | None:
    """Operations for one (1, C, height, width) image: two for each multiply-accumulate.

    Convolutions and matrix products count, in full, the taps that fall on padding included: this is how published
    figures are reckoned (35.853696 MFLOP per input pixel for RRDBNet with 23 blocks and scale 4). Activations,
    additions and resizing do not count; in these networks they are well below one per cent.

    Args:
        model: one input, (N, C, H, W); H and W are symbolic or equal to `height` and `width`.
        height: input rows.
        width: input columns.

    Returns:
        None where the graph does not tell: control flow, operators outside the ONNX standard, or shapes that are
        computed in a way that shape inference cannot follow.

    Raises:
        ModelError: the network cannot take an image of this size.
    """
    flat = standard_graph(model)
    if flat is None:
        return None
    shapes = infer_shapes(flat, height, width)
    total = 0
    for node in flat.graph.node:
        if node.op_type in COUNTED:
            macs = multiply_accumulates(node, shapes)
            if macs is None:
                return None
            total += 2 * macs
    return total


def standard_graph(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy of `model` for `infer_shapes`: functions inlined, and large weights without their values.

    None: it has control flow, or operators outside the standard.
    """
    import onnx
    import onnx.inliner

    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if prod(tensor.dims) > LARGEST_SHAPE:  # shapes do not depend on weights, which take seconds to hand around
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    flat = onnx.inliner.inline_local_functions(light)
    nodes = flat.graph.node
    if any(node.domain not in ("", "ai.onnx") or node.op_type in ("If", "Loop", "Scan") for node in nodes):
        return None
    return flat


def infer_shapes(model: onnx.ModelProto, height: int, width: int) -> Shapes:
    """Every fully known shape in `model`, which is changed, for one image of this size.

    Raises:
        ModelError: the network cannot take an image of this size.
    """
    import onnx

    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    dims = _image(model).type.tensor_type.shape.dim
    declared = "x".join(str(dim.dim_value or dim.dim_param or "?") for dim in dims)
    set_image_size(model, height, width)
    if (dims[0].dim_value, dims[2].dim_value, dims[3].dim_value) != (1, height, width):
        raise ModelError(
            f"its input is fixed to {declared} (NCHW) and cannot take a {width}x{height} image; "
            "give that size, or export the model with symbolic height and width"
        )
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:  # onnx raises its own InferenceError, ValueError or RuntimeError by version
        raise ModelError(f"shape inference failed for a {width}x{height} image: {error}") from error
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return shapes


def set_image_size(model: onnx.ModelProto, height: int, width: int) -> None:
    """Set every dimension of the input that is symbolic, for one RGB image of this size.

    Shapes that the file states elsewhere are removed: exporters write symbolic ones, which would contradict this size.
    """
    for dim, size in zip(_image(model).type.tensor_type.shape.dim, (1, 3, height, width), strict=True):
        dim.dim_value = dim.dim_value or size
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")


def _image(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The input that is an image: old files list their weights as inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    image: onnx.ValueInfoProto = next(value for value in model.graph.input if value.name not in weights)
    return image


def multiply_accumulates(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Of one node of a `COUNTED` type; None if a shape that it takes is unknown."""
    first, second, result = (shapes.get(name) for name in (node.input[0], node.input[1], node.output[0]))
    if first is None or second is None or result is None:
        return None
    if node.op_type == "Conv":  # weights (C_out, C_in / groups, kernel ...): so many taps for each output sample
        return prod(result) * prod(second[1:])
    if node.op_type == "ConvTranspose":  # weights (C_in, C_out / groups, kernel ...): so many for each input sample
        return prod(first) * prod(second[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return prod(result) * first[0 if transposed else -1]
