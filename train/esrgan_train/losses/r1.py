"""R1: a discriminator that is flat at real pictures lets training converge (Mescheder et al. 2018, equation 9)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from esrgan_train.losses.gradients import image_gradients


def r1(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """R1 = 1/2 E[|dC/dx|^2] at real pictures; its weight is the paper's gamma.

    Args:
        discriminator: images -> logits (N, ...); of a map of logits, the mean is the value of the image.
        real: (N, C, H, W).

    Returns:
        One fp32 value, whose gradient reaches the discriminator's weights.
    """
    return image_gradients(discriminator, real).square().flatten(1).sum(1).mean() / 2
