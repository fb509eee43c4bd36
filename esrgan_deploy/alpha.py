"""Another alpha without another export, from the weights of both endpoints that lie beside a model.

    theta = (1 - alpha) * theta_PSNR + alpha * theta_GAN        Wang et al. 2018 (ESRGAN), section 3.4

Beside `x.onnx`, and beside an engine `x.engine`, lies `x.ends.safetensors`, which `esrgan-export --refit` writes:

| tensor          | what it is                                                                              |
|-----------------|-----------------------------------------------------------------------------------------|
| `psnr/NAME`     | initialiser NAME of the graph at alpha 0, float32, in the graph's shape                 |
| `gan/NAME`      | the same initialiser at alpha 1                                                         |
| `constant/NAME` | a constant of the graph, float32; TensorRT asks for it if it fused it with weights      |

The metadata has one key, `esrgan.ends`, a JSON object: format, psnr_sha256, gan_sha256, arch, and types (the
type of each tensor in the graph). It is one key because safetensors writes several in random order, and the same
endpoints should give the same bytes.

The blend is computed in float32 and rounded once, to the type that the graph stores. An export does the same, so the
weights are equal bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from esrgan_deploy.arguments import StrPath, as_path, check_share
from esrgan_deploy.budget import check_memory, check_regular
from esrgan_deploy.errors import BackendMissingError, ModelError
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.system.files import replacing

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

Weights: TypeAlias = "Mapping[str, npt.NDArray[np.float32]]"

ENDPOINTS_FORMAT = 1
METADATA_KEY = "esrgan.ends"
TYPES = {1: "fp32", 10: "fp16", 16: "bf16"}
"""TensorProto.DataType -> the name of the type in an endpoints file."""
EXPORT_AGAIN = "export the model again with --refit"


@dataclass(frozen=True, eq=False)
class Endpoints:
    """The weights of a PSNR network and of the GAN trained from it, by their names in the graph."""

    psnr: Weights
    """Weights at alpha 0, float32, in the graph's shapes."""
    gan: Weights
    """Weights at alpha 1, in the same form."""
    types: Mapping[str, str]
    """Type of each weight and constant in the graph: fp32, fp16 or bf16."""
    psnr_sha256: str
    """SHA-256 of the PSNR-oriented checkpoint file."""
    gan_sha256: str
    """SHA-256 of the GAN checkpoint file."""
    arch: Mapping[str, Any]
    """Name and hyper-parameters of the network."""
    constants: Weights = field(default_factory=dict)
    """Constants, which do not depend on alpha: float32, in the graph's shapes."""

    def blend(self, alpha: float) -> dict[str, npt.NDArray[np.float32]]:
        """The weights at `alpha`: (1 - alpha) * PSNR + alpha * GAN, in float32.

        Raises:
            OptionError: alpha is not in [0, 1].
        """
        check_alpha(alpha)
        psnr_share, gan_share = np.float32(1 - alpha), np.float32(alpha)
        return {name: psnr_share * self.psnr[name] + gan_share * self.gan[name] for name in self.psnr}

    def graph_weights(self, alpha: float) -> dict[str, npt.NDArray[Any]]:
        """The weights at `alpha` in the types of the graph, for an engine that was built from it.

        Raises:
            OptionError: alpha is not in [0, 1].
            ModelError: a weight is too large for its type.
        """
        return {name: _rounded(values, self.types[name], name) for name, values in self.blend(alpha).items()}

    def graph_constants(self) -> dict[str, npt.NDArray[Any]]:
        """The constants in the types of the graph."""
        return {name: _rounded(values, self.types[name], name) for name, values in self.constants.items()}

    def to_bytes(self) -> bytes:
        """The content of an endpoints file; equal endpoints give equal bytes.

        Raises:
            BackendMissingError: safetensors is not installed.
        """
        with safetensors_needed():
            from safetensors.numpy import save
        parts = {"psnr": self.psnr, "gan": self.gan, "constant": self.constants}
        tensors = {
            f"{part}/{name}": np.asarray(values, np.float32, order="C")  # safetensors ignores strides
            for part, weights in parts.items()
            for name, values in weights.items()
        }
        about = {
            "format": ENDPOINTS_FORMAT,
            "psnr_sha256": self.psnr_sha256,
            "gan_sha256": self.gan_sha256,
            "arch": dict(self.arch),
            "types": dict(self.types),
        }
        data: bytes = save(tensors, {METADATA_KEY: json.dumps(about, sort_keys=True)})
        return data

    def check_belongs(self, info: ModelInfo, endpoints: Path, model: Path) -> None:
        """Make sure that these are the endpoints of the model with `info`; the two paths are for the error.

        Raises:
            ModelError: checkpoints or network differ.
        """
        for name, ours, theirs in (
            ("PSNR checkpoint", self.psnr_sha256, info.psnr_sha256),
            ("GAN checkpoint", self.gan_sha256, info.gan_sha256),
            ("network", dict(self.arch), None if info.arch is None else dict(info.arch)),
        ):
            if ours != theirs:
                raise ModelError(f"{endpoints}: belongs to another {name} than {model} was made from; {EXPORT_AGAIN}")


def of_graph(model: onnx.ModelProto, info: ModelInfo, psnr: Weights, gan: Weights) -> Endpoints:
    """The endpoints of `model`, from weights in its shapes.

    Args:
        model: exported from the pair, at any alpha.
        info: its metadata, which names network and checkpoints.
        psnr: weights at alpha 0, by the names of the graph's initialisers.
        gan: weights at alpha 1.
    """
    constants = {tensor.name: tensor for tensor in _constants(model)}
    tensors = (*model.graph.initializer, *constants.values())
    from onnx import numpy_helper

    return Endpoints(
        psnr=psnr,
        gan=gan,
        types={tensor.name: TYPES[tensor.data_type] for tensor in tensors},
        psnr_sha256=info.psnr_sha256 or "",
        gan_sha256=info.gan_sha256 or "",
        arch=info.arch or {},
        constants={name: np.asarray(numpy_helper.to_array(value), np.float32) for name, value in constants.items()},
    )


def _constants(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The floating-point constants, under the names of the tensors that nodes read."""
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].t.data_type in TYPES:
            tensor = type(node.attribute[0].t)()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            yield tensor


def check_alpha(alpha: float) -> None:
    """Make sure that alpha is a share of the GAN.

    Raises:
        OptionError: alpha is no number in [0, 1].
    """
    check_share("alpha", alpha, "0 is the PSNR network, 1 the GAN, 0.8 a usual choice")


def endpoints_path(model: StrPath) -> Path:
    """The endpoints file that belongs to an ONNX file or engine: x.onnx -> x.ends.safetensors."""
    return as_path(model).with_suffix(".ends.safetensors")


def info_at_alpha(info: ModelInfo, alpha: float) -> ModelInfo:
    """`info`, read from a file, as it is for the weights at `alpha`."""
    identity = None if info.file_sha256 is None else f"{info.file_sha256}@{float(alpha)!r}"
    return dataclasses.replace(info, alpha=float(alpha), file_sha256=identity)


def model_at_alpha(model: onnx.ModelProto, endpoints: Endpoints, alpha: float) -> onnx.ModelProto:
    """A copy of `model` with the weights and the metadata of an export at `alpha`.

    Args:
        model: exported from the pair of `endpoints` in fp32, fp16 or bf16, at any alpha.
        endpoints: of the same pair.
        alpha: the GAN's share, 0 to 1.

    Raises:
        OptionError: alpha is not in [0, 1].
        ModelError: the endpoints are of another network, or a weight is too large for its type.
    """
    from onnx import helper

    theta = endpoints.blend(alpha)
    expected = {name: values.shape for name, values in theta.items()}
    if {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer} != expected:
        raise ModelError(f"the weights of the model are not those of its endpoints; {EXPORT_AGAIN}")
    changed = type(model)()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.data_type not in TYPES:
            raise ModelError(
                f"the weight '{tensor.name}' has no floating-point type and cannot be blended; {EXPORT_AGAIN}"
            )
        values = _rounded(theta[tensor.name], TYPES[tensor.data_type], tensor.name)
        tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, values.tobytes(), raw=True))
    for entry in changed.metadata_props:
        if entry.key == "esrgan.alpha":
            entry.value = repr(float(alpha))
    return changed


def _rounded(values: npt.NDArray[np.float32], precision: str, name: str) -> npt.NDArray[Any]:
    """`values` in the type `precision`, rounded half to even; subnormals are kept."""
    if precision == "fp32":
        return np.asarray(values, order="C")
    import ml_dtypes

    with np.errstate(over="ignore"):
        rounded: npt.NDArray[Any] = values.astype(np.float16 if precision == "fp16" else ml_dtypes.bfloat16, order="C")
    if not np.isfinite(rounded).all():
        raise ModelError(f"the weight '{name}' is too large for {precision}; export the model as bf16 or fp32")
    return rounded


def write_endpoints(path: StrPath, endpoints: Endpoints) -> None:
    """Write an endpoints file, complete or not at all.

    Raises:
        BackendMissingError: safetensors is not installed.
        OutputError: `path` cannot be written.
    """
    data = endpoints.to_bytes()
    with replacing(as_path(path)) as partial:
        partial.write_bytes(data)


def read_endpoints(path: StrPath) -> Endpoints:
    """Read an endpoints file.

    Raises:
        BackendMissingError: safetensors is not installed.
        ModelError: no such file, a damaged one, or another format than this version reads.
    """
    with safetensors_needed():
        from safetensors import SafetensorError, safe_open
    path = as_path(path)
    check_memory(path, "its weights", check_regular(path, ModelError))
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError, TypeError, KeyError) as error:  # the last ones for types unknown to numpy
        raise ModelError(f"{path}: is damaged ({error}); {EXPORT_AGAIN}") from error
    if METADATA_KEY not in metadata:
        raise ModelError(
            f"{path}: does not hold the weights of two endpoints (no {METADATA_KEY} in it); {EXPORT_AGAIN}"
        )
    try:
        about = json.loads(metadata[METADATA_KEY])
        if about["format"] != ENDPOINTS_FORMAT:
            raise ModelError(
                f"{path}: is of format {about['format']}, this version reads {ENDPOINTS_FORMAT}; {EXPORT_AGAIN}"
            )
        psnr, gan, constants = (_part(tensors, part) for part in ("psnr", "gan", "constant"))
        types, arch = dict(about["types"]), dict(about["arch"])
        endpoints = Endpoints(psnr, gan, types, about["psnr_sha256"], about["gan_sha256"], arch, constants)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: has damaged metadata ({error}); {EXPORT_AGAIN}") from error
    _check_complete(endpoints, tensors, path)
    return endpoints


def _part(tensors: Mapping[str, npt.NDArray[Any]], part: str) -> dict[str, npt.NDArray[Any]]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}


def _check_complete(endpoints: Endpoints, tensors: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Raise ModelError unless both endpoints have the same float32 tensors, each with a type."""
    shapes = [{name: values.shape for name, values in end.items()} for end in (endpoints.psnr, endpoints.gan)]
    typed = {name: endpoints.types.get(name) in TYPES.values() for name in (*endpoints.psnr, *endpoints.constants)}
    all_float32 = all(values.dtype == np.float32 for values in tensors.values())
    if not endpoints.psnr or shapes[0] != shapes[1] or not all(typed.values()) or not all_float32:
        raise ModelError(f"{path}: its two endpoints do not fit each other; {EXPORT_AGAIN}")
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise ModelError(f"{path}: '{name}' holds values that are NaN or infinite; {EXPORT_AGAIN}")


@contextmanager
def safetensors_needed() -> Iterator[None]:
    """Around its import: an error that says what to install."""
    try:
        yield
    except ImportError as error:
        raise BackendMissingError(
            "setting alpha needs the 'safetensors' package: pip install 'esrgan-deploy[cpu]', [gpu] or [tensorrt]"
        ) from error
