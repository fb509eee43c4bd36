"""How much memory a network takes, reckoned by hand, and what tiles follow from what a machine has."""

import numpy as np
import onnx
import pytest
from onnx import helper

from esrgan_deploy import network_memory, open_session
from esrgan_deploy.network_memory import bytes_per_pixel, largest_tile
from tiny_onnx import write_onnx


def test_what_is_alive_at_the_same_time(blur_x2):
    """Per input pixel: 3 bytes of frame come in and 4 * 3 go out. Most is alive while four enlarged pixels of three
    float32 are transposed from planes, 48 bytes, to pixels, 48 bytes."""
    assert bytes_per_pixel(onnx.load(blur_x2)) == 3 + 12 + 48 + 48


def test_weights_do_not_count_and_short_lived_features_do(tmp_path):
    """Sixteen features, enlarged twice, while the three channels they are made of are still needed at the end."""
    weights = {"wide": np.zeros((16, 3, 3, 3), np.float32), "narrow": np.zeros((3, 16, 3, 3), np.float32)}
    nodes = [
        helper.make_node("Conv", ["input", "wide"], ["features"], pads=[1] * 4),
        helper.make_node("Resize", ["features", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("LeakyRelu", ["large"], ["bent"], alpha=0.2),  # in the place of the large ones
        helper.make_node("Conv", ["bent", "narrow"], ["change"], pads=[1] * 4),
        helper.make_node("Resize", ["input", "", "scales"], ["base"], mode="nearest"),
        helper.make_node("Add", ["base", "change"], ["output"]),
    ]
    path = write_onnx(tmp_path / "net.onnx", nodes, {**weights, "scales": np.array([1, 1, 2, 2], np.float32)})
    frames, planes, features = 3 + 12, 3 * 4, 16 * 4
    assert bytes_per_pixel(onnx.load(path)) == frames + planes + features + 4 * features


def test_an_unknown_operator_hides_the_memory(tmp_path, blur_x2):
    model = onnx.load(blur_x2)
    model.graph.node[0].domain = "someone.else"
    model.opset_import.append(helper.make_opsetid("someone.else", 1))
    assert bytes_per_pixel(model) is None
    assert largest_tile(model, "openvino") is None


@pytest.mark.parametrize(
    ("ram_mib", "free_mib", "used_mib"),
    [(24105, 20000, 7 * 1024), (15900, 9000, 5 * 1024), (15900, 3000, 2560), (3000, 2500, 512), (64000, 50000, 8192)],
)
def test_memory_is_a_share_of_the_machine_s_by_whole_steps(blur_x2, monkeypatch, ram_mib, free_mib, used_mib):
    monkeypatch.setattr(network_memory, "ram_mib", lambda: ram_mib)
    monkeypatch.setattr(network_memory, "free_mib", lambda: free_mib)
    streams = 10000  # else the tile would be the largest that there is
    expected = used_mib * 2**20 / (111 * 1.5 * streams)
    assert largest_tile(onnx.load(blur_x2), "openvino", streams) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("backend", ["openvino", "ort"])
def test_a_small_network_on_a_cpu_gets_the_largest_tile(blur_x2, backend):
    with open_session(blur_x2, backend) as session:
        assert session.largest_untiled == network_memory.MOST_PIXELS
        assert session.any_shape
