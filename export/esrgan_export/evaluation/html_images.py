"""Images in HTML pages: crops, thumbnails, and PNG as data: URIs."""

from __future__ import annotations

import base64
from typing import NamedTuple

import cv2
import numpy as np

from esrgan_export.image_types import Uint8Image
from esrgan_export.metrics.luma import luma


class Crop(NamedTuple):
    """A rectangle of an HR picture."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: Uint8Image) -> Uint8Image:
        """The pixels of `picture` in this rectangle."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


def most_detailed(hr: Uint8Image, side: int) -> Crop:
    """The square of `side` pixels in which luma changes most from pixel to pixel; cut to the size of the picture."""
    plane = luma(hr)
    detail = np.zeros(plane.shape)
    detail[1:, :] += np.abs(np.diff(plane, axis=0))
    detail[:, 1:] += np.abs(np.diff(plane, axis=1))
    height, width = min(side, hr.shape[0]), min(side, hr.shape[1])
    sums = cv2.integral(detail)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = divmod(int(inside.argmax()), inside.shape[1])
    return Crop(top, left, height, width)


def centre(hr: Uint8Image, side: int) -> Crop:
    """The square of `side` pixels in the middle; cut to the size of the picture."""
    height, width = min(side, hr.shape[0]), min(side, hr.shape[1])
    return Crop((hr.shape[0] - height) // 2, (hr.shape[1] - width) // 2, height, width)


def nearest(lr: Uint8Image, scale: int) -> Uint8Image:
    """`lr` enlarged by repeating every pixel `scale` times in both directions."""
    return lr.repeat(scale, axis=0).repeat(scale, axis=1)


def thumbnail(picture: Uint8Image, width: int, marked: Crop) -> Uint8Image:
    """The whole picture shrunk to `width`, with a frame around `marked`."""
    factor = min(1.0, width / picture.shape[1])
    size = (round(picture.shape[1] * factor), max(1, round(picture.shape[0] * factor)))
    small = np.ascontiguousarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    first = (round(marked.left * factor), round(marked.top * factor))
    last = (round((marked.left + marked.width) * factor) - 1, round((marked.top + marked.height) * factor) - 1)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):  # visible on dark and on bright pictures
        cv2.rectangle(small, first, last, colour, thickness)
    return small


def data_uri(picture: Uint8Image) -> str:
    """PNG as a data: URI."""
    _, png = cv2.imencode(".png", np.ascontiguousarray(picture[:, :, ::-1]))
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode("ascii")
