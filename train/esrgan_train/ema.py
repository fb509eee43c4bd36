"""Exponential moving average of a network's weights: what is validated and exported."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Average = d * average + (1 - d) * network; buffers, such as batch normalisation's, are copied.

    d = min(decay, (1 + step) / (10 + step)): in the first steps a full decay would average in the random beginning.

    Args:
        average: a copy of `network` made before step 0.
        network: after its step.
        decay: 0 follows at once, 0.999 averages over about a thousand steps.
        step: counted from 0.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for kept, current in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(current)
