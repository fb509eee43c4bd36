"""ST-LPIPS (Ghildyal and Liu 2022): LPIPS on an AlexNet with antialiased pooling, which tolerates small shifts.

One file holds trunk and heads, which were trained for this distance: alex_shift_tolerant.pth, in the folder
stlpips_pytorch/weights/vST0.0 of the wheel stlpips-pytorch 0.0.2 (BSD-2-Clause). Its features are not those of VGG, so
it is independent of a VGG loss that a network was trained with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_export.metrics.perceptual_distance import PerceptualDistance, Trunk, fill, read_heads, read_weights

CHANNELS = (64, 192, 384, 256, 256)
SLICES = {"0": 1, "5": 2, "9": 3, "11": 4, "13": 5}
"""Index of each convolution -> number of the slice under which the file keeps it."""


class BlurPool(nn.Module):
    """Halve the size after a binomial blur (Zhang 2019), with two reflected pixels around the borders."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        binomial = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = torch.outer(binomial, binomial).expand(channels, 1, 3, 3).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, floor((H + 1) / 2) + 1, floor((W + 1) / 2) + 1)."""
        kernel = self.get_buffer("kernel")
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=len(kernel))


def load_st_lpips(path: StrPath, device: str = "cpu") -> PerceptualDistance:
    """ST-LPIPS with the weights of `path`.

    Args:
        path: alex_shift_tolerant.pth.
        device: PyTorch device.

    Raises:
        ModelError: the file cannot be read, or belongs to another network.
    """
    path = as_path(path)
    weights = read_weights(path)
    trunk = Trunk(
        [
            *(nn.Conv2d(3, 64, 11, padding=2), BlurPool(64), nn.ReLU()),
            *(nn.MaxPool2d(3, 1), BlurPool(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
            *(nn.MaxPool2d(3, 1), BlurPool(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        ],
        taps=(2, 6, 10, 12, 14),
    )
    kinds = ("weight", "bias")
    names = {f"{index}.{kind}": f"net.slice{n}.{index}.{kind}" for index, n in SLICES.items() for kind in kinds}
    fill(trunk, names, weights, path)
    return PerceptualDistance(trunk, read_heads(weights, CHANNELS, path), device)
