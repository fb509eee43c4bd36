"""What the networks that are stored for ncnn compute, said once in the operations that they consist of.

`esrgan_deploy.ncnn.expressions` compares it with the graph in a file, `esrgan_deploy.ncnn.graph` writes it as ONNX.
The names are those of the PyTorch modules in `esrgan_export.networks`.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from esrgan_deploy.errors import ModelError

Config = dict[str, Any]
"""The class of the network under "name", and its hyper-parameters: what `esrgan.arch` holds in an artefact."""

T = TypeVar("T")

SLOPE = 0.2
"""Of every LeakyReLU in RRDBNet."""
RESIDUAL_SCALING = 0.2
STEPS = {1: (4, 2), 2: (2, 2), 4: (1, 2), 8: (1, 3)}
"""Scale of RRDBNet -> (pixel-unshuffle factor in front, nearest x2 steps behind)."""


class Operations(Protocol[T]):
    """What networks are built of. T stands for the pictures and features that flow between."""

    def at(self, module: str) -> Operations[T]:
        """The same operations as part of `module`; names of layers stay complete."""
        ...

    def conv(self, layer: str, x: T, outputs: int) -> T:
        """A 3x3 convolution with bias that keeps height and width."""
        ...

    def prelu(self, layer: str, x: T) -> T:
        """A slope for each channel where x is negative."""
        ...

    def leaky(self, x: T, slope: float) -> T:
        """One slope for all channels."""
        ...

    def concat(self, *parts: T) -> T:
        """Channels behind each other."""
        ...

    def add(self, x: T, y: T) -> T:
        """The sum of x and y."""
        ...

    def scaled(self, x: T, factor: float) -> T:
        """The product of x and a number."""
        ...

    def enlarged(self, x: T, factor: int) -> T:
        """Every pixel repeated in both directions."""
        ...

    def pixel_shuffle(self, x: T, factor: int) -> T:
        """Channels (colour, position) become pixels."""
        ...

    def pixel_unshuffle(self, image: T, factor: int) -> T:
        """Pixels become channels (colour, position)."""
        ...


def compute(config: Config, ops: Operations[T], image: T) -> T:
    """The picture, not clamped, that the network of `config` makes of `image`.

    Raises:
        ModelError: another network than RRDBNet of RRDBs, or SRVGGNetCompact with PReLU.
    """
    if config["name"] == "RRDBNet" and config["block"] == "rrdb":
        return _rrdbnet(config, ops, image)
    if config["name"] == "SRVGGNetCompact" and config["activation"] == "prelu":
        return _srvgg(config, ops, image)
    raise ModelError(f"{config['name']} of this kind cannot be built without PyTorch; use esrgan-export")


def multiple_of(config: Config) -> int:
    """What height and width of the input must be multiples of."""
    return STEPS[config["scale"]][0] if config["name"] == "RRDBNet" else 1


def _rrdbnet(config: Config, ops: Operations[T], image: T) -> T:
    """Features at low resolution, RRDBs with one long skip, nearest x2 steps, two convolutions.

    Wang et al. 2018 (ESRGAN), section 3.1; the pixel-unshuffle in front is Real-ESRGAN's.
    """
    channels, (unshuffle, steps) = config["channels"], STEPS[config["scale"]]
    if unshuffle > 1:
        image = ops.pixel_unshuffle(image, unshuffle)
    first = x = ops.conv("conv_first", image, channels)
    for k in range(config["blocks"]):
        x = _rrdb(config, ops, f"body.{k}", x)
    x = ops.add(first, ops.conv("conv_body", x, channels))
    for k in range(1, steps + 1):
        x = ops.leaky(ops.conv(f"conv_up{k}", ops.enlarged(x, 2), channels), SLOPE)
    return ops.conv("conv_last", ops.leaky(ops.conv("conv_hr", x, channels), SLOPE), 3)


def _rrdb(config: Config, ops: Operations[T], name: str, x: T) -> T:
    """X + 0.2 * three dense blocks in a row."""
    residual = x
    for k in (1, 2, 3):
        residual = _dense_block(config, ops.at(f"{name}.rdb{k}"), f"{name}.rdb{k}", residual)
    ops = ops.at(name)
    return ops.add(x, ops.scaled(residual, RESIDUAL_SCALING))


def _dense_block(config: Config, ops: Operations[T], name: str, x: T) -> T:
    """Five convolutions, each of which reads x and all results before its own; x + 0.2 * the last."""
    known = [x]
    for k in (1, 2, 3, 4):
        inputs = known[0] if k == 1 else ops.concat(*known)
        known.append(ops.leaky(ops.conv(f"{name}.conv{k}", inputs, config["growth"]), SLOPE))
    residual = ops.conv(f"{name}.conv5", ops.concat(*known), config["channels"])
    return ops.add(x, ops.scaled(residual, RESIDUAL_SCALING))


def _srvgg(config: Config, ops: Operations[T], image: T) -> T:
    """Convolutions at low resolution, one pixel-shuffle, plus the input enlarged by nearest neighbour."""
    x, scale, last = image, config["scale"], config["convs"] + 1
    for k in range(last):
        x = ops.prelu(f"body.{2 * k + 1}", ops.conv(f"body.{2 * k}", x, config["channels"]))
    x = ops.conv(f"body.{2 * last}", x, 3 * scale**2)
    return ops.add(ops.pixel_shuffle(x, scale), ops.enlarged(image, scale))
