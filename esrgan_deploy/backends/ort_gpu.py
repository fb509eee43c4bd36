"""ONNX Runtime on an NVIDIA GPU: frames in device memory at fixed addresses, CUDA graphs, and never the CPU instead.

A CUDA graph replays kernels with the addresses and shapes that it was recorded with. So there is a session for each
shape of batch: its network has that shape as literals, and its input and output stay where they are. A batch is copied
into the one and out of the other, and nothing else crosses the bus.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from esrgan_deploy.alpha import load_at_alpha
from esrgan_deploy.backends import ort_engines, ort_libraries
from esrgan_deploy.backends.ort import check_installed, first_line
from esrgan_deploy.backends.session import ThreadedSession
from esrgan_deploy.cuda.gpu import DeviceFacts, check_driver, find_gpu
from esrgan_deploy.errors import BackendMissingError, EsrganError, MachineError, ModelError
from esrgan_deploy.frame_io import Frames, FrameType, attach_frame_io, frame_type_of
from esrgan_deploy.system.paths import writable_cache

if TYPE_CHECKING:
    import onnx

Device = Literal["cuda", "cpu"]
PROVIDERS = {"ort-cuda": "CUDAExecutionProvider", "ort-tensorrt": "TensorrtExecutionProvider"}
KEPT_SHAPES = 4
"""Sessions that are kept, each with weights and buffers in device memory; the one unused for longest goes."""
_CUDA_OPTIONS = {
    "use_tf32": "0",  # a model that says fp32 means it
    "cudnn_conv_algo_search": "HEURISTIC",  # a search by stopwatch ends differently each time, and so do the last bits
}
_LOG = logging.getLogger(__name__)
_NO_GRAPHS = re.compile(r"cannot use the (graph capture|CUDA Graph) feature")


class Key(NamedTuple):
    """What a session is made for: a batch of frames."""

    frames: int
    height: int
    width: int
    frame_type: FrameType


class OrtGpuSession(ThreadedSession):
    """One ONNX Runtime session per shape and type of frames, made when they are announced or arrive."""

    def __init__(
        self, model: Path, backend: str = "ort-cuda", *, device: Device = "cuda", cache: Path | None = None
    ) -> None:
        """Load `model` for `backend`.

        Args:
            model: an ONNX file that `load_onnx` accepts.
            backend: "ort-cuda", or "ort-tensorrt": TensorRT, and CUDA for what TensorRT does not take.
            device: where the buffers are; "cpu" runs the same path on the CPU provider, without a GPU.
            cache: folder where "ort-tensorrt" keeps its engines; None: the user's.

        Raises:
            BackendMissingError: onnxruntime-gpu is not installed, or onnxruntime is installed as well.
            ModelError: not a model that this backend runs.
            MachineError: no GPU or driver, or a library of CUDA, cuDNN or TensorRT is missing.
        """
        check_installed(backend if device == "cuda" else "ort")
        self._path, self._device, self._cache = model, device, cache
        self._alpha: float | None = None
        self._graph, info = load_at_alpha(model, self._alpha)
        if info.precision == "bf16":
            raise ModelError(
                f"{model}: is bf16, which ONNX Runtime cannot compute; use -b tensorrt, or export it as fp32 or fp16"
            )
        self._provider = PROVIDERS[backend] if device == "cuda" else "CPUExecutionProvider"
        self._facts = check_machine(backend, self._provider) if device == "cuda" else None
        super().__init__(info, backend, _precision(backend, info.precision))
        self._takes_batches = not self._graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        self._announced: dict[tuple[int, int, FrameType], int] = {}
        self._opening = Lock()
        self._bound: OrderedDict[Key, _Bound] = OrderedDict()
        self._try_out()

    def prepare(self, shape: tuple[int, int, int], frame_type: FrameType) -> None:
        """See `Session.prepare`. With "ort-tensorrt" an engine is built for the shape, which takes minutes, once."""
        if self.info.fixed_size in (None, shape[1:]):  # else `submit` refuses
            height, width = (size + -size % self.info.multiple_of for size in shape[1:])
            self._announced[height, width, frame_type] = shape[0]
            self._bound_for(self._key(shape[0], height, width, frame_type))

    def set_alpha(self, alpha: float) -> None:
        """See `Session.set_alpha`. Every session is made anew, while the old ones still compute; then they change."""
        if alpha == self.info.alpha:
            return
        graph, info = load_at_alpha(self._path, alpha)
        bound = OrderedDict((key, self._open(graph, key)) for key in tuple(self._bound))
        with self._paused():
            self.info, self._alpha, self._graph, self._bound = info, alpha, graph, bound

    def close(self) -> None:
        """See `Session.close`."""
        super().close()
        self._bound.clear()

    def _together(self, batch: Frames) -> int:
        """As many frames as were announced for this shape, where the model takes more than one."""
        if not self._takes_batches:
            return 1
        count, height, width = batch.shape[:3]
        return self._announced.setdefault((height, width, frame_type_of(batch.dtype)), count)

    def _infer(self, frames: Frames) -> Frames:
        count, height, width = frames.shape[:3]
        bound = self._bound_for(self._key(self._together(frames), height, width, frame_type_of(frames.dtype)))
        try:
            return bound.run(frames)
        except Exception as error:  # onnxruntime's exception classes differ by version
            raise MachineError(
                f"{self._path}: ONNX Runtime failed on {count} frames of {width}x{height}: {first_line(error)}; "
                "a smaller --tile or --batch needs less memory"
            ) from error

    def _key(self, frames: int, height: int, width: int, frame_type: FrameType) -> Key:
        return Key(frames if self._takes_batches else 1, height, width, frame_type)

    def _bound_for(self, key: Key) -> _Bound:
        """The session for `key`, made if it is not there."""
        with self._opening:
            if key not in self._bound:
                while len(self._bound) >= KEPT_SHAPES:  # first, so that its memory is free
                    self._bound.popitem(last=False)
                self._bound[key] = self._open(self._graph, key)
            self._bound.move_to_end(key)
            return self._bound[key]

    def _try_out(self) -> None:
        """Run a network of one node: a provider that does not work says so now, and not with the first frames."""
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

    def _open(self, graph: onnx.ModelProto, key: Key) -> _Bound:
        """A session of this shape with its buffers; with CUDA graphs, unless the network cannot be captured."""
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
            return _Bound(session, framed, self._device)
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
        """An InferenceSession that computes where it should.

        Raises:
            MachineError: it would compute elsewhere.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised as well
        if self._device == "cuda":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # Without enable_fallback=0 a provider that fails is left out, and the rest is tried again.
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
        """A function that gives the providers and their options, with or without CUDA graphs."""
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
        """The folder for the engine of `data`; that there is one in it afterwards shows that TensorRT took part."""
        import onnxruntime

        assert self._facts is not None
        machine = ort_engines.machine_key(self._facts, onnxruntime.__version__)
        root = self._cache or writable_cache("ort-tensorrt")
        folder = ort_engines.EngineFolder(root, machine, ort_engines.network_key(data))
        with folder.opened(lambda: _LOG.info("%s: another process builds the same engine", folder.path)) as path:
            yield path
            if not any(path.glob(ort_engines.ENGINE)):
                raise ModelError(f"{self._path}: TensorRT took no part of the network; use -b ort-cuda")


class _Bound:
    """A session, its input and its output at addresses that never change."""

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
        """Upscale at most as many frames as there is room for."""
        given = frames.view(self._staging.dtype)
        if len(given) < len(self._staging):  # what else is in there is computed in vain
            self._staging[: len(given)] = given
            given = self._staging
        self._input.update_inplace(given)
        self._session.run_with_iobinding(self._binding)
        result: Frames = self._output.numpy()
        if result.base is not None:  # a view of the buffer, on the CPU
            result = result.copy()
        return result[: len(frames)].view(frames.dtype)


def check_machine(backend: str, provider: str) -> DeviceFacts:
    """Find out whether `provider` can work here at all, before ONNX Runtime would quietly go on without it.

    Raises:
        BackendMissingError: this ONNX Runtime was made without it.
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
    ort_libraries.check_libraries(*dict.fromkeys((provider, "CUDAExecutionProvider")))  # takes what TensorRT leaves
    return facts


def at_shape(framed: onnx.ModelProto, key: Key, scale: int) -> onnx.ModelProto:
    """Put the sizes of `key` as literals into a graph with frames attached, in place."""
    graph = framed.graph
    sizes = ((graph.input[0], 1), (graph.output[0], scale))
    for value, factor in sizes:
        literal = (key.frames, key.height * factor, key.width * factor)
        for dim, size in zip(value.type.tensor_type.shape.dim, literal, strict=False):
            dim.dim_value = size
    del graph.value_info[:]  # they may hold symbols, or the N = 1 that was there before
    return framed


def tensorrt_options(folder: Path, graphs: bool) -> dict[str, str]:
    """Options of the TensorRT provider.

    None of them sets a precision: without one the provider builds a strongly typed network, whose types are the
    model's own. Without `graphs` parts that TensorRT does not take may run on the CUDA provider.
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
    """What is really computed in: the TensorRT provider always lets fp32 become TF32, and has no switch for it."""
    return "tf32" if backend == "ort-tensorrt" and precision == "fp32" else precision
