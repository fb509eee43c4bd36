"""Bicubic resizing exactly as in MATLAB's imresize, with which the LR images of published tables were made.

OpenCV and `torch.nn.functional.interpolate` use another kernel (a = -0.75) and do not widen it when they shrink; Pillow
uses the same kernel and another border. A network that is trained with one and tested with another loses up to 1 dB.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

SUPPORT = 2.0  # the cubic is zero at distance 2 and beyond


def imresize(image: npt.NDArray[Any], scale: float) -> Matrix:
    """MATLAB's `imresize(image, scale)` with its defaults, bicubic and antialiased; the result is not rounded.

    Args:
        image: (H, W) or (H, W, C), any numeric dtype.
        scale: 0.25 makes it four times smaller, 4 four times larger.

    Returns:
        float64 (ceil(H * scale), ceil(W * scale)[, C]), in the units of `image`; may overshoot its range.
    """
    return _resize_rows(_resize_rows(image, scale).swapaxes(0, 1), scale).swapaxes(0, 1)


def downscale(hr: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """The LR picture of `hr` as for published tables: bicubic, rounded once.

    Args:
        hr: uint8 (H, W, 3), H and W multiples of `factor`; see `mod_crop`.
        factor: HR pixels per LR pixel.

    Raises:
        ValueError: H or W is not a multiple of `factor`; the LR grid would be shifted against HR.
    """
    if hr.shape[0] % factor or hr.shape[1] % factor:
        raise ValueError(f"{hr.shape[1]}x{hr.shape[0]} cannot be divided by {factor}; crop it first")
    return to_uint8(imresize(hr, 1 / factor))


def upscale(lr: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """The bicubic baseline of published tables: uint8 (H, W, 3) -> uint8 (H * factor, W * factor, 3)."""
    return to_uint8(imresize(lr, factor))


def to_uint8(image: Matrix) -> npt.NDArray[np.uint8]:
    """Round halves up and clip, as MATLAB's uint8() does."""
    return np.floor(image.clip(0, 255) + 0.5).astype(np.uint8)


def mod_crop(hr: npt.NDArray[np.uint8], multiple: int) -> npt.NDArray[np.uint8]:
    """Cut off rows at the bottom and columns at the right so that height and width are multiples of `multiple`."""
    height, width = (length - length % multiple for length in hr.shape[:2])
    return hr[:height, :width]


def _resize_rows(image: npt.NDArray[Any], scale: float) -> Matrix:
    """Resize the first axis: each output row is a weighted sum of a few input rows."""
    rows, weights = taps(image.shape[0], scale)
    outputs = np.zeros((len(rows), *image.shape[1:]))
    for row, weight in zip(rows.T, weights.T, strict=True):  # all outputs at once, one tap after the other
        outputs += image[row] * weight.reshape(-1, *[1] * (image.ndim - 1))
    return outputs


@lru_cache(maxsize=64)
def taps(length: int, scale: float) -> tuple[npt.NDArray[np.int64], Matrix]:
    """The input samples that each output sample is computed from, and their weights: two (outputs, taps) arrays.

    Output sample y is at input coordinate u = (y + 0.5) / scale - 0.5, under the cubic kernel, which is widened by
    1 / scale when shrinking; the weights of one sample sum to 1. Beyond the border the image is mirrored, with the edge
    pixel repeated.
    """
    outputs = int(np.ceil(length * scale - 1e-9))
    widening = max(1.0, 1 / scale)
    reach = int(np.ceil(SUPPORT * widening))
    centres = (np.arange(outputs) + 0.5) / scale - 0.5
    positions = np.floor(centres)[:, None].astype(np.int64) + np.arange(-reach, reach + 1)
    weights = _cubic((positions - centres[:, None]) / widening)
    used = weights.any(axis=0)
    positions, weights = positions[:, used], weights[:, used]
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = positions % (2 * length)
    mirrored = np.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
    for array in (mirrored, weights):
        array.setflags(write=False)  # the cache returns the same arrays to every caller
    return mirrored, weights


def _cubic(x: Matrix) -> Matrix:
    """Keys' cubic convolution kernel with a = -0.5 (Keys 1981, equation 15)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < SUPPORT, far, 0.0))
