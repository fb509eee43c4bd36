"""Run an ONNX file of any precision on a CPU, rounding exactly where the file's precision rounds.

ONNX Runtime's CPU provider has no bf16 convolution. For fp16 it computes in fp32 and drops the casts between two nodes
(seen in the optimised graph of 1.31), so its result is more exact than a GPU's. Here the same graph is evaluated in
float32, with a cast to the 16-bit type and back after every node that can round.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from esrgan_deploy.onnx_write import IR_VERSION, OPSET
from esrgan_export.image_types import FloatImage

SIXTEEN_BIT = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
SELECTING = {"Clip", "Concat", "DepthToSpace", "Gather", "Identity", "Relu", "SpaceToDepth", "Split"}
"""Operators whose results are values of their inputs or constants, so that nothing is rounded."""
NOT_GROWING = {*SELECTING, "LeakyRelu", "Resize"}
"""Operators whose results are never larger than the largest input (nearest and linear resize, slopes below 1)."""


class Emulator:
    """A network made by `export_onnx`, `to_precision` or `to_int8`, ready to run on images of any size."""

    def __init__(self, model: onnx.ModelProto, *, track_peaks: bool = False) -> None:
        """Prepare `model`. With `track_peaks`, `run` also keeps the largest absolute value of each tensor."""
        self._peaks: dict[str, float] = {}
        self._graph = _in_float32(model).graph
        growing = [n for n in self._graph.node if n.op_type not in NOT_GROWING and _is_layer(n)]
        self._tracked = growing if track_peaks else []
        self._session = self._open()

    def run(self, image: FloatImage) -> tuple[FloatImage, int]:
        """The upscaled `image` in [0, 1], and how many values were NaN or infinite before the clamp."""
        planes = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
        output, unclamped, *extremes = self._session.run(None, {"input": planes})
        for node, low, high in zip(self._tracked, extremes[::2], extremes[1::2], strict=True):
            name = node.output[0]
            self._peaks[name] = max(self._peaks.get(name, 0.0), -float(low), float(high))
        return np.ascontiguousarray(output[0].transpose(1, 2, 0)), int(np.count_nonzero(~np.isfinite(unclamped)))

    def peaks(self) -> dict[str, float]:
        """Largest absolute value of each tensor over all runs; an upper bound for `NOT_GROWING` results."""
        found = {"input": 1.0, **self._peaks}
        for node in self._graph.node:
            if _is_layer(node) and node.op_type in NOT_GROWING:
                largest = max(found.get(name, 0.0) for name in node.input)
                found.update(dict.fromkeys(node.output, largest))
        return found

    def layer_peaks(self) -> dict[str, float]:
        """Largest absolute output of each node that is not in `NOT_GROWING`, by node name, in graph order."""
        return {node.name: self._peaks[node.output[0]] for node in self._tracked}

    def _open(self) -> onnxruntime.InferenceSession:
        graph = onnx.GraphProto()
        graph.CopyFrom(self._graph)
        graph.output.append(helper.make_empty_tensor_value_info("unclamped"))
        for node in self._tracked:
            for op, suffix in (("ReduceMin", "low"), ("ReduceMax", "high")):
                extreme = f"{node.output[0]}/{suffix}"
                graph.node.append(helper.make_node(op, [node.output[0]], [extreme], keepdims=0))
                graph.output.append(helper.make_empty_tensor_value_info(extreme))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        levels = onnxruntime.GraphOptimizationLevel
        if any(node.op_type == "Cast" for node in graph.node):
            # With casts between all nodes, the optimisations of the last level take longer than they save.
            options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED
        if any(node.op_type == "QuantizeLinear" for node in graph.node):
            # Higher levels move rounding to other places than the graph says.
            options.graph_optimization_level = levels.ORT_ENABLE_BASIC
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _is_layer(node: onnx.NodeProto) -> bool:
    """False for constants and for what `_in_float32` added."""
    return node.op_type not in ("Constant", "Cast")


def _in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The computation of `model` with every tensor in float32, rounded at the same places to the same values."""
    typed = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*typed.value_info, *typed.input, *typed.output)}
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    for tensor in (*graph.initializer, *(n.attribute[0].t for n in graph.node if n.op_type == "Constant")):
        if tensor.data_type in SIXTEEN_BIT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    image = graph.input[0].name
    nodes = list(_rounded_input(graph.node, image, types[image]))
    del graph.node[:]
    for node in nodes:
        graph.node.extend(_rounded_output(node, types))
    for value, size in ((graph.input[0], ("H", "W")), (graph.output[0], ("H_out", "W_out"))):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [1, 3, *size]))
    return wide


def _rounded_input(nodes: list[onnx.NodeProto], image: str, kind: int) -> Iterator[onnx.NodeProto]:
    """`nodes`, reading the image rounded to the 16-bit type of the model's input."""
    if kind not in SIXTEEN_BIT:
        yield from nodes
        return
    rounded = f"{image}/rounded"
    yield from _round(image, rounded, kind)
    for node in nodes:
        for i, name in enumerate(node.input):
            if name == image:
                node.input[i] = rounded
        yield node


def _rounded_output(node: onnx.NodeProto, types: dict[str, int]) -> Iterator[onnx.NodeProto]:
    """`node`, followed by a rounding if its result has a 16-bit type in the model."""
    result = node.output[0]
    kind = types.get(result, TensorProto.UNDEFINED)
    if node.op_type == "Cast" and kind in SIXTEEN_BIT:
        yield from _round(node.input[0], result, kind)
    elif node.op_type == "Cast" and kind == TensorProto.FLOAT:
        yield helper.make_node("Identity", node.input, [result], name=node.name)
    elif kind in SIXTEEN_BIT and _is_layer(node) and node.op_type not in SELECTING:
        node.output[0] = f"{result}/exact"
        yield node
        yield from _round(node.output[0], result, kind)
    else:
        yield node


def _round(source: str, target: str, kind: int) -> Iterator[onnx.NodeProto]:
    yield helper.make_node("Cast", [source], [f"{target}/16"], to=kind)
    yield helper.make_node("Cast", [f"{target}/16"], [target], to=TensorProto.FLOAT)
