"""Export a network to ONNX, in a form that all hosts we know of accept.

The graph comes from PyTorch's TorchScript exporter. Its successor (`dynamo=True`) writes opset 18 or newer and converts
that to 17, the newest that TensorRT 8.5 parses; it also takes twenty times as long, and names nodes by number instead
of by layer.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.onnx.symbolic_helper import parse_args

from esrgan_deploy.errors import OptionError
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.onnx_write import OPSET, complete
from esrgan_export.networks import Network

Array = npt.NDArray[Any]


def export_onnx(
    network: Network,
    info: ModelInfo,
    *,
    dynamic_batch: bool = False,
    static_shape: tuple[int, int] | None = None,
) -> onnx.ModelProto:
    """Trace `network` in fp32 and return its graph.

    One input `input` (N, 3, H, W) and one output `output` (N, 3, H * scale, W * scale), float32 RGB in [0, 1], the
    output clamped. Initialisers have the names and the order of the state dict, whatever their values are, so that the
    files of two networks of one configuration can be interpolated tensor by tensor. Batch normalisation is folded into
    the convolution before it.

    Args:
        network: is not changed.
        info: becomes the metadata.
        dynamic_batch: N is symbolic; otherwise it is the literal 1, which VapourSynth hosts need.
        static_shape: (H, W) as literals; None: both are symbolic.

    Raises:
        OptionError: `static_shape` is not positive, or not a multiple of `network.multiple_of`.
    """
    if static_shape is not None:
        _check_shape(static_shape, network.multiple_of)
    weights = {key: tensor.detach().cpu().float().numpy().copy() for key, tensor in network.state_dict().items()}
    model = _trace(network)
    _fold_batch_norm(model.graph, weights)
    _fill_weights(model.graph, weights)
    _name_by_weights(model.graph)
    complete(model, info, "N" if dynamic_batch else 1, *(static_shape or ("H", "W")))
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return model


def _check_shape(shape: tuple[int, int], multiple_of: int) -> None:
    if min(shape) < 1 or any(size % multiple_of for size in shape):
        raise OptionError(
            f"shape {shape[1]}x{shape[0]}: this network takes widths and heights that are multiples of {multiple_of}"
        )


def _trace(network: Network) -> onnx.ModelProto:
    """The graph of `network`, with its weights as further inputs of the graph.

    It is traced with random weights, since the exporter merges tensors of equal value: a network with two biases of
    zeros would have one initialiser less than the network that it is to be interpolated with.
    """
    randomised = copy.deepcopy(network).cpu().float().eval()
    for tensor in randomised.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_()
    image = torch.zeros(1, 3, 4 * network.multiple_of, 6 * network.multiple_of)
    buffer = io.BytesIO()
    with _silenced(), _space_to_depth(), torch.no_grad():
        torch.onnx.export(
            randomised,
            (image,),
            buffer,  # type: ignore[arg-type]  # the TorchScript exporter takes a file object too
            dynamo=False,
            export_params=False,
            do_constant_folding=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {2: "H", 3: "W"}},
        )
    return onnx.load_model_from_string(buffer.getvalue())


@contextmanager
def _silenced() -> Iterator[None]:
    """Hide the exporter's deprecation warnings, about which a user can do nothing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _GraphContext(Protocol):
    """The part of the exporter's graph that a symbolic function needs."""

    def op(self, name: str, *inputs: torch.Value, **attributes: object) -> Any: ...  # noqa: ANN401  # one or several


@contextmanager
def _space_to_depth() -> Iterator[None]:
    """Export pixel-unshuffle as one SpaceToDepth per colour.

    PyTorch writes it as six-dimensional reshapes that contain the batch size, which hosts that change the batch size
    cannot use. One SpaceToDepth for all colours would order channels by (position, colour) instead of (colour,
    position), and OpenVINO folds a Gather that reorders them wrongly into the next convolution (seen with 2026.4).
    """

    @parse_args("v", "i")
    def pixel_unshuffle(graph: _GraphContext, image: torch.Value, r: int) -> torch.Value:
        # Without sizes, opset 18 needs `num_outputs`, which 17 does not know.
        sizes = graph.op("Constant", value_t=torch.tensor([1, 1, 1]))
        colours = graph.op("Split", image, sizes, axis_i=1, outputs=3)
        blocks = [graph.op("SpaceToDepth", colour, blocksize_i=r) for colour in colours]
        return cast(torch.Value, graph.op("Concat", *blocks, axis_i=1))

    torch.onnx.register_custom_op_symbolic("aten::pixel_unshuffle", pixel_unshuffle, OPSET)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::pixel_unshuffle", OPSET)  # type: ignore[attr-defined]


def _fold_batch_norm(graph: onnx.GraphProto, weights: dict[str, Array]) -> None:
    """Fold gamma * (x - mean) / sqrt(variance + eps) + beta into the convolution whose output is x."""
    producers = {node.output[0]: node for node in graph.node}
    for node in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = producers[node.input[0]]
        kernel, bias = conv.input[1:]
        gamma, beta, mean, variance = (weights.pop(name) for name in node.input[1:])
        epsilon = next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")
        factor = gamma / np.sqrt(variance + epsilon)
        weights[kernel] *= factor[:, None, None, None]
        weights[bias] = (weights[bias] - mean) * factor + beta
        conv.output[0] = node.output[0]
        graph.node.remove(node)


def _fill_weights(graph: onnx.GraphProto, weights: Mapping[str, Array]) -> None:
    """Make initialisers of the graph inputs that stand for weights, and compute what depends on constants only.

    PReLU's slopes (C,) become (C, 1, 1) under their own name, as TensorRT needs them; the scales of a Resize become one
    constant.
    """
    wanted = {value.name for value in graph.input}
    values = {
        key: value for key, value in weights.items() if key in wanted
    }  # without the counters of batch normalisation
    constants: dict[str, Array] = {}
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif all(name in constants for name in node.input):
            constants[node.output[0]] = _compute(node, constants)
        elif node.op_type == "Unsqueeze" and node.input[0] in values:
            weight = node.input[0]
            values[weight] = _compute(node, {**constants, weight: values[weight]})
            _rename_input(graph, node.output[0], weight)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    constant_nodes = [
        helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(value, name))
        for name, value in constants.items()
        if name in used
    ]
    del graph.node[:]
    graph.node.extend([*constant_nodes, *nodes])
    del graph.input[1:]
    graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(v), key) for key, v in values.items())


def _compute(node: onnx.NodeProto, values: Mapping[str, Array]) -> Array:
    """The result of one node whose inputs are known."""
    inputs = {name: values[name] for name in node.input}
    graph = helper.make_graph(
        [node],
        "constant",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(node.output[0])],
    )
    evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]))
    return np.asarray(cast("list[Any]", evaluator.run(None, inputs))[0])


def _rename_input(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _name_by_weights(graph: onnx.GraphProto) -> None:
    """Name nodes with weights after their module: body.0.rdb1.conv2. Reports and `keep_fp32` use these names."""
    weights = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        weight = next((name for name in node.input if name in weights), None)
        node.name = weight.rpartition(".")[0] if weight else node.name.removeprefix("/")
