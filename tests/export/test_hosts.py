"""What other programs ask of an ONNX file, one test for each: see the names of the tests.

The hosts do not run here; each test does to the file what the host's source code does to it.
"""

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.external_data_helper import uses_external_data

from esrgan_deploy.backends import open_session
from esrgan_deploy.model import ModelInfo
from esrgan_export.precision import to_precision
from esrgan_export.to_onnx import export_onnx
from small_networks import CONFIGS, small_image, small_network

KINDS = ["srvgg", "rrdb", "rrdb-x2", "msrresnet", "srresnet"]


def export(kind, precision="fp32", seed=0, **options):
    """A model of its own for each test: some are changed."""
    return onnx.load_model_from_string(export_bytes(kind, precision, seed, **options))


@functools.cache
def export_bytes(kind, precision, seed, **options):
    network = small_network(kind, seed)
    model = export_onnx(network, ModelInfo(scale=network.scale), **options)
    return (model if precision == "fp32" else to_precision(model, precision)).SerializeToString()


def dims(value):
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


def with_size(model, height, width, batch=1):
    """A copy with literal input dimensions, all inferred shapes thrown away, and shapes inferred again."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for dim, size in zip(fixed.graph.input[0].type.tensor_type.shape.dim, (batch, 3, height, width), strict=True):
        dim.dim_value = size
    fixed.graph.output[0].type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    return shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True)


def run(model, image):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": image})[0]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_vapoursynth_tensorrt(kind, precision):
    """vs-mlrt, checkEngine: two bindings, the input called `input`, 4-D, N = 1, 3 channels."""
    graph = export(kind, precision).graph
    assert [value.name for value in graph.input] == ["input"]
    assert len(graph.output) == 1
    for value in (*graph.input, *graph.output):
        assert dims(value)[:2] == [1, 3]
        assert len(dims(value)) == 4


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_vapoursynth_onnxruntime_and_openvino(kind, precision):
    """vs-mlrt, specifyShape: no initialiser among the inputs; sizes set and value_info dropped, the output resolves."""
    model = export(kind, precision)
    scale = CONFIGS[kind].get("scale", 4)
    assert not {value.name for value in model.graph.input} & {tensor.name for tensor in model.graph.initializer}
    inferred = with_size(model, 48, 64)
    assert dims(inferred.graph.output[0]) == [1, 3, 48 * scale, 64 * scale]
    shapes = {value.name: dims(value) for value in inferred.graph.value_info}
    produced = {node.output[0] for node in model.graph.node} - {"output"}
    assert produced <= shapes.keys()
    assert all(isinstance(size, int) for shape in shapes.values() for size in shape)


@pytest.mark.parametrize("kind", KINDS)
def test_vapoursynth_batch(kind):
    """vs-mlrt, _inference: the graph is rewritten to 1 x (B * C) x H x W by a Reshape before and after the body."""
    model = export(kind)
    frames = np.stack([small_image(seed=seed)[0].numpy() for seed in (1, 2)])
    expected = np.concatenate([run(model, frame[None]) for frame in frames])
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["unstacked" if name == "input" else name for name in node.input]
        node.output[:] = ["stack" if name == "output" else name for name in node.output]
    nodes = [
        helper.make_node("Reshape", ["input", "to_frames"], ["unstacked"]),
        *graph.node,
        helper.make_node("Reshape", ["stack", "to_stack"], ["output"]),
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.array([-1, 3, 0, 0]), "to_frames"))
    graph.initializer.append(numpy_helper.from_array(np.array([1, -1, 0, 0]), "to_stack"))
    graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 6, "H", "W"]))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 6, "HO", "WO"]))
    stacked = run(model, frames.reshape(1, 6, *frames.shape[2:]))
    np.testing.assert_allclose(stacked.reshape(expected.shape), expected, atol=1e-6)


@pytest.mark.parametrize("size", [16, 64, 256, 512])
@pytest.mark.parametrize("kind", KINDS)
def test_chainner_infers_the_scale(kind, size):
    """chaiNNer, load.py: scale and size multiple by shape inference at these sizes."""
    output = dims(with_size(export(kind), size, size).graph.output[0])
    assert output[2] == output[3] == size * CONFIGS[kind].get("scale", 4)


@pytest.mark.parametrize("kind", KINDS)
def test_chainner_interpolates_by_order(kind):
    """chaiNNer, interpolate_models.py: initialisers of two files are zipped and blended."""
    first, second = (export(kind, seed=seed) for seed in (1, 2))
    networks = [small_network(kind, seed) for seed in (1, 2)]
    state = networks[0].state_dict()
    for a, b in zip(first.graph.initializer, second.graph.initializer, strict=True):
        assert a.name == b.name
        blend = 0.75 * numpy_helper.to_array(a) + 0.25 * numpy_helper.to_array(b)
        a.CopyFrom(numpy_helper.from_array(blend.astype(np.float32), a.name))
    if kind == "srresnet":
        return  # with folded batch normalisation the blend of the files is not the blend of the networks
    other = networks[1].state_dict()
    networks[0].load_state_dict({key: 0.75 * state[key] + 0.25 * other[key] for key in state})
    image = small_image()
    np.testing.assert_allclose(run(first, image.numpy()), networks[0](image).clamp(0, 1), atol=2e-5)


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", TensorProto.FLOAT), ("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)]
)
def test_chainner_tensorrt_gets_the_compute_type_at_the_border(precision, kind):
    """chaiNNer, tensorrt/inference.py: frames are cast to fp16 when the engine is called fp16."""
    graph = export("rrdb", precision).graph
    assert [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)] == [kind, kind]


def test_comfyui():
    """ComfyUI-Upscaler-Tensorrt: bindings `input` and `output`, x4, profile 256 / 512 / 1280 squared."""
    model = export("rrdb")
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("input", "output")
    for size in (256, 512, 1280):
        assert dims(with_size(model, size, size).graph.output[0]) == [1, 3, 4 * size, 4 * size]


@pytest.mark.parametrize("kind", KINDS)
def test_openvino_with_its_own_preprocessing(kind):
    """OpenVINO reads the ONNX as it is; uint8 NHWC comes from its PrePostProcessor."""
    openvino = pytest.importorskip("openvino", reason="the cpu extra is not installed")
    core = openvino.Core()
    frame = (small_image()[0] * 255).round().byte().permute(1, 2, 0).numpy()
    steps = openvino.preprocess.PrePostProcessor(core.read_model(export(kind).SerializeToString()))
    source = steps.input()
    source.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    source.model().set_layout(openvino.Layout("NCHW"))
    source.preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    compiled = core.compile_model(steps.build(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    expected = small_network(kind)(image).clamp(0, 1)
    np.testing.assert_allclose(compiled(frame[None])[0], expected, atol=5e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_size_for_ffmpeg_and_deepstream(kind):
    """dnn_processing and nvinfer want height and width in the file, and explicit names."""
    graph = export(kind, static_shape=(48, 64)).graph
    scale = CONFIGS[kind].get("scale", 4)
    assert dims(graph.input[0]) == [1, 3, 48, 64]
    assert dims(graph.output[0]) == [1, 3, 48 * scale, 64 * scale]


@pytest.mark.parametrize("kind", KINDS)
def test_triton_batches(kind):
    """Triton with max_batch_size > 0 leaves N out of its dims: N has to be symbolic, and frames independent."""
    model = export(kind, dynamic_batch=True)
    frames = torch.cat([small_image(seed=seed) for seed in (1, 2, 3)]).numpy()
    alone = np.concatenate([run(model, frame[None]) for frame in frames])
    np.testing.assert_allclose(run(model, frames), alone, atol=1e-6)
    assert isinstance(dims(model.graph.input[0])[0], str)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_one_file_without_external_data(precision):
    """Hosts copy a single file."""
    model = export("rrdb", precision)
    assert not any(uses_external_data(tensor) for tensor in model.graph.initializer)
    assert {opset.domain for opset in model.opset_import} == {""}


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_of_resize_are_constant_scales(kind):
    """TensorRT and vs-mlrt: no Resize by computed sizes, and no Shape operator anywhere."""
    graph = export(kind).graph
    constants = {node.output[0] for node in graph.node if node.op_type == "Constant"}
    for node in graph.node:
        assert node.op_type != "Shape"
        if node.op_type == "Resize":
            assert len(node.input) == 3
            assert node.input[2] in constants


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize("kind", KINDS)
def test_our_own_sessions(kind, backend, tmp_path):
    """The runtime attaches uint8 frames to the float file."""
    pytest.importorskip("openvino", reason="the cpu extra is not installed")
    network = small_network(kind)
    path = tmp_path / "model.onnx"
    info = ModelInfo(scale=network.scale, precision="fp16", multiple_of=network.multiple_of)
    path.write_bytes(to_precision(export_onnx(network, info), "fp16").SerializeToString())
    frame = (small_image()[0] * 255).round().byte().permute(1, 2, 0).numpy()
    with open_session(path, backend, precision="fp32" if backend == "openvino" else "auto") as session:
        found = session.run(frame[None])[0]
    image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    expected = network(image).clamp(0, 1)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(found - expected).max() < 2
    assert np.abs(found - expected).mean() < 0.35  # rounding to whole numbers alone gives 0.25
