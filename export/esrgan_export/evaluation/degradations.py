"""LR pictures as people have them, made from clean LR in five fixed ways: what a network is judged on.

Training draws its degradations at random (`esrgan_train.data.degradation`); these are few and always the same, so that
figures of different days can be compared. One picture and one seed give the same bytes on every machine, as far as its
encoders do: blur and noise are computed in double precision, JPEG by libjpeg-turbo, whose results do not depend on the
CPU; video by the encoders of FFmpeg in the installed PyAV.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from esrgan_deploy.errors import OptionError
from esrgan_export.image_types import Uint8Image
from esrgan_export.video_frame import through_codec

SIGMA, REACH = 0.8, 3
"""Of the blur before noise: standard deviation, and where it is cut off, both in LR pixels."""
NOISE = 6.0
"""Standard deviation of the noise in code values, the same for R, G and B, each with noise of its own."""


@dataclass(frozen=True)
class Degradation:
    """One way in which an LR picture is damaged."""

    name: str
    """As in `--degrade`."""
    description: str
    """For tables: a few words."""
    apply: Callable[[Uint8Image, int], Uint8Image]
    """Clean LR, uint8 RGB (H, W, 3), and a seed -> the damaged picture of the same size."""


def jpeg(picture: Uint8Image, quality: int) -> Uint8Image:
    """Through a JPEG with 4:2:0, as phones write it: uint8 RGB (H, W, 3) in and out, `quality` 1 to 100."""
    bgr = np.ascontiguousarray(picture[..., ::-1])
    subsampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality, *subsampling])
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])


def soft_and_noisy(picture: Uint8Image, seed: int) -> Uint8Image:
    """Blurred by a Gaussian of `SIGMA`, mirrored at the border, and noise of `NOISE` added; uint8 RGB in and out."""
    weights = np.exp(-(np.arange(-REACH, REACH + 1) ** 2) / (2 * SIGMA**2))
    soft = picture.astype(np.float64)
    for axis in (0, 1):
        padding = [(REACH, REACH) if axis == other else (0, 0) for other in range(3)]
        padded = np.pad(soft, padding, mode="reflect")
        shifted = (np.take(padded, np.arange(n, n + soft.shape[axis]), axis) for n in range(len(weights)))
        soft = np.add.reduce([weight * part for weight, part in zip(weights / weights.sum(), shifted, strict=True)])
    grain = np.random.Generator(np.random.PCG64(seed)).normal(0, NOISE, picture.shape)
    return np.rint(soft + grain).clip(0, 255).astype(np.uint8)


def _through_video(codec: str, quality: int) -> Callable[[Uint8Image, int], Uint8Image]:
    return lambda picture, seed: through_codec([picture], codec, quality)[0]


_ALL = (
    Degradation("clean", "MATLAB's bicubic, as in papers", lambda picture, seed: picture),
    Degradation("jpeg60", "JPEG 60, 4:2:0", lambda picture, seed: jpeg(picture, 60)),
    Degradation("noisy", "soft, noise of 6, JPEG 75", lambda picture, seed: jpeg(soft_and_noisy(picture, seed), 75)),
    Degradation("mpeg4", "MPEG-4, quantiser 6", _through_video("mpeg4", 6)),
    Degradation("h264", "H.264, crf 30", _through_video("h264", 30)),
)
DEGRADATIONS: Mapping[str, Degradation] = {degradation.name: degradation for degradation in _ALL}


def degradation(name: str) -> Degradation:
    """The degradation called `name`.

    Raises:
        OptionError: there is none; the message names the nearest one, and all.
    """
    if name not in DEGRADATIONS:
        nearest = difflib.get_close_matches(name, DEGRADATIONS, n=1, cutoff=0)[0]
        raise OptionError(f"no degradation '{name}'; did you mean '{nearest}'? Known: {', '.join(DEGRADATIONS)}")
    return DEGRADATIONS[name]
