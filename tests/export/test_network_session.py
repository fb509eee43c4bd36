"""A PyTorch network as a Session, against the exported ONNX of the same network and against plain PyTorch."""

import numpy as np
import pytest
import torch

from esrgan_deploy import MachineError, ModelError, ModelInfo, OptionError, Upscaler, open_session
from esrgan_export.network_session import NetworkSession
from esrgan_export.networks import SRVGGNetCompact
from esrgan_export.to_onnx import export_onnx
from small_networks import small_network


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_frames_are_what_the_exported_network_makes_of_them(tmp_path, rng, dtype, largest):
    network = small_network("srvgg")
    info = ModelInfo(scale=4)
    (tmp_path / "n.onnx").write_bytes(export_onnx(network, info).SerializeToString())
    batch = rng.integers(0, largest + 1, (2, 13, 18, 3)).astype(dtype)
    with NetworkSession(network) as ours, open_session(tmp_path / "n.onnx", "ort") as theirs:
        assert (ours.info.scale, ours.backend, ours.precision) == (4, "torch", "fp32")
        result, expected = ours.run(batch), theirs.run(batch)
    assert result.dtype == dtype
    assert result.shape == (2, 52, 72, 3)
    difference = np.abs(result.astype(int) - expected.astype(int))
    assert difference.max() <= 1  # half-way cases may round either way in float32
    assert (difference > 0).mean() < 0.01
    assert {0, largest} < set(expected.flat)  # the clamp had something to do


class Constant(SRVGGNetCompact):
    """Gives its input times `factor`, without any rounding of its own; or raises `error`."""

    def __init__(self, factor, error=None):
        super().__init__(channels=8, convs=1, scale=1)
        self.factor, self.error = factor, error

    def forward(self, image):
        if self.error:
            raise self.error
        return image * self.factor


def test_rounding_is_half_to_even_and_done_once():
    frame = np.array([1, 3, 5, 255], np.uint8).repeat(3).reshape(1, 1, 4, 3)
    with NetworkSession(Constant(0.5)) as session:
        assert session.run(frame)[0, 0, :, 0].tolist() == [0, 2, 2, 128]  # 0.5 1.5 2.5 127.5
    with NetworkSession(Constant(1.0)) as session:
        every = np.arange(65536, dtype=np.uint16).repeat(3).reshape(1, 256, 256, 3)
        np.testing.assert_array_equal(session.run(every), every)
    with NetworkSession(Constant(-1.0)) as session:
        assert not session.run(frame).any()


def test_tiles_join_to_the_whole(rng):
    frame = rng.integers(0, 256, (40, 56, 3)).astype(np.uint8)
    with Upscaler(NetworkSession(small_network("srvgg")), tile=0) as whole:
        expected = whole.upscale(frame)
    with Upscaler(NetworkSession(small_network("srvgg")), tile=24, overlap=8) as tiled:
        difference = np.abs(tiled.upscale(frame).astype(int) - expected)
    assert difference.max() <= 1


def test_sizes_that_the_network_cannot_take_are_padded_and_cropped(rng):
    frame = rng.integers(0, 256, (1, 7, 9, 3)).astype(np.uint8)
    network = small_network("rrdb-x2")
    with NetworkSession(network) as session:
        result = session.run(frame)
    padded = np.pad(frame, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    planes = torch.from_numpy(padded).permute(0, 3, 1, 2) / 255
    expected = (network(planes).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()
    assert result.shape == (1, 14, 18, 3)
    assert np.abs(result[0] - expected[:14, :18]).max() <= 1


def test_training_network_is_evaluated_and_handed_back(rng):
    """Batch normalisation would otherwise make results depend on the frame, and validation would change the network."""
    network = small_network("srresnet").requires_grad_(True)
    frame = rng.integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    with NetworkSession(network) as session:
        expected = session.run(frame)
    network.train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    graphs = []
    network.register_forward_hook(lambda _network, _inputs, output: graphs.append(output.requires_grad))
    with NetworkSession(network) as session:
        np.testing.assert_array_equal(session.run(frame), expected)
    assert network.training
    assert graphs == [False]  # or validation would hold every activation
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    network(torch.rand(1, 3, 8, 8)).sum().backward()  # the weights are still ordinary tensors


def test_network_that_diverged_is_refused(rng):
    frame = rng.integers(1, 256, (1, 6, 5, 3)).astype(np.uint8)
    with (
        NetworkSession(Constant(float("nan"))) as session,
        pytest.raises(ModelError, match="NaN on a 5x6 frame"),
    ):
        session.run(frame)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_names_the_remedy(error):
    with NetworkSession(Constant(1.0, error)) as session, pytest.raises(MachineError, match="smaller tile") as caught:
        session.run(np.zeros((1, 6, 5, 3), np.uint8))
    assert "5x6" in str(caught.value)


def test_other_errors_of_the_network_are_not_hidden():
    with NetworkSession(Constant(1.0, RuntimeError("shape mismatch"))) as session, pytest.raises(RuntimeError):
        session.run(np.zeros((1, 6, 5, 3), np.uint8))


def test_floats_are_refused():
    with NetworkSession(Constant(1.0)) as session, pytest.raises(OptionError, match="uint8 or uint16"):
        session.run(np.zeros((1, 6, 5, 3), np.float32))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_gpu_gives_what_the_cpu_gives(rng):
    frame = rng.integers(0, 256, (1, 40, 56, 3)).astype(np.uint8)
    results = []
    for device in ("cpu", "cuda"):
        with NetworkSession(small_network("rrdb").to(device)) as session:
            results.append(session.run(frame).astype(int))
    assert np.abs(results[0] - results[1]).max() <= 1
