"""The perceptual index of the PIRM challenge 2018 (Blau et al. 2018, equation 1)."""

from __future__ import annotations


def perceptual_index(ma: float, niqe: float) -> float:
    """PI = ((10 - Ma) + NIQE) / 2; lower is better.

    The PI of a data set is the mean over its pictures, which equals the PI of its mean Ma and mean NIQE.

    Args:
        ma: score of Ma et al. 2017, 0 (worst) to 10; see `evaluation.ma_scores` for where it comes from.
        niqe: NIQE of the same picture with 4 pixels shaved.
    """
    return ((10 - ma) + niqe) / 2
