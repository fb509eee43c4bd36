"""Read the files of ncnn: a text graph (.param) and its weights (.bin).

Format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32]

MAGIC = "7767517"
TAG_FP16 = 0x01306B47
TAG_FP32 = (0x0002C056, 0)
MOST_LAYERS = 20_000
ARRAY_ID = -23300  # a parameter id of -23300 - k holds an array, for parameter k

# Parameter ids by layer type. Those in READ are used when the layer is computed. Those in FIXED must have this value,
# since any other would change what the layer computes; any other id is refused for the same reason.
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
    "Reorg": {0},
}
FIXED: dict[str, dict[int, float]] = {
    "Concat": {0: 0},  # axis: channels
    "Convolution": {2: 1, 3: 1, 12: 1, 13: 1, 8: 0, 18: 0, 19: 0},  # dilation, stride, int8, pad value, dynamic weight
    "Eltwise": {0: 1},  # sum
    "Interp": {0: 1, 3: 0, 4: 0, 5: 0, 6: 0},  # nearest; no fixed output size, no target input, no aligned corners
    "PixelShuffle": {1: 0},  # (colour, position), as PyTorch has it
    "Reorg": {1: 0},
}


class UnfitError(Exception):
    """Why a file cannot be used; who reads it adds the name of the file and the remedy."""


@dataclass
class Layer:
    """One line of a .param file, and its weights."""

    type: str
    name: str
    inputs: list[str]
    outputs: list[str]
    params: dict[int, list[float]]
    weight: Weights = field(default_factory=lambda: np.empty(0, np.float32))
    bias: Weights | None = None

    def value(self, key: int, default: float = 0) -> float:
        """The first number of parameter `key`."""
        return self.params.get(key, [default])[0]

    def whole(self, key: int, default: int = 0) -> int:
        """The first number of parameter `key`, as an int."""
        return int(self.value(key, default))


def read_layers(text: str, data: bytes) -> list[Layer]:
    """The layers of a graph in file order, with their weights in fp32.

    Args:
        text: the content of the .param.
        data: the content of the .bin.

    Raises:
        UnfitError: a file is damaged, or holds a layer or a parameter that no supported network has.
    """
    layers = _parse(text)
    _attach_weights(layers, data)
    return layers


def _parse(text: str) -> list[Layer]:
    """The layers of a .param, each checked against `READ` and `FIXED`."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or lines[0] != [MAGIC]:
        raise UnfitError(f"is not an ncnn graph (the first line is not {MAGIC})")
    try:
        layers = [_parse_line(tokens) for tokens in lines[2:]]
        announced = int(lines[1][0])
    except (ValueError, IndexError) as error:
        raise UnfitError(f"is damaged ({error})") from error
    if len(layers) > MOST_LAYERS:
        raise UnfitError(f"holds {len(layers)} layers; no network has more than {MOST_LAYERS}")
    if len(layers) != announced:
        raise UnfitError(f"announces {announced} layers and holds {len(layers)}: it was truncated or edited")
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
    if layer.type == "Input":  # its parameters are a hint about the size
        return
    if layer.type not in READ:
        raise UnfitError(f"layer {layer.name} is a {layer.type}, which no supported network has")
    if layer.type == "Interp" and layer.value(1, 1) < 1:
        raise UnfitError(
            f"Interp {layer.name} shrinks the picture of the network before it; take that network's own file, "
            "and ask for another size with --outscale"
        )
    fixed = FIXED.get(layer.type, {})
    for key, numbers in layer.params.items():
        if key not in READ[layer.type] and (key not in fixed or numbers != [fixed[key]]):
            raise UnfitError(f"{layer.type} {layer.name} has parameter {key}={numbers}, which no supported network has")
    if layer.type in ("Eltwise", "Interp") and 0 not in layer.params:  # ncnn's default is another mode
        raise UnfitError(f"{layer.type} {layer.name} does not say its mode")


def _attach_weights(layers: list[Layer], data: bytes) -> None:
    """Cut the .bin into the layers' weights, in file order."""
    reader = _WeightReader(data)
    for layer in layers:
        if layer.type == "Convolution":
            outputs, width, size = layer.whole(0), layer.whole(1), layer.whole(6)
            height = layer.whole(11, width)
            if min(outputs, width, height, size) < 1 or size % (outputs * width * height):
                raise UnfitError(f"{layer.name}: {size} weights do not fill {outputs} filters of {height}x{width}")
            if layer.whole(5) not in (0, 1):
                raise UnfitError(f"{layer.name}: bias_term {layer.whole(5)} is neither 0 nor 1")
            layer.weight = reader.tagged(size, layer.name).reshape(outputs, -1, height, width)
            layer.bias = reader.floats(outputs, layer.name) if layer.whole(5) else None
        elif layer.type == "PReLU":
            layer.weight = reader.floats(layer.whole(0), layer.name)
    if reader.offset != len(data):
        raise UnfitError(f"{len(data) - reader.offset} bytes of the .bin are left over")


class _WeightReader:
    """Reads one array after the other from a .bin."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def _take(self, size: int, layer: str) -> bytes:
        if size < 0 or self.offset + size > len(self.data):
            raise UnfitError(f"the .bin ends at {layer}, after {len(self.data)} bytes: it was truncated")
        start, self.offset = self.offset, self.offset + size
        return self.data[start : self.offset]

    def floats(self, count: int, layer: str) -> Weights:
        """`count` fp32 values without a tag: biases and slopes."""
        return np.frombuffer(self._take(4 * count, layer), "<f4").astype(np.float32)

    def tagged(self, count: int, layer: str) -> Weights:
        """`count` values behind a tag that names their type, as fp32; fp16 is padded to whole 4 bytes."""
        tag = int.from_bytes(self._take(4, layer), "little")
        if tag in TAG_FP32:
            return self.floats(count, layer)
        if tag != TAG_FP16:
            raise UnfitError(
                f"the weights of {layer} have tag 0x{tag:08x}, neither fp16 nor fp32 (int8 is not supported)"
            )
        values = np.frombuffer(self._take(2 * count, layer), "<f2").astype(np.float32)
        self._take(-2 * count % 4, layer)
        return values
