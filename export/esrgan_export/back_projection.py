"""Back-projection: make an SR picture agree with its LR picture (Irani and Peleg 1991).

A GAN invents detail, but when its SR picture is shrunk again it should equal the LR picture. ESRGAN's entry to the PIRM
challenge used this as its last step: pictures become a little less sharp, and RMSE is lower.
"""

from __future__ import annotations

import numpy as np

from esrgan_export.bicubic import imresize, to_uint8
from esrgan_export.image_types import Uint8Image


def back_project(sr: Uint8Image, lr: Uint8Image, iterations: int) -> Uint8Image:
    """Repeat SR += up(LR - down(SR)) with MATLAB's bicubic; round once, at the end.

    Args:
        sr: uint8 RGB (H * scale, W * scale, 3).
        lr: uint8 RGB (H, W, 3) that `sr` was made from.
        iterations: 0 returns `sr`; about 10 are enough.

    Raises:
        ValueError: the size of `sr` is not a whole multiple of that of `lr`, the same in both directions.
    """
    scale = sr.shape[0] // lr.shape[0]
    if sr.shape != (lr.shape[0] * scale, lr.shape[1] * scale, 3):
        raise ValueError(f"SR {sr.shape} is not a whole multiple of LR {lr.shape}")
    image = sr.astype(np.float64)
    for _ in range(iterations):
        image += imresize(lr - imresize(image, 1 / scale), scale)
    return to_uint8(image)
