"""Environment variables that libraries cannot read."""

from __future__ import annotations

import os
import re

from esrgan_deploy.errors import OptionError

_NUMBERS = ("OPENCV_IO_MAX_IMAGE_PIXELS", "OPENCV_IO_MAX_IMAGE_WIDTH", "OPENCV_IO_MAX_IMAGE_HEIGHT")


def check_environment() -> None:
    """Refuse variables at which OpenCV ends the process, without an exception, while it is loaded.

    Raises:
        OptionError: one of them is no number.
    """
    for name in _NUMBERS:
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(r"[0-9]{1,18}([KkMm][Bb])?", value):
            raise OptionError(f"{name}={value!r} in the environment is no number, which OpenCV wants; unset it")
