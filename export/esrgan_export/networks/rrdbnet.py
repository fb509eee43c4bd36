"""RRDBNet, the generator of ESRGAN (Wang et al. 2018, section 3.1, figures 3 and 4) and of Real-ESRGAN."""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esrgan_deploy.errors import ModelError, OptionError
from esrgan_export.networks.layers import conv3x3, nearest_x2, shrink_init
from esrgan_export.networks.network import Config, Network, Shapes, conv_channels, count_indexed

Block = Literal["residual", "residual-bn", "dense", "rrdb"]

RESIDUAL_SCALING = 0.2  # the paper's beta, applied to each dense block and to the whole RRDB
SLOPE = 0.2  # of every LeakyReLU

# scale -> (pixel-unshuffle factor in front, nearest x2 steps behind). As in Real-ESRGAN, x1 and x2 do their work at a
# quarter and half of the input's resolution, with the x4 network behind a pixel-unshuffle.
STEPS = {1: (4, 2), 2: (2, 2), 4: (1, 2), 8: (1, 3)}


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU, in place: `x` is always the fresh output of a convolution."""
    return F.leaky_relu(x, SLOPE, inplace=True)


class ResidualBlock(nn.Module):
    """Residual block (figure 4, left): x + 0.2 * conv2(relu(conv1(x))).

    With batch normalisation behind both convolutions it is SRGAN's, which the paper compares with.
    """

    def __init__(self, channels: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn1 = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.bn2 = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        shrink_init(self.conv1, self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        residual: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return x + RESIDUAL_SCALING * residual


class DenseBlock(nn.Module):
    """Residual dense block: five convolutions, each of which reads the input and all outputs before it.

    y_k = leaky(conv_k([x, y_1 ... y_k-1])) with `growth` channels for k = 1..4; x + 0.2 * conv_5([x, y_1 ... y_4]).
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, growth)
        self.conv2 = conv3x3(channels + growth, growth)
        self.conv3 = conv3x3(channels + 2 * growth, growth)
        self.conv4 = conv3x3(channels + 3 * growth, growth)
        self.conv5 = conv3x3(channels + 4 * growth, channels)
        shrink_init(self.conv1, self.conv2, self.conv3, self.conv4, self.conv5)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        y1 = leaky(self.conv1(x))
        y2 = leaky(self.conv2(torch.cat((x, y1), 1)))
        y3 = leaky(self.conv3(torch.cat((x, y1, y2), 1)))
        y4 = leaky(self.conv4(torch.cat((x, y1, y2, y3), 1)))
        residual: Tensor = self.conv5(torch.cat((x, y1, y2, y3, y4), 1))
        return x + RESIDUAL_SCALING * residual


class RRDB(nn.Module):
    """Residual-in-residual dense block (figure 4, right): x + 0.2 * three dense blocks in a row."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(channels, growth)
        self.rdb2 = DenseBlock(channels, growth)
        self.rdb3 = DenseBlock(channels, growth)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        residual: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + RESIDUAL_SCALING * residual


class RRDBNet(Network):
    """Features at low resolution, a trunk of basic blocks with one long skip, nearest x2 steps, two convolutions.

    Args:
        channels: features of the trunk.
        growth: features that each convolution of a dense block adds; not used by the residual ones.
        blocks: number of basic blocks: 23 in ESRGAN and Real-ESRGAN x4plus, 6 in its anime variant.
        scale: 1, 2, 4 or 8. 1 and 2 pixel-unshuffle the input by 4 and 2, so that H and W must be multiples of these.
        block: the basic block, one of those that the paper compares; -bn has batch normalisation.

    Weights are initialised as in the official code: small in the blocks, PyTorch's default in the other layers.

    Raises:
        OptionError: a scale or block that is not listed.
    """

    def __init__(
        self, channels: int = 64, growth: int = 32, blocks: int = 23, scale: int = 4, block: Block = "rrdb"
    ) -> None:
        super().__init__()
        if scale not in STEPS:
            raise OptionError(f"RRDBNet: scale {scale} is not one of {', '.join(map(str, STEPS))}")
        self.channels, self.growth, self.blocks, self.scale = channels, growth, blocks, scale
        self.block: Block = block
        self.multiple_of, steps = STEPS[scale]
        self.conv_first = conv3x3(3 * self.multiple_of**2, channels)
        self.body = nn.Sequential(*(self._basic_block() for _ in range(blocks)))
        self.conv_body = conv3x3(channels, channels)
        self.conv_up1 = conv3x3(channels, channels)
        self.conv_up2 = conv3x3(channels, channels)
        if steps == 3:
            self.conv_up3 = conv3x3(channels, channels)
        self.conv_hr = conv3x3(channels, channels)
        self.conv_last = conv3x3(channels, 3)

    def _basic_block(self) -> nn.Module:
        if self.block in ("residual", "residual-bn"):
            return ResidualBlock(self.channels, batch_norm=self.block == "residual-bn")
        if self.block == "dense":
            return DenseBlock(self.channels, self.growth)
        if self.block == "rrdb":
            return RRDB(self.channels, self.growth)
        raise OptionError(f"RRDBNet: block {self.block!r} is not one of {', '.join(get_args(Block))}")

    def config(self) -> Config:
        """See `Network.config`."""
        config: Config = {"name": "RRDBNet", "channels": self.channels, "blocks": self.blocks}
        if self.block in ("dense", "rrdb"):
            config["growth"] = self.growth
        return config | {"scale": self.scale, "block": self.block}

    def forward(self, image: Tensor) -> Tensor:
        """See `Network`."""
        if self.multiple_of > 1:
            image = F.pixel_unshuffle(image, self.multiple_of)
        features: Tensor = self.conv_first(image)
        features = features + self.conv_body(self.body(features))
        features = leaky(self.conv_up1(nearest_x2(features)))
        features = leaky(self.conv_up2(nearest_x2(features)))
        if self.scale == 8:
            features = leaky(self.conv_up3(nearest_x2(features)))
        return cast(Tensor, self.conv_last(leaky(self.conv_hr(features))))

    @classmethod
    def recognise(cls, shapes: Shapes) -> Config | None:
        """See `Network.recognise`."""
        rrdb = "body.0.rdb1.conv1.weight" in shapes
        if "conv_first.weight" not in shapes or not (rrdb or {"conv_body.weight", "conv_hr.weight"} <= shapes.keys()):
            return None
        channels, inputs = conv_channels(shapes, "conv_first.weight")
        steps = sum(f"conv_up{k}.weight" in shapes for k in (1, 2, 3))
        scale = next((s for s, (unshuffle, n) in STEPS.items() if (3 * unshuffle**2, n) == (inputs, steps)), None)
        if scale is None:
            raise ModelError(
                f"RRDBNet with {inputs} input channels and {steps} x2 steps is not supported; known are "
                "3 channels with 2 or 3 steps (x4, x8), and 12 or 48 channels with 2 steps (x2, x1)"
            )
        if rrdb:
            block, dense = "rrdb", "body.0.rdb1.conv1.weight"
        elif "body.0.conv5.weight" in shapes:
            block, dense = "dense", "body.0.conv1.weight"
        else:
            block, dense = ("residual-bn" if "body.0.bn1.weight" in shapes else "residual"), ""
        config: Config = {"name": "RRDBNet", "channels": channels, "blocks": count_indexed(shapes, "body.")}
        if dense in shapes:
            config["growth"] = conv_channels(shapes, dense)[0]
        return config | {"scale": scale, "block": block}
