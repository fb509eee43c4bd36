"""LPIPS v0.1 (Zhang et al. 2018) on AlexNet or VGG16. Its weights come from two files that the user gives.

- The heads: lpips/weights/v0.1/alex.pth or vgg.pth of the package lpips; torchmetrics contains the same files.
- The trunk: torchvision's ImageNet weights, alexnet-owt-7be5be79.pth or vgg16-397923af.pth. VGG16 weights from Caffe
  or Keras have the same shapes but expect another input, and would give other distances.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from torch import nn

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import read_bytes
from esrgan_deploy.errors import ModelError
from esrgan_export.metrics.perceptual_distance import PerceptualDistance, Trunk, fill, read_heads, read_weights


class _Kind(NamedTuple):
    layers: list[nn.Module]
    """Numbered as in torchvision."""
    taps: tuple[int, ...]
    """Numbers of the layers whose features are compared."""
    channels: tuple[int, ...]
    sha256: tuple[str, ...]
    """First digits of the SHA-256 of torchvision's files, which are part of their names."""


def load_lpips(heads: StrPath, trunk: StrPath, device: str = "cpu") -> PerceptualDistance:
    """LPIPS on AlexNet or VGG16, whichever `heads` belongs to.

    Args:
        heads: file of linear weights, 7 kB.
        trunk: state dict with torchvision's names, `features.0.weight` and so on; other tensors in it are not used.
        device: PyTorch device.

    Raises:
        ModelError: a file cannot be read, or belongs to another network.
    """
    heads, trunk = as_path(heads), as_path(trunk)
    weights = read_weights(heads)
    first = weights.get("lin1.model.1.weight")
    if first is None or first.shape[1:2] not in ((192,), (128,)):
        raise ModelError(f"{heads}: holds no LPIPS heads for AlexNet or VGG16; take alex.pth or vgg.pth of lpips 0.1.4")
    kind = _alexnet() if first.shape[1] == 192 else _vgg16()
    network = Trunk(kind.layers, kind.taps)
    fill(network, {key: f"features.{key}" for key in network.layers.state_dict()}, read_weights(trunk), trunk)
    return PerceptualDistance(network, read_heads(weights, kind.channels, heads), device)


def is_published_trunk(trunk: StrPath) -> bool:
    """Whether the file is torchvision's. Only then distances can be compared with published ones."""
    digest = hashlib.sha256(read_bytes(as_path(trunk), ModelError)).hexdigest()
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
