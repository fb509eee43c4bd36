"""Find and decode the pictures that a network is trained on."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from esrgan_deploy.errors import MediaError
from esrgan_deploy.images import SUFFIXES, read_image

RGB8_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
"""Pillow's names of the colour modes that have one meaning as RGB; all others need a colour conversion."""

_ORIENTATION_TAG = 0x0112


def list_pictures(folder: Path) -> list[Path]:
    """Every picture below `folder`, sorted by its path relative to it; links are followed.

    A file is a picture if its suffix says so. Names that begin with a dot are left out: stores of thumbnails, and the
    `._x.jpg` that macOS writes beside `x.jpg`.

    Raises:
        MediaError: `folder` is not a folder, or holds no picture.
    """
    if not folder.is_dir():
        raise MediaError(f"{folder}: is no folder; name the folder that holds the pictures")
    pictures = [path for path in list_files(folder) if path.suffix.lower() in SUFFIXES]
    if not pictures:
        raise MediaError(f"{folder}: holds no pictures; put some there, as one of {', '.join(SUFFIXES)}")
    return pictures


def list_files(folder: Path) -> list[Path]:
    """Every file below `folder` whose name, and whose folders' names, do not begin with a dot; sorted."""
    files: list[Path] = []
    visited: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = os.path.realpath(root)
        if place in visited:  # a link to a folder that was listed already, or to one that holds this one
            folders.clear()
            continue
        visited.add(place)
        files += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def read_rgb8(path: Path) -> npt.NDArray[np.uint8]:
    """Decode a picture to uint8 RGB (H, W, 3), upright; grey becomes three equal channels.

    A picture that can become 8-bit RGB in more than one way raises an error, so that the choice is the user's: 16 bit
    (rounding, transfer curve), CMYK and Lab (colour profile), transparency (what is behind it). Alpha that is opaque
    everywhere is dropped. Embedded RGB profiles are ignored, and the stored values are trained on.

    Raises:
        MediaError: missing, damaged, animated, 16 bit, CMYK or another colour mode, or transparent somewhere.
    """
    still = read_image(path)
    mode = read_header(path).mode
    if still.rgb.dtype != np.uint8:
        raise MediaError(f"{path}: holds 16 bit samples; convert it to 8 bit RGB (convert IN -depth 8 OUT.png)")
    if mode not in RGB8_MODES:
        raise MediaError(f"{path}: is {mode}; convert it to RGB (convert IN -colorspace sRGB OUT.png)")
    if still.alpha is not None and still.alpha.min() < 255:
        raise MediaError(f"{path}: is {mode} and transparent in places; flatten it (convert IN -alpha remove OUT.png)")
    return np.ascontiguousarray(still.rgb)


@dataclass(frozen=True)
class Header:
    """What the header of a picture's file says."""

    mode: str
    """Pillow's name of the colour mode."""
    rotated: bool
    """Its pixels are stored rotated or mirrored; the EXIF orientation says how to make it upright."""


def read_header(path: Path) -> Header:
    """Read a picture's header.

    Raises:
        MediaError: the file is missing, or is not a picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures and of damaged EXIF
            with Image.open(path) as image:
                return Header(image.mode, rotated=image.getexif().get(_ORIENTATION_TAG, 1) not in (0, 1))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path}: is no picture that can be read; known formats: {', '.join(SUFFIXES)}") from error


def find_partner(hr: Path, folder: Path, lr_folder: Path, scale: int) -> Path:
    """The LR picture of `hr`: at the same place below `lr_folder`, called the same or, as in DIV2K, 0001x4.

    The suffix may differ, for instance where HR is JPEG and LR is PNG.

    Raises:
        MediaError: there is no such file.
    """
    place = lr_folder / hr.relative_to(folder).parent
    for stem in (hr.stem, f"{hr.stem}x{scale}"):
        for suffix in dict.fromkeys([hr.suffix, *SUFFIXES, *map(str.upper, SUFFIXES)]):
            if (place / f"{stem}{suffix}").is_file():
                return place / f"{stem}{suffix}"
    raise MediaError(f"{place / hr.name}: is missing; {hr} needs an LR picture of the same name")
