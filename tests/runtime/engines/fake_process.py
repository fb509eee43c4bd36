"""A process with the fake TensorRT, the steps from ONNX to results in it, and a small graph to do them with."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from fake_cuda import FakeDriver
from fake_tensorrt import VERSIONS, make

NEWEST = VERSIONS[-1]
DYNAMIC = ("N", "H", "W")
RANGE = ((1, 2, 2, 3), (1, 4, 6, 3), (2, 8, 8, 3))


def graph(size=(1, 4, 6), element=TensorProto.FLOAT, operator="Round"):
    """uint8 NHWC in and out: the mean of the three channels plus a bias in each, sizes doubled."""
    kind = helper.tensor_dtype_to_np_dtype(element)
    nodes = [
        helper.make_node("Cast", ["frames_in"], ["float"], to=element),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel", "bias"], ["mean"]),
        helper.make_node("Resize", ["mean", "", "scales"], ["large"], mode="nearest"),
        helper.make_node(operator, ["large"], ["rounded"]),
        helper.make_node("Transpose", ["rounded"], ["pixels"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["pixels"], ["frames_out"], to=TensorProto.UINT8),
    ]
    weights = {
        "kernel": np.full((3, 3, 1, 1), 1 / 3, kind),
        "bias": np.zeros(3, kind),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("frames_in", TensorProto.UINT8, [*size, 3])],
        [helper.make_tensor_value_info("frames_out", TensorProto.UINT8, [size[0], "H2", "W2", 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opset, ir_version=8).SerializeToString()


class Trt:
    """One fake process with its GPU, and the steps from ONNX to results."""

    def __init__(self, version=NEWEST, driver=None):
        self.driver = driver or FakeDriver()
        self.api = api = make(version, self.driver)

        class Collector(api.ILogger):
            def __init__(self):
                api.ILogger.__init__(self)
                self.lines = []

            def log(self, severity, msg):
                self.lines.append(f"{severity.name} {msg}")

        self.logger = Collector()
        self.builder = api.Builder(self.logger)
        self.config = self.builder.create_builder_config()

    def parse(self, model, flags=None):
        known = self.api.NetworkDefinitionCreationFlag
        strong = getattr(known, "STRONGLY_TYPED", None) or known.EXPLICIT_BATCH
        self.network = self.builder.create_network(1 << int(strong) if flags is None else flags)
        self.parser = self.api.OnnxParser(self.network, self.logger)
        return self.parser.parse(model)

    def build(self, model, *profile, flags=(), typed=None):
        assert self.parse(model, typed), self.logger.lines
        if profile:
            made = self.builder.create_optimization_profile()
            made.set_shape("frames_in", *profile)
            self.config.add_optimization_profile(made)
        for flag in flags:
            self.config.set_flag(getattr(self.api.BuilderFlag, flag))
        plan = self.builder.build_serialized_network(self.network, self.config)
        return None if plan is None else bytes(plan)

    def load(self, plan):
        with self.driver.active():
            return self.api.Runtime(self.logger).deserialize_cuda_engine(plan)

    def engine(self, *arguments, **options):
        return self.load(self.build(*arguments, **options))

    def bind(self, context, frames):
        """Put frames on the GPU and tell the context where; the address and shape of the result."""
        assert context.set_input_shape("frames_in", frames.shape)
        shape = tuple(context.get_tensor_shape("frames_out"))
        result = self.driver.upload(np.zeros(shape, np.uint8))
        context.set_tensor_address("frames_in", self.driver.upload(frames))
        context.set_tensor_address("frames_out", result)
        return result, shape

    def run(self, context, frames):
        with self.driver.active():
            stream = self.driver.create_stream()
            result, shape = self.bind(context, frames)
            assert context.execute_async_v3(stream), self.logger.lines
            self.driver.synchronize_stream(stream)
            return self.driver.download(result, shape, np.uint8)


def expected(frames, bias=0):
    mean = np.rint(frames.mean(axis=3, keepdims=True) + bias).astype(np.uint8)
    return np.broadcast_to(mean, frames.shape).repeat(2, 1).repeat(2, 2)
