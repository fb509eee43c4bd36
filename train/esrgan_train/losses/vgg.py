"""Features of a frozen VGG16 or VGG19 (Simonyan and Zisserman 2015), for the perceptual loss.

Layers are called `conv5_4` (before the ReLU), `relu5_4` (after it) and `pool5`. The VGG22 and VGG54 of SRGAN are
`relu2_2` and `relu5_4`; ESRGAN uses `conv5_4`.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import safetensors.torch
import torch
from torch import Tensor, nn

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import check_memory, opened
from esrgan_deploy.errors import MachineError, ModelError, OptionError
from esrgan_export.torch_file import load_torch_file
from esrgan_train.losses.vgg_layers import Architecture
from esrgan_train.losses.vgg_layers import layer_names as layer_names

Normalisation = Literal["torchvision", "caffe"]

WIDTHS = (64, 128, 256, 512, 512)
"""Output channels of the convolutions in each of the five blocks."""

URLS: dict[str, str] = {
    "vgg16": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "vgg19": "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
}
"""torchvision's weights."""

SHA256: dict[str, str] = {
    "vgg16": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "vgg19": "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
}
"""Of these files; compared at each load, before anything of a file is believed."""
_PIECE = 1 << 20
_PATIENCE = 60
"""Seconds to wait for a server that says nothing."""

MEAN_AND_STD: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
}
"""What is subtracted from RGB in [0, 1], and what the difference is divided by."""


class VGGFeatures(nn.Module):
    """RGB images (N, 3, H, W) in [0, 1] -> {layer name: features}, in the order of the network.

    The weights are frozen; gradients pass through to the images. Images are not clamped, since the loss must see values
    outside [0, 1]. Computed in fp32 also under autocast. Layers after the last of `layers` are not built. Padding is
    zero everywhere, as VGG was trained.

    Args:
        layers: names out of `vgg_layers.layer_names`.
        architecture: "vgg16" or "vgg19".
        normalisation: what the weights expect. "torchvision": ImageNet's mean and standard deviation on [0, 1].
            "caffe": RGB * 255 - (123.68, 116.779, 103.939), for weights converted from Caffe or Keras, with the first
            convolution in RGB order. A file does not say which it needs, and the wrong one gives a poor loss and no
            error.
        weights: .pth (read without running code) or .safetensors with torchvision's names, `features.K.weight` and
            `features.K.bias`. None: torchvision's published file, downloaded once into `torch.hub.get_dir()`, and
            compared with its SHA-256 whenever it is loaded.

    Raises:
        OptionError: no layers, or an unknown layer, architecture or normalisation; the nearest name is given.
        ModelError: the file is missing, damaged, of another architecture, or ends before the last layer; or the one
            in torch's cache is not the published one.
        MachineError: the published file could not be downloaded, or does not fit into memory.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: Iterable[str],
        architecture: Architecture = "vgg19",
        normalisation: Normalisation = "torchvision",
        weights: StrPath | None = None,
    ) -> None:
        super().__init__()
        _check_option("architecture", architecture, get_args(Architecture))
        _check_option("normalisation", normalisation, get_args(Normalisation))
        names = layer_names(architecture)
        self.layers = frozenset(layers)
        if not self.layers:
            raise OptionError(f"no layer of {architecture} is named; ESRGAN takes conv5_4 of vgg19")
        for layer in sorted(self.layers):
            _check_option(f"{architecture} layer", layer, names)
        self.names = names[: 1 + max(map(names.index, self.layers))]
        with torch.device("meta"):  # without random weights, which would be replaced at once
            self.features = nn.Sequential(*map(_make_layer, self.names))
        path = as_path(weights) if weights else _download(URLS[architecture], SHA256[architecture])
        tensors = _read_tensors(path, None if weights else SHA256[architecture])
        state = _select(tensors, architecture, self.features.state_dict(), path)
        self.features.load_state_dict(state, assign=True)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in MEAN_AND_STD[normalisation])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features of `image` at each of `layers`, in fp32.

        Raises:
            OptionError: `image` is too small for the last layer: the pools leave nothing of it.
        """
        pools = sum(name.startswith("pool") for name in self.names)
        if min(image.shape[-2:]) < 2**pools:
            height, width = image.shape[-2:]
            raise OptionError(
                f"{self.names[-1]} of VGG needs {2**pools}x{2**pools} pixels or more, not {width}x{height}"
            )
        found = {}
        with torch.autocast(image.device.type, enabled=False):
            x = (image.to(self.mean.dtype) - self.mean) / self.std
            for name, layer in zip(self.names, self.features, strict=True):
                x = layer(x)
                if name in self.layers:
                    found[name] = x
        return found


def _check_option(what: str, value: str, known: Iterable[str]) -> None:
    known = list(known)
    if value not in known:
        nearest = difflib.get_close_matches(value, known, n=1, cutoff=0)
        raise OptionError(f"{what} {value!r} is unknown; did you mean {nearest[0]!r}?")


def _make_layer(name: str) -> nn.Module:
    if name.startswith("pool"):
        return nn.MaxPool2d(2)
    if name.startswith("relu"):
        return nn.ReLU()  # in place it would overwrite the features of the convolution before it
    block, conv = int(name[4]), int(name[6])
    outputs = WIDTHS[block - 1]
    inputs = outputs if conv > 1 else (3, *WIDTHS)[block - 1]
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _download(url: str, sha256: str) -> Path:
    """The file at `url`: from torch's cache, or downloaded and checked against its hash."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if path.exists():
        return path
    waited_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
    except (OSError, RuntimeError) as error:  # OSError: no connection or no space; RuntimeError: the hash differs
        raise MachineError(
            f"{url}: cannot be downloaded ({error}); fetch it elsewhere and name it as the weights, or put it at {path}"
        ) from error
    finally:
        socket.setdefaulttimeout(waited_before)
    return path


def _read_tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """The tensors of a file; with a `sha256`, of that file only."""
    suffix = path.suffix.lower()
    if suffix not in (".pth", ".safetensors"):
        raise ModelError(f"{path}: VGG weights are a .pth or .safetensors file")
    if not path.exists():
        raise ModelError(f"{path}: there is no such file; name one with VGG weights")
    remedy = "remove it and download or copy it again"
    with opened(path, ModelError) as file:
        if sha256 is not None and _digest(file) != sha256:
            raise ModelError(f"{path}: is not torchvision's file, whose SHA-256 is {sha256}; {remedy}")
        if suffix == ".pth":
            content = load_torch_file(file, path, remedy)
        else:
            check_memory(path, "its content", 2 * path.stat().st_size)
            try:
                content = safetensors.torch.load(file.read())
            except Exception as error:  # damaged files make it raise several kinds
                raise ModelError(f"{path}: is no complete file of weights; {remedy}") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(
            f"{path}: is no state dict; VGG weights are named features.0.weight and so on, as torchvision's"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _digest(file: BinaryIO) -> str:
    """The SHA-256 of what is in `file`, which is read from its start again afterwards."""
    digest = hashlib.sha256()
    while piece := file.read(_PIECE):
        digest.update(piece)
    file.seek(0)
    return digest.hexdigest()


def _select(
    tensors: Mapping[str, Tensor], architecture: Architecture, expected: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The tensors called `features.` + the names in `expected`, in fp32 and of the same shapes.

    All layers of the file are looked at, since VGG16 and VGG19 begin with the same ones.
    """
    stored = sorted(int(match[1]) for key in tensors if (match := re.fullmatch(r"features\.(\d+)\.weight", key)))
    if not stored or stored != _conv_indices(architecture)[: len(stored)]:
        fitting = [other for other in get_args(Architecture) if stored == _conv_indices(other)]
        remedy = (
            f"they are of {fitting[0]}, ask for that" if fitting else "give torchvision's, without batch normalisation"
        )
        raise ModelError(f"{path}: these are no weights of {architecture}; {remedy}")
    state = {}
    for key, like in expected.items():
        tensor = tensors.get(f"features.{key}")
        if tensor is None:
            raise ModelError(
                f"{path}: holds no features.{key}, which the layers asked for need; give the whole {architecture}"
            )
        if tensor.shape != like.shape or not tensor.isfinite().all():
            raise ModelError(f"{path}: features.{key} is damaged or of another network; download or copy it again")
        state[key] = tensor.to(torch.float32)
    return state


def _conv_indices(architecture: Architecture) -> list[int]:
    return [index for index, name in enumerate(layer_names(architecture)) if name.startswith("conv")]
