"""From what a worker makes its Upscaler."""

from __future__ import annotations

from dataclasses import dataclass

from esrgan_deploy.arguments import StrPath
from esrgan_deploy.backends import open_session
from esrgan_deploy.backends.names import CpuPrecision
from esrgan_deploy.upscaler import Upscaler


@dataclass(frozen=True)
class UpscalerSpec:
    """Everything that an Upscaler is made from; unlike one, it can be sent to another machine.

    The fields are those of `open_session` and `Upscaler`.
    """

    model: StrPath | None
    """An ONNX file, which is sent to the workers; None: with the backend "reference" only."""
    backend: str = "auto"
    precision: CpuPrecision = "auto"
    threads: int | None = None
    tile: int | None = None
    overlap: int | None = None
    batch: int = 1
    outscale: float | None = None
    tolerance: int = 0

    def open(self) -> Upscaler:
        """Load the network.

        Raises:
            EsrganError: see `open_session` and `Upscaler`.
        """
        session = open_session(self.model, self.backend, precision=self.precision, threads=self.threads)
        try:
            return Upscaler(
                session,
                tile=self.tile,
                overlap=self.overlap,
                batch=self.batch,
                outscale=self.outscale,
                tolerance=self.tolerance,
            )
        except BaseException:
            session.close()
            raise
