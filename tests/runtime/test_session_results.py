"""What a session gives is looked at before it becomes a picture."""

from concurrent.futures import Future

import numpy as np
import pytest
from onnx import helper

from esrgan_deploy import ModelInfo, Session, Upscaler, open_session
from esrgan_deploy.backends.session import run_failure
from esrgan_deploy.errors import MachineError, ModelError
from esrgan_deploy.frame_io import show_nan
from tiny_onnx import write_onnx

SCALES = np.array([1, 1, 2, 2], np.float32)
FRAMES = np.arange(1, 1 + 4 * 6 * 3, dtype=np.uint8).reshape(1, 4, 6, 3)


class Odd(Session):
    """A session of somebody else, which gives whatever it is told."""

    def __init__(self, result):
        self.info, self.backend, self.precision, self.result = ModelInfo(scale=2, overlap=0), "odd", "odd", result

    def submit(self, batch):
        future = Future()
        future.set_result(self.result)
        return future

    def close(self):
        pass


@pytest.mark.parametrize(
    "result",
    [
        None,
        [],
        np.zeros((0, 8, 12, 3), np.uint8),
        np.zeros((1, 8, 12, 3), np.float32),
        np.zeros((1, 8, 12, 3), np.uint16),
        np.zeros((1, 8, 12), np.uint8),
        np.zeros((1, 80, 1, 3), np.uint8),
        np.zeros((1, 4, 6, 3), np.uint8),
    ],
    ids=lambda value: f"{getattr(value, 'dtype', '')}{getattr(value, 'shape', value)}",
)
def test_a_result_of_another_kind_is_refused(result):
    with Upscaler(Odd(result)) as upscaler, pytest.raises(ModelError, match=r"the session: gives .* enlarged 2 times"):
        upscaler.upscale(FRAMES[0])


def test_each_frame_of_a_batch_is_looked_at():
    right = np.zeros((1, 8, 12, 3), np.uint8)
    with Upscaler(Odd(right), batch=2) as upscaler, pytest.raises(ModelError, match="the session: gives"):
        list(upscaler.map([FRAMES[0], FRAMES[0] + 1]))


def for_even_sides(folder):
    """It halves images, rounded down, and enlarges them four times: 5 rows become 8."""
    nodes = [
        helper.make_node("Resize", ["input", "", "half"], ["small"]),
        helper.make_node("Resize", ["small", "", "four"], ["output"]),
    ]
    weights = {"half": np.array([1, 1, 0.5, 0.5], np.float32), "four": np.array([1, 1, 4, 4], np.float32)}
    return write_onnx(folder / "even.onnx", nodes, weights, ModelInfo(scale=2, overlap=0))


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_network_that_is_right_for_some_sizes_only_is_refused_at_others(tmp_path, backend):
    with open_session(for_even_sides(tmp_path), backend) as session:
        assert session.run(FRAMES).shape == (1, 8, 12, 3)
        with pytest.raises(
            ModelError, match=r"even\.onnx: gives uint8 of shape \(1, 4, 12, 3\) for uint8 of shape \(1, 3"
        ):
            session.run(FRAMES[:, :3])


def not_numbers(folder, *, clip, element=1):
    """0 / 0 in the red channel, twice the image in the others."""
    nodes = [
        helper.make_node("Sub", ["input", "input"], ["zero"]),
        helper.make_node("Mul", ["zero", "big"], ["zeros"]),
        helper.make_node("Div", ["zeros", "divisors"], ["nan"]),
        helper.make_node("Add", ["input", "nan"], ["sum"]),
        helper.make_node("Resize", ["sum", "", "scales"], ["large" if clip else "output"]),
    ]
    kind = np.float16 if element == 10 else np.float32
    weights = {
        "big": np.array(6e4, kind),
        "divisors": np.array([0, 1, 1], kind).reshape(1, 3, 1, 1),
        "scales": SCALES,
    }
    if clip:
        nodes.append(helper.make_node("Clip", ["large", "low", "high"], ["output"]))
        weights |= {"low": np.array(0, kind), "high": np.array(1, kind)}
    info = ModelInfo(scale=2, overlap=0, precision="fp16" if element == 10 else "fp32")
    return write_onnx(folder / "nan.onnx", nodes, weights, info, element)


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_values_that_are_no_numbers_are_no_black_picture(tmp_path, backend, clip, dtype):
    with (
        open_session(not_numbers(tmp_path, clip=clip), backend) as session,
        pytest.raises(ModelError, match=r"nan\.onnx: the network gives values that are not numbers \(NaN\) on a 6x4"),
    ):
        session.run(FRAMES.astype(dtype))


def test_half_precision_is_looked_at_too(tmp_path):
    path = not_numbers(tmp_path, clip=True, element=10)
    with open_session(path, "openvino") as session, pytest.raises(ModelError, match="NaN"):
        session.run(FRAMES)


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_black_pictures_stay_black_and_cost_three_more_runs_at_most(tmp_path, backend, monkeypatch):
    nodes = [
        helper.make_node("Mul", ["input", "no"], ["m"]),
        helper.make_node("Resize", ["m", "", "scales"], ["output"]),
    ]
    weights = {"no": np.array([0, 1, 1], np.float32).reshape(1, 3, 1, 1), "scales": SCALES}
    looked = []
    monkeypatch.setattr("esrgan_deploy.backends.session.show_nan", lambda model: looked.append(1) or show_nan(model))
    path = write_onnx(tmp_path / "cyan.onnx", nodes, weights, ModelInfo(scale=2, overlap=0))
    with open_session(path, backend) as session:
        for _ in range(5):
            assert not session.run(FRAMES)[..., 0].any()
        assert len(looked) == 3
    with open_session(path, backend) as session:
        session.run(np.zeros_like(FRAMES))
        assert len(looked) == 3


def test_a_run_that_fails_says_whether_memory_or_the_model_is_at_fault():
    assert isinstance(run_failure("m", "x", FRAMES, "std::bad_alloc"), MachineError)
    assert isinstance(run_failure("m", "x", FRAMES, "Failed to allocate memory for requested buffer"), MachineError)
    assert isinstance(run_failure("m", "x", FRAMES, "Input channels C is not equal to kernel channels"), ModelError)
