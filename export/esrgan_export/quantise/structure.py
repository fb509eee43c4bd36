"""Find in the fp32 graph which convolutions are quantised together, and which channels can be rescaled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from esrgan_export.precision import float_inputs

HOMOGENEOUS = ("LeakyRelu", "PRelu", "Relu", "Resize")
"""Operators with f(d x) = d f(x) for every d > 0 and each channel; Resize is one with any interpolation."""


@dataclass(frozen=True)
class Member:
    """A tensor that a convolution reads, directly or through a Concat."""

    tensor: str
    first: int
    """Its first channel in the input of the convolution."""
    channels: int
    producer: str | None
    """The convolution at which its channels can be rescaled: the tensor is its output, with nothing but `HOMOGENEOUS`
    operators between, and is read by convolutions only, which take the factor back. None: they cannot be rescaled."""

    @property
    def span(self) -> slice:
        """Its channels in the input of the convolution."""
        return slice(self.first, self.first + self.channels)


@dataclass(frozen=True)
class Group:
    """Convolutions that read common tensors, which are therefore quantised with one scale. A dense block is a group."""

    readers: Mapping[str, tuple[Member, ...]]
    """The members of each convolution's input, by the convolution's name, in graph order."""

    @property
    def name(self) -> str:
        """The name of the only convolution, or the module that all of them are in, for instance body.3.rdb1."""
        names = list(self.readers)
        return names[0] if len(names) == 1 else names[0].rpartition(".")[0]

    @property
    def members(self) -> dict[str, Member]:
        """Every tensor that is read, by name."""
        return {member.tensor: member for members in self.readers.values() for member in members}


def find_groups(model: onnx.ModelProto) -> list[Group]:
    """The groups of a network made by `export_onnx`, in graph order.

    The convolutions that read the image or compute the output are left out. They have three channels on one side, so
    INT8 saves little there. An error of the first is passed on to all others, and one of the last is visible at once:
    the last one alone cost compact-clean 2 dB.
    """
    graph = _Graph(model)
    readers = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and not graph.reads_input(node.input[0]) and not graph.computes_output(node):
            readers[node.name] = graph.members(node.input[0])
    return [Group({name: readers[name] for name in names}) for names in _sharing(readers)]


def _sharing(readers: Mapping[str, Sequence[Member]]) -> list[list[str]]:
    """The names of the convolutions, grouped by the tensors that they read in common."""
    by_tensor: dict[str, list[str]] = defaultdict(list)
    for name, members in readers.items():
        for member in members:
            by_tensor[member.tensor].append(name)
    home = {name: name for name in readers}
    for names in by_tensor.values():
        homes = {home[name] for name in names}
        first = next(name for name in readers if name in homes)
        home = {name: first if own in homes else own for name, own in home.items()}
    groups: dict[str, list[str]] = defaultdict(list)
    for name, first in home.items():
        groups[first].append(name)
    return list(groups.values())


class _Graph:
    """Which node computes each tensor, and which nodes read it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._outputs = {value.name for value in model.graph.output}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in float_inputs(node):
                self._readers[name].append(node)
        image = model.graph.input[0].name
        self._channels: dict[str, int] = {image: 3}
        self._untouched = {image}
        self._finished = set(self._outputs)
        self._follow(model.graph)

    def _follow(self, graph: onnx.GraphProto) -> None:
        """Find the channels of every tensor, and the tensors with no convolution before or behind them."""
        weights = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            sources = [name for name in float_inputs(node) if name in self._channels]
            if node.op_type == "Conv":
                channels = weights[node.input[1]].dims[0]
            elif node.op_type == "Concat":
                channels = sum(self._channels[name] for name in sources)
            elif node.op_type in ("DepthToSpace", "SpaceToDepth"):
                block = next(attribute.i for attribute in node.attribute if attribute.name == "blocksize") ** 2
                channels = self._channels[sources[0]]
                channels = channels // block if node.op_type == "DepthToSpace" else channels * block
            elif node.op_type == "Split":  # of the image, one colour each
                channels = self._channels[sources[0]] // len(node.output)
            else:  # activations, sums, scalings and Resize keep the number; constants have none
                channels = max((self._channels[name] for name in sources), default=0)
            if channels:
                self._channels.update(dict.fromkeys(node.output, channels))
            if node.op_type != "Conv" and not self._untouched.isdisjoint(sources):
                self._untouched.update(node.output)
        for node in reversed(graph.node):
            if node.op_type != "Conv" and not self._finished.isdisjoint(node.output):
                self._finished.update(float_inputs(node))

    def reads_input(self, tensor: str) -> bool:
        """Whether there is no convolution between the image and `tensor`."""
        return tensor in self._untouched

    def computes_output(self, conv: onnx.NodeProto) -> bool:
        """Whether there is no other convolution between `conv` and the output."""
        return conv.output[0] in self._finished

    def members(self, tensor: str) -> tuple[Member, ...]:
        """The inputs of the Concat that computes `tensor`; without a Concat, `tensor` itself."""
        maker = self._makers[tensor]
        members, first = [], 0
        for part in maker.input if maker.op_type == "Concat" else [tensor]:
            channels = self._channels[part]
            members.append(Member(part, first, channels, self._producer(part)))
            first += channels
        return tuple(members)

    def _producer(self, tensor: str) -> str | None:
        """See `Member.producer`."""
        if not self._only_convolved(tensor):
            return None
        maker = self._makers[tensor]
        while maker.op_type in HOMOGENEOUS:
            if len(self._readers[maker.input[0]]) > 1:
                return None
            maker = self._makers[maker.input[0]]
        return maker.name if maker.op_type == "Conv" else None

    def _only_convolved(self, tensor: str) -> bool:
        if tensor in self._outputs:
            return False
        return all(
            node.op_type == "Conv" or (node.op_type == "Concat" and self._only_convolved(node.output[0]))
            for node in self._readers[tensor]
        )
