"""From a picture's file to the file of the upscaled one: what cannot work is known before anything is computed."""

from __future__ import annotations

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import check_memory, read_bytes
from esrgan_deploy.errors import MachineError, MediaError
from esrgan_deploy.images.header import Header, read_header
from esrgan_deploy.images.read import bytes_to_read, decoded
from esrgan_deploy.images.still import upscale_image
from esrgan_deploy.images.write import HOLDS_16_BIT, check_fits, write_image
from esrgan_deploy.system.files import check_writable
from esrgan_deploy.upscaler import Upscaler

_FLOAT_BYTES = 16
"""Of a sample that passes through float64, with its rounded copy."""


def upscale_file(source: StrPath, target: StrPath, upscaler: Upscaler) -> tuple[int, int]:
    """Read a picture, upscale it and write the result, completely or not at all.

    Args:
        source: a picture of one of `SUFFIXES`.
        target: the file to write; its suffix chooses the format.
        upscaler: of any session.

    Returns:
        (height, width) of the result.

    Raises:
        MediaError: see `read_image`.
        OutputError: see `write_image`; before anything is computed, unless the disk fills up meanwhile.
        MachineError: the picture or its result needs more memory than there is, or see `Upscaler.upscale`.
        OptionError, ClosedError: see `Upscaler.upscale`.
    """
    source, target = as_path(source), as_path(target)
    check_writable(target)
    data = read_bytes(source, MediaError)
    header = read_header(source, data)
    what = f"upscaling {header.width}x{header.height} pixels"
    try:
        check_memory(source, what, _bytes_of_all(data, header, upscaler, target.suffix.lower()))
        still = decoded(source, data, header)
        del data
        size = upscaler.output_size(*still.rgb.shape[:2])
        check_fits(target, still, size)
        still = upscale_image(still, upscaler)
        write_image(target, still)
    except MemoryError as error:
        raise MachineError(f"{source}: {what} needs more memory than there is; close other programs") from error
    return size


def _bytes_of_all(data: bytes, header: Header, upscaler: Upscaler, suffix: str) -> int:
    """The most memory that the picture takes while it is read, upscaled and written, beside the network's own."""
    channels, sample = header.channels, header.sample_bytes
    small = header.width * header.height * channels * sample
    height, width = upscaler.output_size(header.height, header.width)
    large = height * width * channels * sample
    # Tiles and the frame that they are joined to; of a picture with transparency both are upscaled side by side.
    networks = 2 * header.width * header.height * upscaler.scale**2 * 3 * sample * (2 if channels == 4 else 1)
    upscaling = 2 * small + networks + large
    writing = 3 * large  # the picture, its copy in the order of the file, and the file
    if header.grey or channels == 4:  # three equal channels become one
        upscaling += height * width * _FLOAT_BYTES
    if sample == 2 and suffix not in HOLDS_16_BIT:
        writing += height * width * channels * _FLOAT_BYTES
    return max(bytes_to_read(data, header), upscaling, writing)
