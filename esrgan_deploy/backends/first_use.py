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

import importlib
import sys
import threading
from typing import Any

import numpy as np

_LOCK = threading.Lock()
_core: Any = None


def openvino_core() -> Any:  # noqa: ANN401  # openvino has no types
    """The `openvino.Core` of this process, the first time with OpenVINO's tables filled. It is never freed.

    Threads that come at the same time wait for the first. One Core is kept because OpenVINO (2026.4) gives the thread
    that makes a Core a stack for signal handlers, and unmaps it with the Core. If another thread frees the Core, the
    first one keeps the address, and the next signal that it gets, for instance of Ctrl-C, crashes the process.

    Raises:
        ImportError: openvino is not installed.
    """
    global _core
    with _LOCK:
        openvino = _without_telemetry()
        if _core is not None:
            return _core
        for element, dtype in ((openvino.Type.u8, np.uint8), (openvino.Type.u16, np.uint16)):
            element.to_dtype()
            openvino.Tensor(np.zeros(1, dtype), shared_memory=True).data.copy()
        _core = openvino.Core()
        return _core


def _without_telemetry() -> Any:  # noqa: ANN401
    """The openvino package, which tells Google Analytics of each import where openvino_telemetry is installed."""
    reporter = "openvino_telemetry"
    if "openvino" in sys.modules or reporter in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[reporter] = None  # type: ignore[assignment]  # openvino takes its own stub instead, then and later
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[reporter]
