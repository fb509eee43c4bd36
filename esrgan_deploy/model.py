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
from esrgan_deploy.errors import BackendMissingError, ModelError

if TYPE_CHECKING:
    import onnx

METADATA_FORMAT = "1"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


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
            info = cls(
                scale=int(found["scale"]),
                precision=found["precision"],
                multiple_of=int(found["multiple_of"]),
                overlap=int(found["overlap"]) if "overlap" in found else None,
                alpha=float(found["alpha"]) if "alpha" in found else None,
                arch=json.loads(found["arch"]) if "arch" in found else None,
                psnr_sha256=found.get("psnr_sha256"),
                gan_sha256=found.get("gan_sha256"),
                created_by=found.get("created_by"),
            )
        except (KeyError, ValueError) as error:
            raise ModelError(f"{source}: damaged esrgan metadata ({error}); export the model again") from error
        if info.precision not in PRECISIONS or info.scale < 1 or info.multiple_of < 1 or (info.overlap or 0) < 0:
            raise ModelError(f"{source}: impossible esrgan metadata {found}; export the model again")
        return info


def load_onnx(path: StrPath) -> tuple[onnx.ModelProto, ModelInfo]:
    """Read an ONNX file whose network maps an NCHW RGB image to a larger one.

    Files of this project carry their `ModelInfo` as metadata; of others the scale is found by shape inference.

    Raises:
        BackendMissingError: the onnx package is not installed.
        ModelError: no such file, not ONNX, or a network of another kind.
    """
    path = as_path(path)
    try:
        import onnx
        from google.protobuf.message import DecodeError  # comes with onnx
    except ImportError as error:
        raise BackendMissingError(
            f"{path}: reading it needs the 'onnx' package: pip install 'esrgan-deploy[cpu]' or 'esrgan-deploy[gpu]'"
        ) from error
    try:
        data = path.read_bytes()
        model = onnx.load_model_from_string(data)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise ModelError(f"{path}: is not an ONNX file, or was truncated; export or download it again") from error
    if not model.graph.node:
        raise ModelError(f"{path}: is not an ONNX file (it holds no network)")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    _check_interface(model, path)
    if "esrgan.format" in metadata:
        info = ModelInfo.from_metadata(metadata, str(path))
        _, _, height, width = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
        info = dataclasses.replace(info, fixed_size=(height, width) if height and width else None)
    else:
        info = _infer_info(model, path)
    return model, dataclasses.replace(info, file_sha256=hashlib.sha256(data).hexdigest())


def _check_interface(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError unless there is one input and one output, both float NCHW with three channels."""
    initialisers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialisers]
    outputs = list(model.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs; an upscaling network has one of each"
        )
    for value in (inputs[0], outputs[0]):
        dims = [d.dim_value or d.dim_param or "?" for d in value.type.tensor_type.shape.dim]
        floating = value.type.tensor_type.elem_type in (1, 10, 16)  # TensorProto FLOAT, FLOAT16, BFLOAT16
        # Files of other exporters leave the output's shape open; the input's channel count is always known.
        channels_fit = len(dims) == 4 and (dims[1] == 3 or (value is outputs[0] and not isinstance(dims[1], int)))
        if not floating or (dims and not channels_fit) or (not dims and value is inputs[0]):
            shape = "x".join(map(str, dims)) or "of unknown shape"
            raise ModelError(
                f"{path}: '{value.name}' is {shape}; an upscaling network takes and gives float NCHW images "
                "with 3 channels, so this is a network of another kind"
            )


def _infer_info(model: onnx.ModelProto, path: Path) -> ModelInfo:
    """ModelInfo of a file without our metadata; the scale comes from shape inference with a 64x64 input."""
    import onnx

    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    dims = trial.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, (1, 3, 64, 64), strict=True):
        if dim.dim_value and dim.dim_value != size and dim is not dims[0]:
            raise ModelError(
                f"{path}: is fixed to inputs of {[d.dim_value for d in dims]}; export it with symbolic height and width"
            )
        dim.dim_value = size
    trial.graph.output[0].type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(trial, data_prop=True)
    except Exception as error:  # onnx raises its own InferenceError, ValueError or RuntimeError by version
        raise ModelError(f"{path}: shape inference failed ({error}); this is not a valid upscaling network") from error
    out = [d.dim_value for d in inferred.graph.output[0].type.tensor_type.shape.dim]
    if len(out) != 4 or out[2] != out[3] or not out[2] or out[2] % 64:
        raise ModelError(
            f"{path}: gives {out or 'an unknown shape'} for a 64x64 image, which is not a whole-number upscaling"
        )
    types = {1: "fp32", 10: "fp16", 16: "bf16"}
    precision = types[model.graph.input[0].type.tensor_type.elem_type]
    return ModelInfo(scale=out[2] // 64, precision=precision)
