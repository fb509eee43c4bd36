"""From a network to a plan."""

from __future__ import annotations

import hashlib
import json

import onnx

from fake_tensorrt import config as configuration
from fake_tensorrt import data, network
from fake_tensorrt.base import setting
from fake_tensorrt.config import host_memory, machine
from fake_tensorrt.layers import ILayer

PLAN_MAGIC = b"ftrt"
DIGEST = 32


class Builder:
    def __init__(self, logger):
        self._process.adopt(logger)
        self._process.require_device()
        self._logger = logger

    @property
    def logger(self):
        return self._logger

    platform_has_fast_fp16 = property(lambda self: True)
    platform_has_fast_int8 = property(lambda self: True)
    max_threads = setting("max_threads", 1)

    def create_network(self, flags=0):
        allowed = len(self._process.enums.NetworkDefinitionCreationFlag)
        if flags >> allowed:
            self._process.error("IBuilder::createNetworkV2: Error Code 3: API Usage Error (unknown flag)")
            return None
        return self._process.new("INetworkDefinition", flags)

    def create_builder_config(self):
        return self._process.new("IBuilderConfig")

    def create_optimization_profile(self):
        return self._process.new("IOptimizationProfile")

    def build_serialized_network(self, network, config):
        self._process.check_alive()
        problem = self._find_problem(network, config)
        if problem:
            self._process.error(f"IBuilder::buildSerializedNetwork: {problem}")
            return None
        if not self._tell_progress(network, config):
            self._process.error("IBuilder::buildSerializedNetwork: Error Code 7: BuildCanceled")
            return None
        if config._cache:
            kinds = {f"{node.op_type}:{len(node.input)}" for node in network._model.graph.node}
            config._cache._content["layers"] = sorted({*config._cache._content["layers"], *kinds})
        profiles = self._profiles(network, config)
        header = {
            **machine(self._process),
            "profiles": profiles,
            "activations": [data.activation_bytes(network._model, largest(profile)) for profile in profiles],
            "refit": "REFIT" in {flag.name for flag in config._flags},
        }
        return host_memory(write_plan(header, network._model))

    @staticmethod
    def _profiles(network, config):
        """{input: [min, opt, max]} for each profile; a static network without one has one all the same."""
        static = {value.name: [data.shape_of(value)] * 3 for value in data.inputs(network._model)}
        return [{**static, **profile._shapes} for profile in config._profiles] or [static]

    def _find_problem(self, network, config):
        """What makes the build fail, in TensorRT's words, or None."""
        if network._model is None:
            return "Error Code 4: API Usage Error (Network must have at least one output)"
        return (
            self._problem_of_profiles(network, config)
            or self._problem_of_types(network, config)
            or self._problem_of_memory(network, config)
        )

    def _problem_of_profiles(self, network, config):
        for value in data.inputs(network._model):
            sizes = data.shape_of(value)
            if -1 in sizes and not config._profiles:
                text = "Network has dynamic or shape inputs, but no optimization profile has been defined."
                return f"Error Code 4: API Usage Error ({text})"
            for number, profile in enumerate(config._profiles):
                shapes = profile._shapes.get(value.name)
                if shapes is None and -1 in sizes:
                    text = f"Dynamic input tensor {value.name} is missing dimensions in profile {number}."
                    return f"Error Code 4: API Usage Error ({text})"
                for shape in shapes or ():
                    if len(shape) != len(sizes) or any(
                        fixed not in (-1, size) for fixed, size in zip(sizes, shape, strict=True)
                    ):
                        text = f"{value.name}: static dimension of profile {number} does not match the network's"
                        return f"Error Code 4: API Usage Error ({text})"
        return None

    def _problem_of_types(self, network, config):
        types, flags = data.element_types(network._model), {flag.name for flag in config._flags}
        operators = {node.op_type for node in network._model.graph.node}
        needed = {"FP16": onnx.TensorProto.FLOAT16 in types, "BF16": onnx.TensorProto.BFLOAT16 in types}
        needed["INT8"] = "QuantizeLinear" in operators
        for flag, wanted in needed.items():
            if network._strongly_typed and flag in flags:
                return f"Error Code 4: API Usage Error ({flag} must not be set on a strongly typed network)"
            if not network._strongly_typed and wanted and flag not in flags:
                text = f"{flag.lower()} precision has been set for a layer or layer output, but is not configured"
                return f"Error Code 4: API Usage Error ({text} in the builder)"
        return self._problem_of_uint8(network._model)

    @staticmethod
    def _problem_of_uint8(model):
        """TensorRT knows uint8 at the borders of a network only, next to a Cast from or to a float type."""
        inputs = {value.name for value in data.inputs(model)}
        inferred = onnx.shape_inference.infer_shapes(model).graph
        types = {
            v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.value_info, *inferred.output)
        }
        small = {name for name, element in types.items() if element == onnx.TensorProto.UINT8}
        for node in model.graph.node:
            touched = small.intersection([*node.input, *node.output])
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") or not touched:
                continue
            others = {types.get(name) for name in (*node.input, *node.output)} - {onnx.TensorProto.UINT8}
            border = touched <= inputs | {value.name for value in model.graph.output}
            if node.op_type != "Cast" or not border or not others <= {*data.FLOATS}:
                return f"Error Code 4: API Usage Error (UInt8 is not supported in layer {node.op_type} {node.name})"
        return None

    def _problem_of_memory(self, network, config):
        model = network._model
        room = self._process.driver.unused()
        pool = self._process.enums.MemoryPoolType.WORKSPACE
        for profile in self._profiles(network, config):
            activations = data.activation_bytes(model, largest(profile))
            wanted = activations + sum(len(data.raw_bytes(tensor)) for tensor in data.weights(model).values())
            if wanted > room or activations // 8 > config.get_memory_pool_limit(pool):
                node = model.graph.node[0].name or model.graph.node[0].op_type
                return (
                    f"Error Code 10: Internal Error (Could not find any implementation for node {node}: "
                    f"requested size was {wanted}, out of memory)"
                )
        return None

    @staticmethod
    def _tell_progress(network, config):
        monitor = getattr(config, "_progress_monitor", None)
        if monitor is None:
            return True
        go_on = True
        nodes = len(network._model.graph.node)
        monitor.phase_start("Building engine", None, 2)
        monitor.phase_start("Timing graph nodes", "Building engine", nodes)
        for step in range(nodes):
            go_on = go_on and monitor.step_complete("Timing graph nodes", step)
        monitor.phase_finish("Timing graph nodes")
        for step in range(2):
            go_on = go_on and monitor.step_complete("Building engine", step)
        monitor.phase_finish("Building engine")
        return go_on


def largest(profile):
    """{input: max shape} of a profile."""
    return {name: shapes[2] for name, shapes in profile.items()}


def write_plan(header, model):
    """Magic, digest of the rest, length of the header, header, ONNX."""
    text = json.dumps(header).encode()
    content = len(text).to_bytes(4, "little") + text + model.SerializeToString()
    return PLAN_MAGIC + hashlib.sha256(content).digest() + content


def read_plan(plan):
    """(header, model). ValueError for anything else than a whole plan."""
    digest, content = plan[4 : 4 + DIGEST], plan[4 + DIGEST :]
    if plan[:4] != PLAN_MAGIC or hashlib.sha256(content).digest() != digest:
        raise ValueError("not a plan")
    length = int.from_bytes(content[:4], "little")
    return json.loads(content[4 : 4 + length]), onnx.load_from_string(content[4 + length :])


BUILDER_CLASSES = {
    kind.__name__: kind
    for kind in (
        configuration.ILogger,
        configuration.Logger,
        configuration.IProgressMonitor,
        configuration.IOptimizationProfile,
        configuration.ITimingCache,
        configuration.IBuilderConfig,
        network.ITensor,
        network.INetworkDefinition,
        network.ParserError,
        network.OnnxParser,
        ILayer,
        Builder,
        data.Dims,
    )
}
