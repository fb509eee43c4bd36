"""The least squares GAN's terms (Mao et al. 2017), without the paper's factor 1/2.

    D:  E[(C(x_r) - 1)^2] + E[C(x_f)^2]        G:  E[(C(x_f) - 1)^2]

In the paper's letters this is b = c = 1 and a = 0. C is the logit, without a sigmoid.
"""

from __future__ import annotations

from torch import Tensor

from esrgan_train.losses.precision import at_least_fp32


def real_term(logits: Tensor) -> Tensor:
    """E[(C - 1)^2]. One fp32 value."""
    return (at_least_fp32(logits) - 1).square().mean()


def fake_term(logits: Tensor) -> Tensor:
    """E[C^2]. One fp32 value."""
    return at_least_fp32(logits).square().mean()


def relative_fake_term(logits: Tensor) -> Tensor:
    """E[(C + 1)^2], for relativistic logits: where real exceeds fake by 1, fake exceeds real by -1. One fp32 value."""
    return (at_least_fp32(logits) + 1).square().mean()
