"""Refuse a recipe whose first step would not fit into memory, where Linux would kill the process without a word."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esrgan_deploy.budget import check_memory
from esrgan_export.networks import build
from esrgan_train import discriminators
from esrgan_train.data.loader import AHEAD
from esrgan_train.recipe import Recipe

_KEPT = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)
"""Layers whose outputs are kept for the backward pass, as inputs of the next ones."""
_COPIES = 4
"""Of each parameter: its value, its gradient, and two moments of Adam."""


def check_memory_needs(recipe: Recipe) -> None:
    """Compare the least that a step of `recipe` needs with the memory there is.

    With a GPU only batches are counted, which lie in the memory of the machine: CUDA says itself when it is full.

    Raises:
        MachineError: it does not fit.
    """
    side, size = recipe.data.patch, 2 if recipe.precision != "32-true" else 4
    needed = AHEAD * recipe.batch * 3 * side**2
    if not torch.cuda.is_available():
        with torch.device("meta"):
            generator = build(recipe.network)
            networks: list[tuple[nn.Module, int]] = [(generator, side // generator.scale)]
            if recipe.discriminator is not None:
                networks.append((discriminators.build(recipe.discriminator.network), side))
        for network, inputs in networks:
            needed += 4 * _COPIES * sum(parameter.numel() for parameter in network.parameters())
            needed += size * recipe.batch * _kept(network, inputs)
    check_memory(f"batch {recipe.batch} with data.patch {side} (smaller ones need less)", "a training step", needed)


def _kept(network: nn.Module, side: int) -> int:
    """How many values of one picture are kept for the backward pass; computed without computing any of them."""
    counts: list[int] = []

    def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        counts.append(output.numel())

    for module in network.modules():
        if isinstance(module, _KEPT):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 3, side, side, device="meta"))
    return sum(counts)
