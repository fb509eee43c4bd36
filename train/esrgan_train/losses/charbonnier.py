"""Charbonnier's penalty: L1 that is smooth at 0."""

from __future__ import annotations

from torch import Tensor

from esrgan_train.losses.precision import at_least_fp32


def charbonnier(sr: Tensor, hr: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Charbonnier = mean sqrt((sr - hr)^2 + epsilon^2), over all values (Lai et al. 2017, LapSRN, equation 5).

    The paper takes epsilon = 1e-3. BasicSR's `eps` is the square of this one: its default 1e-12 is 1e-6 here.

    Args:
        sr: output of the network, any shape, any float type.
        hr: the target, the same shape.
        epsilon: the error at which the penalty changes from quadratic to linear, in units of the pictures; above 0.

    Returns:
        One fp32 value, never below `epsilon`.
    """
    error = at_least_fp32(sr) - at_least_fp32(hr)
    return (error.square() + epsilon**2).sqrt().mean()
