"""Total variation: how much a picture changes from pixel to pixel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from esrgan_train.losses.precision import at_least_fp32


def total_variation(sr: Tensor) -> Tensor:
    """TV = mean over pixels and channels of |gradient| = sqrt(dx^2 + dy^2), dx and dy being forward differences.

    In the SRGAN paper only SRResNet-VGG22 is trained with it, with weight 2e-8; SRGAN is not. The differences past the
    last row and column are 0. Each channel has its own gradient. Where a picture is flat, the derivative is 0.

    Args:
        sr: output of the network, (N, C, H, W), any float type.

    Returns:
        One fp32 value.
    """
    sr = at_least_fp32(sr)
    dx = F.pad(sr[..., :, 1:] - sr[..., :, :-1], (0, 1, 0, 0))
    dy = F.pad(sr[..., 1:, :] - sr[..., :-1, :], (0, 0, 0, 1))
    lengths: Tensor = torch.linalg.vector_norm(torch.stack((dx, dy)), dim=0)
    return lengths.mean()
