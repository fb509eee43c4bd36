"""The part of a real network that is timed for the choice of a backend."""

import pytest

pytest.importorskip("torch", reason="the networks need the 'export' extra")

from esrgan_deploy.model import ModelInfo
from esrgan_deploy.tuning.short_network import shorten
from esrgan_export.networks import RRDBNet
from esrgan_export.to_onnx import export_onnx


def test_of_rrdbnet_two_whole_blocks_are_timed_and_a_part_of_the_third():
    """After one block alone, ONNX Runtime was level with OpenVINO, which the whole network is not."""
    network = RRDBNet(blocks=4, scale=4)
    part = shorten(export_onnx(network, ModelInfo(scale=4, multiple_of=network.multiple_of)))
    convolutions = [node.name for node in part.graph.node if node.op_type == "Conv"]
    by_block = [sum(name.startswith(f"body.{block}.") for name in convolutions) for block in range(4)]
    assert by_block[:2] == [15, 15]
    assert 0 < by_block[2] < 15
    assert by_block[3] == 0
