"""Layers that several networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps height and width (zero padding, with bias)."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def nearest_x2(x: Tensor) -> Tensor:
    """Repeat every pixel twice in each direction: (N, C, H, W) -> (N, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


@torch.no_grad()
def shrink_init(*convs: nn.Conv2d, factor: float = 0.1) -> None:
    """He initialisation (fan-in, gain of ReLU) times `factor`, zero bias.

    Small initial weights make very deep residual networks easier to train (Wang et al. 2018, ESRGAN, section 3.1;
    the factor 0.1 is in their supplementary material).
    """
    for conv in convs:
        if (
            conv.weight.is_meta
        ):  # weights will come from a file, and initialising on "meta" makes torch import modules for a second
            continue
        nn.init.kaiming_normal_(conv.weight)
        conv.weight *= factor
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
