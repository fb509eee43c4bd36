"""Discriminators: published counts, shapes and receptive fields, equations written out, and gradients that arrive."""

import itertools

import pytest

pytest.importorskip("torch", reason="discriminators need the 'train' extra")

import torch
from torch import nn
from torch.nn import functional as F

from esrgan_deploy.errors import OptionError
from esrgan_train.discriminators import (
    DISCRIMINATORS,
    NAMES,
    PatchDiscriminator,
    SRGANDiscriminator,
    UNetDiscriminator,
    VGGDiscriminator,
    build,
)
from esrgan_train.losses.adversarial import AdversarialOptions, discriminator_loss, generator_loss

SMALL = {
    "srgan": (lambda: SRGANDiscriminator(32, channels=4)),
    "vgg": (lambda: VGGDiscriminator(32, channels=4)),
    "unet": (lambda: UNetDiscriminator(channels=4)),
    "unet-plain": (lambda: UNetDiscriminator(channels=4, skip=False)),
    "patch": (lambda: PatchDiscriminator(channels=4, layers=2)),
}
NORMALISED = ("srgan", "vgg", "patch")
LOSSES = [
    AdversarialOptions(kind, relativistic)
    for kind, relativistic in itertools.product(("standard", "least-squares", "wasserstein"), (False, True))
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pictures(count=4, size=32):
    """Real ones, and fake ones that are darker and flatter."""
    real = torch.rand(count, 3, size, size)
    return real, 0.25 + 0.3 * torch.rand(count, 3, size, size)


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


def normalised(x, bn):
    """Batch normalisation in training mode, written out: the batch's own mean and (biased) variance."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * bn.weight.view(1, -1, 1, 1) + bn.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("network", "published"),
    [
        (VGGDiscriminator(128), 14_499_401),
        (VGGDiscriminator(256), 21_055_049),
        (UNetDiscriminator(), 4_376_897),
        # pix2pix logs 2.769 M for two stacked pictures: 3 * 64 * 16 more than for one
        (PatchDiscriminator(), 2_768_705 - 3 * 64 * 16),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parameter_count_is_the_published_one(network, published):
    assert network.parameter_count() == published


def test_srgan_discriminator_has_the_layers_of_the_papers_figure():
    widths = [(64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    convs = 27 * 64 + 64 + sum(9 * a * b + 2 * b for a, b in widths)  # a bias or batch normalisation's two values
    dense = 512 * 6 * 6 * 1024 + 1024 + 1024 + 1
    assert SRGANDiscriminator(96).parameter_count() == convs + dense
    strides = [layer.stride[0] for layer in SRGANDiscriminator(16, 4).modules() if isinstance(layer, nn.Conv2d)]
    assert strides == [1, 2, 1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize(("size", "convs", "side"), [(96, 10, 3), (128, 10, 4), (192, 12, 3), (256, 12, 4)])
def test_vgg_discriminator_has_the_stages_of_the_official_sizes(size, convs, side):
    network = VGGDiscriminator(size, channels=4)
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.modules()) == convs
    assert (network.dense1.in_features, network.dense1.out_features) == (8 * 4 * side**2, 100)
    assert network(torch.rand(2, 3, size, size)).shape == (2, 1)


@pytest.mark.parametrize("size", range(32, 289, 32))
def test_vgg_discriminator_takes_multiples_of_32_and_ends_small(size):
    network = VGGDiscriminator(size, channels=1)
    assert network.dense1.in_features <= 8 * 9**2
    assert network(torch.rand(2, 3, size, size)).shape == (2, 1)


@pytest.mark.parametrize("make", [SMALL["srgan"], SMALL["vgg"]], ids=["srgan", "vgg"])
def test_dense_discriminators_are_convolutions_normalised_from_the_second_on(make):
    network, (image, _) = make(), pictures()
    convs = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == len(convs) - 1
    x = leaky(F.conv2d(image, convs[0].weight, convs[0].bias, padding=1))
    for conv, norm in zip(convs[1:], norms, strict=True):
        x = leaky(normalised(F.conv2d(x, conv.weight, stride=conv.stride, padding=1), norm))
    x = leaky(F.linear(x.flatten(1), network.dense1.weight, network.dense1.bias))
    expected = F.linear(x, network.dense2.weight, network.dense2.bias)
    assert torch.allclose(network(image), expected, atol=1e-5)


@pytest.mark.parametrize("skip", [True, False])
def test_unet_is_real_esrgans_written_out(skip):
    network, (image, _) = UNetDiscriminator(4, skip).eval(), pictures()

    def conv(x, layer, stride=1):
        return leaky(F.conv2d(x, layer.weight, layer.bias, stride, padding=1))

    def up(x):
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)

    x0 = conv(image, network.conv_first)
    x1 = conv(x0, network.down1, 2)
    x2 = conv(x1, network.down2, 2)
    x3 = conv(x2, network.down3, 2)
    x4 = conv(up(x3), network.up3) + (x2 if skip else 0)
    x5 = conv(up(x4), network.up2) + (x1 if skip else 0)
    x6 = conv(up(x5), network.up1) + (x0 if skip else 0)
    hidden = conv(conv(x6, network.conv1), network.conv2)
    expected = F.conv2d(hidden, network.conv_last.weight, network.conv_last.bias, padding=1)
    assert expected.shape == (4, 1, 32, 32)
    assert torch.allclose(network(image), expected, atol=1e-6)


@pytest.mark.parametrize(("layers", "seen"), [(1, 16), (3, 70), (5, 286)])
def test_a_patch_is_as_large_as_in_the_paper(layers, seen):
    """The pixels that one logit in the middle depends on."""
    network = PatchDiscriminator(1, layers).double().eval()
    for weight in network.parameters():
        nn.init.ones_(weight)  # so that nothing cancels
    size = 2 * seen + 2 ** (layers + 2) - 2 * seen % 2 ** (layers + 2)
    image = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    logits = network(image)
    assert logits.shape[-1] == size // 2**layers - 2
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    touched = (image.grad[0, 0] != 0).nonzero()
    assert (touched.amax(0) - touched.amin(0) + 1).tolist() == [seen, seen]


def test_spectral_norm_bounds_every_layer_but_the_first_and_the_last():
    network, (image, _) = UNetDiscriminator(8), pictures()
    for name, weight in network.named_parameters():
        if "original" in name:
            nn.init.normal_(weight, std=5.0)
    before = {name: torch.linalg.matrix_norm(layer.weight.flatten(1), 2) for name, layer in convolutions(network)}
    for _ in range(60):  # one power iteration each
        network(image)
    after = {name: torch.linalg.matrix_norm(layer.weight.flatten(1), 2) for name, layer in convolutions(network)}
    bounded = {name for name in after if name not in ("conv_first", "conv_last")}
    assert len(bounded) == 8
    for name in after:
        if name in bounded:
            assert after[name].item() == pytest.approx(1, abs=0.02)
        else:
            assert after[name] == before[name]


def convolutions(network):
    return [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("name", NORMALISED)
def test_batch_normalisation_makes_real_and_fake_passes_of_their_own(name):
    """Trap 5: in one batch of both, the logits of real pictures would depend on the fake ones beside them."""
    network, (real, fake) = SMALL[name](), pictures()
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    apart = network(real)
    together = network(torch.cat((real, fake)))[:4]
    assert (apart - together).abs().max() > 0.01 * apart.abs().max()


def test_unet_has_no_batch_normalisation_and_scores_each_picture_alone():
    network, (real, fake) = UNetDiscriminator(4).eval(), pictures()
    assert torch.allclose(network(real), network(torch.cat((real, fake)))[:4], atol=1e-6)


@pytest.mark.parametrize("options", LOSSES, ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_discriminators_gradient_reaches_the_generator_and_leads_uphill(name, options):
    """Trap 18: a discriminator under inference_mode gives a loss and no gradient, and nothing fails."""
    network, (real, fake) = SMALL[name](), pictures()
    network.requires_grad_(False)
    weight = torch.ones(1, 3, 1, 1, requires_grad=True)  # a generator of three weights
    sr = (fake * weight).requires_grad_()
    loss = generator_loss(network(sr), network(real), options)
    to_sr, to_weight = torch.autograd.grad(loss, (sr, weight))
    assert to_weight.abs().min() > 0
    assert (to_sr.flatten(1).abs().sum(1) > 0).all()
    step = 1e-3 * to_sr / to_sr.norm()
    with torch.no_grad():
        better, worse = (network(picture).mean() for picture in (sr - step, sr + step))
    assert better > worse
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_a_few_steps_teach_the_discriminator_to_tell_real_from_fake(name):
    network, (real, fake) = SMALL[name](), pictures()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(20):
        loss = discriminator_loss(network(real), network(fake), AdversarialOptions(relativistic=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert network(real).mean() > network(fake).mean()


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_not_squashed(name):
    """The papers' sigmoid is part of the losses: applied twice, it would leave D hardly any gradient."""
    network, (real, _) = SMALL[name](), pictures()
    for parameter in network.parameters():
        parameter.data *= 3
    logits = network(real)
    assert logits.min() < 0 or logits.max() > 1


@pytest.mark.parametrize("name", SMALL)
def test_config_builds_the_same_network_again(name):
    network = SMALL[name]()
    again = build(network.config())
    assert type(again) is type(network)
    again.load_state_dict(network.state_dict())
    real, _ = pictures()
    assert torch.equal(again.eval()(real), network.eval()(real))


def test_every_discriminator_can_be_built_by_name_alone():
    assert NAMES == ("SRGANDiscriminator", "VGGDiscriminator", "UNetDiscriminator", "PatchDiscriminator")
    for name in NAMES:
        assert isinstance(build({"name": name}), DISCRIMINATORS[name])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "'None' is unknown; known are SRGAN"),
        ({"name": "VGG128"}, "'VGG128' is unknown; known are SRGANDiscriminator, VGGDiscriminator"),
        ({"name": "VGGDiscriminator", "chanels": 64}, "no 'chanels'; it takes size, channels"),
        ({"name": "VGGDiscriminator", "channels": 0}, "channels is 0; give a whole number from 1 to"),
        ({"name": "VGGDiscriminator", "channels": True}, "channels is True; give a whole number"),
        ({"name": "VGGDiscriminator", "channels": "64"}, "channels is '64'; give a whole number"),
        ({"name": "UNetDiscriminator", "channels": 10**6}, "channels is 1000000"),
        ({"name": "UNetDiscriminator", "skip": 1}, "skip is 1; give true or false"),
        ({"name": "VGGDiscriminator", "size": 100}, "multiple of 32, not 100"),
        ({"name": "SRGANDiscriminator", "size": 100}, "100 is no multiple of 16"),
        ({"name": "PatchDiscriminator", "layers": 7}, "1 to 6 layers, not 7"),
    ],
)
def test_configs_that_cannot_be_right_are_refused(config, message):
    with pytest.raises(OptionError, match=message):
        build(config)


@pytest.mark.parametrize(
    ("name", "height", "width", "message"),
    [
        ("srgan", 32, 48, "built for 32x32 pixels and got 48x32; set its size"),
        ("vgg", 48, 48, "built for 32x32 pixels and got 48x48; set its size"),
        ("unet", 32, 36, "multiples of 8, not 36x32"),
        ("patch", 11, 40, "12x12 pixels or more, not 40x11"),
    ],
)
def test_pictures_of_another_size_are_refused(name, height, width, message):
    with pytest.raises(OptionError, match=message):
        SMALL[name]()(torch.rand(2, 3, height, width))


def test_the_smallest_picture_of_a_patch_discriminator_has_one_logit():
    for layers in (1, 2, 3, 4):
        side = 3 * 2**layers
        assert PatchDiscriminator(1, layers)(torch.rand(2, 3, side, side)).shape == (2, 1, 1, 1)


@pytest.mark.parametrize("name", SMALL)
def test_losses_stay_in_fp32_when_the_discriminator_runs_in_bf16(name):
    network, (real, fake) = SMALL[name](), pictures()
    with torch.autocast("cpu", torch.bfloat16):
        real_logits, fake_logits = network(real), network(fake)
        loss = discriminator_loss(real_logits, fake_logits, AdversarialOptions(relativistic=True))
    assert real_logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
