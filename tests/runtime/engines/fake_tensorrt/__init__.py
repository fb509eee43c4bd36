"""TensorRT without a GPU and without TensorRT: `make(version, driver)` is used in place of the module `tensorrt`.

Names come from the real bindings (tests/data/tensorrt_api): each class has the members that it has in that version,
no more and no fewer, so that asking for a feature gives the true answer. What the members do is written in builder.py
and runtime.py; a real name without behaviour there raises `UnwrittenError` when it is used.

A plan is a header and the ONNX file; an execution reads the fake GPU's memory, runs the graph in onnxruntime and
writes the results back, in stream order. Where TensorRT takes the process down, `SegmentationFault` is raised, which
no `except Exception` catches, and every later call raises it again.
"""

from __future__ import annotations

import enum
import json
import types
from pathlib import Path

from fake_tensorrt.base import Native, NativeType, Process, SegmentationFault, UnwrittenError, unwritten_member
from fake_tensorrt.builder import BUILDER_CLASSES
from fake_tensorrt.data import nptype, volume
from fake_tensorrt.runtime import RUNTIME_CLASSES

API = Path(__file__).parents[3] / "data" / "tensorrt_api"
VERSIONS = ("8.5.3.1", "10.13.3.9", "10.16.1.11", "11.4.0.106")
BEHAVIOUR = {**BUILDER_CLASSES, **RUNTIME_CLASSES}
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
BASES = {"Logger": "ILogger"}
SPECIAL = ("__del__", "__eq__", "__hash__", "__repr__")
"""Written special methods that are taken over although the list of names does not have them."""

__all__ = ["VERSIONS", "SegmentationFault", "UnwrittenError", "make", "read_api"]


def read_api(version):
    """Names of the real bindings: {"module": [...], "enums": {name: members}, "classes": {name: {member: ...}}}."""
    return json.loads((API / f"tensorrt_{version}.json").read_text())


def make(version, driver=None):
    """A stand-in for the module `tensorrt` of this version on `driver`'s GPU; without a driver, on no GPU."""
    api = read_api(version)
    process = Process(version, driver)
    module = types.ModuleType("tensorrt", f"Fake TensorRT {version}.")
    module.__version__ = version
    for name in api["module"]:
        setattr(module, name, types.SimpleNamespace(fake=name))
    enums = {name: _enumeration(name, members) for name, members in api["enums"].items()}
    enums["Logger.Severity"] = enums["ILogger.Severity"]
    classes: dict[str, type] = {}
    for name in sorted(api["classes"], key=lambda name: name in BASES):
        classes[name] = _class(name, api["classes"][name], process, enums, classes)
    process.enums = types.SimpleNamespace(**{name: kind for name, kind in enums.items() if "." not in name})
    process.severity = enums["ILogger.Severity"]
    process.classes = classes
    for name, kind in {**enums, **classes}.items():
        if "." not in name:
            setattr(module, name, kind)
    module.nptype = lambda dtype: nptype(dtype.name)
    module.volume = volume
    module.init_libnvinfer_plugins = lambda logger, namespace: True
    return module


def _enumeration(name, members):
    """Members compare and hash by identity and have numbers, like those of pybind11; they are not integers."""
    ordered = SEVERITIES if name.endswith("Severity") else members
    namespace = enum.EnumMeta.__prepare__(name, (enum.Enum,))
    for number, member in enumerate(ordered):
        namespace[member] = number
    namespace["__int__"] = namespace["__index__"] = lambda self: self.value
    return enum.EnumMeta(name.split(".")[-1], (enum.Enum,), namespace)


def _class(name, members, process, enums, classes):
    """The class with exactly `members`, behaving as written where something is written."""
    written = vars(BEHAVIOUR[name]) if name in BEHAVIOUR else {}
    base = classes[BASES[name]] if name in BASES else Native
    private = (key for key in written if key.startswith("_") and (key in SPECIAL or not key.endswith("__")))
    namespace = {key: written[key] for key in private}
    for member, form in members.items():
        if f"{name}.{member}" in enums:
            namespace[member] = enums[f"{name}.{member}"]
        elif form == "attribute":
            namespace[member] = enums[f"{name}.Severity"][member]
        else:
            namespace[member] = written.get(member) or unwritten_member(name, member, form)
    return NativeType(name, (base,), {**namespace, "_process": process, "_native": True, "__module__": "tensorrt"})
