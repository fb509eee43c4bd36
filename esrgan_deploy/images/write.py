"""A picture becomes a file, if the format can hold it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.errors import MachineError, OutputError
from esrgan_deploy.images.complaints import complaints_of
from esrgan_deploy.images.header import SUFFIXES
from esrgan_deploy.images.still import StillImage, check_still
from esrgan_deploy.system.files import replacing

HOLDS_16_BIT = (".png", ".tif", ".tiff")
_QUALITY = {
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
}
_HOLDS_ALPHA = (".png", ".webp", ".tif", ".tiff")
_HOLDS_PROFILE = (".png", ".jpg", ".jpeg", ".webp")
_LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".png": 1_000_000}
"""Pixels of a side that the encoders write; JPEG itself ends at 65535, PNG at 2**31 - 1."""
_MOST_BYTES = {".bmp": 2**31 - 1024, ".tif": 2**31 - 1024, ".tiff": 2**31 - 1024}
"""Bytes of all pixels that OpenCV writes."""
_JPEG_PART = 65519
"""Bytes of a profile in one segment of a JPEG; it has room for 255 of them (ICC.1:2022, B.4)."""


def write_image(path: StrPath, still: StillImage) -> None:
    """Write a picture, completely or not at all; the suffix chooses the format.

    16 bit becomes 8 bit where the format holds no more. JPEG and WebP are written with quality 95.

    Raises:
        OutputError: an unknown suffix, a format that cannot hold the size, the transparency or the colour profile, or a
            path that cannot be written.
        OptionError: `still` is no StillImage.
        MachineError: there is too little memory for the encoder.
    """
    path = as_path(path)
    check_still(still)
    check_fits(path, still, still.rgb.shape[:2])
    suffix = path.suffix.lower()
    if still.alpha is not None:  # OpenCV writes no grey + alpha; four channels hold the same picture
        pixels = np.dstack([still.rgb[..., ::-1], still.alpha])
    else:
        pixels = still.rgb[..., 0] if still.grey else still.rgb[..., ::-1]
    if pixels.dtype == np.uint16 and suffix not in HOLDS_16_BIT:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    inside, behind = _split_profile(still.icc_profile, suffix)
    profile = [np.frombuffer(inside, np.uint8)[None]] if inside else []
    kinds = [cv2.IMAGE_METADATA_ICCP] * len(profile)
    try:
        (done, encoded), _ = complaints_of(
            lambda: cv2.imencodeWithMetadata(suffix, pixels, kinds, profile, _QUALITY.get(suffix, []))
        )
    except MemoryError as error:
        raise MachineError(f"{path}: its encoder needs more memory than there is; close other programs") from error
    except cv2.error as error:
        raise OutputError(f"{path}: cannot be encoded as {suffix}: {error.err}; use .png") from error
    if not done:  # then `encoded` is empty, or a tuple
        raise OutputError(f"{path}: cannot be encoded as {suffix}; use another format")
    with replacing(path) as partial, partial.open("wb") as file:
        content = encoded.reshape(-1).data
        file.write(content[:2] if behind else content)
        if behind:
            file.write(behind)
            file.write(content[2:])


def check_fits(path: Path, still: StillImage, size: tuple[int, ...]) -> None:
    """Refuse a picture that the format at `path` cannot hold, before it is computed.

    Args:
        path: the file to write.
        still: the picture, or the small one that is to be enlarged.
        size: (height, width) in the end.

    Raises:
        OutputError: an unknown suffix, or a format that cannot hold the size, the transparency or the profile.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"{path}: '{suffix}' is no format that is written; use one of {', '.join(SUFFIXES)}")
    height, width = size
    side = _LONGEST_SIDE.get(suffix)
    if side and max(size) > side:
        other = ".tif" if max(size) > _LONGEST_SIDE[".png"] else ".png"
        raise OutputError(
            f"{path}: {suffix} holds {side} pixels a side, and the result is {width}x{height}; use {other}"
        )
    samples = 4 if still.alpha is not None else 1 if still.grey else 3
    wide = still.rgb.itemsize if suffix in HOLDS_16_BIT else 1
    most = _MOST_BYTES.get(suffix)
    if most and height * (width * samples * wide + 3) > most:
        raise OutputError(f"{path}: {suffix} holds 2 GiB, and the result of {width}x{height} may have more; use .png")
    if still.alpha is not None and suffix not in _HOLDS_ALPHA:
        raise OutputError(f"{path}: {suffix} cannot hold the picture's transparency; use .png")
    if still.icc_profile and suffix not in _HOLDS_PROFILE:
        raise OutputError(f"{path}: the picture's colour profile cannot be written to {suffix}; use .png")
    if suffix in (".jpg", ".jpeg") and len(still.icc_profile or b"") > 255 * _JPEG_PART:
        raise OutputError(f"{path}: the picture's colour profile is too long for {suffix}; use .png")


def _split_profile(profile: bytes | None, suffix: str) -> tuple[bytes | None, bytes]:
    """What OpenCV is to write, and what goes behind the first two bytes of the file instead.

    OpenCV writes one segment into a JPEG, which holds fewer bytes than some profiles have.
    """
    if not profile or suffix not in (".jpg", ".jpeg") or len(profile) <= _JPEG_PART:
        return profile, b""
    parts = [profile[begin : begin + _JPEG_PART] for begin in range(0, len(profile), _JPEG_PART)]
    segments = (
        b"\xff\xe2" + (16 + len(part)).to_bytes(2, "big") + b"ICC_PROFILE\0" + bytes([number, len(parts)]) + part
        for number, part in enumerate(parts, 1)
    )
    return None, b"".join(segments)
