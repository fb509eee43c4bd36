"""ONNX Runtime on the CPU, and checks of what is installed."""

from __future__ import annotations

import re
from importlib import metadata
from typing import TYPE_CHECKING, Any

from esrgan_deploy.alpha import load_at_alpha
from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.backends.session import ThreadedSession
from esrgan_deploy.errors import BackendMissingError, MachineError, ModelError
from esrgan_deploy.frame_io import Frames, FrameType, attach_frame_io, frame_type_of
from esrgan_deploy.network_memory import largest_tile
from esrgan_deploy.system.cpu import default_threads

if TYPE_CHECKING:
    import onnx


class OrtSession(ThreadedSession):
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
        self._path = path = as_path(model)
        self._alpha: float | None = None
        graph, info = load_at_alpha(path, self._alpha)
        if info.precision == "bf16":
            raise ModelError(
                f"{path}: is bf16, which ONNX Runtime cannot compute; use -b openvino, or export it as fp32 or fp16"
            )
        # By default ONNX Runtime uses all cores, whatever the container's quota is.
        self._threads = threads or default_threads()
        super().__init__(info, "ort", precision="fp32" if info.precision == "fp16" else info.precision)
        self.largest_untiled = largest_tile(graph, "ort") or self.largest_untiled
        self._sessions: dict[FrameType, Any] = {"uint8": self._open(graph, "uint8")}

    def set_alpha(self, alpha: float) -> None:
        """See `Session.set_alpha`. The new model is loaded while the old one still works, and then replaces it."""
        if alpha == self.info.alpha:
            return
        graph, info = load_at_alpha(self._path, alpha)
        sessions = {frame_type: self._open(graph, frame_type) for frame_type in tuple(self._sessions)}
        with self._paused():
            self.info, self._alpha, self._sessions = info, alpha, sessions

    def _open(self, graph: onnx.ModelProto, frame_type: FrameType):  # type: ignore[no-untyped-def]  # noqa: ANN202  # onnxruntime has no types
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        data = attach_frame_io(graph, frame_type).SerializeToString()
        try:
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exception classes differ by version
            raise ModelError(f"{self._path}: ONNX Runtime cannot load it: {first_line(error)}") from error

    def _infer(self, frame: Frames) -> Frames:
        frame_type = frame_type_of(frame.dtype)
        if frame_type not in self._sessions:
            self._sessions[frame_type] = self._open(load_at_alpha(self._path, self._alpha)[0], frame_type)
        try:
            result: Frames = self._sessions[frame_type].run(None, {"frames_in": frame})[0]
        except Exception as error:
            raise MachineError(
                f"{self._path}: ONNX Runtime failed on a {frame.shape[2]}x{frame.shape[1]} frame: "
                f"{first_line(error)}; a smaller --tile needs less memory"
            ) from error
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
