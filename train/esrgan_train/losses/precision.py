"""Every loss is computed in fp32 or fp64, whatever the precision of the networks."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """`x` in fp32, or in fp64 if it is that already.

    Under autocast, networks return bf16 or fp16, in which differences of similar pictures and means lose their digits.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
