"""The pictures on which the ranges of values inside a network are measured."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.errors import MediaError
from esrgan_deploy.images import read_image
from esrgan_export.evaluation.html_images import most_detailed
from esrgan_export.evaluation.image_pairs import images_by_stem

Samples = npt.NDArray[np.float32]

SIDE = 48
"""Side of a crop in pixels. A picture that is smaller gives smaller crops."""
CROPS = 24
"""Number of crops in all; with more pictures than that, one of each."""
LEAST_CROPS = 8
LEAST_SIDE = 16
LEAST_CONTRAST = 2 / 255
"""Least standard deviation of the values of a crop. A crop below it is of one colour and not used."""


def load_crops(folder: StrPath, multiple_of: int = 1) -> list[Tensor]:
    """Crops of the pictures in `folder`, in the order of their names: float RGB (1, 3, H, W) in [0, 1].

    The pictures are inputs of the network, so LR pictures like those that will be upscaled. Each gives its most
    detailed crop first, then others at places from a fixed random sequence. The same folder gives the same crops.

    Args:
        folder: holds pictures of 8 or 16 bit; folders inside it are left out.
        multiple_of: H and W of the crops are multiples of this.

    Raises:
        MediaError: there is no such folder, it holds no pictures or too few, they are of one colour, or one is damaged.
    """
    folder = as_path(folder)
    pictures = images_by_stem(folder)
    each = -(-CROPS // len(pictures))
    crops: list[Tensor] = []
    for path in pictures.values():
        still = read_image(path)
        rgb = still.rgb.astype(np.float32) / np.float32(np.iinfo(still.rgb.dtype).max)
        height, width = (min(SIDE, size) // multiple_of * multiple_of for size in rgb.shape[:2])
        if min(height, width) >= LEAST_SIDE:
            cut = _cut(rgb, height, width, each)
            crops += [torch.from_numpy(crop.transpose(2, 0, 1)[None].copy()) for crop in cut]
    usable = [crop for crop in crops if float(crop.std()) >= LEAST_CONTRAST]
    if crops and not usable:
        raise MediaError(
            f"{folder}: its {len(pictures)} pictures are black or of one colour; "
            "give some ten pictures like those that will be upscaled"
        )
    if len(usable) < LEAST_CROPS:
        raise MediaError(
            f"{folder}: too little to calibrate on: {len(usable)} crops of up to {SIDE}x{SIDE} that show something, "
            f"{LEAST_CROPS} are needed; give some ten pictures like those that will be upscaled"
        )
    return usable


def vivid(crop: Tensor) -> Tensor:
    """`crop` with twice the contrast and three times the saturation, clipped to [0, 1].

    Activations grow with both, and some pictures that will be upscaled are more extreme than those for calibration. So
    ranges are measured on vivid crops as well.
    """
    contrast = (2 * crop - 0.5).clamp(0, 1)
    grey = contrast.mean(1, keepdim=True)
    return (grey + 3 * (contrast - grey)).clamp(0, 1)


def _cut(rgb: Samples, height: int, width: int, most: int) -> list[Samples]:
    """Up to `most` crops, and not more than fit into the picture side by side."""
    rows, columns = rgb.shape[:2]
    count = min(most, max(1, rows * columns // (height * width)))
    eight_bit = np.rint(rgb * 255).astype(np.uint8)
    first = most_detailed(eight_bit, min(height, width))
    corners = [(min(first.top, rows - height), min(first.left, columns - width))]
    random = np.random.default_rng(0)
    corners += [
        (int(random.integers(0, rows - height + 1)), int(random.integers(0, columns - width + 1)))
        for _ in range(count - 1)
    ]
    return [rgb[top : top + height, left : left + width] for top, left in corners]
