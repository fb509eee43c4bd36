"""The parts that LPIPS and ST-LPIPS share: a distance between the features of two pictures, and reading weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from esrgan_deploy.budget import opened
from esrgan_deploy.errors import MediaError, ModelError
from esrgan_export.image_types import Uint8Image
from esrgan_export.metrics.luma import check_pair, shaved
from esrgan_export.torch_file import load_torch_file

SMALLEST = 32
"""Least width and height in pixels, since the trunks halve a picture four times."""

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""Mean and standard deviation of ImageNet, for RGB in [-1, 1]."""


class Trunk(nn.Module):
    """The convolutions of a classifier, which gives the features behind the layers whose numbers are in `taps`."""

    def __init__(self, layers: Sequence[nn.Module], taps: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.taps = frozenset(taps)

    def forward(self, image: Tensor) -> Iterator[Tensor]:
        """(N, 3, H, W) -> the features (N, C, h, w) behind each tapped layer, in order."""
        for index, layer in enumerate(self.layers):
            image = layer(image)
            if index in self.taps:
                yield image


class PerceptualDistance:
    """LPIPS (Zhang et al. 2018, equation 1) over any trunk: 0 for equal pictures, lower is better.

    d = sum over taps of the spatial mean of sum_c w_c (f_c(sr) - f_c(hr))^2, where the features f have unit length at
    every position.
    """

    def __init__(self, trunk: Trunk, heads: Sequence[Tensor], device: str = "cpu") -> None:
        """Move both to `device`.

        Args:
            trunk: with its weights.
            heads: w of each tap, (C,).
            device: PyTorch device.
        """
        self._trunk = trunk.eval().requires_grad_(False).to(device)
        self._heads = [head.to(device) for head in heads]
        self._device = device

    def __call__(self, sr: Uint8Image, hr: Uint8Image, shave: int = 0) -> float:
        """Distance between two uint8 RGB pictures (H, W, 3), `shave` pixels left out on each side.

        Raises:
            MediaError: fewer than 32x32 pixels are left.
            ValueError: the arguments are not two uint8 RGB pictures of one size.
        """
        check_pair(sr, hr)
        height, width = sr.shape[0] - 2 * shave, sr.shape[1] - 2 * shave
        if min(height, width) < SMALLEST:
            raise MediaError(
                f"LPIPS needs {SMALLEST}x{SMALLEST} pixels, {width}x{height} are there; take a larger picture or "
                "leave LPIPS out"
            )
        with torch.inference_mode():
            features = (self._trunk(self._scaled(shaved(picture, shave))) for picture in (sr, hr))
            terms = [
                (head * (_unit(a) - _unit(b)).square().movedim(1, -1)).sum(-1).mean()
                for head, a, b in zip(self._heads, *features, strict=True)
            ]
            return float(torch.stack(terms).sum())

    def _scaled(self, picture: Uint8Image) -> Tensor:
        """uint8 (H, W, 3) -> (1, 3, H, W), normalised as in the training of the classifiers."""
        image = torch.from_numpy(np.ascontiguousarray(picture)).to(self._device).movedim(-1, 0)[None] / 127.5 - 1
        shift, scale = (torch.tensor(values, device=self._device)[:, None, None] for values in (SHIFT, SCALE))
        return (image - shift) / scale


def _unit(features: Tensor) -> Tensor:
    """Unit length over the channels at every position; 1e-10 keeps zeros zero, as in the authors' code."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file; nothing in it is executed.

    Raises:
        ModelError: the file is missing or damaged, or does not hold named tensors.
    """
    with opened(path, ModelError) as file:
        content = load_torch_file(file, path, "download or copy it again")
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: holds no named tensors; give a state dict")
    return dict(content)


def fill(trunk: Trunk, names: Mapping[str, str], weights: Mapping[str, Tensor], path: Path) -> None:
    """Load the tensor `weights[name]` into `trunk.layers` under each key of `names`.

    Raises:
        ModelError: a tensor is missing or has another shape; the message names `path`.
    """
    state = trunk.layers.state_dict()
    for key, name in names.items():
        _check(weights, name, tuple(state[key].shape), path)
        state[key] = weights[name].float()
    trunk.layers.load_state_dict(state)


def read_heads(weights: Mapping[str, Tensor], channels: Sequence[int], path: Path) -> list[Tensor]:
    """The linear heads lin0, lin1 ... of a file of the lpips package, each (C,).

    Raises:
        ModelError: a head is missing or has another number of channels.
    """
    names = [f"lin{tap}.model.1.weight" for tap in range(len(channels))]
    for name, width in zip(names, channels, strict=True):
        _check(weights, name, (1, width, 1, 1), path)
    return [weights[name].float().flatten() for name in names]


def _check(weights: Mapping[str, Tensor], name: str, shape: tuple[int, ...], path: Path) -> None:
    found = tuple(weights[name].shape) if name in weights else None
    if found != shape:
        raise ModelError(
            f"{path}: '{name}' is {'missing' if found is None else f'of shape {found}'}, expected is {shape}; "
            "these are the weights of another network"
        )
