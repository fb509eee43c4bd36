"""The Session contract: a network loaded on one device, integer RGB frames in and out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from esrgan_deploy.errors import OptionError
from esrgan_deploy.model import ModelInfo

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt
    from typing_extensions import Self

Frames: TypeAlias = "npt.NDArray[Any]"
"""uint8 or uint16 RGB: one frame (H, W, 3) or a batch (N, H, W, 3)."""


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

    @abstractmethod
    def _infer(self, frame: Frames) -> Frames:
        """Upscale (1, H, W, 3), H and W multiples of `info.multiple_of`, contiguous."""

    def _run_padded(self, batch: Frames) -> Frames:
        """Run frame by frame: on a CPU a larger batch gains nothing, and results cannot depend on it."""
        height, width = batch.shape[1:3]
        extra = [-size % self.info.multiple_of for size in (height, width)]
        if any(extra):
            batch = np.pad(batch, ((0, 0), (0, extra[0]), (0, extra[1]), (0, 0)), mode="edge")
        results = [self._infer(np.ascontiguousarray(frame[None])) for frame in batch]
        joined = results[0] if len(results) == 1 else np.concatenate(results)
        return joined[:, : height * self.info.scale, : width * self.info.scale]


def check_batch(batch: Frames) -> None:
    """Refuse what is not a batch of integer RGB frames.

    Raises:
        OptionError: the message gives the type and shape received.
    """
    if batch.dtype not in (np.uint8, np.uint16) or batch.ndim != 4 or batch.shape[3] != 3 or 0 in batch.shape:
        raise OptionError(
            f"a batch is uint8 or uint16 of shape (N, H, W, 3); received {batch.dtype} of shape {batch.shape}"
        )
