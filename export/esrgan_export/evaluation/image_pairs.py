"""HR pictures and their LR partners: find them by name, read them, check their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import check_memory
from esrgan_deploy.errors import MediaError
from esrgan_deploy.images import SUFFIXES, read_image
from esrgan_export.bicubic import downscale, mod_crop
from esrgan_export.evaluation.degradations import Degradation
from esrgan_export.image_types import Uint8Image
from esrgan_export.metrics.rmse import PIRM_SHAVE
from esrgan_export.metrics.ssim import WINDOW

BYTES_PER_PIXEL = 80
"""What making LR and measuring luma take, in float64."""


@dataclass(frozen=True)
class ImagePair:
    """One picture in both resolutions, on which methods are compared."""

    name: str
    """Stem of the HR file."""
    hr: Uint8Image
    """Cropped at the right and bottom to multiples of the scale."""
    lr: Uint8Image
    """`hr` shrunk by MATLAB's bicubic, and perhaps degraded; or a picture that was given."""
    scale: int
    degradation: str | None = None
    """How `lr` was degraded, see `degradations`; None: it was not to be."""

    @property
    def label(self) -> str:
        """The picture in tables: its name, and how it was degraded."""
        return f"{self.name} {self.degradation}" if self.degradation else self.name


def images_by_stem(folder: StrPath) -> dict[str, Path]:
    """The pictures in `folder` (not in folders inside it) by the stem of their names, sorted.

    Raises:
        MediaError: not a folder, no picture in it, or two pictures with the same stem.
    """
    folder = as_path(folder)
    if not folder.is_dir():
        raise MediaError(f"{folder}: is no folder; name the folder that holds the pictures")
    pictures: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in pictures:
            raise MediaError(f"{path}: has the same name as {pictures[path.stem].name}; move one of them away")
        pictures[path.stem] = path
    if not pictures:
        raise MediaError(f"{folder}: holds no picture; known formats: {', '.join(SUFFIXES)}")
    return pictures


def partner(stem: str, pictures: Mapping[str, Path], folder: Path, scale: int) -> Path:
    """The picture in `folder` for the HR picture `stem`. It is called stem, stemx4 (LR in DIV2K) or stem_x4.

    Raises:
        MediaError: there is no such picture.
    """
    names = (stem, f"{stem}x{scale}", f"{stem}_x{scale}")
    found = next((pictures[name] for name in names if name in pictures), None)
    if found is None:
        raise MediaError(f"{folder}: holds no partner of '{stem}'; a picture named {' or '.join(names)} is expected")
    return found


def read_uint8_image(path: Path) -> Uint8Image:
    """Read a picture as opaque 8-bit RGB, as metrics compare it. 16 bit is rounded to 8.

    Raises:
        MediaError: it cannot be read, or has transparent parts.
    """
    still = read_image(path)
    if still.alpha is not None and (still.alpha != np.iinfo(still.alpha.dtype).max).any():
        raise MediaError(f"{path}: has transparent parts, which metrics cannot compare; flatten it first")
    return still.rgb if still.rgb.dtype == np.uint8 else np.rint(still.rgb / 257).astype(np.uint8)


def load_pair(
    hr_path: StrPath, lr_path: StrPath | None, scale: int, degradation: Degradation | None = None, seed: int = 0
) -> ImagePair:
    """Read an HR picture, crop it, and read or make its LR partner.

    Args:
        hr_path: a picture that is large enough for all metrics at this scale.
        lr_path: None: LR is made by MATLAB's bicubic.
        scale: HR pixels per LR pixel, in each direction.
        degradation: what happens to an LR picture that is made.
        seed: of its noise.

    Raises:
        MediaError: a picture cannot be read or is too small, or the sizes do not fit.
        MachineError: too little memory to measure it.
    """
    hr_path = as_path(hr_path)
    whole = read_uint8_image(hr_path)
    smallest = WINDOW + 2 * max(scale, PIRM_SHAVE) + scale - 1
    if min(whole.shape[:2]) < smallest:
        raise MediaError(f"{hr_path}: is {size(whole)}; metrics at x{scale} need {smallest}x{smallest} pixels")
    check_memory(hr_path, f"measuring a picture of {size(whole)}", whole.shape[0] * whole.shape[1] * BYTES_PER_PIXEL)
    hr = mod_crop(whole, scale)
    lr = read_uint8_image(as_path(lr_path)) if lr_path else downscale(hr, scale)
    if hr.shape != (lr.shape[0] * scale, lr.shape[1] * scale, 3):
        raise MediaError(
            f"{lr_path}: is {size(lr)}, times {scale} that is not the {size(hr)} of {hr_path} "
            f"(cropped to multiples of {scale}); check the scale, or leave --lr out to have LR made"
        )
    if degradation is None:
        return ImagePair(hr_path.stem, hr, lr, scale)
    return ImagePair(hr_path.stem, hr, degradation.apply(lr, seed), scale, degradation.name)


def size(picture: Uint8Image) -> str:
    """The size of `picture` as WIDTHxHEIGHT."""
    return f"{picture.shape[1]}x{picture.shape[0]}"
