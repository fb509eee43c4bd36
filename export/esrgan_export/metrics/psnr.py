"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def psnr(reference: npt.NDArray[Any], image: npt.NDArray[Any], peak: float = 1.0) -> float:
    """PSNR = 10 log10(peak^2 / MSE) in dB, over all samples; infinite for equal arrays.

    Args:
        reference: any shape.
        image: the same shape; a NaN or infinity anywhere gives minus infinity.
        peak: largest possible value: 1 for floats in [0, 1], 255 for uint8.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != image.shape:
        raise ValueError(f"PSNR compares arrays of one shape, not {reference.shape} and {image.shape}")
    error = np.mean(np.square(reference.astype(np.float64) - image.astype(np.float64)))
    if not np.isfinite(error):
        return -math.inf
    return math.inf if error == 0 else 10 * math.log10(peak**2 / float(error))
