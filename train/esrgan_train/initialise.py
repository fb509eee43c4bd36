"""The weights that a generator begins with if the recipe names no checkpoint to start from."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from esrgan_deploy.errors import OptionError
from esrgan_export.networks import Network, RRDBNet
from esrgan_export.networks.layers import shrink_init

Init = Literal["official", "small", "interpolating"]


def initialise(network: Network, init: Init) -> None:
    """Set the weights of a freshly built `network`.

    - official: as the constructor left them. For RRDBNet that is today's BasicSR: He initialisation times 0.1 in the
      blocks, PyTorch's default in the first and the last layers.
    - small: He initialisation times 0.1 in every convolution, zero bias; the ESRGAN paper and its code of 2018.
    - interpolating (RRDBNet x4 and x8): as "official", but the first three features carry R, G and B to the output, so
      that training starts near bilinear interpolation instead of noise. A small network that is trained for few steps
      gains decibels; a large one does not need it.

    Raises:
        OptionError: see `check_init`.
    """
    check_init(network, init)
    if init == "small":
        shrink_init(*(layer for layer in network.modules() if isinstance(layer, nn.Conv2d)))
    elif init == "interpolating":
        assert isinstance(network, RRDBNet), "check_init lets no other network pass"
        _pass_colours_through(network)


def check_init(network: Network, init: Init) -> None:
    """Check that `initialise` can initialise `network` in this way.

    Raises:
        OptionError: "interpolating" for another network than RRDBNet x4 or x8.
    """
    if init != "interpolating":
        return
    if not isinstance(network, RRDBNet) or network.multiple_of != 1 or network.channels < 3:
        kind = ", ".join(f"{key} {value}" for key, value in network.config().items())
        raise OptionError(f"init 'interpolating' is made for RRDBNet x4 and x8 with 3 channels or more, not {kind}")


@torch.no_grad()
def _pass_colours_through(network: RRDBNet) -> None:
    """Let the first three features carry R, G and B, which are positive and so pass LeakyReLU unchanged.

    Each convolution after a nearest x2 step smooths them by [1 2 1], which makes that step a linear interpolation.
    """
    pixel = torch.zeros(3, 3)
    pixel[1, 1] = 1
    smooth = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])) / 16
    upsampling = [network.conv_up1, network.conv_up2, *([network.conv_up3] if network.scale == 8 else [])]
    for conv in (network.conv_first, *upsampling, network.conv_hr, network.conv_last):
        conv.weight[:3] *= 0.1
        assert conv.bias is not None, "conv3x3 has a bias"
        conv.bias[:3] = 0
        for channel in range(3):
            conv.weight[channel, channel] += smooth if conv in upsampling else pixel
    network.conv_body.weight *= 0.1
