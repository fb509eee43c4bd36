"""A plan loaded on the GPU, and its execution contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esrgan_deploy.cuda.driver import Driver
from esrgan_deploy.engine.build.graph import CHANNELS, INPUT, MEAN, OUTPUT
from esrgan_deploy.engine.options import Shape
from esrgan_deploy.errors import MachineError, ModelError

if TYPE_CHECKING:
    from esrgan_deploy.engine.adapter import TensorRT
    from esrgan_deploy.engine.store.sidecar import EngineFile

LESS_MEMORY = "choose a smaller --tile or --batch, or fewer streams"


@dataclass(frozen=True)
class Sizes:
    """How many bytes the tensors of a batch take."""

    scale: int
    sample: int
    """Bytes of a sample: 1 or 2."""

    def frames_in(self, shape: Shape) -> int:
        """Of the frames that go in."""
        return shape.batch * shape.height * shape.width * 3 * self.sample

    def frames_out(self, shape: Shape) -> int:
        """Of the frames that come out."""
        return self.frames_in(shape) * self.scale**2

    def mean(self, shape: Shape) -> int:
        """Of the means, one float32 for each frame."""
        return shape.batch * np.dtype(np.float32).itemsize

    def all(self, shape: Shape) -> int:
        """Of all tensors of a batch, in GPU memory."""
        return self.frames_in(shape) + self.frames_out(shape) + self.mean(shape)


class Engine:
    """A deserialised plan. The driver's context must be active for every call."""

    def __init__(self, trt: TensorRT, driver: Driver, file: EngineFile, *, contexts: int, batches: int) -> None:
        """Load `file`.

        Args:
            trt: TensorRT.
            driver: the GPU.
            file: what to load; its bytes are verified before TensorRT sees them.
            contexts: how many execution contexts will be created.
            batches: how many batches of the largest shape, with their results, will be in GPU memory.

        Raises:
            ModelError: the file is damaged, or TensorRT refuses it.
            MachineError: there is not enough device memory.
        """
        options, info = file.sidecar.options, file.sidecar.info
        self.file = file
        self.profile = options.profile
        self.frames = options.frames
        self.sizes = Sizes(info.scale, np.dtype(options.frames).itemsize)
        self._trt = trt
        self._driver = driver
        plan = file.read()
        buffers = batches * self.sizes.all(self.profile.max)
        self._check_room({"the weights": len(plan), "frames": buffers})
        self._runtime = trt.create_runtime()
        trt.take_errors()
        self.raw: Any = self._runtime.deserialize_cuda_engine(plan)
        if self.raw is None:
            raise self._refusal("cannot be loaded")
        self._check_tensors()
        self._check_room({f"{contexts} x activations": contexts * activation_bytes(self.raw), "frames": buffers})

    def create_context(self, stream: int) -> Context:
        """Create an execution context, which runs one batch at a time; `stream` is used to set it up.

        Raises:
            MachineError: there is not enough memory for its activations, or this TensorRT allows only one context.
        """
        self._check_room({"activations": activation_bytes(self.raw)})
        self._trt.take_errors()
        raw = self.raw.create_execution_context()
        if raw is None:
            raise MachineError(f"{self.file.path}: no execution context: {self._trt.take_reason()}; {LESS_MEMORY}")
        # A context begins with profile 0, except that TensorRT 8.5 lets only one context use a dynamic profile.
        if raw.active_optimization_profile != 0:
            try:
                raw.set_optimization_profile_async(0, stream)
            except RuntimeError as error:  # the bindings raise it where C++ returns false
                raise MachineError(
                    f"{self.file.path}: {self._trt} runs an engine of several shapes in one context only: "
                    "use one stream, or build it for one shape"
                ) from error
            self._driver.synchronize_stream(stream)
        return Context(self, raw, self._trt)

    def close(self) -> None:
        """Free the engine; its contexts must have been closed."""
        self.raw = None
        self._runtime = None

    def _check_tensors(self) -> None:
        """Make sure that the engine has the inputs and outputs that `frame_graph` makes."""
        names = {self.raw.get_tensor_name(index) for index in range(self.raw.num_io_tensors)}
        if names != {INPUT, OUTPUT, MEAN}:
            raise ModelError(
                f"{self.file.path}: has the tensors {', '.join(sorted(names))} and not {INPUT}, {MEAN}, {OUTPUT}; "
                "build it again with esrgan-engine"
            )

    def _check_room(self, needs: dict[str, int]) -> None:
        free, total = self._driver.memory()
        wanted = sum(needs.values())
        if wanted > free:
            parts = ", ".join(f"{_mib(nbytes)} for {what}" for what, nbytes in needs.items())
            raise MachineError(
                f"{self.file.path}: needs {_mib(wanted)} MiB of device memory ({parts}), and {_mib(free)} of "
                f"{_mib(total)} MiB are free; {LESS_MEMORY}"
            )

    def _refusal(self, what: str) -> ModelError | MachineError:
        reason = self._trt.take_reason()
        if "memory" in reason.lower():
            return MachineError(f"{self.file.path}: {what}: {reason}; {LESS_MEMORY}")
        return ModelError(f"{self.file.path}: {what} by {self._trt}: {reason}; build it again with esrgan-engine")


class Context:
    """An execution context: the memory and state that one batch needs while it is computed."""

    def __init__(self, engine: Engine, raw: Any, trt: TensorRT) -> None:  # noqa: ANN401  # TensorRT has no types
        self._engine = engine
        self._raw: Any = raw
        self._trt = trt
        self._shape: Shape | None = None

    def set_shape(self, shape: Shape) -> bool:
        """Set the shape of the next batch, and return whether it differs from the last.

        Raises:
            ModelError: the engine's output is not `scale` times as large: it is not what its sidecar says.
            MachineError: TensorRT refuses the shape.
        """
        if shape == self._shape:
            return False
        path, channels = self._engine.file.path, CHANNELS[self._engine.frames]
        self._shape = None
        self._trt.take_errors()
        if not self._raw.set_input_shape(INPUT, (shape.batch, shape.height, shape.width, channels)):
            raise MachineError(f"{path}: cannot run {shape}: {self._trt.take_reason()}")
        scale = self._engine.sizes.scale
        expected = (shape.batch, shape.height * scale, shape.width * scale, channels)
        given = tuple(self._raw.get_tensor_shape(OUTPUT))
        if given != expected:
            raise ModelError(f"{path}: makes {given} of {shape}, not {expected}; build it again with esrgan-engine")
        self._shape = shape
        return True

    def enqueue(self, frames_in: int, frames_out: int, mean: int, stream: int) -> None:
        """Start the batch at these addresses in GPU memory in `stream`.

        Raises:
            MachineError: TensorRT cannot; the message has its reason.
        """
        self._trt.take_errors()
        addresses = {INPUT: frames_in, OUTPUT: frames_out, MEAN: mean}
        done = all(self._raw.set_tensor_address(name, address) for name, address in addresses.items())
        if not done or not self._raw.execute_async_v3(stream):
            raise MachineError(
                f"{self._engine.file.path}: {self._trt} failed on a batch of {self._shape}: "
                f"{self._trt.take_reason()}; {LESS_MEMORY}"
            )

    def close(self) -> None:
        """Free the context; no batch may be at work."""
        self._raw = None


def activation_bytes(engine: Any) -> int:  # noqa: ANN401
    """GPU memory that one context of a TensorRT engine takes; its name differs between versions of TensorRT."""
    for name in ("device_memory_size_v2", "device_memory_size"):
        if hasattr(engine, name):
            return int(getattr(engine, name))
    return 0


def _mib(nbytes: int) -> int:
    return -(-nbytes // 2**20)
