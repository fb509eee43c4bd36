"""SRResNet, the generator of SRGAN as its paper draws it (Ledig et al. 2017, figure 4)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from esrgan_export.networks.layers import conv3x3
from esrgan_export.networks.network import Config, Network, Shapes, conv_channels, count_indexed


class NormalisedBlock(nn.Module):
    """Residual block with batch normalisation: x + bn2(conv2(prelu(bn1(conv1(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        residual: Tensor = self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))
        return x + residual


class SRResNet(Network):
    """x4: 9x9 convolution, residual blocks with batch normalisation, two sub-pixel x2 steps, 9x9 convolution.

    BasicSR's MSRResNet is another network, see `msrresnet`. PReLU has one slope per channel. The paper trains
    on outputs in [-1, 1]; here they are in [0, 1] as in all other networks.

    Args:
        channels: features of the trunk.
        blocks: residual blocks; 16 in the paper.
    """

    scale = 4

    def __init__(self, channels: int = 64, blocks: int = 16) -> None:
        super().__init__()
        self.channels, self.blocks = channels, blocks
        self.conv_first = nn.Conv2d(3, channels, 9, padding=4)
        self.prelu_first = nn.PReLU(channels)
        self.body = nn.Sequential(*(NormalisedBlock(channels) for _ in range(blocks)))
        self.conv_body = conv3x3(channels, channels)
        self.bn_body = nn.BatchNorm2d(channels)
        self.conv_up1 = conv3x3(channels, 4 * channels)
        self.prelu_up1 = nn.PReLU(channels)
        self.conv_up2 = conv3x3(channels, 4 * channels)
        self.prelu_up2 = nn.PReLU(channels)
        self.conv_last = nn.Conv2d(channels, 3, 9, padding=4)

    def config(self) -> Config:
        """See `Network.config`."""
        return {"name": "SRResNet", "channels": self.channels, "blocks": self.blocks}

    def forward(self, image: Tensor) -> Tensor:
        """See `Network`."""
        features: Tensor = self.prelu_first(self.conv_first(image))
        features = features + self.bn_body(self.conv_body(self.body(features)))
        features = self.prelu_up1(F.pixel_shuffle(self.conv_up1(features), 2))
        features = self.prelu_up2(F.pixel_shuffle(self.conv_up2(features), 2))
        return cast(Tensor, self.conv_last(features))

    @classmethod
    def recognise(cls, shapes: Shapes) -> Config | None:
        """See `Network.recognise`."""
        if "conv_first.weight" not in shapes or "bn_body.weight" not in shapes:
            return None
        channels = conv_channels(shapes, "conv_first.weight")[0]
        return {"name": "SRResNet", "channels": channels, "blocks": count_indexed(shapes, "body.")}
