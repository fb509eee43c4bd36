"""Post-training quantisation, step by step: ranges, balance, where to clip, and what stays float."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from esrgan_deploy.errors import ModelError
from esrgan_export.networks import Network
from esrgan_export.quantise.calibration import vivid
from esrgan_export.quantise.equalise import choose_scales, equalise_group, input_factors, measure_ranges
from esrgan_export.quantise.mixed import TARGET_DB, Sensitivity, choose_float, mean_noise, measure_sensitivities, switch
from esrgan_export.quantise.qdq import to_int8
from esrgan_export.quantise.simulate import folded, simulated
from esrgan_export.quantise.structure import Group, find_groups

__all__ = ["Prepared", "prepare", "with_weights"]

NARROWER = 2.0
"""If the noise of the whole network still exceeds the budget, the budget for the sum of single noises is divided by
this."""
ATTEMPTS = 4
"""How often that is done."""
MEASURED_CROPS = 8
"""Number of crops, spread over all, on which clipping and the cost of INT8 are measured; ranges come from all crops."""


@dataclass(frozen=True)
class Prepared:
    """A network that is ready for INT8: which convolutions become INT8, and the scales of their inputs."""

    network: Network
    """In float, with batch normalisation folded and channels equalised. It computes the same as the original."""
    model: onnx.ModelProto
    """The same network as fp32 ONNX."""
    groups: Sequence[Group]
    scales: Mapping[str, float]
    """The scale of the input of each convolution that becomes INT8, by name."""
    factors: Mapping[str, Tensor]
    """The factors, (C,), by which the channels of some tensors are multiplied before they are quantised, by tensor."""
    kept: Mapping[str, str]
    """The convolutions that could be INT8 but stay float, each with the reason."""
    sensitivities: Sequence[Sensitivity]
    """Of all groups; empty if everything could become INT8 at once, so that they were not measured."""
    psnr_db: float
    """PSNR of the INT8 network to fp32, over some of the calibration crops."""

    def quantised(self) -> onnx.ModelProto:
        """The INT8 graph."""
        return to_int8(self.model, self.groups, self.scales, self.factors)

    def student(self) -> nn.Module:
        """The INT8 network in PyTorch, see `simulate`."""
        return _student(self.network, self.groups, self.scales, self.factors)


def prepare(
    network: Network,
    model: onnx.ModelProto,
    crops: Sequence[Tensor],
    progress: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Measure ranges, equalise channels, and choose which convolutions become INT8.

    Args:
        network: in fp32, on the CPU; is not changed.
        model: `export_onnx(network, ...)`; is not changed.
        crops: what to calibrate on, from `calibration.load_crops`.
        progress: called with one line before each long step.

    Raises:
        ModelError: the network has no convolution that can be quantised.
    """
    groups = find_groups(model)
    if not groups:
        raise ModelError(f"{network.config()['name']}: no convolution of it can be INT8; export it as fp16 or fp32")
    equalised = folded(network, model)
    seen = [*crops, *map(vivid, crops)]
    progress(f"ranges of all activations on {len(seen)} crops")
    ranges = measure_ranges(equalised, groups, seen)
    balanced = {group.name: equalise_group(equalised, group, ranges) for group in groups}
    progress("where to clip them")
    measured = crops[:: max(1, len(crops) // MEASURED_CROPS)][:MEASURED_CROPS]
    by_group = choose_scales(equalised, groups, balanced, [*measured, *map(vivid, measured)])
    scales = {conv: by_group[group.name] for group in groups for conv in group.readers}
    factors = {tensor: factor for each in balanced.values() for tensor, factor in each.factors.items()}
    student = _student(equalised, groups, scales, factors)
    kept, sensitivities, noise = _choose(student, groups, measured, progress)
    return Prepared(
        equalised,
        with_weights(model, equalised),
        groups,
        {name: scale for name, scale in scales.items() if name not in kept},
        factors,
        kept,
        sensitivities,
        _decibels(noise),
    )


def with_weights(model: onnx.ModelProto, network: nn.Module) -> onnx.ModelProto:
    """A copy of the fp32 `model` with the weights of `network`, whose layers must have the same names."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    weights = network.state_dict()
    for tensor in copied.graph.initializer:
        values = weights[tensor.name].numpy().reshape(tuple(tensor.dims))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copied


def _student(
    network: nn.Module, groups: Sequence[Group], scales: Mapping[str, float], factors: Mapping[str, Tensor]
) -> nn.Module:
    by_conv = {conv: input_factors(group, conv, factors) for group in groups for conv in group.readers}
    return simulated(network, scales, by_conv)


def _choose(
    student: nn.Module, groups: Sequence[Group], crops: Sequence[Tensor], progress: Callable[[str], None]
) -> tuple[dict[str, str], list[Sensitivity], float]:
    """The convolutions to keep in float, each with the reason; the measured sensitivities; and the remaining noise."""
    budget = 10 ** (-TARGET_DB / 10)
    progress(f"INT8 on {len(crops)} crops")
    switch(student, ())
    with torch.inference_mode():
        references = [student(crop) for crop in crops]
    switch(student, None)
    noise = mean_noise(student, crops, references)
    if noise <= budget:
        return {}, [], noise
    sensitivities = measure_sensitivities(student, groups, crops, progress)
    by_name = {each.group: each for each in sensitivities}
    # Single noises are measured on fewer pixels than the noise of the whole, so the budget is scaled to their sum.
    within = sum(each.noise for each in sensitivities) * budget / noise
    kept: dict[str, str] = {}
    for _ in range(ATTEMPTS):
        names = choose_float(sensitivities, within)
        kept = {
            conv: f"{by_name[group.name].psnr_db:.1f} dB if it alone were int8"
            for group in groups
            if group.name in names
            for conv in group.readers
        }
        progress(f"{_decibels(noise):.1f} dB is too little: once more with {len(kept)} convolutions in float")
        switch(student, {conv for group in groups for conv in group.readers} - kept.keys())
        noise = mean_noise(student, crops, references)
        if noise <= budget:
            break
        within /= NARROWER
    switch(student, None)
    return kept, sensitivities, noise


def _decibels(noise: float) -> float:
    return -10 * torch.tensor(noise).log10().item()
