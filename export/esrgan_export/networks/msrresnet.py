"""MSRResNet, the "modified SRResNet" of BasicSR: no batch normalisation, a bilinear skip."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from esrgan_deploy.errors import ModelError, OptionError
from esrgan_export.networks.layers import conv3x3, shrink_init
from esrgan_export.networks.network import Config, Network, Shapes, conv_channels, count_indexed

SCALES = (2, 3, 4)


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU of slope 0.1 (RRDBNet's is 0.2), in place: `x` is always a fresh tensor."""
    return F.leaky_relu(x, 0.1, inplace=True)


class PlainBlock(nn.Module):
    """Residual block without batch normalisation and without residual scaling: x + conv2(relu(conv1(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)
        shrink_init(self.conv1, self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        residual: Tensor = self.conv2(F.relu(self.conv1(x), inplace=True))
        return x + residual


class MSRResNet(Network):
    """Residual blocks at low resolution, sub-pixel steps, two convolutions, plus the input enlarged bilinearly.

    Args:
        channels: features of the trunk.
        blocks: residual blocks; 16 in the published models.
        scale: 2, 3 or 4; x4 takes two sub-pixel x2 steps, x2 and x3 take one.

    Raises:
        OptionError: a scale that is not listed.
    """

    def __init__(self, channels: int = 64, blocks: int = 16, scale: int = 4) -> None:
        super().__init__()
        if scale not in SCALES:
            raise OptionError(f"MSRResNet: scale {scale} is not one of 2, 3, 4")
        self.channels, self.blocks, self.scale = channels, blocks, scale
        self.step = 3 if scale == 3 else 2
        self.conv_first = conv3x3(3, channels)
        self.body = nn.Sequential(*(PlainBlock(channels) for _ in range(blocks)))
        self.upconv1 = conv3x3(channels, channels * self.step**2)
        if scale == 4:
            self.upconv2 = conv3x3(channels, channels * self.step**2)
            shrink_init(self.upconv2)
        self.conv_hr = conv3x3(channels, channels)
        self.conv_last = conv3x3(channels, 3)
        shrink_init(self.conv_first, self.upconv1, self.conv_hr, self.conv_last)

    def config(self) -> Config:
        """See `Network.config`."""
        return {"name": "MSRResNet", "channels": self.channels, "blocks": self.blocks, "scale": self.scale}

    def forward(self, image: Tensor) -> Tensor:
        """See `Network`."""
        features: Tensor = self.body(leaky(self.conv_first(image)))
        features = leaky(F.pixel_shuffle(self.upconv1(features), self.step))
        if self.scale == 4:
            features = leaky(F.pixel_shuffle(self.upconv2(features), self.step))
        detail: Tensor = self.conv_last(leaky(self.conv_hr(features)))
        return detail + F.interpolate(image, scale_factor=float(self.scale), mode="bilinear", align_corners=False)

    @classmethod
    def recognise(cls, shapes: Shapes) -> Config | None:
        """See `Network.recognise`."""
        if not {"conv_first.weight", "upconv1.weight", "conv_hr.weight"} <= shapes.keys():
            return None
        channels = conv_channels(shapes, "conv_first.weight")[0]
        factor = conv_channels(shapes, "upconv1.weight")[0] // channels
        scale = {4: 4 if "upconv2.weight" in shapes else 2, 9: 3}.get(factor)
        if scale is None:
            raise ModelError(f"MSRResNet: upconv1 multiplies the channels by {factor}; known are 4 (x2, x4) and 9 (x3)")
        blocks = count_indexed(shapes, "body.")
        return {"name": "MSRResNet", "channels": channels, "blocks": blocks, "scale": scale}
