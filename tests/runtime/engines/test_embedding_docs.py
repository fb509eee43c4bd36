"""The programs of docs/embedding.md run as they stand; its settings for a server fit the files they are for."""

import ast
import functools
import re
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from onnx import helper

import fake_gpu_packages
import fake_tensorrt
from esrgan_deploy import ModelInfo
from esrgan_deploy.backends import trt
from esrgan_deploy.engine.adapter import TensorRT
from esrgan_deploy.engine.build.graph import frame_graph
from esrgan_deploy.engine.options import EngineOptions, Profile
from esrgan_deploy.models import COMPACT_CLEAN
from fake_cuda import FakeDriver
from tiny_onnx import write_onnx

PAGE = Path(__file__).parents[3] / "docs" / "embedding.md"
SIZE = (18, 32)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def program(*words):
    """The one program on the page that imports `words`."""
    (found,) = (text for text in blocks("python") if all(re.search(rf"^import {word}\b", text, re.M) for word in words))
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch, rng):
    """The files that the page names: nearest x2 as the model, and a clip of seven frames with odd time stamps."""
    monkeypatch.chdir(tmp_path)
    nodes = [helper.make_node("Resize", ["input", "", "scales"], ["output"], mode="nearest")]
    weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
    write_onnx(tmp_path / "model.onnx", nodes, weights, ModelInfo(scale=2, overlap=0), shape=("N", 3, "H", "W"))
    with av.open(str(tmp_path / "clip.mp4"), "w") as clip:
        stream = clip.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate((0, 40, 80, 150, 160, 200, 333)):
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE, 3), 30 * index + 20, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode())
    return tmp_path


def read(path):
    with av.open(str(path)) as clip:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)]


def test_the_loop_with_pyav(folder):
    exec(program("av"), {})
    before, after = read("clip.mp4"), read("clip_large.mkv")
    assert [round(time * 1000) for time, _ in after] == [round(time * 1000) for time, _ in before]
    assert len(before) == 7
    for (_, small), (_, large) in zip(before, after, strict=True):
        assert large.shape == (2 * SIZE[0], 2 * SIZE[1], 3)
        assert abs(large.mean() - small.mean()) < 2


def test_the_loop_with_pyav_and_the_network_that_ships(folder):
    (folder / "model.onnx").write_bytes(COMPACT_CLEAN.read_bytes())
    exec(program("av"), {})
    (_, first), *_ = after = read("clip_large.mkv")
    assert len(after) == 7
    assert first.shape == (4 * SIZE[0], 4 * SIZE[1], 3)


# --- on the fake GPU ---


@pytest.fixture(params=range(4))
def gpu(request, folder, monkeypatch, rng):
    """Packages on a fake GPU that schedules work as it likes, differently for each parameter."""
    driver = FakeDriver(seed=request.param, eagerness=(0, 0.3, 0.6, 0.9)[request.param])
    clip = [rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8) for _ in range(7)]
    packages = fake_gpu_packages.Packages(driver, clip)
    for name, module in packages.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    adapter = TensorRT(fake_tensorrt.make(fake_tensorrt.VERSIONS[-1], driver))
    monkeypatch.setattr(trt, "open_driver", lambda device: driver)
    monkeypatch.setattr(trt, "load_tensorrt", lambda: adapter)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return packages


def test_the_loop_on_the_gpu(gpu):
    exec(program("torch", "PyNvVideoCodec"), {})
    assert Path("clip_large.hevc").read_bytes() == bytes(range(7))
    for small, large in zip(gpu.clip, gpu.encoded, strict=True):
        np.testing.assert_array_equal(large[..., :3], small.repeat(2, 0).repeat(2, 1))
        assert (large[..., 3] == 255).all()
    assert gpu.driver.counters.copies_in == gpu.driver.counters.bytes_in == 0


@pytest.mark.parametrize("words", [("pycuda.driver",), ("cupy",), ("torch",)])
def test_arrays_of_other_packages(gpu, words):
    shown = []
    (text,) = (text for text in blocks("python") if f"import {words[0]}" in text and "PyNvVideoCodec" not in text)
    frames = np.random.default_rng(3).integers(0, 256, (2, 36, 64, 3)).astype(np.uint8)
    original = gpu.new

    def new(kind, shape, dtype, fill=0):  # zeros would look right whatever was done to them
        return original(kind, shape, dtype, fill) if fill else kind(gpu, gpu.driver.upload(frames), shape, dtype)

    gpu.new = new
    exec(
        text.replace("np.zeros((2, 36, 64, 3), np.uint8)", "frames_of_the_test"),
        {"show": shown.append, "frames_of_the_test": frames},
    )
    np.testing.assert_array_equal(shown[0], frames.repeat(2, 1).repeat(2, 2))


def test_no_program_of_the_page_is_left_out():
    imports = [sorted(set(re.findall(r"^import ([\w.]+)", text, re.M))) for text in blocks("python")]
    assert imports == [
        ["av"],
        ["PyNvVideoCodec", "torch"],
        ["numpy", "pycuda.autoinit", "pycuda.driver"],
        ["cupy"],
        ["torch"],
    ]


@functools.cache
def real_codec(folder):
    """The Python files of the real PyNvVideoCodec; it cannot be imported without a driver."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    done = subprocess.run([*pip, "--dest", folder, "PyNvVideoCodec==2.2.4"], capture_output=True, text=True)
    if done.returncode and "(from versions: none)" in done.stderr:
        pytest.skip("no package index with PyNvVideoCodec==2.2.4")
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.mark.slow
def test_the_stand_in_decoder_has_the_parameters_of_the_real_one(tmp_path):
    source = real_codec(tmp_path).read("PyNvVideoCodec/decoders/ThreadedDecoder.py").decode()
    (real,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    ours = ast.parse(Path(fake_gpu_packages.__file__).read_text(encoding="utf-8"))
    (stand_in,) = (node for node in ours.body if isinstance(node, ast.ClassDef) and node.name == "Decoder")
    methods = {node.name: node.args for node in real.body if isinstance(node, ast.FunctionDef)}
    for node in stand_in.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_write"):
            assert [a.arg for a in node.args.args] == [a.arg for a in methods[node.name].args]
            assert len(node.args.defaults) == len(methods[node.name].defaults)


# --- Triton ---

STRING, INT32, INT64, BOOL, UINT64, MESSAGE, ENUM = 9, 5, 3, 8, 4, 11, 14
"""FieldDescriptorProto.Type."""
FIELDS = {
    # triton-inference-server/common, protobuf/model_config.proto: (name, type, of what, repeated)
    "ModelConfig": [
        ("name", STRING, "", False),
        ("backend", STRING, "", False),
        ("max_batch_size", INT32, "", False),
        ("input", MESSAGE, "Tensor", True),
        ("output", MESSAGE, "Tensor", True),
        ("instance_group", MESSAGE, "Group", True),
        ("dynamic_batching", MESSAGE, "DynamicBatching", False),
        ("optimization", MESSAGE, "Optimization", False),
    ],
    "Tensor": [("name", STRING, "", False), ("data_type", ENUM, "DataType", False), ("dims", INT64, "", True)],
    "Group": [("kind", ENUM, "Kind", False), ("count", INT32, "", False)],
    "DynamicBatching": [("max_queue_delay_microseconds", UINT64, "", False)],
    "Optimization": [("cuda", MESSAGE, "Cuda", False)],
    "Cuda": [("graphs", BOOL, "", False)],
}
ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP16": 10, "TYPE_FP32": 11},
    "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2, "KIND_MODEL": 3},
}
ONNX_TYPES = {
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
}


@functools.cache
def model_config():
    """The message of the server's configuration, as far as the page uses it: other words fail to parse."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    for name, values in ENUMS.items():
        kind = file.enum_type.add(name=name)
        for value, number in values.items():
            kind.value.add(name=value, number=number)
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, of, repeated) in enumerate(fields, 1):
            added = message.field.add(name=field, number=number, type=kind, label=3 if repeated else 1)
            if of:
                added.type_name = f".inference.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def configurations():
    return [text_format.Parse(text, model_config()()) for text in blocks("pbtxt")]


def tensors_of(values):
    """(name, type, dims) as the server names them, symbols as -1."""
    return [
        (
            value.name,
            ONNX_TYPES[value.type.tensor_type.elem_type],
            [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim],
        )
        for value in values
    ]


def configured(tensors, batched=False):
    kinds = {number: name for name, number in ENUMS["DataType"].items()}
    return [(t.name, kinds[t.data_type], [*([-1] if batched else []), *t.dims]) for t in tensors]


def test_the_server_is_told_what_an_exported_file_is():
    single, _, _ = configurations()
    graph = onnx.load(COMPACT_CLEAN).graph
    assert single.max_batch_size == 0
    assert configured(single.input) == tensors_of(graph.input)
    assert configured(single.output) == tensors_of(graph.output)


def test_the_server_is_told_what_a_file_for_batches_is(tmp_path):
    """Triton adds the batch to the sizes where max_batch_size is above 0."""
    _, batched, _ = configurations()
    identity = [helper.make_node("Identity", ["input"], ["output"])]
    path = write_onnx(tmp_path / "m.onnx", identity, {}, ModelInfo(scale=1), shape=("N", 3, "H", "W"))
    graph = onnx.load(path).graph
    assert batched.max_batch_size > 0
    assert configured(batched.input, batched=True) == tensors_of(graph.input)
    assert configured(batched.output, batched=True) == tensors_of(graph.output)


def test_the_server_is_told_what_an_engine_is():
    _, _, engine = configurations()
    (shape,) = re.findall(
        r"esrgan-engine model\.onnx --shape (\d+)x(\d+) --batch (\d+)", PAGE.read_text(encoding="utf-8")
    )
    width, height, batch = map(int, shape)
    framed = frame_graph(onnx.load(COMPACT_CLEAN), EngineOptions(Profile.fixed(batch, height, width)))
    framed = onnx.shape_inference.infer_shapes(framed, data_prop=True)
    assert engine.max_batch_size == 0
    assert configured(engine.input) == tensors_of(framed.graph.input)
    assert configured(engine.output) == tensors_of(framed.graph.output)
