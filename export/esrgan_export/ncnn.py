"""Networks that are stored for ncnn.

Most ESRGAN-family models that are passed around for Vulkan programs have this format. The weights have no names, so
they are given to the layers of the network in file order. Then the graph in the file is run as it is: every layer of
the network must read the same values as in the graph, and the output must be the same. This checks the data flow, the
slopes, the residual scaling and the upsampling at once.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import check_regular
from esrgan_deploy.errors import EsrganError, MachineError, ModelError
from esrgan_export.ncnn_file import Layer, UnfitError, read_layers
from esrgan_export.networks import Config, Network, build

LARGEST_FACTOR = 8
"""The largest factor of Interp and PixelShuffle."""
MOST_PADDING = 15
MOST_VALUES = 1 << 25
"""All blobs of a graph together, for an image of 6x5 pixels; those of RRDBNet with 23 blocks hold 2 million values."""


def read_ncnn(param: StrPath, weights: StrPath) -> Network:
    """The network (fp32) that `param` and `weights` hold: RRDBNet x4 or x8, or SRVGGNetCompact with PReLU.

    fp16 weights are returned as they are stored, so they are not bit-identical to the checkpoint that was converted.

    Raises:
        ModelError: a file cannot be read, is damaged, or holds another network; the message names what differs.
    """
    param, weights = as_path(param), as_path(weights)
    for file in (param, weights):
        check_regular(file, ModelError)
    try:
        layers = read_layers(param, weights)
        network, places = _fill(layers)
        _check_same_function(network, layers, places)
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{param}: is not text; ncnn's binary .param.bin is not supported, give the text form"
        ) from error
    except MachineError:
        raise
    except (UnfitError, EsrganError) as reason:
        raise ModelError(
            f"{param}: {reason}; readable are complete RRDBNet x4/x8 and SRVGGNetCompact files, .param and .bin of the "
            "same model"
        ) from reason
    return network


def _fill(layers: list[Layer]) -> tuple[Network, dict[str, Layer]]:
    """The network with the weights of the graph in file order, and the layer of the graph for each of its layers."""
    weighted = [layer for layer in layers if layer.type in ("Convolution", "PReLU")]
    config = _config(layers)
    with torch.device("meta"):
        network = build(config)
    slots = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.PReLU)}
    if len(slots) != len(weighted):
        raise UnfitError(f"has {len(weighted)} layers with weights, {config['name']} has {len(slots)}")
    state: dict[str, Tensor] = {}
    places = dict(zip(slots, weighted, strict=True))
    for name, layer in places.items():
        slot = slots[name]
        if layer.weight.shape != slot.weight.shape:
            raise UnfitError(f"{layer.name} has weights {tuple(layer.weight.shape)}, {name} {tuple(slot.weight.shape)}")
        if not layer.weight.isfinite().all() or (layer.bias is not None and not layer.bias.isfinite().all()):
            raise UnfitError(f"{layer.name} holds NaN or infinite values")
        state[f"{name}.weight"] = layer.weight
        if isinstance(slot, nn.Conv2d):
            if layer.bias is None:
                raise UnfitError(f"{layer.name} has no bias, {name} has one")
            state[f"{name}.bias"] = layer.bias
    network.load_state_dict(state, assign=True)
    return network, places


def _config(layers: list[Layer]) -> Config:
    """Hyper-parameters from the number of layers. A graph with PReLU is SRVGGNetCompact, any other RRDBNet."""
    convs = [layer for layer in layers if layer.type == "Convolution"]
    if len(convs) < 3:
        raise UnfitError(f"has {len(convs)} convolutions, fewer than any supported network")
    channels = convs[0].whole(0)
    if any(layer.type == "PReLU" for layer in layers):
        factor = next((layer.whole(0) for layer in layers if layer.type == "PixelShuffle"), 1)
        return {
            "name": "SRVGGNetCompact",
            "channels": channels,
            "convs": len(convs) - 2,
            "scale": factor,
            "activation": "prelu",
        }
    steps = sum(layer.type == "Interp" for layer in layers)
    blocks, rest = divmod(len(convs) - 4 - steps, 15)  # conv_first, conv_body, conv_hr, conv_last; 15 in each RRDB
    if rest or blocks < 1 or steps not in (2, 3):
        raise UnfitError(f"{len(convs)} convolutions and {steps} Interp layers are no RRDBNet")
    return {
        "name": "RRDBNet",
        "channels": channels,
        "growth": convs[1].whole(0),
        "blocks": blocks,
        "scale": 2**steps,
        "block": "rrdb",
    }


@torch.no_grad()
def _check_same_function(network: Network, layers: list[Layer], places: dict[str, Layer]) -> None:
    """Run network and graph on noise; compare the input of every layer with weights, then the output.

    In the 23 blocks of x4plus, a single slope of 0.201 instead of 0.2 changes the input of some layer by 1e-3 of its
    largest value; rounding changes it by less than 1e-6.
    """
    probe = torch.randn(1, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    expected: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: expected.update({name: inputs[0].clone()})
        )
        for name in places
    ]
    picture = network(probe)
    for hook in hooks:
        hook.remove()
    blobs = _run(layers, probe)
    for name, layer in places.items():
        if not _equal(blobs[layer.inputs[0]], expected[name]):
            raise UnfitError(f"layer {layer.name} does not read what {name} of {type(network).__name__} reads")
    if not _equal(blobs[_output(layers)], picture):
        raise UnfitError(f"what follows layer {layer.name} is not what {type(network).__name__} does there")


def _equal(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


def _output(layers: list[Layer]) -> str:
    """The one blob that no layer reads."""
    read = {blob for layer in layers for blob in layer.inputs}
    unread = [blob for layer in layers for blob in layer.outputs if blob not in read]
    if len(unread) != 1:
        raise UnfitError(f"has {len(unread)} outputs: {', '.join(unread[:4])}")
    return unread[0]


def _run(layers: list[Layer], image: Tensor) -> dict[str, Tensor]:
    """Every blob of the graph for an `image` (1, 3, H, W)."""
    blobs: dict[str, Tensor] = {}
    values = 0
    for layer in layers:
        try:
            inputs = [blobs[blob] for blob in layer.inputs]
            if values + _most_values(layer, inputs) > MOST_VALUES:
                raise ValueError("an image of 6x5 pixels grows beyond all measure")
            result = image if layer.type == "Input" else _compute(layer, inputs)
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            raise UnfitError(f"{layer.type} {layer.name} cannot be computed ({str(error).splitlines()[0]})") from error
        values += result.numel()
        blobs.update(dict.fromkeys(layer.outputs, result))
    return blobs


def _compute(layer: Layer, inputs: list[Tensor]) -> Tensor:
    """The output of one layer, as ncnn computes it."""
    x = inputs[0]
    if layer.type == "Convolution":
        return _convolve(layer, x)
    if layer.type == "PReLU":
        return F.prelu(x, layer.weight)
    if layer.type == "ReLU":
        return F.leaky_relu(x, layer.value(0))
    if layer.type == "Concat":
        return torch.cat(inputs, 1)
    if layer.type == "Eltwise":
        factors = layer.params.get(1) or [1.0] * len(inputs)
        return torch.stack([f * blob for f, blob in zip(factors, inputs, strict=True)]).sum(0)
    if layer.type == "BinaryOp":
        other: Tensor | float = layer.value(2) if layer.whole(1) else inputs[1]
        if layer.whole(0) not in (0, 2):
            raise ValueError(f"operation {layer.whole(0)} is neither addition nor multiplication")
        return x + other if layer.whole(0) == 0 else x * other
    if layer.type == "Interp":
        rows, columns = _factor(layer.value(1)), _factor(layer.value(2))
        return x.repeat_interleave(rows, 2).repeat_interleave(columns, 3)
    if layer.type == "PixelShuffle":
        return F.pixel_shuffle(x, _factor(layer.value(0)))
    return x  # Split, Noop


def _most_values(layer: Layer, inputs: list[Tensor]) -> int:
    """The most values that the result can have, before it is computed."""
    if layer.type == "Convolution":
        height, width = inputs[0].shape[-2:]
        return layer.whole(0) * (height + 2 * MOST_PADDING) * (width + 2 * MOST_PADDING)
    if layer.type == "BinaryOp" and len(inputs) == 2:  # each grows to the other's size
        return prod(map(max, inputs[0].shape, inputs[1].shape))
    return sum(blob.numel() for blob in inputs) * (LARGEST_FACTOR**2 if layer.type == "Interp" else 1)


def _factor(value: float) -> int:
    if value not in range(1, LARGEST_FACTOR + 1):
        raise ValueError(f"factor {value:g} is no whole number from 1 to {LARGEST_FACTOR}")
    return int(value)


def _convolve(layer: Layer, x: Tensor) -> Tensor:
    left = layer.whole(4)
    right, top = layer.whole(15, left), layer.whole(14, left)
    bottom = layer.whole(16, top)
    if not all(0 <= pad <= MOST_PADDING for pad in (left, right, top, bottom)):
        raise ValueError(f"padding outside of 0..{MOST_PADDING}")
    y = F.conv2d(F.pad(x, (left, right, top, bottom)), layer.weight, layer.bias)
    activation = layer.whole(9)
    if activation == 0:
        return y
    if activation == 1:
        return F.relu(y)
    if activation == 2:
        return F.leaky_relu(y, layer.value(10))
    raise ValueError(f"activation {activation} is neither ReLU nor LeakyReLU")
