"""Luma (Y) as super-resolution papers measure it: BT.601 in studio swing, with the border shaved."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from esrgan_export.image_types import Uint8Image

Plane: TypeAlias = "npt.NDArray[np.float64]"
"""One channel, (H, W), 0 to 255."""

_Sample = TypeVar("_Sample", bound=np.generic)

WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255
OFFSET = 16.0


def luma(picture: Uint8Image) -> Plane:
    """Y = (65.481 R + 128.553 G + 24.966 B) / 255 + 16, from 16 to 235, not rounded (MATLAB's rgb2ycbcr of doubles).

    Full-range luma, as in OpenCV's YCrCb, would lower every PSNR by 20 log10(255 / 219) = 1.32 dB.

    Args:
        picture: uint8 RGB (H, W, 3).

    Raises:
        ValueError: another type or shape.
    """
    check_picture(picture)
    result: Plane = picture @ WEIGHTS + OFFSET
    return result


def rounded_luma(picture: Uint8Image) -> Plane:
    """`luma` rounded to whole numbers: MATLAB's rgb2ycbcr of uint8, from which PIRM's RMSE and NIQE are computed."""
    result: Plane = np.floor(luma(picture) + 0.5)
    return result


def shaved(picture: npt.NDArray[_Sample], border: int) -> npt.NDArray[_Sample]:
    """`picture` (H, W) or (H, W, C) without `border` pixels on every side.

    Raises:
        ValueError: a negative border, or nothing would be left.
    """
    height, width = picture.shape[:2]
    if border < 0 or 2 * border >= min(height, width):
        raise ValueError(f"a border of {border} pixels cannot be shaved off {width}x{height}")
    return picture[border : height - border, border : width - border]


def check_pair(sr: Uint8Image, hr: Uint8Image) -> None:
    """Check that `sr` and `hr` are uint8 RGB pictures of the same size.

    Raises:
        ValueError: they are not; the message gives types and shapes.
    """
    check_picture(sr)
    check_picture(hr)
    if sr.shape != hr.shape:
        raise ValueError(f"pictures of one size are compared, not {sr.shape} and {hr.shape}")


def check_picture(picture: Uint8Image) -> None:
    """Check that `picture` is uint8 RGB, since metrics are computed on rounded values, as they are in files.

    Raises:
        ValueError: it is not; the message gives type and shape.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture is uint8 of shape (H, W, 3); received {picture.dtype} of shape {picture.shape}")
