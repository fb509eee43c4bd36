"""16-bit graphs: what they hold, and how `Emulator` runs them."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, numpy_helper
from torch.nn import functional as F

from esrgan_deploy.errors import OptionError
from esrgan_deploy.model import ModelInfo
from esrgan_export.emulate import Emulator
from esrgan_export.precision import overflowing_nodes, to_precision, underflowing_nodes
from esrgan_export.to_onnx import export_onnx
from small_networks import CONFIGS, small_image, small_network

TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}
NUMPY = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def export(network):
    return export_onnx(network, ModelInfo(scale=network.scale))


def hwc(image):
    return image[0].permute(1, 2, 0).numpy()


def emulate(model, image):
    return Emulator(model).run(hwc(image))[0]


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_everything_but_resize_scales_is_converted(kind, precision):
    fp32 = export(small_network(kind))
    low = to_precision(fp32, precision)
    assert [t.name for t in low.graph.initializer] == [t.name for t in fp32.graph.initializer]
    assert [n.name for n in low.graph.node] == [n.name for n in fp32.graph.node]
    assert {t.data_type for t in low.graph.initializer} == {TYPES[precision]}
    scales = {node.input[2] for node in low.graph.node if node.op_type == "Resize"}
    for node in low.graph.node:
        if node.op_type == "Constant" and node.attribute[0].t.data_type != TensorProto.INT64:
            wide = node.output[0] in scales
            assert node.attribute[0].t.data_type == (TensorProto.FLOAT if wide else TYPES[precision])
    inferred = onnx.shape_inference.infer_shapes(low, check_type=True, strict_mode=True, data_prop=True)
    assert {value.type.tensor_type.elem_type for value in inferred.graph.output} == {TYPES[precision]}


def test_only_bf16_raises_the_opset():
    fp32 = export(small_network("srvgg"))
    versions = {p: to_precision(fp32, p).opset_import[0].version for p in TYPES}
    assert versions == {"fp16": 17, "bf16": 22}


def test_metadata_names_the_precision():
    low = to_precision(export(small_network("srvgg")), "bf16")
    assert {e.key: e.value for e in low.metadata_props}["esrgan.precision"] == "bf16"


@pytest.fixture(scope="module")
def exported():
    return export(small_network("srvgg"))


@pytest.mark.parametrize("precision", TYPES)
@given(values=hnp.arrays(np.float32, 16, elements=st.floats(width=32, allow_nan=False)))
def test_weights_are_rounded_to_nearest_even(exported, precision, values):
    """Against numpy's float16 and ml_dtypes' bfloat16."""
    weight = numpy_helper.to_array(exported.graph.initializer[0]).copy()
    weight.flat[:16] = values
    exported.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "body.0.weight"))
    converted = numpy_helper.to_array(to_precision(exported, precision).graph.initializer[0])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(converted.flat[:16], values.astype(NUMPY[precision]))


@pytest.mark.parametrize("precision", TYPES)
def test_emulator_rounds_where_the_type_rounds(precision):
    """A network of three convolutions, computed by hand with a rounding after each step."""
    network, image = small_network("srvgg"), small_image()

    def rounded(tensor):
        return tensor.to(TORCH[precision]).float()

    features = picture = rounded(image)
    for module in network.body:
        parameters = [rounded(parameter) for parameter in module.parameters()]
        step = F.prelu if len(parameters) == 1 else lambda x, weight, bias: F.conv2d(x, weight, bias, padding=1)
        features = rounded(step(features, *parameters))
    enlarged = F.interpolate(picture, scale_factor=4.0, mode="nearest")
    expected = hwc(rounded(F.pixel_shuffle(features, 4) + enlarged).clamp(0, 1))

    exact = hwc(network(image).clamp(0, 1))
    found = emulate(to_precision(export(network), precision), image)
    # Sums in another order fall on the other side of a rounding now and then, so that the two are not always equal.
    assert np.mean(found != expected) < 0.02
    assert rms(found - expected) < 0.1 * rms(found - exact)


def test_onnxruntime_runs_the_fp16_file():
    network, image = small_network("rrdb"), small_image()
    low = to_precision(export(network), "fp16")
    session = onnxruntime.InferenceSession(low.SerializeToString(), providers=["CPUExecutionProvider"])
    output = session.run(None, {"input": image.numpy().astype(np.float16)})[0]
    assert output.dtype == np.float16
    np.testing.assert_allclose(output.astype(np.float32), network(image).clamp(0, 1), atol=4e-3)


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("kind", ["srvgg", "rrdb-x2", "msrresnet"])
def test_with_all_layers_kept_only_the_border_rounds(kind, precision):
    network, image = small_network(kind), small_image()
    fp32 = export(network)
    low = to_precision(fp32, precision, [node.name for node in fp32.graph.node])
    assert {t.data_type for t in low.graph.initializer} == {TensorProto.FLOAT}
    assert [n.op_type for n in low.graph.node].count("Cast") == 2
    border = image.to(TORCH[precision]).float()
    expected = network(border).clamp(0, 1).to(TORCH[precision]).float()
    np.testing.assert_allclose(emulate(low, image), hwc(expected), atol=2**-8)
    assert np.mean(emulate(low, image) != hwc(expected)) < 0.01


def test_one_kept_layer_has_exact_weights_and_casts_around_it():
    network, image = small_network("rrdb"), small_image()
    fp32 = export(network)
    low = to_precision(fp32, "fp16", ["conv_body"])
    types = {t.name: t.data_type for t in low.graph.initializer}
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT} == {"conv_body.weight", "conv_body.bias"}
    assert [n.op_type for n in low.graph.node].count("Cast") == 2
    np.testing.assert_allclose(emulate(low, image), hwc(network(image).clamp(0, 1)), atol=4e-3)


def test_unknown_layers_and_types_are_refused():
    fp32 = export(small_network("srvgg"))
    with pytest.raises(OptionError, match=r"no layer of this network: body\.99"):
        to_precision(fp32, "fp16", ["body.0", "body.99"])
    with pytest.raises(OptionError, match="int4"):
        to_precision(fp32, "int4")


def scaled_pair(factor):
    """A network whose first layer's output is `factor` times larger, and whose second layer makes up for it."""
    network = small_network("srvgg-relu-x2")
    network.body[0].weight *= factor
    network.body[0].bias *= factor
    network.body[2].weight /= factor
    return network


def peaks_of(model):
    emulator = Emulator(model, track_peaks=True)
    emulator.run(hwc(small_image()))
    return emulator.peaks()


def test_layers_that_overflow_are_found_and_kept():
    network, image = scaled_pair(1e6), small_image()
    fp32 = export(network)
    expected = hwc(network(image).clamp(0, 1))
    reasons = overflowing_nodes(fp32, peaks_of(fp32))
    # The ReLU between the two layers, and the layer that reads its result, handle the same large values.
    assert list(reasons) == ["body.0", "body/body.1/Relu", "body.2"]
    assert "weights up to" in reasons["body.0"]
    assert "activations up to" in reasons["body.2"]
    assert not rms(emulate(to_precision(fp32, "fp16"), image) - expected) < 0.1  # NaN here
    assert rms(emulate(to_precision(fp32, "fp16", reasons), image) - expected) < 1e-3


def test_layers_that_underflow_are_found_and_kept():
    network, image = scaled_pair(2.0**-24), small_image()
    fp32 = export(network)
    expected = hwc(network(image).clamp(0, 1))
    # The layer behind has large weights to make up for it, and is found by these.
    reasons = underflowing_nodes(fp32, peaks_of(fp32)) | overflowing_nodes(fp32, peaks_of(fp32))
    assert {"body.0", "body/body.1/Relu", "body.2"} <= reasons.keys()
    assert rms(emulate(to_precision(fp32, "fp16", reasons), image) - expected) < 1e-3
    assert not rms(emulate(to_precision(fp32, "fp16"), image) - expected) < 0.01  # NaN here


def test_a_sound_network_keeps_nothing():
    fp32 = export(small_network("rrdb"))
    assert overflowing_nodes(fp32, peaks_of(fp32)) == {}


def test_peaks_are_the_largest_activations():
    """Against PyTorch's own activations."""
    network, image = small_network("rrdb"), small_image()
    emulator = Emulator(export(network), track_peaks=True)
    emulator.run(hwc(image))
    seen = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: float(out.abs().max())}))
    network(image)
    found = emulator.layer_peaks()
    assert len(seen) > 30
    for name, largest in seen.items():
        assert found[name] == pytest.approx(largest, rel=1e-4)


def test_infinities_before_the_clamp_are_counted():
    network = small_network("srvgg")
    network.body[-1].bias[:3] = 1e5  # infinite in fp16; the clamp makes it 1
    output, non_finite = Emulator(to_precision(export(network), "fp16")).run(hwc(small_image()))
    assert np.isfinite(output).all()
    assert non_finite == 3 * 20 * 28
