"""R1 penalises the discriminator's gradient at real pictures, so that training converges (Mescheder et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from esrgan_train.losses.gradients import image_gradients


def r1(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """R1 = 1/2 E[|dC/dx|^2] at real pictures (equation 9); its weight is the paper's gamma.

    Args:
        discriminator: images -> logits (N, ...); if it returns a map, its mean is the value of the image.
        real: (N, C, H, W).

    Returns:
        One fp32 value, whose gradient reaches the discriminator's weights.
    """
    return image_gradients(discriminator, real).square().flatten(1).sum(1).mean() / 2
