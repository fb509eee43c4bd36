"""Every name and signature of TensorRT that our code uses exists in each version in which the code would use it."""

import ast
from pathlib import Path

import numpy as np
import pytest
from onnx import ValueInfoProto

from esrgan_deploy.engine.options import TILINGS
from real_bindings import ROOT, specification
from uses import MODULE, Owner, Source, defined_names

RTX = "rtx_1.7.1.116"
OLD = "8.5.3.1"
NEW = ("10.13.3.9", "10.16.1.11", "11.4.0.106", RTX)
VERSIONS = (OLD, *NEW)
SPECIFICATIONS = {version: specification(version) for version in VERSIONS}
ENUMS = frozenset(name for spec in SPECIFICATIONS.values() for name in spec["enums"])
CLASSES = frozenset(name for spec in SPECIFICATIONS.values() for name in spec["classes"])
FILES = sorted(
    [*(ROOT / "esrgan_deploy" / "engine").rglob("*.py"), *(ROOT / "esrgan_deploy" / "backends").glob("trt.py")]
)


def object_of(name):
    return Owner("object", name)


# What parameters annotated `Any` are, and other names in single files of which the code does not tell it.
PARAMETERS = {
    "module": MODULE,
    "builder": object_of("Builder"),
    "network": object_of("INetworkDefinition"),
    "config": object_of("IBuilderConfig"),
    "parser": object_of("OnnxParser"),
    "layer": object_of("ILayer"),
    "engine": object_of("ICudaEngine"),
    "raw": object_of("IExecutionContext"),
    "refitter": object_of("Refitter"),
    "level": object_of("ILogger.Severity"),
}
LOCALS = {"plan.py": {"error": object_of("ParserError")}, "layer_types.py": {"each": object_of("ILayer")}}
# What methods give, TensorRT's and those of the adapter.
RETURNS = {
    "create_builder": object_of("Builder"),
    "create_runtime": object_of("Runtime"),
    "create_network": object_of("INetworkDefinition"),
    "create_builder_config": object_of("IBuilderConfig"),
    "configure": object_of("IBuilderConfig"),
    "create_optimization_profile": object_of("IOptimizationProfile"),
    "create_timing_cache": object_of("ITimingCache"),
    "get_timing_cache": object_of("ITimingCache"),
    "get_error": object_of("ParserError"),
    "get_layer": object_of("ILayer"),
    "get_output": object_of("ITensor"),
    "deserialize_cuda_engine": object_of("ICudaEngine"),
    "create_execution_context": object_of("IExecutionContext"),
}
# What the adapter says of each version, and which options it lets pass; test_adapter.py sees the same on the bindings.
FEATURES = {"trt.strongly_typed": NEW, "trt.portable": (RTX,)}
LET_PASS = {
    "options.optimization_level is not None": NEW,
    "options.tiling != 'none'": NEW,
    "options.aux_streams is not None": NEW,
}
METHODS = {member for spec in SPECIFICATIONS.values() for members in spec["classes"].values() for member in members}
MEMBERS = {member for spec in SPECIFICATIONS.values() for members in spec["enums"].values() for member in members}
# Names that our own objects and Python's have as well: on something unknown they are not TensorRT's.
COMMON = defined_names((ROOT / "esrgan_deploy").rglob("*.py")) | {
    name for common in (dict, list, np.ndarray, OSError, Path, set, str) for name in dir(common)
}
COMMON |= set(ValueInfoProto.DESCRIPTOR.fields_by_name)


def source(path):
    return Source(path, PARAMETERS, LOCALS.get(path.name, {}), RETURNS, ENUMS, CLASSES)


def member(owner, name, version):
    """What a version says of an attribute; None if it has none."""
    spec = SPECIFICATIONS[version]
    if name in ("__members__", "__name__", "__version__"):
        return "attribute"
    if owner.kind == "module":
        return "attribute" if name in spec["module"] else None
    if owner.kind == "enum":
        return "attribute" if name in spec["enums"].get(owner.name, ()) else None
    return spec["classes"].get(owner.name, {}).get(name)


def reached(source, use):
    """Versions in which a use is reached."""
    versions = set(VERSIONS)
    for test, holds in use.conditions:
        text = ast.unparse(test)
        having = FEATURES.get(text)
        match test:
            case ast.Call(func=ast.Name(id="hasattr"), args=[value, ast.Constant(value=name)]):
                having = [version for version in VERSIONS if member(source.owner(value), name, version)]
        if having is not None:
            versions &= set(having) if holds else set(VERSIONS) - set(having)
        elif holds:
            versions &= set(LET_PASS.get(text, VERSIONS))
    return sorted(versions)


def problems(path):
    """What is wrong with the uses of TensorRT in one file, in one line each."""
    code = source(path)
    for use in code.uses():
        yield from wrong_in(use, reached(code, use))
    for where, owner, name in code.asked():
        if owner and not any(member(owner, name, version) for version in VERSIONS):
            yield f"{where}: no version has {name} in {owner.name or 'the module'}"
    for where, lists in code.asked_in_turn():
        unknown = [[name for name in names if name not in METHODS | MEMBERS] for names in lists]
        if all(unknown):
            yield f"{where}: no version has {unknown[0][0]} anywhere"
    for node in code.attributes():
        if node.attr in METHODS - COMMON and code.owner(node.value) is None and not code.is_imported(node):
            yield f"{path.name}:{node.lineno}: whose is {ast.unparse(node)}? name it in LOCALS or RETURNS"
    for name in code.untyped_parameters() - set(PARAMETERS):
        yield f"{path.name}: what is the parameter {name}? name it in PARAMETERS"
    for node, owner in code.subclasses():
        yield from wrong_overrides(path, node, owner)


def wrong_in(use, versions):
    """At most one problem for each version."""
    for version in versions:
        found = member(use.owner, use.node.attr, version)
        if found is None:
            yield f"{use}: {version} has no such name in {use.owner.name or 'the module'}"
        elif isinstance(use.node.ctx, ast.Store) and found != "writable property":
            yield f"{use}: cannot be set in {version}"
        elif use.call and not fits(use, version) and not tried(use):
            yield f"{use}: {version} takes {signature(use, version)}"


def tried(use):
    """Whether a call is attempted that is right in some versions."""
    return use.attempted and any(fits(use, version) for version in VERSIONS)


def signature(use, version):
    """Of a method, or of the constructor if a class of the module is called."""
    if use.owner.kind == "module":
        return member(Owner("object", use.node.attr), "__init__", version)
    return member(use.owner, use.node.attr, version)


def fits(use, version):
    """Whether a call has the parameters of an overload; properties and constants have none."""
    parameters = signature(use, version)
    if parameters is None or isinstance(parameters, str):
        return False
    overloads = parameters if parameters and isinstance(parameters[0], list) else [parameters]
    arguments = use.call.args[1:] if use.owner.kind == "class" else use.call.args
    keywords = {keyword.arg for keyword in use.call.keywords}
    return any(matches(arguments, keywords, overload) for overload in overloads)


def matches(arguments, keywords, parameters):
    names = [parameter.rstrip("=") for parameter in parameters]
    if any(isinstance(argument, ast.Starred) for argument in arguments):
        return keywords <= set(names)
    required = {name for name in parameters[len(arguments) :] if not name.endswith("=")}
    return len(arguments) <= len(names) and required <= keywords <= set(names[len(arguments) :])


def wrong_overrides(path, node, owner):
    """TensorRT calls what we override by position: names and numbers of parameters have to be those that it knows."""
    ours = {
        inner.name: len(inner.args.args) - 1
        for inner in node.body
        if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("__")
    }
    for version in VERSIONS:
        members = SPECIFICATIONS[version]["classes"].get(owner.name, {})
        for name, parameters in members.items():
            if isinstance(parameters, list) and not name.startswith("__") and ours.get(name) != len(parameters):
                yield f"{path.name}:{node.lineno}: {node.name}.{name}: {version} calls it with {parameters}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_uses(path):
    assert list(problems(path)) == []


def test_uses_are_found():
    """The check above sees the calls at which everything happens."""
    seen = {f"{use.owner.name}.{use.node.attr}" for path in FILES for use in source(path).uses()}
    assert seen >= {
        "Builder.build_serialized_network",
        "BuilderFlag.FP16",
        "IBuilderConfig.progress_monitor",
        "ICudaEngine.create_execution_context",
        "IExecutionContext.execute_async_v3",
        "ITimingCache.serialize",
        "OnnxParser.parse",
        "ParserError.desc",
        "Runtime.deserialize_cuda_engine",
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_a_context_says_how_much_memory_it_takes(version):
    """`activation_bytes` finds one of the names that it looks for."""
    assert {"device_memory_size_v2", "device_memory_size"} & set(SPECIFICATIONS[version]["classes"]["ICudaEngine"])


@pytest.mark.parametrize("version", NEW)
def test_tilings(version):
    assert {name.upper() for name in TILINGS} == set(SPECIFICATIONS[version]["enums"]["TilingOptimizationLevel"])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("config.set_flag(module.BuilderFlag.FP16)", "11.4.0.106 has no such name in BuilderFlag"),
        ("config.max_workspace_size = 1", "10.13.3.9 has no such name in IBuilderConfig"),
        ("config.max_aux_streams = 1", "8.5.3.1 has no such name in IBuilderConfig"),
        ("config.num_optimization_profiles = 1", "cannot be set in 11.4.0.106"),
        ("config.set_tiling(1)", "11.4.0.106 has no such name in IBuilderConfig"),
        ("config.set_timing_cache(None)", "11.4.0.106 takes ['cache', 'ignore_mismatch']"),
        ("config.set_timing_cache(None, mismatch=True)", "11.4.0.106 takes ['cache', 'ignore_mismatch']"),
        ("config.num_optimization_profiles()", "11.4.0.106 takes property"),
        ("module.OnnxParser(config)", "11.4.0.106 takes ['network', 'logger']"),
        ("module.Weights(config, 0, 1)", "8.5.3.1 takes [['type='], ['a']]"),
        ("module.Builder(config).platform_has_fast_fp16", "11.4.0.106 has no such name in Builder"),
        ("hasattr(config, 'tiling_level')", "no version has tiling_level in IBuilderConfig"),
        ("[hasattr(config, name) for name in ('TF32', 'tiling_level')]", "no version has tiling_level anywhere"),
        ("try: module.Weights(1, 2)\n    except TypeError: pass", "11.4.0.106 takes [['type='], "),
        ("try: config.set_tiling(1)\n    except TypeError: pass", "11.4.0.106 has no such name in IBuilderConfig"),
        ("something.execute_async_v3(1)", "whose is something.execute_async_v3?"),
        ("if not trt.strongly_typed: module.IProgressMonitor", "8.5.3.1 has no such name in the module"),
        ("class L(module.ILogger):\n        def log(self, text): pass", "11.4.0.106 calls it with ['severity', 'msg']"),
        ("lambda secret: 1\ndef g(unknown: Any): pass", "what is the parameter unknown?"),
    ],
)
def test_a_wrong_use_is_found(line, problem, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(f"def f(module: Any, config: Any, trt: TensorRT) -> None:\n    {line}\n")
    assert problem in "\n".join(problems(file))


@pytest.mark.parametrize(
    "line",
    [
        "if hasattr(module.BuilderFlag, 'FP16'): config.set_flag(module.BuilderFlag.FP16)",
        "if not trt.strongly_typed: config.set_flag(module.BuilderFlag.FP16)",
        "if trt.strongly_typed: return\n    config.set_flag(module.BuilderFlag.FP16)",
        "new = hasattr(module, 'IProgressMonitor')\n    if new: module.IProgressMonitor",
        "config.set_timing_cache(None, ignore_mismatch=False)",
        "module.Weights(config)\n    module.Weights()",
        "try: module.Weights(config, 0, 1)\n    except TypeError: module.Weights(config)",
        "if trt.strongly_typed: _g(module)\ndef _g(module: Any): module.IProgressMonitor and _g(module)",
        "_g(module) if trt.strongly_typed else 0\ndef _g(module: Any): module.IProgressMonitor",
    ],
)
def test_a_right_use_passes(line, tmp_path):
    file = tmp_path / "right.py"
    file.write_text(f"def f(module: Any, config: Any, trt: TensorRT) -> None:\n    {line}\n")
    assert list(problems(file)) == []
