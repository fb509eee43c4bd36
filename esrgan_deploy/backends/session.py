"""The interface of all backends: a network loaded on one device, integer RGB frames in and out."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Event, Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from esrgan_deploy.alpha import check_alpha
from esrgan_deploy.arguments import check_batch, check_result
from esrgan_deploy.endpoints import load_at_alpha
from esrgan_deploy.errors import ClosedError, EsrganError, MachineError, ModelError, OptionError
from esrgan_deploy.frame_io import Frames, FrameType, show_nan
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.watchdog import moved

if TYPE_CHECKING:
    import onnx
    from typing_extensions import Self

_Result = TypeVar("_Result")
_MEMORY = re.compile("alloc|memory", re.IGNORECASE)
"""What backends say when memory ran out."""


class Session(ABC):
    """A network loaded on one device.

    A session converts integer pixels to what the network takes and back (layout, normalisation, clamp, rounding), on
    the device where possible. A session is a context manager; using a closed one raises ClosedError, and so does using
    one in a child of `os.fork`, which has none of the threads that compute.
    """

    _process: int
    """The process that opened it."""

    info: ModelInfo
    backend: str
    """Name for `open_session`, for instance "openvino"."""
    precision: str
    """The type that the device computes in, which may be wider than the file's."""
    largest_untiled: int = 512 * 512
    """With automatic tiling, a frame with more input pixels is tiled, and with `any_shape` no tile has more. CPU
    sessions set it by the memory of the machine, see `network_memory.largest_tile`. The default is 3 GB for RRDBNet x4
    in fp32."""
    any_shape: bool = False
    """Whether a new height and width costs next to nothing, so that tiles may have the best shape for a frame."""

    def __new__(cls, *_arguments: object, **_options: object) -> Self:
        """Remember the process, for subclasses of others too."""
        session = super().__new__(cls)
        session._process = os.getpid()
        return session

    @property
    def forked(self) -> bool:
        """Whether this is a copy in a child of the process that opened the session."""
        return self._process != os.getpid()

    def check_process(self) -> None:
        """Refuse to wait for threads that there are not.

        Raises:
            ClosedError: this is a copy in a child process.
        """
        if self.forked:
            raise ClosedError(
                "this session was opened before this process was forked, and its threads stayed in the parent; open a "
                "session in the child, or start children by multiprocessing.get_context('spawn')"
            )

    @property
    def model_sha256(self) -> str | None:
        """SHA-256 of the model's file; None for a session without one."""
        return self.info.file_sha256

    @abstractmethod
    def submit(self, batch: Frames) -> Future[Frames]:
        """Start upscaling `batch` and return at once.

        Args:
            batch: numpy array of uint8 or uint16, (N, H, W, 3), RGB; H and W of any size. Do not change it before the
                result is there.

        Returns:
            The future of a new array (N, H * scale, W * scale, 3) of the same type. A frame's result does not depend
            on the frames beside it.

        Raises:
            OptionError: another type or shape, or a size that the model cannot take.
            ClosedError: the session is closed.
        """

    def run(self, batch: Frames) -> Frames:
        """Upscale `batch` and wait for it; see `submit`."""
        return self.submit(batch).result()

    def prepare(self, shape: tuple[int, int, int], frame_type: FrameType) -> None:  # noqa: B027  # a default
        """Announce the largest batch, so that everything that depends on shapes is set up once. Calling it is optional.

        Args:
            shape: (N, H, W) with the largest N that will be submitted.
            frame_type: "uint8" or "uint16".
        """

    def set_alpha(self, alpha: float) -> None:
        """Change alpha, the GAN's share of the weights, for all batches that are submitted from now on.

        theta = (1 - alpha) * PSNR + alpha * GAN, Wang et al. 2018 (ESRGAN), section 3.4.

        Raises:
            OptionError: alpha is not in [0, 1], or the file with the weights of both endpoints is missing.
            ClosedError: the session is closed.
        """
        raise OptionError(f"the {self.backend} session cannot set alpha {alpha:g}; export the model with that alpha")

    @abstractmethod
    def close(self) -> None:
        """Wait for the submitted batches and free what the session holds; closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ThreadedSession(Session):
    """A Session for backends that compute in the calling thread; worker threads let `submit` return at once."""

    def __init__(self, info: ModelInfo, backend: str, precision: str, streams: int = 1) -> None:
        """`streams`: how many threads call `_infer`, and so how many batches are computed at the same time."""
        self.info = info
        self.backend = backend
        self.precision = precision
        self._streams = streams
        self._pausing = Lock()
        self._workers = ThreadPoolExecutor(max_workers=streams, thread_name_prefix=f"esrgan-{backend}")

    def submit(self, batch: Frames) -> Future[Frames]:
        """See `Session.submit`."""
        self.check_process()
        check_batch(batch)
        fixed = self.info.fixed_size
        if fixed is not None and fixed != batch.shape[1:3]:
            raise OptionError(
                f"the model takes frames of {fixed[1]}x{fixed[0]} only, "
                f"this one has {batch.shape[2]}x{batch.shape[1]}; export it again without --shape"
            )
        return self._start(lambda: self._run_padded(batch))

    def close(self) -> None:
        """See `Session.close`. In a forked child there is nothing to wait for."""
        self._workers.shutdown(wait=not self.forked)

    def _start(self, work: Callable[[], _Result]) -> Future[_Result]:
        """Let a worker call `work`."""
        self.check_process()
        try:
            return self._workers.submit(work)
        except RuntimeError as error:  # all that the executor raises after its shutdown
            raise ClosedError(f"the {self.backend} session is closed; open another one with open_session") from error

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Wait for everything submitted so far. Batches submitted during the block start after it."""
        with self._pausing:  # two pauses at once would each hold some workers and wait for the rest
            parked, resume = Barrier(self._streams + 1), Event()

            def park() -> None:
                parked.wait()
                resume.wait()

            for _ in range(self._streams):
                self._start(park)
            try:
                parked.wait()
                yield
            finally:
                resume.set()
                parked.abort()  # if Ctrl-C ended the wait, this frees the workers

    @abstractmethod
    def _infer(self, frame: Frames) -> Frames:
        """Upscale (n, H, W, 3), n at most `_frames_at_once`, H and W multiples of `info.multiple_of`, contiguous."""

    def _frames_at_once(self, batch: Frames) -> int:
        """How many frames of a batch go to `_infer` at once. On a CPU more than one would gain nothing."""
        return 1

    def _run_padded(self, batch: Frames) -> Frames:
        """Run in pieces of the same size for all batches of this shape, so that results do not depend on the batch."""
        height, width = batch.shape[1:3]
        extra = [-size % self.info.multiple_of for size in (height, width)]
        if any(extra):
            batch = np.pad(batch, ((0, 0), (0, extra[0]), (0, extra[1]), (0, 0)), mode="edge")
        step = self._frames_at_once(batch)
        results = []
        for at in range(0, len(batch), step):
            frames = np.ascontiguousarray(batch[at : at + step])
            results.append(self._infer(frames))
            self._check(frames, results[-1])
            moved()
        joined = results[0] if len(results) == 1 else np.concatenate(results)
        return joined[:, : height * self.info.scale, : width * self.info.scale]

    def _check(self, frames: Frames, result: Frames) -> None:
        """Make sure that `_infer` made pictures of the size that was promised.

        Raises:
            ModelError: it did not.
        """
        check_result(frames, result, self.info.scale, f"the {self.backend} session")


def run_failure(source: object, backend: str, frames: Frames, reason: str) -> EsrganError:
    """The error for a backend that failed on frames: of the machine if memory ran out, else of the model."""
    failed = f"{source}: {backend} failed on a {frames.shape[2]}x{frames.shape[1]} frame: {reason}"
    if _MEMORY.search(reason):
        return MachineError(f"{failed}; a smaller --tile needs less memory")
    return ModelError(f"{failed}; the network does not take frames of this size, or is damaged: export it again")


class ModelSession(ThreadedSession):
    """A ThreadedSession of an ONNX file, which loads the network for each kind of batch and for each alpha."""

    kept: int = 2
    """How many kinds of batches stay loaded; the one unused for the longest time is dropped. 2: both frame types."""

    def __init__(self, path: Path, info: ModelInfo, backend: str, precision: str, streams: int = 1) -> None:
        """`path`: the ONNX file, which `info` describes."""
        super().__init__(info, backend, precision, streams)
        self._path = path
        self._alpha: float | None = None
        self._loading = Lock()
        self._finite = 0
        self._loaded: dict[Any, Any] = {}
        """What `_load` made, by kind of batch, the one used last at the end."""

    def set_alpha(self, alpha: float) -> None:
        """See `Session.set_alpha`. New networks are loaded while the old ones still work, and then replace them."""
        self._start(lambda: None)  # raises if the session is closed
        check_alpha(alpha)
        if alpha == self.info.alpha:
            return
        graph, info = load_at_alpha(self._path, alpha)
        with self._loading:
            kinds = tuple(self._loaded)
        loaded = {kind: self._load(graph, kind) for kind in kinds}
        with self._paused():
            self.info, self._alpha, self._loaded = info, alpha, loaded

    def close(self) -> None:
        """See `Session.close`."""
        super().close()
        if not self.forked:  # else a backend would wait for its own threads
            self._loaded.clear()

    def _loaded_for(self, kind: Any) -> Any:  # noqa: ANN401
        """What `_load` makes for this kind of batch, made when it is first needed."""
        with self._loading:
            if kind in self._loaded:
                self._loaded[kind] = self._loaded.pop(kind)
            else:
                while len(self._loaded) >= self.kept:  # before the new one is loaded, so that its memory is free
                    del self._loaded[next(iter(self._loaded))]
                graph, info = load_at_alpha(self._path, self._alpha)
                if info.file_sha256 != self.info.file_sha256:
                    raise ModelError(f"{self._path}: was changed since it was opened; open it again")
                self._loaded[kind] = self._load(graph, kind)
            return self._loaded[kind]

    def _infer(self, frame: Frames) -> Frames:
        return self._compute(self._loaded_for(self._kind(frame)), frame)

    def _check(self, frames: Frames, result: Frames) -> None:
        """See `ThreadedSession._check`; also, that the network gave numbers.

        Values that are none (NaN) become 0 in a picture. So a colour that is lost everywhere is looked into, by a
        network that shows them white. Networks that gave numbers three times are not suspected any more.
        """
        check_result(frames, result, self.info.scale, str(self._path))
        if self._finite >= 3 or not any(frames[..., c].any() and not result[..., c].any() for c in range(3)):
            return
        graph, _ = load_at_alpha(self._path, self._alpha)
        kind = self._kind(frames)
        if self._compute(self._load(show_nan(graph), kind), frames).any():
            raise ModelError(
                f"{self._path}: the network gives values that are not numbers (NaN) on a "
                f"{frames.shape[2]}x{frames.shape[1]} frame; its weights are broken, or too large for "
                f"{self.precision}: export it as fp32, or another checkpoint"
            )
        self._finite += 1

    @abstractmethod
    def _kind(self, frames: Frames) -> Any:  # noqa: ANN401
        """What `_load` makes a network for, for these frames."""

    @abstractmethod
    def _compute(self, loaded: Any, frames: Frames) -> Frames:  # noqa: ANN401
        """Upscale frames as `_infer` does, with what `_load` made."""

    @abstractmethod
    def _load(self, graph: onnx.ModelProto, kind: Any) -> Any:  # noqa: ANN401
        """Load `graph` into the backend for one kind of batch, for instance for a frame type."""
