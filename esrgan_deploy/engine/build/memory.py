"""Estimate how much GPU memory an engine will need from its graph, before it is built.

The estimate is the weights plus the tensors that are needed at the same time. TensorRT also uses scratch memory, and
saves some by fusing layers; neither is known before the build.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import isqrt, prod
from typing import TYPE_CHECKING

from esrgan_deploy.engine.build.graph import frame_graph
from esrgan_deploy.engine.options import EngineOptions, Profile, Shape
from esrgan_deploy.frame_io import FrameType
from esrgan_deploy.network_memory import most_alive, value_bytes

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class EngineMemory:
    """Bytes of GPU memory for batches of `shape`; all but the weights grow in proportion to the pixels."""

    weights: int
    activations: int
    shape: Shape

    def at(self, shape: Shape) -> int:
        """Bytes at another shape."""
        return self.weights + self.activations * _pixels(shape) // _pixels(self.shape)

    def largest_batch(self, shape: Shape, free: int) -> int:
        """Frames of this height and width that fit into `free` bytes together; 0: not even one."""
        one = self.at(dataclasses.replace(shape, batch=1)) - self.weights
        return max(0, (free - self.weights) // max(1, one))

    def largest_tile(self, free: int, multiple_of: int) -> int:
        """Side of the largest square frame that fits into `free` bytes, a multiple of `multiple_of`; 0: none fits."""
        pixels = max(0, free - self.weights) * _pixels(self.shape) // max(1, self.activations)
        return isqrt(pixels) // multiple_of * multiple_of


def engine_memory(model: onnx.ModelProto, shape: Shape, frames: FrameType = "uint8") -> EngineMemory:
    """Estimate the memory for frames, activations and weights, with nodes running in the order of the graph."""
    import onnx
    from onnx import helper

    profile = Profile.fixed(shape.batch, shape.height, shape.width)
    framed = frame_graph(model, EngineOptions(profile, frames))
    graph = onnx.shape_inference.infer_shapes(framed, data_prop=True).graph
    stored = [*graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant":
            stored += [attribute.t for attribute in node.attribute if attribute.name == "value"]
    weights = sum(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * prod(tensor.dims) for tensor in stored)
    sizes = {value.name: value_bytes(value) for value in (*graph.value_info, *graph.input, *graph.output)}
    outside = {value.name for value in (*graph.input, *graph.output)}  # the caller's, there all the time
    lasting = sum(sizes.get(name, 0) for name in outside)
    inside = {name: size for name, size in sizes.items() if name not in outside}
    for node in graph.node:
        if node.op_type == "Constant":
            inside.pop(node.output[0], None)
    return EngineMemory(weights, lasting + most_alive(graph.node, inside), shape)


def _pixels(shape: Shape) -> int:
    return shape.batch * shape.height * shape.width
