"""ONNX Runtime on an NVIDIA GPU with CUDA graphs; it raises an error instead of falling back to the CPU.

A CUDA graph replays kernels with the addresses and shapes that it was recorded with. So there is one ONNX Runtime
session for each shape of batch, whose network has that shape as literals, and whose input and output buffers stay where
they are. Only the batch is copied to the GPU, and only the result back.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.backends import ort_engines, ort_libraries
from esrgan_deploy.backends.ort import check_installed, first_line
from esrgan_deploy.backends.session import ModelSession, run_failure
from esrgan_deploy.cuda.gpu import DeviceFacts, check_driver, find_gpu
from esrgan_deploy.errors import BackendMissingError, EsrganError, MachineError, ModelError
from esrgan_deploy.frame_io import Frames, FrameType, attach_frame_io, frame_type_of
from esrgan_deploy.model import load_onnx
from esrgan_deploy.system.paths import writable_cache

if TYPE_CHECKING:
    import onnx

Device = Literal["cuda", "cpu"]
PROVIDERS = {"ort-cuda": "CUDAExecutionProvider", "ort-tensorrt": "TensorrtExecutionProvider"}
KEPT_SHAPES = 4
"""How many ONNX Runtime sessions are kept in GPU memory; the one unused for the longest time is dropped."""
_CUDA_OPTIONS = {
    "use_tf32": "0",  # fp32 means fp32
    "cudnn_conv_algo_search": "HEURISTIC",  # timing would choose differently each time, and change last bits
}
_LOG = logging.getLogger(__name__)
_NO_GRAPHS = re.compile(r"cannot use the (graph capture|CUDA Graph) feature")


class SessionKey(NamedTuple):
    """The batch that an ONNX Runtime session is made for."""

    frames: int
    height: int
    width: int
    frame_type: FrameType


class OrtGpuSession(ModelSession):
    """Runs one ONNX Runtime session per shape and type of frames, created by `prepare` or for the first frames."""

    kept = KEPT_SHAPES

    def __init__(
        self, model: StrPath, backend: str = "ort-cuda", *, device: Device = "cuda", cache: StrPath | None = None
    ) -> None:
        """Load `model` for `backend`.

        Args:
            model: an ONNX file that `load_onnx` accepts.
            backend: "ort-cuda", or "ort-tensorrt": TensorRT, and CUDA for layers that TensorRT does not take.
            device: where the buffers are; "cpu" runs the same code on the CPU provider, for tests without a GPU.
            cache: folder where "ort-tensorrt" keeps its engines; None: the user's.

        Raises:
            BackendMissingError: onnxruntime-gpu is not installed, or onnxruntime is installed as well.
            ModelError: not a model that this backend runs.
            MachineError: no GPU or driver, or a library of CUDA, cuDNN or TensorRT is missing.
        """
        check_installed(backend if device == "cuda" else "ort")
        path = as_path(model)
        self._device, self._cache = device, None if cache is None else as_path(cache)
        graph, info = load_onnx(path)
        if info.precision == "bf16":
            raise ModelError(
                f"{path}: is bf16, which ONNX Runtime cannot compute; use -b tensorrt, or export it as fp32 or fp16"
            )
        self._provider = PROVIDERS[backend] if device == "cuda" else "CPUExecutionProvider"
        self._facts = check_machine(backend, self._provider) if device == "cuda" else None
        super().__init__(path, info, backend, _precision(backend, info.precision))
        self._takes_batches = not graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        self._announced: dict[tuple[int, int, FrameType], int] = {}
        self._try_out()

    def prepare(self, shape: tuple[int, int, int], frame_type: FrameType) -> None:
        """See `Session.prepare`. With "ort-tensorrt" an engine is built for a new shape, which takes minutes."""
        if self.info.fixed_size in (None, shape[1:]):  # else `submit` refuses
            height, width = (size + -size % self.info.multiple_of for size in shape[1:])
            self._announced[height, width, frame_type] = shape[0]
            self._loaded_for(self._key(shape[0], height, width, frame_type))

    def _frames_at_once(self, batch: Frames) -> int:
        """As many frames as were announced for this shape, if the model takes more than one."""
        if not self._takes_batches:
            return 1
        count, height, width = batch.shape[:3]
        return self._announced.setdefault((height, width, frame_type_of(batch.dtype)), count)

    def _kind(self, frames: Frames) -> SessionKey:
        height, width = frames.shape[1:3]
        return self._key(self._frames_at_once(frames), height, width, frame_type_of(frames.dtype))

    def _compute(self, loaded: _BoundSession, frames: Frames) -> Frames:
        try:
            return loaded.run(frames)
        except Exception as error:  # onnxruntime's exception classes differ by version
            raise run_failure(self._path, "ONNX Runtime", frames, first_line(error)) from error

    def _key(self, frames: int, height: int, width: int, frame_type: FrameType) -> SessionKey:
        return SessionKey(frames if self._takes_batches else 1, height, width, frame_type)

    def _try_out(self) -> None:
        """Load a network of one node, so that a provider that does not work fails now and not with the first frames."""
        from onnx import TensorProto, helper

        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "trial", ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        try:
            self._create(model.SerializeToString(), [(self._provider, {})])
        except EsrganError:
            raise
        except Exception as error:
            raise MachineError(
                f"{self.backend}: {self._provider} cannot be used here: {first_line(error)}; "
                "check the NVIDIA driver with nvidia-smi, or choose -b ort"
            ) from error

    def _load(self, graph: onnx.ModelProto, key: SessionKey) -> _BoundSession:
        """Create a session with its buffers for this shape, with CUDA graphs unless the network cannot be captured."""
        pairs = key.frame_type == "uint16" and self.backend == "ort-tensorrt"
        framed = at_shape(attach_frame_io(graph, key.frame_type, byte_pairs=pairs), key, self.info.scale)
        data = framed.SerializeToString()
        try:
            with self._options(data) as options:
                try:
                    session = self._create(data, options(graphs=True))
                except Exception as error:
                    if not _NO_GRAPHS.search(str(error)):
                        raise
                    session = self._create(data, options(graphs=False))
            return _BoundSession(session, framed, self._device)
        except EsrganError:
            raise
        except Exception as error:
            if "ailed to allocate" in str(error) or "out of memory" in str(error):
                raise MachineError(
                    f"{self._path}: no memory for {key.frames} frames of {key.width}x{key.height}: "
                    f"{first_line(error)}; use a smaller --tile or --batch"
                ) from error
            raise ModelError(
                f"{self._path}: {self._provider} cannot run it: {first_line(error)}; use -b ort, or export it again"
            ) from error

    def _create(self, data: bytes, providers: list[tuple[str, dict[str, str]]]) -> Any:  # noqa: ANN401
        """Create an InferenceSession on the provider of this backend.

        Raises:
            MachineError: it would run on another provider.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised as exceptions too
        if self._device == "cuda":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # Without enable_fallback=0 ONNX Runtime would leave out a provider that fails and try the others.
        session = onnxruntime.InferenceSession(data, options, providers=providers, enable_fallback=0)
        used = session.get_providers()[0]
        if used != self._provider:
            raise MachineError(
                f"{self.backend}: {self._provider} cannot be used here, ONNX Runtime fell back to {used}; "
                "check the NVIDIA driver with nvidia-smi, or choose -b ort"
            )
        return session

    @contextmanager
    def _options(self, data: bytes) -> Iterator[Any]:
        """Yields a function that returns the providers and their options, with or without CUDA graphs."""
        if self._device == "cpu":
            yield lambda graphs: [(self._provider, {})]
        elif self.backend == "ort-cuda":
            yield lambda graphs: [(self._provider, {**_CUDA_OPTIONS, "enable_cuda_graph": str(int(graphs))})]
        else:
            with self._engine_folder(data) as folder:
                yield lambda graphs: [
                    (self._provider, tensorrt_options(folder, graphs)),
                    ("CUDAExecutionProvider", _CUDA_OPTIONS),
                ]

    @contextmanager
    def _engine_folder(self, data: bytes) -> Iterator[Path]:
        """The folder for the engine of the graph `data`. Without an engine in it afterwards, TensorRT took no part."""
        import onnxruntime

        assert self._facts is not None
        machine = ort_engines.machine_key(self._facts, onnxruntime.__version__)
        root = self._cache or writable_cache("ort-tensorrt")
        folder = ort_engines.EngineFolder(root, machine, ort_engines.network_key(data))
        with folder.opened(lambda: _LOG.info("%s: another process builds the same engine", folder.path)) as path:
            yield path
            if not any(path.glob(ort_engines.ENGINE)):
                raise ModelError(f"{self._path}: TensorRT took no part of the network; use -b ort-cuda")


class _BoundSession:
    """A session with its input and output buffers, whose addresses never change."""

    def __init__(self, session: Any, framed: onnx.ModelProto, device: Device) -> None:  # noqa: ANN401
        """Allocate the buffers on `device` for the literal shapes of `framed`."""
        from onnx.helper import tensor_dtype_to_np_dtype
        from onnxruntime import OrtValue

        self._session = session
        ends = (framed.graph.input[0].type.tensor_type, framed.graph.output[0].type.tensor_type)
        shapes = [[dim.dim_value for dim in end.shape.dim] for end in ends]
        dtype = np.dtype(tensor_dtype_to_np_dtype(ends[0].elem_type))
        self._input, self._output = (OrtValue.ortvalue_from_shape_and_type(s, dtype, device, 0) for s in shapes)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input("frames_in", self._input)
        self._binding.bind_ortvalue_output("frames_out", self._output)
        self._staging = np.zeros(shapes[0], dtype)

    def run(self, frames: Frames) -> Frames:
        """Upscale frames, at most as many as the buffers hold."""
        given = frames.view(self._staging.dtype)
        if len(given) < len(self._staging):  # the rest of the buffer is computed too, and not used
            self._staging[: len(given)] = given
            given = self._staging
        self._input.update_inplace(given)
        self._session.run_with_iobinding(self._binding)
        result: Frames = self._output.numpy()
        if result.base is not None:  # a view of the buffer, on the CPU
            result = result.copy()
        return result[: len(frames)].view(frames.dtype)


def check_machine(backend: str, provider: str) -> DeviceFacts:
    """Make sure that `provider` can work on this machine, since ONNX Runtime would silently go on without it.

    Raises:
        BackendMissingError: this ONNX Runtime was built without it.
        MachineError: no GPU or driver, a driver that is too old, or missing libraries.
    """
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise BackendMissingError(
            f"-b {backend} needs an ONNX Runtime with {provider}: "
            "pip uninstall -y onnxruntime && pip install 'esrgan-deploy[gpu]'"
        )
    facts = find_gpu()
    check_driver(facts, ort_libraries.cuda_major(provider), "onnxruntime-gpu")
    ort_libraries.load_libraries()
    # CUDA too, since it runs the layers that TensorRT does not take.
    ort_libraries.check_libraries(*dict.fromkeys((provider, "CUDAExecutionProvider")))
    return facts


def at_shape(framed: onnx.ModelProto, key: SessionKey, scale: int) -> onnx.ModelProto:
    """Put the sizes of `key` as literals into a graph with frames attached, and return the graph."""
    graph = framed.graph
    sizes = ((graph.input[0], 1), (graph.output[0], scale))
    for value, factor in sizes:
        literal = (key.frames, key.height * factor, key.width * factor)
        for dim, size in zip(value.type.tensor_type.shape.dim, literal, strict=False):
            dim.dim_value = size
    del graph.value_info[:]  # they may still hold symbols, or N = 1
    return framed


def tensorrt_options(folder: Path, graphs: bool) -> dict[str, str]:
    """Options of the TensorRT provider.

    None of them sets a precision, so that the provider builds a strongly typed network with the model's own types.
    Without `graphs`, layers that TensorRT does not take may run on the CUDA provider.
    """
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_engine_cache_prefix": "esrgan",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_cuda_graph_enable": str(int(graphs)),
    }


def _precision(backend: str, precision: str) -> str:
    """The type really computed in: the TensorRT provider computes fp32 as TF32, and has no option against it."""
    return "tf32" if backend == "ort-tensorrt" and precision == "fp32" else precision
