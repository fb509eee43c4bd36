"""Five low-resolution crops of photographs, on which every export is verified. Authors and licences: CREDITS.md."""

from __future__ import annotations

from importlib import resources

import cv2
import numpy as np
import numpy.typing as npt

NAMES = ("brushes", "dogs", "mountain", "bottle", "dusk")
"""Saturated bristles; fur and boards; rock and sky; print and furniture; a burnt-out sun above dark ground."""


def load_photos() -> dict[str, npt.NDArray[np.uint8]]:
    """The photos by name, in the order of `NAMES`: uint8 RGB, 96 rows of 128 pixels."""
    folder = resources.files(__name__)
    return {name: _decode(folder.joinpath(f"{name}.png").read_bytes()) for name in NAMES}


def _decode(png: bytes) -> npt.NDArray[np.uint8]:
    bgr = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None, "a photo of this package is damaged"
    return np.ascontiguousarray(bgr[:, :, ::-1], dtype=np.uint8)
