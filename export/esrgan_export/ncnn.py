"""Read networks stored for ncnn: a text graph (.param) and its weights (.bin).

Most ESRGAN-family models that are handed around for Vulkan programs come in this form. The weights carry no names, so
they are given to the network's layers in file order. Whether that was right is then decided by computation: the graph
is run as it stands in the file, and every layer of the network must read the same values, and give the same picture.
That covers the data flow, the slopes, the residual scaling and the upsampling at once.

Format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esrgan_deploy.errors import EsrganError, ModelError
from esrgan_export.networks import Config, Network, build

MAGIC = "7767517"
TAG_FP16 = 0x01306B47
TAG_FP32 = (0x0002C056, 0)
ARRAY_ID = -23300  # a parameter id at or below this one holds an array: id = -23300 - k
LARGEST_FACTOR = 8  # of Interp and PixelShuffle

# Parameter ids by layer type: those that are read below, and those that must have the value given here, since another
# one would change what the layer computes. An id of neither kind is refused for the same reason.
READ: dict[str, set[int]] = {
    "Split": set(),
    "Noop": set(),
    "Concat": set(),
    "Convolution": {0, 1, 4, 5, 6, 9, 10, 11, 14, 15, 16},
    "PReLU": {0},
    "ReLU": {0},
    "Eltwise": {1},
    "BinaryOp": {0, 1, 2},
    "Interp": {1, 2},
    "PixelShuffle": {0},
}
FIXED: dict[str, dict[int, float]] = {
    "Concat": {0: 0},  # axis: channels
    "Convolution": {2: 1, 3: 1, 12: 1, 13: 1, 8: 0, 18: 0, 19: 0},  # dilation, stride, int8, pad value, dynamic weight
    "Eltwise": {0: 1},  # sum
    "Interp": {0: 1, 3: 0, 4: 0, 5: 0, 6: 0},  # nearest; no fixed output size, no target input, no aligned corners
    "PixelShuffle": {1: 0},
}


class _UnfitError(Exception):
    """Why a file is refused; `read_ncnn` adds its name and the remedy."""


@dataclass
class Layer:
    """One line of a .param file, and its weights."""

    type: str
    name: str
    inputs: list[str]
    outputs: list[str]
    params: dict[int, list[float]]
    weight: Tensor = field(default_factory=lambda: torch.empty(0))
    bias: Tensor | None = None

    def value(self, key: int, default: float = 0) -> float:
        """The first number of parameter `key`."""
        return self.params.get(key, [default])[0]

    def whole(self, key: int, default: int = 0) -> int:
        """The same, for a parameter that counts something."""
        return int(self.value(key, default))


def read_ncnn(param: Path, weights: Path) -> Network:
    """The network (fp32) that `param` and `weights` hold: RRDBNet x4 or x8, or SRVGGNetCompact with PReLU.

    fp16 weights come out as stored, so they are not bit-identical to the checkpoint that was converted to ncnn.

    Raises:
        ModelError: a file cannot be read, is damaged, or holds another network; the message names what differs.
    """
    try:
        layers = _parse(param.read_text(encoding="utf-8"))
        _attach_weights(layers, weights.read_bytes())
        network, places = _fill(layers)
        _check_same_function(network, layers, places)
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{param}: is not text; ncnn's binary .param.bin is not supported, give the text form"
        ) from error
    except (_UnfitError, EsrganError) as reason:
        raise ModelError(
            f"{param}: {reason}; readable are complete RRDBNet x4/x8 and SRVGGNetCompact files, .param and .bin of the "
            "same model"
        ) from reason
    return network


def _parse(text: str) -> list[Layer]:
    """The layers of a .param, each checked against `READ` and `FIXED`."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or lines[0] != [MAGIC]:
        raise _UnfitError(f"is not an ncnn graph (the first line is not {MAGIC})")
    try:
        layers = [_parse_line(tokens) for tokens in lines[2:]]
        announced = int(lines[1][0])
    except (ValueError, IndexError) as error:
        raise _UnfitError(f"is damaged ({error})") from error
    if len(layers) != announced:
        raise _UnfitError(f"announces {announced} layers and holds {len(layers)}: it was truncated or edited")
    for layer in layers:
        _check_parameters(layer)
    return layers


def _parse_line(tokens: list[str]) -> Layer:
    """`type name inputs outputs input... output... id=value...`, where a value may be `count,v0,v1,...`."""
    n_inputs, n_outputs = int(tokens[2]), int(tokens[3])
    blobs, assignments = tokens[4 : 4 + n_inputs + n_outputs], tokens[4 + n_inputs + n_outputs :]
    if len(blobs) != n_inputs + n_outputs:
        raise ValueError(f"{tokens[1]} lists {len(blobs)} blobs of {n_inputs + n_outputs}")
    params: dict[int, list[float]] = {}
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        numbers = [float(number) for number in value.split(",")]
        if int(key) <= ARRAY_ID:
            params[ARRAY_ID - int(key)] = numbers = numbers[1:]
        else:
            params[int(key)] = numbers
        if not numbers or not np.isfinite(numbers).all():
            raise ValueError(f"{tokens[1]} has parameter {assignment}")
    return Layer(tokens[0], tokens[1], blobs[:n_inputs], blobs[n_inputs:], params)


def _check_parameters(layer: Layer) -> None:
    if layer.type == "Input":  # its parameters only hint at a size
        return
    if layer.type not in READ:
        raise _UnfitError(f"layer {layer.name} is a {layer.type}, which no supported network has")
    fixed = FIXED.get(layer.type, {})
    for key, numbers in layer.params.items():
        if key not in READ[layer.type] and (key not in fixed or numbers != [fixed[key]]):
            raise _UnfitError(
                f"{layer.type} {layer.name} has parameter {key}={numbers}, which no supported network has"
            )
    if layer.type in ("Eltwise", "Interp") and 0 not in layer.params:  # ncnn would take another mode than the fixed one
        raise _UnfitError(f"{layer.type} {layer.name} does not say its mode")


def _attach_weights(layers: list[Layer], data: bytes) -> None:
    """Cut the .bin into the layers' weights, in file order."""
    reader = _WeightReader(data)
    for layer in layers:
        if layer.type == "Convolution":
            outputs, width, size = layer.whole(0), layer.whole(1), layer.whole(6)
            height = layer.whole(11, width)
            if min(outputs, width, height, size) < 1 or size % (outputs * width * height):
                raise _UnfitError(f"{layer.name}: {size} weights do not fill {outputs} filters of {height}x{width}")
            layer.weight = reader.tagged(size, layer.name).reshape(outputs, -1, height, width)
            layer.bias = reader.floats(outputs, layer.name) if layer.whole(5) else None
        elif layer.type == "PReLU":
            layer.weight = reader.floats(layer.whole(0), layer.name)
    if reader.offset != len(data):
        raise _UnfitError(f"{len(data) - reader.offset} bytes of the .bin are left over")


class _WeightReader:
    """Takes arrays off the front of a .bin."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def _take(self, size: int, layer: str) -> bytes:
        if size < 0 or self.offset + size > len(self.data):
            raise _UnfitError(f"the .bin ends at {layer}, after {len(self.data)} bytes: it was truncated")
        start, self.offset = self.offset, self.offset + size
        return self.data[start : self.offset]

    def floats(self, count: int, layer: str) -> Tensor:
        """`count` fp32 values without a tag: biases and slopes."""
        return torch.from_numpy(np.frombuffer(self._take(4 * count, layer), "<f4").astype(np.float32))

    def tagged(self, count: int, layer: str) -> Tensor:
        """`count` values behind a tag that names their type, as fp32; fp16 is padded to whole 4 bytes."""
        tag = int.from_bytes(self._take(4, layer), "little")
        if tag in TAG_FP32:
            return self.floats(count, layer)
        if tag != TAG_FP16:
            raise _UnfitError(
                f"the weights of {layer} have tag 0x{tag:08x}, neither fp16 nor fp32 (int8 is not supported)"
            )
        values = np.frombuffer(self._take(2 * count, layer), "<f2").astype(np.float32)
        self._take(-2 * count % 4, layer)
        return torch.from_numpy(values)


def _fill(layers: list[Layer]) -> tuple[Network, dict[str, Layer]]:
    """The network with the graph's weights in file order, and which layer went where."""
    weighted = [layer for layer in layers if layer.type in ("Convolution", "PReLU")]
    config = _config(layers)
    with torch.device("meta"):
        network = build(config)
    slots = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.PReLU)}
    if len(slots) != len(weighted):
        raise _UnfitError(f"has {len(weighted)} layers with weights, {config['name']} has {len(slots)}")
    state: dict[str, Tensor] = {}
    places = dict(zip(slots, weighted, strict=True))
    for name, layer in places.items():
        slot = slots[name]
        if layer.weight.shape != slot.weight.shape:
            raise _UnfitError(
                f"{layer.name} has weights {tuple(layer.weight.shape)}, {name} {tuple(slot.weight.shape)}"
            )
        if not layer.weight.isfinite().all() or (layer.bias is not None and not layer.bias.isfinite().all()):
            raise _UnfitError(f"{layer.name} holds NaN or infinite values")
        state[f"{name}.weight"] = layer.weight
        if isinstance(slot, nn.Conv2d):
            if layer.bias is None:
                raise _UnfitError(f"{layer.name} has no bias, {name} has one")
            state[f"{name}.bias"] = layer.bias
    network.load_state_dict(state, assign=True)
    return network, places


def _config(layers: list[Layer]) -> Config:
    """Hyper-parameters by counting: PReLU means SRVGGNetCompact, everything else is tried as RRDBNet."""
    convs = [layer for layer in layers if layer.type == "Convolution"]
    if len(convs) < 3:
        raise _UnfitError(f"has {len(convs)} convolutions, fewer than any supported network")
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
        raise _UnfitError(f"{len(convs)} convolutions and {steps} Interp layers are no RRDBNet")
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
    """Run both on noise and compare what every layer with weights reads, then the output.

    In the 23 blocks of x4plus, a single slope of 0.201 instead of 0.2 moves the input of some layer by 1e-3 of its
    largest value, and rounding by less than 1e-6.
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
            raise _UnfitError(f"layer {layer.name} does not read what {name} of {type(network).__name__} reads")
    if not _equal(blobs[_output(layers)], picture):
        raise _UnfitError(f"what follows layer {layer.name} is not what {type(network).__name__} does there")


def _equal(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


def _output(layers: list[Layer]) -> str:
    """The one blob that nothing reads."""
    read = {blob for layer in layers for blob in layer.inputs}
    unread = [blob for layer in layers for blob in layer.outputs if blob not in read]
    if len(unread) != 1:
        raise _UnfitError(f"has {len(unread)} outputs: {', '.join(unread[:4])}")
    return unread[0]


def _run(layers: list[Layer], image: Tensor) -> dict[str, Tensor]:
    """Every blob of the graph for an `image` (1, 3, H, W)."""
    blobs: dict[str, Tensor] = {}
    for layer in layers:
        try:
            inputs = [blobs[blob] for blob in layer.inputs]
            result = image if layer.type == "Input" else _compute(layer, inputs)
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            raise _UnfitError(f"{layer.type} {layer.name} cannot be computed ({str(error).splitlines()[0]})") from error
        blobs.update(dict.fromkeys(layer.outputs, result))
    return blobs


def _compute(layer: Layer, inputs: list[Tensor]) -> Tensor:
    """What ncnn computes for one layer."""
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


def _factor(value: float) -> int:
    if value not in range(1, LARGEST_FACTOR + 1):
        raise ValueError(f"factor {value:g} is no whole number from 1 to {LARGEST_FACTOR}")
    return int(value)


def _convolve(layer: Layer, x: Tensor) -> Tensor:
    left = layer.whole(4)
    right, top = layer.whole(15, left), layer.whole(14, left)
    bottom = layer.whole(16, top)
    if not all(0 <= pad < 16 for pad in (left, right, top, bottom)):
        raise ValueError("padding outside of 0..15")
    y = F.conv2d(F.pad(x, (left, right, top, bottom)), layer.weight, layer.bias)
    activation = layer.whole(9)
    if activation == 0:
        return y
    if activation == 1:
        return F.relu(y)
    if activation == 2:
        return F.leaky_relu(y, layer.value(10))
    raise ValueError(f"activation {activation} is neither ReLU nor LeakyReLU")
