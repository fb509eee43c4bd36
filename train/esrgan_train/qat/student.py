"""The network that rounds, what of it is learned, and the way back to a network that does not."""

from __future__ import annotations

import copy
import dataclasses
from typing import cast

import torch
from torch import nn

from esrgan_export.networks import Network
from esrgan_export.quantise import Prepared, with_weights
from esrgan_export.quantise.simulate import QuantisedConv, replace_module

LEAST_SCALE = 0.1
"""No scale may shrink below this share of what it began with: at 0 a grid has no more values."""
SCALES_FASTER = 100
"""A scale's gradient is a mean over a whole group, and a few per cent of it change little; weights add up."""
SIZE_OF_ZERO = 0.1
"""What counts as the typical size of biases that are all 0."""


def make_student(prepared: Prepared) -> nn.Module:
    """The INT8 form of a network, with everything to be learned: weights, biases, and the scales of inputs.

    Convolutions of one group read common tensors, which an INT8 graph holds once: they share one scale, whose gradient
    is the sum of theirs. Gradients are those of LSQ (Esser et al. 2020, equation 3) for scales, and straight-through
    for weights. LSQ's factor 1 / sqrt(N * 127) is left out: Adam divides it away again.
    """
    student = prepared.student().requires_grad_(True)
    for group in prepared.groups:
        convs = [quantised(student, name) for name in group.readers if name in prepared.scales]
        for conv in convs[1:]:
            conv.input_scale = convs[0].input_scale
    return student


def quantised(student: nn.Module, name: str) -> QuantisedConv:
    """The INT8 convolution called `name`."""
    conv = student.get_submodule(name)
    assert isinstance(conv, QuantisedConv), f"{name} is not INT8"
    return conv


def parameter_groups(student: nn.Module, rate: float) -> list[dict[str, object]]:
    """For Adam, each tensor with a rate of its own: `rate` times its typical size, which is kept as "base".

    Adam moves every value by about its rate, however small the gradient. Equalised channels, biases and scales differ
    by orders of magnitude, so that no one rate would suit them all. Scales move `SCALES_FASTER`.
    """
    groups: list[dict[str, object]] = []
    for name, parameter in student.named_parameters():
        size = float(parameter.detach().square().mean().sqrt()) or SIZE_OF_ZERO
        base = rate * size * (SCALES_FASTER if name.endswith("input_scale") else 1)
        groups.append({"params": [parameter], "lr": base, "base": base})
    return groups


def least_scales(student: nn.Module) -> list[tuple[nn.Parameter, float]]:
    """Each scale of `student`, and what it must not fall below."""
    scales = {id(m.input_scale): m.input_scale for m in student.modules() if isinstance(m, QuantisedConv)}
    return [(scale, LEAST_SCALE * float(scale.detach())) for scale in scales.values()]


def with_student(prepared: Prepared, student: nn.Module, psnr_db: float) -> Prepared:
    """`prepared` with what `student` has learned.

    Args:
        prepared: what `student` was made from; is not changed.
        student: likewise.
        psnr_db: of `student` to the float network.
    """
    network = copy.deepcopy(student).cpu().eval().requires_grad_(False)
    for name in prepared.scales:
        replace_module(network, name, quantised(network, name).conv)
    return dataclasses.replace(
        prepared,
        network=cast(Network, network),
        model=with_weights(prepared.model, network),
        scales={name: float(quantised(student, name).input_scale.detach()) for name in prepared.scales},
        psnr_db=psnr_db,
    )


def copy_weights(student: nn.Module) -> dict[str, torch.Tensor]:
    """Its weights and scales as they are now, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}
