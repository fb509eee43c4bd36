"""A file becomes a picture: upright RGB, its transparency and its profile."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import check_memory, read_bytes
from esrgan_deploy.errors import MachineError, MediaError
from esrgan_deploy.images.complaints import complaints_of
from esrgan_deploy.images.header import Header, damaged, read_header
from esrgan_deploy.images.profile import is_for
from esrgan_deploy.images.still import StillImage

_COPIES = 3
"""Of the pixels, that are alive while a picture is decoded: as stored, upright, and in the order of RGB."""


def read_image(path: StrPath) -> StillImage:
    """Read a picture and turn it upright, as its EXIF orientation says.

    Raises:
        MediaError: no such file, damaged, animated, or neither 8 nor 16 bit.
        MachineError: it needs more memory than there is, see `esrgan_deploy.budget`.
    """
    path = as_path(path)
    data = read_bytes(path, MediaError)
    return decoded(path, data, read_header(path, data))


def bytes_to_read(data: bytes, header: Header) -> int:
    """The memory that `decoded` takes."""
    return len(data) + _COPIES * header.width * header.height * header.channels * header.sample_bytes


def decoded(path: Path, data: bytes, header: Header) -> StillImage:
    """The picture in the bytes of a file, whose header is known; raises what `read_image` raises."""
    check_memory(path, f"a picture of {header.width}x{header.height}", bytes_to_read(data, header))
    try:
        pixels, complaints = _decode(data, header.kind)
    except MemoryError as error:
        raise MachineError(f"{path}: needs more memory than there is; close other programs") from error
    except cv2.error as error:
        raise damaged(path, "it cannot be decoded") from error
    if complaints:
        raise damaged(path, complaints[0])
    if pixels is None:
        raise damaged(path, "it cannot be decoded")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise MediaError(f"{path}: holds {pixels.dtype} samples; convert it to 8 or 16 bit integers first")
    if sorted(pixels.shape[:2]) != sorted((header.width, header.height)):
        raise damaged(path, "it does not say one size")
    return _still(_upright(pixels, header.orientation), header.icc_profile)


def _decode(data: bytes, kind: str) -> tuple[npt.NDArray[Any] | None, list[str]]:
    """The pixels, None where there are none, and what the decoder found damaged."""

    def decode() -> npt.NDArray[Any] | None:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)

    if kind == "PNG" and threading.current_thread() is not threading.main_thread():
        return decode(), []  # its checksums tell, and loaders decode many at a time, of which one can be heard
    return complaints_of(decode)


def _still(pixels: npt.NDArray[Any], icc_profile: bytes | None) -> StillImage:
    grey = pixels.ndim == 2
    rgb = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if grey else cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2RGB)
    alpha = pixels[..., 3] if not grey and pixels.shape[2] == 4 else None
    # OpenCV gives grey + alpha and palettes as BGRA, and CMYK as RGB, to which the CMYK profile does not apply.
    fits = icc_profile is not None and is_for(icc_profile, grey=grey)
    return StillImage(rgb, alpha, grey, icc_profile if fits else None)


def _upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Apply an EXIF orientation (TIFF 6.0, tag 274)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
