"""How a discriminator's output changes with its picture: what gradient penalties penalise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from esrgan_train.losses.precision import at_least_fp32


def image_gradients(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """dC/dx of every image, (N, C, H, W) in fp32, with a graph that leads to the discriminator's weights.

    Autocast is off inside: squares of small gradients vanish in fp16.
    """
    images = at_least_fp32(images.detach()).requires_grad_()
    with torch.autocast(images.device.type, enabled=False):
        values = discriminator(images).reshape(len(images), -1).mean(1)
        (gradients,) = torch.autograd.grad(values.sum(), images, create_graph=True)
    return gradients
