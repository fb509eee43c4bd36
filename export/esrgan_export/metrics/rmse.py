"""RMSE and its three regions as in the PIRM challenge 2018 (Blau et al. 2018, section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from esrgan_export.image_types import Uint8Image
from esrgan_export.metrics.luma import check_pair, rounded_luma, shaved

PIRM_SHAVE = 4
"""Pixels that PIRM leaves out on each side, for RMSE, NIQE and Ma alike."""

PIRM_REGIONS = (11.5, 12.5, 16.0)
"""The largest RMSE of regions 1, 2 and 3."""


def pirm_mse(sr: Uint8Image, hr: Uint8Image) -> float:
    """Mean squared error of luma rounded to whole numbers, with 4 pixels shaved after the conversion.

    Args:
        sr: uint8 RGB (H, W, 3).
        hr: the same.

    Raises:
        ValueError: not two uint8 RGB pictures of one size, or nothing is left of them.
    """
    check_pair(sr, hr)
    difference = shaved(rounded_luma(sr), PIRM_SHAVE) - shaved(rounded_luma(hr), PIRM_SHAVE)
    return float(np.mean(difference**2))


def pirm_rmse(errors: Sequence[float]) -> float:
    """RMSE of a data set: the root of the mean MSE over its pictures, not the mean of their roots.

    Args:
        errors: `pirm_mse` of each picture.

    Raises:
        ValueError: `errors` is empty.
    """
    if not errors:
        raise ValueError("the RMSE of no picture at all is not defined")
    return math.sqrt(math.fsum(errors) / len(errors))


def pirm_region(rmse: float) -> int | None:
    """The region of a data set's RMSE: 1 up to 11.5, 2 up to 12.5, 3 up to 16; None above."""
    return next((region for region, largest in enumerate(PIRM_REGIONS, 1) if rmse <= largest), None)
