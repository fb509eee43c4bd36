"""The exponential moving average (EMA) of a network's weights, which is validated and exported."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Average = d * average + (1 - d) * network; buffers, such as those of batch normalisation, are copied.

    d = min(decay, (1 + step) / (10 + step)), so that the random weights of the beginning are soon forgotten.

    Args:
        average: a copy of `network` made before step 0.
        network: its weights after the step.
        decay: 0 copies the network, 0.999 averages over about a thousand steps.
        step: counted from 0.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for kept, current in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(current)
