"""Small ONNX networks whose result is easy to state in numpy. Nothing under tests/runtime needs torch."""

import numpy as np
import pytest
from onnx import helper

from esrgan_deploy import ModelInfo
from tiny_onnx import write_onnx


@pytest.fixture(scope="session")
def blur_x2(tmp_path_factory):
    """A 3x3 box blur with zero padding (radius 1), then nearest x2. See `blur_x2_in_numpy`."""
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    for channel in range(3):
        kernel[channel, channel] = 1 / 9
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["blurred"], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["blurred", "", "scales"], ["output"], mode="nearest"),
    ]
    weights = {"kernel": kernel, "scales": np.array([1, 1, 2, 2], np.float32)}
    return write_onnx(tmp_path_factory.mktemp("onnx") / "blur.onnx", nodes, weights, ModelInfo(scale=2, overlap=2))


@pytest.fixture(scope="session")
def unshuffle_x2(tmp_path_factory):
    """Pixel-unshuffle by 2, then every pixel of the block repeated: identity x2 that needs even sizes."""
    # SpaceToDepth puts channel c of block position p at p * 3 + c; DepthToSpace (DCR) by 4 reads 16 positions.
    weight = np.zeros((48, 12, 1, 1), np.float32)
    for y in range(4):
        for x in range(4):
            for c in range(3):
                weight[(y * 4 + x) * 3 + c, (y // 2 * 2 + x // 2) * 3 + c] = 1
    nodes = [
        helper.make_node("SpaceToDepth", ["input"], ["blocks"], blocksize=2),
        helper.make_node("Conv", ["blocks", "weight"], ["spread"]),
        helper.make_node("DepthToSpace", ["spread"], ["output"], blocksize=4, mode="DCR"),
    ]
    info = ModelInfo(scale=2, overlap=0, multiple_of=2)
    return write_onnx(tmp_path_factory.mktemp("onnx") / "unshuffle.onnx", nodes, {"weight": weight}, info)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="session", autouse=True)
def no_memory_of_tuning(tmp_path_factory):
    """What was tuned on this machine must not decide what a test runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
