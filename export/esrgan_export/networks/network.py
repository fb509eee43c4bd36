"""The base class of all generators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from esrgan_deploy.errors import ModelError

Config = dict[str, int | str]
"""The class name under "name", and every constructor argument. Can be stored as JSON."""

Shapes = Mapping[str, torch.Size]
"""The shape of every tensor of a state dict, by key."""


class Network(nn.Module, ABC):
    """A generator: float RGB images (N, 3, H, W) in [0, 1] -> (N, 3, H * scale, W * scale), not clamped."""

    scale: int
    """Output pixels per input pixel, in each direction."""

    multiple_of: int = 1
    """H and W of the input must be multiples of this. It is more than 1 for networks that pixel-unshuffle."""

    @abstractmethod
    def config(self) -> Config:
        """What `build` needs to build this network again, without its weights."""

    @classmethod
    @abstractmethod
    def recognise(cls, shapes: Shapes) -> Config | None:
        """The hyper-parameters of the network that `shapes` describe; None: it is not of this class.

        Only the shapes that tell the hyper-parameters are looked at. Loading the weights checks the others.

        Raises:
            ModelError: it is of this class, but cannot be built; the message says why.
        """

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Upscale `image`: float RGB (N, 3, H, W) -> (N, 3, H * scale, W * scale)."""

    def parameter_count(self) -> int:
        """Number of trainable values, as papers and model zoos count them."""
        return sum(parameter.numel() for parameter in self.parameters())


def conv_channels(shapes: Shapes, key: str) -> tuple[int, int]:
    """Output and input channels of the convolution whose weights are called `key`.

    Raises:
        ModelError: the tensor is not (outputs, inputs, height, width).
    """
    shape = shapes[key]
    if len(shape) != 4 or 0 in shape:
        raise ModelError(f"{key} has shape {tuple(shape)}, so it is no convolution")
    return shape[0], shape[1]


def count_indexed(shapes: Shapes, prefix: str) -> int:
    """The number of entries `prefix0.`, `prefix1.` ...: the largest index plus 1."""
    indices = [key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)]
    return 1 + max((int(index) for index in indices if index.isdigit()), default=-1)
