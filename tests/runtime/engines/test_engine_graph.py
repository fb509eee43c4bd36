"""The graph that TensorRT gets, run by ONNX Runtime on the CPU: the same numbers as every other backend gives."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from engine_onnx import write_half
from esrgan_deploy import ModelInfo, open_session
from esrgan_deploy.engine.build.graph import frame_graph
from esrgan_deploy.engine.options import EngineOptions, Profile, Shape
from esrgan_deploy.frame_io import attach_frame_io
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import COMPACT_CLEAN
from tiny_onnx import write_onnx

DYNAMIC = Profile(Shape(1, 8, 8), Shape(2, 20, 28), Shape(4, 64, 64))
TYPES = {"uint8": np.uint8, "uint16": np.uint16}


def run(model, frames, *, optimised=True):
    """All outputs of `model` for `frames`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"frames_in": frames})


def run_framed(path, batch, profile, *, optimised=True):
    """The frames and means that the engine's graph gives, the frames in their own type again."""
    graph = frame_graph(load_onnx(path)[0], EngineOptions(profile, batch.dtype.name))
    frames, mean = run(graph, batch.view(np.uint8), optimised=optimised)
    return frames.view(batch.dtype), mean


def random_batch(rng, frame_type, shape=(3, 20, 28, 3)):
    return rng.integers(0, np.iinfo(frame_type).max + 1, shape).astype(frame_type)


@pytest.fixture(params=["bundled", "blur", "fp16"])
def network(request, blur_x2, tmp_path):
    if request.param == "fp16":
        return write_half(tmp_path / "half.onnx")
    return {"bundled": COMPACT_CLEAN, "blur": blur_x2}[request.param]


@pytest.mark.parametrize("frame_type", TYPES)
def test_dynamic_graph_gives_what_the_onnxruntime_session_gives(network, rng, frame_type):
    batch = random_batch(rng, frame_type)
    frames, _ = run_framed(network, batch, DYNAMIC)
    with open_session(network, "ort") as session:
        np.testing.assert_array_equal(frames, session.run(batch))


@pytest.mark.parametrize("frame_type", TYPES)
def test_static_graph_gives_what_the_session_graph_gives(network, rng, frame_type):
    """ONNX Runtime chooses other kernels for literal sizes, with other last digits: here it optimises nothing."""
    batch = random_batch(rng, frame_type)
    frames, _ = run_framed(network, batch, Profile.fixed(*batch.shape[:3]), optimised=False)
    session_graph = attach_frame_io(load_onnx(network)[0], frame_type)
    expected = [run(session_graph, frame[None], optimised=False)[0] for frame in batch]
    np.testing.assert_array_equal(frames, np.concatenate(expected))


def test_every_16_bit_value_passes_as_a_pair_of_bytes(tmp_path):
    identity = [helper.make_node("Identity", ["input"], ["output"])]
    path = write_onnx(tmp_path / "identity.onnx", identity, {}, ModelInfo(scale=1))
    batch = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256, 1).repeat(3, 3) ^ np.array([0, 0xFF, 0xFF00], "u2")
    frames, _ = run_framed(path, batch, Profile.fixed(1, 256, 256))
    np.testing.assert_array_equal(frames, batch)


def test_mean_is_that_of_the_float_output_per_frame(blur_x2, rng):
    """A box blur keeps the mean but for the zeros around: so the frame is black near its edges."""
    batch = np.zeros((3, 20, 28, 3), np.uint8)
    batch[:, 1:-1, 1:-1] = random_batch(rng, "uint8", (3, 18, 26, 3))
    _, mean = run_framed(blur_x2, batch, DYNAMIC)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, batch.mean((1, 2, 3)) / 255, rtol=1e-4)


@pytest.mark.parametrize("cast_behind_clip", [False, True])
@pytest.mark.parametrize(("unclamped", "broken"), [("b", np.inf), ("d", np.nan)])
def test_overflow_shows_in_the_mean_of_its_frame_only(tmp_path, unclamped, broken, cast_behind_clip):
    """2 * 60000 * x is beyond fp16 for white, and infinity minus infinity is no number; Clip hides the one at least.

    It is run by ONNX's reference implementation: ONNX Runtime's CPU kernels compute fp16 graphs in float32.
    """
    nodes = [
        helper.make_node("Mul", ["input", "large"], ["a"]),
        helper.make_node("Mul", ["a", "two"], ["b"]),
        helper.make_node("Sub", ["b", "b"], ["c"]),
        helper.make_node("Add", ["input", "c"], ["d"]),
        helper.make_node("Clip", [unclamped, "zero", "one"], ["clipped" if cast_behind_clip else "output"]),
    ]
    if cast_behind_clip:
        nodes.append(helper.make_node("Cast", ["clipped"], ["output"], to=TensorProto.FLOAT16))
    weights = {"large": np.float16(60000), "two": np.float16(2), "zero": np.float16(0), "one": np.float16(1)}
    path = write_onnx(tmp_path / "m.onnx", nodes, weights, ModelInfo(scale=1, precision="fp16"), TensorProto.FLOAT16)
    graph = frame_graph(load_onnx(path)[0], EngineOptions(Profile.fixed(2, 4, 4)))
    batch = np.stack([np.full((4, 4, 3), 60, np.uint8), np.full((4, 4, 3), 255, np.uint8)])
    with np.errstate(all="ignore"):
        frames, mean = ReferenceEvaluator(graph).run(None, {"frames_in": batch})
    assert np.isfinite(mean[0])
    np.testing.assert_equal(mean[1], np.float32(broken))
    if unclamped == "b":
        assert (frames[1] == 255).all(), "the frame looks like any white one"


def declared(graph):
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.graph.input, *graph.graph.output)
    }


@pytest.mark.parametrize(("frame_type", "channels"), [("uint8", 3), ("uint16", 6)])
def test_sizes_are_literal_where_the_profile_has_one_value(frame_type, channels):
    model = load_onnx(COMPACT_CLEAN)[0]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    profile = Profile(Shape(5, 24, 16), Shape(5, 24, 32), Shape(5, 24, 64))
    found = declared(frame_graph(model, EngineOptions(profile, frame_type)))
    assert found["frames_in"] == (TensorProto.UINT8, [5, 24, "W", channels])
    assert found["frames_out"][0] == TensorProto.UINT8
    assert found["mean"] == (TensorProto.FLOAT, [5])
    assert declared(frame_graph(model, EngineOptions(DYNAMIC)))["frames_in"][1] == ["N", "H", "W", 3]


def test_shapes_that_the_file_recorded_for_one_frame_are_forgotten(blur_x2):
    model = load_onnx(blur_x2)[0]
    recorded = helper.make_tensor_value_info("blurred", TensorProto.FLOAT, [1, 3, 20, 28])
    model.graph.value_info.append(recorded)
    framed = frame_graph(model, EngineOptions(Profile.fixed(4, 20, 28)))
    inferred = onnx.shape_inference.infer_shapes(framed, check_type=True, strict_mode=True)
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info
    }
    assert sizes["blurred"] == [4, 3, 20, 28]
    assert model.graph.value_info == [recorded], "the model given was changed"


@pytest.mark.parametrize("opset", [13, 18, 22])
def test_networks_of_other_opsets_are_framed_too(tmp_path, rng, opset):
    """ReduceMean's axes became an input with opset 18."""
    graph = helper.make_graph(
        [helper.make_node("Sub", ["one", "input"], ["output"])],
        "negative",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [helper.make_tensor("one", TensorProto.FLOAT, [], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    batch = random_batch(rng, "uint16", (2, 8, 12, 3))
    frames, mean = run(frame_graph(model, EngineOptions(DYNAMIC, "uint16")), batch.view(np.uint8))
    np.testing.assert_array_equal(frames.view(np.uint16), 65535 - batch)
    np.testing.assert_allclose(mean, 1 - batch.mean((1, 2, 3)) / 65535, rtol=1e-4)
