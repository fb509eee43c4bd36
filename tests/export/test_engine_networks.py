"""Every kind of network that is exported, built by the real TensorRT-RTX on the CPU, and framed without loss."""

import numpy as np
import onnx
import onnxruntime
import pytest

from esrgan_deploy import ModelInfo, open_session
from esrgan_deploy.engine.adapter import TensorRT
from esrgan_deploy.engine.build.graph import frame_graph
from esrgan_deploy.engine.build.memory import engine_memory
from esrgan_deploy.engine.build.plan import build_plan
from esrgan_deploy.engine.options import EngineOptions, Profile, Shape
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import MODELS
from esrgan_export.networks import RRDBNet
from esrgan_export.precision import to_precision
from esrgan_export.quantise import prepare
from esrgan_export.to_onnx import export_onnx
from small_networks import small_image, small_network

STATIC = Profile.fixed(1, 32, 48)
DYNAMIC = Profile(Shape(1, 16, 16), Shape(2, 32, 48), Shape(4, 64, 96))


@pytest.fixture(scope="module")
def rtx():
    return TensorRT(pytest.importorskip("tensorrt_rtx", reason="needs the wheels of TensorRT-RTX"))


def exported(kind, precision="fp32"):
    network = small_network(kind)
    info = ModelInfo(scale=network.scale, multiple_of=network.multiple_of)
    model = export_onnx(network, info)
    return model if precision == "fp32" else to_precision(model, precision)


def build(trt, path, options):
    model, info = load_onnx(path)
    return build_plan(trt, model, info, path, options, free_memory=None, progress=lambda *_: None)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("frame_type", ["uint8", "uint16"])
@pytest.mark.parametrize("name", MODELS)
def test_bundled_networks_build_in_every_type(rtx, tmp_path, name, precision, frame_type):
    path = tmp_path / "m.onnx"
    model, _ = load_onnx(MODELS[name].onnx)
    onnx.save(model if precision == "fp32" else to_precision(model, precision), path)
    plan = build(rtx, path, EngineOptions(DYNAMIC, frame_type))
    assert plan.options.profile == DYNAMIC
    assert plan.notes == ()
    weights = sum(tensor.ByteSize() for tensor in load_onnx(path)[0].graph.initializer)
    assert len(plan.data) > 0.9 * weights, "the weights are not in the plan"


@pytest.mark.parametrize("kind", ["srvgg", "rrdb", "rrdb-x2", "rrdb-x1", "msrresnet-x3", "srresnet"])
@pytest.mark.parametrize("profile", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_networks_build_in_half_precision(rtx, tmp_path, kind, profile):
    """rrdb-x2 and rrdb-x1 begin with a pixel-unshuffle."""
    onnx.save(exported(kind, "fp16"), tmp_path / "m.onnx")
    plan = build(rtx, tmp_path / "m.onnx", EngineOptions(profile))
    assert plan.data[:4] == b"vtrt"
    assert plan.options.profile == profile
    assert plan.notes == ()


@pytest.mark.parametrize("kind", ["srvgg", "rrdb", "rrdb-x2", "msrresnet-x3"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_framed_graph_gives_what_the_session_gives(tmp_path, kind, precision, dtype):
    onnx.save(exported(kind, precision), tmp_path / "m.onnx")
    model, _ = load_onnx(tmp_path / "m.onnx")
    batch = np.random.default_rng(3).integers(0, np.iinfo(dtype).max + 1, (3, 20, 28, 3)).astype(dtype)
    graph = frame_graph(model, EngineOptions(DYNAMIC, dtype.__name__)).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    framed = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    frames, mean = framed.run(None, {"frames_in": batch.view(np.uint8)})
    with open_session(tmp_path / "m.onnx", "ort") as session:
        np.testing.assert_array_equal(frames.view(dtype), session.run(batch))
    # The output goes a little beyond [0, 1], where the frame is clipped and the mean is not.
    np.testing.assert_allclose(mean, frames.view(dtype).mean((1, 2, 3)) / np.iinfo(dtype).max, atol=0.05)


def test_memory_of_the_large_network_is_that_of_its_last_convolutions():
    """RRDBNet x4 has 64 channels at 4H x 4W: two such tensors in half precision are 4096 bytes an input pixel."""
    model = to_precision(export_onnx(RRDBNet(blocks=2), ModelInfo(scale=4)), "fp16")
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    found = engine_memory(model, Shape(2, 90, 160)).at(Shape(2, 90, 160)) - weights
    assert 4096 <= found / (2 * 90 * 160) < 1.05 * 4096


@pytest.mark.slow
def test_rrdbnet_of_23_blocks_builds_in_half_precision(rtx, tmp_path):
    """16,697,987 parameters, with frames of both types and a dynamic profile up to 720p."""
    onnx.save(to_precision(export_onnx(RRDBNet(), ModelInfo(scale=4)), "fp16"), tmp_path / "m.onnx")
    profile = Profile(Shape(1, 64, 64), Shape(1, 360, 640), Shape(4, 720, 1280))
    for options in (EngineOptions(Profile.fixed(1, 360, 640)), EngineOptions(profile, "uint16")):
        plan = build(rtx, tmp_path / "m.onnx", options)
        assert plan.options == options
        assert plan.notes == ()
        assert len(plan.data) > 2 * 16_697_987


@pytest.mark.parametrize("kind", ["srvgg", "rrdb"])
def test_int8_exports_build(rtx, tmp_path, kind):
    """Dense features are joined as int8 in rrdb."""
    network = small_network(kind)
    model = export_onnx(network, ModelInfo(scale=network.scale, precision="int8"))
    prepared = prepare(network, model, [small_image(16, 20, seed) for seed in range(2)])
    onnx.save(prepared.quantised(), tmp_path / "m.onnx")
    plan = build(rtx, tmp_path / "m.onnx", EngineOptions(DYNAMIC))
    assert plan.notes == ()
