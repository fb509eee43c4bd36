"""Count the bytes that the nodes of an ONNX network read and write, for the roofline.

Williams, Waterman and Patterson 2009 (Roofline): a kernel of F operations that moves B bytes takes at least
max(F / peak, B / bandwidth). Counted is what goes over the edges of the graph, each node by itself: an upper bound on
what reaches the memory, since caches and fused nodes save a part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from esrgan_deploy.flops import infer_shapes, standard_graph

if TYPE_CHECKING:
    import onnx

FLOAT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 4}
"""Bytes of a floating-point value where a session computes in this; what an INT8 network keeps in float is fp32."""
FREE = ("Constant", "Dropout", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze")
"""Operators that only give a tensor another name or shape."""


@dataclass(frozen=True)
class Traffic:
    """What the nodes of a network read and write once each, for one image."""

    floats: int
    """Floating-point values; how many bytes each takes is up to the session."""
    quantised: int
    """Values of one byte, between QuantizeLinear and DequantizeLinear."""

    def bytes_in(self, precision: str) -> int:
        """Bytes where the session computes in `precision`."""
        return self.floats * FLOAT_BYTES[precision] + self.quantised


def count_traffic(model: onnx.ModelProto, height: int, width: int) -> Traffic | None:
    """Activations and weights of one (1, C, height, width) image.

    Backends run QuantizeLinear as the end of the node before it and DequantizeLinear as the beginning of the one
    behind, so the tensors around them are counted as the bytes that they really are, and the two only where they are
    no such end or beginning: where something else wants the float as well.

    Returns:
        None where the graph does not tell: control flow, operators outside the ONNX standard, or shapes that are
        computed in a way that shape inference cannot follow.

    Raises:
        ModelError: the network cannot take an image of this size.
    """
    flat = standard_graph(model)
    if flat is None:
        return None
    shapes = infer_shapes(flat, height, width)
    nodes = [node for node in flat.graph.node if node.op_type not in FREE]
    bytewise, skipped = _quantised_tensors(nodes, {value.name for value in flat.graph.output})
    floats = quantised = 0
    for node in nodes:
        if node.op_type == "DequantizeLinear" or node.output[0] in skipped:
            continue
        for name in _image_tensors(node):
            if name not in shapes:
                return None
            if name in bytewise:
                quantised += prod(shapes[name])
            else:
                floats += prod(shapes[name])
    return Traffic(floats, quantised)


def _quantised_tensors(nodes: Iterable[onnx.NodeProto], results: set[str]) -> tuple[set[str], set[str]]:
    """Tensors of one byte for each value, and the outputs of those QuantizeLinear that are the end of another node."""
    readers = Counter(name for node in nodes for name in node.input)
    bytewise, skipped = set(), set()
    for node in nodes:
        if node.op_type == "DequantizeLinear":
            bytewise |= {node.input[0], node.output[0]}
        elif node.op_type == "QuantizeLinear":
            bytewise.add(node.output[0])
            if readers[node.input[0]] == 1 and node.input[0] not in results:
                bytewise.add(node.input[0])
                skipped.add(node.output[0])
    return bytewise, skipped


def _image_tensors(node: onnx.NodeProto) -> list[str]:
    """Inputs and outputs that grow with the image or hold weights; a few numbers of shapes and scales do not count."""
    small = {"Resize": 1, "Slice": 1, "Pad": 1, "QuantizeLinear": 1, "Clip": 1}
    inputs = list(node.input[: small.get(node.op_type, len(node.input))])
    return [name for name in (*inputs, *node.output) if name]
