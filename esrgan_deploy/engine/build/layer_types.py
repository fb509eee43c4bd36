"""Set the types of layers for TensorRT 8.5, which otherwise chooses them by speed and ignores those of the graph.

Where FP16 is allowed it would convert frames in half precision too, whose 11 significant bits cannot hold a 16-bit
sample. So every layer that is float32 in the graph is set to float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from esrgan_deploy.engine.adapter import TensorRT
from esrgan_deploy.errors import MachineError

if TYPE_CHECKING:
    import onnx

UNTYPED = ("CONSTANT", "SHAPE", "QUANTIZE", "DEQUANTIZE", "IDENTITY", "CAST")
"""Kinds of layers that compute nothing, or whose types were set by the ONNX parser."""


def check_types(trt: TensorRT, model: onnx.ModelProto, source: Path) -> None:
    """Make sure that this TensorRT knows the network's types.

    Raises:
        MachineError: bfloat16 in TensorRT 8.5.
    """
    from onnx import TensorProto

    if TensorProto.BFLOAT16 in _stored_types(model) and not hasattr(trt.module.DataType, "BF16"):
        raise MachineError(
            f"{source}: computes in bf16, which {trt} does not know; export it with --fp16, or install TensorRT 10"
        )


def set_types(trt: TensorRT, framed: onnx.ModelProto, network: Any, config: Any) -> None:  # noqa: ANN401
    """Set the types of `framed` in `config` and in the layers of `network`, which was parsed from it.

    A strongly typed TensorRT reads them in the graph itself, and nothing is set.
    """
    from onnx import TensorProto

    if trt.strongly_typed:
        return
    flags = trt.module.BuilderFlag
    if any(node.op_type == "QuantizeLinear" for node in framed.graph.node):
        config.set_flag(flags.INT8)
    if TensorProto.FLOAT16 in _stored_types(framed):
        config.set_flag(flags.FP16)
        config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
        _keep_float32(trt.module, network, _tensor_types(framed))


def _keep_float32(module: Any, network: Any, types: dict[str, int]) -> None:  # noqa: ANN401
    """Set the layers of nodes that have a float32 result to float32.

    The types are read from the graph, since TensorRT reports FLOAT for every tensor whose type was not set. To find the
    layers of a node: the parser makes one or more in order, and gives the output of the last one the node's own name.
    """
    from onnx import TensorProto

    untyped = [getattr(module.LayerType, name) for name in UNTYPED if hasattr(module.LayerType, name)]
    of_node = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        of_node.append(layer)
        named = [types[name] for name in _output_names(layer) if name in types]
        if not named:
            continue
        if TensorProto.FLOAT in named:
            for each in of_node:
                if each.type not in untyped:
                    _compute_in_float32(module, each)
        of_node = []


def _compute_in_float32(module: Any, layer: Any) -> None:  # noqa: ANN401
    floating = [i for i in range(layer.num_outputs) if layer.get_output(i).dtype == module.DataType.FLOAT]
    if floating:
        layer.precision = module.DataType.FLOAT
    for index in floating:
        layer.set_output_type(index, module.DataType.FLOAT)


def _output_names(layer: Any) -> list[str]:  # noqa: ANN401
    return [layer.get_output(index).name for index in range(layer.num_outputs)]


def _tensor_types(framed: onnx.ModelProto) -> dict[str, int]:
    """Element type of each tensor that a node gives."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(framed).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}


def _stored_types(model: onnx.ModelProto) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer}
