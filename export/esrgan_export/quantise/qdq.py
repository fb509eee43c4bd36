"""Write INT8 into the graph: QuantizeLinear and DequantizeLinear around what is computed in eight bits.

TensorRT, OpenVINO and ONNX Runtime all take this form: symmetric, with all zero points 0; one scale for each activation
and one for each output channel of a kernel; biases in float. Dense features are quantised once, where they are
computed, and concatenated as int8. A Concat of their dequantised forms means the same, but OpenVINO computes it wrongly
(seen with 2026.4: it converts them to uint8 and loses the offset).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from esrgan_deploy.errors import OptionError
from esrgan_export.quantise.equalise import input_factors
from esrgan_export.quantise.simulate import quantise_weight, weight_scales
from esrgan_export.quantise.structure import Group

ZERO = "int8_zero"


def to_int8(
    model: onnx.ModelProto, groups: Sequence[Group], scales: Mapping[str, float], factors: Mapping[str, Tensor]
) -> onnx.ModelProto:
    """A copy of the fp32 `model` in which the convolutions of `scales` compute in INT8.

    Initialisers keep names and order; kernels become int8, their scales follow as NAME_scale. Input, output and
    everything between convolutions stay float32.

    Args:
        model: made by `export_onnx`.
        groups: `find_groups(model)`.
        scales: the scale of the input of each convolution that becomes INT8, by its name; equal within a group.
        factors: by which the channels of some tensors are multiplied before they are quantised, by tensor.

    Raises:
        OptionError: the model is INT8 already.
    """
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise OptionError("the model is quantised already; quantise the fp32 network that it was made from")
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    read = {conv: group for group in groups for conv in group.readers if conv in scales}
    steps = {member.tensor: scales[conv] for conv, group in read.items() for member in group.readers[conv]}
    balanced = {tensor: factors[tensor] for tensor in steps if tensor in factors}
    kernels = {node.input[1]: node.name for node in graph.node if node.op_type == "Conv" and node.name in scales}
    nodes = list(_placed(graph, scales, steps, balanced))
    added = [numpy_helper.from_array(np.array(0, np.int8), ZERO)]
    added += [numpy_helper.from_array(np.array(step, np.float32), f"{tensor}_scale") for tensor, step in steps.items()]
    added += [
        numpy_helper.from_array(factor.numpy()[None, :, None, None], f"{tensor}_factors")
        for tensor, factor in balanced.items()
    ]
    for tensor in graph.initializer:
        if conv := kernels.get(tensor.name):
            added += _quantise_kernel(tensor, input_factors(read[conv], conv, balanced))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added)
    for entry in quantised.metadata_props:
        if entry.key == "esrgan.precision":
            entry.value = "int8"
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def _placed(
    graph: onnx.GraphProto, scales: Mapping[str, float], steps: Mapping[str, float], balanced: Collection[str]
) -> Iterator[onnx.NodeProto]:
    """The nodes in order, with a quantisation after each tensor of `steps`, which its readers then read."""
    for node in graph.node:
        result = node.output[0]
        if node.op_type == "Conv" and node.name in scales:
            kernel = node.input[1]
            grid = [f"{kernel}_scale", f"{kernel}_zero"]
            yield _dequantise(kernel, grid, f"{kernel}_dequantised", axis=0)
            node.input[1] = f"{kernel}_dequantised"
            if node.input[0] in steps:
                node.input[0] += "_dequantised"
            yield node
        elif node.op_type == "Concat" and steps.keys() >= set(node.input):
            grid = [f"{node.input[0]}_scale", ZERO]  # their scales are equal
            joined = [f"{name}_quantised" for name in node.input]
            yield helper.make_node("Concat", joined, [f"{result}_quantised"], name=node.name, axis=1)
            yield _dequantise(f"{result}_quantised", grid, result)
        else:
            yield node
        if result in steps:
            codes, grid, source = f"{result}_quantised", [f"{result}_scale", ZERO], result
            if result in balanced:
                source = f"{result}_balanced"
                yield helper.make_node("Mul", [result, f"{result}_factors"], [source], name=f"{result}/balance")
            yield helper.make_node("QuantizeLinear", [source, *grid], [codes], name=f"{result}/quantise")
            yield _dequantise(codes, grid, f"{result}_dequantised")


def _dequantise(codes: str, grid: list[str], result: str, axis: int = 1) -> onnx.NodeProto:
    """A DequantizeLinear node. `axis` is that of the channels, and has no meaning for a single scale."""
    node = helper.make_node("DequantizeLinear", [codes, *grid], [result], name=f"{codes}/dequantise")
    node.attribute.append(helper.make_attribute("axis", axis))
    return node


def _quantise_kernel(tensor: onnx.TensorProto, factors: Tensor) -> list[onnx.TensorProto]:
    """Divide a kernel by the factors of its inputs and quantise it in place; returns its scales and zero points."""
    weight = torch.from_numpy(numpy_helper.to_array(tensor).copy()) / factors[:, None, None]
    codes, scales = quantise_weight(weight), weight_scales(weight).flatten()
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(codes.numpy().astype(np.int8), name))
    return [
        numpy_helper.from_array(scales.numpy(), f"{name}_scale"),
        numpy_helper.from_array(np.zeros(len(scales), np.int8), f"{name}_zero"),
    ]
