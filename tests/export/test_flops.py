"""Arithmetic of exported networks against the published figures, in MFLOP for each pixel of the input."""

import pytest

pytest.importorskip("torch", reason="the networks need the 'export' extra")

from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import ModelInfo
from esrgan_export.networks import MSRResNet, RRDBNet, SRVGGNetCompact
from esrgan_export.to_onnx import export_onnx


def mflop_per_pixel(network, height, width):
    model = export_onnx(network, ModelInfo(scale=network.scale, multiple_of=network.multiple_of))
    return count_flops(model, height, width) / (height * width) / 1e6


def test_rrdbnet_with_23_blocks_x4_to_the_last_operation():
    assert mflop_per_pixel(RRDBNet(blocks=23, scale=4), 6, 10) == 35.853696


@pytest.mark.parametrize(
    ("network", "published"),
    [
        (lambda: RRDBNet(blocks=23, scale=2), 8.966),  # Real-ESRGAN x2plus
        (lambda: RRDBNet(blocks=6, scale=4), 11.413),  # x4plus-anime
        (lambda: RRDBNet(blocks=6, scale=2), 2.856),
        (lambda: SRVGGNetCompact(convs=16, scale=2), 1.197),
        (lambda: SRVGGNetCompact(convs=16, scale=4), 1.238),  # animevideov3
        (lambda: SRVGGNetCompact(convs=32, scale=4), 2.418),  # general-x4v3
    ],
    ids=["x2plus", "x4plus-anime", "6 blocks x2", "compact x2", "animevideov3", "general-x4v3"],
)
def test_published_networks(network, published):
    assert mflop_per_pixel(network(), 8, 12) == pytest.approx(published, abs=5e-4)


def test_msrresnet_against_its_layers():
    """3 -> 64, 32 times 64 -> 64, two sub-pixel steps 64 -> 256, then 64 -> 64 and 64 -> 3 at four times the size."""
    taps = 3 * 64 + 32 * 64 * 64 + 64 * 256 + 4 * 64 * 256 + 16 * (64 * 64 + 64 * 3)
    assert mflop_per_pixel(MSRResNet(blocks=16), 5, 7) == pytest.approx(2 * 9 * taps / 1e6, rel=1e-12)
