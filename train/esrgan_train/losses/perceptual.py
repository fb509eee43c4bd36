"""Perceptual loss: the distance of two pictures in the features of a VGG network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from esrgan_train.losses.l1 import l1
from esrgan_train.losses.mse import mse

Features = Mapping[str, Tensor]
Criterion = Literal["l1", "mse"]

CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "mse": mse}


def perceptual(
    sr_features: Features, hr_features: Features, weights: Mapping[str, float], criterion: Criterion = "l1"
) -> Tensor:
    """L_percep = sum over layers of weight * criterion(phi(sr), phi(hr)), each criterion a mean over all values.

    ESRGAN (Wang et al. 2018, section 3.3): VGG19's conv5_4, before the ReLU, weight 1; its code takes L1.
    SRGAN (Ledig et al. 2017, equation 5): relu5_4 or relu2_2, MSE. Its rescaling of features by 1/12.75 is a weight
    of 1/12.75^2, about 0.006.

    Args:
        sr_features: features of the network's output by layer, float.
        hr_features: features of the target, without a graph; see `features_of`.
        weights: weight of each layer, one or more.
        criterion: "l1" or "mse".

    Returns:
        One fp32 value.
    """
    distance = CRITERIA[criterion]
    return torch.stack(
        [weight * distance(sr_features[name], hr_features[name]) for name, weight in weights.items()]
    ).sum()


def features_of(
    extract: Callable[[Tensor], dict[str, Tensor]], sr: Tensor, hr: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features of `sr` with a graph, and of `hr` without one, which saves its memory."""
    with torch.no_grad():
        hr_features = extract(hr)
    return extract(sr), hr_features
