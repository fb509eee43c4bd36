"""Whether an LR picture is what MATLAB's bicubic makes of its HR picture, and if not, what else it is."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from esrgan_export.bicubic import downscale, mod_crop
from esrgan_train.data.inspection import outline_of

Picture = npt.NDArray[np.uint8]
Size = tuple[int, int]

SAME_SCENE = 0.7
"""Likeness of outlines: other photographs are below, degraded copies above."""
EQUAL = 1
"""Code values. MATLAB itself differs by one from MATLAB, whether it was given uint8 or double."""
TIE = 0.5
"""dB. MATLAB's and Pillow's bicubic differ at the border only, which compression blurs."""
COMPRESSED_PSNR = 32.0
"""dB on luma. Above, it is a known kernel and something like JPEG; below, it was degraded in another way."""


def _by_pillow(filter: Image.Resampling) -> Callable[[Picture, Size], Picture]:
    return lambda hr, size: np.asarray(Image.fromarray(hr).resize(size, filter))


def _by_opencv(interpolation: int) -> Callable[[Picture, Size], Picture]:
    return lambda hr, size: cv2.resize(hr, size, interpolation=interpolation).astype(np.uint8, copy=False)


KERNELS: dict[str, Callable[[Picture, Size], Picture]] = {
    "MATLAB's bicubic": lambda hr, size: downscale(hr, hr.shape[1] // size[0]),
    "Pillow's bicubic": _by_pillow(Image.Resampling.BICUBIC),
    "Pillow's Lanczos": _by_pillow(Image.Resampling.LANCZOS),
    "OpenCV's bicubic (no antialiasing)": _by_opencv(cv2.INTER_CUBIC),
    "OpenCV's bilinear (no antialiasing)": _by_opencv(cv2.INTER_LINEAR),
    "area averaging": _by_opencv(cv2.INTER_AREA),
}


def mismatch(hr: Picture, lr: Picture, scale: int) -> str | None:
    """Why `hr` and `lr` cannot be a pair, or None: their sizes do not fit, or they show different things."""
    height, width = (length // scale for length in hr.shape[:2])
    if lr.shape[:2] != (height, width):
        fitting = [s for s in (1, 2, 3, 4, 8) if tuple(length // s for length in hr.shape[:2]) == lr.shape[:2]]
        guess = f", which would be x{fitting[0]}" if fitting else ""
        return (
            f"is {lr.shape[1]}x{lr.shape[0]}{guess}, but an HR of {hr.shape[1]}x{hr.shape[0]} needs {width}x{height} "
            f"for x{scale}"
        )
    outline = outline_of(hr)
    if outline.any() and outline @ outline_of(lr) < SAME_SCENE:
        return "shows something else than its HR picture"
    return None


def explain(hr: Picture, lr: Picture, scale: int) -> str | None:
    """How `lr`, of the right size, differs from MATLAB's bicubic of `hr`; None if it does not, anywhere.

    The whole pictures are compared, to `EQUAL`, with MATLAB's and then with what other libraries make.
    """
    hr = np.ascontiguousarray(mod_crop(hr, scale))
    largest = _largest_difference(downscale(hr, scale), lr)
    if largest <= EQUAL:
        return None
    made = {name: kernel(hr, (lr.shape[1], lr.shape[0])) for name, kernel in KERNELS.items()}
    for name, candidate in made.items():
        if _largest_difference(candidate, lr) <= EQUAL:
            return f"is {name}, not MATLAB's (they differ by up to {largest} of 255)"
    psnrs = {name: _luma_psnr(candidate, lr) for name, candidate in made.items()}
    name = next(name for name, psnr in psnrs.items() if psnr > max(psnrs.values()) - TIE)
    if psnrs[name] > COMPRESSED_PSNR:
        return f"is closest to {name} ({psnrs[name]:.1f} dB), and was compressed or edited afterwards"
    return f"is no plain downscaling of its HR picture (closest: {name}, {psnrs[name]:.1f} dB)"


def _largest_difference(a: Picture, b: Picture) -> int:
    return int(cv2.absdiff(a, b).max())


def _luma_psnr(a: Picture, b: Picture) -> float:
    """PSNR of the grey pictures, dB: JPEG leaves little of an LR picture's chroma."""
    return float(cv2.PSNR(cv2.cvtColor(a, cv2.COLOR_RGB2GRAY), cv2.cvtColor(b, cv2.COLOR_RGB2GRAY)))
