"""Back-projection: make a super-resolved picture agree with its low-resolution one (Irani and Peleg 1991).

A GAN may invent detail, but shrunk again its picture should be the one that it was given. The PIRM entry of ESRGAN
used this as its last step; it trades a little sharpness for a lower RMSE.
"""

from __future__ import annotations

import numpy as np

from esrgan_export.bicubic import imresize, to_uint8
from esrgan_export.image_types import Uint8Image


def back_project(sr: Uint8Image, lr: Uint8Image, iterations: int) -> Uint8Image:
    """Repeat SR += up(LR - down(SR)) with MATLAB's bicubic; rounded once, at the end.

    Args:
        sr: uint8 RGB (H * scale, W * scale, 3).
        lr: uint8 RGB (H, W, 3): what `sr` was made from, by bicubic shrinking.
        iterations: 0 returns `sr`; about 10 are enough.

    Raises:
        ValueError: the size of `sr` is no whole multiple of that of `lr`, the same in both directions.
    """
    scale = sr.shape[0] // lr.shape[0]
    if sr.shape != (lr.shape[0] * scale, lr.shape[1] * scale, 3):
        raise ValueError(f"SR {sr.shape} is no whole multiple of LR {lr.shape}")
    image = sr.astype(np.float64)
    for _ in range(iterations):
        image += imresize(lr - imresize(image, 1 / scale), scale)
    return to_uint8(image)
