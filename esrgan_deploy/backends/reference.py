"""Nearest neighbour in numpy, which needs no model and no package, for tests and dry runs."""

from __future__ import annotations

from esrgan_deploy.backends.session import ThreadedSession
from esrgan_deploy.frame_io import Frames
from esrgan_deploy.model import ModelInfo


class ReferenceSession(ThreadedSession):
    """Repeats every pixel `scale` times in both directions."""

    def __init__(self, info: ModelInfo | None = None) -> None:
        super().__init__(info or ModelInfo(scale=4, overlap=0), backend="reference", precision="integer")

    def _infer(self, frame: Frames) -> Frames:
        if self.info.scale == 1:
            return frame
        return frame.repeat(self.info.scale, axis=1).repeat(self.info.scale, axis=2)
