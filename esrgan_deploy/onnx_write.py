"""What all ONNX files of this project have in common: the interface, the clamp, the versions and the metadata.

The network between them is traced from PyTorch by `esrgan_export.to_onnx`, or built by `esrgan_deploy.ncnn.graph`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esrgan_deploy.model import ModelInfo
from esrgan_deploy.version import __version__

if TYPE_CHECKING:
    import onnx

OPSET = 17
"""The newest that TensorRT 8.5 parses."""
IR_VERSION = 8
"""The version that came with opset 17; old runtimes refuse newer ones."""


def complete(
    model: onnx.ModelProto, info: ModelInfo, n: str | int = 1, height: str | int = "H", width: str | int = "W"
) -> None:
    """Make an artefact of a graph that computes `output` from `input` by the initialisers it has.

    Args:
        model: changed in place.
        info: becomes the metadata.
        n: the number of pictures, or the name of a symbol; 1 is what VapourSynth hosts need.
        height: of the input, or the name of a symbol.
        width: of the input, or the name of a symbol.
    """
    _append_clamp(model.graph)
    _declare_interface(model.graph, n, height, width, info.scale)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "esrgan-deploy", __version__
    set_info(model, info)


def set_info(model: onnx.ModelProto, info: ModelInfo) -> None:
    """Replace all metadata of `model` by `info`."""
    from onnx import helper

    del model.metadata_props[:]
    helper.set_model_props(model, info.to_metadata())


def _append_clamp(graph: onnx.GraphProto) -> None:
    """Clip the result to [0, 1], since hosts convert it to integers without a check."""
    from onnx import TensorProto, helper

    producer = next(node for node in graph.node if "output" in node.output)
    producer.output[list(producer.output).index("output")] = "unclamped"
    for name, value in (("zero", 0.0), ("one", 1.0)):
        tensor = helper.make_tensor(name, TensorProto.FLOAT, [], [value])
        graph.node.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
    graph.node.append(helper.make_node("Clip", ["unclamped", "zero", "one"], ["output"], name="clamp"))


def _declare_interface(graph: onnx.GraphProto, n: str | int, height: str | int, width: str | int, scale: int) -> None:
    """Declare the dimensions of input and output, each a number or the name of a symbol."""
    from onnx import TensorProto, helper

    def scaled(size: str | int) -> str | int:
        return size * scale if isinstance(size, int) else f"{size}_out" if scale > 1 else size

    del graph.input[:]
    del graph.output[:]
    graph.input.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, [n, 3, height, width]))
    out = [n, 3, scaled(height), scaled(width)]
    graph.output.append(helper.make_tensor_value_info("output", TensorProto.FLOAT, out))
    graph.name = "esrgan"
