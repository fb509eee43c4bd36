"""Give every channel its due share of the eight bits, without changing what the network computes.

LeakyReLU, PReLU and ReLU are positively homogeneous: a channel can be multiplied by d > 0 where it is made and divided
by d where it is read, and nothing else changes (Nagel et al. 2019, section 4.1). A residual stream is read by sums as
well; it is multiplied in front of its quantisation, which costs next to nothing. d is a weighted geometric mean between
what the activation wants, to fill its range, and what the weights that read it want (Xiao et al. 2022, SmoothQuant,
equation 4). How much of the tallest values is clipped for finer steps is chosen by what the readers then see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esrgan_export.quantise.simulate import LARGEST, fake_quantise, watching
from esrgan_export.quantise.structure import Group, Member

FILL = 0.95
"""SmoothQuant's alpha. Kernels have a scale for each output channel and are rounded with care, so that they can bear
nearly all of the imbalance: docs/int8.md has figures."""
FLOOR = 1e-3
"""A channel, or the weights that read it, smaller than this share of the largest counts as this large: no channel that
is silent in the calibration pictures may be blown up without bounds."""
CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the largest value at which clipping is tried."""


@dataclass(frozen=True)
class Balanced:
    """A group whose channels are balanced."""

    largest: float
    """The largest value of any channel, as it will be quantised."""
    factors: Mapping[str, Tensor]
    """What the channels of those members are multiplied by that cannot be rescaled where they are made, by tensor."""


def measure_ranges(network: nn.Module, groups: Sequence[Group], crops: Sequence[Tensor]) -> dict[str, Tensor]:
    """The largest absolute value of each channel of each member, by tensor name.

    Args:
        network: in fp32.
        groups: of this network.
        crops: images (1, 3, H, W) in [0, 1].
    """
    members = {name: members for group in groups for name, members in group.readers.items()}
    ranges: dict[str, Tensor] = {}

    def look(conv: str, read: Tensor) -> None:
        largest = read.abs().amax((0, 2, 3))
        for member in members[conv]:
            own = largest[member.span]
            known = ranges.get(member.tensor)
            ranges[member.tensor] = own if known is None else torch.maximum(known, own)

    with torch.inference_mode(), watching(network, members, look):
        for crop in crops:
            network(crop)
    return ranges


def equalise_group(network: nn.Module, group: Group, ranges: Mapping[str, Tensor]) -> Balanced:
    """Rescale the members of `group` that can be, in place.

    Args:
        network: in fp32; computes the same afterwards, up to rounding in fp32.
        group: of this network.
        ranges: from `measure_ranges`, before any group was rescaled.
    """
    members = group.members
    wanted = {name: _wanted(network, group, member, ranges[name]) for name, member in members.items()}
    tallest = max(float((wanted[name] * ranges[name]).max()) for name in members)
    largest = max(float(ranges[name].max()) for name in members)
    if not tallest > 0:  # silent in all pictures
        return Balanced(1.0, {name: torch.ones_like(ranges[name]) for name, m in members.items() if m.producer is None})
    factors = {name: wanted[name] * (largest / tallest) for name in members}
    for name, member in members.items():
        if member.producer is not None:
            _rescale(network, group, member, factors[name])
    return Balanced(largest, {name: factors[name] for name, member in members.items() if member.producer is None})


def choose_scales(
    network: nn.Module, groups: Sequence[Group], balanced: Mapping[str, Balanced], crops: Sequence[Tensor]
) -> dict[str, float]:
    """The scale of each group, by its name: that of `CLIPS` whose error is smallest where the group is read.

    Behind the first enlargement nothing is clipped. What is clipped in the trunk is one of many residuals, each of them
    scaled down; there it goes straight into the picture: saturated bristles had 28.7 dB instead of 41.0.

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

    def look(conv: str, read: Tensor) -> None:
        group = widest[conv]
        factors, gain = gains[conv]
        values = read * factors
        heights[group.name] = read.shape[2]
        for index, clip in enumerate(CLIPS):
            scale = torch.tensor(balanced[group.name].largest * clip / LARGEST)
            error = (fake_quantise(values, scale) - values).square().mean((0, 2, 3))
            errors[group.name][index] += float((error * gain).sum())

    with torch.inference_mode(), watching(network, widest, look):
        for crop in crops:
            network(crop)
    trunk = min(heights.values())
    best = {name: CLIPS[int(error.argmin())] if heights[name] == trunk else 1.0 for name, error in errors.items()}
    return {name: each.largest * best[name] / LARGEST for name, each in balanced.items()}


def input_factors(group: Group, conv: str, factors: Mapping[str, Tensor]) -> Tensor:
    """What each input channel of `conv` is multiplied by before it is quantised, shape (C,); 1 where nothing is."""
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
    """The convolutions that read `member`, each with the channels at which they do."""
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
