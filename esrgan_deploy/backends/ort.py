"""ONNX Runtime, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.backends.session import Frames, ThreadedSession
from esrgan_deploy.errors import BackendMissingError, MachineError, ModelError
from esrgan_deploy.frame_io import FrameType, attach_frame_io
from esrgan_deploy.model import load_onnx

if TYPE_CHECKING:
    import onnx

PROVIDERS = {"ort": "CPUExecutionProvider", "ort-cuda": "CUDAExecutionProvider"}


class OrtSession(ThreadedSession):
    """One ONNX Runtime session per frame type, made when the first frame of that type arrives."""

    def __init__(
        self, model: Path, backend: str = "ort", *, threads: int | None = None, allow_cpu_fallback: bool = False
    ) -> None:
        """Load `model` for `backend`, "ort" (CPU) or "ort-cuda".

        Args:
            model: an ONNX file that `load_onnx` accepts.
            backend: a key of `PROVIDERS`.
            threads: threads inside an operator; None: ONNX Runtime's choice.
            allow_cpu_fallback: accept a CPU session where the GPU cannot be used, instead of `MachineError`.

        Raises:
            BackendMissingError: onnxruntime is not installed, or onnxruntime and onnxruntime-gpu both are.
            ModelError: not a model that this backend runs.
            MachineError: the GPU cannot be used.
        """
        check_installed(backend)
        import onnxruntime

        self._provider = PROVIDERS[backend]
        if self._provider not in onnxruntime.get_available_providers() and not allow_cpu_fallback:
            raise BackendMissingError(
                f"-b {backend} needs an ONNX Runtime with {self._provider}: "
                "pip uninstall -y onnxruntime && pip install 'esrgan-deploy[gpu]'"
            )
        self._path = model
        graph, info = load_onnx(model)
        if info.precision == "bf16":
            raise ModelError(
                f"{model}: is bf16, which ONNX Runtime cannot compute; use -b openvino, or export it as fp32 or fp16"
            )
        self._threads = threads
        self._allow_cpu_fallback = allow_cpu_fallback
        on_cpu = backend == "ort"
        super().__init__(info, backend, precision="fp32" if on_cpu and info.precision == "fp16" else info.precision)
        self._sessions = {"uint8": self._open(graph, "uint8")}

    def _open(self, graph: onnx.ModelProto, frame_type: FrameType):  # type: ignore[no-untyped-def]  # noqa: ANN202  # onnxruntime has no types
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self._threads:
            options.intra_op_num_threads = self._threads
        data = attach_frame_io(graph, frame_type).SerializeToString()
        try:
            session = onnxruntime.InferenceSession(data, options, providers=[self._provider])
        except Exception as error:  # onnxruntime's exception classes differ by version
            raise ModelError(f"{self._path}: ONNX Runtime cannot load it: {_first_line(error)}") from error
        used = session.get_providers()[0]
        if used != self._provider and not self._allow_cpu_fallback:
            raise MachineError(
                f"{self.backend}: {self._provider} cannot be used here, ONNX Runtime fell back to {used}; "
                "check the NVIDIA driver and CUDA libraries, or choose -b ort"
            )
        return session

    def _infer(self, frame: Frames) -> Frames:
        frame_type: FrameType = "uint8" if frame.dtype.name == "uint8" else "uint16"
        if frame_type not in self._sessions:
            self._sessions[frame_type] = self._open(load_onnx(self._path)[0], frame_type)
        try:
            result: Frames = self._sessions[frame_type].run(None, {"frames_in": frame})[0]
        except Exception as error:
            raise MachineError(
                f"{self._path}: ONNX Runtime failed on a {frame.shape[2]}x{frame.shape[1]} frame: "
                f"{_first_line(error)}; a smaller --tile needs less memory"
            ) from error
        return result


def check_installed(backend: str) -> None:
    """Refuse a missing onnxruntime, and two of them.

    onnxruntime and onnxruntime-gpu own the same module: whichever was installed last wins, and often the result is a
    CPU-only one without any message (microsoft/onnxruntime#26996).

    Raises:
        BackendMissingError: the message names the extra to install or the package to remove.
    """
    extra = "gpu" if backend == "ort-cuda" else "cpu"
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if installed(name)]
    if len(found) == 2:
        raise BackendMissingError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'esrgan-deploy[{extra}]'"
        )
    if not found:
        raise BackendMissingError(f"-b {backend} needs ONNX Runtime: pip install 'esrgan-deploy[{extra}]'")


def installed(distribution: str) -> bool:
    """Tell whether a distribution of this name is installed, whatever module it provides."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
