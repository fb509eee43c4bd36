"""The ONNX side of the fake: element types, shapes, sizes, weights, and running a graph in onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, shape_inference

ELEMENTS = {
    "FLOAT": TensorProto.FLOAT,
    "HALF": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "INT8": TensorProto.INT8,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
}
NAMES = {element: name for name, element in ELEMENTS.items()}
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
ITEMSIZE = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "INT32": 4, "INT64": 8, "BOOL": 1, "UINT8": 1}
NOT_WEIGHTS = ("Resize", "Clip", "Range", "Pad")
"""Their floats are read by the parser and become parameters of a layer."""


class Dims:
    """A shape as TensorRT gives it: a sequence that equals tuples and lists, and no tuple."""

    def __init__(self, shape=()):
        self._sizes = tuple(int(size) for size in shape)

    def __len__(self):
        return len(self._sizes)

    def __getitem__(self, index):
        return self._sizes[index]

    def __eq__(self, other):
        if not isinstance(other, tuple | list):
            raise TypeError("__eq__(): incompatible function arguments")
        return self._sizes == tuple(other)

    __hash__ = None

    def __repr__(self):
        return str(self._sizes)


def nptype(name):
    """numpy's type for a DataType by name."""
    if name in ("BF16", "FP8", "FP4", "INT4", "E8M0"):
        raise TypeError(f"Could not resolve TensorRT datatype {name} to an equivalent numpy datatype.")
    return {"FLOAT": np.float32, "HALF": np.float16, "BOOL": np.bool_}.get(name) or getattr(np, name.lower())


def volume(shape):
    """Product of the sizes; 1 for a scalar."""
    return int(np.prod([*shape], dtype=np.int64))


def nbytes(name, shape):
    """Bytes of a tensor of type `name`."""
    return volume(shape) * ITEMSIZE[name]


def inputs(model):
    """The inputs that are fed."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def shape_of(value):
    """Sizes of a graph input or output, -1 where they are open, None where not even the rank is known."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]


def infer(model, shapes):
    """ONNX shape inference with concrete input shapes; {tensor: (element, sizes)}."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.value_info[:]
    for value in inputs(copy):
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            dim.dim_value = size
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    done = shape_inference.infer_shapes(copy, data_prop=True).graph
    values = [*done.input, *done.value_info, *done.output]
    return {value.name: (value.type.tensor_type.elem_type, shape_of(value)) for value in values}


def activation_bytes(model, shapes):
    """What a context needs: the two largest tensors between the layers."""
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    sizes = [
        nbytes(NAMES.get(element, "FLOAT"), sizes)
        for name, (element, sizes) in infer(model, shapes).items()
        if name not in ends and sizes is not None and -1 not in sizes
    ]
    return sum(sorted(sizes)[-2:])


def element_types(model):
    """Types of all inputs, outputs, weights and casts."""
    graph = model.graph
    found = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    found |= {tensor.data_type for tensor in graph.initializer}
    casts = [attribute.i for node in graph.node if node.op_type == "Cast" for attribute in node.attribute]
    return found | set(casts)


def weights(model):
    """Refittable weights: {name: initialiser}."""
    parameters = {name for node in model.graph.node if node.op_type in NOT_WEIGHTS for name in node.input}
    return {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type in FLOATS and tensor.name not in parameters
    }


def weight_groups(model):
    """Weights that one layer holds, which can only be refitted together."""
    names = set(weights(model))
    groups = [names.intersection(node.input) for node in model.graph.node]
    return [group for group in groups if len(group) > 1]


def with_weights(model, raw):
    """A copy with the bytes of some initialisers exchanged."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in raw:
            dims, element, name = list(tensor.dims), tensor.data_type, tensor.name
            tensor.Clear()
            tensor.dims.extend(dims)
            tensor.data_type, tensor.name, tensor.raw_data = element, name, raw[name]
    return copy


def raw_bytes(tensor):
    """Content of an initialiser."""
    return numpy_helper.to_array(tensor).tobytes()


def open_session(model):
    """One thread: results must not depend on the machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
