"""A plan on the GPU: loaded if there is room for it, and its execution contexts."""

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
    """Bytes that batches take."""

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
        """Of one batch, in device memory."""
        return self.frames_in(shape) + self.frames_out(shape) + self.mean(shape)


class Engine:
    """A deserialised plan. The driver's context must be active for every call."""

    def __init__(self, trt: TensorRT, driver: Driver, file: EngineFile, *, contexts: int, batches: int) -> None:
        """Load `file`.

        Args:
            trt: TensorRT.
            driver: the GPU.
            file: what to load; its bytes are verified before TensorRT sees them.
            contexts: how many execution contexts there will be.
            batches: how many of the largest shape will lie in device memory with their results.

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
        """One more execution context, which runs one batch at a time; `stream` is used to set it up.

        Raises:
            MachineError: there is not enough memory for its activations, or this TensorRT allows one only.
        """
        self._check_room({"activations": activation_bytes(self.raw)})
        self._trt.take_errors()
        raw = self.raw.create_execution_context()
        if raw is None:
            raise MachineError(f"{self.file.path}: no execution context: {self._trt.take_reason()}; {LESS_MEMORY}")
        # TensorRT 8.5 lets one context only use a dynamic profile; where it does not, profile 0 is what a context has.
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
        """Give the engine back; its contexts must have been closed."""
        self.raw = None
        self._runtime = None

    def _check_tensors(self) -> None:
        """Refuse an engine with another interface than `frame_graph` makes."""
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
    """One execution context: what one batch needs while it is computed."""

    def __init__(self, engine: Engine, raw: Any, trt: TensorRT) -> None:  # noqa: ANN401  # TensorRT has no types
        self._engine = engine
        self._raw: Any = raw
        self._trt = trt
        self._shape: Shape | None = None

    def set_shape(self, shape: Shape) -> bool:
        """Say what comes next; whether that is a change.

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
        """Give one batch, at these addresses in device memory, to `stream`.

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
        """Give the context back; nothing may be in flight."""
        self._raw = None


def activation_bytes(engine: Any) -> int:  # noqa: ANN401
    """Device memory that one context of a TensorRT engine takes, by the name that this version has for it."""
    for name in ("device_memory_size_v2", "device_memory_size"):
        if hasattr(engine, name):
            return int(getattr(engine, name))
    return 0


def _mib(nbytes: int) -> int:
    return -(-nbytes // 2**20)
