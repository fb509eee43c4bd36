"""Mean squared error."""

from __future__ import annotations

from torch import Tensor

from esrgan_train.losses.precision import at_least_fp32


def mse(sr: Tensor, hr: Tensor) -> Tensor:
    """MSE = mean (sr - hr)^2, over all values of all samples (Ledig et al. 2017, SRGAN, equation 4).

    SRGAN's paper measures it on pictures in [-1, 1]; on the same pictures in [0, 1] it is a quarter of that.

    Args:
        sr: output of the network, any shape, any float type.
        hr: the target, the same shape.

    Returns:
        One fp32 value.
    """
    return (at_least_fp32(sr) - at_least_fp32(hr)).square().mean()
