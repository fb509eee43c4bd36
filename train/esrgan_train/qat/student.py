"""The student is the network that is trained: it rounds as INT8 does. Its weights then replace the original ones."""

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
"""A scale stays above this share of its first value, since a scale of 0 would leave one value only."""
SCALES_FASTER = 100
"""Factor on the learning rate of scales. A small change of one scale does less than that of all weights together."""
SIZE_OF_ZERO = 0.1
"""The size that `parameter_groups` takes for a tensor whose values are all 0."""


def make_student(prepared: Prepared) -> nn.Module:
    """The INT8 form of a network in PyTorch, in which weights, biases and the scales of inputs are trained.

    The convolutions of one group read the same tensors, which an INT8 graph holds once, so they share one scale, whose
    gradient is the sum of theirs. The gradients of scales are those of LSQ (Esser et al. 2020, equation 3), those of
    weights straight-through. The factor 1 / sqrt(N * 127) of LSQ is left out, since Adam cancels constant factors.
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
    """The parameter groups for Adam: each tensor has its own rate, `rate` times its RMS value, also kept as "base".

    Adam moves every value by about its rate, however small the gradient. Equalised channels, biases and scales differ
    by orders of magnitude, so that one rate would not suit them all. That of scales is multiplied by `SCALES_FASTER`.
    """
    groups: list[dict[str, object]] = []
    for name, parameter in student.named_parameters():
        size = float(parameter.detach().square().mean().sqrt()) or SIZE_OF_ZERO
        base = rate * size * (SCALES_FASTER if name.endswith("input_scale") else 1)
        groups.append({"params": [parameter], "lr": base, "base": base})
    return groups


def least_scales(student: nn.Module) -> list[tuple[nn.Parameter, float]]:
    """Each scale of `student` with the smallest value that it may have."""
    scales = {id(m.input_scale): m.input_scale for m in student.modules() if isinstance(m, QuantisedConv)}
    return [(scale, LEAST_SCALE * float(scale.detach())) for scale in scales.values()]


def with_student(prepared: Prepared, student: nn.Module, psnr_db: float) -> Prepared:
    """A copy of `prepared` with the weights and scales of `student`.

    Args:
        prepared: what `student` was made from; is not changed.
        student: is not changed.
        psnr_db: PSNR of `student` to the float network.
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
    """A copy of its weights and scales, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}
