"""High-resolution pictures and their low-resolution partners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from esrgan_deploy.errors import MediaError
from esrgan_deploy.images import SUFFIXES, read_image
from esrgan_export.bicubic import downscale, mod_crop
from esrgan_export.image_types import Uint8Image
from esrgan_export.metrics.rmse import PIRM_SHAVE
from esrgan_export.metrics.ssim import WINDOW


@dataclass(frozen=True)
class Subject:
    """One picture on which methods are compared."""

    name: str
    """Stem of the HR file."""
    hr: Uint8Image
    """Cropped at the right and bottom to multiples of the scale."""
    lr: Uint8Image
    """`hr` shrunk by the scale, or a picture that was given."""
    scale: int


def list_pictures(folder: Path) -> dict[str, Path]:
    """The pictures directly in `folder` by stem, sorted.

    Raises:
        MediaError: not a folder, no picture in it, or two pictures of one stem.
    """
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
    """The picture of `folder` that belongs to the HR picture `stem`: stem, stemx4 (as DIV2K names LR) or stem_x4.

    Raises:
        MediaError: there is none.
    """
    names = (stem, f"{stem}x{scale}", f"{stem}_x{scale}")
    found = next((pictures[name] for name in names if name in pictures), None)
    if found is None:
        raise MediaError(f"{folder}: holds no partner of '{stem}'; a picture named {' or '.join(names)} is expected")
    return found


def read_picture(path: Path) -> Uint8Image:
    """A picture as metrics compare it: opaque 8-bit RGB. 16 bit is rounded to 8.

    Raises:
        MediaError: it cannot be read, or has transparent parts.
    """
    still = read_image(path)
    if still.alpha is not None and (still.alpha != np.iinfo(still.alpha.dtype).max).any():
        raise MediaError(f"{path}: has transparent parts, of which metrics know nothing; flatten it first")
    return still.rgb if still.rgb.dtype == np.uint8 else np.rint(still.rgb / 257).astype(np.uint8)


def load_subject(hr_path: Path, lr_path: Path | None, scale: int) -> Subject:
    """Read an HR picture, crop it, and read or make its LR partner.

    Args:
        hr_path: of any size that leaves something after the crop and the shave.
        lr_path: None: HR is shrunk by MATLAB's bicubic.
        scale: HR pixels per LR pixel, in each direction.

    Raises:
        MediaError: unreadable, too small, or sizes that do not fit.
    """
    whole = read_picture(hr_path)
    smallest = WINDOW + 2 * max(scale, PIRM_SHAVE) + scale - 1
    if min(whole.shape[:2]) < smallest:
        raise MediaError(f"{hr_path}: is {size(whole)}; metrics at x{scale} need {smallest}x{smallest} pixels")
    hr = mod_crop(whole, scale)
    lr = read_picture(lr_path) if lr_path else downscale(hr, scale)
    if hr.shape != (lr.shape[0] * scale, lr.shape[1] * scale, 3):
        raise MediaError(
            f"{lr_path}: is {size(lr)}, times {scale} that is not the {size(hr)} of {hr_path} "
            f"(cropped to multiples of {scale}); check the scale, or leave --lr out to have LR made"
        )
    return Subject(hr_path.stem, hr, lr, scale)


def size(picture: Uint8Image) -> str:
    """WIDTHxHEIGHT."""
    return f"{picture.shape[1]}x{picture.shape[0]}"
