"""Give an ONNX network the frame interface: uint8 or uint16 NHWC in and out, instead of float NCHW in [0, 1].

Colour frames are integers in pixel order, networks want floats in planes. When the conversion is part of the graph,
the backend fuses and threads it, and only one byte per sample crosses a bus. One float ONNX thus serves every host,
and every backend gets its frame interface here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnx

FrameType = Literal["uint8", "uint16"]
LARGEST: dict[str, float] = {"uint8": 255.0, "uint16": 65535.0}


def attach_frame_io(model: onnx.ModelProto, frame_type: FrameType) -> onnx.ModelProto:
    """A copy of `model` whose input and output `frames` are (N, H, W, 3) integers of `frame_type`.

    in:  y = transpose(x / largest), cast to the network's type
    out: x = round(clip(transpose(y), 0, 1) * largest), half to even, like numpy.rint

    N, H and W become symbolic where the network leaves them so; a network with N = 1 keeps N = 1.
    """
    import onnx
    from onnx import TensorProto, helper

    framed = onnx.ModelProto()
    framed.CopyFrom(model)
    graph = framed.graph
    initialisers = {tensor.name for tensor in graph.initializer}
    source = next(value for value in graph.input if value.name not in initialisers)
    result = graph.output[0]
    compute = source.type.tensor_type.elem_type
    integer = TensorProto.UINT8 if frame_type == "uint8" else TensorProto.UINT16
    largest = LARGEST[frame_type]

    def constant(name: str, value: float) -> onnx.TensorProto:
        return helper.make_tensor(name, TensorProto.FLOAT, [], [value])

    before = [
        helper.make_node("Cast", ["frames_in"], ["frame_io/float"], to=TensorProto.FLOAT),
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
        helper.make_node("Cast", ["frame_io/pixels"], ["frames_out"], to=integer),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        [
            constant("frame_io/down", 1.0 / largest),
            constant("frame_io/up", largest),
            constant("frame_io/zero", 0.0),
            constant("frame_io/one", 1.0),
        ]
    )
    n, _, height, width = (dim.dim_value or dim.dim_param for dim in source.type.tensor_type.shape.dim)
    others = [value for value in graph.input if value is not source]
    del graph.input[:]
    del graph.output[:]
    graph.input.extend(
        [helper.make_tensor_value_info("frames_in", integer, [n or "N", height or "H", width or "W", 3]), *others]
    )
    graph.output.append(helper.make_tensor_value_info("frames_out", integer, [n or "N", "H_out", "W_out", 3]))
    return framed
