"""Writing small ONNX networks, and saying in numpy what one of them does."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_onnx(path, nodes, initialisers, info=None, element=TensorProto.FLOAT, shape=(1, 3, "H", "W"), opset=17):
    """One input `input`, one output `output`, as the ONNX contract wants it."""
    tensors = [numpy_helper.from_array(array, name) for name, array in initialisers.items()]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("input", element, list(shape))],
        [helper.make_tensor_value_info("output", element, [shape[0], 3, "H_out", "W_out"])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 19 else 9)
    if info:
        helper.set_model_props(model, info.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


def blur_x2_in_numpy(frame, largest=255):
    """What `blur_x2` does to one (H, W, 3) frame, computed in float64."""
    height, width = frame.shape[:2]
    padded = np.pad(frame.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    total = sum(padded[y : y + height, x : x + width] for y in range(3) for x in range(3))
    return np.rint(np.clip(total / 9, 0, largest)).astype(frame.dtype).repeat(2, 0).repeat(2, 1)
