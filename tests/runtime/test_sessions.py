"""Every backend against the same numpy statement of what the network does."""

from concurrent.futures import Future
from importlib import metadata

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from esrgan_deploy import BACKENDS, BackendMissingError, MachineError, ModelError, ModelInfo, OptionError, open_session
from esrgan_deploy.models import COMPACT_CLEAN
from tiny_onnx import blur_x2_in_numpy, write_onnx

CPU_BACKENDS = ("openvino", "ort")


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_frames_go_through_the_network(blur_x2, rng, backend, dtype, largest):
    batch = rng.integers(0, largest + 1, (3, 17, 22, 3)).astype(dtype)
    with open_session(blur_x2, backend, precision="fp32") as session:
        future = session.submit(batch)
        assert isinstance(future, Future)
        result = future.result()
    expected = np.stack([blur_x2_in_numpy(frame, largest) for frame in batch])
    assert result.dtype == dtype
    assert result.shape == (3, 34, 44, 3)
    # Half-way cases may round either way in float32.
    assert np.abs(result.astype(int) - expected.astype(int)).max() <= 1
    assert (result != expected).mean() < 0.01


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_result_does_not_depend_on_the_batch(blur_x2, rng, backend):
    batch = rng.integers(0, 256, (4, 9, 31, 3)).astype(np.uint8)
    with open_session(blur_x2, backend) as session:
        together = session.run(batch)
        alone = np.concatenate([session.run(batch[i : i + 1]) for i in range(4)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_results_survive_the_next_run(blur_x2, rng, backend):
    """Backends reuse their output buffer: a result handed out must be a copy of it."""
    first, second = rng.integers(0, 256, (2, 1, 16, 16, 3)).astype(np.uint8)
    with open_session(blur_x2, backend) as session:
        result = session.run(first)
        kept = result.copy()
        session.run(second)
    np.testing.assert_array_equal(result, kept)


def test_streams_compute_the_same_side_by_side(rng):
    """Many frames of two sizes and types at once, on the network that ships."""
    frames = [
        rng.integers(0, 256, (1, height, 40, 3)).astype(dtype) * np.array(1 if dtype is np.uint8 else 257, dtype)
        for height in (24, 33)
        for dtype in (np.uint8, np.uint16)
        for _ in range(6)
    ]
    with open_session(COMPACT_CLEAN, "openvino", precision="fp32") as session:
        alone = [session.run(frame) for frame in frames]
    with open_session(COMPACT_CLEAN, "openvino", precision="fp32", streams=2) as session:
        together = [future.result() for future in [session.submit(frame) for frame in frames]]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (8, 5), (1, 1), (7, 13)])
def test_sizes_that_the_network_cannot_take_are_padded_and_cropped(unshuffle_x2, rng, backend, height, width):
    batch = rng.integers(0, 256, (1, height, width, 3)).astype(np.uint8)
    with open_session(unshuffle_x2, backend, precision="fp32") as session:
        np.testing.assert_array_equal(session.run(batch), batch.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_values_outside_the_range_are_clamped_not_wrapped(tmp_path, backend):
    """A foreign network need not clamp: 2x - 0.4 leaves [0, 1] at both ends."""
    nodes = [
        helper.make_node("Mul", ["input", "two"], ["doubled"]),
        helper.make_node("Sub", ["doubled", "half"], ["output"]),
    ]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"two": np.float32(2), "half": np.float32(0.4)})
    batch = np.array([0, 64, 128, 255], np.uint8).reshape(1, 2, 2, 1).repeat(3, 3)
    with open_session(path, backend, precision="fp32") as session:
        assert session.run(batch)[0, :, :, 0].ravel().tolist() == [0, 26, 154, 255]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_model_that_was_changed_meanwhile_is_not_mixed_with_the_one_that_was_opened(blur_x2, tmp_path, backend):
    """The network for the other type of frames is read from the file when it is first needed."""
    path = tmp_path / "net.onnx"
    path.write_bytes(blur_x2.read_bytes())
    with open_session(path, backend) as session:
        session.run(np.zeros((1, 8, 8, 3), np.uint8))
        path.write_bytes(COMPACT_CLEAN.read_bytes())
        session.run(np.zeros((1, 8, 8, 3), np.uint8))
        with pytest.raises(ModelError, match=r"net\.onnx: was changed since it was opened"):
            session.run(np.zeros((1, 8, 8, 3), np.uint16))


def test_compiled_models_are_cached_and_give_the_same_result(blur_x2, rng, tmp_path):
    batch = rng.integers(0, 256, (1, 9, 11, 3)).astype(np.uint8)
    results = []
    for _ in range(2):
        with open_session(blur_x2, "openvino", cache=tmp_path / "cache") as session:
            results.append(session.run(batch))
        cached = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "cache").iterdir())
        assert cached
        results.append(cached)
    np.testing.assert_array_equal(results[0], results[2])
    assert results[1] == results[3], "the second session compiled again"


def test_reference_session_repeats_pixels(rng):
    batch = rng.integers(0, 256, (2, 3, 5, 3)).astype(np.uint8)
    with open_session(None, "reference") as session:
        np.testing.assert_array_equal(session.run(batch), batch.repeat(4, 1).repeat(4, 2))


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.float32),
        np.zeros((1, 4, 4, 4), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
    ],
)
def test_what_is_no_batch_is_refused(batch):
    with open_session(None, "reference") as session, pytest.raises(OptionError, match="uint8 or uint16"):
        session.submit(batch)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_model_of_a_fixed_size_says_so(tmp_path, rng, backend):
    nodes = [helper.make_node("Resize", ["input", "", "scales"], ["output"], mode="nearest")]
    weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
    path = write_onnx(tmp_path / "fixed.onnx", nodes, weights, ModelInfo(scale=2), shape=(1, 3, 6, 8))
    batch = rng.integers(0, 256, (1, 6, 8, 3)).astype(np.uint8)
    with open_session(path, backend, precision="fp32") as session:
        assert session.info.fixed_size == (6, 8)
        np.testing.assert_array_equal(session.run(batch), batch.repeat(2, 1).repeat(2, 2))
        with pytest.raises(OptionError, match="8x6 only, this one has 6x6"):
            session.run(batch[:, :, :6])


# --- models ---


def test_metadata_round_trip():
    info = ModelInfo(4, "fp16", 2, 12, 0.8, {"name": "RRDBNet", "blocks": 23}, "a" * 64, "b" * 64, "esrgan-deploy 0.1")
    assert ModelInfo.from_metadata(info.to_metadata(), "x") == info


def test_scale_of_a_foreign_model_is_inferred(tmp_path):
    nodes = [helper.make_node("Resize", ["input", "", "scales"], ["output"], mode="nearest")]
    path = write_onnx(tmp_path / "foreign.onnx", nodes, {"scales": np.array([1, 1, 3, 3], np.float32)})
    with open_session(path, "ort") as session:
        assert session.info == ModelInfo(scale=3)


def damaged_models(tmp_path):
    identity = [helper.make_node("Identity", ["input"], ["output"])]
    grey = tmp_path / "grey.onnx"
    graph = helper.make_graph(
        identity,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, "H", "W"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, "H", "W"])],
    )
    grey.write_bytes(helper.make_model(graph).SerializeToString())
    classifier = tmp_path / "classifier.onnx"
    pool = [helper.make_node("GlobalAveragePool", ["input"], ["output"])]
    graph = helper.make_graph(
        pool,
        "c",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 1, 1])],
    )
    classifier.write_bytes(helper.make_model(graph).SerializeToString())
    newer = write_onnx(tmp_path / "newer.onnx", identity, {}, ModelInfo(scale=1))
    model = onnx.load(newer)
    next(p for p in model.metadata_props if p.key == "esrgan.format").value = "2"
    newer.write_bytes(model.SerializeToString())
    files = {"empty.onnx": b"", "text.onnx": b"hello, I am no network\n", "cut.onnx": newer.read_bytes()[:60]}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty.onnx", "not an ONNX file"),
        ("text.onnx", "not an ONNX file"),
        ("cut.onnx", "not an ONNX file"),
        ("missing.onnx", "No such file"),
        ("grey.onnx", "3 channels"),
        ("classifier.onnx", "whole-number upscaling"),
        ("newer.onnx", "upgrade"),
    ],
)
@pytest.mark.parametrize("backend", [*CPU_BACKENDS, "auto", "reference"])
def test_model_that_is_none_is_refused_in_one_line(tmp_path, name, words, backend):
    path = damaged_models(tmp_path) / name
    with pytest.raises(ModelError, match=words) as caught:
        open_session(path, backend)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cuda_session_without_a_gpu_is_an_error_not_a_slow_cpu_session(blur_x2):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed here")
    with pytest.raises((MachineError, BackendMissingError)) as caught:
        open_session(blur_x2, "ort-cuda")
    assert "esrgan-deploy[gpu]" in str(caught.value)


@pytest.mark.parametrize("backend", ["ort", "ort-cuda", "auto"])
def test_two_onnxruntimes_are_refused(blur_x2, monkeypatch, backend):
    monkeypatch.setattr(metadata, "version", lambda name: "1.31.1")
    with pytest.raises(BackendMissingError, match="overwrite each other"):
        open_session(blur_x2, backend)


def test_unknown_backend_lists_the_known_ones():
    with pytest.raises(OptionError, match=", ".join(BACKENDS)):
        open_session("x.onnx", "tensorflow")
