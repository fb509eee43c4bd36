"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from esrgan_export.image_types import Uint8Image
from esrgan_export.metrics.luma import check_pair, luma, shaved

LARGEST_IN_MEAN = 100.0
"""The most that one picture counts in a mean, in dB; see `mean_psnr`."""


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


def psnr_y(sr: Uint8Image, hr: Uint8Image, shave: int) -> float:
    """PSNR-Y in dB as in the tables of super-resolution papers; infinite for equal luma.

    Args:
        sr: uint8 RGB (H, W, 3).
        hr: the same.
        shave: pixels left out on each side; by convention the scale.

    Raises:
        ValueError: not two uint8 RGB pictures of one size, or nothing is left of them.
    """
    check_pair(sr, hr)
    return psnr(shaved(luma(hr), shave), shaved(luma(sr), shave), peak=255)


def psnr_rgb(sr: Uint8Image, hr: Uint8Image, shave: int) -> float:
    """PSNR in dB over R, G and B, as BasicSR logs it while training; arguments as for `psnr_y`.

    It is about 1.5 dB below PSNR-Y, so the two cannot be compared.
    """
    check_pair(sr, hr)
    return psnr(shaved(hr, shave), shaved(sr, shave), peak=255)


def mean_psnr(values: Sequence[float]) -> float:
    """Mean of PSNRs in dB, in which a picture counts `LARGEST_IN_MEAN` at most.

    A picture that is reproduced exactly has an infinite PSNR, which would make the mean infinite. If it were left out,
    the mean could fall although the picture became better; with a ceiling it cannot.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("the mean of no PSNR at all is not defined")
    return math.fsum(min(value, LARGEST_IN_MEAN) for value in values) / len(values)
