"""The last convolution two by two pixels at a time: the same sums, and only where it applies."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from esrgan_deploy import open_session
from esrgan_deploy.backends import ov
from esrgan_deploy.backends.ov_graph import widen_last_convolution
from esrgan_deploy.models import COMPACT_CLEAN
from tiny_onnx import write_onnx

RESIZE = helper.make_node("Resize", ["input", "", "scales"], ["large"], mode="nearest")


def network(folder, *, scale=2, side=3, dtype=np.float32, behind=(), weights=None, **attributes):
    """Enlarges, then one convolution, then whatever `behind` names."""
    rng = np.random.default_rng(side)
    names = ["convolved", *(f"{op}{i}" for i, op in enumerate(behind))]
    names[-1] = "output"
    attributes = {name: value for name, value in {"pads": [side // 2] * 4, **attributes}.items() if value}
    nodes = [RESIZE, helper.make_node("Conv", ["large", "weights", "bias"], names[:1], name="last", **attributes)]
    nodes += [helper.make_node(op, [names[i]], [names[i + 1]]) for i, op in enumerate(behind)]
    given = {
        "weights": rng.standard_normal((3, 3, side, side)).astype(dtype) if weights is None else weights,
        "bias": rng.standard_normal(3).astype(dtype),
        "scales": np.array([1, 1, scale, scale], np.float32),
    }
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return onnx.load(write_onnx(folder / "network.onnx", nodes, given, element=element))


def computed(model, image):
    return ReferenceEvaluator(model).run(None, {"input": image})[0]


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), side=st.sampled_from([3, 5, 9]), scale=st.sampled_from([2, 4])
)
def test_the_result_is_the_same(tmp_path_factory, height, width, side, scale):
    model = network(tmp_path_factory.getbasetemp(), side=side, scale=scale, behind=["Clip"])
    image = np.random.default_rng(0).random((1, 3, height, width), np.float32)
    widened = widen_last_convolution(model, scale)
    assert [node.op_type for node in widened.graph.node] == ["Resize", "Conv", "DepthToSpace", "Clip"]
    onnx.checker.check_model(widened, full_check=True)
    exact = computed(model, image)
    assert exact.std() > 0.2
    np.testing.assert_allclose(computed(widened, image), exact, atol=1e-5)


def test_half_precision_stays_half_precision(tmp_path):
    model = network(tmp_path, dtype=np.float16)
    image = np.random.default_rng(0).random((1, 3, 4, 5)).astype(np.float16)
    result = computed(widen_last_convolution(model, 2), image)
    assert result.dtype == np.float16
    np.testing.assert_allclose(result, computed(model, image), atol=0.02)


@pytest.mark.parametrize(
    ("scale", "changes"),
    [
        (3, {}),
        (2, {"side": 1}),
        (2, {"strides": [2, 2]}),
        (2, {"dilations": [2, 2], "pads": [2] * 4}),
        (2, {"pads": [0, 0, 0, 0]}),
        (2, {"pads": None, "auto_pad": "SAME_UPPER"}),
        (2, {"group": 3, "weights": np.ones((3, 1, 3, 3), np.float32)}),
        (2, {"weights": np.ones((3, 3, 3, 5), np.float32), "pads": [1, 2, 1, 2]}),
        (2, {"behind": ["Neg"]}),
        (2, {"dtype": np.float64}),
    ],
)
def test_what_it_does_not_apply_to_is_left_alone(tmp_path, scale, changes):
    model = network(tmp_path, scale=scale, **changes)
    assert widen_last_convolution(model, scale) is model


def test_weights_that_are_computed_are_left_alone(tmp_path):
    model = network(tmp_path)
    model.graph.node.insert(1, helper.make_node("Identity", ["weights"], ["computed"]))
    model.graph.node[2].input[1] = "computed"
    assert widen_last_convolution(model, 2) is model


def test_the_bundled_network_is_widened_and_keeps_its_picture(monkeypatch, rng):
    pytest.importorskip("openvino")
    frames = rng.integers(0, 256, (1, 19, 30, 3), np.uint8)
    seen = []

    def widen(model, scale):
        seen.append(widen_last_convolution(model, scale))
        return seen[-1]

    monkeypatch.setattr(ov, "features", lambda: {"avx512f"})
    monkeypatch.setattr(ov, "widen_last_convolution", widen)
    with open_session(COMPACT_CLEAN, "openvino", precision="fp32") as session:
        widened = session.run(frames)
    monkeypatch.setattr(ov, "features", frozenset)
    with open_session(COMPACT_CLEAN, "openvino", precision="fp32") as session:
        plain = session.run(frames)
    shapes = {tensor.name: tensor.dims[:] for tensor in seen[0].graph.initializer}
    last = next(node for node in reversed(seen[0].graph.node) if node.op_type == "Conv")
    assert len(seen) == 1
    assert shapes[last.input[1]][0] == 12
    assert np.abs(widened.astype(int) - plain).max() <= 1
    assert (widened != plain).mean() < 1e-3
