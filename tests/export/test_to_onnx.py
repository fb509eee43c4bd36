"""The ONNX file does what the network does, and keeps the contract."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from esrgan_deploy.errors import OptionError
from esrgan_deploy.model import ModelInfo, load_onnx
from esrgan_export.to_onnx import export_onnx
from small_networks import CONFIGS, small_image, small_network


def export(network, **options):
    info = ModelInfo(scale=network.scale, multiple_of=network.multiple_of, arch=network.config())
    return export_onnx(network, info, **options)


def run(model, image):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": image.numpy()})[0]


def dims(value):
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("kind", CONFIGS)
def test_computes_what_torch_computes_and_clamps(kind):
    network = small_network(kind)
    image = small_image()
    expected = network(image).clamp(0, 1).numpy()
    assert expected.std() > 0.1, "a flat picture would prove nothing"
    np.testing.assert_allclose(run(export(network), image), expected, atol=2e-5)


@pytest.mark.parametrize(("bias", "limit"), [(9.0, 1.0), (-9.0, 0.0)])
def test_output_is_clamped(bias, limit):
    network = small_network("rrdb")
    network.conv_last.bias += bias
    assert (run(export(network), small_image()) == limit).all()


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "srresnet"])
def test_initialisers_are_the_state_dict(kind):
    network = small_network(kind)
    model = export(network)
    state = network.state_dict()
    assert [tensor.name for tensor in model.graph.initializer] == list(state)
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor).squeeze(), state[tensor.name].squeeze())


@pytest.mark.parametrize("kind", ["rrdb", "srvgg", "srresnet"])
def test_names_and_order_do_not_depend_on_the_values(kind):
    equal = small_network(kind, seed=1)
    for parameter in equal.parameters():
        parameter.fill_(0.25)  # tensors of equal value are merged by the exporter of PyTorch
    graphs = [export(network).graph for network in (small_network(kind), equal)]
    names = [[tensor.name for tensor in graph.initializer] for graph in graphs]
    nodes = [[node.name for node in graph.node] for graph in graphs]
    assert names[0] == names[1]
    assert nodes[0] == nodes[1]
    assert len(set(nodes[0])) == len(nodes[0])


def test_batch_normalisation_is_folded():
    operators = {node.op_type for node in export(small_network("srresnet")).graph.node}
    assert operators == {"Add", "Clip", "Constant", "Conv", "DepthToSpace", "PRelu"}


def test_pixel_unshuffle_is_space_to_depth():
    operators = [node.op_type for node in export(small_network("rrdb-x2")).graph.node]
    assert operators.count("SpaceToDepth") == 3
    assert not {"Reshape", "Transpose", "Gather"} & set(operators)


def test_nodes_are_named_by_their_weights():
    names = {node.name for node in export(small_network("rrdb")).graph.node}
    assert {"conv_first", "body.0.rdb1.conv1", "body.1.rdb3.conv5", "conv_last"} <= names


def test_versions_are_those_of_tensorrt_8_5():
    model = export(small_network("srvgg"))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8


def test_size_is_symbolic_and_the_batch_is_one():
    graph = export(small_network("srvgg")).graph
    assert dims(graph.input[0]) == [1, 3, "H", "W"]
    assert dims(graph.output[0]) == [1, 3, "H_out", "W_out"]


def test_batch_can_be_symbolic():
    network = small_network("rrdb-x2")
    model = export(network, dynamic_batch=True)
    assert dims(model.graph.input[0]) == ["N", 3, "H", "W"]
    images = torch.cat([small_image(seed=1), small_image(seed=2)])
    np.testing.assert_allclose(run(model, images), network(images).clamp(0, 1), atol=2e-5)


def test_size_can_be_fixed():
    graph = export(small_network("rrdb-x2"), static_shape=(20, 28)).graph
    assert dims(graph.input[0]) == [1, 3, 20, 28]
    assert dims(graph.output[0]) == [1, 3, 40, 56]


@pytest.mark.parametrize("shape", [(20, 27), (0, 28), (-2, 28)])
def test_size_must_fit_the_network(shape):
    with pytest.raises(OptionError, match=f"{shape[1]}x{shape[0]}.*multiples of 2"):
        export(small_network("rrdb-x2"), static_shape=shape)


def test_metadata_comes_back_from_the_file(tmp_path):
    network = small_network("rrdb")
    info = ModelInfo(scale=4, alpha=0.8, arch=network.config(), gan_sha256="ab" * 32, created_by="a test")
    path = tmp_path / "model.onnx"
    path.write_bytes(export_onnx(network, info).SerializeToString())
    model, found = load_onnx(path)
    assert found == info
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata == info.to_metadata()
    assert json.loads(metadata["esrgan.arch"])["blocks"] == 2


def test_the_network_stays_as_it_was():
    network = small_network("srresnet")
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    export(network)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_says_nothing_on_the_terminal(capfd):
    export(small_network("rrdb-x2"))
    assert capfd.readouterr() == ("", "")
