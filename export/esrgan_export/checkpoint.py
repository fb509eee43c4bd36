"""Read and write checkpoints: one network with its weights and where they came from.

| file            | read | written | what is taken                                                        |
|-----------------|------|---------|----------------------------------------------------------------------|
| .safetensors    | yes  | yes     | all tensors; `esrgan.*` metadata where this project wrote the file   |
| .pth .pt        | yes  | no      | params_ema, else params, else state_dict, else the file as it is     |
| .param + .bin   | yes  | no      | ncnn; see `esrgan_export.ncnn`                                       |

The network is recognised by the names and shapes of its tensors; `networks.dialects` lists the names that are known.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from esrgan_deploy.errors import EsrganError, ModelError, OutputError
from esrgan_deploy.system.files import replacing
from esrgan_export.ncnn import read_ncnn
from esrgan_export.networks import NETWORKS, Config, Network, build
from esrgan_export.networks.dialects import to_current

Kind = Literal["params_ema", "params", "bare", "ncnn"]
KINDS: tuple[Kind, ...] = ("params_ema", "params", "bare", "ncnn")
WRAPPERS: dict[str, Kind] = {"params_ema": "params_ema", "params": "params", "state_dict": "bare"}
"""Key in a .pth -> kind of weights below it, the most wanted first: averaged weights give the better pictures."""

NCNN = (".param", ".bin")
PICKLES = (".pth", ".pt")
DAMAGED = "it was truncated or altered; download or copy it again"


@dataclass(frozen=True)
class Checkpoint:
    """A network as it was found in a file."""

    network: Network
    """In evaluation mode, fp32, on the CPU, without gradients."""
    path: Path
    """The file that was asked for."""
    sha256: str
    """SHA-256 of that file; of the .bin for ncnn."""
    kind: Kind
    """Which weights these are: averaged over training (EMA), the last ones, or not said by the file."""
    parent_sha256: str | None = None
    """SHA-256 of the checkpoint file that training started from; None: not said by the file."""


@dataclass(frozen=True)
class _Stored:
    """What a file holds, before a network is made of it."""

    state: dict[str, Tensor]
    kind: Kind
    config: Config | None = None
    parent_sha256: str | None = None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read any checkpoint of the networks that `esrgan_export.networks` knows.

    Pickles are read by PyTorch's restricted unpickler: nothing in the file is executed.

    Raises:
        ModelError: no such file, damaged, of an unknown kind, a network that is not known, tensors that do not fit
            it (the first missing and unexpected keys are named), or NaN or infinity among the weights.
    """
    suffix = path.suffix.lower()
    if suffix in NCNN:
        return _load_ncnn(path)
    if suffix == ".onnx":
        raise ModelError(f"{path}: is exported, or quantised, already; give the checkpoint that it was made from")
    if suffix not in (*PICKLES, ".safetensors"):
        raise ModelError(
            f"{path}: does not look like a checkpoint; give a .safetensors, .pth or .pt file, or ncnn's .param or .bin"
        )
    data = _read(path)
    stored = _parse_safetensors(data, path) if suffix == ".safetensors" else _parse_pickle(data, path)
    network = _make_network(stored, path)
    return _finish(network, path, data, stored.kind, stored.parent_sha256)


def save_checkpoint(network: Network, path: Path, parent_sha256: str | None = None, kind: Kind = "params_ema") -> None:
    """Write `network` to a .safetensors file, which appears under its final name complete or not at all.

    The same weights always give the same bytes, since lineage goes by the SHA-256 of the file.

    Raises:
        OutputError: `path` has another suffix, or cannot be written.
    """
    if path.suffix.lower() != ".safetensors":
        raise OutputError(f"{path}: checkpoints are written as .safetensors; change the suffix")
    metadata = {"format": "pt", "esrgan.arch": json.dumps(network.config(), sort_keys=True), "esrgan.kind": kind}
    if parent_sha256 is not None:
        metadata["esrgan.parent_sha256"] = parent_sha256
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    blob = _with_sorted_header(safetensors.torch.save(state, metadata))
    with replacing(path) as partial:
        partial.write_bytes(blob)


def _with_sorted_header(blob: bytes) -> bytes:
    """The library writes metadata in the random order of a hash map; this puts the JSON header in order."""
    start = 8 + int.from_bytes(blob[:8], "little")
    header = json.dumps(json.loads(blob[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format pads it with spaces to whole 8 bytes
    return len(header).to_bytes(8, "little") + header + blob[start:]


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise ModelError(f"{path}: is empty; download or copy it again")
    return data


def _load_ncnn(path: Path) -> Checkpoint:
    param, weights = (path if path.suffix.lower() == suffix else path.with_suffix(suffix) for suffix in NCNN)
    for file in (param, weights):
        if not file.is_file():
            raise ModelError(f"{path}: {file.name} is missing beside it; ncnn models are a .param and a .bin file")
    return _finish(read_ncnn(param, weights), path, _read(weights), "ncnn", None)


def _finish(network: Network, path: Path, data: bytes, kind: Kind, parent_sha256: str | None) -> Checkpoint:
    """Check the weights and set the state that `Checkpoint.network` promises."""
    for key, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise ModelError(
                f"{path}: '{key}' has {bad} values that are NaN or infinite; training diverged, take an earlier one"
            )
    network.eval().requires_grad_(False)
    return Checkpoint(network, path, hashlib.sha256(data).hexdigest(), kind, parent_sha256)


def _parse_safetensors(data: bytes, path: Path) -> _Stored:
    try:
        state = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        metadata: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: is no complete safetensors file ({error}); {DAMAGED}") from error
    kind = metadata.get("esrgan.kind", "bare")
    try:
        config = json.loads(metadata.get("esrgan.arch", "null"))
    except ValueError as error:
        raise ModelError(f"{path}: damaged esrgan.arch ({error}); {DAMAGED}") from error
    if kind not in KINDS or not isinstance(config, dict | None):
        raise ModelError(f"{path}: impossible esrgan metadata {metadata}; {DAMAGED}")
    return _Stored(state, kind, config, _parent(metadata.get("esrgan.parent_sha256"), path))


def _parse_pickle(data: bytes, path: Path) -> _Stored:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickle protocols: a file that cannot be read is refused anyway
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged streams make it raise nearly anything; seven types were seen in 400 files
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise ModelError(
                f"{path}: holds more than weights ({found[1]}) and was not run; where the file can be trusted, store "
                "its weights alone: torch.save(network.state_dict(), ...)"
            ) from error
        raise ModelError(f"{path}: is no complete PyTorch checkpoint; {DAMAGED}") from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{path}: holds a {type(content).__name__} instead of named weights; give a state dict")
    parent = _parent(content.get("parent_sha256"), path)
    for wrapper, kind in WRAPPERS.items():
        if isinstance(content.get(wrapper), Mapping):
            return _Stored(_tensors(content[wrapper], path), kind, None, parent)
    named = {key: value for key, value in content.items() if key != "parent_sha256"}
    return _Stored(_tensors(named, path), "bare", None, parent)


def _parent(value: object, path: Path) -> str | None:
    if value is None or (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)):
        return value
    raise ModelError(f"{path}: parent_sha256 is {value!r}, which is no SHA-256; {DAMAGED}")


def _tensors(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """`content` if it maps names to tensors with data."""
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor) or value.is_meta or value.is_sparse:
            raise ModelError(
                f"{path}: entry {key!r} is a {type(value).__name__}, not weights; known wrappers are "
                f"{', '.join(WRAPPERS)}"
            )
    return dict(content)


def _make_network(stored: _Stored, path: Path) -> Network:
    """Build the network that the tensors describe, and fill it."""
    state = _without_prefix(stored.state)
    extended = next((key for key in state if "conv1x1" in key), None)
    if extended:
        raise ModelError(f"{path}: is an ESRGAN+ network ('{extended}'), which is not supported; give an ESRGAN one")
    state = to_current(state)
    try:
        config = stored.config or _recognise(state)
        with torch.device("meta"):  # no memory and no random weights: all of it is about to be replaced
            network = build(config)
    except EsrganError as error:
        raise ModelError(f"{path}: {error}") from error
    _check_fit(network, state, path)
    network.load_state_dict({key: _as_fp32(tensor) for key, tensor in state.items()}, assign=True)
    return network


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the `module.` that DataParallel puts before every name."""
    while state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return state


def _recognise(state: Mapping[str, Tensor]) -> Config:
    shapes = {key: tensor.shape for key, tensor in state.items()}
    for network in NETWORKS.values():
        if config := network.recognise(shapes):
            return config
    raise ModelError(
        f"is none of {', '.join(NETWORKS)}: its {len(state)} tensors begin with {', '.join(list(state)[:3]) or 'none'}"
    )


def _check_fit(network: Network, state: Mapping[str, Tensor], path: Path) -> None:
    """Every tensor must be there with its shape, and no other."""
    expected = network.state_dict()
    problems = []
    for name, keys in (
        ("missing", [key for key in expected if key not in state]),
        ("unexpected", [key for key in state if key not in expected]),
    ):
        if keys:
            problems.append(f"{name} {keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else ""))
    for key in (key for key in expected if key in state):
        found, wanted = state[key], expected[key]
        if found.shape != wanted.shape:
            problems.append(f"{key} is {_dimensions(found)} instead of {_dimensions(wanted)}")
        elif found.is_floating_point() != wanted.is_floating_point():
            problems.append(f"{key} holds {found.dtype} values")
    if problems:
        config = ", ".join(f"{name}={value}" for name, value in network.config().items() if name != "name")
        raise ModelError(
            f"{path}: does not fit {type(network).__name__}({config}): {'; '.join(problems[:3])}; "
            "give a checkpoint of an unmodified network"
        )


def _dimensions(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single value"


def _as_fp32(tensor: Tensor) -> Tensor:
    """Own memory and fp32; counters (of batch normalisation) stay whole numbers."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
