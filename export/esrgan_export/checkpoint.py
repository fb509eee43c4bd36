"""Read and write checkpoints: a network with its weights, and the file that training started from.

| file            | read | written | what is taken                                                        |
|-----------------|------|---------|----------------------------------------------------------------------|
| .safetensors    | yes  | yes     | all tensors; `esrgan.*` metadata where this project wrote the file   |
| .pth .pt        | yes  | no      | params_ema, else params, else state_dict, else the file as it is     |
| .param + .bin   | yes  | no      | ncnn; see `esrgan_export.ncnn`                                       |

The network is recognised by the names and shapes of its tensors; `networks.dialects` translates the names that other
code bases use.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import TEXT_BYTES, check_memory, read_bytes
from esrgan_deploy.errors import EsrganError, ModelError, OutputError
from esrgan_deploy.system.files import replacing
from esrgan_export.ncnn import read_ncnn
from esrgan_export.networks import NETWORKS, Config, Network, build
from esrgan_export.networks.dialects import to_current
from esrgan_export.torch_file import load_torch_file

Kind = Literal["params_ema", "params", "bare", "ncnn"]
KINDS: tuple[Kind, ...] = ("params_ema", "params", "bare", "ncnn")
WRAPPERS: dict[str, Kind] = {"params_ema": "params_ema", "params": "params", "state_dict": "bare"}
"""Key in a .pth -> kind of the weights below it, in the order of preference: averaged weights give better pictures."""

NCNN = (".param", ".bin")
PICKLES = (".pth", ".pt")
AGAIN = "download or copy it again"
DAMAGED = f"it was truncated or altered; {AGAIN}"
MOST_TENSORS, LONGEST_KEY = 20_000, 500
"""Real networks have some 2,000 tensors, with names of up to 100 characters."""


@dataclass(frozen=True)
class Checkpoint:
    """A network that was read from a file."""

    network: Network
    """In evaluation mode, fp32, on the CPU, without gradients."""
    path: Path
    """The file that was named."""
    sha256: str
    """SHA-256 of that file; for ncnn, of the .bin."""
    kind: Kind
    """Which weights these are: the moving average (params_ema), the last ones (params), or unknown (bare, ncnn)."""
    parent_sha256: str | None = None
    """SHA-256 of the checkpoint file that training started from; None: unknown."""


@dataclass(frozen=True)
class _Stored:
    """The content of a file, before a network is built."""

    state: dict[str, Tensor]
    kind: Kind
    config: Config | None = None
    parent_sha256: str | None = None


def load_checkpoint(path: StrPath) -> Checkpoint:
    """Read a checkpoint of any network in `esrgan_export.networks`, in any of the formats above.

    Nothing in a file is executed, see `torch_file`, and no size that it claims is believed.

    Raises:
        ModelError: the file is missing, damaged or of an unknown format; the network is unknown; tensors do not fit it
            (the first missing and unexpected keys are named); or a weight is NaN or infinite.
        OptionError: `path` is not a path.
    """
    path = as_path(path)
    suffix = path.suffix.lower()
    if suffix in NCNN:
        return _load_ncnn(path)
    if suffix == ".onnx":
        raise ModelError(f"{path}: is exported already; give the checkpoint that it was made from")
    if suffix not in (*PICKLES, ".safetensors"):
        raise ModelError(
            f"{path}: does not look like a checkpoint; give a .safetensors, .pth or .pt file, or ncnn's .param or .bin"
        )
    data = _read(path)
    stored = _parse_safetensors(data, path) if suffix == ".safetensors" else _parse_pickle(data, path)
    network = _make_network(stored, path)
    return _finish(network, path, data, stored.kind, stored.parent_sha256)


def save_checkpoint(
    network: Network, path: StrPath, parent_sha256: str | None = None, kind: Kind = "params_ema"
) -> None:
    """Write `network` to a .safetensors file, completely or not at all.

    The same weights always give the same bytes, since a GAN names its parent by the SHA-256 of the file.

    Args:
        network: what to write.
        path: ends in .safetensors.
        parent_sha256: `Checkpoint.sha256` of the file that training started from.
        kind: "params_ema" for a moving average, "params" for the last weights.

    Raises:
        OutputError: `path` has another suffix, or cannot be written.
    """
    path = as_path(path)
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
    """`blob` with the JSON header in alphabetical order; safetensors writes metadata in a random order."""
    start = 8 + int.from_bytes(blob[:8], "little")
    header = json.dumps(json.loads(blob[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format pads it with spaces to a multiple of 8 bytes
    return len(header).to_bytes(8, "little") + header + blob[start:]


def _read(path: Path) -> bytes:
    data = read_bytes(path, ModelError)
    if not data:
        raise ModelError(f"{path}: is empty; {AGAIN}")
    return data


def _load_ncnn(path: Path) -> Checkpoint:
    param, weights = (path if path.suffix.lower() == suffix else path.with_suffix(suffix) for suffix in NCNN)
    for file in (param, weights):
        if not file.exists():
            raise ModelError(f"{path}: {file.name} is missing beside it; ncnn models are a .param and a .bin file")
    return _finish(read_ncnn(param, weights), path, _read(weights), "ncnn", None)


def _finish(network: Network, path: Path, data: bytes, kind: Kind, parent_sha256: str | None) -> Checkpoint:
    """Check the weights, and put the network into the state that `Checkpoint.network` describes."""
    for key, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise ModelError(
                f"{path}: '{key}' has {bad} values that are NaN or infinite; training diverged, take an earlier one"
            )
    network.eval().requires_grad_(False)
    return Checkpoint(network, path, hashlib.sha256(data).hexdigest(), kind, parent_sha256)


def _parse_safetensors(data: bytes, path: Path) -> _Stored:
    size = int.from_bytes(data[:8], "little")
    if size > min(TEXT_BYTES, len(data) - 8):
        raise ModelError(f"{path}: is no complete safetensors file (its header claims {size} bytes); {DAMAGED}")
    try:
        state = safetensors.torch.load(data)
        metadata: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    except Exception as error:  # damaged files raise SafetensorError, KeyError, RuntimeError, MemoryError ...
        raise ModelError(f"{path}: is no complete safetensors file ({error}); {DAMAGED}") from error
    kind = metadata.get("esrgan.kind", "bare")
    try:
        config = json.loads(metadata.get("esrgan.arch", "null"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: damaged esrgan.arch ({error}); {DAMAGED}") from error
    if kind not in KINDS or not isinstance(config, dict | None):
        raise ModelError(f"{path}: impossible esrgan metadata {metadata}; {DAMAGED}")
    return _Stored(state, kind, config, _parent(metadata.get("esrgan.parent_sha256"), path))


def _parse_pickle(data: bytes, path: Path) -> _Stored:
    content = load_torch_file(io.BytesIO(data), path, AGAIN)
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__} instead of named weights; give a state dict")
    parent = _parent(content.get("parent_sha256"), path)
    for wrapper, kind in WRAPPERS.items():
        if isinstance(content.get(wrapper), dict):
            return _Stored(_tensors(content[wrapper], path), kind, None, parent)
    named = {key: value for key, value in content.items() if key != "parent_sha256"}
    return _Stored(_tensors(named, path), "bare", None, parent)


def _parent(value: object, path: Path) -> str | None:
    if value is None or (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)):
        return value
    raise ModelError(f"{path}: parent_sha256 is {value!r}, which is not a SHA-256; {DAMAGED}")


def _tensors(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """`content` as it is, if it maps names to tensors."""
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{path}: entry {key!r} is a {type(value).__name__}, not weights; known wrappers are "
                f"{', '.join(WRAPPERS)}"
            )
    return dict(content)


def _make_network(stored: _Stored, path: Path) -> Network:
    """Build the network that the tensors describe, and load them."""
    longest = max(map(len, stored.state), default=0)
    if len(stored.state) > MOST_TENSORS or longest > LONGEST_KEY:
        raise ModelError(
            f"{path}: holds {len(stored.state)} tensors, with names of up to {longest} characters; no network has more "
            f"than {MOST_TENSORS}, or {LONGEST_KEY}"
        )
    state = _without_prefix(stored.state)
    extended = next((key for key in state if "conv1x1" in key), None)
    if extended:
        raise ModelError(f"{path}: is an ESRGAN+ network ('{extended}'), which is not supported; give an ESRGAN one")
    state = to_current(state)
    try:
        config = stored.config or _recognise(state)
        with torch.device("meta"):  # without memory and random weights, which would be replaced at once
            network = build(config)
    except EsrganError as error:
        raise ModelError(f"{path}: {error}") from error
    _check_fit(network, state, path)
    check_memory(path, "its weights in fp32", sum(4 * tensor.numel() for tensor in state.values()))
    network.load_state_dict({key: _as_fp32(tensor) for key, tensor in state.items()}, assign=True)
    return network


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the `module.` that DataParallel puts before every name."""
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
    """Check that `state` has every tensor of `network` in its shape, and no other tensor."""
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
    """A copy in fp32; the counters of batch normalisation stay integers."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
