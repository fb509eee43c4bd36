"""Structural similarity (SSIM) in the variant of its authors (Wang et al. 2004), which MATLAB scripts and papers use.

Gaussian window of 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, only windows that lie wholly inside the picture, no
downsampling, population variances. The table of SRGAN's paper was made with another variant (daala), and cannot be
compared.
"""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from esrgan_export.image_types import Uint8Image
from esrgan_export.metrics.luma import check_pair, luma, shaved

WINDOW = 11
SIGMA = 1.5
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2

_Planes: TypeAlias = "npt.NDArray[np.float64]"  # (H, W) or (H, W, C)


def ssim_y(sr: Uint8Image, hr: Uint8Image, shave: int) -> float:
    """Mean SSIM of luma, which is not rounded; 1 for equal pictures.

    Args:
        sr: uint8 RGB (H, W, 3).
        hr: the same.
        shave: pixels left out on each side; by convention the scale.

    Raises:
        ValueError: not two uint8 RGB pictures of one size, or fewer than 11x11 pixels are left.
    """
    check_pair(sr, hr)
    return _mean_ssim(shaved(luma(sr), shave), shaved(luma(hr), shave))


def ssim_rgb(sr: Uint8Image, hr: Uint8Image, shave: int) -> float:
    """Mean of the SSIMs of R, G and B; arguments as for `ssim_y`."""
    check_pair(sr, hr)
    return _mean_ssim(shaved(sr.astype(np.float64), shave), shaved(hr.astype(np.float64), shave))


def _mean_ssim(a: _Planes, b: _Planes) -> float:
    if min(a.shape[:2]) < WINDOW:
        raise ValueError(
            f"SSIM needs {WINDOW}x{WINDOW} pixels, {a.shape[1]}x{a.shape[0]} are left after the border is shaved"
        )
    mean_a, mean_b = _weighted(a), _weighted(b)
    variance_a = _weighted(a * a) - mean_a**2
    variance_b = _weighted(b * b) - mean_b**2
    covariance = _weighted(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
    return float(np.mean(luminance * structure))


def _weighted(planes: _Planes) -> _Planes:
    """Gaussian means of all windows that lie wholly inside, so 10 rows and columns fewer than `planes`."""
    margin = WINDOW // 2
    means = np.asarray(cv2.GaussianBlur(planes, (WINDOW, WINDOW), SIGMA), np.float64)
    return means[margin:-margin, margin:-margin]
