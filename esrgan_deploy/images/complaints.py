"""What the codecs inside OpenCV print, and what of it tells of damage.

libjpeg and libtiff give grey or black for what they cannot read, and say so on the error stream alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import cv2

from esrgan_deploy.system.overheard import overheard

Result = TypeVar("Result")

_LIBJPEG = (
    "Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|Invalid (?:SOS|component|progressive)|"
    "Suspension not allowed|Unsupported |Bogus |Application transferred"
)
_LINES = re.compile(rf"libpng (?:warning|error): |\[ *(?:WARN|ERROR|FATAL):|Warning: |Unknown Adobe|{_LIBJPEG}")
_PADDING = r"Corrupt JPEG data: [1-8] extraneous bytes before marker 0xd9"
"""What some cameras put behind the last pixel."""
_DAMAGE = re.compile(rf"^(?!{_PADDING})(?:{_LIBJPEG}).*|(?<=TIFF_Error).*|(?<=libpng error: ).*|IDAT: .*")

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our errors say it already


def complaints_of(work: Callable[[], Result]) -> tuple[Result, list[str]]:
    """Let OpenCV decode or encode a picture; returns its result, and the lines that tell of damage.

    Nothing reaches the error stream, neither these lines nor those about metadata.

    Raises:
        MemoryError: OpenCV ran out of memory, which it says there too.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # of libtiff; it is heard, and not printed
    try:
        result, lines = overheard(work, _LINES)
    finally:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if any("Insufficient memory" in line for line in lines):
        raise MemoryError
    found = (_DAMAGE.search(line) for line in lines)
    return result, [match[0].strip() for match in found if match]
