"""The Session contract: a network loaded on one device, integer RGB frames in and out."""

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

    Everything between integer pixels and the network (layout, normalisation, clamp, rounding) happens inside, where
    it is cheapest. Sessions are context managers; a closed one must not be used.
    """

    info: ModelInfo
    backend: str
    """Name for `open_session`, for instance "openvino"."""
    precision: str
    """The type that the device really computes in: it may be wider than the file's."""
    largest_untiled: int = 512 * 512
    """With automatic tiling, a frame of more input pixels is tiled; where `any_shape` no tile has more. CPU sessions
    follow the memory that there is, see `footprint.largest_tile`. For RRDBNet x4 this is 3 GB in fp32."""
    any_shape: bool = False
    """Whether another height and width costs next to nothing. Then tiles take what shape serves each frame best."""

    @property
    def model_sha256(self) -> str | None:
        """SHA-256 of the model's file; None for a session that was not made from one."""
        return self.info.file_sha256

    @abstractmethod
    def submit(self, batch: Frames) -> Future[Frames]:
        """Start upscaling `batch` and return at once.

        Args:
            batch: uint8 or uint16, (N, H, W, 3), RGB; H and W of any size. It must not be changed before the result
                is there.

        Returns:
            The future of (N, H * scale, W * scale, 3) in the same type. Results do not depend on N.

        Raises:
            OptionError: another type or shape, or a size that the model is not made for.
        """

    def run(self, batch: Frames) -> Frames:
        """Upscale `batch` and wait for it; see `submit`."""
        return self.submit(batch).result()

    def prepare(self, shape: tuple[int, int, int], frame_type: FrameType) -> None:  # noqa: B027  # a default
        """Announce the largest batch that will come, so that what depends on shapes is made once; never required.

        Args:
            shape: (N, H, W), N the most frames that are submitted together.
            frame_type: "uint8" or "uint16".
        """

    def set_alpha(self, alpha: float) -> None:
        """Take another share of the GAN for all that is submitted from now on.

        theta = (1 - alpha) * PSNR + alpha * GAN, Wang et al. 2018 (ESRGAN), section 3.4.

        Raises:
            OptionError: alpha is not in [0, 1], or the model came without the weights of both endpoints.
        """
        raise OptionError(f"the {self.backend} session cannot set alpha {alpha:g}; export the model with that alpha")

    @abstractmethod
    def close(self) -> None:
        """Wait for the work in flight and give back what the device holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ThreadedSession(Session):
    """A Session whose backend computes in the calling thread: worker threads make `submit` return at once."""

    def __init__(self, info: ModelInfo, backend: str, precision: str, streams: int = 1) -> None:
        """`streams`: batches that are computed at the same time, `_infer` being called from so many threads."""
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
        """Wait for everything submitted so far; what is submitted from now on starts when the block has ended."""
        with self._pausing:  # two pauses at a time would each hold some workers, and wait for the others'
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
                parked.abort()  # where Ctrl-C ended the wait, let the workers go

    @abstractmethod
    def _infer(self, frame: Frames) -> Frames:
        """Upscale (n, H, W, 3), n at most `_together`, H and W multiples of `info.multiple_of`, contiguous."""

    def _together(self, batch: Frames) -> int:
        """How many frames of a batch `_infer` takes at once. On a CPU more than one gain nothing."""
        return 1

    def _run_padded(self, batch: Frames) -> Frames:
        """Run in pieces whose size is the same for every batch of this shape, so that results cannot depend on it."""
        height, width = batch.shape[1:3]
        extra = [-size % self.info.multiple_of for size in (height, width)]
        if any(extra):
            batch = np.pad(batch, ((0, 0), (0, extra[0]), (0, extra[1]), (0, 0)), mode="edge")
        step = self._together(batch)
        results = [self._infer(np.ascontiguousarray(batch[at : at + step])) for at in range(0, len(batch), step)]
        joined = results[0] if len(results) == 1 else np.concatenate(results)
        return joined[:, : height * self.info.scale, : width * self.info.scale]


def check_batch(batch: Frames) -> FrameType:
    """Refuse what is not a batch of integer RGB frames; tell which integers they are.

    Raises:
        OptionError: the message gives the type and shape received.
    """
    if batch.dtype not in (np.uint8, np.uint16) or batch.ndim != 4 or batch.shape[3] != 3 or 0 in batch.shape:
        raise OptionError(
            f"a batch is uint8 or uint16 of shape (N, H, W, 3); received {batch.dtype} of shape {batch.shape}"
        )
    return frame_type_of(batch.dtype)
