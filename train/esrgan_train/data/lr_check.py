"""Find out how an LR picture was made from its HR picture: by MATLAB's bicubic, or how else."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from esrgan_export.bicubic import downscale, mod_crop
from esrgan_export.image_types import Uint8Image
from esrgan_train.data.image_check import outline_of

Size = tuple[int, int]

SAME_SCENE = 0.7
"""Likeness of outlines (`outline_of`): degraded copies are above, other photographs below."""
EQUAL = 1
"""Largest difference in code values that counts as equal: MATLAB's own results for uint8 and double differ by one."""
TIE = 0.5
"""dB. Kernels this close to the best one count as equally good, and the first in `KERNELS` is named: MATLAB's and
Pillow's bicubic differ at the border only, which compression hides."""
COMPRESSED_PSNR = 32.0
"""PSNR in dB on luma. Above it LR was made by a known kernel and then compressed, below it in another way."""


def _by_pillow(filter: Image.Resampling) -> Callable[[Uint8Image, Size], Uint8Image]:
    return lambda hr, size: np.asarray(Image.fromarray(hr).resize(size, filter))


def _by_opencv(interpolation: int) -> Callable[[Uint8Image, Size], Uint8Image]:
    return lambda hr, size: cv2.resize(hr, size, interpolation=interpolation).astype(np.uint8, copy=False)


KERNELS: dict[str, Callable[[Uint8Image, Size], Uint8Image]] = {
    "MATLAB's bicubic": lambda hr, size: downscale(hr, hr.shape[1] // size[0]),
    "Pillow's bicubic": _by_pillow(Image.Resampling.BICUBIC),
    "Pillow's Lanczos": _by_pillow(Image.Resampling.LANCZOS),
    "OpenCV's bicubic (no antialiasing)": _by_opencv(cv2.INTER_CUBIC),
    "OpenCV's bilinear (no antialiasing)": _by_opencv(cv2.INTER_LINEAR),
    "area averaging": _by_opencv(cv2.INTER_AREA),
}


def mismatch(hr: Uint8Image, lr: Uint8Image, scale: int) -> str | None:
    """Why `hr` and `lr` are not a pair: their sizes do not fit, or they show different things. None: they are one."""
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


def explain(hr: Uint8Image, lr: Uint8Image, scale: int) -> str | None:
    """How `lr`, of the right size, was made of `hr`; None: by MATLAB's bicubic.

    `lr` is compared with what MATLAB's bicubic and then other libraries make of `hr`; a difference of up to `EQUAL` at
    every pixel counts as equal.
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


def _largest_difference(a: Uint8Image, b: Uint8Image) -> int:
    return int(cv2.absdiff(a, b).max())


def _luma_psnr(a: Uint8Image, b: Uint8Image) -> float:
    """PSNR in dB of the grey pictures, since JPEG leaves little of the chroma of an LR picture."""
    return float(cv2.PSNR(cv2.cvtColor(a, cv2.COLOR_RGB2GRAY), cv2.cvtColor(b, cv2.COLOR_RGB2GRAY)))
