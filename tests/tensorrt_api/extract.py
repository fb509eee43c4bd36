"""Say what a TensorRT module offers: `python extract.py tensorrt_rtx` prints the specification of that module as JSON.

It runs in a process of its own, under any Python from 3.10 on, with nothing but the module installed: two versions of
TensorRT cannot be loaded together, and 8.5 exists for Python 3.10 at most.

A specification has the `version`, all names of the `module`, the members of all `enums`, and for each of the `classes`
that a builder or a runtime touches its members: a method as the list of its parameters, in order and without `self`, a
parameter with a default value as "path="; an overloaded method as a list of such lists; a property as "property", or
"writable property"; anything else (a constant, a nested class) as "attribute".
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
import types
from typing import Any

CLASSES = (
    "Builder",
    "Dims",
    "EngineInspector",
    "IBuilderConfig",
    "ICudaEngine",
    "IErrorRecorder",
    "IExecutionContext",
    "IGpuAllocator",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IOutputAllocator",
    "IProfiler",
    "IProgressMonitor",
    "IRuntimeCache",
    "IRuntimeConfig",
    "ISerializationConfig",
    "IStreamReader",
    "IStreamReaderV2",
    "IStreamWriter",
    "ITensor",
    "ITimingCache",
    "Logger",
    "OnnxParser",
    "OnnxParserRefitter",
    "ParserError",
    "Permutation",
    "Refitter",
    "Runtime",
    "TimingCacheKey",
    "TimingCacheValue",
    "Weights",
)
SPECIAL = ("__bool__", "__enter__", "__exit__", "__getitem__", "__init__", "__iter__", "__len__", "__setitem__")
SIGNATURE = r"{name}\((?P<parameters>.*)\)(?: -> .*)?$"


def specification(module: Any) -> dict[str, Any]:
    """What `module` offers, as the docstring above describes."""
    names = [name for name in dir(module) if not name.startswith("_") and not inspect.ismodule(getattr(module, name))]
    return {
        "version": module.__version__,
        "module": names,
        "enums": dict(sorted(_enums(module))),
        "classes": {name: _members(getattr(module, name)) for name in CLASSES if hasattr(module, name)},
    }


def _enums(owner: Any, prefix: str = "") -> list[tuple[str, list[str]]]:
    """The enums of a module and those nested in its classes, as "ILogger.Severity"."""
    found = []
    for name, value in vars(owner).items():
        if not inspect.isclass(value) or name.startswith("_") or not _belongs(value):
            continue
        if isinstance(getattr(value, "__members__", None), dict):
            found.append((prefix + name, sorted(value.__members__)))
        elif not prefix:
            found += _enums(value, f"{name}.")
    return found


def _belongs(cls: type) -> bool:
    return cls.__module__.startswith("tensorrt")


def _members(cls: type) -> dict[str, Any]:
    names = [name for name in dir(cls) if not name.startswith("_") or name in SPECIAL]
    described = ((name, _describe(name, inspect.getattr_static(cls, name))) for name in names)
    return {name: what for name, what in described if what is not None}


def _describe(name: str, member: Any) -> Any:
    """None for what every object of pybind11 has, such as an `__init__` that raises."""
    if isinstance(member, property):
        return "writable property" if member.fset else "property"
    if isinstance(member, staticmethod):
        member = member.__func__
    if inspect.isfunction(member):
        return [*inspect.signature(member).parameters][1:]
    if (not callable(member) and not hasattr(member, "__func__")) or inspect.isclass(member):
        return "attribute"
    if isinstance(member, types.WrapperDescriptorType):
        return None
    overloads = _overloads(name, member.__doc__ or "")
    return overloads[0] if len(overloads) == 1 else overloads


def _overloads(name: str, docstring: str) -> list[list[str]]:
    """The signatures that pybind11 writes at the head of a docstring, or numbered within it."""
    numbered = re.findall(rf"^\d+\. {SIGNATURE.format(name=re.escape(name))}", docstring, re.MULTILINE)
    if numbered:
        return [_parameters(text) for text in numbered]
    single = re.match(SIGNATURE.format(name=re.escape(name)), docstring, re.MULTILINE)
    if single is None:
        raise ValueError(f"{name}: no signature in its docstring {docstring[:80]!r}")
    return [_parameters(single["parameters"])]


def _parameters(text: str) -> list[str]:
    """Names out of "self: T, type: DataType = <DataType.FLOAT: 0>, shape: Sequence[int]"."""
    without_nested = text
    while re.search(r"[\[(<][^\[\](<>)]*[\])>]", without_nested):
        without_nested = re.sub(r"[\[(<][^\[\](<>)]*[\])>]", "", without_nested)
    parts = [part.strip() for part in without_nested.split(",") if part.strip()]
    names = [re.split(r"[:=]", part)[0].strip() + ("=" if "=" in part else "") for part in parts]
    return [name for name in names if name != "self"]


def render(found: dict[str, Any]) -> str:
    """JSON with one line for each member, so that two versions can be compared line by line."""
    sections = []
    for key, value in found.items():
        if not isinstance(value, dict):
            sections.append(f"{json.dumps(key)}: {json.dumps(value)}")
            continue
        groups = (f"{json.dumps(name)}: {_lines(group)}" for name, group in value.items())
        sections.append(f"{json.dumps(key)}: {{\n" + ",\n".join(groups) + "\n}")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def _lines(group: Any) -> str:
    if not isinstance(group, dict):
        return json.dumps(group)
    return "{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(what)}" for name, what in group.items()) + "\n}"


if __name__ == "__main__":
    sys.stdout.write(render(specification(importlib.import_module(sys.argv[1]))))
