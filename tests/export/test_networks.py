"""Every generator against published counts and against its paper's equations, written out with plain convolutions."""

import io

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from esrgan_deploy.errors import ModelError, OptionError
from esrgan_export.networks import NETWORKS, MSRResNet, RRDBNet, SRResNet, SRVGGNetCompact, build

SMALL = [
    *(RRDBNet(8, 4, 2, scale, block) for scale in (1, 2, 4, 8) for block in ("residual", "dense", "rrdb")),
    RRDBNet(8, 4, 2, 4, "residual-bn"),
    *(SRVGGNetCompact(8, 3, scale) for scale in (1, 2, 3, 4)),
    SRResNet(8, 2),
    *(MSRResNet(8, 2, scale) for scale in (2, 3, 4)),
]


def name_of(network):
    return "-".join(str(value) for value in network.config().values())


def random_weights(network):
    """Weights of ordinary size everywhere: fresh networks are so small inside that errors there would not show."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
        for name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else -0.5))
    return network.double().eval()


@pytest.mark.parametrize(
    ("network", "published"),
    [
        (RRDBNet(blocks=23), 16_697_987),
        (RRDBNet(blocks=6), 4_467_779),
        (SRVGGNetCompact(convs=16, scale=4), 621_424),
        (MSRResNet(), 1_517_571),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parameter_count_is_the_published_one(network, published):
    assert network.parameter_count() == published


def test_srresnet_has_the_layers_of_the_papers_figure():
    conv = 64 * 64 * 9 + 64
    block = 2 * conv + 2 * 2 * 64 + 64
    ends = (3 * 81 * 64 + 64) + (64 * 81 * 3 + 3)
    up = 2 * (64 * 9 * 256 + 256)
    slopes_and_norms = 64 + 2 * 64 + 2 * 64  # behind the first convolution, before the long skip, in both steps
    assert SRResNet().parameter_count() == ends + 16 * block + conv + up + slopes_and_norms


@pytest.mark.parametrize("network", SMALL, ids=name_of)
def test_output_is_scale_times_the_input(network):
    side = 4 * network.multiple_of
    assert network(torch.rand(2, 3, side, 2 * side)).shape == (2, 3, side * network.scale, 2 * side * network.scale)


@pytest.mark.parametrize("network", SMALL, ids=name_of)
def test_config_and_recognise_describe_the_same_network(network):
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    found = [config for kind in NETWORKS.values() if (config := kind.recognise(shapes))]
    assert found == [network.config()]
    assert {key: tensor.shape for key, tensor in build(found[0]).state_dict().items()} == shapes


def norm(weights, x, name):
    mean, var, gamma, beta = (
        weights[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return gamma * (x - mean) / torch.sqrt(var + 1e-5) + beta


def rrdbnet_by_hand(weights, image, scale, block, blocks):
    """ESRGAN's figures 3 and 4 with beta = 0.2; x1 and x2 rearrange pixels into channels first, as Real-ESRGAN."""

    def conv(x, name):
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    def lrelu(x):
        return torch.where(x > 0, x, 0.2 * x)

    def dense(x, name):
        known = [x]
        for k in (1, 2, 3, 4):
            known.append(lrelu(conv(torch.cat(known, 1), f"{name}.conv{k}")))
        return x + 0.2 * conv(torch.cat(known, 1), f"{name}.conv5")

    def basic(x, name):
        if block == "residual":
            return x + 0.2 * conv(conv(x, f"{name}.conv1").clamp(min=0), f"{name}.conv2")
        if block == "residual-bn":
            inner = norm(weights, conv(x, f"{name}.conv1"), f"{name}.bn1").clamp(min=0)
            return x + 0.2 * norm(weights, conv(inner, f"{name}.conv2"), f"{name}.bn2")
        if block == "dense":
            return dense(x, name)
        y = x
        for k in (1, 2, 3):
            y = dense(y, f"{name}.rdb{k}")
        return x + 0.2 * y

    r = {1: 4, 2: 2}.get(scale, 1)
    n, c, h, w = image.shape
    x = image.reshape(n, c, h // r, r, w // r, r).permute(0, 1, 3, 5, 2, 4).reshape(n, c * r * r, h // r, w // r)
    first = y = conv(x, "conv_first")
    for k in range(blocks):
        y = basic(y, f"body.{k}")
    y = first + conv(y, "conv_body")
    for step in ("conv_up1", "conv_up2", "conv_up3")[: 3 if scale == 8 else 2]:
        y = lrelu(conv(y.repeat_interleave(2, 2).repeat_interleave(2, 3), step))
    return conv(lrelu(conv(y, "conv_hr")), "conv_last")


@pytest.mark.parametrize("block", ["residual", "residual-bn", "dense", "rrdb"])
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_rrdbnet_follows_the_paper(scale, block):
    network = random_weights(RRDBNet(6, 3, 2, scale, block))
    image = torch.rand(1, 3, 8, 12, dtype=torch.float64)
    by_hand = rrdbnet_by_hand(network.state_dict(), image, scale, block, blocks=2)
    torch.testing.assert_close(network(image), by_hand, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", lambda x, _: x.clamp(min=0)),
        ("leakyrelu", lambda x, _: torch.where(x > 0, x, 0.1 * x)),
        ("prelu", lambda x, slope: torch.where(x > 0, x, slope.view(1, -1, 1, 1) * x)),
    ],
)
def test_srvgg_is_a_chain_plus_the_enlarged_input(activation, function):
    network = random_weights(SRVGGNetCompact(6, 2, 3, activation))
    weights = network.state_dict()
    image = torch.rand(1, 3, 7, 5, dtype=torch.float64)
    x = image
    for k in (0, 2, 4, 6):
        x = F.conv2d(x, weights[f"body.{k}.weight"], weights[f"body.{k}.bias"], padding=1)
        x = function(x, weights.get(f"body.{k + 1}.weight")) if k < 6 else x
    # channel 9c + 3i + j holds row i, column j of the 3x3 cell that a pixel of colour c becomes
    cells = x.reshape(1, 3, 3, 3, 7, 5).permute(0, 1, 4, 2, 5, 3).reshape(1, 3, 21, 15)
    by_hand = cells + image.repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(network(image), by_hand, rtol=1e-10, atol=1e-12)


def test_srresnet_follows_the_paper():
    network = random_weights(SRResNet(6, 2))
    weights = network.state_dict()

    def conv(x, name):
        weight = weights[f"{name}.weight"]
        return F.conv2d(x, weight, weights[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def prelu(x, name):
        return torch.where(x > 0, x, weights[f"{name}.weight"].view(1, -1, 1, 1) * x)

    image = torch.rand(1, 3, 6, 9, dtype=torch.float64)
    first = x = prelu(conv(image, "conv_first"), "prelu_first")
    for k in ("body.0", "body.1"):
        inner = prelu(norm(weights, conv(x, f"{k}.conv1"), f"{k}.bn1"), f"{k}.prelu")
        x = x + norm(weights, conv(inner, f"{k}.conv2"), f"{k}.bn2")
    x = first + norm(weights, conv(x, "conv_body"), "bn_body")
    for step in ("up1", "up2"):
        x = prelu(F.pixel_shuffle(conv(x, f"conv_{step}"), 2), f"prelu_{step}")
    assert weights["conv_first.weight"].shape[-2:] == weights["conv_last.weight"].shape[-2:] == (9, 9)
    torch.testing.assert_close(network(image), conv(x, "conv_last"), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_msrresnet_follows_basicsr(scale):
    network = random_weights(MSRResNet(6, 2, scale))
    weights = network.state_dict()

    def conv(x, name):
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    def lrelu(x):
        return torch.where(x > 0, x, 0.1 * x)

    image = torch.rand(1, 3, 6, 9, dtype=torch.float64)
    x = lrelu(conv(image, "conv_first"))
    for k in ("body.0", "body.1"):
        x = x + conv(conv(x, f"{k}.conv1").clamp(min=0), f"{k}.conv2")
    for step, factor in {2: [("upconv1", 2)], 3: [("upconv1", 3)], 4: [("upconv1", 2), ("upconv2", 2)]}[scale]:
        x = lrelu(F.pixel_shuffle(conv(x, step), factor))
    enlarged = F.interpolate(image, size=(6 * scale, 9 * scale), mode="bilinear")
    by_hand = conv(lrelu(conv(x, "conv_hr")), "conv_last") + enlarged
    torch.testing.assert_close(network(image), by_hand, rtol=1e-10, atol=1e-12)


def test_each_rrdb_sees_15_pixels_further():
    """Fifteen 3x3 convolutions in a row: the theoretical radius of 23 blocks is 15 * 23 plus the head and tail."""

    def radius(blocks):
        network = RRDBNet(2, 1, blocks).double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(0.1)
        image = torch.zeros(1, 3, 1, 81, dtype=torch.float64, requires_grad=True)
        network(image)[0, 0, 0, 4 * 40].backward()
        return 40 - int(image.grad[0, 0, 0].nonzero()[0])

    assert radius(2) - radius(1) == 15


def test_blocks_start_small_and_the_ends_do_not():
    """He's deviation sqrt(2 / fan-in) times 0.1 in the blocks; PyTorch's uniform default elsewhere."""
    network = RRDBNet(blocks=1)
    conv = network.body[0].rdb2.conv4
    assert conv.weight.std().item() == pytest.approx(0.1 * (2 / (9 * 160)) ** 0.5, rel=0.03)
    assert not conv.bias.any()
    assert network.conv_hr.weight.std().item() == pytest.approx((1 / (9 * 64)) ** 0.5 / 3**0.5, rel=0.03)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("network", SMALL[2:12:3] + SMALL[12:13] + SMALL[-5:], ids=name_of)
def test_onnx_opset_17_with_symbolic_size_computes_the_same(network):
    network = random_weights(network).float()
    file = io.BytesIO()
    side = 4 * network.multiple_of
    size = {2: "H", 3: "W"}
    torch.onnx.export(
        network, (torch.rand(1, 3, side, side),), file, opset_version=17, dynamo=False,
        input_names=["input"], output_names=["output"], dynamic_axes={"input": size},
    )  # fmt: skip
    model = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(model, full_check=True)
    known = {"Conv", "Add", "Mul", "Concat", "Relu", "LeakyRelu", "PRelu", "BatchNormalization", "Resize"}
    known |= {"DepthToSpace", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Constant", "Identity"}
    assert {node.op_type for node in model.graph.node} <= known
    image = torch.rand(1, 3, 2 * side, 3 * side)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), network(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ({"name": "EDSR"}, ModelError, "'EDSR' is unknown; known are RRDBNet"),
        ({}, ModelError, "is unknown"),
        ({"name": "RRDBNet", "scale": 3}, OptionError, "scale 3 is not one of 1, 2, 4, 8"),
        ({"name": "RRDBNet", "block": "rrdbb"}, OptionError, "'rrdbb' is not one of residual, residual-bn,"),
        ({"name": "RRDBNet", "depth": 3}, ModelError, "unexpected keyword argument 'depth'"),
        ({"name": "RRDBNet", "blocks": 300}, ModelError, "blocks=300: that is a whole number from 1 to 64"),
        ({"name": "RRDBNet", "channels": -4}, ModelError, "from 1 to 4096"),
        ({"name": "SRVGGNetCompact", "scale": 1000}, ModelError, "scale=1000: that is a whole number from 1 to 64"),
        ({"name": "SRVGGNetCompact", "activation": "gelu"}, OptionError, "'gelu' is not one of"),
        ({"name": "MSRResNet", "scale": 8}, OptionError, "scale 8 is not one of 2, 3, 4"),
    ],
)
def test_build_refuses_what_is_no_network(config, error, says):
    with pytest.raises(error, match=says):
        build(config)


def test_batch_normalisation_follows_the_batch_in_training_and_its_memory_afterwards():
    """The ablation's network must change its statistics while it learns, and no others have any."""
    torch.manual_seed(0)
    network = RRDBNet(8, blocks=1, block="residual-bn")
    image = torch.rand(4, 3, 8, 8)
    before = network.body[0].bn1.running_mean.clone()
    network.train()(image)
    assert (network.body[0].bn1.running_mean != before).any()
    network.eval()
    torch.testing.assert_close(network(image)[:1], network(image[:1]))
    assert not list(RRDBNet(8, blocks=1, block="residual").buffers())


@settings(max_examples=25)
@given(
    channels=st.integers(1, 12), growth=st.integers(1, 8), blocks=st.integers(1, 12),
    scale=st.sampled_from([1, 2, 4, 8]), block=st.sampled_from(["residual", "residual-bn", "dense", "rrdb"]),
)  # fmt: skip
def test_every_rrdbnet_is_recognised_by_its_shapes(channels, growth, blocks, scale, block):
    with torch.device("meta"):
        network = RRDBNet(channels, growth, blocks, scale, block)
    assert RRDBNet.recognise({k: v.shape for k, v in network.state_dict().items()}) == network.config()
