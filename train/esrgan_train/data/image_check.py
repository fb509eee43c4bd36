"""What the check of a data set looks at in one picture, and which pictures show the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from esrgan_export.image_types import Uint8Image
from esrgan_train.data.pictures import Header

Outline = npt.NDArray[np.float32]

SOFT_PSNR = 45.0
"""PSNR in dB. A picture that is this close to itself halved and enlarged again has no detail at full size."""
SAME_OUTLINE = 0.99
"""Likeness of outlines. Recompressed, resized and slightly cropped copies are above; other photographs below 0.6."""

_DETAIL_WINDOW = 1024
_OUTLINE_CELLS = 8
_BLOCK = 256


@dataclass(frozen=True)
class CheckedImage:
    """What was found out about one picture."""

    path: Path
    width: int
    height: int
    header: Header
    digest: bytes
    """Hash of the size and of all decoded pixels; equal for copies in different lossless formats."""
    outline: Outline
    """See `outline_of`."""
    detail_psnr: float
    """PSNR in dB of the centre against itself halved and enlarged again. A high value means that it is blurred."""

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


def check_image(path: Path, header: Header, picture: Uint8Image) -> CheckedImage:
    """Look at a decoded picture, uint8 RGB (H, W, 3)."""
    height, width = picture.shape[:2]
    digest = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=16)
    digest.update(picture.data)
    return CheckedImage(path, width, height, header, digest.digest(), outline_of(picture), detail_psnr(picture))


def outline_of(picture: Uint8Image) -> Outline:
    """The differences of grey between neighbouring cells of a coarse grid, as one vector.

    Resizing, recompression and brightness hardly change it. It is a difference hash that keeps magnitudes instead of
    signs: where a picture is nearly flat, the signs are noise.

    Returns:
        float32 (128,) of norm 1, or zeros for a flat picture. The dot product of two is their likeness, at most 1.
    """
    cells = (_OUTLINE_CELLS + 1, _OUTLINE_CELLS + 1)
    grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32), cells, interpolation=cv2.INTER_AREA)
    changes = np.concatenate([np.diff(grey, axis=0)[:, :-1].ravel(), np.diff(grey, axis=1)[:-1].ravel()])
    norm = float(np.linalg.norm(changes))
    return (changes / norm if norm > 1 else np.zeros_like(changes)).astype(np.float32)


def detail_psnr(picture: Uint8Image) -> float:
    """PSNR in dB of the centre (at most 1024 px) against itself halved and enlarged again; inf if they are equal."""
    height, width = (min(length, _DETAIL_WINDOW) // 2 * 2 for length in picture.shape[:2])
    if not height or not width:
        return 0.0
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    centre = picture[top : top + height, left : left + width]
    halved = cv2.resize(centre, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    enlarged = cv2.resize(halved, (width, height), interpolation=cv2.INTER_CUBIC)
    error = float(np.mean((enlarged.astype(np.float32) - centre) ** 2))
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def duplicates(pictures: Sequence[CheckedImage]) -> Iterator[tuple[int, int, bool]]:
    """Each picture that shows the same as an earlier one.

    Yields:
        The number of the picture, the number of the first picture like it, and whether all their pixels are equal.
    """
    first: dict[bytes, int] = {}
    outlines = np.stack([picture.outline for picture in pictures]) if pictures else np.zeros((0, 1), np.float32)
    for start in range(0, len(pictures), _BLOCK):
        alike = outlines[start : start + _BLOCK] @ outlines.T >= SAME_OUTLINE
        for row, picture in enumerate(pictures[start : start + _BLOCK]):
            number = start + row
            same = first.setdefault(picture.digest, number)
            if same != number:
                yield number, same, True
            elif alike[row, :number].any():
                yield number, int(alike[row].argmax()), False
