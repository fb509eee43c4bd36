"""How much memory a network takes for each input pixel, from its graph alone, and how large a tile may then be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING

from esrgan_deploy.flops import set_image_size, standard_graph
from esrgan_deploy.frame_io import attach_frame_io
from esrgan_deploy.system.memory import free_mib, ram_mib

if TYPE_CHECKING:
    import onnx

IN_PLACE = frozenset(
    {"Add", "Cast", "Clip", "Floor", "Identity", "LeakyRelu", "Mul", "PRelu", "Relu", "Round", "Sigmoid", "Sub", "Tanh"}
)
"""These need no memory beyond their largest operand: backends compute them in the layer before or after."""
MORE_THAN_ALIVE: Mapping[str, float] = MappingProxyType({"openvino": 1.5, "ort": 2.5})
"""What backends take, over what is alive at the same time. Measured at 512x512 or near: OpenVINO 1.3 for RRDBNet x4 and
1.7 for the compact network, ONNX Runtime 1.8 and 3.3."""
MOST_TILE_MIB = 8192
"""No tile takes more. For RRDBNet x4 with 32 pixels of context, a 4k frame then computes a seventh of it twice; with
half of this, a fifth."""
MOST_PIXELS = 1_100_000
"""No tile has more: half a frame of full HD with its context. There is little overhead left to save, and memory is not
free: the first run in fresh memory takes a third longer for the compact network, so a picture is done sooner in tiles
that use the same memory again."""
SIDE = 64
"""Rows and columns of the image for which memory is counted; the memory of a pixel is the same for all sizes."""


def largest_tile(model: onnx.ModelProto, backend: str, streams: int = 1) -> int | None:
    """Input pixels of the largest tile for which there is memory; None where the graph does not tell.

    A tile gets a third of the machine's memory (or of the container's), by whole GiB, and `MOST_TILE_MIB` at most: so
    machines of one kind choose the same tile, and so does this one tomorrow. Only if that is not free, it is halved
    until it is.

    Args:
        model: one input, float NCHW.
        backend: a key of `MORE_THAN_ALIVE`.
        streams: tiles that are computed at the same time.
    """
    alive = bytes_per_pixel(model)
    if alive is None:
        return None
    mib = min(MOST_TILE_MIB, max(512, ram_mib() // 3 // 1024 * 1024))
    while mib > 256 and mib > free_mib():
        mib //= 2
    return min(MOST_PIXELS, int((mib << 20) / (alive * MORE_THAN_ALIVE[backend] * streams)))


def bytes_per_pixel(model: onnx.ModelProto) -> float | None:
    """Bytes of everything that is alive at the same time at most, frames and conversions included, per input pixel.

    None where the graph does not tell: operators outside the ONNX standard, or shapes that cannot be followed.
    """
    import onnx

    light = standard_graph(model)
    if light is None:
        return None
    set_image_size(light, SIDE, SIDE)
    framed = attach_frame_io(light, "uint8")
    try:
        graph = onnx.shape_inference.infer_shapes(framed, data_prop=True).graph
    except Exception:  # onnx raises its own InferenceError, ValueError or RuntimeError by version
        return None
    weights = {value.name for value in graph.input[1:]}
    values = [value for value in (*graph.value_info, *graph.input, *graph.output) if value.name not in weights]
    sizes = {value.name: value_bytes(value) for value in values}
    computed = {name for node in graph.node if node.op_type != "Constant" for name in node.output if name}
    if not all(sizes.get(name) for name in computed):
        return None
    _, height, width, _ = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)
    outside = {"frames_in", "frames_out"}
    inside = {name: sizes[name] for name in computed - outside}
    alive = sum(sizes[name] for name in outside) + most_alive(graph.node, inside)
    return float(alive / (height * width))


def most_alive(nodes: Iterable[onnx.NodeProto], sizes: Mapping[str, int]) -> int:
    """The most bytes that are alive at the same time, when `nodes` run in their order; `sizes` by tensor."""
    nodes = list(nodes)
    last_reader = {name: index for index, node in enumerate(nodes) for name in node.input}
    alive: dict[str, int] = {}
    most = 0
    for index, node in enumerate(nodes):
        dying = {name for name in node.input if name in alive and last_reader[name] == index}
        made = {name: sizes[name] for name in node.output if name in sizes}
        reused = 0
        if node.op_type in IN_PLACE:
            reused = min(sum(made.values()), max((alive[name] for name in dying), default=0))
        most = max(most, sum(alive.values()) + sum(made.values()) - reused)
        alive |= {name: size for name, size in made.items() if name in last_reader}
        for name in dying:
            del alive[name]
    return most


def value_bytes(value: onnx.ValueInfoProto) -> int:
    """Bytes of a tensor; 0 where shape inference did not get so far, as behind an operator that it does not know."""
    from onnx import helper

    tensor = value.type.tensor_type
    if not tensor.elem_type or any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
        return 0
    itemsize = int(helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize)
    return itemsize * prod(int(dim.dim_value) for dim in tensor.shape.dim)
