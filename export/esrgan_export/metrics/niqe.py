"""NIQE: how far the statistics of a picture are from those of pristine photographs (Mittal et al. 2013).

It needs no reference picture; lower is better. Model and window are those that the authors published.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from esrgan_deploy.errors import MediaError
from esrgan_export.bicubic import imresize
from esrgan_export.image_types import Uint8Image
from esrgan_export.metrics.luma import Plane, rounded_luma, shaved

BLOCK = 96
"""Side of a block in pixels, with which the authors estimated the pristine model."""

NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Rows and columns by which a block is shifted (cyclically) before it is multiplied with itself."""

NOISE = 1e-9
"""Smaller differences of luma (0 to 255) are rounding errors of double precision."""

_Array: TypeAlias = "npt.NDArray[np.float64]"


class _Pristine(NamedTuple):
    """The multivariate Gaussian of pristine photographs, and the window of local means."""

    mean: _Array  # (36,)
    covariance: _Array  # (36, 36)
    window: _Array  # (7, 7), sums to 1


class _Shapes(NamedTuple):
    """Functions of the shape alpha of a generalised Gaussian, tabulated."""

    alpha: _Array
    ratio: _Array  # G(2/a)^2 / (G(1/a) G(3/a)); rises with alpha
    spread: _Array  # sqrt(G(1/a) / G(3/a))
    shift: _Array  # G(2/a) / G(1/a)


def niqe(image: Uint8Image, shave: int = 0) -> float:
    """NIQE of rounded luma in blocks of 96x96 pixels without overlap; from about 2 (natural) to 10.

    Rows and columns at the right and bottom that fill no block are left out.

    Args:
        image: uint8 RGB (H, W, 3).
        shave: pixels left out on each side.

    Raises:
        MediaError: fewer than two blocks are not flat, and one block has no covariance.
        ValueError: not a uint8 RGB picture.
    """
    plane = shaved(rounded_luma(image), shave)
    rows, columns = plane.shape[0] // BLOCK, plane.shape[1] // BLOCK
    if rows * columns < 2:
        raise MediaError(
            f"NIQE needs two blocks of {BLOCK}x{BLOCK} pixels, {plane.shape[1]}x{plane.shape[0]} pixels hold "
            f"{rows * columns}; take a larger picture or leave NIQE out"
        )
    plane = plane[: rows * BLOCK, : columns * BLOCK]
    halved = imresize(plane, 0.5)
    features = np.concatenate([_features(_blocks(_normalised(p), rows, columns)) for p in (plane, halved)], axis=1)
    usable = features[np.isfinite(features).all(axis=1)]
    if len(usable) < 2:
        raise MediaError(
            f"NIQE needs two blocks of {BLOCK}x{BLOCK} pixels that are not flat, this picture has {len(usable)}; "
            "leave NIQE out"
        )
    pristine = _pristine()
    difference = pristine.mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((pristine.covariance + np.cov(usable, rowvar=False)) / 2)
    return math.sqrt(difference @ inverse @ difference)


def _normalised(plane: Plane) -> Plane:
    """Mean subtracted contrast normalised coefficients (equation 1): (I - mean) / (deviation + 1) of a 7x7 window.

    In a flat area I - mean is rounding noise of about 1e-14, whose sign must not count as texture: on a photo with
    burnt-out parts it changed NIQE by 1 %, differently for every order of summation.
    """
    window = _pristine().window
    mean = cv2.filter2D(plane, -1, window, borderType=cv2.BORDER_REPLICATE)
    square = cv2.filter2D(plane * plane, -1, window, borderType=cv2.BORDER_REPLICATE)
    difference = plane - mean
    difference[np.abs(difference) < NOISE] = 0
    result: Plane = difference / (np.sqrt(np.abs(square - mean * mean)) + 1)
    return result


def _blocks(plane: Plane, rows: int, columns: int) -> _Array:
    """(H, W) -> (rows * columns, H / rows, W / columns)."""
    height, width = plane.shape[0] // rows, plane.shape[1] // columns
    return plane.reshape(rows, height, columns, width).swapaxes(1, 2).reshape(-1, height, width)


def _features(blocks: _Array) -> _Array:
    """(N, h, w) -> (N, 18): two features of the coefficients, four of each product of neighbours; NaN if flat."""
    alpha, _, left, right = _fit_aggd(blocks)
    columns = [alpha, (left + right) / 2]
    for shift in NEIGHBOURS:
        alpha, skew, left, right = _fit_aggd(blocks * np.roll(blocks, shift, axis=(1, 2)))
        columns += [alpha, (right - left) * skew, left, right]
    return np.stack(columns, axis=1)


def _fit_aggd(blocks: _Array) -> tuple[_Array, _Array, _Array, _Array]:
    """Fit an asymmetric generalised Gaussian to the values of each block, by moments (equations 4 to 8).

    As in the authors' code, a block without values on one side of 0 gets the smallest alpha, and NaN for beta.

    Returns:
        alpha, G(2/alpha) / G(1/alpha), beta_left, beta_right, each (N,).
    """
    values = blocks.reshape(len(blocks), -1)
    squares = values * values
    with np.errstate(invalid="ignore", divide="ignore"):  # a flat block has no value on one side
        left = np.sqrt(np.where(values < 0, squares, 0).sum(1) / (values < 0).sum(1))
        right = np.sqrt(np.where(values > 0, squares, 0).sum(1) / (values > 0).sum(1))
        asymmetry = left / right
        ratio = np.abs(values).mean(1) ** 2 / squares.mean(1)
        ratio *= (asymmetry**3 + 1) * (asymmetry + 1) / (asymmetry**2 + 1) ** 2
    shapes = _shapes()
    index = _nearest(shapes.ratio, np.nan_to_num(ratio))
    spread = shapes.spread[index]
    return shapes.alpha[index], shapes.shift[index], left * spread, right * spread


def _nearest(rising: _Array, values: _Array) -> npt.NDArray[np.intp]:
    """Index of the entry of `rising` that is nearest to each value."""
    right = np.searchsorted(rising, values).clip(1, len(rising) - 1)
    return np.where(values - rising[right - 1] <= rising[right] - values, right - 1, right)


@cache
def _shapes() -> _Shapes:
    """Tabulated for alpha from 0.2 to 10 in steps of 0.001, as in the authors' code."""
    alpha = np.arange(0.2, 10.001, 0.001)
    one, two, three = (np.array([math.gamma(k / a) for a in alpha]) for k in (1, 2, 3))
    return _Shapes(alpha, ratio=two**2 / (one * three), spread=np.sqrt(one / three), shift=two / one)


@cache
def _pristine() -> _Pristine:
    file = resources.files("esrgan_export.metrics").joinpath("niqe_pris_params.npz")
    with file.open("rb") as stream, np.load(stream) as stored:
        return _Pristine(stored["mu_pris_param"][0], stored["cov_pris_param"], stored["gaussian_window"])
