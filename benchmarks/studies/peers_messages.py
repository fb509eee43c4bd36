"""What `peers.py` and its contenders say to each other. They may run in interpreters of different versions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""RGB, (H, W, 3)."""


class Frame(NamedTuple):
    """Pixels as bytes, since two interpreters may have versions of numpy that do not read each other's arrays."""

    shape: tuple[int, ...]
    samples: bytes

    @classmethod
    def of(cls, pixels: Pixels) -> Frame:
        """What the other side turns back into `pixels`."""
        return cls(pixels.shape, pixels.tobytes())

    def pixels(self) -> Pixels:
        """Not writable: it shares the memory of the message."""
        return np.frombuffer(self.samples, np.uint8).reshape(self.shape)


class Ready(NamedTuple):
    """The contender's network is loaded, and has upscaled a first frame."""

    version: str
    precision: str
    """What it computes in."""


class Upscaled(NamedTuple):
    """The contender's answer to a `Frame`."""

    seconds: float
    cpu_seconds: float
    """Of all its threads together."""
    frame: Frame


class Failed(NamedTuple):
    """The contender cannot go on; one line says why."""

    reason: str
