"""Crops of a folder of pictures: most to train on, some held out to validate on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from esrgan_deploy.errors import MediaError
from esrgan_deploy.images import read_image
from esrgan_export.evaluation.image_pairs import images_by_stem
from esrgan_export.quantise.calibration import vivid

TRAINING_CROPS = 2048
"""They are cut once, since decoding a photograph takes longer than a step of a small network."""
HELD_OUT_CROPS = 16
VIVID = 0.25
"""Share of the crops in a batch that are given strong colours."""
HELD_OUT_EVERY = 4
"""Every fourth picture is held out."""


@dataclass(frozen=True)
class Crops:
    """Inputs of the network: uint8 RGB (N, side, side, 3)."""

    training: npt.NDArray[np.uint8]
    held_out: npt.NDArray[np.uint8]
    """From other pictures than `training`."""

    def batch(self, seed: int, step: int, size: int) -> Tensor:
        """The crops of one step, each in a random orientation: float (size, 3, side, side) in [0, 1].

        Some are made `vivid`. Otherwise training would shrink the scales until strong colours, which are rare, are
        clipped. The batch depends on `seed` and `step` alone, so that a resumed run gets the same batches.
        """
        random = np.random.default_rng((seed, step))
        numbers = random.integers(0, len(self.training), size)
        orientations = random.integers(0, 8, size)
        batch = to_unit(np.stack([_orient(self.training[n], o) for n, o in zip(numbers, orientations, strict=True)]))
        strong = torch.from_numpy(random.random(size) < VIVID)[:, None, None, None]
        return torch.where(strong, vivid(batch), batch)

    def validation(self) -> list[Tensor]:
        """The held-out crops, each float (1, 3, side, side) in [0, 1]."""
        return [to_unit(crop[None]) for crop in self.held_out]


def cut_crops(folder: Path, side: int, seed: int) -> Crops:
    """Read every picture in `folder` once, and cut random crops of it.

    Every fourth picture is held out; of two or three pictures, the last one.

    Args:
        folder: holds pictures of 8 or 16 bit like those that will be upscaled; folders inside it are left out.
        side: side of the crops in pixels.
        seed: another seed gives other crops.

    Raises:
        MediaError: fewer than two pictures, one that is damaged, or one that is smaller than a crop.
    """
    paths = list(images_by_stem(folder).values())
    if len(paths) < 2:
        raise MediaError(f"{folder}: holds one picture only; give two or more, since one is held out for validation")
    held_out = set(paths[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY] or paths[-1:])
    kinds: dict[bool, list[npt.NDArray[np.uint8]]] = {False: [], True: []}
    for number, path in enumerate(paths):
        held = path in held_out
        count = -(-HELD_OUT_CROPS // len(held_out)) if held else -(-TRAINING_CROPS // (len(paths) - len(held_out)))
        kinds[held] += _cut(path, side, count, np.random.default_rng((seed, number)))
    return Crops(np.stack(kinds[False]), np.stack(kinds[True]))


def to_unit(crops: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(crops.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))


def _cut(path: Path, side: int, count: int, random: np.random.Generator) -> list[npt.NDArray[np.uint8]]:
    rgb = read_image(path).rgb
    height, width = rgb.shape[:2]
    if min(height, width) < side:
        raise MediaError(f"{path}: is {width}x{height}, smaller than a crop of {side}x{side}; remove it")
    tops, lefts = random.integers(0, height - side + 1, count), random.integers(0, width - side + 1, count)
    crops = [rgb[top : top + side, left : left + side] for top, left in zip(tops, lefts, strict=True)]
    return [np.rint(crop / 257).astype(np.uint8) if crop.dtype == np.uint16 else crop.copy() for crop in crops]


def _orient(crop: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Rotate by a quarter turn `orientation` % 4 times, and mirror the result from 4 on."""
    rotated = np.rot90(crop, orientation % 4)
    return rotated[:, ::-1] if orientation >= 4 else rotated
