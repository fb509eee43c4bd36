"""Every loss is computed in fp32 or better, whatever the networks compute in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """`x` in fp32, or in fp64 if it is that already.

    Autocast hands over bf16 or fp16. Differences of close pictures and means over a batch lose their digits there.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
