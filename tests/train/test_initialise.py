"""Fresh weights: their spread against He's formula, and the network that begins as an interpolation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esrgan_deploy.errors import OptionError
from esrgan_export.networks import MSRResNet, RRDBNet, SRResNet
from esrgan_export.photos import load_photos
from esrgan_train.initialise import initialise


def he(conv):
    return (2 / conv.weight[0].numel()) ** 0.5


def convs(network):
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}


def seeded(network, init, **arguments):
    torch.manual_seed(0)
    network = network(**arguments)
    initialise(network, init)
    return network


@pytest.mark.parametrize("network", [RRDBNet, MSRResNet, SRResNet])
def test_small_is_a_tenth_of_he_in_every_convolution(network):
    """The paper's supplement: "multiplying 0.1 for all initialization parameters"."""
    for name, conv in convs(seeded(network, "small", blocks=1)).items():
        few = conv.weight.numel() < 5000  # the last convolution makes three channels only
        assert conv.weight.std().item() == pytest.approx(0.1 * he(conv), rel=0.06 if few else 0.03), name
        assert abs(conv.weight.mean().item()) < 0.1 * he(conv) / 10, name
        assert not conv.bias.any(), name


def test_official_is_small_in_the_blocks_and_pytorchs_at_the_ends():
    """Today's BasicSR. PyTorch's own is uniform: its deviation is 1 / sqrt(3 * fan-in)."""
    for name, conv in convs(seeded(RRDBNet, "official", blocks=1)).items():
        spread = 0.1 * he(conv) if name.startswith("body.") else (3 * conv.weight[0].numel()) ** -0.5
        assert conv.weight.std().item() == pytest.approx(spread, rel=0.06), name
        assert bool(conv.bias.any()) == (not name.startswith("body.")), name


@pytest.mark.parametrize("init", ["official", "small", "interpolating"])
def test_the_seed_decides(init):
    first, second = (seeded(RRDBNet, init, channels=8, growth=4, blocks=1).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def bilinear(image, steps):
    """Twice as large by linear interpolation, `steps` times: PyTorch's own."""
    for _ in range(steps):
        image = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    return image


@pytest.mark.parametrize(("scale", "steps"), [(4, 2), (8, 3)])
def test_interpolating_without_the_random_part_is_linear_interpolation(scale, steps):
    network = RRDBNet(channels=5, growth=2, blocks=1, scale=scale)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    initialise(network, "interpolating")
    image = torch.rand(1, 3, 9, 7)
    border = 2 * scale  # beyond the edge there are zeros here, and a copy of the edge there
    inside = (..., slice(border, -border), slice(border, -border))
    torch.testing.assert_close(network(image)[inside], bilinear(image, steps)[inside], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def photo():
    return torch.from_numpy(load_photos()["dogs"].transpose(2, 0, 1).copy())[None, :, :64, :64] / 255


def psnr(a, b):
    return -10 * (a - b)[..., 16:-16, 16:-16].square().mean().log10().item()


@pytest.mark.parametrize("seed", range(3))
def test_interpolating_starts_near_an_enlarged_picture_and_the_others_far_from_it(photo, seed):
    distance = {}
    for init in ("interpolating", "official", "small"):
        torch.manual_seed(seed)
        network = RRDBNet(channels=16, growth=16, blocks=3)
        initialise(network, init)
        with torch.no_grad():
            distance[init] = psnr(network(photo), bilinear(photo, 2))
    assert distance["interpolating"] > 22, distance
    assert max(distance["official"], distance["small"]) < 15, distance


def test_interpolating_is_learnt_from_like_any_other(photo):
    """Every weight gets a gradient: nothing is stuck behind what was set by hand."""
    network = seeded(RRDBNet, "interpolating", channels=8, growth=4, blocks=1)
    network(photo[..., :16, :16]).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("network", [RRDBNet(4, 2, 1, scale=2), RRDBNet(2, 2, 1), MSRResNet(4, 1), SRResNet(4, 1)])
def test_interpolating_is_refused_where_it_is_not_defined(network):
    name = type(network).__name__
    with pytest.raises(OptionError, match=rf"init 'interpolating' is made for RRDBNet x4 and x8 .*, not name {name}, "):
        initialise(network, "interpolating")
