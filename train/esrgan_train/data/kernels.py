"""Blur kernels of Real-ESRGAN's degradation: square, of odd size, symmetric about the centre pixel, with sum 1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Kernel = npt.NDArray[np.float64]

_BESSEL_NODES = 128


def covariance(sigma_x: float, sigma_y: float, rotation: float) -> Kernel:
    """Covariance (2, 2), order x, y, of an ellipse with half axes `sigma_x`, `sigma_y` px, rotated by `rotation`."""
    cos, sin = np.cos(rotation), np.sin(rotation)
    matrix = np.array([[cos, -sin], [sin, cos]])
    rotated: Kernel = matrix @ np.diag([sigma_x**2, sigma_y**2]) @ matrix.T
    return rotated


def gaussian(size: int, covariance: Kernel, beta: float = 1.0) -> Kernel:
    """Generalised Gaussian, exp(-d^beta / 2) with d = x^T covariance^-1 x (Real-ESRGAN, section 3.1; arXiv 1302.6498).

    `beta` 1 is the Gaussian; below 1 the peak is sharper and the tails longer, above 1 the top is flat.
    """
    return _normalized(np.exp(-0.5 * _squared_distance(size, covariance) ** beta))


def plateau(size: int, covariance: Kernel, beta: float) -> Kernel:
    """1 / (1 + d^beta) with d = x^T covariance^-1 x (Real-ESRGAN, section 3.1)."""
    return _normalized(1 / (1 + _squared_distance(size, covariance) ** beta))


def sinc(size: int, cutoff: float) -> Kernel:
    """Circular low-pass filter with `cutoff` in rad per px (Real-ESRGAN, equation 7); it rings, as oversharpening does.

    The inverse Fourier transform of a disc: cutoff * J1(cutoff * r) / (2 pi r); at r = 0 its limit, cutoff^2 / (4 pi).
    """
    x, y = _grid(size)
    radius = np.hypot(x, y)
    centre = size // 2
    radius[centre, centre] = 1.0
    kernel = cutoff * bessel_j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[centre, centre] = cutoff**2 / (4 * np.pi)
    return _normalized(kernel)


def bessel_j1(x: Kernel) -> Kernel:
    """Bessel function of the first kind and order 1, for |x| < 100: the mean of cos(t - x sin t) for t in [0, 2 pi].

    The integrand is periodic and smooth, so that 128 equal steps give all 15 digits.
    """
    angles = 2 * np.pi * np.arange(_BESSEL_NODES) / _BESSEL_NODES
    integral: Kernel = np.cos(angles - x[..., None] * np.sin(angles)).mean(axis=-1)
    return integral


def _grid(size: int) -> tuple[Kernel, Kernel]:
    offsets = np.arange(size, dtype=np.float64) - size // 2
    x, y = np.meshgrid(offsets, offsets)
    return x, y


def _squared_distance(size: int, covariance: Kernel) -> Kernel:
    (xx, xy), (_, yy) = np.linalg.inv(covariance)
    x, y = _grid(size)
    distance: Kernel = xx * x**2 + 2 * xy * x * y + yy * y**2
    return distance.clip(min=0)  # rounding may leave -1e-17, which has no fractional power


def _normalized(kernel: Kernel) -> Kernel:
    normalized: Kernel = kernel / kernel.sum()
    return normalized
