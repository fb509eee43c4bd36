"""The first use of a native package in one thread, before the threads of a session use it at the same moment.

OpenVINO's bindings are made with pybind11. They fill tables when they are first needed: one of element types and
NumPy's dtypes, in a C++ static, and pybind11's own table of NumPy's functions, behind a `call_once` that lets go of the
GIL. The second happens within the first, so of two threads that both infer for the first time, one holds the static's
guard and waits for the GIL, while the other one holds the GIL and waits for the guard. From then on no Python code runs
in that process, no signal handler either (pybind/pybind11#4877 describes the mechanism).

ONNX Runtime, TensorRT, PyAV, OpenCV, onnx and cuda-python have no such pair of locks, as far as eight threads can tell
that enter each of them at once: see tests/runtime/test_first_use.py.
"""

from __future__ import annotations

import threading

import numpy as np

_LOCK = threading.Lock()
_done = False


def openvino_first_use() -> None:
    """Let OpenVINO fill its tables. Threads that come at the same time wait for the first; later calls do nothing.

    Raises:
        ImportError: openvino is not installed.
    """
    global _done
    import openvino

    with _LOCK:
        if _done:
            return
        for element, dtype in ((openvino.Type.u8, np.uint8), (openvino.Type.u16, np.uint16)):
            element.to_dtype()
            openvino.Tensor(np.zeros(1, dtype), shared_memory=True).data.copy()
        _done = True
