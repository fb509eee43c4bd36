"""SRVGGNetCompact, the light generator of Real-ESRGAN's video models (realesr-animevideov3, realesr-general-x4v3)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from esrgan_deploy.errors import ModelError, OptionError
from esrgan_export.networks.layers import conv3x3
from esrgan_export.networks.network import Config, Network, Shapes, conv_channels, count_indexed

Activation = Literal["relu", "prelu", "leakyrelu"]


class SRVGGNetCompact(Network):
    """Convolutions at low resolution, one pixel-shuffle, plus the input enlarged by nearest neighbour.

    Args:
        channels: features of every convolution but the last.
        convs: convolutions between the first and the last: 16 in animevideov3, 32 in general-x4v3.
        scale: output pixels per input pixel.
        activation: after every convolution but the last. LeakyReLU has slope 0.1, PReLU one slope per channel.

    Raises:
        OptionError: a scale below 1 or an activation that is not listed.
    """

    def __init__(self, channels: int = 64, convs: int = 16, scale: int = 4, activation: Activation = "prelu") -> None:
        super().__init__()
        if scale < 1:
            raise OptionError(f"SRVGGNetCompact: scale {scale} is below 1")
        self.channels, self.convs, self.scale = channels, convs, scale
        self.activation: Activation = activation
        layers: list[nn.Module] = []
        for inputs in (3, *[channels] * convs):
            layers += [conv3x3(inputs, channels), self._activation()]
        self.body = nn.Sequential(*layers, conv3x3(channels, 3 * scale**2))

    def _activation(self) -> nn.Module:
        if self.activation == "relu":
            return nn.ReLU(inplace=True)
        if self.activation == "prelu":
            return nn.PReLU(self.channels)
        if self.activation == "leakyrelu":
            return nn.LeakyReLU(0.1, inplace=True)
        raise OptionError(f"SRVGGNetCompact: activation {self.activation!r} is not one of relu, prelu, leakyrelu")

    def config(self) -> Config:
        """See `Network.config`."""
        return {
            "name": "SRVGGNetCompact",
            "channels": self.channels,
            "convs": self.convs,
            "scale": self.scale,
            "activation": self.activation,
        }

    def forward(self, image: Tensor) -> Tensor:
        """See `Network`."""
        residual = F.pixel_shuffle(self.body(image), self.scale)
        return residual + F.interpolate(image, scale_factor=float(self.scale), mode="nearest")

    @classmethod
    def recognise(cls, shapes: Shapes) -> Config | None:
        """See `Network.recognise`."""
        length = count_indexed(shapes, "body.")
        last = f"body.{length - 1}.weight"
        if "body.0.weight" not in shapes or last not in shapes or "conv_first.weight" in shapes:
            return None
        if "body.1.weight" not in shapes:
            raise ModelError(
                "SRVGGNetCompact without PReLU: ReLU and LeakyReLU have no weights, so the file does not tell which of "
                "the two it was trained with; build the network by hand and store it with save_checkpoint"
            )
        outputs = conv_channels(shapes, last)[0]
        scale = next((s for s in range(1, 17) if 3 * s * s == outputs), None)
        if scale is None:
            raise ModelError(f"SRVGGNetCompact: {outputs} channels before the pixel-shuffle are not 3 * scale^2")
        return {
            "name": "SRVGGNetCompact",
            "channels": conv_channels(shapes, "body.0.weight")[0],
            "convs": (length - 3) // 2,
            "scale": scale,
            "activation": "prelu",
        }
