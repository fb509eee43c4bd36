"""The interface of all backends: a network loaded on one device, integer RGB frames in and out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Event, Lock
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from esrgan_deploy.errors import OptionError
from esrgan_deploy.frame_io import Frames, FrameType, frame_type_of
from esrgan_deploy.model import ModelInfo

if TYPE_CHECKING:
    from typing_extensions import Self


class Session(ABC):
    """A network loaded on one device.

    A session converts integer pixels to what the network takes and back (layout, normalisation, clamp, rounding), on
    the device where possible. Sessions are context managers; a closed one must not be used.
    """

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

    @property
    def model_sha256(self) -> str | None:
        """SHA-256 of the model's file; None for a session that was not made from one."""
        return self.info.file_sha256

    @abstractmethod
    def submit(self, batch: Frames) -> Future[Frames]:
        """Start upscaling `batch` and return at once.

        Args:
            batch: uint8 or uint16, (N, H, W, 3), RGB; H and W of any size. It must not change before the
                result is there.

        Returns:
            The future of (N, H * scale, W * scale, 3) in the same type. Results do not depend on N.

        Raises:
            OptionError: another type or shape, or a size that the model does not take.
        """

    def run(self, batch: Frames) -> Frames:
        """Upscale `batch` and wait for it; see `submit`."""
        return self.submit(batch).result()

    def prepare(self, shape: tuple[int, int, int], frame_type: FrameType) -> None:  # noqa: B027  # a default
        """Announce the largest batch, so that everything that depends on shapes is set up once. Calling it is optional.

        Args:
            shape: (N, H, W), N the most frames that are submitted together.
            frame_type: "uint8" or "uint16".
        """

    def set_alpha(self, alpha: float) -> None:
        """Change the share of the GAN for all batches that are submitted from now on.

        theta = (1 - alpha) * PSNR + alpha * GAN, Wang et al. 2018 (ESRGAN), section 3.4.

        Raises:
            OptionError: alpha is not in [0, 1], or the model came without the weights of both endpoints.
        """
        raise OptionError(f"the {self.backend} session cannot set alpha {alpha:g}; export the model with that alpha")

    @abstractmethod
    def close(self) -> None:
        """Wait for the work in flight, and free the device."""

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
        check_batch(batch)
        fixed = self.info.fixed_size
        if fixed is not None and fixed != batch.shape[1:3]:
            raise OptionError(
                f"the model takes frames of {fixed[1]}x{fixed[0]} only, "
                f"this one has {batch.shape[2]}x{batch.shape[1]}; export it again without --shape"
            )
        return self._workers.submit(self._run_padded, batch)

    def close(self) -> None:
        """See `Session.close`."""
        self._workers.shutdown(wait=True)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Wait for everything submitted so far. Batches submitted during the block start after it."""
        with self._pausing:  # two pauses at once would each hold some workers and wait for the rest
            parked, resume = Barrier(self._streams + 1), Event()

            def park() -> None:
                parked.wait()
                resume.wait()

            for _ in range(self._streams):
                self._workers.submit(park)
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
        results = [self._infer(np.ascontiguousarray(batch[at : at + step])) for at in range(0, len(batch), step)]
        joined = results[0] if len(results) == 1 else np.concatenate(results)
        return joined[:, : height * self.info.scale, : width * self.info.scale]


def check_batch(batch: Frames) -> FrameType:
    """Make sure that this is a batch of integer RGB frames, and return its type.

    Raises:
        OptionError: it is not.
    """
    if batch.dtype not in (np.uint8, np.uint16) or batch.ndim != 4 or batch.shape[3] != 3 or 0 in batch.shape:
        raise OptionError(
            f"a batch is uint8 or uint16 of shape (N, H, W, 3); received {batch.dtype} of shape {batch.shape}"
        )
    return frame_type_of(batch.dtype)
