"""Print what `Weights` of a TensorRT module makes of an array of each type, as JSON."""

import importlib
import json
import sys

import numpy as np

trt = importlib.import_module(sys.argv[1])
report = {"numpy": np.__version__}
for dtype in ("float32", "float16", "int32", "int8"):
    array = np.arange(1, 9).astype(dtype)
    weights = trt.Weights(array)
    back = weights.numpy()
    report[dtype] = {
        "type": str(weights.dtype),
        "size": weights.size,
        "nbytes": weights.nbytes,
        "same memory": back.ctypes.data == array.ctypes.data,
        "read back": np.array_equal(back, array),
    }
print(json.dumps(report))  # noqa: T201  # read by test_weights.py
