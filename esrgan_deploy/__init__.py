"""Run ESRGAN-family networks: frames in, frames out.

    from esrgan_deploy import Upscaler, open_session

    with Upscaler(open_session("model.onnx")) as upscaler:
        large = upscaler.upscale(small)          # uint8 or uint16 RGB, (H, W, 3) -> (H * scale, W * scale, 3)

Pictures and clips are in `esrgan_deploy.images` and `esrgan_deploy.video`, which are imported on their own because
they load OpenCV and FFmpeg. Nothing here needs torch; the packages of a backend are imported when a session is opened.
What a program might want to know is logged under the name "esrgan_deploy"; nothing is printed.
"""

import logging

from esrgan_deploy.backends import Session, open_session
from esrgan_deploy.backends.names import BACKENDS
from esrgan_deploy.errors import (
    BackendMissingError,
    ClosedError,
    EsrganError,
    FidelityError,
    MachineError,
    MediaError,
    ModelError,
    OptionError,
    OutputError,
    StallError,
)
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.system.environment import silence_telemetry
from esrgan_deploy.upscaler import Upscaler
from esrgan_deploy.version import __version__ as __version__
from esrgan_deploy.watchdog import Watchdog
from esrgan_deploy.zoo import fetch_model

__all__ = [
    "BACKENDS",
    "BackendMissingError",
    "ClosedError",
    "EsrganError",
    "FidelityError",
    "MachineError",
    "MediaError",
    "ModelError",
    "ModelInfo",
    "OptionError",
    "OutputError",
    "Session",
    "StallError",
    "Upscaler",
    "Watchdog",
    "fetch_model",
    "open_session",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # the program decides what is shown
silence_telemetry()
