"""ncnn files: the ncnn library runs the same files as an oracle, and changed graphs are refused."""

import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esrgan_deploy import ModelInfo, __version__
from esrgan_deploy.errors import ModelError
from esrgan_deploy.ncnn import onnx_from_ncnn
from esrgan_export.checkpoint import load_checkpoint
from esrgan_export.ncnn import read_ncnn
from esrgan_export.networks import RRDBNet, SRVGGNetCompact
from esrgan_export.to_onnx import export_onnx
from ncnn_writer import write_rrdbnet, write_srvgg
from small_networks import small_network


def photo_like(height, width):
    """(1, 3, H, W) in [0, 1]: smooth shades with an edge and a little grain."""
    y, x = np.mgrid[0:height, 0:width]
    shades = 0.5 + 0.4 * np.stack([np.sin(x / 4.0), np.cos(y / 3.0), np.sin((x + y) / 5.0)])
    shades += 0.05 * np.random.default_rng(3).standard_normal(shades.shape) + 0.3 * (x > y)
    return torch.from_numpy(shades.clip(0, 1).astype(np.float32))[None]


def run_with_ncnn(param, weights, image):
    """What the ncnn library computes in fp32 on the CPU."""
    ncnn = pytest.importorskip("ncnn", reason="the oracle is the 'ncnn' wheel")
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.lightmode = False  # a blob may be read twice without a Split, which the small files below go without
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert net.load_param(str(param)) == 0
    assert net.load_model(str(weights)) == 0
    extractor = net.create_extractor()
    extractor.input("data", ncnn.Mat(image[0].numpy()).clone())  # Mat does not copy the array it is made from
    status, output = extractor.extract("output")
    assert status == 0
    return torch.from_numpy(np.array(output))[None]


def assert_agrees_with_ncnn(network, param, image):
    oracle = run_with_ncnn(param, param.with_suffix(".bin"), image)
    with torch.no_grad():
        ours = network(image)
    assert oracle.shape == ours.shape
    assert 0.1 < oracle.mean() < 0.9, "the oracle gives no picture"
    assert (oracle - ours).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("name", "size", "config"),
    [
        ("X4PLUSANIME", (24, 20), RRDBNet(blocks=6).config()),
        ("ANIMAVIDEOV3", (20, 24), SRVGGNetCompact(convs=16).config()),
        ("X4PLUS", (16, 16), RRDBNet(blocks=23).config()),
    ],
)
def test_real_networks_agree_with_ncnn(ncnn_folder, name, size, config):
    param = ncnn_folder / f"REALESRGAN_{name}_UP4X.param"
    network = load_checkpoint(param).network
    assert network.config() == config
    assert_agrees_with_ncnn(network, param, photo_like(*size))


def state(network):
    return {key: tensor.numpy() for key, tensor in network.state_dict().items()}


def rrdbnet_files(folder, network, fp16=False):
    """`network` as ncnn's converter writes it; returns the .param."""
    return write_rrdbnet(folder, state(network), network.blocks, network.scale, fp16)


def srvgg_files(folder, network):
    return write_srvgg(folder, state(network), network.scale)


@pytest.fixture
def rrdbnet(tiny_pair):
    network = RRDBNet(8, 4, 1)
    state = {k: v for k, v in tiny_pair[0].network.state_dict().items() if not k.startswith("body.1.")}
    network.load_state_dict(state)
    with torch.no_grad():  # shift the output into the range of pictures
        network.conv_last.weight *= 0.2
        network.conv_last.bias.fill_(0.5)
    return network


@pytest.fixture
def srvgg():
    return SRVGGNetCompact(8, 2, 2)


@pytest.mark.parametrize("fp16", [False, True])
def test_both_weight_types(tmp_path, rrdbnet, fp16):
    """9 * 3 * 8 = 216 weights are whole words in fp16; the padding of 9 * 3 * 7 is tested below."""
    param = rrdbnet_files(tmp_path, rrdbnet, fp16)
    network = load_checkpoint(param).network
    for key, stored in rrdbnet.state_dict().items():
        expected = stored.half().float() if fp16 and key.endswith("weight") else stored
        assert torch.equal(network.state_dict()[key], expected), key
    assert_agrees_with_ncnn(network, param, photo_like(7, 9))


def test_fp16_weights_are_padded_to_whole_words(tmp_path):
    network = RRDBNet(7, 3, 1)
    assert network.conv_first.weight.numel() % 2 == 1
    loaded = read_ncnn(rrdbnet_files(tmp_path, network, fp16=True), tmp_path / "net.bin")
    assert torch.equal(loaded.conv_last.bias, network.conv_last.bias)


KINDS = ("rrdb", "rrdb-x8", "rrdb-x2", "rrdb-x1", "srvgg")


def files_of(folder, network):
    return srvgg_files(folder, network) if isinstance(network, SRVGGNetCompact) else rrdbnet_files(folder, network)


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_is_recognised_and_gives_the_picture_that_ncnn_gives(tmp_path, kind):
    network = small_network(kind)
    param = files_of(tmp_path, network)
    loaded = load_checkpoint(param).network
    assert loaded.config() == network.config()
    assert all(torch.equal(loaded.state_dict()[key], stored) for key, stored in network.state_dict().items())
    assert_agrees_with_ncnn(loaded, param, photo_like(12, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_the_onnx_form_is_byte_for_byte_what_export_makes(tmp_path, kind):
    param = files_of(tmp_path, small_network(kind))
    assert_same_artefact(param, load_checkpoint(param))


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_onnx_form_at_other_scales(tmp_path, scale):
    param = srvgg_files(tmp_path, SRVGGNetCompact(6, 3, scale))
    assert_same_artefact(param, load_checkpoint(param))


@pytest.mark.parametrize("name", ["X4PLUSANIME", "ANIMAVIDEOV3"])
def test_the_onnx_form_of_real_networks_too(ncnn_folder, name):
    param = ncnn_folder / f"REALESRGAN_{name}_UP4X.param"
    assert_same_artefact(param, load_checkpoint(param))


def assert_same_artefact(param, checkpoint):
    network = checkpoint.network
    info = ModelInfo(
        scale=network.scale,
        multiple_of=network.multiple_of,
        overlap=17,
        arch=network.config(),
        gan_sha256=checkpoint.sha256,
        created_by=f"esrgan-deploy {__version__}",
    )
    ours, theirs = onnx_from_ncnn(param, param.with_suffix(".bin"), overlap=17), export_onnx(network, info)
    assert [node.name for node in ours.graph.node] == [node.name for node in theirs.graph.node]
    assert ours.SerializeToString() == theirs.SerializeToString(), "the difference is in no name"


def test_srvgg_without_tags(tmp_path, srvgg):
    """Tag 0 is fp32 as well."""
    network = read_ncnn(srvgg_files(tmp_path, srvgg), tmp_path / "net.bin")
    assert network.config() == srvgg.config()
    assert all(torch.equal(network.state_dict()[key], stored) for key, stored in srvgg.state_dict().items())


def refused(param, says):
    with pytest.raises(ModelError) as info:
        read_ncnn(param, param.with_suffix(".bin"))
    message = str(info.value)
    assert "\n" not in message
    assert str(param.with_suffix("")) in message
    assert re.search(says, message), message


def change(param, old, new, which=0):
    """Replace the `which`-th match of `old` in the graph; negative counts from the end."""
    text = param.read_text()
    match = list(re.finditer(old, text, re.MULTILINE))[which]
    param.write_text(text[: match.start()] + match.expand(new) + text[match.end() :])


SLOPE, EYE = r"-23310=1,2\.000000e-01", "2.000000e-01,1.000000e+00"


@pytest.mark.parametrize(
    ("old", "new", "which", "says"),
    [
        (SLOPE, "-23310=1,1.000000e-01", 0, r"does not read what body\.0\.rdb1\.conv2 "),
        (SLOPE, "-23310=1,2.010000e-01", 5, r"does not read what body\.0\.rdb2\.conv3 "),
        (SLOPE, "-23310=1,1.000000e-01", -1, r"does not read what conv_last "),
        (r"9=2 -23310=\S+", "", 0, r"does not read what body\.0\.rdb1\.conv2 "),
        (r"9=2 -23310=\S+", "9=1", 3, r"does not read what body\.0\.rdb1\.conv5 "),
        (r"9=2 -23310=\S+", "9=5", 0, "activation 5 is neither"),
        (r"=2,2.000000e-01,1", "=2,1.000000e-01,1", 0, r"does not read what body\.0\.rdb2\.conv1 "),
        (r"=2,2.000000e-01,1", "=2,1.000000e+00,1", 3, r"does not read what conv_body "),
        (r"(Concat \S+ 2 1) (\S+) (\S+)", r"\1 \3 \2", 0, r"does not read what body\.0\.rdb1\.conv2 "),
        (r"(Concat \S+ 3 1) (\S+) (\S+) (\S+)", r"\1 \2 \4 \3", 1, r"does not read what body\.0\.rdb2\.conv3 "),
        (r"(BinaryOp \S+ 2 1) (\S+) (\S+)", r"\1 \3 \3", 0, r"does not read what conv_up1 "),
        (r"(BinaryOp.*) 0=0", r"\1 0=2", 0, r"does not read what conv_up1 "),
        (r"(BinaryOp.*) 0=0", r"\1 0=1", 0, "operation 1 is neither addition nor multiplication"),
        (r"0=1 1=2.0\S+ 2=2.0\S+", "0=2 1=2.0 2=2.0", 1, r"Interp \S+ has parameter 0=\[2.0\]"),
        (r"0=1 1=2.0\S+ 2=2.0\S+", "1=2.0 2=2.0", 1, r"Interp \S+ does not say its mode"),
        (r"0=1 1=2.0\S+ 2=2.0\S+", "0=1 1=3.0 2=3.0", 0, r"does not read what conv_up1 "),
        (r"0=1 1=2.0\S+ 2=2.0\S+", "0=1 1=1e9 2=1e9", 0, "factor 1e\\+09 is no whole number from 1 to 8"),
        (r"1=3 4=1 5=1", "1=3 3=2 4=1 5=1", 0, r"has parameter 3=\[2.0\]"),
        (r"1=3 4=1 5=1", "1=3 4=0 5=1", 0, r"cannot be computed|does not read"),
        (r"4=1 5=1 6=216", "4=1 5=1 6=215", 0, "do not fill"),
        (r"^Convolution", "DeconvolutionDepthWise", 0, "is a DeconvolutionDepthWise, which no supported network has"),
        (r"^Input .*\n", "", 0, "announces"),
        (r"1 1 b4 ", "1 1 nowhere ", 0, "cannot be computed .*nowhere"),
        (r" 7767517|7767517", "7767518", 0, "is not an ncnn graph"),
        (r"(Concat \S+) 2 1", r"\1 two 1", 0, "is damaged"),
    ],
)
def test_changed_rrdbnet_is_refused(tmp_path, rrdbnet, old, new, which, says):
    param = rrdbnet_files(tmp_path, rrdbnet)
    read_ncnn(param, tmp_path / "net.bin")
    change(param, old, new, which)
    refused(param, says)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (r"1 1 d0 base 0=1 1=2.0 2=2.0", "1 1 d0 base 0=2 1=2.0 2=2.0", r"parameter 0=\[2.0\]"),
        (r"fine base output 0=0", "fine fine output 0=0", "has 2 outputs: base, output"),
        (
            r"fine base output 0=0",
            "fine base output 0=2",
            "what follows layer c6 is not what SRVGGNetCompact does there",
        ),
        (r"b6 fine 0=2", "b6 fine 0=2 1=1", r"PixelShuffle up has parameter 1=\[1.0\]"),
        (r"b6 fine 0=2", "b6 fine 0=3", r"weights \(12, 8, 3, 3\), body\.6 \(27, 8, 3, 3\)"),
        (r"1 1 b0 b1", "1 1 d1 b1", "cannot be computed|does not read"),
        (r"(?s)b6 fine.*", "b6 output 0=2", "announces"),
    ],
)
def test_changed_srvgg_is_refused(tmp_path, srvgg, old, new, says):
    param = srvgg_files(tmp_path, srvgg)
    read_ncnn(param, tmp_path / "net.bin")
    change(param, old, new)
    refused(param, says)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_word_is_refused_or_makes_no_difference(tmp_path, srvgg, data):
    param = srvgg_files(tmp_path, srvgg)
    words = re.split(r"(\s+)", param.read_text())
    values = st.sampled_from(words) | st.sampled_from(
        ["0=nan", "0=1e999", "-23300=0", "6=-1", "1=1e9", "-1", "0=", "="]
    )
    words[data.draw(st.integers(0, len(words) - 1))] = data.draw(values)
    param.write_text("".join(words))
    try:
        network = read_ncnn(param, tmp_path / "net.bin")
    except ModelError:
        refused(param, "")
    else:
        assert all(torch.equal(network.state_dict()[key], stored) for key, stored in srvgg.state_dict().items())


def test_swapped_layers_of_equal_shape_are_noticed(tmp_path, rrdbnet):
    """conv_up1 and conv_hr hold 8x8x3x3 weights each; only the values say which is which."""
    param = rrdbnet_files(tmp_path, rrdbnet)
    lines = param.read_text().splitlines()
    interps = [k for k, line in enumerate(lines) if line.startswith("Interp")]
    up1 = lines[interps[0] + 1]
    lines.remove(up1)
    lines.insert(-1, up1)
    param.write_text("\n".join(lines))
    refused(param, "cannot be computed|does not read")


def test_x2_and_x3_video_models_only_shrink_the_x4_picture(ncnn_folder):
    refused(ncnn_folder / "REALESRGAN_ANIMAVIDEOV3_UP2X.param", "Interp Resize_40 shrinks .* --outscale")


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        (lambda data: b"", "ends at Convolution_b0, after 0 bytes: it was truncated"),
        (lambda data: data[: len(data) // 2], "it was truncated"),
        (lambda data: data[:-1], "it was truncated"),
        (lambda data: data + bytes(4), "4 bytes of the .bin are left over"),
        (lambda data: b"\x38\x4b\x0d\x00" + data[4:], "tag 0x000d4b38, neither fp16 nor fp32"),
    ],
)
def test_damaged_bin(tmp_path, rrdbnet, cut, says):
    param = rrdbnet_files(tmp_path, rrdbnet)
    weights = param.with_suffix(".bin")
    weights.write_bytes(cut(weights.read_bytes()))
    refused(param, says)


def test_nan_in_a_bin(tmp_path, rrdbnet):
    with torch.no_grad():
        rrdbnet.conv_hr.bias[3] = float("nan")
    param = rrdbnet_files(tmp_path, rrdbnet)
    with pytest.raises(ModelError, match="NaN or infinite"):
        load_checkpoint(param)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an ncnn graph"),
        (b"\xff\xfe\x00", "is not text"),
        (b"7767517\n", "is damaged"),
        (b"hello", "not an ncnn"),
    ],
)
def test_param_of_another_kind(tmp_path, data, says):
    (tmp_path / "net.param").write_bytes(data)
    (tmp_path / "net.bin").write_bytes(b"")
    refused(tmp_path / "net.param", says)
