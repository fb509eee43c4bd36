"""What the head of a picture's file claims, held against the bytes that the file has, before anything is decoded."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from PIL import Image, UnidentifiedImageError

from esrgan_deploy.errors import MachineError, MediaError
from esrgan_deploy.images.profile import is_whole_profile

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Suffixes of the formats that are read and written."""
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""What Pillow calls them, and the only ones that it and OpenCV may see."""
LONGEST_SIDE = 1 << 20
"""Pixels of a side that OpenCV reads."""
MOST_PIXELS = 1 << 30
"""Pixels that OpenCV reads. Pillow refuses more than 178 million, unless a program tells it otherwise."""

logging.getLogger("PIL").addHandler(logging.NullHandler())  # the MediaError says it already

_ORIENTATION_TAG = 0x0112
_DEFLATE, _LZW, _PACKBITS = 1032, 2731, 64
"""Bytes that one byte can become: 258 of two bits; a whole table of 4096 strings, the longest of 12 bits; 128 of two
bytes."""
_TIFF_RATIOS = {1: 1, 5: _LZW, 8: _DEFLATE, 32946: _DEFLATE, 32773: _PACKBITS}
"""The same by the number of a TIFF's compression. The other ones have no bound that is of use."""
_BMP_RATIO = 1 << 14
"""Pixels of one byte in a compressed BMP: four bytes skip 255x255."""


class ContradictionError(Exception):
    """A file's bytes contradict what it claims; the text says how, in a few words."""


@dataclass(frozen=True)
class Header:
    """What a file says of its picture, and its bytes do not contradict."""

    kind: str
    """PNG, JPEG, MPO (a JPEG with others behind it), WEBP, TIFF or BMP."""
    width: int
    """As stored: an orientation has yet to be applied, but for TIFFs."""
    height: int
    channels: int
    """3, or 4 where there may be transparency."""
    sample_bytes: int
    """1 or 2."""
    grey: bool
    orientation: int
    """1 to 8, as EXIF counts."""
    icc_profile: bytes | None


def read_header(path: Path, data: bytes) -> Header:
    """Say what a picture is, without decoding it.

    Raises:
        MediaError: no picture of a known format, an animation, samples of more than 16 bits, more pixels than can be
            read, or fewer bytes than its pixels need.
        MachineError: too little memory for its head alone.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF, which Pillow then ignores
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _examined(path, data, image)
    except (MediaError, MachineError):
        raise
    except UnidentifiedImageError as error:
        found = "is empty" if not data else f"is no picture that can be read ({len(data)} bytes)"
        raise MediaError(f"{path}: {found}; known formats: {', '.join(SUFFIXES)}") from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path}: has more pixels than can be read ({error}); cut it into parts first") from error
    except MemoryError as error:
        raise MachineError(f"{path}: its head alone needs more memory than there is; close other programs") from error
    except Exception as error:  # Pillow raises whatever its parsing of damaged bytes meets: KeyError, struct.error ...
        raise damaged(path, str(error) or type(error).__name__) from error


def damaged(path: Path, how: str) -> MediaError:
    """The error for a file that is not whole."""
    return MediaError(f"{path}: is damaged or truncated ({how}); get the file again")


def _examined(path: Path, data: bytes, image: Image.Image) -> Header:
    kind = str(image.format)
    pictures = getattr(image, "n_frames", 1)
    # The second picture of an MPO is a phone's preview or stereo partner, not an animation.
    if pictures > 1 and kind != "MPO":
        raise MediaError(f"{path}: holds {pictures} pictures; extract one, or convert it to a clip")
    width, height = image.size
    if max(width, height) > LONGEST_SIDE or width * height > MOST_PIXELS:
        raise MediaError(f"{path}: is {width}x{height}, more than can be read; cut it into parts first")
    bits = _CHECKS[kind](data, image)
    if kind == "TIFF" and _is_planar(image):
        raise MediaError(f"{path}: its colours lie in separate planes; interleave them, as tiffcp -p contig does")
    if bits > 16:
        raise MediaError(f"{path}: holds samples of {bits} bits; convert it to 8 or 16 bit integers first")
    profile = image.info.get("icc_profile")
    return Header(
        kind,
        width,
        height,
        channels=3 if image.mode in ("1", "L", "I;16", "RGB") and "transparency" not in image.info else 4,
        sample_bytes=1 if bits <= 8 else 2,
        grey=image.mode in ("1", "L", "I;16", "I;16B"),
        orientation=1 if kind == "TIFF" else _orientation(image),  # OpenCV applies that of TIFFs itself
        icc_profile=profile if isinstance(profile, bytes) and is_whole_profile(profile) else None,
    )


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # as everybody does with EXIF that is damaged: the picture is shown as it is stored
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _check_holds(size: tuple[int, int], possible: float, needed: float) -> None:
    if possible < needed:
        raise ContradictionError(f"it has too few bytes for the {size[0]}x{size[1]} pixels that it claims")


def _check_png(data: bytes, image: Image.Image) -> int:
    """Every chunk has its checksum, so all damage is found here. Returns the bits of a sample."""
    view, position, packed = memoryview(data), 8, 0
    names: list[bytes] = []
    while names[-1:] != [b"IEND"]:
        if position + 12 > len(data):
            raise ContradictionError("its end is missing")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise ContradictionError("its end is missing")
        if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ContradictionError("a checksum is wrong")
        packed += length if name == b"IDAT" else 0
        if name != b"IDAT" or names[-1:] != [name]:
            names.append(name)
        position = end
    if names[0] != b"IHDR" or names.count(b"IHDR") != 1 or names.count(b"IDAT") != 1:
        raise ContradictionError("its parts are not in their order")
    width, height, bits, colours = struct.unpack_from(">IIBB", data, 16)
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    _check_holds(image.size, packed * _DEFLATE, height * (width * samples * bits // 8))
    return int(bits)


def _check_jpeg(data: bytes, image: Image.Image) -> int:
    """One frame header, whose size Pillow has seen too; a block of 8x8 takes at least a bit."""
    position, sizes = 2, []
    while True:
        if position + 4 > len(data):
            raise ContradictionError("it ends within its head")
        if data[position] != 0xFF:
            raise ContradictionError("there is something between the parts of its head")
        marker = data[position + 1]
        if marker in (0x00, 0x01, *range(0xD0, 0xD9), 0xFF):  # without a length
            position += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD9, 0xDA):
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            sizes.append(struct.unpack_from(">HH", data, position + 5)[::-1])
        position += 2 + int(struct.unpack_from(">H", data, position + 2)[0])
    if sizes != [image.size]:
        raise ContradictionError("it does not say one size")
    width, height = image.size
    _check_holds(image.size, 8 * len(data), -(-width // 8) * -(-height // 8))
    return 8


def _check_bmp(data: bytes, image: Image.Image) -> int:
    begin, head = struct.unpack_from("<II", data, 10)
    bits = struct.unpack_from("<H", data, 24 if head == 12 else 28)[0]
    compression = 0 if head == 12 else struct.unpack_from("<I", data, 30)[0]
    width, height = image.size
    stride = (width * bits + 31) // 32 * 4
    if compression in (0, 3, 6):
        _check_holds(image.size, len(data) - begin, stride * (height - 1) + width * bits / 8)
    else:
        _check_holds(image.size, (len(data) - begin) * _BMP_RATIO, width * height)
    return 8


def _check_webp(data: bytes, _image: Image.Image) -> int:
    """There is no bound: a lossless WebP of one colour has hardly any bytes."""
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise ContradictionError("its end is missing")
    return 8


def _check_tiff(data: bytes, image: Image.Image) -> int:
    """Each strip and tile lies in the file, and all together hold the pixels."""
    _check_tiff_tags(data)
    tags: Mapping[int, object] = image.tag_v2  # type: ignore[attr-defined]  # of a TiffImageFile

    def numbers(tag: int, default: int) -> tuple[int, ...]:
        value = tags.get(tag, default)
        return tuple(int(number) for number in value) if isinstance(value, tuple) else (int(value),)  # type: ignore[call-overload]

    bits, samples = max(numbers(258, 1)), numbers(277, 1)[0]
    offsets, counts = (numbers(324, 0), numbers(325, 0)) if 324 in tags else (numbers(273, 0), numbers(279, 0))
    if len(offsets) != len(counts) or any(
        begin + size > len(data) for begin, size in zip(offsets, counts, strict=True)
    ):
        raise ContradictionError("its end is missing")
    ratio = _TIFF_RATIOS.get(numbers(259, 1)[0])
    if ratio:
        width, height = image.size
        _check_holds(image.size, sum(counts) * ratio, width * height * samples * min(bits, 64) // 8)
    return bits


def _is_planar(image: Image.Image) -> bool:
    tags: Mapping[int, object] = image.tag_v2  # type: ignore[attr-defined]  # of a TiffImageFile
    return tags.get(284) == 2 and tags.get(277, 1) != 1


def _check_tiff_tags(data: bytes) -> None:
    """A tag that is there twice means one size to one reader, and another to the next."""
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack_from(order + "H", data, 2)[0] == 43:  # BigTIFF
        begin = struct.unpack_from(order + "Q", data, 8)[0]
        number, first, step = struct.unpack_from(order + "Q", data, begin)[0], begin + 8, 20
    else:
        begin = struct.unpack_from(order + "I", data, 4)[0]
        number, first, step = struct.unpack_from(order + "H", data, begin)[0], begin + 2, 12
    if first + number * step > len(data):
        raise ContradictionError("its end is missing")
    tags = [struct.unpack_from(order + "H", data, first + index * step)[0] for index in range(number)]
    if len(set(tags)) != len(tags):
        raise ContradictionError("it says things twice")


_CHECKS: Mapping[str, Callable[[bytes, Image.Image], int]] = MappingProxyType(
    {
        "PNG": _check_png,
        "JPEG": _check_jpeg,
        "MPO": _check_jpeg,
        "WEBP": _check_webp,
        "TIFF": _check_tiff,
        "BMP": _check_bmp,
    }
)
"""What Pillow calls the formats, and how each is checked: returns the bits of a sample."""
