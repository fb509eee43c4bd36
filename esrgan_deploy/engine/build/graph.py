"""The graph that becomes an engine: the network with integer frames as input and output, in the shapes of a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esrgan_deploy.engine.options import EngineOptions
from esrgan_deploy.frame_io import attach_frame_io, before_clip

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT, MEAN = "frames_in", "frames_out", "mean"
CHANNELS = {"uint8": 3, "uint16": 6}
"""uint8 values of a pixel. TensorRT has no uint16, so such samples go in and come out as little-endian byte pairs."""


def frame_graph(model: onnx.ModelProto, options: EngineOptions) -> onnx.ModelProto:
    """A copy of `model` with integer frames in and out, for `options.profile`.

    in:  `frames_in`, uint8 (N, H, W, C), C = 3 for uint8 frames and 6 for uint16 frames: a uint16 array (N, H, W, 3)
         in little-endian order, viewed as uint8. N, H, W are literals where the profile has one value, else symbolic.
    out: `frames_out`, uint8 (N, H * scale, W * scale, C), converted as `attach_frame_io` says;
         `mean`, float32 (N,): mean of each frame before the network's final Clip. It is NaN or infinite if the network
         overflowed, which cannot be seen in the frames, where Clip makes black or white of such values.
    """
    import onnx
    from onnx import TensorProto, helper

    framed = attach_frame_io(model, options.frames, byte_pairs=options.frames == "uint16")
    graph = framed.graph
    unclamped = before_clip(model.graph)
    graph.node.append(helper.make_node("Cast", [unclamped], ["mean/float"], name="mean/cast", to=TensorProto.FLOAT))
    # The mean of each row first: TensorRT uses few threads for a reduction to one number.
    for source, result, axes, keep in (("mean/float", "mean/rows", [3], 1), ("mean/rows", MEAN, [1, 2, 3], 0)):
        if _opset(framed) < 18:
            graph.node.append(helper.make_node("ReduceMean", [source], [result], axes=axes, keepdims=keep))
            continue
        constant = f"{result}/axes"  # since opset 18 an input
        graph.initializer.append(helper.make_tensor(constant, TensorProto.INT64, [len(axes)], axes))
        graph.node.append(helper.make_node("ReduceMean", [source, constant], [result], keepdims=keep))
    profile = options.profile
    low, high = profile.min, profile.max
    sizes = zip((low.batch, low.height, low.width), (high.batch, high.height, high.width), ("N", "H", "W"), strict=True)
    n, height, width = (least if least == most else symbol for least, most, symbol in sizes)
    channels = CHANNELS[options.frames]
    del graph.input[:]
    del graph.output[:]
    del graph.value_info[:]  # they may still say N = 1
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [n, height, width, channels]))
    graph.output.extend(
        [
            helper.make_tensor_value_info(OUTPUT, TensorProto.UINT8, [n, "H_out", "W_out", channels]),
            helper.make_tensor_value_info(MEAN, TensorProto.FLOAT, [n]),
        ]
    )
    onnx.checker.check_model(framed)
    return framed


def _opset(model: onnx.ModelProto) -> int:
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
