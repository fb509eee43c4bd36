"""A picture in memory, and the same picture upscaled."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from esrgan_deploy.arguments import check_frame, described
from esrgan_deploy.errors import OptionError
from esrgan_deploy.upscaler import Upscaler


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


def upscale_image(still: StillImage, upscaler: Upscaler) -> StillImage:
    """Upscale the colours and the transparency with the same network.

    Raises:
        OptionError: `still` is no StillImage, or see `Upscaler.upscale`.
        MachineError, ClosedError: see `Upscaler.upscale`.
    """
    check_still(still)
    if still.alpha is None:
        rgb, alpha = upscaler.upscale(still.rgb), None
    else:
        rgb, alpha_rgb = upscaler.map([still.rgb, np.dstack([still.alpha] * 3)])
        alpha = _to_grey(alpha_rgb)
    if still.grey:
        rgb = np.dstack([_to_grey(rgb)] * 3)
    return dataclasses.replace(still, rgb=rgb, alpha=alpha)


def check_still(still: object) -> None:
    """Refuse everything but a StillImage.

    Raises:
        OptionError: it is something else.
    """
    if not isinstance(still, StillImage):
        raise OptionError(
            f"a picture is a StillImage, from read_image(path) or StillImage(rgb); received {described(still)}"
        )


def _to_grey(rgb: npt.NDArray[Any]) -> npt.NDArray[Any]:
    grey: npt.NDArray[Any] = np.rint(rgb.mean(axis=2)).astype(rgb.dtype)
    return grey
