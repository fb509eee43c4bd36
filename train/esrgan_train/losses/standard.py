"""The standard GAN's terms (Goodfellow et al. 2014), with the generator's loss that does not saturate.

    D:  -E[log sigma(C(x_r))] - E[log(1 - sigma(C(x_f)))]        G:  -E[log sigma(C(x_f))]

C is the discriminator's output before the sigmoid, x_r real and x_f generated pictures. Both are written as softplus,
which is exact for logits of any size: log(sigmoid(-200)) would be -inf in fp32.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from esrgan_train.losses.precision import at_least_fp32


def real_term(logits: Tensor) -> Tensor:
    """-E[log sigma(C)] = E[softplus(-C)]: small where the logits say "real". One fp32 value."""
    return F.softplus(-at_least_fp32(logits)).mean()


def fake_term(logits: Tensor) -> Tensor:
    """-E[log(1 - sigma(C))] = E[softplus(C)]: small where the logits say "fake". One fp32 value."""
    return F.softplus(at_least_fp32(logits)).mean()
