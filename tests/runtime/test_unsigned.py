"""INT8 activations as uint8: the same results, and only where it applies."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from esrgan_deploy import open_session
from esrgan_deploy.backends import ov
from esrgan_deploy.backends.int8 import int8_path
from esrgan_deploy.backends.ov_graph import unsigned_activations
from esrgan_deploy.models import COMPACT_CLEAN
from tiny_onnx import write_onnx

STEP = 0.02


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], name=output, **attributes)


def network(folder, *, step=STEP, more=(), **changes):
    """Two quantised features, joined as codes, then one INT8 convolution with padding, and a bias in float."""
    rng = np.random.default_rng(0)
    nodes = {
        "negative": node("Neg", ["input"], "negative"),
        "codes_a": node("QuantizeLinear", ["input", "step", "zero"], "codes_a"),
        "codes_b": node("QuantizeLinear", ["negative", "step", "zero"], "codes_b"),
        "codes": node("Concat", ["codes_a", "codes_b"], "codes", axis=1),
        "both": node("DequantizeLinear", ["codes", "step", "zero"], "both"),
        "kernel": node("DequantizeLinear", ["kernel_codes", "kernel_steps", "kernel_zeros"], "kernel", axis=0),
        "output": node("Conv", ["both", "kernel", "bias"], "output", pads=[1] * 4),
        **{added.output[0]: added for added in more},
        **changes,
    }
    given = {
        "step": np.float32(step),
        "zero": np.int8(0),
        "ten": np.int8(10),
        "unsigned_zero": np.uint8(0),
        "kernel_codes": rng.integers(-127, 128, (3, 6, 3, 3), np.int8),
        "kernel_steps": (0.0005 * np.arange(1, 4)).astype(np.float32),
        "kernel_zeros": np.zeros(3, np.int8),
        "bias": np.float32([0.5, 0.4, 0.6]),
    }
    given = {name: np.asarray(value) for name, value in given.items()}
    return onnx.load(write_onnx(folder / "network.onnx", list(nodes.values()), given))


def computed(model, image):
    """By ONNX Runtime, as the graph says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": image})[0]


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    step=st.floats(1e-4, 1.0),
    seed=st.integers(0, 1000),
)
def test_the_result_is_the_same(tmp_path_factory, height, width, step, seed):
    model = network(tmp_path_factory.getbasetemp(), step=step)
    shifted = unsigned_activations(model)
    onnx.checker.check_model(shifted, full_check=True)
    image = np.random.default_rng(seed).normal(0, 60 * step, (1, 3, height, width)).astype(np.float32)  # some saturate
    np.testing.assert_array_equal(computed(shifted, image), computed(model, image))


def test_all_activations_become_unsigned_and_no_kernel(tmp_path):
    model = onnx.shape_inference.infer_shapes(network(tmp_path))
    shifted = onnx.shape_inference.infer_shapes(unsigned_activations(model))
    types = {value.name: value.type.tensor_type.elem_type for value in shifted.graph.value_info}
    assert {types[name] for name in ("codes_a", "codes_b", "codes")} == {TensorProto.UINT8}
    kernel = next(tensor for tensor in shifted.graph.initializer if tensor.name == "kernel_codes")
    assert kernel.data_type == TensorProto.INT8
    assert model.graph.node[1].input[2] == "zero", "the model that was given stays as it is"


@pytest.mark.parametrize(
    "changes",
    [
        {"codes_a": node("QuantizeLinear", ["input", "step", "ten"], "codes_a")},
        {"both": node("DequantizeLinear", ["codes", "step", "ten"], "both")},
        {"codes_a": node("QuantizeLinear", ["input", "kernel_steps", "kernel_zeros"], "codes_a", axis=1)},
        {"more": [node("Abs", ["codes_b"], "read_otherwise")]},
        {"codes": node("Concat", ["codes_a", "codes_a"], "codes", axis=1), "codes_b": node("Abs", ["codes_a"], "x")},
    ],
    ids=[
        "an offset",
        "another offset behind",
        "a step for each channel",
        "codes read by something else",
        "read by a Concat and something else",
    ],
)
def test_what_it_does_not_apply_to_is_left_alone(tmp_path, changes):
    model = network(tmp_path, **changes)
    assert unsigned_activations(model) is model


def test_unsigned_codes_and_those_of_constants_are_left_alone(tmp_path):
    changes = {
        f"codes_{end}": node("QuantizeLinear", [of, "step", "unsigned_zero"], f"codes_{end}")
        for end, of in (("a", "input"), ("b", "negative"))
    }
    changes["both"] = node("DequantizeLinear", ["codes", "step", "unsigned_zero"], "both")
    changes["bias_codes"] = node("QuantizeLinear", ["bias", "step", "zero"], "bias_codes")
    model = network(tmp_path, **changes)
    assert unsigned_activations(model) is model


def test_a_network_without_int8_is_left_alone(tmp_path):
    model = onnx.load(write_onnx(tmp_path / "m.onnx", [node("Abs", ["input"], "output")], {}))
    assert unsigned_activations(model) is model


@pytest.mark.parametrize(
    ("features", "unsigned"),
    [
        ({"avx2", "avx512f", "avx512_vnni"}, True),
        ({"avx2", "avx512f"}, False),
        ({"avx2", "avx_vnni"}, False),
        ({"avx2", "avx512f", "avx512_vnni", "amx_int8"}, False),
    ],
)
def test_openvino_gets_it_where_it_was_measured_to_be_faster(monkeypatch, features, unsigned):
    pytest.importorskip("openvino")
    seen = []
    monkeypatch.setattr(ov, "features", lambda: features)
    monkeypatch.setattr(ov, "unsigned_activations", lambda model: seen.append(model) or unsigned_activations(model))
    open_session(int8_path(COMPACT_CLEAN), "openvino").close()
    assert bool(seen) is unsigned


@pytest.mark.parametrize("here", [{"avx512_vnni"}, set()])
def test_openvino_computes_what_the_graph_says_up_to_the_borders(tmp_path, monkeypatch, rng, here):
    pytest.importorskip("openvino")
    monkeypatch.setattr(ov, "features", lambda: here)
    # Steps that are powers of two keep every sum exact, so that no value may fall on the other side of a code.
    model = network(tmp_path, step=2**-7)
    frames = rng.integers(0, 256, (1, 19, 30, 3), np.uint8)
    expected = computed(model, np.float32(frames.transpose(0, 3, 1, 2)) / 255)
    assert expected.std() > 0.1
    with open_session(tmp_path / "network.onnx", "openvino") as session:
        result = session.run(frames)
    codes = 255 * np.clip(expected, 0, 1).transpose(0, 2, 3, 1)
    assert np.abs(result - codes).max() <= 0.51
