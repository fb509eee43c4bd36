"""Total variation: how much a picture changes from pixel to pixel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from esrgan_train.losses.precision import at_least_fp32


def total_variation(sr: Tensor) -> Tensor:
    """TV = mean over pixels and channels of |gradient| = sqrt(dx^2 + dy^2), dx and dy being forward differences.

    In the SRGAN paper this belongs to SRResNet-VGG22 alone, with weight 2e-8; SRGAN itself is trained without it.
    Past the last row and column there is nothing to differ from, so the differences there are 0. Each channel has a
    gradient of its own. Where a picture is flat, the derivative is taken as 0.

    Args:
        sr: what the network made, (N, C, H, W), any float type.

    Returns:
        One fp32 value.
    """
    sr = at_least_fp32(sr)
    dx = F.pad(sr[..., :, 1:] - sr[..., :, :-1], (0, 1, 0, 0))
    dy = F.pad(sr[..., 1:, :] - sr[..., :-1, :], (0, 0, 0, 1))
    lengths: Tensor = torch.linalg.vector_norm(torch.stack((dx, dy)), dim=0)
    return lengths.mean()
