"""Engines that take another alpha in place, by the fake TensorRT of each version."""

import contextlib
import dataclasses

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from esrgan_deploy import MachineError, ModelError, ModelInfo
from esrgan_deploy.alpha import model_at_alpha
from esrgan_deploy.engine.adapter import TensorRT
from esrgan_deploy.engine.build.plan import build_plan
from esrgan_deploy.engine.options import EngineOptions, Profile
from esrgan_deploy.engine.run.refit import refit
from esrgan_deploy.model import load_onnx
from fake_cuda import FakeDriver
from fake_tensorrt import VERSIONS, make
from gain_pair import ARCH, GREY, expected, kernel, pair_endpoints
from tiny_onnx import write_onnx

STATIC = Profile.fixed(1, *GREY.shape[1:3])
ELEMENTS = {"fp32": 1, "fp16": 10}
BIAS = np.zeros(3, np.float32)


def biased_endpoints(precision="fp32", **changes):
    """The pair with a bias, which TensorRT holds in one layer with the kernel."""
    fields = {
        "psnr": {"kernel": kernel(0.5), "bias": BIAS},
        "gan": {"kernel": kernel(1), "bias": BIAS},
        "types": {"kernel": precision, "bias": precision, "scale": precision},
    }
    return pair_endpoints(**{**fields, **changes})


@pytest.fixture
def written(tmp_path):
    """The pair at alpha 0.8 in a type, without enlargement; the GPU's frames go in and come out as they are."""

    def write(precision="fp32", nodes=None, **more):
        nodes = nodes or [helper.make_node("Conv", ["input", "kernel", "bias"], ["output"])]
        weights = {**{name: biased_endpoints().blend(0.8)[name] for name in ("kernel", "bias")}, **more}
        kinds = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
        weights = {name: values.astype(kinds[precision]) for name, values in weights.items()}
        info = ModelInfo(1, precision, alpha=0.8, arch=ARCH, psnr_sha256="a" * 64, gan_sha256="b" * 64)
        if precision == "bf16":
            return write_bf16(tmp_path / "pair.onnx", nodes, weights, info)
        return write_onnx(tmp_path / "pair.onnx", nodes, weights, info, ELEMENTS[precision])

    return write


def write_bf16(path, nodes, weights, info):
    """Conv knows bfloat16 from opset 22 on only."""
    tensors = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    value = helper.make_tensor_value_info("input", 16, [1, 3, "H", "W"])
    graph = helper.make_graph(
        nodes, "test", [value], [helper.make_tensor_value_info("output", 16, [1, 3, "H", "W"])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    helper.set_model_props(model, info.to_metadata())
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def tensorrt():
    """Make a TensorRT of some version, on a GPU that is in use until the test ends."""
    with contextlib.ExitStack() as active:

        def start(version):
            driver = FakeDriver()
            active.enter_context(driver.active())
            return TensorRT(make(version, driver))

        yield start


def engine_of(trt, path, *, refittable=True):
    """Build and load an engine for one frame of `GREY`."""
    model, info = load_onnx(path)
    options = EngineOptions(STATIC, refit=refittable)
    plan = build_plan(trt, model, info, path, options, free_memory=None, progress=lambda *_: None)
    return trt.create_runtime().deserialize_cuda_engine(plan.data)


def weights_in(engine):
    """What the engine holds: {name: float64}."""
    tensors = onnx.load_model_from_string(engine._model.SerializeToString()).graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor).astype(float) for tensor in tensors}


def refused(trt, engine, error, *arguments):
    """The refit raises one line, and the engine keeps its weights."""
    before = weights_in(engine)
    with pytest.raises(error) as caught:
        refit(trt, engine, *arguments)
    for name, values in weights_in(engine).items():
        np.testing.assert_array_equal(values, before[name])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_takes_the_weights_of_an_export_at_that_alpha(tensorrt, written, version, precision):
    trt = tensorrt(version)
    path = written(precision)
    engine = engine_of(trt, path)
    endpoints = biased_endpoints(precision)
    for alpha in (0.3, 0, 1):
        refit(trt, engine, endpoints.graph_weights(alpha))
        turned = model_at_alpha(load_onnx(path)[0], endpoints, alpha)
        found = weights_in(engine)
        for tensor in turned.graph.initializer:
            np.testing.assert_array_equal(found[tensor.name], numpy_helper.to_array(tensor).astype(float))


def test_frames_show_the_new_alpha(written):
    driver = FakeDriver()
    with driver.active():
        trt = TensorRT(make("10.13.3.9", driver))
        engine = engine_of(trt, written())
        context, stream = engine.create_execution_context(), driver.create_stream()
        addresses = {"frames_in": driver.upload(GREY), "frames_out": driver.allocate(GREY.nbytes)}
        addresses["mean"] = driver.allocate(4)
        for name, address in addresses.items():
            assert context.set_tensor_address(name, address)
        for alpha in (0.8, 0, 0.25):
            if alpha != 0.8:
                refit(trt, engine, biased_endpoints().graph_weights(alpha))
            assert context.execute_async_v3(stream)
            driver.synchronize_stream(stream)
            shown = driver.download(addresses["frames_out"], GREY.shape, GREY.dtype).astype(int)
            assert np.abs(shown - expected(GREY, alpha)[:, ::2, ::2]).max() <= 1


def test_bf16_weights_are_exchanged(tensorrt, written):
    trt = tensorrt("11.4.0.106")
    engine = engine_of(trt, written("bf16"))
    refit(trt, engine, biased_endpoints("bf16").graph_weights(0.3))
    assert weights_in(engine)["kernel"][0, 0, 0, 0] == float(ml_dtypes.bfloat16(0.65))


def test_bf16_is_unknown_to_8_5(tensorrt, written):
    trt = tensorrt("8.5.3.1")
    engine = engine_of(trt, written("fp16"))
    message = refused(trt, engine, MachineError, biased_endpoints("bf16").graph_weights(0.3))
    assert "TensorRT 8.5.3.1 does not know bfloat16" in message


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_that_was_built_without_refit_says_so(tensorrt, written, version):
    trt = tensorrt(version)
    engine = engine_of(trt, written(), refittable=False)
    assert "built without refit" in refused(trt, engine, ModelError, biased_endpoints().graph_weights(1))


@pytest.mark.parametrize("version", VERSIONS)
def test_weights_that_do_not_fit_are_refused_with_tensorrts_reason(tensorrt, written, version):
    trt = tensorrt(version)
    engine = engine_of(trt, written("fp16"))
    endpoints = biased_endpoints("fp16")
    message = refused(trt, engine, ModelError, {**endpoints.graph_weights(1), "other": BIAS})
    assert "does not take 'other'" in message
    assert "no weights named other" in message
    message = refused(trt, engine, ModelError, biased_endpoints("fp32").graph_weights(1))
    assert "does not take 'bias', 'kernel'" in message
    assert "type HALF expected" in message
    refused(trt, engine, ModelError, {"kernel": np.zeros(5, np.float16), "bias": BIAS.astype(np.float16)})


def test_weights_that_an_engine_misses_are_named(tensorrt, written):
    trt = tensorrt("10.13.3.9")
    engine = engine_of(trt, written())
    weights = biased_endpoints().graph_weights(1)
    del weights["bias"]
    assert "also wants 'bias'" in refused(trt, engine, ModelError, weights)


@pytest.mark.parametrize("version", VERSIONS)
def test_constants_are_given_where_the_engine_asks_for_them(tensorrt, written, version):
    """Two stored tensors of one layer: the engine takes one only together with the other."""
    nodes = [
        helper.make_node("Conv", ["input", "kernel", "bias"], ["dimmed"]),
        helper.make_node("Mul", ["dimmed", "scale"], ["output"]),
    ]
    trt = tensorrt(version)
    path = written("fp32", nodes, scale=np.full((1,), 0.5, np.float32))
    engine = engine_of(trt, path)
    endpoints = biased_endpoints(constants={"bias": BIAS, "nothing of this engine": np.zeros(2, np.float32)})
    endpoints = dataclasses.replace(
        endpoints,
        types={**endpoints.types, "nothing of this engine": "fp32"},
        psnr={"kernel": kernel(0.5)},
        gan={"kernel": kernel(1)},
    )
    refit(trt, engine, endpoints.graph_weights(0), endpoints.graph_constants())
    assert weights_in(engine)["kernel"][0, 0, 0, 0] == 0.5


def test_a_refit_that_fails_says_why(tensorrt, written, monkeypatch):
    trt = tensorrt("10.13.3.9")
    engine = engine_of(trt, written())

    def fail(refitter):
        trt.logger.log(trt.module.ILogger.Severity.ERROR, "out of\nmemory")
        return False

    monkeypatch.setattr(trt.module.Refitter, "refit_cuda_engine", fail)
    message = refused(trt, engine, MachineError, biased_endpoints().graph_weights(1))
    assert "failed to exchange weights: out of memory; load the engine again" in message
