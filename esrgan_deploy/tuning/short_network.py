"""Cut a short network off a long one, so that candidates can be compared on it within seconds.

RRDBNet computes the same block 23 times, and three blocks show which backend, precision or tile is the fastest. One
block is too short: the fixed cost of a run is then as large as the differences, and the weights stay in the caches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esrgan_deploy.flops import infer_shapes, multiply_accumulates, standard_graph

if TYPE_CHECKING:
    import onnx

SIDE = 64
"""Height and width, in input pixels, for which operations are counted; any size would do."""
SHORT_FLOPS = 4e6 * SIDE * SIDE
"""Operations of the short network: nearly three blocks of RRDBNet; networks made for speed need fewer in all."""


def shorten(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep the first part of a network, up to the convolution with which `SHORT_FLOPS` are reached.

    The first three channels of that convolution's result become the output, each pixel repeated up to the scale of the
    whole, so that the short network still makes pictures of pictures, though useless ones. A network with fewer
    operations, or one whose operations cannot be counted, is returned as it is.
    """
    import onnx.inliner
    from onnx import helper, numpy_helper

    light = standard_graph(model)
    cut = light and _cut(light)
    if not cut:
        return model
    name, factor = cut
    flat = onnx.inliner.inline_local_functions(model)
    _keep_what_leads_to(name, flat)
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(flat).graph.value_info
    }
    if name not in types:
        return model
    graph = flat.graph
    numbers = {"excerpt/begin": 0, "excerpt/end": 3, "excerpt/axis": 1}
    graph.initializer.extend(numpy_helper.from_array(np.array([value]), key) for key, value in numbers.items())
    graph.initializer.append(numpy_helper.from_array(np.array([1, 1, factor, factor], np.float32), "excerpt/scales"))
    graph.node.append(helper.make_node("Slice", [name, *numbers], ["excerpt/part"]))
    graph.node.append(helper.make_node("Resize", ["excerpt/part", "", "excerpt/scales"], ["excerpt/output"]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("excerpt/output", types[name], [1, 3, "h", "w"]))
    return flat


def _keep_what_leads_to(name: str, model: onnx.ModelProto) -> None:
    """Remove all nodes and weights that the tensor `name` does not depend on."""
    graph, needed, kept = model.graph, {name}, []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def any_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose input has symbolic height and width; convolutions work at any size."""
    free = type(model)()
    free.CopyFrom(model)
    weights = {tensor.name for tensor in free.graph.initializer}
    source = next(value for value in free.graph.input if value.name not in weights)
    for value, names in ((source, ("height", "width")), (free.graph.output[0], ("height_out", "width_out"))):
        for dim, name in zip(value.type.tensor_type.shape.dim[2:], names, strict=False):
            dim.dim_param = name
    del free.graph.value_info[:]
    return free


def _cut(model: onnx.ModelProto) -> tuple[str, int] | None:
    """The result of the first convolution with which `SHORT_FLOPS` are reached, and by how much the whole enlarges it.

    None: not reached, or not countable. `model` is from `standard_graph`; it is changed.
    """
    shapes = infer_shapes(model, SIDE, SIDE)
    total = 0
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        macs = multiply_accumulates(node, shapes)
        if macs is None:
            return None
        total += 2 * macs
        name = str(node.output[0])
        if total >= SHORT_FLOPS and shapes[name][1] >= 3:
            factor, rest = divmod(shapes.get(model.graph.output[0].name, (0,) * 4)[2], shapes[name][2])
            return None if rest or not factor else (name, factor)
    return None
