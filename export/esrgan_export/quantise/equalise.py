"""Rescale channels so that each of them uses the eight bits well, without changing what the network computes.

For LeakyReLU, PReLU and ReLU, f(d x) = d f(x) if d > 0. So a channel can be multiplied by d where it is computed and
divided by d where it is read, and the result is the same (Nagel et al. 2019, section 4.1). A residual stream is also
read by sums; it is multiplied in front of its quantisation instead, which takes little time. d is a weighted geometric
mean of the factor that lets the activations fill their range and the one that suits the weights that read them (Xiao
et al. 2022, SmoothQuant, equation 4). Clipping the largest values makes the steps finer; how much is clipped is chosen
by the error that results in the convolutions that read the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esrgan_export.quantise.simulate import LARGEST, fake_quantise, observe_inputs
from esrgan_export.quantise.structure import Group, Member

FILL = 0.95
"""SmoothQuant's alpha. Kernels have one scale per output channel and are rounded with care (`quantise_weight`), so that
nearly all of the imbalance between channels can be moved into them. docs/int8.md has figures."""
FLOOR = 1e-3
"""Least range of a channel, and of the weights that read it, as a share of the largest. It limits the factor of
channels that are almost 0 in the calibration pictures."""
CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Where clipping is tried, as shares of the largest value."""


@dataclass(frozen=True)
class Balanced:
    """The result of `equalise_group`."""

    largest: float
    """The largest absolute value of any channel when it is quantised."""
    factors: Mapping[str, Tensor]
    """Factors for the channels of members that cannot be rescaled where they are computed, by tensor."""


def measure_ranges(network: nn.Module, groups: Sequence[Group], crops: Sequence[Tensor]) -> dict[str, Tensor]:
    """The largest absolute value of each channel of each member, by tensor name.

    Args:
        network: in fp32.
        groups: of this network.
        crops: images (1, 3, H, W) in [0, 1].
    """
    members = {name: members for group in groups for name, members in group.readers.items()}
    ranges: dict[str, Tensor] = {}

    def update(conv: str, read: Tensor) -> None:
        largest = read.abs().amax((0, 2, 3))
        for member in members[conv]:
            own = largest[member.span]
            known = ranges.get(member.tensor)
            ranges[member.tensor] = own if known is None else torch.maximum(known, own)

    with torch.inference_mode(), observe_inputs(network, members, update):
        for crop in crops:
            network(crop)
    return ranges


def equalise_group(network: nn.Module, group: Group, ranges: Mapping[str, Tensor]) -> Balanced:
    """Rescale those members of `group` that can be rescaled, in place.

    Args:
        network: in fp32; computes the same afterwards, up to rounding in fp32.
        group: of this network.
        ranges: from `measure_ranges`, before any group was rescaled.
    """
    members = group.members
    wanted = {name: _wanted(network, group, member, ranges[name]) for name, member in members.items()}
    tallest = max(float((wanted[name] * ranges[name]).max()) for name in members)
    largest = max(float(ranges[name].max()) for name in members)
    if not tallest > 0:  # 0 in all pictures
        return Balanced(1.0, {name: torch.ones_like(ranges[name]) for name, m in members.items() if m.producer is None})
    factors = {name: wanted[name] * (largest / tallest) for name in members}
    for name, member in members.items():
        if member.producer is not None:
            _rescale(network, group, member, factors[name])
    return Balanced(largest, {name: factors[name] for name, member in members.items() if member.producer is None})


def choose_scales(
    network: nn.Module, groups: Sequence[Group], balanced: Mapping[str, Balanced], crops: Sequence[Tensor]
) -> dict[str, float]:
    """The scale of each group by its name: of `CLIPS`, the one with the smallest error in the group's convolutions.

    Behind the first enlargement nothing is clipped. In the trunk, clipping changes one of many residuals, all of which
    are scaled down. Behind it, it changes the picture: a photo of saturated bristles had 28.7 dB instead of 41.0.

    Args:
        network: equalised.
        groups: of this network.
        balanced: what `equalise_group` returned, by the group's name.
        crops: as for `measure_ranges`.
    """
    widest = {max(group.readers, key=lambda name: _inputs(network, name)): group for group in groups}
    errors = {group.name: torch.zeros(len(CLIPS)) for group in groups}
    heights: dict[str, int] = {}
    gains: dict[str, tuple[Tensor, Tensor]] = {}
    for conv, group in widest.items():
        factors = input_factors(group, conv, balanced[group.name].factors)
        kernel = _kernel(network, conv, slice(None)) / factors[:, None, None]
        gains[conv] = factors[:, None, None], kernel.square().sum((0, 2, 3))

    def add_errors(conv: str, read: Tensor) -> None:
        group = widest[conv]
        factors, gain = gains[conv]
        values = read * factors
        heights[group.name] = read.shape[2]
        for index, clip in enumerate(CLIPS):
            scale = torch.tensor(balanced[group.name].largest * clip / LARGEST)
            error = (fake_quantise(values, scale) - values).square().mean((0, 2, 3))
            errors[group.name][index] += float((error * gain).sum())

    with torch.inference_mode(), observe_inputs(network, widest, add_errors):
        for crop in crops:
            network(crop)
    trunk = min(heights.values())
    best = {name: CLIPS[int(error.argmin())] if heights[name] == trunk else 1.0 for name, error in errors.items()}
    return {name: each.largest * best[name] / LARGEST for name, each in balanced.items()}


def input_factors(group: Group, conv: str, factors: Mapping[str, Tensor]) -> Tensor:
    """The factor of each input channel of `conv` before it is quantised, (C,); 1 for channels without one."""
    return torch.cat([factors.get(member.tensor, torch.ones(member.channels)) for member in group.readers[conv]])


def _wanted(network: nn.Module, group: Group, member: Member, ranges: Tensor) -> Tensor:
    """weights^(1 - FILL) / activations^FILL for each channel of `member`."""
    reading = torch.stack([_kernel(network, conv, span).abs().amax((0, 2, 3)) for conv, span in _reads(group, member)])
    weights, activations = (v.clamp_min(FLOOR * float(v.max()) or 1.0) for v in (reading.amax(0), ranges))
    return weights ** (1 - FILL) / activations**FILL


def _rescale(network: nn.Module, group: Group, member: Member, factors: Tensor) -> None:
    assert member.producer is not None, f"{member.tensor} cannot be rescaled"
    producer = network.get_submodule(member.producer)
    assert isinstance(producer, nn.Conv2d)
    with torch.no_grad():
        producer.weight *= factors[:, None, None, None]
        if producer.bias is not None:
            producer.bias *= factors
        for conv, span in _reads(group, member):
            _kernel(network, conv, span).div_(factors[:, None, None])


def _reads(group: Group, member: Member) -> list[tuple[str, slice]]:
    """The convolutions that read `member`, each with the position of its channels in their input."""
    return [
        (conv, own.span) for conv, members in group.readers.items() for own in members if own.tensor == member.tensor
    ]


def _kernel(network: nn.Module, conv: str, span: slice) -> Tensor:
    """A view of the weights of `conv` that read these channels."""
    weight = network.get_submodule(conv).weight
    assert isinstance(weight, Tensor)
    return weight.detach()[:, span]


def _inputs(network: nn.Module, conv: str) -> int:
    return _kernel(network, conv, slice(None)).shape[1]
