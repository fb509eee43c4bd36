"""Which TensorRT is found, and what is asked of those that differ from the newest: by the fake TensorRT."""

import sys

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.shape_inference import infer_shapes

from engine_onnx import one_line, write_half, write_quantised
from esrgan_deploy import BackendMissingError, MachineError, ModelInfo, OptionError
from esrgan_deploy.engine.adapter import TensorRT, load_tensorrt
from esrgan_deploy.engine.build.graph import frame_graph
from esrgan_deploy.engine.build.layer_types import set_types
from esrgan_deploy.engine.build.plan import build_plan
from esrgan_deploy.engine.options import EngineOptions, Profile
from esrgan_deploy.model import load_onnx
from fake_cuda import FakeDriver
from fake_tensorrt import make
from tiny_onnx import write_onnx

STATIC = Profile.fixed(2, 24, 32)


@pytest.fixture
def old():
    """TensorRT 8.5, weakly typed, on a GPU."""
    return TensorRT(make("8.5.3.1", FakeDriver()))


@pytest.fixture
def half_x2(tmp_path):
    return write_half(tmp_path / "half.onnx")


@pytest.fixture
def quantised_x2(tmp_path):
    return write_quantised(tmp_path / "int8.onnx")


def build(trt, path, options=None):
    model, info = load_onnx(path)
    options = options or EngineOptions(STATIC)
    return build_plan(trt, model, info, path, options, free_memory=None, progress=lambda *_: None)


# --- settings ---


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"optimization_level": 5}, "optimization level 5"),
        ({"tiling": "full"}, "tiling 'full'"),
        ({"aux_streams": 0}, "aux-streams 0"),
    ],
)
def test_setting_that_a_version_lacks_is_refused(old, blur_x2, setting, words):
    with pytest.raises(OptionError) as caught:
        build(old, blur_x2, EngineOptions(STATIC, **setting))
    one_line(caught, words, "TensorRT 8.5.3.1")


def test_bf16_is_refused_where_it_is_unknown(old, tmp_path):
    path = tmp_path / "bf16.onnx"
    write_onnx(
        path,
        [helper.make_node("Mul", ["input", "w"], ["output"])],
        {"w": np.float16(1)},
        ModelInfo(1, "bf16"),
        TensorProto.FLOAT16,
    )
    model, info = load_onnx(path)
    model.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.BFLOAT16, [], [1.0]))
    with pytest.raises(MachineError) as caught:
        build_plan(old, model, info, path, EngineOptions(STATIC), free_memory=None, progress=lambda *_: None)
    one_line(caught, str(path), "bf16", "8.5.3.1", "--fp16")


def test_without_a_driver_there_is_no_builder():
    trt = TensorRT(make("10.13.3.9"))
    with pytest.raises(MachineError) as caught:
        trt.create_builder()
    one_line(caught, "TensorRT 10.13.3.9", "error: 35", "nvidia-smi")
    with pytest.raises(MachineError, match="nvidia-smi"):
        trt.create_runtime()


# --- types in TensorRT 8.5 ---


def parsed_by(trt, framed):
    """A configuration and a network as they are before the build, with `set_types` applied."""
    builder = trt.create_builder()
    network = trt.create_network(builder)
    assert trt.module.OnnxParser(network, trt.logger).parse(framed.SerializeToString())
    config = trt.configure(builder, EngineOptions(STATIC))
    set_types(trt, framed, network, config)
    return config, [network.get_layer(index) for index in range(network.num_layers)]


def flags_of(trt, config):
    names = ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "TF32")
    return {name for name in names if config.get_flag(getattr(trt.module.BuilderFlag, name))}


@pytest.mark.parametrize("frame_type", ["uint8", "uint16"])
def test_frames_are_converted_in_float32_beside_a_half_precision_network(old, half_x2, frame_type):
    """Half precision has 11 significant bits: with TensorRT 8.5 each layer of the conversion must be held to FLOAT."""
    framed = frame_graph(load_onnx(half_x2)[0], EngineOptions(STATIC, frame_type))
    config, layers = parsed_by(old, framed)
    assert flags_of(old, config) == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    inferred = {value.name: value.type.tensor_type.elem_type for value in infer_shapes(framed).graph.value_info}
    nodes = {name: node for node in framed.graph.node for name in node.output}
    float32 = old.module.DataType.FLOAT
    held = {layer.get_output(0).name for layer in layers if layer.precision_is_set}
    for layer in layers:
        if layer.precision_is_set:
            assert layer.precision == float32
            assert layer.output_type_is_set(0)
            assert layer.get_output(0).dtype == float32
    wanted = {
        name for name, element in inferred.items() if element == TensorProto.FLOAT and nodes[name].op_type != "Cast"
    }
    assert {name for name in held if name in nodes} == wanted | {"mean"}
    assert {"frame_io/unit", "frame_io/planes", "frame_io/rounded"} <= held
    # Layers without a name of the graph, which the parser put in front, belong to the node behind them.
    unnamed = [index for index, layer in enumerate(layers) if layer.get_output(0).name.startswith("broadcast")]
    assert unnamed
    for index in unnamed:
        assert layers[index].precision_is_set == (layers[index + 1].get_output(0).name in held)


def test_float32_network_gets_no_flags(old, blur_x2):
    config, layers = parsed_by(old, frame_graph(load_onnx(blur_x2)[0], EngineOptions(STATIC)))
    assert flags_of(old, config) == set()
    assert not any(layer.precision_is_set for layer in layers)


def test_quantised_network_gets_the_int8_flag(old, quantised_x2):
    config, _ = parsed_by(old, frame_graph(load_onnx(quantised_x2)[0], EngineOptions(STATIC)))
    assert flags_of(old, config) == {"INT8"}


@pytest.mark.parametrize("network", ["half_x2", "quantised_x2"])
@pytest.mark.parametrize("version", ["8.5.3.1", "11.4.0.106"])
def test_types_suit_every_version(network, version, request):
    """The fake refuses flags in a strongly typed network, and their lack in a weakly typed one, as the real ones do."""
    trt = TensorRT(make(version, FakeDriver()))
    assert build(trt, request.getfixturevalue(network)).data


# --- finding TensorRT ---


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install distributions into an empty folder that comes first on the path; {distribution: {file: content}}."""

    def install(distributions):
        for name, files in distributions.items():
            info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (info / "RECORD").write_text("".join(f"{file},,\n" for file in files) + f"{info.name}/METADATA,,\n")
            for file, content in files.items():
                (tmp_path / file).parent.mkdir(exist_ok=True)
                (tmp_path / file).write_text(content)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # as if it were not installed
    yield install
    sys.modules.pop("tensorrt", None)


def test_missing_tensorrt_names_the_extra(installed, tmp_path):
    (tmp_path / "tensorrt").mkdir()  # a folder of this name imports, but is no TensorRT
    with pytest.raises(BackendMissingError) as caught:
        load_tensorrt()
    one_line(caught, "esrgan-deploy[tensorrt]")


def test_two_tensorrts_are_refused(installed):
    package = {"tensorrt/__init__.py": ""}
    installed({"tensorrt-cu12": package, "tensorrt-cu13": package})
    with pytest.raises(BackendMissingError) as caught:
        load_tensorrt()
    one_line(caught, "tensorrt-cu12 and tensorrt-cu13", "overwrite each other", "pip uninstall")


def test_tensorrt_that_does_not_load_says_why(installed):
    """`tensorrt` brings no module itself, it only asks for the distribution that does: that is not a second one."""
    words = "libnvinfer.so.10: cannot open shared object file: No such file or directory"
    installed({"tensorrt": {}, "tensorrt-cu13": {"tensorrt/__init__.py": f"raise ImportError({words!r})"}})
    with pytest.raises(BackendMissingError) as caught:
        load_tensorrt()
    one_line(caught, words, "install it again")


def test_missing_part_of_tensorrt_is_not_a_missing_tensorrt(installed):
    installed({"tensorrt-cu13": {"tensorrt/__init__.py": "import tensorrt_bindings_of_nobody"}})
    with pytest.raises(BackendMissingError) as caught:
        load_tensorrt()
    one_line(caught, "tensorrt_bindings_of_nobody", "install it again")


def test_rtx_is_taken_where_there_is_no_other(monkeypatch):
    rtx = TensorRT(pytest.importorskip("tensorrt_rtx", reason="needs the wheels of TensorRT-RTX"))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    found = load_tensorrt()
    assert (found.name, found.portable, found.strongly_typed) == ("TensorRT-RTX", True, True)
    assert found.version == rtx.module.__version__
    assert found.logger is rtx.logger, "TensorRT would ignore a second logger"
