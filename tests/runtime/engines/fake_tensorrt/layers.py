"""The layers of a parsed network, one or two for each node of the graph, as the parser makes them."""

from __future__ import annotations

import types

from fake_tensorrt import data

KINDS = {
    "Conv": "CONVOLUTION",
    "LeakyRelu": "ACTIVATION",
    "Clip": "ACTIVATION",
    "Transpose": "SHUFFLE",
    "Reshape": "SHUFFLE",
    "DepthToSpace": "SHUFFLE",
    "Slice": "SLICE",
    "Concat": "CONCATENATION",
    "ReduceMean": "REDUCE",
    "Round": "UNARY",
    "Floor": "UNARY",
    "Resize": "RESIZE",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "Constant": "CONSTANT",
}


def layers_of(network):
    """All layers, in the order of the graph. What a stored scalar or vector is combined with has a layer before it."""
    new = network._process.new
    stored = {tensor.name for tensor in network._model.graph.initializer}
    layers = []
    for node in network._model.graph.node:
        if node.op_type in ("Mul", "Add", "Sub") and stored.intersection(node.input):
            layers.append(new("ILayer", network, "SHUFFLE", f"{node.name}_broadcast", [f"broadcast {len(layers)}"]))
        kind = "IDENTITY" if node.op_type in ("Cast", "Identity") else KINDS.get(node.op_type, "ELEMENTWISE")
        layers.append(new("ILayer", network, kind, node.name, list(node.output), node))
    return layers


class ILayer:
    def _setup(self, network, kind, name, outputs, node=None):
        self._network, self._kind, self._layer_name, self._outputs = network, kind, name, outputs
        cast = [data.NAMES[attribute.i] for attribute in node.attribute] if node and node.op_type == "Cast" else []
        self._output_types = dict(enumerate(cast))
        self._precision = None

    @property
    def name(self):
        return self._layer_name

    @property
    def type(self):
        return getattr(self._process.enums.LayerType, self._kind)

    @property
    def num_outputs(self):
        return len(self._outputs)

    def get_output(self, index):
        """Before the build, a weakly typed network calls everything FLOAT whose type was not set."""
        kind = getattr(self._process.enums.DataType, self._output_types.get(index, "FLOAT"))
        return types.SimpleNamespace(name=self._outputs[index], dtype=kind)

    @property
    def precision(self):
        return self._precision

    @precision.setter
    def precision(self, kind):
        self._precision = kind

    @property
    def precision_is_set(self):
        return self._precision is not None

    def set_output_type(self, index, dtype):
        self._output_types[index] = dtype.name

    def output_type_is_set(self, index):
        return index in self._output_types
