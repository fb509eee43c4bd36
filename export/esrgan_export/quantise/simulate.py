"""A network in PyTorch that rounds where its INT8 form rounds, to measure that form and to train it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from esrgan_export.networks import Network

LARGEST = 127
"""Codes go from -127 to 127: symmetric, as TensorRT needs them."""


def round_through(values: Tensor) -> Tensor:
    """`values` rounded to the nearest integer; the gradient passes as if they were not (straight-through)."""
    return values + (values.round() - values).detach()


def fake_quantise(values: Tensor, scale: Tensor) -> Tensor:
    """`values` rounded to multiples of `scale` and clipped; gradients as in Esser et al. 2020 (LSQ), equation 3."""
    return round_through((values / scale).clamp(-LARGEST, LARGEST)) * scale


def weight_scales(weight: Tensor) -> Tensor:
    """The scale of each output channel of a kernel (O, I, h, w), shape (O, 1, 1, 1)."""
    largest = weight.detach().abs().amax((1, 2, 3), keepdim=True)
    return torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))


def quantise_weight(weight: Tensor) -> Tensor:
    """Integer codes of a kernel (O, I, h, w), in a float tensor, rounded so that the sum over each (o, i) is kept.

    Pictures are smooth, so the response of a kernel to a constant matters most. If each of the h * w taps is rounded to
    the nearest code, their sum can be wrong by half a step for each tap. Here some taps are rounded the other way,
    beginning with those nearest to the middle between two codes, so that the sum is right to half a step.
    """
    outputs, inputs = weight.shape[:2]
    exact = (weight / weight_scales(weight)).reshape(outputs, inputs, -1)
    codes = exact.round()
    error = exact - codes
    missing = error.sum(2, keepdim=True).round()
    rank = error.argsort(dim=2, descending=True).argsort(dim=2)
    taps = exact.shape[2]
    codes = codes + (rank < missing).to(codes) - (taps - 1 - rank < -missing).to(codes)
    return codes.clamp(-LARGEST, LARGEST).reshape(weight.shape)


class QuantisedConv(nn.Module):
    """A convolution whose input and weights are rounded to INT8 while `enabled` is true.

    Args:
        conv: the convolution; its weights stay in float.
        input_scale: the scale of the input.
        factors: (C,); each input channel is multiplied by its factor before it is rounded, and its weights divided.
    """

    factors: Tensor

    def __init__(self, conv: nn.Conv2d, input_scale: float, factors: Tensor) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("factors", factors[:, None, None].clone())
        self.input_scale = nn.Parameter(torch.tensor(input_scale, dtype=torch.float32))
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the shape that the convolution gives."""
        conv = self.conv
        if not self.enabled:
            return cast(Tensor, conv(x))
        weight = conv.weight / self.factors
        exact = weight / weight_scales(weight)
        codes = exact + (quantise_weight(weight) - exact).detach()
        return F.conv2d(
            fake_quantise(x * self.factors, self.input_scale),
            codes * weight_scales(weight),
            conv.bias,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
        )


def folded(network: Network, model: onnx.ModelProto) -> Network:
    """A copy of `network` with the weights of its fp32 export `model`, where batch normalisation is folded."""
    copied = copy.deepcopy(network).cpu().float().eval()
    for name, module in list(copied.named_modules()):
        if isinstance(module, _BatchNorm):
            replace_module(copied, name, nn.Identity())
    own = copied.state_dict()
    weights = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    for name, weight in weights.items():
        own[name].copy_(torch.from_numpy(np.ascontiguousarray(weight)).reshape(own[name].shape))
    return copied


def simulated(network: nn.Module, scales: Mapping[str, float], factors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `network` in which each convolution in `scales` is a `QuantisedConv` with its scale and factors."""
    copied = copy.deepcopy(network)
    for name, scale in scales.items():
        conv = copied.get_submodule(name)
        assert isinstance(conv, nn.Conv2d), f"{name} is no convolution"
        replace_module(copied, name, QuantisedConv(conv, scale, factors[name]))
    return copied


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module called `name` by `module`."""
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)


@contextmanager
def observe_inputs(network: nn.Module, convs: Iterable[str], observe: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Within the block, call `observe(name, input)` for every input of the named convolutions."""
    handles = [
        network.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: observe(name, args[0]))
        for name in convs
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
