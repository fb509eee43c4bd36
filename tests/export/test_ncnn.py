"""ncnn files: the ncnn library runs the same files as an oracle, and changed graphs are refused."""

import re
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esrgan_deploy.errors import ModelError
from esrgan_export.checkpoint import load_checkpoint
from esrgan_export.ncnn import read_ncnn
from esrgan_export.networks import RRDBNet, SRVGGNetCompact


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


def rrdbnet_files(folder, network, fp16=False):
    """Write one-block RRDBNet x4 `network` as ncnn's converter does, and return the .param."""
    lines, data = [], bytearray()
    count = iter(range(10**6))

    def layer(kind, inputs, params=""):
        output = f"b{next(count)}"
        lines.append(f"{kind} {kind}_{output} {len(inputs)} 1 {' '.join(inputs)} {output} {params}")
        return output

    def conv(name, x, leaky):
        weight, bias = (network.state_dict()[f"{name}.{part}"].numpy() for part in ("weight", "bias"))
        if fp16:
            half = weight.astype("<f2").tobytes()
            data.extend(struct.pack("<I", 0x01306B47) + half + bytes(-len(half) % 4))
        else:
            data.extend(struct.pack("<I", 0x0002C056) + weight.astype("<f4").tobytes())
        data.extend(bias.astype("<f4").tobytes())
        slope = "9=2 -23310=1,2.000000e-01" if leaky else ""
        return layer("Convolution", [x], f"0={weight.shape[0]} 1=3 4=1 5=1 6={weight.size} {slope}")

    lines.append("Input in 0 1 data")
    first = x = conv("conv_first", "data", leaky=False)
    for k in (1, 2, 3):
        known = [x]
        for j in (1, 2, 3, 4, 5):
            source = known[0] if j == 1 else layer("Concat", known)
            known.append(conv(f"body.0.rdb{k}.conv{j}", source, leaky=j < 5))
        x = layer("Eltwise", [known[-1], x], "0=1 -23301=2,2.000000e-01,1.000000e+00")
    x = layer("Eltwise", [x, first], "0=1 -23301=2,2.000000e-01,1.000000e+00")
    x = layer("BinaryOp", [first, conv("conv_body", x, leaky=False)], "0=0")
    for name in ("conv_up1", "conv_up2"):
        x = conv(name, layer("Interp", [x], "0=1 1=2.000000e+00 2=2.000000e+00"), leaky=True)
    conv("conv_last", conv("conv_hr", x, leaky=True), leaky=False)
    lines[-1] = re.sub(r" b\d+ (?=0=)", " output ", lines[-1])
    text = "\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines])
    folder.joinpath("net.param").write_text(text)
    folder.joinpath("net.bin").write_bytes(data)
    return folder / "net.param"


def srvgg_files(folder, network):
    """Write SRVGGNetCompact `network` (2 inner convolutions, x2) with fp32 weights."""
    state = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    lines, data = ["Input in 0 1 data", "Split s 1 2 data d0 d1"], bytearray()
    blob = "d1"
    for k in range(7):
        weight = state[f"body.{k}.weight"]
        if k % 2:
            lines.append(f"PReLU p{k} 1 1 {blob} b{k} 0={weight.size}")
            data.extend(weight.astype("<f4").tobytes())
        else:
            lines.append(f"Convolution c{k} 1 1 {blob} b{k} 0={len(weight)} 1=3 4=1 5=1 6={weight.size}")
            data.extend(bytes(4) + weight.astype("<f4").tobytes() + state[f"body.{k}.bias"].astype("<f4").tobytes())
        blob = f"b{k}"
    lines += ["PixelShuffle up 1 1 b6 fine 0=2", "Interp near 1 1 d0 base 0=1 1=2.0 2=2.0"]
    lines += ["BinaryOp add 2 1 fine base output 0=0"]
    folder.joinpath("net.param").write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]))
    folder.joinpath("net.bin").write_bytes(data)
    return folder / "net.param"


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
