"""Recognise the network that is stored for ncnn, and give its weights their names.

Most ESRGAN-family models that are passed around for Vulkan programs have this format. The weights have no names, so
they are given to the layers of the network in file order. Then the graph in the file is held against the network: every
layer with weights must read the same expression, and the output must be the same. This checks the data flow, the
slopes, the residual scaling and the upsampling at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import TEXT_BYTES, check_memory, check_regular, read_bytes
from esrgan_deploy.errors import ModelError
from esrgan_deploy.ncnn.expressions import Expressions, Slot, Value
from esrgan_deploy.ncnn.file import Layer, UnfitError, Weights, read_layers
from esrgan_deploy.ncnn.networks import STEPS, Config, compute

LARGEST_FACTOR = 8
"""The largest factor of Interp, PixelShuffle and Reorg."""


@dataclass(frozen=True, eq=False)
class NcnnNetwork:
    """A network that was read from a .param and a .bin."""

    config: Config
    """Its class under "name", and its hyper-parameters."""
    weights: Mapping[str, Weights]
    """fp32, by the names that they have in PyTorch, in the order of its state dict."""
    sha256: str
    """SHA-256 of the .bin."""


def read_ncnn(param: StrPath, weights: StrPath) -> NcnnNetwork:
    """What `param` and `weights` hold: RRDBNet x1, x2, x4 or x8, or SRVGGNetCompact with PReLU.

    fp16 weights are returned as they are stored, so they are not bit-identical to the checkpoint that was converted.

    Raises:
        ModelError: a file cannot be read, is damaged, or holds another network; the message names what differs.
        MachineError: the weights do not fit into memory.
    """
    param, weights = as_path(param), as_path(weights)
    for file in (param, weights):
        check_regular(file, ModelError)
    graph, data = read_bytes(param, ModelError, TEXT_BYTES), read_bytes(weights, ModelError)
    check_memory(weights, "its weights in fp32", 2 * len(data))
    try:
        layers = read_layers(graph.decode(), data)
        config = _config(layers)
        named = _named_layers(layers, config)
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{param}: is not text; ncnn's binary .param.bin is not supported, give the text form"
        ) from error
    except UnfitError as reason:
        raise ModelError(
            f"{param}: {reason}; readable are RRDBNet (ESRGAN, Real-ESRGAN, RealSR) and SRVGGNetCompact "
            "(realesr-animevideov3, -general) files, .param and .bin of the same model"
        ) from reason
    return NcnnNetwork(config, _weights_by_name(named), hashlib.sha256(data).hexdigest())


def _config(layers: list[Layer]) -> Config:
    """Hyper-parameters from the number of layers. A graph with PReLU is SRVGGNetCompact, any other RRDBNet."""
    convs = [layer for layer in layers if layer.type == "Convolution"]
    if len(convs) < 3:
        raise UnfitError(f"has {len(convs)} convolutions, fewer than any supported network")
    channels = convs[0].whole(0)
    if any(layer.type == "PReLU" for layer in layers):
        shuffle = next((layer for layer in layers if layer.type == "PixelShuffle"), None)
        return {
            "name": "SRVGGNetCompact",
            "channels": channels,
            "convs": len(convs) - 2,
            "scale": _factor_of(shuffle) if shuffle else 1,
            "activation": "prelu",
        }
    steps = sum(layer.type == "Interp" for layer in layers)
    unshuffle = next((_factor_of(layer) for layer in layers if layer.type == "Reorg"), 1)
    scale = next((scale for scale, known in STEPS.items() if known == (unshuffle, steps)), None)
    blocks, rest = divmod(len(convs) - 4 - steps, 15)  # conv_first, conv_body, conv_hr, conv_last; 15 in each RRDB
    if rest or blocks < 1 or scale is None:
        raise UnfitError(f"{len(convs)} convolutions and {steps} Interp layers are no RRDBNet")
    return {
        "name": "RRDBNet",
        "channels": channels,
        "growth": convs[1].whole(0),
        "blocks": blocks,
        "scale": scale,
        "block": "rrdb",
    }


def _named_layers(layers: list[Layer], config: Config) -> dict[str, Layer]:
    """The layers with weights by their names in the network of `config`, which computes the same as the graph."""
    known = Expressions()
    try:
        picture = compute(config, known, known.image())
    except ValueError as error:
        raise UnfitError(f"has {error}") from error
    slots, name = dict(known.slots), config["name"]
    weighted = [layer for layer in layers if layer.type in ("Convolution", "PReLU")]
    if len(slots) != len(weighted):
        raise UnfitError(f"has {len(weighted)} layers with weights, {name} has {len(slots)}")
    named = dict(zip(slots, weighted, strict=True))
    for layer_name, layer in named.items():
        _check_weights(layer_name, layer, slots[layer_name])
    blobs = _Graph(known, {id(layer): layer_name for layer_name, layer in named.items()}).run(layers)
    for layer_name, layer in named.items():
        if blobs[layer.inputs[0]] != slots[layer_name].reads:
            raise UnfitError(f"layer {layer.name} does not read what {layer_name} of {name} reads")
    if blobs[_output(layers)] != picture:
        raise UnfitError(f"what follows layer {weighted[-1].name} is not what {name} does there")
    return named


def _check_weights(name: str, layer: Layer, slot: Slot) -> None:
    if layer.weight.shape != slot.shape:
        raise UnfitError(f"{layer.name} has weights {layer.weight.shape}, {name} {slot.shape}")
    if not np.isfinite(layer.weight).all() or (layer.bias is not None and not np.isfinite(layer.bias).all()):
        raise UnfitError(f"{layer.name} holds NaN or infinite values")
    if layer.bias is None and layer.type == "Convolution":
        raise UnfitError(f"{layer.name} has no bias, {name} has one")


def _weights_by_name(named: Mapping[str, Layer]) -> dict[str, Weights]:
    weights = {}
    for name, layer in named.items():
        weights[f"{name}.weight"] = layer.weight
        if layer.bias is not None:
            weights[f"{name}.bias"] = layer.bias
    return weights


def _output(layers: list[Layer]) -> str:
    """The one blob that no layer reads."""
    read = {blob for layer in layers for blob in layer.inputs}
    unread = [blob for layer in layers for blob in layer.outputs if blob not in read]
    if len(unread) != 1:
        raise UnfitError(f"has {len(unread)} outputs: {', '.join(unread[:4])}")
    return unread[0]


class _Graph:
    """The graph in a file, as expressions."""

    def __init__(self, known: Expressions, names: Mapping[int, str]) -> None:
        """`names` has the name of each layer with weights, by the layer's id."""
        self.known, self.names = known, names

    def run(self, layers: list[Layer]) -> dict[str, Value]:
        """Every blob."""
        blobs: dict[str, Value] = {}
        for layer in layers:
            try:
                inputs = [blobs[blob] for blob in layer.inputs]
                result = self.known.image() if layer.type == "Input" else self._compute(layer, inputs)
            except (KeyError, IndexError, ValueError) as error:
                raise UnfitError(f"{layer.type} {layer.name} cannot be computed ({error})") from error
            blobs.update(dict.fromkeys(layer.outputs, result))
        return blobs

    def _compute(self, layer: Layer, inputs: list[Value]) -> Value:
        """The output of one layer, as ncnn computes it."""
        known, x = self.known, inputs[0]
        if layer.type == "Convolution":
            return self._convolve(layer, x)
        if layer.type == "PReLU":
            return known.prelu(self.names[id(layer)], x)
        if layer.type == "ReLU":
            return known.leaky(x, layer.value(0))
        if layer.type == "Concat":
            return known.concat(*inputs)
        if layer.type == "Eltwise":
            factors = layer.params.get(1) or [1.0] * len(inputs)
            return known.weighted_sum(list(zip(factors, inputs, strict=True)))
        if layer.type == "BinaryOp":
            return self._binary(layer, inputs)
        if layer.type == "Interp":
            return known.enlarged(x, _factor(layer.value(1)), _factor(layer.value(2)))
        if layer.type == "PixelShuffle":
            return known.pixel_shuffle(x, _factor_of(layer))
        if layer.type == "Reorg":
            return known.pixel_unshuffle(x, _factor_of(layer))
        return x  # Split, Noop

    def _binary(self, layer: Layer, inputs: list[Value]) -> Value:
        """Addition or multiplication of two blobs, or of a blob and a number."""
        known, x, operation = self.known, inputs[0], layer.whole(0)
        if operation not in (0, 2):
            raise ValueError(f"operation {operation} is neither addition nor multiplication")
        if layer.whole(1):
            number = layer.value(2)
            return known.scaled(x, number) if operation else known.value(x.channels, "plus", x.number, number)
        y = inputs[1]
        if operation == 0:
            return known.add(x, y)
        return known.value(max(x.channels, y.channels), "product", *sorted((x.number, y.number)))

    def _convolve(self, layer: Layer, x: Value) -> Value:
        left = layer.whole(4)
        right, top = layer.whole(15, left), layer.whole(14, left)
        padding = (left, right, top, layer.whole(16, top))
        y = self.known.conv(self.names[id(layer)], x, layer.whole(0), padding)
        activation = layer.whole(9)
        if activation == 0:
            return y
        if activation == 1:
            return self.known.leaky(y, 0.0)
        if activation == 2:
            return self.known.leaky(y, layer.value(10))
        raise ValueError(f"activation {activation} is neither ReLU nor LeakyReLU")


def _factor_of(layer: Layer) -> int:
    try:
        return _factor(layer.value(0))
    except ValueError as error:
        raise UnfitError(f"{layer.type} {layer.name}: {error}") from error


def _factor(value: float) -> int:
    if value not in range(1, LARGEST_FACTOR + 1):
        raise ValueError(f"factor {value:g} is no whole number from 1 to {LARGEST_FACTOR}")
    return int(value)
