"""Give an ONNX network the frame interface: uint8 or uint16 NHWC in and out, instead of float NCHW in [0, 1].

Decoders and encoders have integers in pixel order, networks take floats in planes. As part of the graph, the
conversion is fused and run in parallel by the backend, and only one byte per sample crosses the bus. So one float ONNX
file serves other hosts as it is, and our backends by what is added here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

Frames: TypeAlias = "npt.NDArray[Any]"
"""uint8 or uint16 RGB: one frame (H, W, 3) or a batch (N, H, W, 3)."""
FrameType = Literal["uint8", "uint16"]
LARGEST: dict[str, float] = {"uint8": 255.0, "uint16": 65535.0}


def frame_type_of(dtype: np.dtype[Any]) -> FrameType:
    """The name of uint8 or uint16."""
    return "uint8" if dtype.name == "uint8" else "uint16"


def attach_frame_io(model: onnx.ModelProto, frame_type: FrameType, *, byte_pairs: bool = False) -> onnx.ModelProto:
    """A copy of `model` whose input `frames_in` and output `frames_out` are (N, H, W, 3) integers of `frame_type`.

    in:  y = transpose(x / largest), cast to the network's type
    out: x = round(clip(transpose(y), 0, 1) * largest), half to even, like numpy.rint

    With `byte_pairs`, for engines that have no uint16, 16-bit values enter and leave as (N, H, W, 6) uint8 in
    little-endian pairs; results are the same. N, H and W are symbolic if they are so in the network.
    """
    import onnx
    from onnx import TensorProto, helper

    framed = onnx.ModelProto()
    framed.CopyFrom(model)
    graph = framed.graph
    initialisers = {tensor.name for tensor in graph.initializer}
    source = next(value for value in graph.input if value.name not in initialisers)
    result = graph.output[0]
    integer = TensorProto.UINT16 if frame_type == "uint16" and not byte_pairs else TensorProto.UINT8
    before, after = _conversions(source, result, integer, byte_pairs)
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    if byte_pairs:
        graph.initializer.extend(_byte_pair_indices())
    graph.node.extend(nodes)
    for name, value in frame_constants(frame_type, byte_pairs=byte_pairs).items():
        graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
    n, _, height, width = (dim.dim_value or dim.dim_param for dim in source.type.tensor_type.shape.dim)
    others = [value for value in graph.input if value is not source]
    del graph.input[:]
    del graph.output[:]
    channels = 6 if byte_pairs else 3
    graph.input.extend(
        [
            helper.make_tensor_value_info("frames_in", integer, [n or "N", height or "H", width or "W", channels]),
            *others,
        ]
    )
    graph.output.append(helper.make_tensor_value_info("frames_out", integer, [n or "N", "H_out", "W_out", channels]))
    return framed


def before_clip(graph: onnx.GraphProto) -> str:
    """The tensor that the final Clip reads, even if a Cast follows the Clip; without a Clip the output itself."""
    producers = {name: node for node in graph.node for name in node.output}
    result: str = graph.output[0].name
    last = producers[result]
    if last.op_type == "Cast" and last.input[0] in producers:
        last = producers[last.input[0]]
    return last.input[0] if last.op_type == "Clip" else result


def show_nan(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` that gives 1 where the network gives values that are no numbers, and 0 elsewhere."""
    import onnx
    from onnx import TensorProto, helper

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    graph = shown.graph
    element = graph.output[0].type.tensor_type.elem_type
    nodes = [
        helper.make_node("Cast", [before_clip(graph)], ["nan/float"], to=TensorProto.FLOAT),
        helper.make_node("IsNaN", ["nan/float"], ["nan/found"]),
        helper.make_node("Cast", ["nan/found"], ["nan/shown"], to=element),
    ]
    graph.node.extend(nodes)
    graph.output[0].name = "nan/shown"
    return shown


def frame_constants(frame_type: FrameType, *, byte_pairs: bool = False) -> dict[str, float]:
    """The float32 scalars that the conversion computes with, by their names in the graph."""
    largest = LARGEST[frame_type]
    constants = {"down": 1.0 / largest, "up": largest, "zero": 0.0, "one": 1.0}
    pairs = {"256": 256.0, "256th": 1 / 256} if byte_pairs else {}
    return {f"frame_io/{name}": value for name, value in {**constants, **pairs}.items()}


def _conversions(
    source: onnx.ValueInfoProto, result: onnx.ValueInfoProto, integer: int, byte_pairs: bool
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Nodes from `frames_in` to the network's input, and from its output to `frames_out`."""
    from onnx import TensorProto, helper

    compute = source.type.tensor_type.elem_type
    received, sent = (
        ("frame_io/in_pairs", "frame_io/out_pairs") if byte_pairs else ("frame_io/float", "frame_io/pixels")
    )
    before = [
        helper.make_node("Cast", ["frames_in"], [received], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["frame_io/float", "frame_io/down"], ["frame_io/unit"]),
        helper.make_node("Transpose", ["frame_io/unit"], ["frame_io/planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["frame_io/planes"], [source.name], to=compute),
    ]
    after = [
        helper.make_node("Cast", [result.name], ["frame_io/sr"], to=TensorProto.FLOAT),
        helper.make_node("Clip", ["frame_io/sr", "frame_io/zero", "frame_io/one"], ["frame_io/clipped"]),
        helper.make_node("Mul", ["frame_io/clipped", "frame_io/up"], ["frame_io/scaled"]),
        helper.make_node("Round", ["frame_io/scaled"], ["frame_io/rounded"]),
        helper.make_node("Transpose", ["frame_io/rounded"], ["frame_io/pixels"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", [sent], ["frames_out"], to=integer),
    ]
    if byte_pairs:
        before[1:1], after[-1:-1] = _byte_pairs(received, "frame_io/float", "frame_io/pixels", sent)
    return before, after


def _byte_pairs(
    pairs_in: str, joined: str, whole: str, pairs_out: str
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Nodes that join bytes, low + 256 * high, and nodes that split values again; exact in float32."""
    from onnx import helper

    every_other = ["frame_io/end", "frame_io/channel_axis", "frame_io/two"]
    joining = [
        helper.make_node("Slice", [pairs_in, "frame_io/low_start", *every_other], ["frame_io/in_low"]),
        helper.make_node("Slice", [pairs_in, "frame_io/high_start", *every_other], ["frame_io/in_high"]),
        helper.make_node("Mul", ["frame_io/in_high", "frame_io/256"], ["frame_io/in_high_256"]),
        helper.make_node("Add", ["frame_io/in_low", "frame_io/in_high_256"], [joined]),
    ]
    splitting = [
        helper.make_node("Mul", [whole, "frame_io/256th"], ["frame_io/out_quotient"]),
        helper.make_node("Floor", ["frame_io/out_quotient"], ["frame_io/out_high"]),
        helper.make_node("Mul", ["frame_io/out_high", "frame_io/256"], ["frame_io/out_high_256"]),
        helper.make_node("Sub", [whole, "frame_io/out_high_256"], ["frame_io/out_low"]),
        helper.make_node("Reshape", ["frame_io/out_low", "frame_io/one_each"], ["frame_io/out_low_5d"]),
        helper.make_node("Reshape", ["frame_io/out_high", "frame_io/one_each"], ["frame_io/out_high_5d"]),
        helper.make_node("Concat", ["frame_io/out_low_5d", "frame_io/out_high_5d"], ["frame_io/out_5d"], axis=4),
        helper.make_node("Reshape", ["frame_io/out_5d", "frame_io/six"], [pairs_out]),
    ]
    return joining, splitting


def _byte_pair_indices() -> list[onnx.TensorProto]:
    """The indices and shapes that the nodes of `_byte_pairs` take as inputs."""
    from onnx import TensorProto, helper

    indices = {
        "low_start": [0],
        "high_start": [1],
        "end": [6],
        "channel_axis": [3],
        "two": [2],
        "one_each": [0, 0, 0, 3, 1],  # 0: the size that is there
        "six": [0, 0, 0, 6],
    }
    return [
        helper.make_tensor(f"frame_io/{name}", TensorProto.INT64, [len(values)], values)
        for name, values in indices.items()
    ]
