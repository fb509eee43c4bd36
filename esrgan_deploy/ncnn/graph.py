"""Write a network as ONNX without PyTorch: byte for byte what `esrgan_export.to_onnx` traces.

Names, order and interface are therefore those of every other artefact, so that such files are blended, refitted,
converted and cached like exported ones. A test compares the bytes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from esrgan_deploy.model import ModelInfo
from esrgan_deploy.ncnn.networks import Config, compute
from esrgan_deploy.onnx_write import OPSET, complete

if TYPE_CHECKING:
    import onnx

CONV = {"dilations": [1, 1], "group": 1, "kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}
NEAREST = {
    "coordinate_transformation_mode": "asymmetric",
    "cubic_coeff_a": -0.75,  # of no use here, but PyTorch writes it
    "mode": "nearest",
    "nearest_mode": "floor",
}


def build_onnx(config: Config, weights: Mapping[str, npt.NDArray[np.float32]], info: ModelInfo) -> onnx.ModelProto:
    """The artefact of a network: float NCHW RGB in [0, 1], clamped, of any height and width.

    Args:
        config: of RRDBNet with RRDBs, or of SRVGGNetCompact with PReLU.
        weights: all that the network has, in the names, the shapes and the order of PyTorch's state dict.
        info: becomes the metadata.

    Raises:
        ModelError: another network.
    """
    import onnx
    from onnx import numpy_helper

    writer = _Writer()
    compute(config, writer, "input")
    writer.nodes[-1].output[0] = "output"
    model = onnx.ModelProto()
    model.opset_import.add().version = OPSET
    model.graph.node.extend([*writer.constants, *writer.nodes])
    for name, values in weights.items():
        shape = (-1, 1, 1) if name in writer.slopes else values.shape  # PReLU's, as TensorRT needs them
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values.reshape(shape)), name))
    complete(model, info)
    return model


@dataclass
class _Writer:
    """The `Operations` on names of tensors; each call appends a node, named as PyTorch's exporter does it."""

    scope: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.NodeProto] = field(default_factory=list)
    slopes: set[str] = field(default_factory=set)
    """The weights of PReLU."""
    counts: Counter[str] = field(default_factory=Counter)

    def at(self, module: str) -> _Writer:
        return dataclasses.replace(self, scope=_scope(module))

    def conv(self, layer: str, x: str, outputs: int) -> str:
        inputs = [x, f"{layer}.weight", f"{layer}.bias"]
        return self._append("Conv", inputs, layer, f"{_scope(layer)}/Conv", **CONV)

    def prelu(self, layer: str, x: str) -> str:
        slopes = f"{layer}.weight"
        self.slopes.add(slopes)
        return self._append("PRelu", [x, slopes], layer, f"{_scope(layer)}/PRelu")

    def leaky(self, x: str, slope: float) -> str:
        return self._operate("LeakyRelu", [x], alpha=slope)

    def concat(self, *parts: str) -> str:
        return self._operate("Concat", list(parts), axis=1)

    def add(self, x: str, y: str) -> str:
        return self._operate("Add", [x, y])

    def scaled(self, x: str, factor: float) -> str:
        return self._operate("Mul", [x, self._constant("Constant", np.array(factor, np.float32))])

    def enlarged(self, x: str, factor: int) -> str:
        scales = self._constant("Concat", np.array([1, 1, factor, factor], np.float32))  # where PyTorch makes it
        return self._operate("Resize", [x, "", scales], **NEAREST)

    def pixel_shuffle(self, x: str, factor: int) -> str:
        return self._operate("DepthToSpace", [x], blocksize=factor, mode="CRD")

    def pixel_unshuffle(self, image: str, factor: int) -> str:
        """One SpaceToDepth for each colour; `esrgan_export.to_onnx` says why."""
        from onnx import helper

        sizes = self._constant("Constant", np.array([1, 1, 1], np.int64))
        split = self._fresh("Split")
        colours = [f"{split}_output_{k}" for k in range(3)]
        self.nodes.append(helper.make_node("Split", [image, sizes], colours, name=split.removeprefix("/"), axis=1))
        return self.concat(*[self._operate("SpaceToDepth", [colour], blocksize=factor) for colour in colours])

    def _operate(self, kind: str, inputs: list[str], **attributes: Any) -> str:  # noqa: ANN401  # what ONNX allows
        """Append a node without weights."""
        path = self._fresh(kind)
        return self._append(kind, inputs, path.removeprefix("/"), path, **attributes)

    def _append(self, kind: str, inputs: list[str], name: str, path: str, **attributes: Any) -> str:  # noqa: ANN401
        from onnx import helper

        result = f"{path}_output_0"
        self.nodes.append(helper.make_node(kind, inputs, [result], name=name, **attributes))
        return result

    def _constant(self, kind: str, value: npt.NDArray[Any]) -> str:
        from onnx import helper, numpy_helper

        name = f"{self._fresh(kind)}_output_0"
        tensor = numpy_helper.from_array(value, name)
        self.constants.append(helper.make_node("Constant", [], [name], name=name.removeprefix("/"), value=tensor))
        return name

    def _fresh(self, kind: str) -> str:
        """The path of a node that has none yet: /body/body.0/rdb1/LeakyRelu, then .../LeakyRelu_1."""
        path = f"{self.scope}/{kind}"
        number = self.counts[path]
        self.counts[path] += 1
        return f"{path}_{number}" if number else path


def _scope(module: str) -> str:
    """Where PyTorch's exporter puts a module: body.0.rdb1 -> /body/body.0/rdb1."""
    path = before = ""
    for part in module.split("."):
        path += f"/{before}.{part}" if part.isdigit() else f"/{part}"
        before = part
    return path
