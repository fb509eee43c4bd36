"""Environment variables: what libraries cannot read, and what keeps them from reporting to their makers."""

from __future__ import annotations

import os
import re

from esrgan_deploy.errors import OptionError

_NUMBERS = ("OPENCV_IO_MAX_IMAGE_PIXELS", "OPENCV_IO_MAX_IMAGE_WIDTH", "OPENCV_IO_MAX_IMAGE_HEIGHT")

_NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""ONNX Runtime (from 1.29 on) sends events of each process and session, and keeps a number for the machine. Ray may."""


def silence_telemetry() -> None:
    """Let no library report to its maker; comes before it is loaded. A variable that the user has set stays."""
    for name, value in _NO_TELEMETRY.items():
        os.environ.setdefault(name, value)


def check_environment() -> None:
    """Refuse variables at which OpenCV ends the process, without an exception, while it is loaded.

    Raises:
        OptionError: one of them is no number.
    """
    for name in _NUMBERS:
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(r"[0-9]{1,18}([KkMm][Bb])?", value):
            raise OptionError(f"{name}={value!r} in the environment is no number, which OpenCV wants; unset it")
