"""ONNX Runtime on the CPU, and checks of what is installed."""

from __future__ import annotations

import re
from importlib import metadata
from typing import TYPE_CHECKING, Any

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.backends.session import ModelSession, run_failure
from esrgan_deploy.errors import BackendMissingError, ModelError
from esrgan_deploy.frame_io import Frames, FrameType, attach_frame_io, frame_type_of
from esrgan_deploy.model import load_onnx
from esrgan_deploy.network_memory import largest_tile
from esrgan_deploy.system.cpu import default_threads

if TYPE_CHECKING:
    import onnx


class OrtSession(ModelSession):
    """Runs one ONNX Runtime session per frame type, created when the first frame of that type arrives."""

    any_shape = True

    def __init__(self, model: StrPath, *, threads: int | None = None) -> None:
        """Load `model`.

        Args:
            model: an ONNX file that `load_onnx` accepts.
            threads: threads inside an operator; None: one for each core that may be used.

        Raises:
            BackendMissingError: onnxruntime is not installed, or onnxruntime and onnxruntime-gpu both are.
            ModelError: not a model that this backend runs.
        """
        check_installed("ort")
        path = as_path(model)
        graph, info = load_onnx(path)
        if info.precision == "bf16":
            raise ModelError(
                f"{path}: is bf16, which ONNX Runtime cannot compute; use -b openvino, or export it as fp32 or fp16"
            )
        # By default ONNX Runtime uses all cores, whatever the container's quota is.
        self._threads = threads or default_threads()
        super().__init__(path, info, "ort", precision="fp32" if info.precision == "fp16" else info.precision)
        self.largest_untiled = largest_tile(graph, "ort") or self.largest_untiled
        self._loaded["uint8"] = self._load(graph, "uint8")

    def _load(self, graph: onnx.ModelProto, frame_type: FrameType) -> Any:  # noqa: ANN401  # onnxruntime has no types
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised as exceptions too
        options.intra_op_num_threads = self._threads
        data = attach_frame_io(graph, frame_type).SerializeToString()
        try:
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exception classes differ by version
            raise ModelError(f"{self._path}: ONNX Runtime cannot load it: {first_line(error)}") from error

    def _kind(self, frames: Frames) -> FrameType:
        return frame_type_of(frames.dtype)

    def _compute(self, loaded: Any, frames: Frames) -> Frames:  # noqa: ANN401
        try:
            result: Frames = loaded.run(None, {"frames_in": frames})[0]
        except Exception as error:
            raise run_failure(self._path, "ONNX Runtime", frames, first_line(error)) from error
        return result


def check_installed(backend: str) -> None:
    """Make sure that exactly one ONNX Runtime is installed.

    onnxruntime and onnxruntime-gpu contain the same module: the one installed last overwrites the other, and often only
    the CPU is left, without any message (microsoft/onnxruntime#26996).

    Raises:
        BackendMissingError: the message names the extra to install or the package to remove.
    """
    extra = "cpu" if backend == "ort" else "gpu"
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if installed(name)]
    if len(found) == 2:
        raise BackendMissingError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'esrgan-deploy[{extra}]'"
        )
    if not found:
        raise BackendMissingError(f"-b {backend} needs ONNX Runtime: pip install 'esrgan-deploy[{extra}]'")


def installed(distribution: str) -> bool:
    """Whether a distribution of this name is installed, whatever module it contains."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def first_line(error: Exception) -> str:
    """The first line of an error of ONNX Runtime, without code and place; the other lines are a stack trace."""
    line = str(error).strip().split("\n", 1)[0].rstrip(".")
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |^/onnxruntime_src/\S+:\d+ .*?\) ", "", line)
