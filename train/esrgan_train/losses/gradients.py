"""The gradient of a discriminator's output by its input picture, which gradient penalties use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from esrgan_train.losses.precision import at_least_fp32


def image_gradients(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """dC/dx of every image, (N, C, H, W) in fp32, with a graph that leads to the discriminator's weights.

    Computed without autocast, since the squares of small gradients become 0 in fp16.
    """
    images = at_least_fp32(images.detach()).requires_grad_()
    with torch.autocast(images.device.type, enabled=False):
        values = discriminator(images).reshape(len(images), -1).mean(1)
        (gradients,) = torch.autograd.grad(values.sum(), images, create_graph=True)
    return gradients
