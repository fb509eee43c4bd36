"""Measure what INT8 costs in each group of convolutions, and choose which groups stay float."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esrgan_export.quantise.simulate import QuantisedConv
from esrgan_export.quantise.structure import Group

TARGET_DB = 42.0
"""The PSNR to the fp32 network that the choice aims at, from the mean square error over the calibration crops. These
are the most detailed crops of their pictures, so whole pictures score higher. Verification needs 34 dB on the worst."""
PROBES = 2
PROBE_SIDE = 40
"""Number and side of the crops on which single groups are measured. They are few and small, since the network is run
for every group."""


@dataclass(frozen=True)
class Sensitivity:
    """The error of the output if only this group computes in INT8."""

    group: str
    noise: float
    """Mean square of the change in the output, which is in [0, 1]."""
    flops_share: float
    """Its share of the operations of all groups."""

    @property
    def psnr_db(self) -> float:
        """`noise` in decibels."""
        return -10 * math.log10(self.noise) if self.noise else math.inf


def measure_sensitivities(
    student: nn.Module,
    groups: Sequence[Group],
    crops: Sequence[Tensor],
    progress: Callable[[str], None] = lambda _: None,
) -> list[Sensitivity]:
    """The sensitivity of each group, in the order of `groups`.

    Args:
        student: from `simulate.simulated`, with all convolutions of `groups` in INT8, before and after.
        groups: of this network.
        crops: images (1, 3, H, W); the middle of a few of them is used.
        progress: called with a line after every ten groups.
    """
    probes = [_middle(crop) for crop in crops[:: max(1, len(crops) // PROBES)][:PROBES]]
    switch(student, ())
    with torch.inference_mode():
        references = [student(probe) for probe in probes]
        flops = _flops(student, groups, probes[0])
        noises = []
        for number, group in enumerate(groups):
            if number % 10 == 0:
                progress(f"measuring the error of INT8 in each of {len(groups)} groups of convolutions: {number} done")
            switch(student, group.readers)
            errors = [
                float((student(probe) - reference).square().mean())
                for probe, reference in zip(probes, references, strict=True)
            ]
            noises.append(sum(errors) / len(errors))
    switch(student, None)
    return [
        Sensitivity(group.name, noise, flops[group.name] / sum(flops.values()))
        for group, noise in zip(groups, noises, strict=True)
    ]


def choose_float(sensitivities: Sequence[Sensitivity], budget: float) -> list[str]:
    """The groups to keep in float so that the noise of all others stays within `budget`, a mean square.

    The noises of different groups are independent, so they add up. Groups with most noise per operation come first.
    """
    total = sum(each.noise for each in sensitivities)
    kept = []
    for each in sorted(sensitivities, key=lambda each: -each.noise / each.flops_share):
        if total <= budget:
            break
        total -= each.noise
        kept.append(each.group)
    return kept


def mean_noise(student: nn.Module, crops: Sequence[Tensor], references: Sequence[Tensor]) -> float:
    """Mean square error of `student` to `references`, both clamped, as the mean over the crops."""
    with torch.inference_mode():
        errors = [
            float((student(crop).clamp(0, 1) - reference.clamp(0, 1)).square().mean())
            for crop, reference in zip(crops, references, strict=True)
        ]
    return sum(errors) / len(errors)


def switch(student: nn.Module, names: Collection[str] | None) -> None:
    """Let only the `QuantisedConv` called `names` round; None: all of them."""
    for name, module in student.named_modules():
        if isinstance(module, QuantisedConv):
            module.enabled = names is None or name in names


def _middle(crop: Tensor) -> Tensor:
    height, width = (min(PROBE_SIDE, size) // 4 * 4 for size in crop.shape[2:])
    top, left = (crop.shape[2] - height) // 2, (crop.shape[3] - width) // 2
    return crop[:, :, top : top + height, left : left + width]


def _flops(student: nn.Module, groups: Sequence[Group], probe: Tensor) -> dict[str, int]:
    """Multiply-accumulate operations of each group for one image."""
    home = {conv: group.name for group in groups for conv in group.readers}
    counts = dict.fromkeys(home.values(), 0)

    def count(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
            assert isinstance(module, QuantisedConv)
            counts[home[name]] += output.numel() * module.conv.weight[0].numel()

        return hook

    handles = [student.get_submodule(name).register_forward_hook(count(name)) for name in home]
    student(probe)
    for handle in handles:
        handle.remove()
    return counts
