"""LPIPS v0.1 (Zhang et al. 2018) on AlexNet or VGG16. Its weights come from two files that are given by path.

- The heads: lpips/weights/v0.1/alex.pth or vgg.pth of the package lpips; torchmetrics carries the same files.
- The trunk: torchvision's ImageNet weights, alexnet-owt-7be5be79.pth or vgg16-397923af.pth. VGG16 weights of another
  origin (Caffe, Keras) have the same shapes and another input, and would give other distances.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from torch import nn

from esrgan_deploy.errors import ModelError
from esrgan_export.metrics.perceptual_distance import PerceptualDistance, Trunk, fill, read_heads, read_weights


class _Kind(NamedTuple):
    layers: list[nn.Module]
    """In torchvision's numbering."""
    taps: tuple[int, ...]
    channels: tuple[int, ...]
    sha256: tuple[str, ...]
    """First digits of the hash of torchvision's files, which carry them in their names."""


def load_lpips(heads: Path, trunk: Path, device: str = "cpu") -> PerceptualDistance:
    """LPIPS on the trunk that `heads` was made for.

    Args:
        heads: linear weights, 7 kB.
        trunk: state dict with torchvision's names, `features.0.weight` and so on; what else it holds is not used.
        device: of PyTorch.

    Raises:
        ModelError: a file that cannot be read, or one of another network.
    """
    weights = read_weights(heads)
    first = weights.get("lin1.model.1.weight")
    if first is None or first.shape[1:2] not in ((192,), (128,)):
        raise ModelError(f"{heads}: holds no LPIPS heads for AlexNet or VGG16; take alex.pth or vgg.pth of lpips 0.1.4")
    kind = _alexnet() if first.shape[1] == 192 else _vgg16()
    network = Trunk(kind.layers, kind.taps)
    fill(network, {key: f"features.{key}" for key in network.layers.state_dict()}, read_weights(trunk), trunk)
    return PerceptualDistance(network, read_heads(weights, kind.channels, heads), device)


def is_published_trunk(trunk: Path) -> bool:
    """True if the file is torchvision's: only then distances compare with published ones."""
    digest = hashlib.sha256(trunk.read_bytes()).hexdigest()
    return digest.startswith((*_alexnet().sha256, *_vgg16().sha256))


def _alexnet() -> _Kind:
    layers: list[nn.Module] = [
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]
    return _Kind(layers, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), ("7be5be79", "4df8aa71"))


def _vgg16() -> _Kind:
    layers: list[nn.Module] = []
    taps = []
    inputs = 3
    channels = (64, 128, 256, 512, 512)
    for outputs, convs in zip(channels, (2, 2, 3, 3, 3), strict=True):
        layers += [nn.MaxPool2d(2)] if layers else []
        for _ in range(convs):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
        taps.append(len(layers) - 1)
    return _Kind(layers, tuple(taps), channels, ("397923af",))
