"""Discriminators. All map float RGB (N, 3, H, W) in [0, 1] to raw logits (N, ...), which are high for real pictures."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from esrgan_deploy.errors import OptionError

Config = dict[str, int | str | bool]
"""The class name under "name", and every constructor argument. Can be stored as JSON and YAML."""

SLOPE = 0.2
"""The slope of every LeakyReLU, in all four papers."""

LARGEST = 1024
"""The largest value of any hyper-parameter, so that a typing error does not build a network for hours."""


class Discriminator(nn.Module, ABC):
    """A network that tells real pictures from generated ones. Its weights begin as PyTorch initialises them.

    Batch normalisation always uses the statistics of the batch, so pass real and fake pictures in two calls.
    """

    @abstractmethod
    def config(self) -> Config:
        """What `build` needs to build this network again, without its weights."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Raw logits of float RGB images (N, 3, H, W) in [0, 1].

        Raises:
            OptionError: images of a size that this discriminator does not take.
        """

    def parameter_count(self) -> int:
        """Number of trainable values, as papers and model zoos count them."""
        return sum(parameter.numel() for parameter in self.parameters())


def _block(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution, batch normalisation, LeakyReLU. Without bias, which the normalisation would subtract again."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(SLOPE)
    )


class DenseDiscriminator(Discriminator):
    """Convolutions, then two dense layers over the whole picture: one logit (N, 1). For pictures of one size."""

    def __init__(self, size: int, channels: int, convolutions: list[nn.Module], features: int, hidden: int) -> None:
        super().__init__()
        self.size, self.channels = size, channels
        self.convolutions = nn.Sequential(*convolutions)
        self.dense1 = nn.Linear(features, hidden)
        self.dense2 = nn.Linear(hidden, 1)

    def config(self) -> Config:
        """See `Discriminator.config`."""
        return {"name": type(self).__name__, "size": self.size, "channels": self.channels}

    def forward(self, image: Tensor) -> Tensor:
        """See `Discriminator.forward`."""
        height, width = image.shape[-2:]
        if (height, width) != (self.size, self.size):
            raise OptionError(
                f"{type(self).__name__} was built for {self.size}x{self.size} pixels and got {width}x{height}; "
                "set its size to that of the patches"
            )
        return cast(Tensor, self.dense2(_leaky(self.dense1(self.convolutions(image).flatten(1)))))


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


class SRGANDiscriminator(DenseDiscriminator):
    """SRGAN's (Ledig et al. 2017, figure 4): eight 3x3 convolutions, every second one strided, and two dense layers.

    The paper's sigmoid is part of the losses here, and the paper's pictures are in [-1, 1]. Returns (N, 1).

    Args:
        size: height and width of the pictures, a multiple of 16; 96 in the paper.
        channels: of the first convolution; they double three times. 64 in the paper. The first dense layer has sixteen
            times as many outputs, 1024 in the paper.

    Raises:
        OptionError: a size that is no multiple of 16.
    """

    def __init__(self, size: int = 96, channels: int = 64) -> None:
        if size % 16:
            raise OptionError(f"SRGANDiscriminator halves its pictures four times; {size} is no multiple of 16")
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.LeakyReLU(SLOPE)]
        width = channels
        layers.append(_block(width, width, kernel=3, stride=2))
        for _ in range(3):
            layers += [_block(width, 2 * width, kernel=3, stride=1), _block(2 * width, 2 * width, kernel=3, stride=2)]
            width *= 2
        super().__init__(size, channels, layers, features=width * (size // 16) ** 2, hidden=16 * channels)


class VGGDiscriminator(DenseDiscriminator):
    """BasicSR's VGG-style discriminator: stages of a 3x3 and a strided 4x4 convolution, then two dense layers.

    For SRGAN and ESRGAN. Stages halve the picture while its side is even and above 4: five of them for 96 and 128, six
    for 192 and 256, as in the official networks of these sizes. Channels double three times. Returns (N, 1).

    Args:
        size: height and width of the pictures, a multiple of 32.
        channels: of the first stage; 64 in the official files.

    Raises:
        OptionError: a size that is no multiple of 32.
    """

    def __init__(self, size: int = 128, channels: int = 64) -> None:
        if size % 32:
            raise OptionError(f"VGGDiscriminator takes pictures whose side is a multiple of 32, not {size}")
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.LeakyReLU(SLOPE)]
        layers.append(_block(channels, channels, kernel=4, stride=2))
        side, width = size // 2, channels
        while side % 2 == 0 and side > 4:
            wider = min(2 * width, 8 * channels)
            layers += [_block(width, wider, kernel=3, stride=1), _block(wider, wider, kernel=4, stride=2)]
            side, width = side // 2, wider
        super().__init__(size, channels, layers, features=width * side**2, hidden=100)


class UNetDiscriminator(Discriminator):
    """Real-ESRGAN's U-Net (Wang et al. 2021, figure 6): one logit per pixel, spectral norm, no batch normalisation.

    Spectral norm (Miyato et al. 2018) divides the weights of every convolution but the first and last by their largest
    singular value, which is tracked by one power iteration per pass in training mode. Returns (N, 1, H, W).

    Args:
        channels: of the level with the full size; 64 in the official files.
        skip: add the features of each level on the way down to those on the way up.
    """

    def __init__(self, channels: int = 64, skip: bool = True) -> None:
        super().__init__()
        self.channels, self.skip = channels, skip
        one, two, four, eight = (channels * factor for factor in (1, 2, 4, 8))
        self.conv_first = nn.Conv2d(3, one, 3, padding=1)
        self.down1 = _spectral_conv(one, two, kernel=4, stride=2)
        self.down2 = _spectral_conv(two, four, kernel=4, stride=2)
        self.down3 = _spectral_conv(four, eight, kernel=4, stride=2)
        self.up3 = _spectral_conv(eight, four)
        self.up2 = _spectral_conv(four, two)
        self.up1 = _spectral_conv(two, one)
        self.conv1 = _spectral_conv(one, one)
        self.conv2 = _spectral_conv(one, one)
        self.conv_last = nn.Conv2d(one, 1, 3, padding=1)

    def config(self) -> Config:
        """See `Discriminator.config`."""
        return {"name": "UNetDiscriminator", "channels": self.channels, "skip": self.skip}

    def forward(self, image: Tensor) -> Tensor:
        """See `Discriminator.forward`."""
        height, width = image.shape[-2:]
        if height % 8 or width % 8:
            raise OptionError(f"UNetDiscriminator takes pictures whose sides are multiples of 8, not {width}x{height}")
        level1 = _leaky(self.conv_first(image))
        level2 = _leaky(self.down1(level1))
        level4 = _leaky(self.down2(level2))
        x = _leaky(self.down3(level4))
        for conv, level in ((self.up3, level4), (self.up2, level2), (self.up1, level1)):
            x = _leaky(conv(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)))
            if self.skip:
                x = x + level
        return cast(Tensor, self.conv_last(_leaky(self.conv2(_leaky(self.conv1(x))))))


def _spectral_conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False))


class PatchDiscriminator(Discriminator):
    """pix2pix's PatchGAN (Isola et al. 2017): 4x4 convolutions, one logit per overlapping patch of 70x70 pixels.

    Returns (N, 1, H / 2^layers - 2, W / 2^layers - 2), rounded down.

    Args:
        channels: of the first convolution; 64 in the paper.
        layers: number of strided convolutions, 1 to 6. With 1, 3 and 5, a logit sees 16, 70 and 286 pixels.

    Raises:
        OptionError: another number of layers.
    """

    def __init__(self, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        if not 1 <= layers <= 6:
            raise OptionError(f"PatchDiscriminator takes 1 to 6 layers, not {layers}; 3 see 70x70 pixels")
        self.channels, self.layers = channels, layers
        widths = [channels * min(2**layer, 8) for layer in range(layers + 1)]
        stages: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        stages += [_block(widths[i - 1], widths[i], kernel=4, stride=2) for i in range(1, layers)]
        stages += [_block(widths[-2], widths[-1], kernel=4, stride=1), nn.Conv2d(widths[-1], 1, 4, padding=1)]
        self.convolutions = nn.Sequential(*stages)

    def config(self) -> Config:
        """See `Discriminator.config`."""
        return {"name": "PatchDiscriminator", "channels": self.channels, "layers": self.layers}

    def forward(self, image: Tensor) -> Tensor:
        """See `Discriminator.forward`."""
        height, width = image.shape[-2:]
        smallest = 3 * 2**self.layers
        if min(height, width) < smallest:
            raise OptionError(
                f"PatchDiscriminator with {self.layers} layers needs {smallest}x{smallest} pixels or more, "
                f"not {width}x{height}"
            )
        return cast(Tensor, self.convolutions(image))


DISCRIMINATORS: dict[str, type[Discriminator]] = {
    network.__name__: network
    for network in (SRGANDiscriminator, VGGDiscriminator, UNetDiscriminator, PatchDiscriminator)
}
"""By the name that `config()` gives."""

NAMES = tuple(DISCRIMINATORS)


def build(config: Mapping[str, int | str | bool]) -> Discriminator:
    """The discriminator that `config` describes, with fresh random weights.

    Raises:
        OptionError: an unknown "name", arguments that this discriminator does not take, or a value that it refuses.
    """
    arguments = dict(config)
    name = str(arguments.pop("name", None))
    if name not in DISCRIMINATORS:
        raise OptionError(f"discriminator {name!r} is unknown; known are {', '.join(NAMES)}")
    network = DISCRIMINATORS[name]
    known = {key: parameter.default for key, parameter in inspect.signature(network).parameters.items()}
    for key, value in arguments.items():
        if key not in known:
            raise OptionError(f"{name} has no {key!r}; it takes {', '.join(known)}")
        if type(value) is not type(known[key]) or not (isinstance(value, bool) or 1 <= int(value) <= LARGEST):
            kind = "true or false" if isinstance(known[key], bool) else f"a whole number from 1 to {LARGEST}"
            raise OptionError(f"{name}'s {key} is {value!r}; give {kind}")
    return network(**arguments)
