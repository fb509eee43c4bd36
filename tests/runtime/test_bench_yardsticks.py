"""The yardsticks of esrgan-bench: arithmetic counted from the graph, and the matrix product that is the peak."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from esrgan_bench import peak
from esrgan_deploy.errors import ModelError
from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import load_onnx
from tiny_onnx import write_onnx

# --- arithmetic ---------------------------------------------------------------------------------------------------


def one_node(node, weights):
    """A graph of one operator on the input."""
    initialisers = [helper.make_tensor(k, TensorProto.FLOAT, v.shape, v.ravel()) for k, v in weights.items()]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        initialisers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def macs_by_running(model, height, width):
    """Ones times ones, summed up: what comes out is the number of multiplications that went in."""
    ones = np.ones((1, 3, height, width), np.float32)
    return round(float(ReferenceEvaluator(model).run(None, {"input": ones})[0].astype(np.float64).sum()))


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(6, 9),
    width=st.integers(6, 9),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    group=st.sampled_from([1, 3]),
)
def test_convolutions_count_what_they_multiply(height, width, kernel, stride, group):
    weight = np.ones((6, 3 // group, *kernel), np.float32)
    node = helper.make_node("Conv", ["input", "w"], ["output"], strides=[stride, stride], group=group)
    model = one_node(node, {"w": weight})
    assert count_flops(model, height, width) == 2 * macs_by_running(model, height, width)


@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolutions_count_what_they_multiply(stride):
    weight = np.ones((3, 5, 2, 3), np.float32)
    node = helper.make_node("ConvTranspose", ["input", "w"], ["output"], strides=[stride, stride])
    model = one_node(node, {"w": weight})
    assert count_flops(model, 4, 7) == 2 * macs_by_running(model, 4, 7)


@given(height=st.integers(1, 5), width=st.integers(1, 5), columns=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_a_batched_matrix_product_counts_what_it_multiplies(height, width, columns):
    node = helper.make_node("MatMul", ["input", "w"], ["output"])
    model = one_node(node, {"w": np.ones((width, columns), np.float32)})
    assert count_flops(model, height, width) == 2 * macs_by_running(model, height, width)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_counts_what_it_multiplies(transposed):
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], axis=2),  # (3, 4 * 5)
        helper.make_node("Gemm", ["flat", "w"], ["output"], transA=transposed),
    ]
    model = one_node(nodes[1], {"w": np.ones((3 if transposed else 20, 7), np.float32)})
    model.graph.node.insert(0, nodes[0])
    assert count_flops(model, 4, 5) == 2 * macs_by_running(model, 4, 5) == 2 * 3 * 20 * 7


def test_padding_counts_in_full_and_each_node_counts(blur_x2):
    model, _ = load_onnx(blur_x2)
    assert count_flops(model, 10, 20) == 200 * 162


def test_compact_x4_needs_the_published_1_238_mflop_per_pixel(tmp_path):
    """SRVGGNetCompact, 16 convolutions of 64 channels (animevideov3): 3 -> 64, 16 times 64 -> 64, 64 -> 48."""
    channels = [3, *[64] * 17, 48]
    weights = {f"w{i}": np.zeros((channels[i + 1], channels[i], 3, 3), np.float32) for i in range(18)}
    names = ["input", *[f"x{i}" for i in range(18)]]
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], kernel_shape=[3, 3], pads=[1] * 4)
        for i in range(18)
    ]
    nodes.append(helper.make_node("DepthToSpace", ["x17"], ["output"], blocksize=4))
    model, info = load_onnx(write_onnx(tmp_path / "compact.onnx", nodes, weights))
    assert info.scale == 4
    assert count_flops(model, 6, 10) / 60 / 1e6 == pytest.approx(1.238, abs=5e-4)


def test_a_size_the_model_is_not_fixed_to_is_refused(blur_x2):
    model, _ = load_onnx(blur_x2)
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 64
    assert count_flops(model, 8, 64) == 8 * 64 * 162
    with pytest.raises(ModelError, match=r"fixed to 1x3xHx64 .* 32x8 image"):
        count_flops(model, 8, 32)


def test_operators_outside_the_standard_leave_the_count_unknown(blur_x2):
    model, _ = load_onnx(blur_x2)
    model.graph.node[0].domain = "com.example"
    assert count_flops(model, 8, 8) is None


def test_what_an_exporter_claims_about_shapes_is_not_believed(blur_x2):
    model, _ = load_onnx(blur_x2)
    model.graph.value_info.append(helper.make_tensor_value_info("blurred", TensorProto.FLOAT, [1, 3, 64, 64]))
    assert count_flops(model, 8, 8) == 64 * 162


# --- the matrix product that is the yardstick -----------------------------------------------------------------------


def test_the_yardstick_multiplies_matrices():
    model = peak.gemm_model(12, 3, "fp32")
    onnx.checker.check_model(model, full_check=True)
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    image = np.random.default_rng(0).random((1, 3, 4, 12), dtype=np.float32)
    result = ReferenceEvaluator(model).run(None, {"input": image})[0]
    expected = image.reshape(12, 12).astype(np.float64) @ weights @ weights @ weights
    np.testing.assert_allclose(result.reshape(12, 12), expected, rtol=1e-4, atol=1e-5)
    assert count_flops(model, 4, 12) == 3 * 2 * 12**3


def test_values_of_the_yardstick_neither_grow_nor_fade():
    model = peak.gemm_model(192, 16, "fp16")
    image = np.random.default_rng(0).random((1, 3, 64, 192)).astype(np.float16)
    result = ReferenceEvaluator(model).run(None, {"input": image})[0]
    assert result.dtype == np.float16
    assert 0.1 < result.astype(np.float64).std() < 10


def test_the_peak_is_the_fastest_step_of_the_ladder(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(peak, "LADDER", ((6, 2), (12, 3), (48, 1)))
    times = iter([2e-6, 1e-6, 1.0])
    really_run = peak._fastest

    def fastest(*arguments):
        assert really_run(*arguments) > 0
        return next(times)

    monkeypatch.setattr(peak, "_fastest", fastest)
    found = peak.measure_peak("ort", "fp32")
    assert (found.side, found.chain) == (12, 3)
    assert found.gflops == pytest.approx(3 * 2 * 12**3 / 1e-6 / 1e9)


@pytest.mark.parametrize(("first_s", "sides"), [(0.12, [6, 12]), (0.13, [6])])
def test_no_larger_matrices_if_they_would_take_long(monkeypatch, first_s, sides):
    monkeypatch.setattr(peak, "LADDER", ((6, 2), (12, 3)))  # the second one is 12 times the work
    tried = []

    def fastest(model, side, *_):
        tried.append(side)
        return first_s

    monkeypatch.setattr(peak, "_fastest", fastest)
    peak.measure_peak("ort", "fp32")
    assert tried == sides


def test_the_int8_yardstick_multiplies_matrices_too():
    model = peak.gemm_model(48, 3, "int8")
    onnx.checker.check_model(model, full_check=True)
    model.opset_import[0].version = 21  # the evaluator has no older DequantizeLinear; this one computes the same
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = constants["weights"].reshape(48, 48) * np.float64(constants["weight_step"])
    image = np.random.default_rng(0).random((1, 3, 16, 48), dtype=np.float32)
    result = ReferenceEvaluator(model).run(None, {"input": image})[0].reshape(48, 48)
    expected = weights @ weights @ weights @ image.reshape(48, 48)
    # Four roundings to steps of 4/127, each as wide as a step, the later ones of values that the products spread.
    assert np.abs(result - expected).std() < 0.03
    assert expected.std() > 0.4
    assert count_flops(model, 16, 48) == 3 * 2 * 48**3


def test_the_int8_yardstick_is_computed_in_int8(tmp_path):
    """By what the libraries themselves say of the graph that they run."""
    openvino = pytest.importorskip("openvino")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = peak.gemm_model(48, 3, "int8").SerializeToString()
    core = openvino.Core()
    nodes = core.compile_model(core.read_model(model), "CPU").get_runtime_model().get_ops()
    facts = [{key: value.astype(str) for key, value in node.get_rt_info().items()} for node in nodes]
    computed_in = [fact["runtimePrecision"] for fact in facts if "Convolution" in fact["layerType"]]
    assert len(computed_in) == 3
    assert set(computed_in) <= {"i8", "u8"}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "as_run.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    as_run = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert (as_run.count("QLinearConv"), as_run.count("Conv")) == (3, 0)


def test_a_precision_that_multiplies_nothing_has_no_peak():
    assert peak.measure_peak("reference", "integer") is None
