"""Refuse an ONNX file that is no upscaling network, before a backend or shape inference sees it.

A backend runs whatever a file holds: loops that never end, tensors of terabytes, weights out of any other file. So a
network is a list of pure tensor operators, in order, whose weights lie in the file in the size that they claim. The
sizes of its tensors follow from the size of the image, never from its pixels, and are bounded.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING

from esrgan_deploy.errors import ModelError

if TYPE_CHECKING:
    import onnx

Size = tuple[int, int]
"""(height, width) in pixels."""

_OPERATORS = (
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BitCast "
    "BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad Clip Col2Im "
    "Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumProd CumSum DFT "
    "DeformConv DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand "
    "EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool "
    "GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity "
    "InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax "
    "LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxUnpool Mean MeanVarianceNormalization Min Mish "
    "Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization "
    "RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round "
    "Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus "
    "Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu "
    "Unsqueeze Upsample Where Xor"
)
OPERATORS = frozenset(_OPERATORS.split())
"""Of ONNX's own domain: each is a pure function of tensors. Left out are control flow, sequences, text and chance."""
SHAPED_BY_ALL = frozenset({"Compress", "ConstantOfShape", "NonZero", "Range"})
_SHAPED_BY_LATER = (
    "CenterCropPad Col2Im DFT Expand MaxUnpool OneHot Pad Reshape Resize Slice Split Squeeze Tile TopK Unsqueeze "
    "Upsample"
)
SHAPED_BY_LATER = frozenset(_SHAPED_BY_LATER.split())
"""The size of the result depends on the values of every input, or of every input but the first."""
ONE_OR_MORE = frozenset({"blocksize", "dilations", "group", "kernel_shape", "num_outputs", "strides"})
"""Attributes by which shape inference divides."""

MOST_NODES = 50_000
"""The largest networks that are upscaled with have some 30,000."""
MOST_DEPTH, MOST_READERS, MOST_CONVOLUTIONS = 6000, 500, 2500
"""Nodes one behind the other, and nodes that read one tensor: OpenVINO takes time by their square. RRDBNet with 23
blocks has 1,200 one behind the other, 350 of them convolutions."""
MOST_NAMES = 20 * MOST_NODES
LONGEST_NAME = 4096
LARGEST_ATTRIBUTE = 1 << 20
"""A factor, or a count of samples."""
LARGEST_PER_PIXEL = 1 << 16
"""Bytes of one tensor for each pixel of the image: four times what the widest windows of attention take."""
BITS: Mapping[int, int] = {
    **dict.fromkeys((1, 6, 12), 32),  # FLOAT, INT32, UINT32
    **dict.fromkeys((7, 11, 13), 64),  # INT64, DOUBLE, UINT64
    **dict.fromkeys((4, 5, 10, 16), 16),  # UINT16, INT16, FLOAT16, BFLOAT16
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20), 8),  # UINT8, INT8, BOOL, four kinds of FLOAT8
    **dict.fromkeys((21, 22), 4),  # UINT4, INT4
}
"""TensorProto.DataType -> bits of a value. Left out are texts and complex numbers."""

WITHOUT = "export the network again, without control flow and custom operators"
ONE_FILE = "make it one file: python -c \"import onnx; onnx.save(onnx.load('{0}'), 'whole.onnx')\""


def check_network(model: onnx.ModelProto, source: str) -> None:
    """Refuse what is described above, but for sizes; see `output_shapes`.

    Args:
        model: as it was parsed.
        source: the file that messages name.

    Raises:
        ModelError: the message names the node or tensor, and the remedy.
    """
    try:
        _check_text(model)
        _check_parts(model)
        _check_opset(model)
        graph = model.graph
        for tensor in graph.initializer:
            _check_tensor(tensor)
        for node in graph.node:
            _check_node(node)
        _check_order(graph)
    except _Unfit as reason:
        raise ModelError(f"{source}: {str(reason).format(source)}") from None


class _Unfit(Exception):  # noqa: N818  # never leaves this file
    """Why a file is refused; {0} stands for its name."""


def _unfit(reason: str, remedy: str) -> _Unfit:
    return _Unfit(f"{reason.replace('{', '{{').replace('}', '}}')}; {remedy}")


def _check_text(model: onnx.ModelProto) -> None:
    """Whether all names are text: protobuf gives what is no UTF-8 as bytes, which no code expects."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    texts: Iterable[object] = itertools.chain(
        (model.producer_name, model.producer_version, model.domain, model.doc_string, graph.name, graph.doc_string),
        *((entry.key, entry.value) for entry in model.metadata_props),
        (entry.domain for entry in model.opset_import),
        (thing.name for thing in (*graph.initializer, *values)),
        (dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim),
        *((node.name, node.op_type, node.domain, *node.input, *node.output) for node in graph.node),
        (attribute.name for node in graph.node for attribute in node.attribute),
    )
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise _unfit(f"holds a name that is no text, {_short(str(wrong))}", "download or export it again")


def _check_parts(model: onnx.ModelProto) -> None:
    graph = model.graph
    if model.functions:
        inlined = "onnx.save(onnx.inliner.inline_local_functions(onnx.load('{0}')), 'flat.onnx')"
        raise _unfit(
            f"defines functions of its own ('{_short(model.functions[0].name)}')",
            f'write them out: python -c "import onnx.inliner; {inlined}"',
        )
    if model.training_info or graph.sparse_initializer:
        what = "sparse weights" if graph.sparse_initializer else "steps of training"
        raise _unfit(f"holds {what}, which no upscaling network has", WITHOUT)
    if len(graph.node) > MOST_NODES or len(graph.initializer) > MOST_NODES or len(graph.value_info) > MOST_NAMES:
        counts = (
            f"{len(graph.node)} nodes, {len(graph.initializer)} weights and {len(graph.value_info)} declared shapes"
        )
        raise _unfit(f"has {counts}; at most {MOST_NODES} nodes and weights are taken", "give a smaller network")
    if sum(node.op_type in ("Conv", "ConvTranspose", "QLinearConv") for node in graph.node) > MOST_CONVOLUTIONS:
        raise _unfit(f"has more than {MOST_CONVOLUTIONS} convolutions", "give a smaller network")
    if sum(len(node.input) + len(node.output) for node in graph.node) > MOST_NAMES:
        raise _unfit(f"its nodes have more than {MOST_NAMES} inputs and outputs", "give a smaller network")


def _check_opset(model: onnx.ModelProto) -> None:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or not 1 <= versions[0] <= 1000:
        raise _unfit(f"names the versions {versions} of ONNX's operators instead of one", WITHOUT)


def _check_node(node: onnx.NodeProto) -> None:
    name = _short(node.name or (node.output[0] if node.output else ""))
    if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
        kind = _short(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
        raise _unfit(f"node '{name}' is of the type {kind}, which no upscaling network needs", WITHOUT)
    if not node.output:
        raise _unfit(f"node '{name}' has no output", WITHOUT)
    if len(node.name) > LONGEST_NAME:
        raise _unfit(f"a node has a name of {len(node.name)} characters", WITHOUT)
    for attribute in node.attribute:
        if attribute.HasField("g") or attribute.graphs or attribute.HasField("tp") or attribute.type_protos:
            raise _unfit(f"node '{name}' holds a network of its own", WITHOUT)
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors or attribute.ref_attr_name:
            raise _unfit(f"node '{name}' has the attribute '{_short(attribute.name)}' in a form for others", WITHOUT)
        for tensor in (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors:
            _check_tensor(tensor)
        _check_attribute(attribute, name)


def _check_attribute(attribute: onnx.AttributeProto, node: str) -> None:
    if attribute.name in ONE_OR_MORE:
        least, most = 1, LARGEST_ATTRIBUTE
    elif attribute.name in ("pads", "output_padding", "output_shape"):
        least, most = -LARGEST_ATTRIBUTE, LARGEST_ATTRIBUTE
    else:
        return
    values = [attribute.i] if attribute.HasField("i") else list(attribute.ints)
    wrong = next((value for value in values if not least <= value <= most), None)
    if wrong is not None:
        raise _unfit(f"node '{node}' has {attribute.name} {wrong}; {least} to {most} is possible", WITHOUT)


def _check_tensor(tensor: onnx.TensorProto) -> None:
    """Whether the values are in the file, as many as the dimensions say, and none is NaN."""
    name = _short(tensor.name)
    if tensor.data_location or tensor.external_data:
        place = next((_short(entry.value) for entry in tensor.external_data if entry.key == "location"), "?")
        raise _unfit(f"keeps the weights '{name}' in another file, '{place}'", ONE_FILE)
    bits = BITS.get(tensor.data_type)
    if bits is None or len(tensor.name) > LONGEST_NAME or tensor.HasField("segment"):
        raise _unfit(f"the tensor '{name}' has the type {tensor.data_type}, which no upscaling network has", WITHOUT)
    dims = tuple(tensor.dims)
    if len(dims) > 16 or any(dim < 0 for dim in dims):
        raise _unfit(f"the tensor '{name}' has dimensions {_short(str(dims))}", "download or export it again")
    count = prod(dims)
    if tensor.HasField("raw_data"):
        data = tensor.raw_data
        held, unit, claimed = len(data), "bytes", -(-count * bits // 8)
    else:
        data, unit = b"", "values"
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        held, claimed = sum(map(len, fields)), -(-count // 2) if bits == 4 else count
    if held != claimed:
        raise _unfit(f"the tensor '{name}' holds {held} {unit} and claims {claimed}", "download or export it again")
    if _has_nan(tensor, data):
        raise _unfit(f"the weights '{name}' hold values that are not numbers (NaN)", "export another checkpoint")


def _has_nan(tensor: onnx.TensorProto, data: bytes) -> bool:
    import numpy as np

    if tensor.data_type == 1:
        return bool(np.isnan(np.frombuffer(data, "<f4")).any()) or any(value != value for value in tensor.float_data)
    if tensor.data_type == 11:
        return bool(np.isnan(np.frombuffer(data, "<f8")).any()) or any(value != value for value in tensor.double_data)
    if tensor.data_type in (10, 16):  # the bits of fp16 and bf16: NaN is above infinity
        codes = np.frombuffer(data, "<u2") if data else np.array(tensor.int32_data, np.int64)
        return bool(((codes & 0x7FFF) > (0x7C00 if tensor.data_type == 10 else 0x7F80)).any())
    return False


def _check_order(graph: onnx.GraphProto) -> None:
    """Whether each tensor is made once, before it is read, and sizes do not depend on the pixels of the image."""
    of_pixels = dict.fromkeys((value.name for value in graph.input), True)
    of_pixels |= dict.fromkeys((tensor.name for tensor in graph.initializer), False)
    depths, readers = dict.fromkeys((value.name for value in graph.input), 0), Counter[str]()
    for node in graph.node:
        name = _short(node.name or node.output[0])
        for made in node.output:
            if made and (made in of_pixels or len(made) > LONGEST_NAME):
                raise _unfit(f"two nodes or weights are called '{_short(made)}'", "download or export it again")
        unknown = next((read for read in node.input if read and read not in of_pixels), None)
        if unknown is not None:
            raise _unfit(
                f"node '{name}' reads '{_short(unknown)}' before any node makes it", "download or export it again"
            )
        depends = [bool(read) and of_pixels[read] for read in node.input]
        deciding = depends if node.op_type in SHAPED_BY_ALL else depends[1:] if node.op_type in SHAPED_BY_LATER else []
        if any(deciding):
            raise _unfit(f"node '{name}' ({node.op_type}) takes a size out of the pixels of the image", WITHOUT)
        _check_path(node, name, depths, readers)
        result = node.op_type not in ("Shape", "Size") and any(depends)
        of_pixels |= dict.fromkeys(filter(None, node.output), result)
    missing = next((value.name for value in graph.output if value.name not in of_pixels), None)
    if missing is not None:
        raise _unfit(f"no node makes the output '{_short(missing)}'", "download or export it again")


def _check_path(node: onnx.NodeProto, name: str, depths: dict[str, int], readers: Counter[str]) -> None:
    """Whether `node` is not too far from the image, and not one of too many beside it; constants do not count."""
    read = [tensor for tensor in node.input if tensor in depths]
    readers.update(read)
    depth = 1 + max((depths[tensor] for tensor in read), default=-1)
    if read:
        depths.update(dict.fromkeys(node.output, depth))
    if depth > MOST_DEPTH or len(read) > MOST_READERS or any(readers[tensor] > MOST_READERS for tensor in read):
        raise _unfit(
            f"at node '{name}' there are more than {MOST_DEPTH} nodes one behind the other, or {MOST_READERS} side by "
            "side",
            "give a smaller network",
        )


def output_shapes(
    model: onnx.ModelProto, sizes: Iterable[Size], source: str
) -> Iterator[tuple[int | None, ...] | None]:
    """The shape of the result for one RGB image of each size; None for a dimension that shape inference cannot tell.

    Args:
        model: checked by `check_network`, with one input that is an image.
        sizes: of the images.
        source: the file that messages name.

    Yields:
        None: not even the number of dimensions is known.

    Raises:
        ModelError: shape inference fails, or a tensor inside is larger than `LARGEST_PER_PIXEL` allows.
    """
    import onnx

    light = light_copy(model)
    light.graph.output[0].type.tensor_type.ClearField("shape")
    weights = {tensor.name for tensor in model.graph.initializer}
    image = next(value for value in model.graph.input if value.name not in weights)
    dims = next(value for value in light.graph.input if value.name == image.name).type.tensor_type.shape.dim
    for size in sizes:
        for dim, declared, length in zip(dims, image.type.tensor_type.shape.dim, (1, 3, *size), strict=True):
            dim.dim_value = declared.dim_value or length
        try:
            inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
        except Exception as error:  # onnx raises its own InferenceError, ValueError or RuntimeError by version
            reason = " ".join(str(error).split())
            raise ModelError(
                f"{source}: shape inference failed ({reason}); this is not a valid upscaling network"
            ) from error
        _check_sizes(inferred, size, source)
        result = inferred.output[0].type.tensor_type
        lengths = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in result.shape.dim)
        yield lengths if result.HasField("shape") else None


def _check_sizes(inferred: onnx.GraphProto, size: Size, source: str) -> None:
    for value in (*inferred.value_info, *inferred.output):
        lengths = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in value.type.tensor_type.shape.dim]
        needed = prod(lengths) * BITS.get(value.type.tensor_type.elem_type, 8) // 8
        if needed > size[0] * size[1] * LARGEST_PER_PIXEL or min(lengths, default=0) < 0:
            shape = "x".join(map(str, lengths))
            raise ModelError(
                f"{source}: makes a tensor of {shape} ('{_short(value.name)}') for an image of {size[1]}x{size[0]}, "
                f"more than any upscaling network; {WITHOUT}"
            )


def light_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for shape inference: weights that cannot tell a shape are inputs, so that none are handed around."""
    import onnx
    from onnx import helper

    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = "light"
    listed = {value.name for value in model.graph.input}
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.node.extend(model.graph.node)
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= 64:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:60]}... ({len(name)} characters)"
