"""The perceptual index of the PIRM challenge 2018 (Blau et al. 2018, equation 1)."""

from __future__ import annotations


def perceptual_index(ma: float, niqe: float) -> float:
    """PI = ((10 - Ma) + NIQE) / 2; lower is better.

    It is linear, so the PI of a data set is that of its mean Ma and mean NIQE, and also the mean of its pictures' PIs.

    Args:
        ma: score of Ma et al. 2017, 0 (worst) to 10. No model of it comes with any package, this one included.
        niqe: of the same picture, 4 pixels shaved.
    """
    return ((10 - ma) + niqe) / 2
