"""From ONNX to a network: the parser and what it fills."""

from __future__ import annotations

from pathlib import Path

import onnx

from fake_tensorrt import data
from fake_tensorrt.base import setting
from fake_tensorrt.data import Dims
from fake_tensorrt.layers import layers_of


class ITensor:
    def _setup(self, network, value, is_input):
        self._value = value
        self._is_input = is_input
        self._model = network._model

    @property
    def name(self):
        return self._value.name

    @property
    def dtype(self):
        return getattr(self._process.enums.DataType, data.NAMES[self._value.type.tensor_type.elem_type])

    @property
    def shape(self):
        found = data.shape_of(self._value)
        if found is None:
            inferred = onnx.shape_inference.infer_shapes(self._model).graph.output
            found = next(data.shape_of(value) for value in inferred if value.name == self.name)
        return Dims(found)

    @property
    def is_network_input(self):
        return self._is_input

    @property
    def is_network_output(self):
        return not self._is_input


class INetworkDefinition:
    def _setup(self, flags):
        enum = self._process.enums.NetworkDefinitionCreationFlag
        named = {name for name, flag in enum.__members__.items() if flags >> int(flag) & 1}
        self._explicit_batch = self._process.major > 8 or "EXPLICIT_BATCH" in named
        self._strongly_typed = self._process.major > 10 or "STRONGLY_TYPED" in named
        self._model = None
        self._layers = []

    @property
    def num_inputs(self):
        return len(data.inputs(self._model)) if self._model else 0

    @property
    def num_outputs(self):
        return len(self._model.graph.output) if self._model else 0

    @property
    def num_layers(self):
        return len(self._layers)

    def get_layer(self, index):
        return self._layers[index]

    @property
    def has_implicit_batch_dimension(self):
        return not self._explicit_batch

    def get_input(self, index):
        return self._tensor(data.inputs(self._model), index, True) if self._model else None

    def get_output(self, index):
        return self._tensor(self._model.graph.output, index, False) if self._model else None

    def get_flag(self, flag):
        return self._strongly_typed if flag.name == "STRONGLY_TYPED" else self._explicit_batch

    name = setting("name", "Unnamed Network 0")

    def _tensor(self, values, index, is_input):
        if not 0 <= index < len(values):
            self._process.error(f"INetworkDefinition: Error Code 3: API Usage Error (invalid tensor index {index})")
            return None
        return self._process.new("ITensor", self, values[index], is_input)


class ParserError:
    def _setup(self, code, desc, node=-1, name="", operator=""):
        self._values = (code, desc, node, name, operator)

    def code(self):
        return getattr(self._process.enums.ErrorCode, self._values[0])

    def desc(self):
        return self._values[1]

    def node(self):
        return self._values[2]

    def node_name(self):
        return self._values[3]

    def node_operator(self):
        return self._values[4]

    def file(self):
        return "ModelImporter.cpp"

    def line(self):
        return 151

    def func(self):
        return "parseNode"


class OnnxParser:
    def __init__(self, network, logger):
        self._process.adopt(logger)
        self._network = network
        self._errors = []

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]

    def clear_errors(self):
        self._errors = []

    def parse(self, model, path=None):
        self._process.check_alive()
        content = bytes(memoryview(model))
        if not self._network._explicit_batch:
            text = "This version of the ONNX parser only supports networks with an explicit batch dimension"
            return self._fail("INVALID_GRAPH", text)
        try:
            parsed = onnx.load_from_string(content)
        except Exception:
            return self._fail("MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model")
        if not self._check_nodes(parsed) or not self._check_types(parsed):
            return False
        try:
            onnx.checker.check_model(parsed)
        except onnx.checker.ValidationError as error:
            return self._fail("INVALID_GRAPH", str(error).splitlines()[0])
        self._network._model = parsed
        self._network._layers = layers_of(self._network)
        return True

    def parse_from_file(self, model):
        return self.parse(Path(model).read_bytes())

    def _check_nodes(self, model):
        for number, node in enumerate(model.graph.node):
            if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
                text = 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'
                return self._fail("INVALID_NODE", text, number, node.name, node.op_type)
        return True

    def _check_types(self, model):
        names = self._process.enums.DataType.__members__
        known = {data.ELEMENTS[name] for name in names if name in data.ELEMENTS}
        known |= {onnx.TensorProto.INT64, onnx.TensorProto.DOUBLE}
        for element in sorted(data.element_types(model) - known):
            name = onnx.TensorProto.DataType.Name(element)
            return self._fail("UNSUPPORTED_NODE", f"Unsupported ONNX data type: {name} ({element})")
        return True

    def _fail(self, code, text, *where):
        self._errors.append(self._process.new("ParserError", code, text, *where))
        self._process.error(f"ModelImporter.cpp:151: ERROR: {text}")
        return False
