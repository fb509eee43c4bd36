"""OpenVINO, the fastest backend on most CPUs, in bf16 where the CPU has instructions for it."""

from __future__ import annotations

import functools
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.backends.first_use import openvino_core
from esrgan_deploy.backends.names import CpuPrecision
from esrgan_deploy.backends.ov_graph import unsigned_activations, widen_last_convolution
from esrgan_deploy.backends.session import ModelSession, run_failure
from esrgan_deploy.errors import BackendMissingError, ModelError, OptionError
from esrgan_deploy.frame_io import Frames, FrameType, attach_frame_io, frame_type_of
from esrgan_deploy.model import load_onnx
from esrgan_deploy.network_memory import largest_tile
from esrgan_deploy.system.cpu import default_threads, features

if TYPE_CHECKING:
    import onnx


class OpenVinoSession(ModelSession):
    """Runs one compiled model per frame type, which takes frames of any size."""

    any_shape = True

    def __init__(
        self,
        model: StrPath,
        *,
        precision: CpuPrecision = "auto",
        threads: int | None = None,
        streams: int = 1,
        cache: StrPath | None = None,
    ) -> None:
        """Compile `model` for the CPU.

        Args:
            model: an ONNX file that `load_onnx` accepts.
            precision: what the CPU computes in. "auto": bf16 where the CPU has bf16 instructions (elsewhere it would
                be emulated, several times slower than fp32). 16-bit frames are always computed in fp32, since bf16 has
                only eight significant bits. In an INT8 model this is for the layers that are not INT8. "int8": the
                model must be INT8.
            threads: None: one for each core that may be used.
            streams: frames that are computed at the same time, each by its share of the threads. Fewer threads on a
                frame wait less for each other: more frames per second, but each frame takes longer and needs memory.
            cache: folder for compiled models, which load faster; None: compile each time.

        Raises:
            BackendMissingError: openvino is not installed.
            ModelError: not a model that this backend runs.
            OptionError: bf16 asked of a CPU without it, or int8 of another model.
        """
        try:
            self._core = openvino_core()
        except ImportError as error:
            raise BackendMissingError("-b openvino needs OpenVINO: pip install 'esrgan-deploy[cpu]'") from error
        path = as_path(model)
        graph, info = load_onnx(path)
        has_bf16 = cpu_has_bf16()
        if precision == "bf16" and not has_bf16:
            raise OptionError("--precision bf16: this CPU has no bf16 instructions; use --precision fp32")
        if precision == "int8" and info.precision != "int8":
            raise OptionError(f"{path}: is {info.precision}; for int8 name its INT8 artefact, or use open_session")
        self._floats = ("bf16" if has_bf16 else "fp32") if precision in ("auto", "int8") else precision
        super().__init__(path, info, "openvino", "int8" if info.precision == "int8" else self._floats, streams)
        self._config = _settings(threads, streams, None if cache is None else as_path(cache))
        self.largest_untiled = largest_tile(graph, "openvino", streams) or self.largest_untiled
        self._loaded["uint8"] = self._load(graph, "uint8")

    def _load(self, graph: onnx.ModelProto, frame_type: FrameType) -> SimpleQueue[Any]:
        """Compile the model, and create an infer request for each stream; each request is put back after its use."""
        hint = "bf16" if self._floats == "bf16" and frame_type == "uint8" else "f32"
        data = attach_frame_io(_fastest_form(graph, self.info.scale), frame_type).SerializeToString()
        try:
            network = self._core.read_model(data)
            config = {**self._config, "INFERENCE_PRECISION_HINT": hint}
            compiled = self._core.compile_model(network, "CPU", config)
            requests: SimpleQueue[Any] = SimpleQueue()
            for _ in range(self._streams):
                requests.put(compiled.create_infer_request())
        except Exception as error:  # openvino raises RuntimeError with a C++ location in front
            raise ModelError(f"{self._path}: OpenVINO cannot load it: {_last_line(error)}") from error
        return requests

    def _kind(self, frames: Frames) -> FrameType:
        return frame_type_of(frames.dtype)

    def _compute(self, loaded: SimpleQueue[Any], frames: Frames) -> Frames:
        request = loaded.get()
        try:
            request.infer({"frames_in": frames}, share_inputs=True)
            # The output tensor belongs to the request and is overwritten by the next frame.
            result: Frames = request.get_output_tensor().data.copy()
        except Exception as error:
            raise run_failure(self._path, "OpenVINO", frames, _last_line(error)) from error
        finally:
            loaded.put(request)
        return result


def _fastest_form(graph: onnx.ModelProto, scale: int) -> onnx.ModelProto:
    """The same network in the form that this CPU computes fastest; see benchmarks/studies/openvino_forms.py."""
    here = features()
    if "avx512f" in here:  # vectors of sixteen values
        graph = widen_last_convolution(graph, scale)
    if "avx512_vnni" in here and "amx_int8" not in here:  # AMX multiplies signed bytes as they are
        graph = unsigned_activations(graph)
    return graph


def _settings(threads: int | None, streams: int, cache: Path | None) -> dict[str, Any]:
    """Properties of the compiled model."""
    # Threads pinned to a core wait while a decoder or encoder uses it, which slows clips down; and two processes with
    # one thread each would share the first core.
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    # By default OpenVINO respects affinity, but not a container's quota.
    usual = default_threads()
    settings["INFERENCE_NUM_THREADS"] = threads or usual
    if threads and threads > usual:
        settings["ENABLE_HYPER_THREADING"] = True  # otherwise OpenVINO uses one thread for each core at most
    if streams > 1:
        settings["NUM_STREAMS"] = streams
    if cache:
        settings["CACHE_DIR"] = str(cache)
    return settings


def _last_line(error: Exception) -> str:
    return str(error).strip().rsplit("\n", 1)[-1]


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether OpenVINO computes bf16 natively on this CPU; False if OpenVINO is not installed."""
    try:
        core = openvino_core()
    except ImportError:
        return False
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
