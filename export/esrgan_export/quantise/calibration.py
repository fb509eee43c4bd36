"""The pictures that tell which values occur inside a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from esrgan_deploy.errors import MediaError
from esrgan_deploy.images import read_image
from esrgan_export.evaluation.images import most_detailed
from esrgan_export.evaluation.pictures import list_pictures

Samples = npt.NDArray[np.float32]

SIDE = 48
"""Of a crop, in pixels; a picture that is smaller in one direction gives smaller crops."""
CROPS = 24
"""So many crops in all, or one of each picture if there are more pictures."""
LEAST_CROPS = 8
LEAST_SIDE = 16
LEAST_CONTRAST = 2 / 255
"""Standard deviation of the samples of a crop, below which it shows nothing."""


def load_crops(folder: Path, multiple_of: int = 1) -> list[Tensor]:
    """Crops of the pictures in `folder`, in the order of their names: float RGB (1, 3, H, W) in [0, 1].

    The pictures are inputs of the network: low-resolution ones, like those that will be upscaled. Each gives its most
    detailed crop first, then others, spread by a fixed random sequence. The same folder gives the same crops.

    Args:
        folder: pictures of 8 or 16 bit, directly inside.
        multiple_of: of which H and W are multiples.

    Raises:
        MediaError: no folder, no pictures, too little of them, or pictures that show nothing; a damaged picture.
    """
    pictures = list_pictures(folder)
    each = -(-CROPS // len(pictures))
    crops: list[Tensor] = []
    for path in pictures.values():
        still = read_image(path)
        rgb = still.rgb.astype(np.float32) / np.float32(np.iinfo(still.rgb.dtype).max)
        height, width = (min(SIDE, size) // multiple_of * multiple_of for size in rgb.shape[:2])
        if min(height, width) >= LEAST_SIDE:
            cut = _cut(rgb, height, width, each)
            crops += [torch.from_numpy(crop.transpose(2, 0, 1)[None].copy()) for crop in cut]
    telling = [crop for crop in crops if float(crop.std()) >= LEAST_CONTRAST]
    if crops and not telling:
        raise MediaError(
            f"{folder}: its {len(pictures)} pictures are black or of one colour; "
            "give some ten pictures like those that will be upscaled"
        )
    if len(telling) < LEAST_CROPS:
        raise MediaError(
            f"{folder}: too little to calibrate on: {len(telling)} crops of up to {SIDE}x{SIDE} that show something, "
            f"{LEAST_CROPS} are needed; give some ten pictures like those that will be upscaled"
        )
    return telling


def vivid(crop: Tensor) -> Tensor:
    """`crop` with twice the contrast and three times the saturation, clipped to [0, 1].

    Activations grow with both, and few calibration pictures are as extreme as some that will be upscaled. So ranges are
    measured on these as well.
    """
    contrast = (2 * crop - 0.5).clamp(0, 1)
    grey = contrast.mean(1, keepdim=True)
    return (grey + 3 * (contrast - grey)).clamp(0, 1)


def _cut(rgb: Samples, height: int, width: int, most: int) -> list[Samples]:
    """Up to `most` crops, no more than the picture has room for beside each other."""
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
