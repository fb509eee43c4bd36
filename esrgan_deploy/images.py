"""Read, upscale and write pictures: 8 and 16 bit, grey, with transparency, orientation and colour profile."""

from __future__ import annotations

import dataclasses
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from esrgan_deploy.arguments import StrPath, as_path, check_frame, described
from esrgan_deploy.errors import MediaError, OptionError, OutputError
from esrgan_deploy.system.files import replacing
from esrgan_deploy.upscaler import Upscaler

__all__ = ["SUFFIXES", "StillImage", "read_image", "upscale_image", "write_image"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Suffixes of the formats that are read and written."""

_ORIENTATION_TAG = 0x0112
_QUALITY = {
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
}
_HOLDS_16_BIT = (".png", ".tif", ".tiff")
_HOLDS_ALPHA = (".png", ".webp", ".tif", ".tiff")
_HOLDS_PROFILE = (".png", ".jpg", ".jpeg", ".webp")

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the MediaError says it already


@dataclass(frozen=True)
class StillImage:
    """A picture in memory, upright.

    Raises:
        OptionError: `rgb` is no frame, or `alpha` does not fit it.
    """

    rgb: npt.NDArray[Any]
    """(H, W, 3), uint8 or uint16; a grey picture has three equal channels."""
    alpha: npt.NDArray[Any] | None = None
    """Transparency, (H, W) in the type of `rgb`; None: opaque."""
    grey: bool = False
    """Whether the file has one colour channel, and is to be written with one."""
    icc_profile: bytes | None = None
    """ICC profile of the values; it is passed through. None: the file has none, which by convention means sRGB."""

    def __post_init__(self) -> None:
        frame_type = check_frame(self.rgb)
        alpha = self.alpha
        if alpha is None:
            return
        if not isinstance(alpha, np.ndarray) or (alpha.dtype, alpha.shape) != (self.rgb.dtype, self.rgb.shape[:2]):
            raise OptionError(
                f"alpha of this picture is {frame_type} of shape {self.rgb.shape[:2]}; received {described(alpha)}"
            )


def read_image(path: StrPath) -> StillImage:
    """Read a picture and turn it upright, as its EXIF orientation says.

    Raises:
        MediaError: no such file, damaged, animated, or neither 8 nor 16 bit.
    """
    path = as_path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    orientation, icc_profile = _read_metadata(path, data)
    damaged = MediaError(f"{path}: is damaged or truncated ({len(data)} bytes); get the file again")
    if data.startswith(b"\x89PNG") and b"IEND" not in data:
        raise damaged
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise damaged from error
    if pixels is None:
        raise damaged
    if pixels.dtype not in (np.uint8, np.uint16):
        raise MediaError(f"{path}: holds {pixels.dtype} samples; convert it to 8 or 16 bit integers first")
    pixels = _upright(pixels, orientation)
    grey = pixels.ndim == 2
    rgb = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if grey else cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2RGB)
    alpha = pixels[..., 3] if not grey and pixels.shape[2] == 4 else None
    # OpenCV gives grey + alpha and palettes as BGRA, and CMYK as RGB, to which the CMYK profile does not apply.
    fits = icc_profile is not None and icc_profile[16:20] == (b"GRAY" if grey else b"RGB ")
    return StillImage(rgb, alpha, grey, icc_profile if fits else None)


def write_image(path: StrPath, still: StillImage) -> None:
    """Write a picture, completely or not at all; the suffix chooses the format.

    16 bit becomes 8 bit where the format holds no more. JPEG and WebP are written with quality 95.

    Raises:
        OutputError: an unknown suffix, a format that cannot hold the transparency or colour profile, or a path that
            cannot be written.
        OptionError: `still` is no StillImage.
    """
    path = as_path(path)
    _check_still(still)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"{path}: '{suffix}' is no format that is written; use one of {', '.join(SUFFIXES)}")
    if still.alpha is not None and suffix not in _HOLDS_ALPHA:
        raise OutputError(f"{path}: {suffix} cannot hold the picture's transparency; use .png")
    if still.icc_profile and suffix not in _HOLDS_PROFILE:
        raise OutputError(f"{path}: the picture's colour profile cannot be written to {suffix}; use .png")
    if still.alpha is not None:  # OpenCV writes no grey + alpha; four channels hold the same picture
        pixels = np.dstack([still.rgb[..., ::-1], still.alpha])
    else:
        pixels = still.rgb[..., 0] if still.grey else still.rgb[..., ::-1]
    if pixels.dtype == np.uint16 and suffix not in _HOLDS_16_BIT:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    profile = [np.frombuffer(still.icc_profile, np.uint8)[None]] if still.icc_profile else []
    kinds = [cv2.IMAGE_METADATA_ICCP] * len(profile)
    try:
        _, encoded = cv2.imencodeWithMetadata(suffix, pixels, kinds, profile, _QUALITY.get(suffix, []))
    except cv2.error as error:
        raise OutputError(f"{path}: cannot be encoded as {suffix}: {error.err}; use .png") from error
    with replacing(path) as partial:
        partial.write_bytes(encoded.tobytes())


def upscale_image(still: StillImage, upscaler: Upscaler) -> StillImage:
    """Upscale the colours and the transparency with the same network.

    Raises:
        OptionError: `still` is no StillImage, or see `Upscaler.upscale`.
        MachineError, ClosedError: see `Upscaler.upscale`.
    """
    _check_still(still)
    if still.alpha is None:
        rgb, alpha = upscaler.upscale(still.rgb), None
    else:
        rgb, alpha_rgb = upscaler.map([still.rgb, np.dstack([still.alpha] * 3)])
        alpha = _to_grey(alpha_rgb)
    if still.grey:
        rgb = np.dstack([_to_grey(rgb)] * 3)
    return dataclasses.replace(still, rgb=rgb, alpha=alpha)


def _check_still(still: object) -> None:
    if not isinstance(still, StillImage):
        raise OptionError(
            f"a picture is a StillImage, from read_image(path) or StillImage(rgb); received {described(still)}"
        )


def _to_grey(rgb: npt.NDArray[Any]) -> npt.NDArray[Any]:
    grey: npt.NDArray[Any] = np.rint(rgb.mean(axis=2)).astype(rgb.dtype)
    return grey


def _read_metadata(path: Path, data: bytes) -> tuple[int, bytes | None]:
    """EXIF orientation (1 to 8) that has yet to be applied, and ICC profile."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF, which Pillow then ignores
            with Image.open(io.BytesIO(data)) as image:
                pictures = getattr(image, "n_frames", 1)
                # The second picture of an MPO is a phone's preview or stereo partner, not an animation.
                if pictures > 1 and image.format != "MPO":
                    raise MediaError(f"{path}: holds {pictures} pictures; extract one, or convert it to a clip")
                # OpenCV applies the orientation of TIFFs itself.
                orientation = 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION_TAG, 1)
                return int(orientation), image.info.get("icc_profile")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        found = "is empty" if not data else f"is no picture that can be read ({len(data)} bytes)"
        raise MediaError(f"{path}: {found}; known formats: {', '.join(SUFFIXES)}") from error


def _upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Apply an EXIF orientation (TIFF 6.0, tag 274)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
