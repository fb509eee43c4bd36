"""The Wasserstein GAN's terms (Arjovsky et al. 2017) and its gradient penalty (Gulrajani et al. 2017).

D:  -E[C(x_r)] + E[C(x_f)] + lambda * GP        G:  -E[C(x_f)]        lambda = 10
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from esrgan_train.losses.gradients import image_gradients
from esrgan_train.losses.precision import at_least_fp32


def real_term(logits: Tensor) -> Tensor:
    """-E[C]. One fp32 value."""
    return -at_least_fp32(logits).mean()


def fake_term(logits: Tensor) -> Tensor:
    """E[C]. One fp32 value."""
    return at_least_fp32(logits).mean()


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """GP = E[(|dC/dx| - 1)^2] at x = u * x_r + (1 - u) * x_f, u uniform in [0, 1], one for each sample.

    The norm is over all values of a picture. Batch normalisation mixes the samples of a batch, so that the gradient of
    one depends on the others. The paper therefore uses none; of our discriminators, `UNetDiscriminator` has none.

    Args:
        discriminator: images -> logits (N, ...); if it returns a map, its mean is the value of the image.
        real: (N, C, H, W).
        fake: the same shape; no gradient reaches the network that made it.
        generator: random generator that u is drawn from; None: torch's default one.

    Returns:
        One fp32 value, whose gradient reaches the discriminator's weights. It is not multiplied by lambda.
    """
    real, fake = at_least_fp32(real), at_least_fp32(fake)
    u = torch.rand(len(real), 1, 1, 1, dtype=real.dtype, device=real.device, generator=generator)
    gradients = image_gradients(discriminator, u * real + (1 - u) * fake)
    norms: Tensor = torch.linalg.vector_norm(gradients.flatten(1), dim=1)
    return (norms - 1).square().mean()
