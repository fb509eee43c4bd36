"""Mean absolute error."""

from __future__ import annotations

from torch import Tensor

from esrgan_train.losses.precision import at_least_fp32


def l1(sr: Tensor, hr: Tensor) -> Tensor:
    """L1 = mean |sr - hr|, over all values of all samples.

    Args:
        sr: output of the network, any shape, any float type.
        hr: the target, the same shape.

    Returns:
        One fp32 value. Its gradient is sign(sr - hr) / count, and 0 where both are equal.
    """
    return (at_least_fp32(sr) - at_least_fp32(hr)).abs().mean()
