"""Convert the graph to fp16 or bf16, and find the layers that fp16 would break.

TensorRT 11 has no precision flags any more: an engine computes in the types of the ONNX file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from esrgan_deploy.errors import OptionError

LOW: dict[str, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
TORCH_TYPES: dict[int, torch.dtype] = {TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}
NAMES: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}

FP16_LARGEST = 65504.0
FP16_SMALLEST_NORMAL = 2.0**-14
ACTIVATION_MARGIN = 2.0
"""Activations that come within this factor of the largest fp16 count as too large, since other photos may exceed it."""
WEIGHT_ERROR_LIMIT = 2.0**-9
"""Relative RMS error of a kernel above which it counts as underflow; rounding alone stays below 2^-11."""

BF16_OPSET, BF16_IR = 22, 10
"""Conv takes bfloat16 from opset 22 on, to which IR version 10 belongs."""


def to_precision(model: onnx.ModelProto, precision: str, keep_fp32: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of the fp32 `model` that computes in `precision`, input and output included.

    Names, number and order of nodes and initialisers stay the same. The scales of a Resize stay float32, as ONNX
    demands. bf16 raises the opset to 22, in which all operators that `export_onnx` writes mean the same as in 17.

    Args:
        model: made by `export_onnx`.
        precision: "fp16" or "bf16".
        keep_fp32: names of nodes that keep computing in float32, with float32 weights and Casts around them.

    Raises:
        OptionError: a name in `keep_fp32` is not a node of the graph, or another precision.
    """
    if precision not in LOW:
        raise OptionError(f"precision '{precision}' is unknown; choose fp16 or bf16")
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    unknown = set(keep_fp32) - {node.name for node in converted.graph.node}
    if unknown:
        raise OptionError(f"keep_fp32 names no layer of this network: {', '.join(sorted(unknown))}")
    _Converter(converted.graph, LOW[precision], frozenset(keep_fp32)).convert()
    if precision == "bf16":
        converted.opset_import[0].version, converted.ir_version = BF16_OPSET, BF16_IR
    for entry in converted.metadata_props:
        if entry.key == "esrgan.precision":
            entry.value = precision
    onnx.checker.check_model(converted, full_check=True)
    return converted


class _Converter:
    """Gives each float tensor the type that it is stored in, and casts the inputs of nodes that compute in another."""

    def __init__(self, graph: onnx.GraphProto, low: int, keep: frozenset[str]) -> None:
        self.graph, self.low, self.keep = graph, low, keep
        # Type of each tensor. Integers (indices of a Gather) and the scales of a Resize are not in here.
        self.types: dict[str, int] = {}
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def convert(self) -> None:
        """Rewrite the graph in place."""
        self._choose_types()
        constants = {node.output[0]: node for node in self.graph.node if node.op_type == "Constant"}
        for tensor in self.graph.initializer:
            if self.types.get(tensor.name) == self.low:
                tensor.CopyFrom(_rounded(tensor, self.low))
        for name, node in constants.items():
            if self.types.get(name) == self.low:
                node.attribute[0].t.CopyFrom(_rounded(node.attribute[0].t, self.low))
        for value in (*self.graph.input, *self.graph.output):
            value.type.tensor_type.elem_type = self.low
        for node in self.graph.node:
            self._place(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)

    def _compute_type(self, node: onnx.NodeProto) -> int:
        return TensorProto.FLOAT if node.name in self.keep else self.low

    def _choose_types(self) -> None:
        """Choose the type of each tensor: that of its node, and float32 for a weight that a kept node reads."""
        stored = {tensor.name: tensor for tensor in self.graph.initializer}
        stored |= {node.output[0]: node.attribute[0].t for node in self.graph.node if node.op_type == "Constant"}
        self.types = {value.name: self.low for value in self.graph.input}
        for node in self.graph.node:
            for name in float_inputs(node):
                if name in stored and stored[name].data_type == TensorProto.FLOAT:
                    readers = (self.types.get(name), self._compute_type(node))
                    self.types[name] = TensorProto.FLOAT if TensorProto.FLOAT in readers else self.low
            if node.op_type != "Constant":
                self.types.update(dict.fromkeys(node.output, self._compute_type(node)))

    def _place(self, node: onnx.NodeProto) -> None:
        """Append `node`, with Casts before it for inputs of the other type, and after it at the output of the graph."""
        needed = self._compute_type(node)
        for i, name in enumerate(node.input):
            if name in float_inputs(node) and name in self.types and self.types[name] != needed:
                node.input[i] = self._cast(name, needed)
        self.nodes.append(node)
        result = self.graph.output[0].name
        if result in node.output and needed != self.low:
            wide = f"{result}/fp32"
            node.output[list(node.output).index(result)] = wide
            self.nodes.append(helper.make_node("Cast", [wide], [result], name=f"{result}/cast", to=self.low))

    def _cast(self, name: str, to: int) -> str:
        """The name of tensor `name` in type `to`. One Cast, before the first reader, serves all readers."""
        if (name, to) not in self.casts:
            cast = f"{name}/{NAMES[to]}"
            self.nodes.append(helper.make_node("Cast", [name], [cast], name=f"{cast}/cast", to=to))
            self.casts[name, to] = cast
        return self.casts[name, to]


def float_inputs(node: onnx.NodeProto) -> list[str]:
    """The inputs of `node` that have the type it computes in. Regions and scales of a Resize are always float32."""
    return [name for name in (node.input[:1] if node.op_type == "Resize" else node.input) if name]


def _rounded(tensor: onnx.TensorProto, low: int) -> onnx.TensorProto:
    """`tensor` in a 16-bit type, rounded to nearest even; subnormals are kept, too large values become infinite."""
    values = torch.tensor(numpy_helper.to_array(tensor)).to(TORCH_TYPES[low])
    return helper.make_tensor(tensor.name, low, tensor.dims, values.view(torch.int16).numpy().tobytes(), raw=True)


def overflowing_nodes(model: onnx.ModelProto, peaks: Mapping[str, float]) -> dict[str, str]:
    """The nodes of the fp32 `model` whose values would become infinite in fp16, each with the reason in a few words.

    These are the nodes with weights above 65504, and those that read or write a tensor above 65504 less a margin.

    Args:
        model: made by `export_onnx`.
        peaks: largest absolute value of each tensor over the photos; tensors that are missing count as small.
    """
    largest = {tensor.name: _largest(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
    reasons: dict[str, str] = {}
    for node in model.graph.node:
        for name in (*float_inputs(node), *node.output):
            peak = peaks.get(name, 0.0)
            if largest.get(name, 0.0) > FP16_LARGEST:
                reasons.setdefault(node.name, f"weights up to {largest[name]:.3g}")
            elif not peak * ACTIVATION_MARGIN <= FP16_LARGEST:  # also true of NaN
                reasons.setdefault(node.name, f"activations up to {peak:.3g}")
    return reasons


def underflowing_nodes(model: onnx.ModelProto, peaks: Mapping[str, float]) -> dict[str, str]:
    """The nodes of the fp32 `model` that lose precision in fp16 because their weights or values are very small.

    Most of them do no harm, since a large value is added to their result. They need fp32 only if the whole network is
    too inexact without. Arguments and result are those of `overflowing_nodes`.
    """
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    reasons: dict[str, str] = {}
    for node in model.graph.node:
        for name in (*float_inputs(node), *node.output):
            if name in weights and weights[name].ndim == 4 and _rounding_error(weights[name]) > WEIGHT_ERROR_LIMIT:
                reasons.setdefault(node.name, f"weights of at most {_largest(weights[name]):.1g}")
            elif 0 < peaks.get(name, 0.0) < FP16_SMALLEST_NORMAL:
                reasons.setdefault(node.name, f"activations of at most {peaks[name]:.1g}")
    return reasons


def _largest(values: npt.NDArray[np.float32]) -> float:
    return float(np.abs(values).max(initial=0.0))


def _rounding_error(kernel: npt.NDArray[np.float32]) -> float:
    """Relative RMS error of a kernel when it is rounded to fp16."""
    wide = kernel.astype(np.float64)
    with np.errstate(over="ignore"):
        error = np.linalg.norm(wide - kernel.astype(np.float16).astype(np.float64))
    return float(error / max(float(np.linalg.norm(wide)), np.finfo(np.float64).tiny))
