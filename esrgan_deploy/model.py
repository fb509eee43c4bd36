"""ModelInfo, the properties of a network that a host needs, and `load_onnx`, which reads them from an ONNX file.

The `onnx` package is imported inside the functions that need it: a program that only runs engines need not have it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import read_bytes
from esrgan_deploy.errors import BackendMissingError, ModelError
from esrgan_deploy.onnx_check import check_network, output_shapes

if TYPE_CHECKING:
    import onnx

METADATA_FORMAT = "1"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
FLOATS = {1: "fp32", 10: "fp16", 16: "bf16"}
"""TensorProto.DataType -> the precision of a network with such inputs."""

LARGEST_SCALE = 64
LARGEST_MULTIPLE = 256
"""Windows of attention and the steps of U-Nets go up to 64; a picture is filled up to a multiple."""
LARGEST_OVERLAP = 2048
"""The context of a tile on each side; RRDBNet needs some 30 pixels of the 350 that can matter."""
LARGEST_SIDE = 1 << 16
LONGEST_VALUE = 1 << 16
"""Characters of one value of the metadata."""


@dataclass(frozen=True)
class ModelInfo:
    """What a host must know of a network in order to run it, and where its weights came from."""

    scale: int
    """Output pixels per input pixel, in each direction."""
    precision: str = "fp32"
    """Type of weights and activations: one of `PRECISIONS`."""
    multiple_of: int = 1
    """Height and width of the input must be multiples of this: 2 or 4 for networks that pixel-unshuffle, else 1."""
    overlap: int | None = None
    """Context in input pixels that a tile needs on each inner side for an invisible seam; None: not measured."""
    alpha: float | None = None
    """The GAN's share of the weights: theta = (1 - alpha) * PSNR + alpha * GAN; None: not an interpolation."""
    arch: Mapping[str, Any] | None = None
    """Name and hyper-parameters of the network; None: a file that this project did not write."""
    psnr_sha256: str | None = None
    """SHA-256 of the PSNR-oriented checkpoint file."""
    gan_sha256: str | None = None
    """SHA-256 of the GAN checkpoint file."""
    created_by: str | None = None
    """Program and version that wrote the file."""
    fixed_size: tuple[int, int] | None = None
    """The one (height, width) that the graph takes; None: any. Read from the graph, not from the metadata."""
    file_sha256: str | None = field(default=None, compare=False)
    """SHA-256 of the ONNX file that this was read from; left out of comparisons."""

    def to_metadata(self) -> dict[str, str]:
        """The `metadata_props` of the ONNX file; fields that are None are left out."""
        fields = {
            "format": METADATA_FORMAT,
            "arch": None if self.arch is None else json.dumps(dict(self.arch), sort_keys=True),
            "scale": str(self.scale),
            "alpha": None if self.alpha is None else repr(float(self.alpha)),
            "psnr_sha256": self.psnr_sha256,
            "gan_sha256": self.gan_sha256,
            "precision": self.precision,
            "overlap": None if self.overlap is None else str(self.overlap),
            "multiple_of": str(self.multiple_of),
            "created_by": self.created_by,
        }
        return {f"esrgan.{key}": value for key, value in fields.items() if value is not None}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> ModelInfo:
        """Parse what `to_metadata` wrote; `source` is the file that errors name.

        Raises:
            ModelError: another format than this version reads, or a value that does not parse.
        """
        found = {k.removeprefix("esrgan."): v for k, v in metadata.items() if k.startswith("esrgan.")}
        if found.get("format") != METADATA_FORMAT:
            raise ModelError(
                f"{source}: esrgan.format is {found.get('format')!r}, this version reads {METADATA_FORMAT!r}; "
                "upgrade esrgan-deploy or export the model again"
            )
        try:
            longest = max(found, key=lambda key: len(found[key]))
            if len(found[longest]) > LONGEST_VALUE:
                raise ValueError(f"{longest} has {len(found[longest])} characters")
            info = cls(
                scale=int(found["scale"]),
                precision=found["precision"],
                multiple_of=int(found["multiple_of"]),
                overlap=int(found["overlap"]) if "overlap" in found else None,
                alpha=float(found["alpha"]) if "alpha" in found else None,
                arch=_object(found["arch"]) if "arch" in found else None,
                psnr_sha256=found.get("psnr_sha256"),
                gan_sha256=found.get("gan_sha256"),
                created_by=found.get("created_by"),
            )
        except (KeyError, ValueError) as error:
            raise ModelError(f"{source}: damaged esrgan metadata ({error}); export the model again") from error
        impossible = [
            f"{name} {value}"
            for name, value, possible in (
                ("scale", info.scale, 1 <= info.scale <= LARGEST_SCALE),
                ("precision", info.precision, info.precision in PRECISIONS),
                ("multiple_of", info.multiple_of, 1 <= info.multiple_of <= LARGEST_MULTIPLE),
                ("overlap", info.overlap, 0 <= (info.overlap or 0) <= LARGEST_OVERLAP),
                ("alpha", info.alpha, info.alpha is None or 0 <= info.alpha <= 1),  # false for NaN too
            )
            if not possible
        ]
        if impossible:
            raise ModelError(f"{source}: impossible esrgan metadata: {', '.join(impossible)}; export the model again")
        return info


def _object(text: str) -> dict[str, Any]:
    """A JSON object of no great depth."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("arch is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"arch is a {type(value).__name__} instead of an object")
    return value


def load_onnx(path: StrPath) -> tuple[onnx.ModelProto, ModelInfo]:
    """Read an ONNX file whose network maps an NCHW RGB image to a larger one.

    Files of this project carry their `ModelInfo` as metadata, which must agree with the graph; of others the scale is
    found by shape inference. Nothing is run, and whatever is no such network is refused, see `onnx_check`.

    Raises:
        BackendMissingError: the onnx package is not installed.
        MachineError: the file does not fit into memory.
        ModelError: no such file, not ONNX, a network of another kind, or metadata of another network.
    """
    path = as_path(path)
    try:
        import onnx
        from google.protobuf.message import DecodeError  # comes with onnx
    except ImportError as error:
        raise BackendMissingError(
            f"{path}: reading it needs the 'onnx' package: pip install 'esrgan-deploy[cpu]' or 'esrgan-deploy[gpu]'"
        ) from error
    data = read_bytes(path, ModelError)
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"{path}: is not an ONNX file, or was truncated; export or download it again") from error
    if not model.graph.node:
        raise ModelError(f"{path}: is not an ONNX file (it holds no network)")
    check_network(model, str(path))
    _check_interface(model, path)
    info = _info(model, path)
    return model, dataclasses.replace(info, file_sha256=hashlib.sha256(data).hexdigest())


def _images(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no weights, which old files list as inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _check_interface(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError unless there is one input and one output, both float NCHW with three channels."""
    inputs, outputs = _images(model), list(model.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs; an upscaling network has one of each"
        )
    for value in (inputs[0], outputs[0]):
        dims = [d.dim_value or d.dim_param or "?" for d in value.type.tensor_type.shape.dim]
        floating = value.type.tensor_type.elem_type in FLOATS
        # Files of other exporters leave the output's shape open; the input's channel count is always known.
        channels_fit = len(dims) == 4 and (dims[1] == 3 or (value is outputs[0] and not isinstance(dims[1], int)))
        if not floating or (dims and not channels_fit) or (not dims and value is inputs[0]):
            shape = "x".join(map(str, dims)) or "of unknown shape"
            raise ModelError(
                f"{path}: '{value.name}' is {shape}; an upscaling network takes and gives float NCHW images "
                "with 3 channels, so this is a network of another kind"
            )
    batch, _, height, width = (dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim)
    if batch not in (0, 1):
        raise ModelError(f"{path}: takes {batch} images at a time only; export it for one, or for any number")
    if (height > 0) != (width > 0) or not (0 <= height <= LARGEST_SIDE and 0 <= width <= LARGEST_SIDE):
        raise ModelError(
            f"{path}: takes images of {width or 'any'}x{height or 'any'} only; export it with symbolic height and width"
        )


def _info(model: onnx.ModelProto, path: Path) -> ModelInfo:
    """ModelInfo from the metadata, or without any from the graph. Either way the graph decides on the scale."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    image = _images(model)[0].type.tensor_type
    _, _, height, width = (dim.dim_value for dim in image.shape.dim)
    if "esrgan.format" in metadata:
        info = ModelInfo.from_metadata(metadata, str(path))
        if height % info.multiple_of or width % info.multiple_of:
            raise ModelError(
                f"{path}: takes images of {width}x{height} only, and its metadata says multiples of "
                f"{info.multiple_of}; export the model again"
            )
    else:
        info = ModelInfo(scale=0, precision=FLOATS[image.elem_type])
    if height:
        info = dataclasses.replace(info, fixed_size=(height, width))
    return dataclasses.replace(info, scale=_checked_scale(model, info, path))


def _checked_scale(model: onnx.ModelProto, info: ModelInfo, path: Path) -> int:
    """`info.scale`, or if that is 0 the scale of the graph, if the graph enlarges images of two sizes by it.

    Where shape inference cannot tell a dimension, the metadata is believed; sessions check what comes out.
    """
    step = 64 + -64 % info.multiple_of
    scale = info.scale
    sizes = [info.fixed_size] if info.fixed_size else [(step, 2 * step), (3 * step, step)]
    for (height, width), out in zip(sizes, output_shapes(model, sizes, str(path)), strict=True):
        if not scale and out and len(out) == 4:
            scale = (out[2] or 0) // height
        wanted = (1, 3, height * scale, width * scale)
        known = out or (None,) * 4
        if len(known) == 4 and all(a in (None, b) for a, b in zip(known, wanted, strict=True)) and (info.scale or out):
            continue
        shape = "x".join("?" if length is None else str(length) for length in out) if out else "an unknown shape"
        if info.scale:
            raise ModelError(
                f"{path}: gives {shape} for a {width}x{height} image, and its metadata says x{info.scale}; "
                "export the model again"
            )
        raise ModelError(f"{path}: gives {shape} for a {width}x{height} image, which is not a whole-number upscaling")
    if not 1 <= scale <= LARGEST_SCALE:
        raise ModelError(
            f"{path}: enlarges {scale} times; {LARGEST_SCALE} times is the most that any network is used for"
        )
    return scale
