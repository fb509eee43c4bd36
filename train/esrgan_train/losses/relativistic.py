"""The relativistic average GAN (Jolicoeur-Martineau 2018): compare each logit with the average of the other side.

    D:  real_term(C(x_r) - E[C(x_f)]) + fake_term(C(x_f) - E[C(x_r)])
    G:  real_term(C(x_f) - E[C(x_r)]) + fake_term(C(x_r) - E[C(x_f)])

With the terms of the standard GAN this is RaGAN, ESRGAN's loss (Wang et al. 2018, equations 1 and 2):

    D:  -E[log sigma(C(x_r) - E[C(x_f)])] - E[log(1 - sigma(C(x_f) - E[C(x_r)]))]

With the terms of least squares it is RaLSGAN, whose targets are 1 and -1. With those of Wasserstein it is twice the
plain loss, which is relativistic already.

Both terms have a gradient for G: in the second one it comes through E[C(x_f)].
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from esrgan_train.losses.precision import at_least_fp32

MeanOver = Literal["all", "position"]


def relative(logits: Tensor, opposite: Tensor, mean_over: MeanOver = "all") -> Tensor:
    """C(x) - E[C(y)], in fp32: how much more real each of `logits` is than the other side's average.

    Args:
        logits: (N, ...).
        opposite: (M, ...), the other side's.
        mean_over: for a discriminator that returns a map, E is the mean over the whole batch and map ("all"), or
            over the batch at each position ("position"). With one logit per image both are the same.
    """
    opposite = at_least_fp32(opposite)
    mean = opposite.mean() if mean_over == "all" else opposite.mean(0)
    return at_least_fp32(logits) - mean
